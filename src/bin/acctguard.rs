//! The operator's command; see [`acctguard::cli`].

fn main() -> std::process::ExitCode {
    acctguard::cli::main()
}
