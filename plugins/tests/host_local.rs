//! host-local through the dispatcher: what it prints and what it leaves on disk; and beside the reference's binary on
//! the same directory.

mod ipam;

use std::path::{Path, PathBuf};

use ipam::{Network, REFERENCE, Request, addresses};
use plugins::host_local::HostLocal;
use serde_json::{Value, json};

fn dual() -> Network {
    Network::with_version("1.0.0", json!([[{ "subnet": "10.1.2.0/24" }], [{ "subnet": "2001:db8:1::/64" }]]))
}

fn small() -> Network {
    Network::new(json!([[{ "subnet": "10.1.2.0/29" }]]))
}

/// Any file of a multi-call binary, under the name that makes it host-local.
fn ours() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let program = dir.path().join("host-local");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_bowline-cni"), &program).expect("linked");
    (dir, program)
}

#[test]
fn add_del_two_families_exact_files_and_empty_directory_after() {
    let net = dual();
    let mut add = Request::new("ADD", "dummy", &net.conf);
    add.conf["ipam"]["routes"] =
        json!([{ "dst": "0.0.0.0/0" }, { "dst": "192.168.0.0/16", "gw": "1.1.1.1" }]);
    let result = add.serve(&HostLocal).expect("ADD");
    assert_eq!(
        result["ips"],
        json!([
            { "address": "10.1.2.2/24", "gateway": "10.1.2.1" },
            { "address": "2001:db8:1::2/64", "gateway": "2001:db8:1::1" },
        ])
    );
    assert_eq!(result["routes"], add.conf["ipam"]["routes"]);
    let expected = [
        ("10.1.2.2", "dummy\r\neth0"),
        ("2001:db8:1::2", "dummy\r\neth0"),
        ("last_reserved_ip.0", "10.1.2.2"),
        ("last_reserved_ip.1", "2001:db8:1::2"),
    ];
    let files = net.files();
    assert_eq!(files.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect::<Vec<_>>(), expected);
    Request::new("DEL", "dummy", &net.conf).serve(&HostLocal).expect("DEL");
    assert_eq!(net.files().into_keys().collect::<Vec<_>>(), ["last_reserved_ip.0", "last_reserved_ip.1"]);
}

#[test]
fn two_ifnames_of_one_container_have_separate_addresses() {
    let net = small();
    let eth0 = Request::new("ADD", "dummy", &net.conf);
    let eth1 = Request { ifname: "eth1", ..eth0.clone() };
    assert_eq!(addresses(&eth0.serve(&HostLocal).expect("ADD")), ["10.1.2.2"]);
    assert_eq!(addresses(&eth1.serve(&HostLocal).expect("ADD")), ["10.1.2.3"]);
    Request { verb: "DEL", ..eth0.clone() }.serve(&HostLocal).expect("DEL");
    assert_eq!(net.leased(), ["10.1.2.3"]);
    Request { verb: "CHECK", ..eth1 }.serve(&HostLocal).expect("eth1 is still there");
    Request { verb: "CHECK", ..eth0 }.serve(&HostLocal).expect_err("eth0 is not");
}

#[test]
fn repeat_add_is_an_error_and_keeps_the_first_lease() {
    let net = dual();
    let add = Request::new("ADD", "dummy", &net.conf);
    add.serve(&HostLocal).expect("ADD");
    let before = net.files();
    let error = add.serve(&HostLocal).expect_err("a repeated ADD");
    assert!(error["msg"].as_str().expect("text").contains("duplicate allocation"), "{error}");
    assert_eq!(net.files(), before);
}

#[test]
fn old_format_del_frees_a_file_with_only_the_container_id() {
    let net = small();
    Request::new("ADD", "other", &net.conf).serve(&HostLocal).expect("ADD");
    std::fs::write(net.leases().join("10.1.2.5"), "dummy").expect("written");
    Request::new("CHECK", "dummy", &net.conf).serve(&HostLocal).expect("an old lease is a lease");
    let again = Request::new("ADD", "dummy", &net.conf).serve(&HostLocal).expect_err("it holds one");
    assert!(again["msg"].as_str().expect("text").contains("10.1.2.5"), "{again}");
    Request::new("DEL", "dummy", &net.conf).serve(&HostLocal).expect("DEL");
    assert_eq!(net.leased(), ["10.1.2.2"]);
}

