//! host-local's lease directory under attack: other hands, crashes, reboots, full and read-only disks.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni::{Attachment, Code, ContainerId, IfName};
use plugins::host_local::lease::{Boot, Holder};
use plugins::host_local::range::{RangeSets, RawRange};
use plugins::host_local::store::Store;
use proptest::prelude::*;
use serde_json::{Value, json};

fn attachment(container_id: &str, ifname: &str) -> Attachment {
    Attachment {
        container_id: ContainerId::parse(container_id).expect("a container ID"),
        ifname: IfName::parse(ifname).expect("an interface name"),
    }
}

fn pod(n: usize) -> Attachment {
    attachment(&format!("pod{n}"), "eth0")
}

fn sets(ranges: Value) -> RangeSets {
    let raw: Vec<Vec<RawRange>> = cni::json::decode(&ranges).expect("well-formed ranges");
    RangeSets::parse(raw.iter().map(|set| ("ranges".to_owned(), set.as_slice()))).expect("valid ranges")
}

fn boot(machine: char, boot: u8) -> Option<Boot> {
    Boot::new(&machine.to_string().repeat(32), &format!("{boot:032}").chars().rev().collect::<String>())
}

/// A store in a temporary directory.
struct Lab {
    root: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Lab { root: tempfile::tempdir().expect("a temporary directory") }
    }

    fn store(&self, boot: Option<Boot>) -> Store {
        Store { dir: self.root.path().join("net"), index_root: self.root.path().join("index"), boot }
    }

    fn lease(&self, address: &str) -> PathBuf {
        self.root.path().join("net").join(address)
    }

    /// Leases as the directory has them.
    fn leases(&self) -> BTreeMap<IpAddr, Holder> {
        let entries = std::fs::read_dir(self.root.path().join("net")).into_iter().flatten();
        let named = entries.map(|e| e.expect("an entry").path());
        named
            .filter_map(|path| Some((path.file_name()?.to_str()?.parse().ok()?, path)))
            .map(|(address, path)| (address, Holder::parse(&std::fs::read(path).expect("read"))))
            .collect()
    }

    fn index_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.root.path().join("index")).into_iter().flatten();
        entries.map(|e| e.expect("an entry").path()).collect()
    }
}

fn add(store: &Store, who: &Attachment, sets: &RangeSets) -> cni::Result<Vec<String>> {
    let picks = store.reserve(who, sets, &[])?;
    Ok(picks.iter().map(|pick| pick.address.to_string()).collect())
}

#[test]
fn add_and_del_with_a_valid_index_read_no_other_lease() {
    let (lab, pool) = (Lab::new(), sets(json!([[{ "subnet": "10.0.0.0/16" }]])));
    let store = lab.store(boot('a', 1));
    for n in 0..100 {
        add(&store, &pod(n), &pool).expect("ADD");
    }
    // Changed in place, which no plug-in does and no stamp shows: whoever read these would see duplicates of pod100.
    for n in 0..100 {
        std::fs::write(lab.lease(&format!("10.0.0.{}", n + 2)), "pod100\r\neth0").expect("written");
    }
    assert_eq!(add(&store, &pod(100), &pool).expect("ADD"), ["10.0.0.102"]);
    assert_eq!(
        store.held_by(&pod(100)).expect("read"),
        ["10.0.0.102".parse::<IpAddr>().expect("an address")]
    );
    store.release(&pod(100)).expect("DEL");
    assert_eq!(lab.leases().len(), 100);
    std::fs::remove_file(&lab.index_files()[0]).expect("removed");
    assert_eq!(store.held_by(&pod(100)).expect("read").len(), 100, "without the index the files are read");
}

