//! `bridge`: pods on a bridge of the host, which may be their gateway.
//!
//! ```text
//!   pod            host
//!  eth0 ---veth--- vethxxxxxxxx (port: hairpin, isolation, VLANs)
//!                     |
//!                   cni0 10.1.0.1/24 --- routing, masquerade --- uplink
//! ```

mod add;
mod check;
pub mod conf;
mod del;
mod gateway;
mod link;

use std::path::PathBuf;

use cni::{AddResult, Call, Code, Error, GcCall, Plugin, Result, StatusCall};
use kernel::netlink::{Protocol, Socket};
use kernel::nft::{self, Family};

use crate::backend::Choice;
use crate::error::gather;
use crate::{cable, ipam, kernel_error, masquerade, pod, spoof};

pub(crate) use add::add_default_routes;
pub use conf::{Conf, Vlans, parse_mtu};

/// The plug-in.
#[derive(Debug)]
pub struct Bridge;

impl Plugin for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        add::add(call)
    }

    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        del::del(call)
    }

    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        check::check(call)
    }

    fn gc(&self, call: &GcCall) -> Result<()> {
        let leases = if call.conf.ipam_type.is_empty() { Ok(()) } else { ipam::gc(call) };
        let Some(valid) = &call.valid else { return leases };
        let rules = Socket::open(Protocol::Netfilter).map_err(kernel_error).and_then(|mut netfilter| {
            gather([
                masquerade::gc(&mut netfilter, &call.conf.name, valid),
                spoof::gc(&mut netfilter, &call.conf.name, valid),
            ])
        });
        let cables = cable::gc(&call.conf.name, valid);
        gather([leases, cables, rules, del::remove_unused_gateway(&Conf::parse_for_del(&call.conf))])
    }

    fn status(&self, call: &StatusCall) -> Result<()> {
        let conf = Conf::parse(&call.conf, "")?;
        if !call.conf.ipam_type.is_empty() {
            ipam::status(call)?;
        }
        pod::may_attach()?;
        let mut host = Socket::open(Protocol::Route).map_err(kernel_error)?;
        let taken = kernel::link::find(&mut host, &conf.bridge).map_err(kernel_error)?;
        if taken.is_some_and(|link| link.kind != "bridge") {
            return Err(not_available(format!("bridge: bridge: `{}` exists and is no bridge", conf.bridge)));
        }
        if conf.spoof_check {
            nf_tables_usable()?;
        }
        if conf.ip_masq { masquerade_usable(conf.ip_masq_backend) } else { Ok(()) }
    }
}

/// STATUS of ipMasq: whether what it programs can be programmed.
pub(crate) fn masquerade_usable(choice: Choice) -> Result<()> {
    match choice {
        Choice::Iptables if kernel::program::find("iptables-restore").is_none() => Err(not_available(
            "ipMasqBackend: \"iptables\" needs iptables-restore, which is not installed".into(),
        )),
        Choice::Nftables => nf_tables_usable(),
        Choice::Iptables | Choice::Auto => Ok(()),
    }
}

/// Whether the kernel has nf_tables and lets us read them.
fn nf_tables_usable() -> Result<()> {
    let listed = Socket::open(Protocol::Netfilter).and_then(|mut s| nft::list_tables(&mut s, Family::Inet));
    listed.map(drop).map_err(|e| not_available(format!("nf_tables cannot be used: {}", kernel_error(e))))
}

/// STATUS: ADD could not be served.
fn not_available(msg: String) -> Error {
    Error::new(Code::NOT_AVAILABLE, msg)
}
