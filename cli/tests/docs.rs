//! docs/ tell people what to type. What needs no cluster is typed here, on an empty machine; of all the rest every
//! program, flag, file, object and key that is named must be there.

mod documents;

use std::path::{Path, PathBuf};
use std::process::Command;

use documents::{Block, all_of, blocks, commands, read, root, sees};
use lab::Space;
use lab::wait::until_nothing;

/// What install.md calls the address of the machine.
const ADDRESS: &str = "192.0.2.11/24";

/// systemd, as far as install.md uses it: the unit's program, started by `enable` and `restart`, ended by `disable`.
const SYSTEMCTL: &str = r#"#!/bin/sh -eu
unit=/etc/systemd/system/bowlined.service pid=/run/bowlined.pid
stop() { kill "$(cat $pid)"; while kill -0 "$(cat $pid)" 2>/dev/null; do sleep 0.05; done; }
start() {
    mkdir -p "/run/$(sed -n 's/^RuntimeDirectory=//p' $unit)"
    setsid $(sed -n 's/^ExecStart=//p' $unit) >/var/log/bowlined.log 2>&1 </dev/null & echo $! >$pid
}
case "$*" in
daemon-reload) ;;
"enable --now bowlined") start ;;
"restart bowlined") stop; start ;;
"disable --now bowlined") stop ;;
*) echo "systemctl: what is $*?" >&2; exit 1 ;;
esac
"#;

/// A machine with nothing but an address, and a place of its own for what is installed.
struct Machine {
    space: Space,
    _tools: tempfile::TempDir,
    path: String,
}

impl Machine {
    fn new() -> Self {
        let space = Space::new_node().expect("a node (run the tests as root)");
        let tools = tempfile::tempdir().expect("a directory");
        let systemctl = tools.path().join("systemctl");
        std::fs::write(&systemctl, SYSTEMCTL).expect("written");
        let path = format!("{}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", tools.path().display());
        let machine = Machine { space, _tools: tools, path };
        let installed = "chmod +x \"$0\"; mount -t tmpfs none /usr/local/bin; rm -rf /opt/cni /etc/cni/net.d; mkdir -p /etc/systemd/system
            ip link add eth0 type veth peer name wire
            sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1 net.ipv6.conf.wire.disable_ipv6=1; ip link set eth0 up; ip link set wire up; ip link set lo up";
        let (said, ok) = machine.shell(&installed.replace("$0", &systemctl.display().to_string()));
        assert!(ok, "{said}");
        let (said, ok) = machine.shell(&format!("ip addr add {ADDRESS} dev eth0"));
        assert!(ok, "{said}");
        machine
    }

    /// What a block says, and whether it ended well.
    fn shell(&self, text: &str) -> (String, bool) {
        let text = format!("cd '{}'; export PATH='{}'; {text}", root().display(), self.path);
        let output = self.space.output("sh", &["-euc", &text], b"");
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&said).into_owned(), output.status.success())
    }

    /// Types a block: until one sees what one should, or once and it must end well, or fail where that is what is shown.
    fn types(&self, block: &Block, expected: &[String]) {
        let typed = block.text.replace("sudo ", "");
        let shown = |said: &str| {
            let log = self.shell("cat /var/log/bowlined.log || true").0;
            format!("{}\n{said}\nthe daemon: {log}", block.text)
        };
        if block.kind == "sh test" {
            let (said, ok) = self.shell(&typed);
            assert!(ok && all_of(&said, expected).is_none(), "{}", shown(&said));
            return;
        }
        until_nothing("what install.md says one should see", || {
            let (said, ok) = self.shell(&typed);
            let missing = all_of(&said, expected);
            let is_there = ok != (block.kind == "sh test fails") && missing.is_none();
            if is_there { String::new() } else { format!("{missing:?} in\n{}", shown(&said)) }
        });
    }

    /// Links, routes, tables and the files of programs.
    fn state(&self) -> String {
        let listing = "ip -o link | sed 's/ qlen.*//'; ip route show table all; ip -6 route show table all | grep -v ' multicast \\| local ' || true
            ip rule; nft -s list ruleset
            ls /opt/cni/bin /etc/cni/net.d /usr/local/bin /etc/systemd/system /run/netns /var/lib/cni/networks/bowline /etc/bowline 2>/dev/null || true";
        self.shell(listing).0
    }
}

