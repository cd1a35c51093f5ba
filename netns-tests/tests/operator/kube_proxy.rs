//! What the real kube-proxy leaves in a kernel: rules as it writes them, in two of its modes.

use std::net::IpAddr;

use lab::{Node, Space};

use super::stage::{CLUSTER_IPS, TALK, TARGET};

/// The mode in which it has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Iptables,
    Nftables,
}

const TALKING: u16 = 9090;
/// kube-proxy's own hashes of `default/web:http` and `default/talk:http`, TCP.
const CHAINS: [&str; 2] = ["KUBE-SVC-CDGGSHYLG3RE2FKL", "KUBE-SVC-TALKTALKTALKTALK"];

/// Brings its rules into the kernel of `node` for `web` with these endpoints, and for `talk` with the last IPv4 one.
pub fn program(node: &Node, mode: Mode, ips: &[IpAddr]) {
    for is_v4 in [true, false] {
        let of_family: Vec<IpAddr> = ips.iter().copied().filter(|ip| ip.is_ipv4() == is_v4).collect();
        match mode {
            Mode::Iptables => by_iptables(node, is_v4, &of_family),
            Mode::Nftables => by_nftables(node, is_v4, &of_family),
        }
    }
}

/// Whether any rule of it is there.
pub fn is_there(node: &Space) -> bool {
    let all = node.sh("nft list ruleset");
    all.contains("KUBE-SERVICES") || all.contains("kube-proxy {")
}

/// Services of a family: ClusterIP, chain, port of the endpoints, endpoints.
fn services(is_v4: bool, ips: &[IpAddr]) -> Vec<(&'static str, &'static str, u16, Vec<IpAddr>)> {
    let mut all = vec![(CLUSTER_IPS[usize::from(!is_v4)], CHAINS[0], TARGET, ips.to_vec())];
    if is_v4 {
        all.push((TALK, CHAINS[1], TALKING, vec![*ips.last().expect("an endpoint")]));
    }
    all
}

fn by_iptables(node: &Node, is_v4: bool, ips: &[IpAddr]) {
    let (program, length) = if is_v4 { ("iptables-restore", 32) } else { ("ip6tables-restore", 128) };
    let mut chains = String::new();
    let mut rules = String::new();
    for (ip, chain, port, endpoints) in services(is_v4, ips) {
        let name = if ip == TALK { "default/talk:http" } else { "default/web:http" };
        chains += &format!(":{chain} - [0:0]\n");
        rules += &format!(
            "-A KUBE-SERVICES -d {ip}/{length} -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport 80 -j {chain}\n"
        );
        for (at, endpoint) in endpoints.iter().enumerate() {
            let sep = format!("KUBE-SEP-{}{at}", &chain[9..20]);
            let target = if is_v4 { format!("{endpoint}:{port}") } else { format!("[{endpoint}]:{port}") };
            let left = endpoints.len() - at;
            let chance = match left {
                1 => String::new(),
                _ => format!(" -m statistic --mode random --probability {:.10}", 1.0 / left as f64),
            };
            chains += &format!(":{sep} - [0:0]\n");
            rules += &format!(
                "-A {chain} -m comment --comment \"{name} -> {target}\"{chance} -j {sep}\n\
                 -A {sep} -s {endpoint}/{length} -m comment --comment \"{name}\" -j KUBE-MARK-MASQ\n\
                 -A {sep} -p tcp -m comment --comment \"{name}\" -m tcp -j DNAT --to-destination {target}\n"
            );
        }
    }
    let text = format!(
        "*nat\n\
         :KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
         :KUBE-PROXY-CANARY - [0:0]\n{chains}\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         {rules}\
         -A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         COMMIT\n"
    );
    let done = node.output(program, &["--noflush"], text.as_bytes());
    assert!(done.status.success(), "{}\n{text}", String::from_utf8_lossy(&done.stderr));
}

fn by_nftables(node: &Node, is_v4: bool, ips: &[IpAddr]) {
    let family = if is_v4 { "ip" } else { "ip6" };
    let mut rules = String::new();
    for (ip, _, port, endpoints) in services(is_v4, ips) {
        let targets: Vec<String> =
            endpoints.iter().enumerate().map(|(at, it)| format!("{at} : {it} . {port}")).collect();
        rules += &format!(
            "{family} daddr {ip} tcp dport 80 dnat {family} addr . port to numgen random mod {} map {{ {} }}\n",
            endpoints.len(),
            targets.join(", ")
        );
    }
    let text = format!(
        "table {family} kube-proxy {{\n\
         comment \"rules for kube-proxy\"\n\
         chain services {{\n{rules}}}\n\
         chain nat-prerouting {{ type nat hook prerouting priority dstnat; jump services; }}\n\
         chain nat-output {{ type nat hook output priority -100; jump services; }}\n\
         }}\n"
    );
    let done = node.output("nft", &["-f", "-"], text.as_bytes());
    assert!(done.status.success(), "{}\n{text}", String::from_utf8_lossy(&done.stderr));
}
