//! ipip and wireguard, on a kernel that has them.

use lab::cluster::Families;

use crate::reach::{Host, story};

macro_rules! stories {
    ($($name:ident: $mode:literal;)*) => {$(
        #[test]
        fn $name() {
            lab::vm::run_with_tunnels("tunnels::", concat!("tunnels::", stringify!($name)), || {
                story($mode, Families::Dual, Host::Plain);
            });
        }
    )*};
}

stories! {
    ipip: "ipip";
    wireguard: "wireguard";
}
