//! ipip and wireguard, on a kernel that has them; and Services by IPVS, which the same one has.

use lab::cluster::Families;

use crate::reach::{Host, story};

macro_rules! stories {
    ($($name:ident: $mode:literal, $families:ident;)*) => {$(
        #[test]
        fn $name() {
            lab::vm::run_with_tunnels("tunnels::", concat!("tunnels::", stringify!($name)), || {
                story($mode, Families::$families, Host::Plain);
            });
        }
    )*};
}

stories! {
    ipip_v4: "ipip", V4;
    ipip_v6: "ipip", V6;
    ipip_dual: "ipip", Dual;
    wireguard_v4: "wireguard", V4;
    wireguard_v6: "wireguard", V6;
    wireguard_dual: "wireguard", Dual;
}

#[test]
fn services_by_ipvs() {
    lab::vm::run_with_tunnels("tunnels::", "tunnels::services_by_ipvs", crate::services::by_ipvs);
}
