//! Which work a link leaves to its card.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use crate::link::Switch;
use crate::{Error, Result};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETHTOOL_SGRO: u32 = 0x2c;

/// struct ethtool_value.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// struct ifreq as SIOCETHTOOL wants it: the name, a pointer, and the rest of the union.
#[repr(C)]
struct Request {
    name: [u8; 16],
    value: *mut Value,
    rest: [u8; 16],
}

/// Whether the link called `name`, in the calling thread's namespace, leaves checksums of what it sends to the card.
pub fn tx_checksum(name: &str) -> Result<Switch> {
    let doing = format!("ask whether {name} offloads checksums");
    ask(name, &doing, Value { command: ETHTOOL_GTXCSUM, data: 0 }).map(|data| Switch::from(data != 0))
}

/// Turns that on or off (`ethtool -K NAME tx on`).
pub fn set_tx_checksum(name: &str, offload: Switch) -> Result<()> {
    let doing = format!("set whether {name} offloads checksums");
    ask(name, &doing, Value { command: ETHTOOL_STXCSUM, data: offload.bit(1) }).map(|_| ())
}

/// Whether the link called `name` merges received packets of one connection before it passes them on.
pub fn merging(name: &str) -> Result<Switch> {
    let doing = format!("ask whether {name} merges packets");
    ask(name, &doing, Value { command: ETHTOOL_GGRO, data: 0 }).map(|data| Switch::from(data != 0))
}

/// Turns that on or off (`ethtool -K NAME gro on`).
pub fn set_merging(name: &str, merging: Switch) -> Result<()> {
    let doing = format!("set whether {name} merges packets");
    ask(name, &doing, Value { command: ETHTOOL_SGRO, data: merging.bit(1) }).map(|_| ())
}

fn ask(name: &str, doing: &str, mut value: Value) -> Result<u32> {
    let mut request = Request { name: [0; 16], value: &raw mut value, rest: [0; 16] };
    if name.len() >= request.name.len() {
        return Err(Error::Invalid { what: format!("{doing}: no link has a name that long") });
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // Any socket of the namespace will do.
    let socket = UdpSocket::bind("127.0.0.1:0").or_else(|_| UdpSocket::bind("[::1]:0"));
    let socket = socket.or_else(|_| UdpSocket::bind("0.0.0.0:0")).map_err(|e| Error::io(doing, e))?;
    // SAFETY: request is laid out as struct ifreq and points to value, and both outlive the call.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if status != 0 {
        return Err(Error::io(doing, io::Error::last_os_error()));
    }
    Ok(value.data)
}