#[test]
fn index_that_is_stale_truncated_or_garbage_is_rebuilt() {
    let pool = sets(json!([[{ "subnet": "10.0.0.0/24" }]]));
    let garble: [fn(&Path); 4] = [
        |path| std::fs::write(path, "garbage").expect("written"),
        |path| std::fs::write(path, []).expect("written"),
        |path| {
            let mut bytes = std::fs::read(path).expect("read");
            bytes.truncate(bytes.len() - 3);
            std::fs::write(path, bytes).expect("written");
        },
        |path| {
            let mut bytes = std::fs::read(path).expect("read");
            let (header, records) = bytes.split_at_mut(512);
            assert!(!header.is_empty());
            records.reverse();
            std::fs::write(path, bytes).expect("written");
        },
    ];
    for garble in garble {
        let lab = Lab::new();
        let store = lab.store(boot('a', 1));
        add(&store, &pod(1), &pool).expect("ADD");
        add(&store, &pod(2), &pool).expect("ADD");
        garble(&lab.index_files()[0]);
        add(&store, &pod(1), &pool).expect_err("a duplicate");
        assert_eq!(add(&store, &pod(3), &pool).expect("ADD"), ["10.0.0.4"]);
        store.release(&pod(1)).expect("DEL");
        assert_eq!(lab.leases().len(), 2);
    }
}

#[test]
fn index_goes_with_the_last_lease_and_a_directory_wiped_meanwhile_is_no_trouble() {
    let (lab, pool) = (Lab::new(), sets(json!([[{ "subnet": "10.0.0.0/24" }]])));
    let store = lab.store(boot('a', 1));
    add(&store, &pod(1), &pool).expect("ADD");
    assert_eq!(lab.index_files().len(), 1);
    store.release(&pod(1)).expect("DEL");
    assert_eq!(lab.index_files().len(), 0);
    add(&store, &pod(1), &pool).expect("ADD");
    std::fs::remove_dir_all(lab.root.path().join("net")).expect("wiped");
    store.release(&pod(1)).expect("DEL of what is gone");
    assert_eq!(add(&store, &pod(1), &pool).expect("ADD"), ["10.0.0.2"]);
}

#[test]
fn index_of_a_directory_that_was_taken_away_goes_when_the_next_one_is_made() {
    let (lab, pool) = (Lab::new(), sets(json!([[{ "subnet": "10.0.0.0/24" }]])));
    let other = Store { dir: lab.root.path().join("other"), ..lab.store(boot('a', 1)) };
    let third = Store { dir: lab.root.path().join("third"), ..lab.store(boot('a', 1)) };
    for store in [&lab.store(boot('a', 1)), &other] {
        add(store, &pod(1), &pool).expect("ADD");
    }
    std::fs::write(lab.root.path().join("index/junk"), "junk").expect("written");
    std::fs::create_dir(&third.dir).expect("made while the other's inode is in use");
    std::fs::remove_dir_all(&other.dir).expect("taken away");
    add(&third, &pod(1), &pool).expect("ADD");
    assert_eq!(lab.index_files().len(), 2, "the first and the third: {:?}", lab.index_files());
    std::fs::write(lab.lease("10.0.0.2"), "pod2\r\neth0").expect("changed in place");
    assert_eq!(add(&lab.store(boot('a', 1)), &pod(2), &pool).expect("by the index"), ["10.0.0.3"]);
}

#[test]
fn empty_files_of_a_crash_are_reclaimed() {
    let (lab, pool) = (Lab::new(), sets(json!([[{ "subnet": "10.0.0.0/29" }]])));
    let store = lab.store(boot('a', 1));
    add(&store, &pod(1), &pool).expect("ADD");
    for n in 3..=6 {
        std::fs::write(lab.lease(&format!("10.0.0.{n}")), "").expect("written");
    }
    std::fs::write(lab.lease("unfinished"), "pod").expect("written");
    assert_eq!(add(&store, &pod(2), &pool).expect("ADD"), ["10.0.0.3"]);
    assert_eq!(lab.leases().len(), 2, "{:?}", lab.leases());
    assert!(!lab.lease("unfinished").exists());
}

