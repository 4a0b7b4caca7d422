//! About thirty cells, tried anew: each must be what docs/matrix.md says.

use std::path::Path;
use std::process::Command;

use gpuctl_matrix::{results, table};
use gpuctl_tests::{engine_runs_here, programs, skip};

/// Tries these rows on a column, by the program that also writes the page.
fn as_written(column: &str, rows: &str) {
    if !engine_runs_here() {
        return;
    }
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        skip(&format!("{column}: this machine has cgroup v2"));
        return;
    }
    let page = programs::repository().join("docs/matrix.md");
    let page = std::fs::read_to_string(page).expect("docs/matrix.md");
    let written = table::cells_of(&page).expect("a page of cells");
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let got = Command::new(env!("CARGO_BIN_EXE_gpuctl-matrix"))
        .args(["run", "--column", column, "--rows", rows, "--out"])
        .arg(&out)
        .output()
        .expect("gpuctl-matrix starts");
    let said = String::from_utf8_lossy(&got.stderr);
    eprintln!("{said}");
    assert!(got.status.success(), "rows failed, or were not caught in strict mode");
    let lines = results::read(&out).expect("results");
    assert_eq!(lines.len(), rows.split(',').count(), "a line for every row");
    for line in lines {
        let at = (line.column.clone(), line.row.clone());
        let row = &line.row;
        assert_eq!(
            Some(&line.cell),
            written.get(&at),
            "{column} {row}: docs/matrix.md has another"
        );
    }
}

#[test]
fn cooperative_cells_are_as_written() {
    as_written(
        "20.10/cooperative/v1",
        "gpus-count,gpus-all,gpus-device,index-unlike-minor,nvidia-env,image-env,node,node-renamed,\
         rule-major,bind-dev,privileged-gpus,runtime-runc,runtime-runc-gpus,before-device",
    );
}

#[test]
fn strict_cells_are_as_written() {
    as_written(
        "20.10/strict/v1",
        "gpus-0,nvidia-env,nvidia-env-legacy,env-duplicate,rule-exact,rule-any,privileged,\
         network-container,runtime-runc,runtime-runc-v2,before-privileged,verb-restore,ctr,\
         restart-crash",
    );
}

#[test]
fn recorded_cells_are_as_written() {
    as_written("29-fixtures/strict/v1", "gpus-count,gpus-all,cdi-device,privileged-gpus");
}
