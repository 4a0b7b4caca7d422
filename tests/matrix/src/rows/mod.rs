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
