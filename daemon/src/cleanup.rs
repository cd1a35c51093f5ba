//! Taking a node back to what it was: whatever the daemon has made goes, whatever it has not stays.
//!
//! The conflist goes first, so that no new pod is on its way while the rest goes; then rules, routes, devices, runtime
//! files, plug-ins. Doing it twice does nothing the second time. What fails is told, and the rest is done all the same.
//! Sysctls stay: others may rely on forwarding by now. So does what plug-ins have made for pods that are there; DEL
//! removes that.

use std::path::Path;

use ::proxy::engine::open;
use ::proxy::nftables::{Nftables, remove_kube_proxy};
use ::proxy::{Mode, Options};
use clap::Args;
use kernel::netlink::{Protocol, Socket};
use kernel::{link, nft, route, rule};
use overlay::sync::{DIVERSION, Dataplane};
use overlay::{ALIAS, Family, ROUTE_PROTOCOL};

use crate::config::{Paths, Typed, Word};
use crate::install::{self, Removal};
use crate::log::chain_of;
use crate::node::sysctls::BRIDGE;
use crate::node::{forward, masquerade};
use crate::{conflist, file, lock, proxy, status, stop};

/// Command line of `bowline cleanup` and `bowlined cleanup`.
#[derive(Debug, Clone, Default, Args)]
pub struct CleanupArgs {
    /// Print what would go, and leave it.
    #[arg(long)]
    pub dry_run: bool,
    /// Even while bowlined runs. It puts everything back at once unless it is stopped.
    #[arg(long)]
    pub force: bool,
    /// Also what kube-proxy has made for Services, in every mode.
    #[arg(long)]
    pub kube_proxy: bool,
    /// Stay when everything is gone, until SIGTERM: for the pods of a DaemonSet, which never end.
    #[arg(long)]
    pub wait: bool,
    /// File of the daemon's settings, for its directories [/etc/bowline/bowline.yaml, if it is there].
    #[arg(long)]
    pub config: Option<std::path::PathBuf>,
    /// Where the container runtime looks for plug-ins [/opt/cni/bin].
    #[arg(long)]
    pub cni_bin_dir: Option<Word>,
    /// Where the container runtime looks for networks [/etc/cni/net.d].
    #[arg(long)]
    pub cni_conf_dir: Option<Word>,
    /// The program that has all plug-ins [bowline-cni beside this one].
    #[arg(long)]
    pub plugins: Option<Word>,
    /// The daemon's --state-dir [/var/lib/bowline].
    #[arg(long)]
    pub state_dir: Option<Word>,
    /// The daemon's --run-dir [/run/bowline].
    #[arg(long)]
    pub run_dir: Option<Word>,
}

/// Cleans up as `args` say, and then waits for SIGTERM if they say so. `say` gets a sentence for everything that goes, or would go.
///
/// # Errors
/// All that failed, a sentence each; or that a daemon runs.
pub fn run(args: &CleanupArgs, say: &mut dyn FnMut(&str)) -> Result<(), Vec<String>> {
    let paths = paths(args).map_err(|error| vec![error])?;
    let removal = if args.dry_run { Removal::Tell } else { Removal::Now };
    let alone = lock::is_free(&paths.run);
    if let (Err(error), false) = (&alone, args.force) {
        return Err(vec![format!("{error}: stop it first, or give --force")]);
    }
    let mut cleanup = Cleanup { removal, say, failures: Vec::new() };
    cleanup.file(&paths.cni_conf.join(conflist::FILE));
    cleanup.file(&paths.run.join("node.json"));
    cleanup.rules();
    if cleanup.removal == Removal::Now {
        cleanup.failures.extend(proxy::sysctls::give_back_localnet(&paths.state).err());
    }
    for family in Family::BOTH {
        cleanup.services(family, &paths, args.kube_proxy);
    }
    cleanup.overlay();
    cleanup.bridge();
    cleanup.leases(Path::new(status::LEASES));
    for path in [
        paths.run.join(status::SOCKET),
        paths.run.join(lock::FILE),
        paths.state.join("wireguard.key"),
        proxy::record(&paths.state),
        paths.state.join("api-servers.json"),
    ] {
        cleanup.file(&path);
    }
    // The index of host-local's leases is below the first.
    for directory in [&paths.run.join("host-local"), &paths.run, &paths.state] {
        cleanup.directory(directory);
    }
    cleanup.plugins(&paths);
    match cleanup.failures.is_empty() {
        true if args.wait => stop::wait().map_err(|error| vec![error]),
        true => Ok(()),
        false => Err(cleanup.failures),
    }
}

