//! What Services cost a node: whole daemons on a stand-in for the API, by every one of the kernel's ways; and beside
//! kube-proxy in the same run where `KUBE_PROXY` names it.
//!
//! Every row is a cluster of its own. `LAB_BOWLINED` names another daemon than `make build`'s. `--quick` takes nftables' smallest
//! sizes alone, `--only BACKEND` and `--services N` choose rows, `--connections` only times connections, `--all` leaves no row out;
//! README.md is rewritten by a run with none of these but the last.

mod contestant;
mod latency;
mod measure;
mod objects;
mod report;

use std::time::Instant;

use contestant::{Backend, Program};
use measure::Stage;
use report::{Connections, Row};

const SIZES: [u32; 3] = [1_000, 5_000, 30_000];
/// Connections are timed with as many Services.
const APART: [u32; 2] = [1, 30_000];
/// More Services than this are left out by iptables: iptables-nft-restore takes minutes to read 420,000 rules, and both
/// variants' cost grows with all of them, which the other rows show.
const IPTABLES_MOST: u32 = 5_000;

/// What is asked for.
struct Asked {
    backends: Vec<Backend>,
    sizes: Vec<u32>,
    rows: bool,
    connections: bool,
    /// Whether rows that take minutes are wanted.
    all: bool,
    /// Whether it is everything that README.md shows.
    whole: bool,
}

impl Asked {
    fn read(args: &[String]) -> Asked {
        let has = |flag: &str| args.iter().any(|arg| arg == flag);
        let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
        let only = option("--only").map(|name| {
            let named = Backend::ALL.into_iter().find(|backend| backend.name() == name);
            named.unwrap_or_else(|| panic!("--only: `{name}` is none of the backends"))
        });
        let services =
            option("--services").map(|number| number.parse::<u32>().expect("--services takes a number"));
        let is_quick = has("--quick");
        let backends = match only {
            None if is_quick => vec![Backend::Nftables],
            None => Backend::ALL.to_vec(),
            Some(one) => vec![one],
        };
        let sizes = services.map_or_else(|| SIZES[..if is_quick { 1 } else { 3 }].to_vec(), |one| vec![one]);
        let is_part = only.is_some() || services.is_some();
        Asked {
            backends,
            sizes,
            rows: !has("--connections"),
            connections: !is_quick && !is_part,
            all: has("--all"),
            whole: !is_quick && !is_part && !has("--connections"),
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let asked = Asked::read(&args);
    lab::own_user_namespace().expect("root, or a user namespace");
    let began = Instant::now();
    let rival = std::env::var_os("KUBE_PROXY").map(|path| Program::KubeProxy(path.into()));
    let programs: Vec<Program> = [Program::Bowlined].into_iter().chain(rival.clone()).collect();
    let mut rows: Vec<Vec<Row>> = Vec::new();
    for program in programs.iter().filter(|_| asked.rows) {
        rows.push(rows_of(program, &asked));
    }
    let connections = if asked.connections { connect(&programs) } else { Vec::new() };
    let machine = lab::readme::machine();
    let mut text = rows.first().map(|ours| report::alone(ours)).unwrap_or_default();
    text += &format!(
        "\n{}{machine}; {:.0} s in all.\n",
        report::connections(&connections),
        began.elapsed().as_secs_f64()
    );
    println!("\n{text}");
    if asked.whole {
        lab::readme::rewrite("bench-services", &text);
    } else {
        eprintln!("README.md keeps the figures of the last full run.");
    }
    if let [ours, theirs] = &rows[..] {
        let text = report::beside(ours, theirs);
        println!("{text}");
        if asked.whole {
            lab::readme::rewrite("bench-kube-proxy", &text);
        }
    }
}

fn rows_of(program: &Program, asked: &Asked) -> Vec<Row> {
    let mut rows = Vec::new();
    for backend in asked.backends.iter().copied() {
        for services in asked.sizes.iter().copied() {
            let is_long = backend != Backend::Nftables && services > IPTABLES_MOST && !asked.all;
            let figures = if is_long { Err("minutes: left out, `--all` has it") } else { Ok(()) };
            let figures = figures.map(|()| {
                let (stage, mut figures) = Stage::new(program, backend, services);
                stage.measure(&mut figures);
                figures
            });
            let row = Row { backend, services, figures };
            eprint!(
                "{}: {}",
                program.name(),
                report::alone(std::slice::from_ref(&row)).lines().last().unwrap_or_default()
            );
            eprintln!();
            rows.push(row);
        }
    }
    rows
}

/// Few Services and many, of all programs, in turn.
fn connect(programs: &[Program]) -> Vec<Connections> {
    let stages: Vec<Stage> = programs
        .iter()
        .flat_map(|program| APART.map(|services| Stage::new(program, Backend::Nftables, services).0))
        .collect();
    let mut took = latency::in_turn(&stages.iter().collect::<Vec<_>>()).into_iter();
    let pairs = programs.iter().map(|program| {
        let took = [took.next().unwrap_or_default(), took.next().unwrap_or_default()];
        Connections { program: program.name(), sizes: APART, took }
    });
    pairs.collect()
}
