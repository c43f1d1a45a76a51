//! First program of a sealed container; see [`acctguard::launch`].

fn main() -> std::process::ExitCode {
    acctguard::launch::main()
}
