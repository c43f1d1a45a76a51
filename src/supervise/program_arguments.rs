//! The arguments of a program about to run, read from the memory of the process that runs it.

use crate::kernel::Errno;
use crate::supervise::account_tools;
use crate::supervise::decode::Operation;
use crate::supervise::decode::Request;
use crate::supervise::target::Target;
use crate::supervise::target::TargetError;

/// The arguments that an execve passes, at most [`account_tools::MAX_ARGUMENTS`], lossy and unredacted.
///
/// # Errors
/// [`TargetError`] when they cannot be read.
pub fn of_request(request: &Request, target: &dyn Target) -> Result<Vec<String>, TargetError> {
    match request.operation {
        Operation::Execute { argv, pointer_bytes, .. } => lossy(target, argv, pointer_bytes),
        _ => Ok(Vec::new()),
    }
}

/// At most [`account_tools::MAX_ARGUMENTS`] strings of an array, lossy.
///
/// # Errors
/// As [`strings`].
pub fn lossy(target: &dyn Target, argv: u64, pointer_bytes: usize) -> Result<Vec<String>, TargetError> {
    let arguments = strings(target, argv, pointer_bytes, account_tools::MAX_ARGUMENTS)?;
    Ok(arguments.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect())
}

/// At most `max` strings of an array of pointers that ends with a null pointer. A null array is an empty one
/// (execve(2), "on Linux, argv and envp can be specified as NULL"); a string longer than a path comes back empty.
///
/// # Errors
/// [`TargetError::Unreadable`] where the kernel could not read them either.
pub fn strings(target: &dyn Target, array: u64, pointer_bytes: usize, max: usize) -> Result<Vec<Vec<u8>>, TargetError> {
    let mut strings = Vec::new();
    let mut address = array;
    while array != 0 && strings.len() < max {
        let bytes = target.bytes(address, pointer_bytes)?;
        let pointer = bytes.iter().rev().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
        if pointer == 0 {
            break;
        }
        strings.push(match target.path(pointer) {
            Err(TargetError::Unreadable { errno: Errno::NAMETOOLONG, .. }) => Vec::new(),
            other => other?,
        });
        address = address.wrapping_add(pointer_bytes as u64);
    }
    Ok(strings)
}
