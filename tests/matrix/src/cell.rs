//! What happened, in the words of the matrix.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A device by major and minor: a GPU's node, or one of a MIG device's two.
pub type Device = (u32, u32);

/// What became of a container that wants a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Cell {
    /// It runs, and opens exactly the GPUs that it holds a lease on.
    Leased,
    /// It was not started, with our line.
    Refused,
    /// It runs and opens no GPU.
    NoAccess,
    /// It runs and opens a GPU that it holds no lease on.
    NotCaught,
    /// It cannot be tried there, and why.
    NotApplicable(String),
}

const NOT_APPLICABLE: &str = "not applicable: ";

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leased => f.write_str("leased"),
            Self::Refused => f.write_str("refused"),
            Self::NoAccess => f.write_str("no access"),
            Self::NotCaught => f.write_str("not caught"),
            Self::NotApplicable(why) => write!(f, "{NOT_APPLICABLE}{why}"),
        }
    }
}

impl From<Cell> for String {
    fn from(cell: Cell) -> Self {
        cell.to_string()
    }
}

impl TryFrom<String> for Cell {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "leased" => Ok(Self::Leased),
            "refused" => Ok(Self::Refused),
            "no access" => Ok(Self::NoAccess),
            "not caught" => Ok(Self::NotCaught),
            other => other
                .strip_prefix(NOT_APPLICABLE)
                .map(|why| Self::NotApplicable(why.to_owned()))
                .ok_or_else(|| format!("{other:?} is no cell")),
        }
    }
}

/// A cell and what is to be said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The cell.
    pub cell: Cell,
    /// What was seen, for people.
    pub detail: String,
}

impl Verdict {
    /// One that cannot be tried.
    pub fn not_applicable(why: impl Into<String>) -> Self {
        Self { cell: Cell::NotApplicable(why.into()), detail: String::new() }
    }

    /// With a remark put before its detail.
    #[must_use]
    pub fn noting(mut self, remark: &str) -> Self {
        let rest = std::mem::take(&mut self.detail);
        self.detail = if rest.is_empty() { remark.into() } else { format!("{remark}; {rest}") };
        self
    }
}

/// Judges a running container by what it opens and what it holds. Pure.
///
/// # Errors
/// When it holds a lease that it cannot use: that is no cell, it is a fault.
pub fn judge(opens: &BTreeSet<Device>, leased: &BTreeSet<Device>) -> Result<Verdict, String> {
    let detail = match opens.is_empty() {
        true => String::new(),
        false => format!("opens {}", shown(opens)),
    };
    if !opens.is_subset(leased) {
        let detail = format!("{detail}, holds {}", shown(leased));
        return Ok(Verdict { cell: Cell::NotCaught, detail });
    }
    if opens != leased {
        return Err(format!("it holds {} and opens only {}", shown(leased), shown(opens)));
    }
    let cell = if opens.is_empty() { Cell::NoAccess } else { Cell::Leased };
    Ok(Verdict { cell, detail })
}

/// Devices as `195:3 195:4`; `nothing`.
pub fn shown(devices: &BTreeSet<Device>) -> String {
    let list: Vec<String> = devices.iter().map(|(a, b)| format!("{a}:{b}")).collect();
    if list.is_empty() { "nothing".into() } else { list.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(minors: &[u32]) -> BTreeSet<Device> {
        minors.iter().map(|m| (195, *m)).collect()
    }

    #[test]
    fn a_cell_is_what_is_opened_against_what_is_held() {
        let cell = |opens, holds| judge(&of(opens), &of(holds)).map(|v| v.cell);
        assert_eq!(cell(&[], &[]), Ok(Cell::NoAccess));
        assert_eq!(cell(&[1, 2], &[1, 2]), Ok(Cell::Leased));
        assert_eq!(cell(&[1], &[]), Ok(Cell::NotCaught));
        assert_eq!(cell(&[1, 2], &[1]), Ok(Cell::NotCaught));
        assert_eq!(cell(&[2], &[1]), Ok(Cell::NotCaught));
        assert!(cell(&[], &[1]).is_err());
        assert!(cell(&[1], &[1, 2]).is_err());
    }

    #[test]
    fn a_cell_is_read_as_it_is_written() {
        for cell in [
            Cell::Leased,
            Cell::Refused,
            Cell::NoAccess,
            Cell::NotCaught,
            Cell::NotApplicable("no systemd".into()),
        ] {
            assert_eq!(Cell::try_from(cell.to_string()), Ok(cell));
        }
        assert!(Cell::try_from("maybe".to_owned()).is_err());
    }
}