#[test]
fn install_md_works_as_printed_on_a_machine_and_leaves_no_trace() {
    let machine = Machine::new();
    let before = machine.state();
    let document = read("docs/install.md");
    let blocks = blocks(&document);
    let mut typed = 0;
    for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.kind.starts_with("sh test")) {
        machine.types(block, &sees(&blocks, index));
        typed += 1;
    }
    assert!(typed > 8, "the blocks are marked");
    let gone = |state: String| {
        state
            .lines()
            .filter(|line| !line.is_empty() && !line.ends_with(':'))
            .map(|line| line.to_owned() + "\n")
            .collect::<String>()
    };
    assert_eq!(gone(machine.state()), gone(before));
}

/// What troubleshooting.md looks at: a peer without an address, a Service without endpoints, one with endpoints elsewhere.
const TROUBLE: &str = r#"
{apiVersion: v1, kind: Node, metadata: {name: machine-2}, spec: {podCIDRs: [10.244.2.0/24]},
 status: {addresses: [{type: InternalIP, address: 192.0.2.12}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: machine-3}, spec: {podCIDRs: [10.244.3.0/24]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: default},
 spec: {clusterIP: 10.96.0.80, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: shop, namespace: default},
 spec: {type: NodePort, clusterIP: 10.96.0.81, externalTrafficPolicy: Local, ports: [{name: http, port: 80, nodePort: 30080}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{name: http, port: 8080}],
 metadata: {name: shop-1, namespace: default, labels: {kubernetes.io/service-name: shop}},
 endpoints: [{addresses: [10.244.2.7], nodeName: machine-2}, {addresses: [10.244.2.8], nodeName: machine-2}]}
"#;

#[test]
fn troubleshooting_md_shows_what_is_really_printed() {
    let machine = Machine::new();
    let own = |spec: &str| {
        format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: machine-1}}, {spec}
                 status: {{addresses: [{{type: InternalIP, address: 192.0.2.11}}]}}}}\n---{TROUBLE}"
        )
    };
    let write = |spec: &str| {
        let (said, ok) = machine.shell(&format!(
            "mkdir -p /etc/bowline/nodes; echo '{}' >/etc/bowline/nodes/all.yaml",
            own(spec)
        ));
        assert!(ok, "{said}");
    };
    write("");
    let args = "--node-name machine-1 --manifests /etc/bowline/nodes --cluster-cidr 10.244.0.0/16 --proxy-mode nftables";
    let (said, ok) = machine.shell(&format!(
        "make install >/dev/null; setsid bowlined {args} >/var/log/bowlined.log 2>&1 </dev/null & echo $! >/run/bowlined.pid"
    ));
    assert!(ok, "{said}");
    let document = read("docs/troubleshooting.md");
    let blocks = blocks(&document);
    let marked = blocks.iter().enumerate().filter(|(_, block)| block.kind.starts_with("sh test"));
    for (typed, (index, block)) in marked.enumerate() {
        machine.types(block, &sees(&blocks, index));
        if typed == 0 {
            write("spec: {podCIDRs: [10.244.1.0/24]},");
        }
    }
    let (said, ok) = machine.shell("kill $(cat /run/bowlined.pid)");
    assert!(ok, "{said}");
}