#[test]
fn reboot_same_attachment_gets_its_old_address_and_a_full_pool_gives_stale_ones() {
    let (lab, pool) = (Lab::new(), sets(json!([[{ "subnet": "10.0.0.0/29" }]])));
    let before = lab.store(boot('a', 1));
    for n in 2..=5 {
        assert_eq!(add(&before, &pod(n), &pool).expect("ADD"), [format!("10.0.0.{n}")]);
    }
    add(&before, &pod(4), &pool).expect_err("a duplicate in the same boot");
    let after = lab.store(boot('a', 2));
    assert_eq!(add(&after, &pod(4), &pool).expect("its own again"), ["10.0.0.4"]);
    add(&after, &pod(4), &pool).expect_err("a duplicate in the new boot");
    assert_eq!(add(&after, &pod(10), &pool).expect("what is free comes first"), ["10.0.0.6"]);
    let mut reclaimed = Vec::new();
    for n in 11..=13 {
        after.ensure_available(&pool).expect("stale leases count as room");
        reclaimed.extend(add(&after, &pod(n), &pool).expect("a stale one"));
    }
    assert_eq!(reclaimed, ["10.0.0.2", "10.0.0.3", "10.0.0.5"]);
    let error = add(&after, &pod(14), &pool).expect_err("all are alive");
    assert!(error.msg.starts_with("no IP addresses available"), "{error}");
    after.ensure_available(&pool).expect_err("full");
}

#[test]
fn reboot_unprovable_leases_stay() {
    let pool = sets(json!([[{ "subnet": "10.0.0.0/30" }]]));
    for (case, made, found) in [
        ("another machine's", boot('a', 1), boot('b', 2)),
        ("boot unknown when found", boot('a', 1), None),
        ("boot unknown when made", None, boot('a', 2)),
        ("the same boot", boot('a', 1), boot('a', 1)),
    ] {
        let lab = Lab::new();
        add(&lab.store(made), &pod(1), &pool).expect("ADD");
        add(&lab.store(found.clone()), &pod(1), &pool).expect_err(case);
        add(&lab.store(found), &pod(2), &pool).expect_err(case);
        assert_eq!(lab.leases().len(), 1, "{case}");
    }
}

#[test]
fn reboot_lease_of_the_reference_is_stale_only_after_a_boot_in_which_it_was_seen() {
    let (lab, pool) = (Lab::new(), sets(json!([[{ "subnet": "10.0.0.0/30" }]])));
    std::fs::create_dir(lab.root.path().join("net")).expect("made");
    std::fs::write(lab.lease("10.0.0.2"), "pod1\r\neth0").expect("written");
    add(&lab.store(boot('a', 1)), &pod(1), &pool).expect_err("it may have been made a moment ago");
    add(&lab.store(boot('a', 1)), &pod(1), &pool).expect_err("still");
    assert_eq!(add(&lab.store(boot('a', 2)), &pod(1), &pool).expect("seen before"), ["10.0.0.2"]);
}

#[test]
fn add_that_fails_at_the_second_family_gives_the_first_back() {
    let (lab, pool) = (Lab::new(), sets(json!([[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "fd00::/64" }]])));
    let store = lab.store(boot('a', 1));
    add(&store, &pod(1), &pool).expect("ADD");
    std::fs::remove_file(lab.lease("last_reserved_ip.1")).expect("removed");
    std::fs::create_dir(lab.lease("last_reserved_ip.1")).expect("made");
    let error = add(&store, &pod(2), &pool).expect_err("the pointer can't be written");
    assert_eq!(error.code, Code::IO);
    assert_eq!(lab.leases().len(), 2, "{:?}", lab.leases());
    assert!(store.held_by(&pod(2)).expect("read").is_empty());
}

