//! A file system in memory for a machine that boots: an archive in the format that Linux unpacks ("newc" cpio).

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive being written; what lies above a file is made with it.
#[derive(Debug)]
pub struct Archive<W: Write> {
    to: W,
    names: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// An empty one, written to `to`.
    pub fn new(to: W) -> Self {
        Archive { to, names: BTreeSet::new() }
    }

    /// A directory, and those above it; a path that is there already stays as it is.
    ///
    /// # Errors
    /// When it cannot be written, as for all the others.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        let name = path.trim_matches('/');
        if name.is_empty() || self.names.contains(name) {
            return Ok(());
        }
        self.directory(name.rsplit_once('/').map_or("", |(above, _)| above))?;
        self.entry(name, DIRECTORY, b"")
    }

    /// A symbolic link to `to`.
    pub fn link(&mut self, path: &str, to: &str) -> io::Result<()> {
        self.placed(path, LINK, to.as_bytes())
    }

    /// An executable file with these bytes.
    pub fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.placed(path, PROGRAM, bytes)
    }

    /// The file at `path` of this machine, under the same path.
    pub fn copy(&mut self, path: &Path) -> io::Result<()> {
        let bytes = std::fs::read(path)
            .map_err(|e| io::Error::new(e.kind(), format!("read {}: {e}", path.display())))?;
        self.file(&path.display().to_string(), &bytes)
    }

    /// All below the directory `from` of this machine, as `to`.
    pub fn tree(&mut self, from: &Path, to: &str) -> io::Result<()> {
        self.directory(to)?;
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            let inner = format!("{to}/{}", entry.file_name().to_string_lossy());
            match entry.file_type()? {
                kind if kind.is_dir() => self.tree(&entry.path(), &inner)?,
                kind if kind.is_file() => self.file(&inner, &std::fs::read(entry.path())?)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, b"")?;
        self.to.flush()
    }

    fn placed(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let name = path.trim_matches('/');
        if self.names.contains(name) {
            return Ok(());
        }
        self.directory(name.rsplit_once('/').map_or("", |(above, _)| above))?;
        self.entry(name, mode, bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.names.insert(name.to_owned());
        let number = self.names.len();
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        // inode, mode, owner and group, links, time, size, four device numbers, length of the name, no checksum
        let header = format!(
            "070701{number:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{2:08x}{0:08x}",
            0,
            1,
            name.len() + 1
        );
        self.to.write_all(header.as_bytes())?;
        self.padded(&[name.as_bytes(), b"\0"].concat(), header.len())?;
        self.padded(bytes, 0)
    }

    /// Bytes that end on a multiple of four, `before` others having been written since the last one.
    fn padded(&mut self, bytes: &[u8], before: usize) -> io::Result<()> {
        self.to.write_all(bytes)?;
        let end = before + bytes.len();
        self.to.write_all(&[0; 3][..end.next_multiple_of(4) - end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// What Linux would unpack is what busybox lists.
    #[test]
    fn the_archive_is_read_by_others() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.file("/a/b/program", b"#!/bin/sh\n").unwrap();
        archive.link("/a/link", "b/program").unwrap();
        archive.directory("/a/empty").unwrap();
        archive.finish().unwrap();
        let mut cpio = Command::new("busybox");
        let cpio = cpio.args(["cpio", "-tv"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = cpio.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let names: Vec<&str> = said.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
        assert_eq!(names, ["a", "a/b", "a/b/program", "a/link", "a/empty"], "{said}");
        assert!(said.contains("a/link -> b/program"), "{said}");
    }
}
