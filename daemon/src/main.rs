//! `bowlined`: one per node.

fn main() {}
