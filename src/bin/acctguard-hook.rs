//! OCI hook; see [`acctguard::hook`].

fn main() -> std::process::ExitCode {
    acctguard::hook::main()
}