/// Runs `test` with a file system of 256 kB at the returned path, in a mount namespace of its own.
fn on_small_disk(test: impl FnOnce(&Path) + Send) {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: unshare takes flags; the thread is this test's own.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "run the tests as root");
            let dir = tempfile::tempdir().expect("a temporary directory");
            mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE, "");
            mount("tmpfs", dir.path(), "tmpfs", 0, "size=256k");
            test(dir.path());
            let path = CString::new(dir.path().to_str().expect("UTF-8")).expect("no NUL");
            // SAFETY: the string ends in NUL and outlives the call.
            assert_eq!(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }, 0);
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, options: &str) {
    let text = |text: &str| CString::new(text).expect("no NUL");
    let (source, target, kind) = (text(source), text(target.to_str().expect("UTF-8")), text(kind));
    let options = text(options);
    // SAFETY: all strings end in NUL and outlive the call.
    let status = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options.as_ptr().cast())
    };
    assert_eq!(status, 0, "mount {target:?}: {}", std::io::Error::last_os_error());
}

#[test]
fn full_disk_is_named_and_leaves_nothing_half_made() {
    on_small_disk(|disk| {
        let pool = sets(json!([[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "fd00::/64" }]]));
        let store = Store { dir: disk.join("net"), index_root: disk.join("index"), boot: boot('a', 1) };
        add(&store, &pod(1), &pool).expect("ADD");
        let listed = || {
            let entries = std::fs::read_dir(disk.join("net")).expect("listed");
            let mut names: Vec<_> = entries.map(|e| e.expect("an entry").file_name()).collect();
            names.sort();
            names
        };
        let before = listed();
        let mut filler = std::fs::File::create(disk.join("filler")).expect("created");
        let filled = std::io::copy(&mut std::io::repeat(7), &mut filler).expect_err("full");
        assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
        let error = add(&store, &pod(2), &pool).expect_err("no room");
        assert_eq!(error.code, Code::IO);
        assert!(error.msg.contains(disk.to_str().expect("UTF-8")), "{error}");
        assert!(error.msg.contains("No space left on device"), "{error}");
        assert_eq!(listed(), before);
        store.ensure_available(&pool).expect_err("STATUS knows");
        store.release(&pod(1)).expect("DEL needs no room");
        assert_eq!(listed().len(), 3, "the lock and two pointers: {:?}", listed());
    });
}

#[test]
fn read_only_disk_is_named_and_what_is_gone_can_still_be_deleted() {
    on_small_disk(|disk| {
        let pool = sets(json!([[{ "subnet": "10.0.0.0/24" }]]));
        let store = Store { dir: disk.join("net"), index_root: disk.join("index"), boot: boot('a', 1) };
        add(&store, &pod(1), &pool).expect("ADD");
        mount("none", disk, "", libc::MS_REMOUNT | libc::MS_RDONLY, "");
        for refused in
            [add(&store, &pod(2), &pool).map(drop), store.release(&pod(1)), store.ensure_available(&pool)]
        {
            let error = refused.expect_err("read-only");
            assert!(error.msg.contains("Read-only file system") && error.msg.contains("/net"), "{error}");
        }
        store.release(&pod(3)).expect("nothing to free");
        assert_eq!(store.held_by(&pod(1)).expect("CHECK").len(), 1);
        mount("none", disk, "", libc::MS_REMOUNT, "");
        store.release(&pod(1)).expect("DEL");
    });
}

/// What can happen to a directory between two operations, or in the midst of one.
#[derive(Debug, Clone)]
enum Event {
    Add(usize),
    Del(usize),
    /// All but these are dead.
    Gc(Vec<usize>),
    /// The reference adds or deletes, without the index's knowledge.
    ForeignAdd(usize),
    ForeignDel(usize),
    /// A crash after the first lease of two, before pointer and index.
    HalfAdd(usize),
    /// A crash of the reference between creating and writing a file.
    EmptyFile(u8),
    LoseIndex,
    TruncateIndex,
    Reboot,
}

