//! `firewall`: lets the host forward to and from pods, and keeps pods of different bridges apart. A chained plug-in:
//! it changes nothing of the result.
//!
//! Configuration: `backend` (`nftables`, `iptables`, `firewalld`, `auto`; unset means firewalld where it runs, else
//! nftables), `ingressPolicy`, `firewalldZone`, `iptablesAdminChainName`. See [`config::Config::parse`].
//!
//! `nftables` keeps the record of whose an address is for every backend, carries out ingress policies for all but
//! iptables, and with `forward` is the default backend. DEL and GC clean every backend, and what the reference left.

pub mod config;
mod dbus;
mod firewalld;
mod forward;
mod iptables;
mod nftables;

use std::net::IpAddr;
use std::path::PathBuf;

use cni::{AddResult, Call, Code, Error, GcCall, Plugin, Result, StatusCall, Version};
use kernel::iptables::{Iptables, Table};
use kernel::netlink::{Protocol, Socket};
use kernel::nft;

use crate::backend;
use crate::error::gather;
use crate::iptables::iptables_error;
use crate::kernel_error;
use crate::owner::{Keep, Owner};
use config::{Choice, Config, IngressPolicy, Pod};
use firewalld::Firewalld;
use nftables::Purpose;

/// The plug-in.
#[derive(Debug)]
pub struct Firewall;

/// What is programmed.
enum Backend {
    Nftables,
    Iptables,
    Firewalld(Firewalld),
}

impl Plugin for Firewall {
    fn name(&self) -> &'static str {
        "firewall"
    }

    fn versions(&self) -> &'static [Version] {
        &[Version::V0_4_0, Version::V1_0_0, Version::V1_1_0]
    }

    fn add(&self, call: &Call<PathBuf>) -> Result<AddResult> {
        let config = Config::parse(&call.conf)?;
        let prev = call.conf.prev_result.as_ref();
        let prev = prev
            .ok_or_else(|| Error::config("firewall: prevResult: it must follow a plug-in that made one"))?;
        let pod = Pod::of(prev);
        if pod.addresses.is_empty() {
            return Ok(prev.clone());
        }
        pod.check_for(config.policy)?;
        let owner = Owner::new(&call.conf.name, &call.attachment);
        let mut host = open_host()?;
        let mut backend = decide(&config, &mut host)?;
        if let Err(error) = admit(&mut host, &mut backend, &owner, &config, &pod) {
            let _ = dismiss(&mut host, &owner, &config, &pod);
            return Err(error);
        }
        Ok(prev.clone())
    }

    fn del(&self, call: &Call<Option<PathBuf>>) -> Result<()> {
        let config = Config::parse(&call.conf)?;
        let pod = call.conf.prev_result.as_ref().map(Pod::of).unwrap_or_default();
        dismiss(&mut open_host()?, &Owner::new(&call.conf.name, &call.attachment), &config, &pod)
    }

    fn check(&self, call: &Call<PathBuf>) -> Result<()> {
        let config = Config::parse(&call.conf)?;
        let prev = call.conf.prev_result.as_ref();
        let prev =
            prev.ok_or_else(|| Error::config("firewall: prevResult: CHECK needs the result of ADD"))?;
        let pod = Pod::of(prev);
        if pod.addresses.is_empty() {
            return Ok(());
        }
        let mut host = open_host()?;
        let owner = Owner::new(&call.conf.name, &call.attachment);
        match decide(&config, &mut host)? {
            Backend::Nftables => check_nftables(&mut host, &owner, &config, &pod)
                .or_else(|error| check_holders(&mut host, &config, &pod).map_err(|_| error)),
            Backend::Iptables => check_iptables(&config, &pod)
                .or_else(|error| check_nftables(&mut host, &owner, &config, &pod).map_err(|_| error)),
            Backend::Firewalld(mut firewalld) => {
                for ip in pod.ips() {
                    if !firewalld.has(&config.zone, ip)? {
                        return Err(missing(format!("{ip} is not in firewalld's zone {}", config.zone)));
                    }
                }
                check_policy(&mut host, &owner, &config, &pod, Purpose::Record)
            }
        }
    }

    fn gc(&self, call: &GcCall) -> Result<()> {
        let config = Config::parse(&call.conf)?;
        let Some(valid) = &call.valid else { return Ok(()) };
        let mut host = open_host()?;
        let keep = Keep::new(&call.conf.name, valid);
        if !nft::is_supported(&mut host).map_err(failed)? {
            // Nothing says whose the addresses in iptables' rules are.
            return Ok(());
        }
        let (released, ours) = nftables::gc(&mut host, &keep)
            .map_or_else(|error| (Vec::new(), Err(failed(error))), |released| (released, Ok(())));
        let elsewhere =
            forward::remove(&mut host, &released, &Pod::default(), |comment| keep.is_stale(comment));
        gather([ours, elsewhere.map_err(failed), leave_zone(&config, &released)])
    }

    fn status(&self, call: &StatusCall) -> Result<()> {
        let config = Config::parse(&call.conf)?;
        let mut host = open_host()?;
        let usable = match decide(&config, &mut host) {
            Ok(Backend::Nftables) => nft::probe(&mut host).map_err(failed),
            Ok(Backend::Iptables) => kernel::iptables::Family::BOTH.iter().try_for_each(|family| {
                Iptables::host(*family).observe(Table::Filter).map(|_| ()).map_err(failed)
            }),
            Ok(Backend::Firewalld(_)) => Ok(()),
            Err(error) => Err(error),
        };
        usable.map_err(|error| Error { code: Code::NOT_AVAILABLE, ..error })
    }
}

