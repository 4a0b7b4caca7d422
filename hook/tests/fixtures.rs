//! What is asked for in every recorded spec, against a table that is checked in:
//! `GPUCTL_UPDATE=1 cargo test -p gpuctl-hook --test fixtures` writes it anew.
// Helpers of tests are tests: clippy spares only functions that are marked as such.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};

use gpuctl_hook::hostconfig::HostConfig;
use gpuctl_hook::request::{NodeFacts, detect};
use gpuctl_hook::spec::Spec;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine-29")
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter_map(|n| n.strip_suffix(".config.json").map(str::to_owned))
        .collect();
    names.sort();
    names
}

fn read(name: &str) -> (Spec, HostConfig) {
    let file = |end: &str| std::fs::read(folder().join(format!("{name}.{end}"))).unwrap();
    (
        Spec::parse(&file("config.json")).unwrap(),
        HostConfig::parse(&file("hostconfig.json")).unwrap(),
    )
}

#[test]
fn every_recorded_spec_asks_for_what_the_table_says() {
    let mut table = String::new();
    for name in names() {
        let (spec, host) = read(&name);
        spec.to_oci().unwrap();
        for (how, host) in [("docker", Some(&host)), ("alone", None)] {
            let a = detect(&spec, host, &NodeFacts::default()).unwrap();
            let routes: Vec<String> =
                a.found.iter().map(|f| format!("{:?}={}", f.route, f.request)).collect();
            table.push_str(&format!(
                "{name} ({how}): {} | {} | wildcard {} nodes {:?} rules {:?} applied {:?} hook {}{}\n",
                a.request,
                routes.join(", "),
                a.wildcard,
                a.nodes,
                a.rules,
                a.cdi_applied,
                a.legacy_hook,
                if a.is_nothing() { " | nothing" } else { "" }
            ));
        }
    }
    let path = folder().with_file_name("asked.txt");
    if std::env::var_os("GPUCTL_UPDATE").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap();
    assert!(names().len() >= 15, "the recorded specs are missing");
    for (have, want) in table.lines().zip(wanted.lines()) {
        assert_eq!(have, want);
    }
    assert_eq!(table.lines().count(), wanted.lines().count());
}
