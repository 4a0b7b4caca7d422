//! One column, all rows.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cell::Cell;
use crate::column::{Cgroup, Column, EngineOf};
use crate::results::{self, Line};
use crate::rows::{self, Row, Tried};
use crate::trial::Trial;
use crate::{fixtures, hash};

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// The column.
    pub column: Column,
    /// The rows' ids; empty for all.
    pub rows: &'a [String],
    /// Where the cells go; those that are there, of the same sources, are not tried again.
    pub out: &'a Path,
    /// The hash of the hook's sources.
    pub hash: &'a str,
}

/// Runs a column. Says on `tell` what it does. The failures, one text each.
///
/// # Errors
/// When the column cannot be had here, or the file not written.
pub fn run(order: &Order<'_>, tell: &mut dyn FnMut(&str)) -> Result<Vec<String>, String> {
    let wanted = wanted(order.rows)?;
    let name = order.column.to_string();
    let done = results::read(order.out)?;
    let is_done = |row: &Row| {
        done.iter().any(|l| l.row == row.id && l.column == name && l.hash == order.hash)
    };
    let mut left: Vec<&Row> = wanted.into_iter().filter(|row| !is_done(row)).collect();
    if order.column.cgroup != Cgroup::V1 {
        rows::cgroups_first(&mut left);
    }
    if left.is_empty() {
        return Ok(Vec::new());
    }
    let began = Instant::now();
    let mut under = caught(|| start(order.column))??;
    tell(&format!("{name}: up after {:.1} s", began.elapsed().as_secs_f64()));
    let mut failures = Vec::new();
    for row in left {
        let began = Instant::now();
        let tried = caught(|| {
            let verdict = under.try_row(row)?;
            under.tidy().map(|()| verdict)
        });
        let seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        match tried.flatten() {
            Ok(verdict) => {
                let detail = &verdict.detail;
                tell(&format!("{name} {}: {} ({seconds} s) {detail}", row.id, verdict.cell));
                if order.column.strict && verdict.cell == Cell::NotCaught {
                    failures
                        .push(format!("{name} {}: not caught in strict mode: {detail}", row.id));
                }
                let line = Line {
                    row: row.id.into(),
                    column: name.clone(),
                    cell: verdict.cell,
                    detail: verdict.detail,
                    seconds,
                    hash: order.hash.into(),
                };
                results::append(order.out, &line)?;
            }
            Err(why) => {
                tell(&format!("{name} {}: FAILED after {seconds} s: {why}", row.id));
                let _ = caught(|| under.tidy());
                // All of it was told just now.
                let first = why.lines().next().unwrap_or_default();
                failures.push(format!("{name} {}: {first}", row.id));
            }
        }
    }
    Ok(failures)
}

fn start(column: Column) -> Result<Box<dyn Under>, String> {
    Ok(match column.engine {
        EngineOf::V29Fixtures => Box::new(fixtures::Recorded::start(column)?),
        _ => Box::new(Trial::start(column)?),
    })
}

/// What it gives; the text of a panic, by which the harness fails, is an error.
fn caught<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
        text.unwrap_or_else(|| "it ended in a panic".into())
    })
}

/// The rows of these ids, in the table's order.
fn wanted(ids: &[String]) -> Result<Vec<&'static Row>, String> {
    if let Some(unknown) = ids.iter().find(|id| !rows::all().any(|row| row.id == *id)) {
        return Err(format!("{unknown:?} is no row; gpuctl-matrix rows lists them"));
    }
    Ok(rows::all().filter(|row| ids.is_empty() || ids.iter().any(|id| id == row.id)).collect())
}

/// What a column is tried on.
pub trait Under {
    /// Tries a row.
    ///
    /// # Errors
    /// What failed, which is no cell.
    fn try_row(&mut self, row: &Row) -> Tried;

    /// Removes what a row left.
    ///
    /// # Errors
    /// When something stays.
    fn tidy(&self) -> Result<(), String>;
}

impl Under for Trial {
    fn try_row(&mut self, row: &Row) -> Tried {
        (row.run)(self)
    }

    fn tidy(&self) -> Result<(), String> {
        Trial::tidy(self)
    }
}

/// The hash of the sources in the repository that this program was built from; on a machine that has
/// no repository, what `sources.hash` beside the built programs says.
///
/// # Errors
/// When neither is there.
pub fn own_hash() -> Result<String, String> {
    let repository = gpuctl_tests::programs::repository();
    if repository.join("hook/src").is_dir() {
        return hash::sources(&repository);
    }
    let folder = std::env::var_os("GPUCTL_PROGRAMS").map(PathBuf::from).unwrap_or_default();
    let text = std::fs::read_to_string(folder.join("sources.hash"));
    text.map(|t| t.trim().to_owned()).map_err(|_| "no sources here to hash: give --hash".into())
}
