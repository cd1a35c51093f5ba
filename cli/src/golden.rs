//! What is printed, compared with files.

/// Compares with `tests/golden/NAME`; `UPDATE_GOLDEN=1` writes it.
#[track_caller]
pub fn same(name: &str, made: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("it is made");
        std::fs::write(&path, made).expect("the golden file is written");
    }
    let golden = std::fs::read_to_string(&path).expect("the golden file is there; UPDATE_GOLDEN=1 writes it");
    assert!(made == golden, "{name}: made\n{made}\ngolden\n{golden}");
}
