//! The host service: a keeper process and the worker that it keeps running.

use std::process::ExitCode;

fn main() -> ExitCode {
    acctguard::daemon::main()
}