fn open_host() -> Result<Socket> {
    Socket::open(Protocol::Netfilter).map_err(kernel_error)
}

#[allow(clippy::needless_pass_by_value, reason = "made for map_err")]
fn failed(error: kernel::Error) -> Error {
    iptables_error(&error).context("firewall")
}

fn missing(what: impl std::fmt::Display) -> Error {
    Error::internal(format!("firewall: {what}"))
}

fn decide(config: &Config, host: &mut Socket) -> Result<Backend> {
    Ok(match config.choice {
        Choice::Unset => Firewalld::find().map_or(Backend::Nftables, Backend::Firewalld),
        Choice::Firewalld => Backend::Firewalld(
            Firewalld::find().ok_or_else(|| missing("backend: \"firewalld\" is not running on this host"))?,
        ),
        Choice::Netfilter(choice) => match choice.decide(host) {
            backend::Backend::Nftables => Backend::Nftables,
            backend::Backend::Iptables => Backend::Iptables,
        },
    })
}

/// Carries ADD out.
fn admit(host: &mut Socket, backend: &mut Backend, owner: &Owner, config: &Config, pod: &Pod) -> Result<()> {
    match backend {
        Backend::Nftables => {
            nftables::ensure(host, owner, pod, config.policy, Purpose::Accept).map_err(failed)?;
            forward::ensure(host, owner, config, pod).map_err(failed)
        }
        Backend::Iptables => {
            // A kernel without nf_tables has no record; DEL then goes by the result of ADD, as the reference does.
            if nft::is_supported(host).map_err(failed)? {
                nftables::ensure(host, owner, pod, IngressPolicy::Open, Purpose::Record).map_err(failed)?;
            }
            iptables::families(&pod.ips())
                .try_for_each(|family| iptables::ensure(Iptables::host(family), config, pod).map_err(failed))
        }
        Backend::Firewalld(firewalld) => {
            nftables::ensure(host, owner, pod, config.policy, Purpose::Record).map_err(failed)?;
            pod.ips().into_iter().try_for_each(|ip| firewalld.add(&config.zone, ip))
        }
    }
}

/// Carries DEL out, on every backend.
fn dismiss(host: &mut Socket, owner: &Owner, config: &Config, pod: &Pod) -> Result<()> {
    let (ips, ours) = match nft::is_supported(host).map_err(failed)? {
        true => nftables::remove(host, owner, pod)
            .map_or_else(|error| (Vec::new(), Err(failed(error))), |ips| (ips, Ok(()))),
        false => (pod.ips(), Ok(())),
    };
    let elsewhere = forward::remove(host, &ips, pod, |comment| owner.owns(comment)).map_err(failed);
    gather([ours, elsewhere, leave_zone(config, &ips)])
}

fn leave_zone(config: &Config, ips: &[IpAddr]) -> Result<()> {
    if ips.is_empty() || matches!(config.choice, Choice::Netfilter(_)) {
        return Ok(());
    }
    let Some(mut firewalld) = Firewalld::find() else { return Ok(()) };
    gather(ips.iter().map(|ip| firewalld.remove(&config.zone, *ip)))
}

fn check_nftables(host: &mut Socket, owner: &Owner, config: &Config, pod: &Pod) -> Result<()> {
    check_policy(host, owner, config, pod, Purpose::Accept)?;
    let lacking = forward::find_missing(host, owner, config, pod).map_err(failed)?;
    lacking.map_or(Ok(()), |what| Err(missing(what)))
}

fn check_policy(
    host: &mut Socket,
    owner: &Owner,
    config: &Config,
    pod: &Pod,
    purpose: Purpose,
) -> Result<()> {
    let lacking = nftables::check(host, owner, pod, config.policy, purpose).map_err(failed)?;
    lacking.map_or(Ok(()), |what| Err(missing(what)))
}

fn check_iptables(config: &Config, pod: &Pod) -> Result<()> {
    for family in iptables::families(&pod.ips()) {
        check_one_iptables(Iptables::host(family), config, pod)?;
    }
    Ok(())
}

fn check_one_iptables(iptables: Iptables, config: &Config, pod: &Pod) -> Result<()> {
    let seen = iptables.observe(Table::Filter).map_err(failed)?;
    let lacking = iptables::find_missing(&seen, iptables.family, config, pod);
    lacking.map_or(Ok(()), |what| Err(missing(what)))
}

/// The reference's rules, wherever its chain is; starts a program only if it may be somewhere.
fn check_holders(host: &mut Socket, config: &Config, pod: &Pod) -> Result<()> {
    for family in iptables::families(&pod.ips()) {
        let holders = kernel::iptables::holders(host, family, Table::Filter, iptables::CNI_FORWARD);
        let holders = holders.map_err(failed)?;
        let outcomes: Vec<Result<()>> =
            holders.into_iter().map(|iptables| check_one_iptables(iptables, config, pod)).collect();
        if !outcomes.iter().any(Result::is_ok) {
            return outcomes
                .into_iter()
                .next()
                .unwrap_or_else(|| Err(missing("iptables has no rules for the pod")));
        }
    }
    Ok(())
}
