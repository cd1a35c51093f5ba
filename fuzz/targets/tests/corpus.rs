//! Every target over its committed corpus, as it is and mutilated: fuzzing for those who have no fuzzer.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use targets::TARGETS;

/// The folder is `fuzz/corpus/NAME`; one file is one input.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

#[derive(Debug, Clone)]
enum Mutation {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index, usize),
    Repeat(Index, usize),
    Splice(Index, Index, Index),
    Word(Index, &'static str),
}

/// Words that the readers know, so that mutations reach deep.
const WORDS: [&str; 14] = [
    "null",
    "true",
    "-1",
    "0",
    "1e9",
    "18446744073709551616",
    "\"\"",
    "{}",
    "[]",
    "\"10.1.0.2/24\"",
    "\"fd00::1\"",
    "\"1.1.0\"",
    "\"cniVersion\":\"0.2.0\",",
    "IgnoreUnknown=1;",
];

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, with)| Mutation::Replace(at, with)),
        (at(), any::<u8>()).prop_map(|(at, with)| Mutation::Insert(at, with)),
        (at(), 1..16usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        (at(), 1..64usize).prop_map(|(at, count)| Mutation::Repeat(at, count)),
        (at(), at(), at()).prop_map(|(file, from, at)| Mutation::Splice(file, from, at)),
        (at(), prop::sample::select(WORDS.to_vec())).prop_map(|(at, word)| Mutation::Word(at, word)),
    ]
}

fn mutilate(bytes: &mut Vec<u8>, mutation: &Mutation, corpus: &[Vec<u8>]) {
    let length = bytes.len();
    let place = |index: &Index| index.index(length + 1);
    match mutation {
        Mutation::Replace(at, with) if length > 0 => bytes[at.index(length)] = *with,
        Mutation::Replace(_, with) => bytes.push(*with),
        Mutation::Insert(at, with) => bytes.insert(place(at), *with),
        Mutation::Remove(at, count) => {
            let from = place(at);
            bytes.drain(from..(from + count).min(length));
        }
        Mutation::Repeat(at, count) => {
            let from = place(at);
            let again = bytes[from..(from + count).min(length)].to_vec();
            bytes.splice(from..from, again);
        }
        Mutation::Splice(file, from, at) => {
            let other = file.get(corpus);
            let piece = other[from.index(other.len() + 1)..].to_vec();
            let at = place(at);
            bytes.splice(at.., piece);
        }
        Mutation::Word(at, word) => {
            let at = place(at);
            bytes.splice(at..at, word.bytes());
        }
    }
}

#[test]
fn every_target_survives_its_corpus() {
    for (name, target) in TARGETS {
        for input in corpus(name) {
            target(&input);
            for cut in 0..input.len() {
                target(&input[..cut]);
            }
        }
    }
}

#[test]
fn every_target_survives_mutilation() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
        let inputs = (any::<Index>(), prop::collection::vec(mutation(), 1..8));
        proptest!(config, |((file, mutations) in inputs)| {
            let mut bytes = file.get(&corpus).clone();
            for mutation in &mutations {
                mutilate(&mut bytes, mutation, &corpus);
            }
            target(&bytes);
        });
    }
}