fn paths(args: &CleanupArgs) -> Result<Paths, String> {
    let typed = Typed {
        cni_bin_dir: args.cni_bin_dir.clone(),
        cni_conf_dir: args.cni_conf_dir.clone(),
        plugins: args.plugins.clone(),
        state_dir: args.state_dir.clone(),
        run_dir: args.run_dir.clone(),
        ..Typed::default()
    };
    let (path, file) = Typed::read_or_default(args.config.as_deref())?;
    Paths::understand(&typed, &file, &path)
}

/// Whether there is a table of ours that serves nothing.
fn dataplane_is_there(mode: Mode, family: Family) -> kernel::Result<bool> {
    if mode == Mode::Nftables { Nftables::has_traces(family) } else { Ok(true) }
}

struct Cleanup<'a> {
    removal: Removal,
    say: &'a mut dyn FnMut(&str),
    failures: Vec<String>,
}

impl Cleanup<'_> {
    fn done(&mut self, what: &str) {
        match self.removal {
            Removal::Now => (self.say)(&format!("removed {what}")),
            Removal::Tell => (self.say)(&format!("would remove {what}")),
        }
    }

    /// With what a daemon that was killed had half written of it.
    fn file(&mut self, path: &Path) {
        self.one_file(path);
        self.one_file(&file::unfinished(path));
    }

    fn one_file(&mut self, path: &Path) {
        if std::fs::symlink_metadata(path).is_err() {
            return;
        }
        let removed = if self.removal == Removal::Now { file::remove(path) } else { Ok(true) };
        match removed {
            Ok(_) => self.done(&path.display().to_string()),
            Err(error) => self.failures.push(error),
        }
    }

    /// Only an empty one: what others have put there stays.
    fn directory(&mut self, path: &Path) {
        if self.removal == Removal::Now {
            // One that is in use, or was never there, stays as it is.
            let _ = std::fs::remove_dir(path);
        }
    }

    fn plugins(&mut self, paths: &Paths) {
        let program = install::program(paths.plugins.as_deref());
        match install::uninstall(&program, &paths.cni_bin, self.removal) {
            Ok(files) => files.iter().for_each(|file| self.done(&file.display().to_string())),
            Err(error) => self.failures.push(error),
        }
    }

    /// nf_tables and iptables.
    fn rules(&mut self) {
        if let Err(error) = self.remove_rules() {
            self.failures.push(chain_of(&error));
        }
    }

    fn remove_rules(&mut self) -> kernel::Result<()> {
        let mut socket = Socket::open(Protocol::Netfilter)?;
        if !nft::is_supported(&mut socket)? {
            return Ok(());
        }
        if nft::table_exists(&mut socket, &masquerade::TABLE)? {
            if self.removal == Removal::Now {
                masquerade::cleanup(&mut socket)?;
            }
            self.done(&format!("table {}", masquerade::TABLE));
        }
        if nft::table_exists(&mut socket, &DIVERSION)? {
            if self.removal == Removal::Now {
                nft::Batch::new().delete_table(&DIVERSION).commit(&mut socket)?;
            }
            self.done(&format!("table {DIVERSION}"));
        }
        for place in forward::find(&mut socket)? {
            self.done(&format!("our rules in {place}"));
        }
        if self.removal == Removal::Now {
            self.failures.extend(forward::cleanup(&mut socket)?.problems);
        }
        Ok(())
    }

    /// What the Service proxy has made in a family. A table of our name is ours; chains named as kube-proxy's are only
    /// where it is written down that we have used that mode, or where kube-proxy's are to go too.
    fn services(&mut self, family: Family, paths: &Paths, kube_proxy: bool) {
        let used = proxy::used_modes(&paths.state);
        let goes = |mode: &Mode| kube_proxy || *mode == Mode::Nftables || used.contains(mode);
        let goes = |mode: &Mode| goes(mode) && proxy::may_have_left(*mode, family);
        for mode in Mode::ALL.into_iter().filter(goes) {
            // What this kernel can't do has left nothing.
            let Ok(mut dataplane) = open(mode, family, &Options::default()) else { continue };
            let outcome = dataplane.list().and_then(|served| {
                let is_there = !served.is_empty() || dataplane_is_there(mode, family)?;
                if is_there && self.removal == Removal::Now {
                    dataplane.cleanup()?;
                }
                Ok(is_there)
            });
            self.tell(outcome, &format!("{family} Services of mode {mode}"));
        }
        if kube_proxy && self.removal == Removal::Now {
            let outcome = remove_kube_proxy(family);
            self.tell(outcome, &format!("{family} table of kube-proxy"));
        }
    }

    fn tell(&mut self, outcome: kernel::Result<bool>, what: &str) {
        match outcome {
            Ok(true) => self.done(what),
            Ok(false) => {}
            Err(error) if error.is_absent() => {}
            Err(error) => self.failures.push(chain_of(&error)),
        }
    }

    /// The bridge that the plug-in `vxlan` makes, once no pod is on it.
    fn bridge(&mut self) {
        let removed = (|| {
            let mut socket = Socket::open(Protocol::Route)?;
            let links = link::list(&mut socket)?;
            let Some(bridge) = links.iter().find(|it| it.id.name == BRIDGE && it.kind == "bridge") else {
                return Ok(false);
            };
            let is_used = links.iter().any(|link| link.master == Some(bridge.id.index));
            if !is_used && self.removal == Removal::Now {
                socket.apply(&[link::delete(&bridge.id)])?;
            }
            Ok::<bool, kernel::Error>(!is_used)
        })();
        match removed {
            Ok(true) => self.done(&format!("link {BRIDGE}")),
            Ok(false) => {}
            Err(error) => self.failures.push(chain_of(&error)),
        }
    }

    /// host-local's marks of our network, once it has no lease.
    fn leases(&mut self, directory: &Path) {
        if !directory.is_dir() || status::count_pods(directory) != Some(0) {
            return;
        }
        let files =
            std::fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
        files.collect::<Vec<_>>().iter().for_each(|file| self.file(file));
        self.directory(directory);
    }

    /// Routes, routing rules, devices.
    fn overlay(&mut self) {
        if let Err(error) = self.remove_overlay() {
            self.failures.push(chain_of(&error));
        }
    }

    fn remove_overlay(&mut self) -> kernel::Result<()> {
        let mut socket = Socket::open(Protocol::Route)?;
        let links = link::list(&mut socket)?;
        let rules = rule::list(&mut socket)?;
        let routes = route::list(&mut socket, route::Filter::default())?;
        let ours = rules.iter().filter(|rule| rule.protocol == ROUTE_PROTOCOL).map(|it| format!("rule {it}"));
        let routes = routes.iter().filter(|route| route.protocol == ROUTE_PROTOCOL);
        let links = links.iter().filter(|link| link.alias == ALIAS);
        let found: Vec<String> = ours
            .chain(routes.map(|route| format!("route {route}")))
            .chain(links.map(|link| format!("link {}", link.id)))
            .collect();
        if self.removal == Removal::Now && !found.is_empty() {
            let report = Dataplane::open()?.cleanup()?;
            self.failures.extend(report.failures.iter().map(ToString::to_string));
        }
        found.iter().for_each(|what| self.done(what));
        Ok(())
    }
}