#[test]
fn unknown_del_succeeds_whitespace_is_ignored_and_stderr_stays_empty() {
    let net = small();
    // Every call of this file asserts that stderr stays empty.
    Request::new("DEL", "nobody", &net.conf).serve(&HostLocal).expect("DEL before the first ADD");
    assert!(!net.leases().exists(), "DEL makes no directory");
    Request::new("ADD", "other", &net.conf).serve(&HostLocal).expect("ADD");
    std::fs::write(net.leases().join("10.1.2.5"), " \n dummy\r\neth0\r\n \n").expect("written");
    Request::new("CHECK", "dummy", &net.conf).serve(&HostLocal).expect("found");
    Request::new("DEL", "dummy", &net.conf).serve(&HostLocal).expect("DEL");
    Request::new("DEL", "dummy", &net.conf).serve(&HostLocal).expect("DEL again");
    assert_eq!(net.leased(), ["10.1.2.2"]);
}

#[test]
fn custom_ip_by_cni_args_by_args_and_by_runtime_config() {
    let ranges = json!([
        [{ "subnet": "10.1.2.0/24" }, { "subnet": "10.1.3.0/24" }],
        [{ "subnet": "2001:db8:1::/64" }],
    ]);
    let ask = |args: &str, listed: Value, runtime: Value| {
        let net = Network::new(ranges.clone());
        let mut add = Request { args, ..Request::new("ADD", "dummy", &net.conf) };
        add.conf["args"] = json!({ "cni": { "ips": listed } });
        add.conf["runtimeConfig"] = json!({ "ips": runtime });
        let answer = add.serve(&HostLocal);
        if answer.is_err() {
            assert_eq!(net.leased(), [""; 0], "a refused ADD leaves nothing");
        }
        answer
            .map(|result| addresses(&result))
            .map_err(|error| error["msg"].as_str().expect("text").to_owned())
    };
    let both = |v4: &str, v6: &str| Ok(vec![v4.to_owned(), v6.to_owned()]);
    assert_eq!(ask("IP=10.1.2.88", json!([]), json!([])), both("10.1.2.88", "2001:db8:1::2"));
    assert_eq!(ask("", json!(["10.1.3.7", "2001:db8:1::99"]), json!([])), both("10.1.3.7", "2001:db8:1::99"));
    assert_eq!(
        ask("", json!([]), json!(["10.1.2.7/24", "2001:db8:1::7/64"])),
        both("10.1.2.7", "2001:db8:1::7")
    );
    let unused = ask("IP=10.1.2.88", json!(["10.1.3.7"]), json!([])).expect_err("two of one set");
    assert!(unused.starts_with("requested addresses left over: 10.1.3.7"), "{unused}");
    let outside = ask("", json!([]), json!(["192.0.2.1"])).expect_err("in no set");
    assert!(outside.starts_with("requested addresses left over: 192.0.2.1"), "{outside}");
}

#[test]
fn exhausted_pool_refuses_and_leaves_the_other_family_alone() {
    let net = Network::new(json!([[{ "subnet": "2001:db8:1::/64" }], [{ "subnet": "10.1.2.0/30" }]]));
    Request::new("ADD", "one", &net.conf).serve(&HostLocal).expect("the only IPv4 address");
    let error = Request::new("ADD", "two", &net.conf).serve(&HostLocal).expect_err("full");
    assert_eq!(error["msg"], "no IP addresses available in range set: 10.1.2.1-10.1.2.2");
    assert_eq!(net.leased(), ["10.1.2.2", "2001:db8:1::2"]);
    let status = Request::new("STATUS", "", &net.conf).serve(&HostLocal).expect_err("full");
    assert_eq!((&status["code"], &status["msg"]), (&json!(50), &error["msg"]));
    Request::new("DEL", "one", &net.conf).serve(&HostLocal).expect("DEL");
    Request::new("STATUS", "", &net.conf).serve(&HostLocal).expect("room again");
    Request::new("ADD", "two", &net.conf).serve(&HostLocal).expect("ADD");
}

#[test]
fn freed_addresses_come_back_last() {
    let net = small();
    let mut given = Vec::new();
    for id in ["a", "b", "c", "d", "e", "f", "g"] {
        given.extend(addresses(&Request::new("ADD", id, &net.conf).serve(&HostLocal).expect("ADD")));
        Request::new("DEL", id, &net.conf).serve(&HostLocal).expect("DEL");
    }
    let expected = [2, 3, 4, 5, 6, 2, 3].map(|n| format!("10.1.2.{n}"));
    assert_eq!(given, expected);
}

