//! inotify: when to look again.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::time::{Instant, timeout_at};

/// Changes that follow each other this quickly are one.
const QUIET: Duration = Duration::from_millis(20);
/// A change is acted upon after this long even if others keep coming.
const PATIENCE: Duration = Duration::from_millis(200);

/// Notices about a directory, and about its coming and going.
pub struct Notices {
    dir: PathBuf,
    stream: Option<(EventStream<[u8; 4096]>, Watches)>,
    /// The watch of the directory itself.
    own: Option<WatchDescriptor>,
    /// The nearest directory above it that exists, its watch, and which name in it leads here.
    above: Option<(WatchDescriptor, OsString)>,
    /// Files that somebody has begun to write and not closed yet.
    pub being_written: HashSet<OsString>,
    /// Why there are no notices.
    pub problem: Option<String>,
}

impl Notices {
    /// Asks the kernel for notices about `dir`.
    pub fn open(dir: &Path) -> Self {
        let opened = Inotify::init().and_then(|inotify| {
            let watches = inotify.watches();
            Ok((inotify.into_event_stream([0; 4096])?, watches))
        });
        let (stream, problem) = match opened {
            Ok(stream) => (Some(stream), None),
            Err(error) => {
                let what =
                    "no notices of changes, so it is read every second (fs.inotify.max_user_instances)";
                (None, Some(format!("{}: {what}: {error}", dir.display())))
            }
        };
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Notices { dir, stream, own: None, above: None, being_written: HashSet::new(), problem }
    }

    /// Watches the directory if it is there, and what is above it so that its coming is seen. Repeating it is free.
    pub fn watch(&mut self) {
        let Some((_, watches)) = &mut self.stream else { return };
        let inside = WatchMask::CREATE
            | WatchMask::MODIFY
            | WatchMask::CLOSE_WRITE
            | WatchMask::ATTRIB
            | WatchMask::MOVE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let own = watches.add(&self.dir, inside).ok();
        if let (Some(old), true) = (self.own.take(), own.is_none()) {
            // Moved away: what happens there is no longer ours. It is gone already if the directory was deleted.
            let _ = watches.remove(old);
        }
        self.own = own;
        let coming = WatchMask::CREATE | WatchMask::MOVE | WatchMask::DELETE | WatchMask::ONLYDIR;
        let mut steps = self.dir.ancestors();
        let mut below = steps.next();
        let mut found = None;
        for ancestor in steps {
            if let (Ok(watch), Some(name)) = (watches.add(ancestor, coming), below.and_then(Path::file_name))
            {
                found = Some((watch, name.to_owned()));
                break;
            }
            below = Some(ancestor);
        }
        if let Some((old, _)) = &self.above
            && found.as_ref().is_none_or(|(new, _)| new != old)
        {
            // Likewise gone already if that directory was deleted.
            let _ = watches.remove(old.clone());
        }
        self.above = found;
    }

    /// Waits for a change and for quiet after it; the names of the files that changed. Never returns without notices.
    pub async fn changed(&mut self) -> HashSet<OsString> {
        let mut names = HashSet::new();
        while !self.take_next(&mut names).await {}
        let last = Instant::now() + PATIENCE;
        loop {
            let quiet = last.min(Instant::now() + QUIET);
            if timeout_at(quiet, self.take_next(&mut names)).await.is_err() || Instant::now() >= last {
                return names;
            }
        }
    }

    /// Takes one notice; whether it is about the manifests.
    async fn take_next(&mut self, names: &mut HashSet<OsString>) -> bool {
        let Some((stream, _)) = &mut self.stream else { return std::future::pending().await };
        match stream.next().await {
            Some(Ok(event)) => self.take(event, names),
            Some(Err(_)) | None => {
                self.stream = None;
                self.problem = Some(format!(
                    "{}: notices of changes ended, so it is read every second",
                    self.dir.display()
                ));
                true
            }
        }
    }

    fn take(&mut self, event: EventOwned, names: &mut HashSet<OsString>) -> bool {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return true;
        }
        if self.own.as_ref() != Some(&event.wd) {
            let name = event.name.as_deref();
            return self
                .above
                .as_ref()
                .is_some_and(|(watch, leads)| *watch == event.wd && name == Some(leads.as_os_str()));
        }
        if let Some(name) = event.name {
            self.note_writing(&name, event.mask);
            names.insert(name);
        }
        true
    }

    fn note_writing(&mut self, name: &OsStr, mask: EventMask) {
        if mask.contains(EventMask::MODIFY) {
            self.being_written.insert(name.to_owned());
        } else if !mask.contains(EventMask::ATTRIB) {
            self.being_written.remove(name);
        }
    }
}
