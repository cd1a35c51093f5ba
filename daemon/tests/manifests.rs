//! A directory of manifests as a source: what editors, `kubectl`, configuration tools and kubelets do to files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use daemon::source::{Feed, SourceState, manifests};

/// Long enough for a busy machine, shorter than the audit that finds changes without notices.
const DEADLINE: Duration = Duration::from_secs(8);

fn node(name: &str, cidr: &str) -> String {
    format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDR: {cidr}}}\n")
}

/// Waits until the nodes are these, as `name=cidr`.
async fn nodes_are(feed: &mut Feed, expected: &[&str]) {
    let mut seen = Vec::new();
    let arrived = tokio::time::timeout(DEADLINE, async {
        loop {
            let objects = feed.objects.borrow_and_update().clone();
            if let Some(objects) = objects {
                seen = objects.nodes.values().map(|n| format!("{}={}", n.name, n.pod_cidrs[0])).collect();
                if seen == expected {
                    return;
                }
            }
            feed.objects.changed().await.expect("the source lives");
        }
    });
    let arrived = arrived.await;
    assert!(arrived.is_ok(), "waited for {expected:?}, have {seen:?}; {:?}", feed.state.borrow());
}

/// Waits for a state.
async fn state_is(feed: &mut Feed, what: &str, is: impl FnMut(&SourceState) -> bool) -> SourceState {
    let waited = tokio::time::timeout(DEADLINE, feed.state.wait_for(is)).await;
    let found = waited.map(|state| state.expect("the source lives").clone());
    found.unwrap_or_else(|_| panic!("waited for {what}: {:?}", feed.state.borrow()))
}

async fn problem_is(feed: &mut Feed, problem: &str) {
    state_is(feed, problem, |state| state.problems == [problem]).await;
}

async fn no_problem(feed: &mut Feed) {
    state_is(feed, "no problem", |state| state.is_connected && state.problems.is_empty()).await;
}

/// As tools replace a file: written beside it, renamed over it.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("tmp");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

#[tokio::test]
async fn files_come_change_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.yaml"), dir.path().join("b.json"));
    let mut feed = manifests::run(dir.path().to_owned());
    nodes_are(&mut feed, &[]).await;
    assert!(feed.state.borrow().is_connected);
    fs::write(&a, node("a", "10.1.0.0/24") + &node("aa", "10.2.0.0/24")).unwrap();
    nodes_are(&mut feed, &["a=10.1.0.0/24", "aa=10.2.0.0/24"]).await;
    fs::write(&b, r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "b"}, "spec": {"podCIDR": "10.3.0.0/24"}}"#).unwrap();
    nodes_are(&mut feed, &["a=10.1.0.0/24", "aa=10.2.0.0/24", "b=10.3.0.0/24"]).await;
    replace(&a, &node("a", "10.4.0.0/24"));
    nodes_are(&mut feed, &["a=10.4.0.0/24", "b=10.3.0.0/24"]).await;
    fs::remove_file(&b).unwrap();
    nodes_are(&mut feed, &["a=10.4.0.0/24"]).await;
    fs::rename(&a, dir.path().join("a.yaml.off")).unwrap();
    nodes_are(&mut feed, &[]).await;
}

#[tokio::test]
async fn what_is_no_manifest_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("README.md"), "{").unwrap();
    fs::write(dir.path().join(".a.yaml.swp"), "{").unwrap();
    fs::write(dir.path().join(".hidden.yaml"), "{").unwrap();
    fs::create_dir(dir.path().join("sub.yaml")).unwrap();
    fs::write(dir.path().join("pods.yml"), "apiVersion: v1\nkind: Pod\nspec: {podCIDR: 7}\n").unwrap();
    fs::write(dir.path().join("n.yml"), node("n", "10.1.0.0/24")).unwrap();
    let mut feed = manifests::run(dir.path().to_owned());
    nodes_are(&mut feed, &["n=10.1.0.0/24"]).await;
    no_problem(&mut feed).await;
}