#[test]
fn resolv_conf_becomes_dns() {
    let net = small();
    let file = net.leases().with_extension("resolv");
    std::fs::write(&file, "nameserver 192.0.2.3\nsearch a.test\n").expect("written");
    let mut add = Request::new("ADD", "dummy", &net.conf);
    add.conf["ipam"]["resolvConf"] = json!(file);
    let result = add.serve(&HostLocal).expect("ADD");
    assert_eq!(result["dns"], json!({ "nameservers": ["192.0.2.3"], "search": ["a.test"] }));
    std::fs::remove_file(&file).expect("removed");
    let error = Request { container_id: "two", ..add }.serve(&HostLocal).expect_err("the file is gone");
    assert!(error["msg"].as_str().expect("text").starts_with("ipam.resolvConf: read "), "{error}");
    assert_eq!(net.leased(), ["10.1.2.2"], "nothing was leased");
}

#[test]
fn del_matrix_bad_ranges_do_not_keep_a_lease() {
    let net = small();
    Request::new("ADD", "dummy", &net.conf).serve(&HostLocal).expect("ADD");
    let mut del = Request { args: "nonsense", ..Request::new("DEL", "dummy", &net.conf) };
    del.conf["ipam"]["ranges"] = json!([[{ "subnet": "10.1.2.77/24" }], 5]);
    del.conf["runtimeConfig"] = json!("what");
    del.serve(&HostLocal).expect("DEL");
    assert_eq!(net.leased(), [""; 0]);
    del.conf["ipam"]["dataDir"] = json!(5);
    let error = del.serve(&HostLocal).expect_err("where would the lease be?");
    assert!(error["msg"].as_str().expect("text").contains("ipam.dataDir: 5 is not a string"), "{error}");
}

#[test]
fn check_wants_the_exact_lease_of_every_address_of_prev_result() {
    let net = dual();
    let mut check = Request::new("CHECK", "dummy", &net.conf);
    check.conf["prevResult"] = Request::new("ADD", "dummy", &net.conf).serve(&HostLocal).expect("ADD");
    check.serve(&HostLocal).expect("right after ADD");
    let mut foreign = check.clone();
    foreign.conf["prevResult"]["interfaces"] = json!([{ "name": "net1", "sandbox": "/x" }]);
    let ips = foreign.conf["prevResult"]["ips"].as_array_mut().expect("a list");
    ips.push(json!({ "address": "10.1.2.200/24", "interface": 0 }));
    ips.push(json!({ "address": "192.0.2.9/24" }));
    foreign.serve(&HostLocal).expect("addresses of others are none of ours");
    std::fs::remove_file(net.leases().join("2001:db8:1::2")).expect("removed");
    let error = check.serve(&HostLocal).expect_err("one lease of two is gone");
    assert!(error["msg"].as_str().expect("text").contains("2001:db8:1::2 in "), "{error}");
    std::fs::write(net.leases().join("2001:db8:1::2"), "thief\r\neth0").expect("written");
    check.serve(&HostLocal).expect_err("somebody else's lease is not ours");
}

#[test]
fn gc_matrix_keeps_valid_leases_unreadable_records_and_other_networks() {
    let net = small();
    for id in ["keep", "drop"] {
        Request::new("ADD", id, &net.conf).serve(&HostLocal).expect("ADD");
    }
    let other = Request::new("ADD", "drop", &net.conf);
    let other = Request {
        conf: {
            let mut c = other.conf.clone();
            c["name"] = json!("other");
            c
        },
        ..other
    };
    other.serve(&HostLocal).expect("ADD");
    let write =
        |name: &str, content: &str| std::fs::write(net.leases().join(name), content).expect("written");
    write("10.1.2.4", "keep");
    write("10.1.2.5", "old-drop");
    write("10.1.2.6", "");
    write("10.1.2.99", "three\r\nlines\r\nhere");
    write("notes.txt", "drop\r\neth0");
    let gc = |valid: Option<Value>| {
        let mut request = Request::new("GC", "", &net.conf);
        if let Some(valid) = valid {
            request.conf["cni.dev/valid-attachments"] = valid;
        }
        request.serve(&HostLocal).expect("GC");
    };
    gc(None);
    assert_eq!(net.leased().len(), 6, "an absent list says nothing");
    gc(Some(json!([{ "containerID": "keep", "ifname": "eth0" }])));
    assert_eq!(net.leased(), ["10.1.2.2", "10.1.2.4", "10.1.2.99"]);
    gc(Some(json!([])));
    assert_eq!(net.leased(), ["10.1.2.99"]);
    assert!(net.files().contains_key("notes.txt") && net.files().contains_key("last_reserved_ip.0"));
    assert!(net.leases().with_file_name("other").join("10.1.2.2").exists());
    Request { verb: "DEL", ..other }.serve(&HostLocal).expect("DEL");
}