#[test]
fn a_node_that_flannel_has_left_says_so_and_becomes_ready_when_that_is_gone() {
    let machine = Machine::new();
    let flannel = "ip link add flannel.1 type vxlan id 1 dev eth0 local 192.0.2.11 dstport 8472 nolearning; ip link set flannel.1 up
        ip link add cni0 type bridge; ip link set cni0 up; ip addr add 10.244.1.1/24 dev cni0";
    let node = "{apiVersion: v1, kind: Node, metadata: {name: machine-1}, spec: {podCIDRs: [10.244.1.0/24]},
        status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}}";
    let other = node.replace("machine-1", "machine-2").replace("244.1", "244.2").replace("2.11", "2.12");
    let (said, ok) = machine.shell(&format!(
        "make install >/dev/null; {flannel}; mkdir -p /etc/bowline/nodes; echo '{node}\n---\n{other}' >/etc/bowline/nodes/all.yaml
         setsid bowlined --node-name machine-1 --manifests /etc/bowline/nodes >/var/log/bowlined.log 2>&1 </dev/null & echo $! >/run/bowlined.pid"
    ));
    assert!(ok, "{said}");
    let document = read("docs/install.md");
    let sentence =
        document.split('`').find(|code| code.contains("is taken by")).expect("install.md says it").to_owned();
    let status = |wanted: &str| {
        until_nothing("bowline status", || {
            let (said, _) = machine.shell("bowline status");
            if said.contains(wanted) { String::new() } else { format!("{wanted:?} is not in\n{said}") }
        });
    };
    status(&sentence);
    let moving = document.split("## Moving from flannel").nth(1).expect("a section");
    let block = &blocks(moving)[1];
    assert!(block.text.contains("flannel.1"), "{block:?}");
    let (said, ok) = machine.shell(&block.text.replace("sudo ", ""));
    assert!(ok, "{said}");
    status("machine-1, ready");
    assert!(machine.shell("kill $(cat /run/bowlined.pid)").1);
}

/// Everything that docs/ tell to type.
fn every_command() -> Vec<(String, String)> {
    let documents = ["docs/install.md", "docs/troubleshooting.md", "docs/configuration.md"];
    let of = |path: &str| {
        let text = read(path);
        let blocks = blocks(&text);
        let typed = blocks
            .iter()
            .filter(|block| block.kind.starts_with("sh"))
            .flat_map(|block| commands(&block.text));
        let inline = documents::inline(&text);
        typed.chain(inline).map(|command| (path.to_owned(), command)).collect::<Vec<_>>()
    };
    documents.into_iter().flat_map(of).collect()
}

#[test]
fn every_file_that_docs_name_is_there() {
    for (document, command) in every_command() {
        for word in command.split([' ', '\'', '"', '`', '=']) {
            let word = word.trim_end_matches([',', ';', ')', '.']);
            let is_ours = ["conf/", "docs/", "scripts/"].iter().any(|start| word.starts_with(start));
            if is_ours {
                assert!(root().join(word).exists(), "{document}: {word} is not there: {command}");
            }
            if let Some(made) = word.strip_prefix("target/image/") {
                let makefile = read("Makefile");
                assert!(
                    makefile.contains(&format!("target/image/{made}")),
                    "{document}: `make image` makes no {word}"
                );
            }
        }
        if let Some(target) = command.strip_prefix("make ").and_then(|rest| rest.split(' ').next()) {
            assert!(
                read("Makefile").contains(&format!("\n{target}:")),
                "{document}: `make {target}` is no target"
            );
        }
    }
    let overlays = std::fs::read_dir(root().join("conf/overlays")).expect("conf/overlays").flatten();
    let install = read("docs/install.md");
    for overlay in overlays {
        let file = format!("conf/rendered/{}.yaml", overlay.file_name().to_string_lossy());
        assert!(install.contains(&file), "docs/install.md does not name {file}");
    }
    let image = install.split('`').find(|word| word.starts_with("docker.io/")).expect("the image's name");
    assert!(
        read("conf/rendered/vxlan.yaml").contains(&format!("image: \"{image}\"")),
        "{image} is not the manifests'"
    );
}