#[tokio::test]
async fn a_broken_file_is_named_and_its_last_good_objects_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
    fs::write(&a, node("a", "10.1.0.0/24")).unwrap();
    fs::write(&b, node("b", "10.2.0.0/24")).unwrap();
    let mut feed = manifests::run(dir.path().to_owned());
    nodes_are(&mut feed, &["a=10.1.0.0/24", "b=10.2.0.0/24"]).await;
    replace(&a, &node("a", "10.1.0.0/240"));
    let problem = format!(
        "{}:5:17: spec.podCIDR: `10.1.0.0/240` is no CIDR such as 10.244.1.0/24 or fd00:10:1::/64",
        a.display()
    );
    problem_is(&mut feed, &problem).await;
    replace(&b, &node("b", "10.3.0.0/24"));
    nodes_are(&mut feed, &["a=10.1.0.0/24", "b=10.3.0.0/24"]).await;
    replace(&a, "a: b: c\n");
    problem_is(&mut feed, &format!("{}:1:5: mapping values are not allowed in this context", a.display()))
        .await;
    assert_eq!(feed.state.borrow().restarts["decode"], 2);
    replace(&a, &node("a", "10.4.0.0/24"));
    nodes_are(&mut feed, &["a=10.4.0.0/24", "b=10.3.0.0/24"]).await;
    no_problem(&mut feed).await;
}

#[tokio::test]
async fn no_snapshot_lacks_the_nodes_of_a_file_that_was_never_good() {
    let dir = tempfile::tempdir().unwrap();
    let b = dir.path().join("b.yaml");
    fs::write(dir.path().join("a.yaml"), node("a", "10.1.0.0/24")).unwrap();
    fs::write(&b, [b'a', b'\n', b':', 0xff]).unwrap();
    let mut feed = manifests::run(dir.path().to_owned());
    problem_is(&mut feed, &format!("{}:2:2: is no UTF-8 text", b.display())).await;
    assert_eq!(*feed.objects.borrow(), None);
    replace(&b, &node("b", "10.2.0.0/24"));
    nodes_are(&mut feed, &["a=10.1.0.0/24", "b=10.2.0.0/24"]).await;
}

#[tokio::test]
async fn a_broken_file_that_comes_later_holds_up_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
    fs::write(&a, node("a", "10.1.0.0/24")).unwrap();
    let mut feed = manifests::run(dir.path().to_owned());
    nodes_are(&mut feed, &["a=10.1.0.0/24"]).await;
    replace(&b, "a: b: c\n");
    problem_is(&mut feed, &format!("{}:1:5: mapping values are not allowed in this context", b.display()))
        .await;
    replace(&a, &node("a", "10.3.0.0/24"));
    nodes_are(&mut feed, &["a=10.3.0.0/24"]).await;
}

#[tokio::test]
async fn of_two_objects_the_first_file_in_order_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
    fs::write(&b, node("n", "10.2.0.0/24")).unwrap();
    fs::write(&a, node("n", "10.1.0.0/24")).unwrap();
    let mut feed = manifests::run(dir.path().to_owned());
    nodes_are(&mut feed, &["n=10.1.0.0/24"]).await;
    let problem =
        format!("{}:2:1: metadata.name: Node `n` is also in {}:2:1, which counts", b.display(), a.display());
    problem_is(&mut feed, &problem).await;
    fs::remove_file(&a).unwrap();
    nodes_are(&mut feed, &["n=10.2.0.0/24"]).await;
    no_problem(&mut feed).await;
}

