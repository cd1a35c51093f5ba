//! Which dataplanes there are, and which of them suits this kernel.

use kernel::Result;

use crate::iptables::Iptables;
use crate::ipvs::Ipvs;
use crate::nftables::Nftables;
use crate::options::Options;
use crate::{Dataplane, Family, Mode};

/// Opens the dataplane of a mode for a family in the calling thread's network namespace. Touches nothing.
///
/// # Errors
/// When the kernel lacks what it needs, or this process the right to use it.
pub fn open(mode: Mode, family: Family, options: &Options) -> Result<Box<dyn Dataplane>> {
    match mode {
        Mode::Nftables => Ok(Box::new(Nftables::open(family)?)),
        Mode::Iptables => Ok(Box::new(Iptables::open(family, &options.iptables)?)),
        Mode::Ipvs => Ok(Box::new(Ipvs::open(family, &options.ipvs)?)),
    }
}

/// What suits this kernel: nftables where everything that its table is made of is taken, else the next of [`Mode::ALL`] that
/// can be opened, but never IPVS, which is for those who ask for it. Nothing is left behind by trying.
///
/// # Errors
/// Why nftables can't be used, where nothing else can.
pub fn available(options: &Options) -> Result<Mode> {
    // A kernel may have one family only.
    let rehearsed = Family::BOTH.map(|family| Nftables::open(family).and_then(|mut table| table.rehearse()));
    let [Err(lacking), Err(_)] = rehearsed else { return Ok(Mode::Nftables) };
    let others = Mode::ALL.into_iter().filter(|mode| !matches!(mode, Mode::Nftables | Mode::Ipvs));
    let opens = |mode: &Mode| Family::BOTH.into_iter().any(|family| open(*mode, family, options).is_ok());
    others.into_iter().find(opens).ok_or(lacking)
}
