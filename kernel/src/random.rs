//! Randomness from the kernel.

use std::io;

use crate::{Error, Mac, Result};

/// Four random bytes as eight hex digits, for names that must not clash.
pub fn hex8() -> Result<String> {
    Ok(format!("{:08x}", u32::from_ne_bytes(bytes()?)))
}

/// A hardware address of one's own: random, locally administered, unicast.
pub fn mac() -> Result<Mac> {
    let [a, b, c, d, e] = bytes()?;
    Ok(Mac::ethernet([0x02, a, b, c, d, e]))
}

/// Random bytes, fit for keys.
pub fn bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0u8; N];
    // SAFETY: the pointer and length describe `bytes`, which outlives the call.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    if usize::try_from(got) != Ok(N) {
        return Err(Error::io("read random bytes", io::Error::last_os_error()));
    }
    Ok(bytes)
}
