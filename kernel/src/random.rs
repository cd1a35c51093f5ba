//! Randomness from the kernel.

use std::io;

use crate::{Error, Result};

/// Four random bytes as eight hex digits, for names that must not clash.
pub fn hex8() -> Result<String> {
    let mut bytes = [0u8; 4];
    // SAFETY: the pointer and length describe `bytes`, which outlives the call.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != 4 {
        return Err(Error::io("read random bytes", io::Error::last_os_error()));
    }
    Ok(format!("{:08x}", u32::from_ne_bytes(bytes)))
}
