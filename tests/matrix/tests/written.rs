//! docs/matrix.md is of these sources, holds what the promise needs, and docs/security.md names what
//! it shows as not caught.

use std::collections::BTreeSet;

use gpuctl_matrix::cell::Cell;
use gpuctl_matrix::column::Column;
use gpuctl_matrix::{rows, run, table};
use gpuctl_tests::programs;

fn page(name: &str) -> String {
    let path = programs::repository().join("docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_page_is_of_these_sources() {
    let page = page("matrix.md");
    let hash = run::own_hash().expect("the sources' hash");
    assert_eq!(
        table::hash_of(&page),
        Some(hash.as_str()),
        "docs/matrix.md was written with other sources of the hook: tests/run --full writes it anew"
    );
}

#[test]
fn every_row_of_every_column_was_tried() {
    let cells = table::cells_of(&page("matrix.md")).expect("a page of cells");
    for column in Column::all() {
        for row in rows::all() {
            let at = (column.to_string(), row.id.to_owned());
            assert!(cells.contains_key(&at), "{column} {}: not tried", row.id);
        }
    }
}

#[test]
fn strict_mode_catches_everything() {
    let cells = table::cells_of(&page("matrix.md")).expect("a page of cells");
    let open: Vec<_> = cells
        .iter()
        .filter(|((column, _), cell)| column.contains("/strict/") && **cell == Cell::NotCaught)
        .collect();
    assert!(open.is_empty(), "{open:?}");
}

/// The rows that docs/security.md names, between its two marks, as `- \`id\`: ...`.
fn named() -> BTreeSet<String> {
    let text = page("security.md");
    let part = text
        .split_once("<!-- not caught -->")
        .and_then(|(_, rest)| rest.split_once("<!-- end of not caught -->"))
        .map(|(part, _)| part.to_owned())
        .expect("a list between the marks in docs/security.md");
    let named = part.lines().filter_map(|l| l.strip_prefix("- `")?.split_once('`'));
    named.map(|(id, _)| id.to_owned()).collect()
}

#[test]
fn what_the_cooperative_level_does_not_catch_is_named_in_security() {
    let cells = table::cells_of(&page("matrix.md")).expect("a page of cells");
    let open: BTreeSet<String> = cells
        .iter()
        .filter(|(_, cell)| **cell == Cell::NotCaught)
        .map(|((_, row), _)| row.clone())
        .collect();
    assert_eq!(open, named(), "docs/matrix.md and docs/security.md");
}

#[test]
fn rows_have_names_of_their_own() {
    let mut seen = BTreeSet::new();
    for row in rows::all() {
        assert!(seen.insert(row.id), "{} twice", row.id);
        assert!(!row.what.contains('|') && !row.what.is_empty(), "{}", row.id);
        assert!(row.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
    }
    assert!(rows::all().count() >= 38);
}