fn event() -> impl Strategy<Value = Event> {
    let who = 0_usize..7;
    prop_oneof![
        6 => who.clone().prop_map(Event::Add),
        4 => who.clone().prop_map(Event::Del),
        1 => proptest::collection::vec(who.clone(), 0..5).prop_map(Event::Gc),
        2 => who.clone().prop_map(Event::ForeignAdd),
        2 => who.clone().prop_map(Event::ForeignDel),
        1 => who.prop_map(Event::HalfAdd),
        1 => (2_u8..7).prop_map(Event::EmptyFile),
        1 => Just(Event::LoseIndex),
        1 => Just(Event::TruncateIndex),
        1 => Just(Event::Reboot),
    ]
}

/// The directory beside what must be in it.
struct Model {
    lab: Lab,
    pool: RangeSets,
    boots: u8,
    /// Leases of each attachment: of both families, or of IPv4 alone after a crash; and the boot they were made in.
    held: BTreeMap<usize, (Vec<IpAddr>, u8)>,
}

impl Model {
    fn store(&self) -> Store {
        self.lab.store(boot('a', self.boots))
    }

    fn free(&self, v4: bool) -> Option<IpAddr> {
        let taken = self.lab.leases();
        let end = |n: u8| if v4 { format!("10.0.0.{n}") } else { format!("fd00::{n}") };
        (2..=6).map(|n| end(n).parse().expect("an address")).find(|address| !taken.contains_key(address))
    }

    fn write_foreign(&mut self, n: usize, families: &[bool]) {
        if self.held.contains_key(&n) {
            return;
        }
        let free: Option<Vec<IpAddr>> = families.iter().map(|v4| self.free(*v4)).collect();
        let Some(free) = free else { return };
        std::fs::create_dir_all(self.store().dir).expect("made");
        for address in &free {
            std::fs::write(self.lab.lease(&address.to_string()), format!("pod{n}\r\neth0")).expect("written");
        }
        self.held.insert(n, (free, self.boots));
    }

    fn step(&mut self, event: &Event) {
        let store = self.store();
        match event {
            Event::Add(n) => self.add(*n, &store),
            Event::Del(n) => {
                store.release(&pod(*n)).expect("DEL");
                self.held.remove(n);
            }
            Event::Gc(valid) => {
                store.retain(&valid.iter().map(|n| pod(*n)).collect::<Vec<_>>()).expect("GC");
                self.held.retain(|n, _| valid.contains(n));
            }
            Event::ForeignAdd(n) => self.write_foreign(*n, &[true, false]),
            Event::HalfAdd(n) => self.write_foreign(*n, &[true]),
            Event::ForeignDel(n) => {
                for address in self.held.remove(n).into_iter().flat_map(|(leases, _)| leases) {
                    std::fs::remove_file(self.lab.lease(&address.to_string())).expect("removed");
                }
            }
            Event::EmptyFile(n) => {
                let path = self.lab.lease(&format!("10.0.0.{n}"));
                if store.dir.exists() && !path.exists() {
                    std::fs::write(path, "").expect("written");
                }
            }
            Event::LoseIndex => {
                self.lab.index_files().iter().for_each(|f| std::fs::remove_file(f).expect("removed"))
            }
            Event::TruncateIndex => {
                for file in self.lab.index_files() {
                    let bytes = std::fs::read(&file).expect("read");
                    std::fs::write(file, &bytes[..bytes.len() / 2]).expect("written");
                }
            }
            Event::Reboot => {
                // What this boot has seen is of this boot: see to it that it has seen all.
                store.held_by(&pod(0)).expect("read");
                self.boots += 1;
            }
        }
    }

