//! The NRI plugin; see [`acctguard::nri`].

fn main() -> std::process::ExitCode {
    acctguard::nri::main()
}