#[tokio::test]
async fn a_directory_may_come_later_go_and_come_back() {
    let above = tempfile::tempdir().unwrap();
    let dir = above.path().join("etc/manifests");
    let mut feed = manifests::run(dir.clone());
    problem_is(&mut feed, &format!("{}: there is no such directory", dir.display())).await;
    assert!(!feed.state.borrow().is_connected);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a.yaml"), node("a", "10.1.0.0/24")).unwrap();
    nodes_are(&mut feed, &["a=10.1.0.0/24"]).await;
    fs::rename(&dir, above.path().join("away")).unwrap();
    let gone =
        format!("{}: there is no such directory; what was last read of it stays in force", dir.display());
    problem_is(&mut feed, &gone).await;
    nodes_are(&mut feed, &["a=10.1.0.0/24"]).await;
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("b.yaml"), node("b", "10.2.0.0/24")).unwrap();
    nodes_are(&mut feed, &["b=10.2.0.0/24"]).await;
    no_problem(&mut feed).await;
}

#[tokio::test]
async fn a_config_map_volume_swaps_all_files_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let version = |name: &str, files: &[(&str, String)]| {
        let version = dir.path().join(name);
        fs::create_dir(&version).unwrap();
        for (file, text) in files {
            fs::write(version.join(file), text).unwrap();
        }
        let link = dir.path().join("..data_tmp");
        std::os::unix::fs::symlink(name, &link).unwrap();
        fs::rename(link, dir.path().join("..data")).unwrap();
    };
    version("..1", &[("a.yaml", node("a", "10.1.0.0/24")), ("b.yaml", node("b", "10.2.0.0/24"))]);
    for file in ["a.yaml", "b.yaml"] {
        std::os::unix::fs::symlink(format!("..data/{file}"), dir.path().join(file)).unwrap();
    }
    let mut feed = manifests::run(dir.path().to_owned());
    nodes_are(&mut feed, &["a=10.1.0.0/24", "b=10.2.0.0/24"]).await;
    version("..2", &[("a.yaml", node("a", "10.2.0.0/24")), ("b.yaml", node("b", "10.1.0.0/24"))]);
    feed.objects.changed().await.unwrap();
    nodes_are(&mut feed, &["a=10.2.0.0/24", "b=10.1.0.0/24"]).await;
    assert_eq!(feed.state.borrow().snapshots, 2);
}

#[tokio::test]
async fn half_a_file_is_not_believed() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
    fs::write(&a, node("a", "10.1.0.0/24") + &node("aa", "10.2.0.0/24")).unwrap();
    let mut feed = manifests::run(dir.path().to_owned());
    nodes_are(&mut feed, &["a=10.1.0.0/24", "aa=10.2.0.0/24"]).await;
    let mut writer = fs::File::create(&a).unwrap();
    writer.write_all(node("a", "10.1.0.0/24").as_bytes()).unwrap();
    // Another file makes the source look at all of them.
    fs::write(&b, node("b", "10.3.0.0/24")).unwrap();
    nodes_are(&mut feed, &["a=10.1.0.0/24", "aa=10.2.0.0/24", "b=10.3.0.0/24"]).await;
    writer.write_all(node("aa", "10.4.0.0/24").as_bytes()).unwrap();
    drop(writer);
    nodes_are(&mut feed, &["a=10.1.0.0/24", "aa=10.4.0.0/24", "b=10.3.0.0/24"]).await;
    assert_eq!(feed.state.borrow().snapshots, 3);
}

#[tokio::test]
async fn a_burst_of_changes_is_one_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let mut feed = manifests::run(dir.path().to_owned());
    nodes_are(&mut feed, &[]).await;
    let expected: Vec<String> = (0..50).map(|i| format!("n{i:02}=10.0.{i}.0/24")).collect();
    for i in 0..50 {
        fs::write(dir.path().join(format!("{i}.yaml")), node(&format!("n{i:02}"), &format!("10.0.{i}.0/24")))
            .unwrap();
    }
    nodes_are(&mut feed, &expected.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(feed.state.borrow().snapshots, 2);
}

#[tokio::test]
async fn a_source_ends_with_its_readers() {
    let dir = tempfile::tempdir().unwrap();
    let Feed { mut objects, state } = manifests::run(dir.path().to_owned());
    objects.wait_for(Option::is_some).await.unwrap();
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(alive(), 1);
    drop((objects, state));
    let ended = async {
        while alive() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.expect("the task ends");
}
