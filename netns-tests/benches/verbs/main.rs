//! `make bench`: ADD and DEL of the chain and of each plug-in alone, beside the reference plug-ins in the same run.
//!
//! Each suite has a node of its own (network namespace, mounts); samples alternate between the two, so that whatever
//! else the machine does hits both. A sample is one ADD and one DEL, timed from before each program is started until
//! it has ended, as a runtime sees it. "The n-th pod" means that n - 1 pods of the chain are on the node.

mod contestant;
mod report;
mod runner;

use std::time::{Duration, Instant};

use contestant::{CHAIN, Contestant, Course};
use lab::Subject;
use report::{Cell, Figures};

/// How many samples make a row: of the chain, of a plug-in alone.
struct Effort {
    chain: usize,
    alone: usize,
    /// A row ends early after this long, but not before [`LEAST`] samples.
    patience: [Duration; 2],
}

const LEAST: usize = 5;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == runner::FLAG) {
        return runner::serve();
    }
    let quick = args.iter().any(|a| a == "--quick");
    let effort = if quick {
        Effort { chain: 10, alone: 5, patience: [10, 5].map(Duration::from_secs) }
    } else {
        Effort { chain: 100, alone: 30, patience: [45, 12].map(Duration::from_secs) }
    };
    lab::own_user_namespace().expect("root, or a user namespace");
    raise_descriptor_limit();
    let started = Instant::now();
    // Against itself: how far two equals are apart on this machine, without the minutes that the reference takes.
    let rival = match args.iter().any(|a| a == "--itself") {
        true => ("bowline again", Subject::bowline()),
        false => ("reference", Subject::reference()),
    };
    let mut suites = [Contestant::new("bowline", Subject::bowline()), Contestant::new(rival.0, rival.1)];
    let mut courses = Course::all();
    // One row or one size while working on it: for the screen only.
    let option = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1));
    let (only, pods) = (option("--only"), option("--pods"));
    if let Some(only) = only {
        courses.retain(|course| course.name == only.as_str());
    }
    let mut sizes = if quick { vec![1, 100] } else { vec![1, 100, 1000] };
    if let Some(pods) = pods {
        sizes = vec![pods.parse().expect("--pods takes a number of at least 1")];
    }
    let mut figures = Figures::new(&suites, &courses);
    for nth in &sizes {
        for suite in &mut suites {
            let began = Instant::now();
            suite.fill(nth - 1);
            eprintln!("{} pods by {}: {:.1} s", nth - 1, suite.name, began.elapsed().as_secs_f64());
        }
        for course in &courses {
            let (samples, patience) = match course.name {
                CHAIN => (effort.chain, effort.patience[0]),
                _ => (effort.alone, effort.patience[1]),
            };
            figures.record(*nth, course.name, row(&suites, course, samples, patience));
        }
    }
    let report = figures.report(started.elapsed());
    println!("{report}");
    if quick || only.is_some() || pods.is_some() || suites[1].name != "reference" {
        eprintln!("README.md keeps the figures of the last full run.");
    } else {
        lab::readme::rewrite("bench", &report);
    }
    // The namespaces of two thousand pods end with this process.
}

/// ADD and DEL of one course for both suites, in turn.
fn row(suites: &[Contestant; 2], course: &Course, samples: usize, patience: Duration) -> [Cell; 2] {
    let mut cells = [Cell::default(), Cell::default()];
    // The first run on a node makes what the network's attachments share.
    for suite in suites {
        suite.sample(course);
    }
    let deadline = Instant::now() + patience;
    for n in 0..samples {
        if n >= LEAST && Instant::now() > deadline {
            break;
        }
        for (suite, cell) in suites.iter().zip(&mut cells) {
            let (add, del) = suite.sample(course);
            cell.add.push(add);
            cell.del.push(del);
        }
    }
    for (suite, cell) in suites.iter().zip(&mut cells) {
        cell.peak_kib = (0..3).map(|_| suite.weigh(course)).max().unwrap_or(0);
    }
    eprintln!("{}", report::line(course.name, &cells));
    cells
}

/// Two descriptors for each of two thousand sandboxes.
fn raise_descriptor_limit() {
    let limit = libc::rlimit { rlim_cur: 16_384, rlim_max: 16_384 };
    // SAFETY: setrlimit reads the struct it is given.
    let failed = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    if failed != 0 {
        eprintln!("cannot raise the limit of open files; a thousand pods may be too many");
    }
}
