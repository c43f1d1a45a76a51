//! The OCI runtime shim; see `acctguard::runtime_shim`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    acctguard::runtime_shim::main()
}
