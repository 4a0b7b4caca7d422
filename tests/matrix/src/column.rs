//! The columns: which Engine, which level of installation, which kind of cgroup.

use std::fmt;

/// Which Engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EngineOf {
    /// The machine's own: Debian 12's.
    V20,
    /// Debian trixie's.
    V26,
    /// Debian sid's, with overlay2.
    V28Overlay2,
    /// Debian sid's, with containerd's image store.
    V28Containerd,
    /// What Engine 29 handed to a runtime when it was recorded.
    V29Fixtures,
}

/// How cgroups are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cgroup {
    /// Version 1.
    V1,
    /// Version 2, and Docker writes it by itself.
    V2Cgroupfs,
    /// Version 2, by way of systemd.
    V2Systemd,
}

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Column {
    /// The strict level; else the cooperative one.
    pub strict: bool,
    /// Which Engine.
    pub engine: EngineOf,
    /// Which cgroups.
    pub cgroup: Cgroup,
}

const ENGINES: [(EngineOf, &str); 5] = [
    (EngineOf::V20, "20.10"),
    (EngineOf::V26, "26.1"),
    (EngineOf::V28Overlay2, "28.5-overlay2"),
    (EngineOf::V28Containerd, "28.5-containerd"),
    (EngineOf::V29Fixtures, "29-fixtures"),
];
const CGROUPS: [(Cgroup, &str); 3] =
    [(Cgroup::V1, "v1"), (Cgroup::V2Cgroupfs, "v2-cgroupfs"), (Cgroup::V2Systemd, "v2-systemd")];

impl Column {
    /// All columns that the table has, in its order: each Engine on each kind of cgroup.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for strict in [false, true] {
            for (cgroup, _) in CGROUPS {
                all.extend(ENGINES.iter().map(|(engine, _)| Self {
                    strict,
                    engine: *engine,
                    cgroup,
                }));
            }
        }
        all
    }

    /// All columns in the order in which they are to be tried: the quickest first, and those that tell most
    /// of what is slow. Strict mode is what must have no hole, and systemd has the cgroups on most hosts
    /// with version 2.
    pub fn by_need() -> Vec<Self> {
        let mut all = Self::all();
        let slow = |cgroup| match cgroup {
            Cgroup::V1 => 0,
            Cgroup::V2Systemd => 1,
            Cgroup::V2Cgroupfs => 2,
        };
        all.sort_by_key(|column| (slow(column.cgroup), !column.strict));
        all
    }

    /// The column of a name, also one that is not in the table.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(name: &str) -> Result<Self, String> {
        let words: Vec<&str> = name.split('/').collect();
        let [engine, level, cgroup] = words.as_slice() else {
            return Err(format!("{name:?} is not ENGINE/LEVEL/CGROUP"));
        };
        let wrong = || format!("{name:?} is no column; gpuctl-matrix columns lists them");
        let engine = ENGINES.iter().find(|(_, n)| n == engine).ok_or_else(wrong)?.0;
        let cgroup = CGROUPS.iter().find(|(_, n)| n == cgroup).ok_or_else(wrong)?.0;
        let strict = match *level {
            "cooperative" => false,
            "strict" => true,
            _ => return Err(wrong()),
        };
        Ok(Self { strict, engine, cgroup })
    }

    /// `20.10`, `28.5-overlay2`...
    pub fn engine_name(&self) -> &'static str {
        ENGINES.iter().find(|(e, _)| *e == self.engine).map_or("", |(_, n)| n)
    }

    /// `v1`, `v2-systemd`...
    pub fn cgroup_name(&self) -> &'static str {
        CGROUPS.iter().find(|(c, _)| *c == self.cgroup).map_or("", |(_, n)| n)
    }

    /// The kind of cgroup, for a title.
    pub fn cgroup_in_words(&self) -> &'static str {
        match self.cgroup {
            Cgroup::V1 => "cgroup v1",
            Cgroup::V2Cgroupfs => "cgroup v2 with cgroupfs",
            Cgroup::V2Systemd => "cgroup v2 with systemd",
        }
    }

    /// `cooperative` or `strict`.
    pub fn level(&self) -> &'static str {
        if self.strict { "strict" } else { "cooperative" }
    }

    /// The Debian whose Engine it is; `None` for the machine's own.
    pub fn suite(&self) -> Option<&'static str> {
        match self.engine {
            EngineOf::V20 | EngineOf::V29Fixtures => None,
            EngineOf::V26 => Some("trixie"),
            EngineOf::V28Overlay2 | EngineOf::V28Containerd => Some("sid"),
        }
    }

    /// Whether the machine has the cgroups that it names.
    pub fn fits_machine(&self) -> bool {
        let v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        v2 == (self.cgroup != Cgroup::V1)
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.engine_name(), self.level(), self.cgroup_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_tried_and_no_slow_one_before_a_quick_one() {
        let (mut all, tried) = (Column::all(), Column::by_need());
        assert_eq!(all.len(), 2 * ENGINES.len() * CGROUPS.len());
        assert!(tried[..10].iter().all(|c| c.cgroup == Cgroup::V1));
        assert_eq!(tried[10].to_string(), "20.10/strict/v2-systemd");
        let mut sorted = tried;
        sorted.sort();
        all.sort();
        assert_eq!(all, sorted);
    }

    #[test]
    fn a_columns_name_is_read_as_it_is_written() {
        for column in Column::all() {
            assert_eq!(Column::parse(&column.to_string()), Ok(column));
        }
        assert!(Column::parse("26.1/strict/v2-systemd").is_ok());
        for wrong in ["20.10", "20.10/strict", "20.10/loose/v1", "19/strict/v1", "26.1/strict/v3"] {
            assert!(Column::parse(wrong).is_err(), "{wrong}");
        }
    }
}