/// `n`th of four hands, by turns the reference's and ours; all must see one state.
fn hand(n: usize, program: &Path, request: &Request<'_>) -> Result<Value, Value> {
    match n % 3 {
        0 => request.exec(Path::new(REFERENCE)),
        1 => request.serve(&HostLocal),
        _ => request.exec(program),
    }
}

#[test]
fn mixed_fleet_reference_and_ours_take_turns_on_one_directory() {
    let (_dir, program) = ours();
    let net = dual();
    let ids: Vec<String> = (0..24).map(|n| format!("pod{n}")).collect();
    let mut results = Vec::new();
    for (n, id) in ids.iter().enumerate() {
        let result = hand(n, &program, &Request::new("ADD", id, &net.conf)).expect("ADD");
        assert_eq!(addresses(&result), [format!("10.1.2.{}", n + 2), format!("2001:db8:1::{:x}", n + 2)]);
        results.push(result);
    }
    for (n, id) in ids.iter().enumerate() {
        for shift in 0..3 {
            let mut check = Request::new("CHECK", id, &net.conf);
            check.conf["prevResult"] = results[n].clone();
            hand(n + shift, &program, &check).expect("every hand finds the lease");
            let again =
                hand(n + shift, &program, &Request::new("ADD", id, &net.conf)).expect_err("it has one");
            assert!(again["msg"].as_str().expect("text").contains("duplicate allocation"), "{again}");
        }
    }
    for (n, id) in ids.iter().enumerate() {
        hand(n + 1, &program, &Request::new("DEL", id, &net.conf)).expect("DEL");
        assert_eq!(net.leased().len(), 2 * (ids.len() - n - 1), "{id}");
    }
}

#[test]
fn parallel_200_adds_then_dels_by_ours_and_the_reference_no_address_twice() {
    let (_dir, program) = ours();
    let net = dual();
    let ids: Vec<String> = (0..200).map(|n| format!("pod{n}")).collect();
    let all = |verb: &str| -> Vec<Value> {
        std::thread::scope(|scope| {
            let calls = ids.iter().enumerate().map(|(n, id)| {
                let (net, program) = (&net, &program);
                // One in ten by each binary: starting two hundred processes would measure the scheduler.
                let hand_of = if n % 10 == 0 {
                    0
                } else if n % 10 == 5 {
                    2
                } else {
                    1
                };
                scope.spawn(move || {
                    hand(hand_of, program, &Request::new(verb, id, &net.conf)).expect("success")
                })
            });
            let calls: Vec<_> = calls.collect();
            calls.into_iter().map(|call| call.join().expect("no panic")).collect()
        })
    };
    let mut given: Vec<String> = all("ADD").iter().flat_map(addresses).collect();
    given.sort();
    assert_eq!(given, net.leased(), "every address given is leased, once");
    assert_eq!(given.len(), 400);
    all("DEL");
    assert_eq!(net.leased(), [""; 0]);
}

#[test]
fn lock_works_on_a_file_and_on_a_directory() {
    use plugins::host_local::store::flock;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    for (path, locked) in [(file.as_path(), "file"), (dir.path(), "lock")] {
        let held = flock(path).expect("locked");
        let probe = std::fs::File::open(dir.path().join(locked)).expect("the lock's file");
        assert!(probe.try_lock().is_err(), "{locked} is locked");
        drop(held);
        probe.try_lock().expect("free again");
    }
}

#[test]
fn data_dir_that_cannot_be_is_named_with_its_key() {
    let net = small();
    let file = net.leases().with_file_name("file");
    std::fs::write(&file, "").expect("written");
    let mut add = Request::new("ADD", "dummy", &net.conf);
    add.conf["ipam"]["dataDir"] = json!(file);
    let error = add.serve(&HostLocal).expect_err("a file is no directory");
    let expected = format!("ipam.dataDir: create lease directory {}/net: ", file.display());
    assert!(error["msg"].as_str().expect("text").starts_with(&expected), "{error}");
    assert_eq!(error["code"], 5);
    let status = Request { verb: "STATUS", ..add.clone() }.serve(&HostLocal).expect_err("no directory");
    assert_eq!(status["code"], 50);
    Request { verb: "DEL", ..add }.serve(&HostLocal).expect("nothing can be leased there");
}