    fn add(&mut self, n: usize, store: &Store) {
        let before = self.held.get(&n).cloned();
        match store.reserve(&pod(n), &self.pool, &[]) {
            Ok(picks) => {
                let got: Vec<IpAddr> = picks.iter().map(|pick| pick.address).collect();
                if let Some((own, boot)) = before {
                    assert!(boot < self.boots, "a second ADD in one boot must fail");
                    assert!(
                        own.iter().all(|address| got.contains(address)),
                        "its old addresses: {own:?} {got:?}"
                    );
                }
                let boots = self.boots;
                for (leases, boot) in self.held.iter_mut().filter(|(m, _)| **m != n).map(|(_, held)| held) {
                    assert!(*boot < boots || !leases.iter().any(|a| got.contains(a)), "{got:?} was alive");
                    leases.retain(|address| !got.contains(address));
                }
                self.held.insert(n, (got, self.boots));
                self.held.retain(|_, (leases, _)| !leases.is_empty());
            }
            Err(error) if error.msg.starts_with("duplicate") => {
                assert!(before.is_some_and(|(_, boot)| boot == self.boots), "{error}");
            }
            Err(error) => {
                assert!(error.msg.starts_with("no IP addresses available"), "{error}");
                let now = |v4: bool| {
                    let alive = self.held.values().filter(|(_, boot)| *boot == self.boots);
                    alive.flat_map(|(leases, _)| leases).filter(|a| a.is_ipv4() == v4).count()
                };
                assert!(now(true) == 5 || now(false) == 5, "{error}: {:?}", self.held);
            }
        }
    }

    /// The directory holds exactly the model's leases, and the index says what the directory says.
    fn verify(&self) {
        let expected: BTreeMap<IpAddr, Holder> = self
            .held
            .iter()
            .flat_map(|(n, (leases, _))| leases.iter().map(move |a| (*a, Holder::from(&pod(*n)))))
            .collect();
        let mut found = self.lab.leases();
        found.retain(|_, holder| *holder != Holder::Nobody);
        assert_eq!(found, expected);
        let blind = Store { index_root: "/dev/null/none".into(), ..self.store() };
        for n in 0..7 {
            let sorted = |store: &Store| {
                let mut held = store.held_by(&pod(n)).expect("read");
                held.sort();
                held
            };
            assert_eq!(sorted(&self.store()), sorted(&blind), "pod{n}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// No address leased twice, none lost, DEL undoes ADD, the index equals the directory: whatever happens.
    #[test]
    fn any_history_keeps_directory_index_and_model_equal(events in proptest::collection::vec(event(), 1..40)) {
        let pool = sets(json!([[{ "subnet": "10.0.0.0/29" }], [{ "subnet": "fd00::/64", "rangeEnd": "fd00::6" }]]));
        let mut model = Model { lab: Lab::new(), pool, boots: 1, held: BTreeMap::new() };
        for event in &events {
            model.step(event);
            model.verify();
        }
    }

    #[test]
    fn del_undoes_add(others in 0_usize..5, requested in proptest::option::of(2_u8..7)) {
        let (lab, pool) = (Lab::new(), sets(json!([[{ "subnet": "10.0.0.0/29" }]])));
        let store = lab.store(boot('a', 1));
        for n in 0..others {
            add(&store, &pod(n), &pool).expect("ADD");
        }
        let before = lab.leases();
        let requested: Vec<IpAddr> = requested.iter().map(|n| IpAddr::from([10, 0, 0, *n])).collect();
        let _ = store.reserve(&pod(9), &pool, &requested);
        store.release(&pod(9)).expect("DEL");
        prop_assert_eq!(lab.leases(), before);
    }

    #[test]
    fn no_lease_content_panics_and_every_holder_survives_its_content(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        id in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,70}",
        ifname in "[a-z0-9.]{1,15}",
    ) {
        let _ = Holder::parse(&bytes);
        let holder = Holder::Attachment { container_id: id, ifname };
        let mut padded = b" \n".to_vec();
        padded.extend(holder.content());
        padded.extend(b"\r\n");
        prop_assert_eq!(Holder::parse(&padded), holder);
    }
}
