//! Socket options that are numbers.

use std::io;
use std::os::fd::RawFd;

pub(super) fn option(fd: RawFd, level: i32, option: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut size = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(4);
    // SAFETY: the pointers describe `value` and its size, which outlive the call.
    let status = unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &raw mut size) };
    if status == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

pub(crate) fn set_option(fd: RawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<i32>()).unwrap_or(4);
    // SAFETY: the pointer and size describe `value`, which outlives the call.
    let status = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), size) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
