//! docs/configuration.md against the code: its example is the defaults, and it has every key.

// All of this is tests; clippy only knows the functions that are marked so.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use gpuctl_ledger::config::Config;

/// The example of the page.
fn example() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let (_, rest) = page.split_once("```toml\n").expect("an example");
    rest.split_once("```").expect("its end").0.to_owned()
}

/// The keys that a table may have, by what is said of one that it may not.
fn keys(table: &str) -> BTreeSet<String> {
    let why = Config::parse(&format!("{table}\nzzz = 1\n")).expect_err("an unknown key");
    let (_, expected) = why.split_once("expected").unwrap_or_else(|| panic!("{why}"));
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_example_is_the_defaults() {
    assert_eq!(Config::parse(&example()), Ok(Config::default()));
}

#[test]
fn every_key_is_in_the_example() {
    let example = example();
    let lines: Vec<&str> = example.lines().map(|l| l.trim_start_matches("# ")).collect();
    let part = |table: &str| -> BTreeSet<&str> {
        let from =
            lines.iter().position(|l| !table.is_empty() && *l == table).map_or(0, |at| at + 1);
        let part = lines[from..].iter().take_while(|l| !l.starts_with('['));
        part.filter_map(|l| l.split_once(" = ").map(|(key, _)| key)).collect()
    };
    let tables: BTreeSet<String> = lines
        .iter()
        .filter(|l| l.starts_with('['))
        .map(|l| l.trim_matches(['[', ']']).to_owned())
        .collect();
    let mut named: BTreeSet<String> = part("").into_iter().map(str::to_owned).collect();
    named.extend(tables.iter().filter(|t| !t.contains('.')).cloned());
    assert_eq!(named, keys(""));
    for table in [
        "[ledger]",
        "[paths]",
        "[docker]",
        "[runtime]",
        "[policy]",
        "[gpu]",
        "[change]",
        "[ports]",
        "[volumes]",
    ] {
        let name = table.trim_matches(['[', ']']);
        let mut named: BTreeSet<String> = part(table).into_iter().map(str::to_owned).collect();
        let below = tables.iter().filter_map(|t| t.strip_prefix(&format!("{name}.")));
        named.extend(below.map(str::to_owned));
        assert_eq!(named, keys(table), "{table}");
    }
    for table in ["[[policy.exempt]]", "[[gpu.shared]]"] {
        let named: BTreeSet<String> = part(table).into_iter().map(str::to_owned).collect();
        assert_eq!(named, keys(table), "{table}");
    }
}
