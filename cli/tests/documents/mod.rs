//! Documents, taken apart.

use std::path::{Path, PathBuf};

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What stands behind its fence.
    pub kind: String,
    /// What is in it, without the indentation of its fence.
    pub text: String,
}

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository is there")
}

/// A file of the repository.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every fenced block.
pub fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for line in document.lines() {
        let fence = line.trim_start().strip_prefix("```");
        match (fence, &mut open) {
            (Some(kind), None) => {
                let indent = line.len() - line.trim_start().len();
                open = Some((indent, Block { kind: kind.to_owned(), text: String::new() }));
            }
            (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
            (None, Some((indent, block))) => {
                block.text.push_str(line.get(*indent..).unwrap_or_default());
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    blocks
}

/// What should be seen after the block at `index`.
pub fn sees(blocks: &[Block], index: usize) -> Vec<String> {
    let next = blocks.get(index + 1).filter(|block| block.kind == "text sees");
    next.map(|block| block.text.lines().map(str::to_owned).collect()).unwrap_or_default()
}

/// The first of `expected` that no line of `said` is like; `...` stands for anything.
pub fn all_of(said: &str, expected: &[String]) -> Option<String> {
    let is_like = |line: &str, wanted: &str| {
        let mut parts = wanted.split("...");
        let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
        let mut is_open = false;
        for part in parts {
            is_open = true;
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.is_empty() || is_open && wanted.ends_with("...")
    };
    expected.iter().find(|wanted| !said.lines().any(|line| is_like(line, wanted))).cloned()
}

/// The commands of a block, one to a line; what is written into files is none.
pub fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut is_document = false;
    for line in text.lines() {
        match is_document {
            true => is_document = line != "EOF",
            false => {
                is_document = line.contains("<<'EOF'");
                found.extend(line.split(" | ").map(|part| part.trim().to_owned()));
            }
        }
    }
    found
}

/// What stands between single backticks outside blocks.
pub fn inline(document: &str) -> Vec<String> {
    let mut is_block = false;
    let outside = document.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_block ^= is_fence;
        !is_block && !is_fence
    });
    let text = outside.collect::<Vec<_>>().join("\n");
    text.split('`').skip(1).step_by(2).map(|code| code.replace('\n', " ")).collect()
}
