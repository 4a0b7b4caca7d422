//! The rows: every way by which a container may come to a GPU. Each is tried and judged by itself.

mod builds;
mod flags;
mod images;
mod inside;
mod life;
mod mig;
mod nodes;
mod others;
mod runtimes;

use crate::cell::Verdict;
use crate::trial::Trial;

pub(crate) use others::{judge_probe, rootfs};

/// What came of a try; an error is a fault of the run.
pub type Tried = Result<Verdict, String>;

/// A row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its name, for commands and results.
    pub id: &'static str,
    /// What is tried, in one line.
    pub what: &'static str,
    /// Tries it.
    pub run: fn(&mut Trial) -> Tried,
}

/// All rows, in the order of the table. Those that restart the Engine or the node come last.
pub const ROWS: &[&[Row]] = &[
    flags::ROWS,
    images::ROWS,
    nodes::ROWS,
    inside::ROWS,
    runtimes::ROWS,
    mig::ROWS,
    builds::ROWS,
    others::ROWS,
    life::ROWS,
];

/// All rows, one by one.
pub fn all() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().copied().flatten()
}

/// Rows whose cell turns on who keeps the device rules and how. Of the others a column says no more than
/// the same Engine's with other cgroups.
const OF_CGROUPS: [&str; 20] = [
    "daemon-reload",
    "rule-any",
    "rule-char",
    "rule-major",
    "rule-exact",
    "privileged",
    "privileged-gpus",
    "privileged-rule",
    "nvidia-env-legacy",
    "nvidia-image-env-legacy",
    "nvidia-env-privileged",
    "exec",
    "exec-privileged",
    "update",
    "update-none",
    "node",
    "bind-dev",
    "pid-host",
    "before-privileged",
    "runtime-runc-privileged",
];

/// Puts those of the cgroups first, where a column is slow and may be broken off. The others keep their
/// order: the last restart the node.
pub(crate) fn cgroups_first(rows: &mut [&'static Row]) {
    rows.sort_by_key(|row| {
        OF_CGROUPS.iter().position(|id| *id == row.id).unwrap_or(OF_CGROUPS.len())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_cgroups_come_first_and_the_reboot_last() {
        let mut rows: Vec<&'static Row> = all().collect();
        let count = rows.len();
        cgroups_first(&mut rows);
        let ids: Vec<&str> = rows.iter().map(|row| row.id).collect();
        assert_eq!(ids.get(..OF_CGROUPS.len()), Some(&OF_CGROUPS[..]));
        assert_eq!((ids.last(), ids.len()), (Some(&"restart-reboot"), count));
    }
}
