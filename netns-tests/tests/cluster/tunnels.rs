//! ipip and wireguard, on a kernel that has them.
use lab::Cluster;
use lab::by_hand::{self, Path};
use lab::cluster::{Families, Shape};
use lab::traffic::{Fate, ping_of_size};
#[test]
fn kernel_has_them() {
    lab::vm::run_with_tunnels("tunnels::", "tunnels::kernel_has_them", || {
        let cluster = Cluster::new(&Shape::flat(2, Families::Dual)).unwrap();
        by_hand::connect(&cluster, Path::Vxlan);
        let a = by_hand::pod(cluster.node(0), "a", 2);
        let b = by_hand::pod(cluster.node(1), "b", 2);
        for (from, to) in a.ips.iter().zip(&b.ips) {
            assert_eq!(ping_of_size(&a.pod, *to, 1430), Fate::Answered, "{from} {to}");
        }
    });
}