/// The help of one of our programs.
fn help(program: &Path, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).arg("--help").output().expect("our programs start");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn every_command_and_flag_of_ours_that_docs_name_is_known() {
    let bowline = PathBuf::from(env!("CARGO_BIN_EXE_bowline"));
    let mut checked = 0;
    for (document, command) in every_command() {
        // What is run in a pod is ours; `cni add bowline` and `daemonset bowline` are other things of that name.
        let own = command.split_once(" -- ").map_or(command.as_str(), |(_, own)| own);
        let words: Vec<&str> = own.split_whitespace().collect();
        let Some(at) = words.iter().position(|word| word.rsplit('/').next() == Some("bowline")) else {
            continue;
        };
        let is_program = words[..at].iter().all(|word| word.contains('=') || *word == "sudo");
        let Some(verb) = words.get(at + 1).filter(|_| is_program) else { continue };
        let deep = if *verb == "cni" { vec![*verb, words[at + 2]] } else { vec![*verb] };
        let known = help(&bowline, &deep).unwrap_or_else(|| panic!("{document}: no such command: {command}"));
        for flag in words[at + 1..].iter().filter(|word| word.starts_with('-')) {
            let flag = flag.split('=').next().unwrap_or(flag);
            let is_known = known.split([' ', ',', '\n', '[', '=']).any(|word| word == flag);
            assert!(is_known, "{document}: {flag} is no flag of {deep:?}: {command}");
        }
        checked += 1;
    }
    assert!(checked > 10, "{checked} commands of ours");
}

/// `--some-flag` and `someKey:` of bowlined.
#[test]
fn every_option_of_bowlined_that_docs_name_is_known() {
    let configuration = read("docs/configuration.md");
    for (document, command) in every_command() {
        let flags = command.strip_prefix("bowlined ").or(command.strip_prefix("sudo bowlined "));
        let flags =
            flags.iter().flat_map(|rest| rest.split_whitespace()).filter(|word| word.starts_with("--"));
        for flag in flags.map(|flag| flag.split('=').next().unwrap_or(flag)) {
            let known = configuration.contains(&format!("`{flag}`")) || flag == "--config";
            assert!(known, "{document}: bowlined has no {flag}: {command}");
        }
    }
    // What install.md replaces in the manifests by sed(1) is there to be replaced.
    assert!(read("docs/install.md").contains("s|#apiServer: .*|"));
    for file in ["vxlan", "routed", "cross-subnet", "wireguard", "dual-stack", "network-only"] {
        let text = read(&format!("conf/rendered/{file}.yaml"));
        assert_eq!(text.matches("#apiServer: ").count(), 1, "{file}");
    }
}

#[test]
fn every_object_that_docs_name_is_in_the_manifests() {
    let others = ["kube-proxy", "kube-flannel-ds"];
    let manifests: String = std::fs::read_dir(root().join("conf/rendered"))
        .expect("conf/rendered")
        .flatten()
        .map(|file| std::fs::read_to_string(file.path()).expect("readable"))
        .collect();
    let mut checked = 0;
    for (document, command) in every_command().into_iter().filter(|(_, command)| command.contains("kubectl "))
    {
        let command = command.replace("daemonset/", "daemonset ");
        let words: Vec<&str> = command.split_whitespace().collect();
        for pair in words.windows(2).filter(|pair| ["daemonset", "configmap"].contains(&pair[0])) {
            let name = pair[1].trim_end_matches(['`', '.', ',']);
            if name.starts_with('-') || name == "NAME" {
                continue;
            }
            let is_there = others.contains(&name) || manifests.contains(&format!("name: {name}\n"));
            assert!(is_there, "{document}: no {} {name}: {command}", pair[0]);
            checked += 1;
        }
    }
    assert!(checked > 5, "{checked} objects");
    // Where `bowline status` looks for daemons.
    for label in daemon::survey::SELECTOR.split(',') {
        let label = label.replacen('=', ": ", 1);
        assert!(manifests.contains(&label), "no pod is labelled {label}");
    }
    assert!(manifests.contains(&format!("namespace: {}\n", daemon::survey::NAMESPACE)));
}

#[test]
fn output_that_should_be_seen_is_compared_line_by_line() {
    let said = "node        a, ready\nsource      manifests /m, connected for 12 s, 3 snapshots\n";
    let expect = |lines: &[&str]| all_of(said, &lines.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
    assert_eq!(expect(&["node        a, ready", "source      manifests /m, connected for ... s, ..."]), None);
    assert_eq!(expect(&["...connected..."]), None);
    assert_eq!(expect(&["node        a"]), Some("node        a".to_owned()));
    assert_eq!(expect(&["source ... for b"]), Some("source ... for b".to_owned()));
}
