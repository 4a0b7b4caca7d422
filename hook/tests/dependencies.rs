//! The crates that the root-run binary is built from stand in `hook/dependencies.txt`. A crate that
//! comes in or goes shows up here, and so in a review, and not only in Cargo.lock.
//!
//! When it is meant: `GPUCTL_UPDATE_DEPENDENCIES=1 cargo test -p gpuctl-hook --test dependencies`,
//! read the difference, and say in docs/adr/0007-dependencies.md why a direct one is needed.
// Helpers of tests are tests: clippy spares only functions that are marked as such.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// The list is of this target; others have a few other crates.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const UPDATE: &str = "GPUCTL_UPDATE_DEPENDENCIES";
const HEADER: &str = "\
# The crates that gpuctl-hook, which runs as root, is built from (x86_64 Linux), by name.
# \"build\" marks those that only run while it is compiled: procedural macros and what they need.
# hook/tests/dependencies.rs compares this list with what is so, and says how to renew it.
";

/// The names that `cargo tree` prints for these edges, our own packages left out.
fn crates(edges: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "-p", "gpuctl-hook", "--locked", "--offline", "--prefix", "none"])
        .args(["--format", "{p}", "--target", TARGET, "-e", edges])
        .output()
        .unwrap();
    assert!(out.status.success(), "cargo tree: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| !name.starts_with("gpuctl-")).map(str::to_owned).collect()
}

/// The list as it should stand in the file.
fn list() -> String {
    let linked = crates("normal,no-proc-macro");
    let all = crates("normal");
    // Far fewer would mean that the edges are no longer understood as they were.
    assert!(linked.len() > 50 && linked.is_subset(&all) && linked.contains("serde_json"));
    let line = |name: &String| {
        let note = if linked.contains(name) { "" } else { " build" };
        format!("{name}{note}\n")
    };
    HEADER.to_owned() + &all.iter().map(line).collect::<String>()
}

#[test]
fn no_crate_comes_into_the_root_run_binary_unannounced() {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        println!("skipped: hook/dependencies.txt is the list of {TARGET}");
        return;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("dependencies.txt");
    let now = list();
    if std::env::var_os(UPDATE).is_some_and(|v| v == "1") {
        std::fs::write(&file, &now).unwrap();
        return;
    }
    let listed = std::fs::read_to_string(&file).unwrap();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (old, new) = (lines(&listed), lines(&now));
    let came: Vec<_> = new.difference(&old).collect();
    let went: Vec<_> = old.difference(&new).collect();
    assert!(
        came.is_empty() && went.is_empty(),
        "crates that came: {came:?}; that went: {went:?}; \
         if that is meant: {UPDATE}=1 cargo test -p gpuctl-hook --test dependencies"
    );
    assert_eq!(listed, now, "the list is out of order");
}
