//! Numbers of linux/ip_vs.h.

pub(super) const FAMILY: &str = "IPVS";
pub(super) const VERSION: u8 = 1;

pub(super) const CMD_NEW_SERVICE: u8 = 1;
pub(super) const CMD_SET_SERVICE: u8 = 2;
pub(super) const CMD_DEL_SERVICE: u8 = 3;
pub(super) const CMD_GET_SERVICE: u8 = 4;
pub(super) const CMD_NEW_DEST: u8 = 5;
pub(super) const CMD_SET_DEST: u8 = 6;
pub(super) const CMD_DEL_DEST: u8 = 7;
pub(super) const CMD_GET_DEST: u8 = 8;
pub(super) const CMD_SET_CONFIG: u8 = 12;
pub(super) const CMD_GET_CONFIG: u8 = 13;
pub(super) const CMD_GET_INFO: u8 = 15;

pub(super) const ATTR_SERVICE: u16 = 1;
pub(super) const ATTR_DEST: u16 = 2;
pub(super) const ATTR_TIMEOUT_TCP: u16 = 4;
pub(super) const ATTR_TIMEOUT_TCP_FIN: u16 = 5;
pub(super) const ATTR_TIMEOUT_UDP: u16 = 6;

pub(super) const SVC_AF: u16 = 1;
pub(super) const SVC_PROTOCOL: u16 = 2;
pub(super) const SVC_ADDR: u16 = 3;
pub(super) const SVC_PORT: u16 = 4;
pub(super) const SVC_FWMARK: u16 = 5;
pub(super) const SVC_SCHED_NAME: u16 = 6;
pub(super) const SVC_FLAGS: u16 = 7;
pub(super) const SVC_TIMEOUT: u16 = 8;
pub(super) const SVC_NETMASK: u16 = 9;
pub(super) const SVC_STATS64: u16 = 12;

pub(super) const DEST_ADDR: u16 = 1;
pub(super) const DEST_PORT: u16 = 2;
pub(super) const DEST_FWD_METHOD: u16 = 3;
pub(super) const DEST_WEIGHT: u16 = 4;
pub(super) const DEST_U_THRESH: u16 = 5;
pub(super) const DEST_L_THRESH: u16 = 6;
pub(super) const DEST_ACTIVE_CONNS: u16 = 7;
pub(super) const DEST_INACT_CONNS: u16 = 8;
pub(super) const DEST_PERSIST_CONNS: u16 = 9;
pub(super) const DEST_ADDR_FAMILY: u16 = 11;
pub(super) const DEST_STATS64: u16 = 12;

pub(super) const STATS_CONNS: u16 = 1;
pub(super) const STATS_INPKTS: u16 = 2;
pub(super) const STATS_OUTPKTS: u16 = 3;
pub(super) const STATS_INBYTES: u16 = 4;
pub(super) const STATS_OUTBYTES: u16 = 5;

pub(super) const INFO_VERSION: u16 = 1;
pub(super) const INFO_CONN_TAB_SIZE: u16 = 2;

pub(super) const F_PERSISTENT: u32 = 0x1;
pub(super) const F_ONEPACKET: u32 = 0x4;
/// The three flags that mean what the scheduler says.
pub(super) const F_SCHED: u32 = 0x38;
/// The forwarding method among a connection's flags.
pub(super) const F_FWD: u32 = 0x7;

/// struct ip_vs_flags: these, and which others become 0: all.
pub(super) fn flags(flags: u32) -> [u8; 8] {
    let mut bytes = [0xff; 8];
    bytes[..4].copy_from_slice(&flags.to_ne_bytes());
    bytes
}
