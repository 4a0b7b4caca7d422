//! Which rows are shown, in which order, and in which columns. Pure.

use std::cmp::Ordering;

use gpuctl_ledger::model::Timestamp;

use crate::engine::api::{OfWhom, TopProcess, TopRow, TopView};
use crate::ui::visible;

/// What rows are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    /// nvidia-smi's order.
    #[default]
    Gpu,
    /// Utilisation.
    Util,
    /// Memory in use.
    Memory,
    /// Power.
    Power,
    /// Temperature.
    Temp,
    /// The holder's name.
    Holder,
    /// How long it has been held.
    For,
}

const SORTS: [Sort; 7] =
    [Sort::Gpu, Sort::Util, Sort::Memory, Sort::Power, Sort::Temp, Sort::Holder, Sort::For];

impl Sort {
    fn at(self, by: usize) -> Self {
        let here = SORTS.iter().position(|s| *s == self).unwrap_or(0);
        SORTS.get((here + by) % SORTS.len()).copied().unwrap_or_default()
    }

    /// The next one.
    pub fn next(self) -> Self {
        self.at(1)
    }

    /// The one before.
    pub fn before(self) -> Self {
        self.at(SORTS.len() - 1)
    }

    /// Whether the largest are looked for first.
    pub fn is_largest_first(self) -> bool {
        !matches!(self, Self::Gpu | Self::Holder)
    }
}

/// The rows of a look that have all words of the filter, in order.
pub fn shown<'a>(view: &'a TopView, sort: Sort, reverse: bool, filter: &str) -> Vec<&'a TopRow> {
    let words: Vec<String> = filter.split_whitespace().map(str::to_lowercase).collect();
    let mut rows: Vec<&TopRow> = view.rows.iter().filter(|row| has(row, &words)).collect();
    // Stable: what is equal stays in nvidia-smi's order, reversed or not.
    rows.sort_by(|a, b| compare(a, b, sort, reverse));
    rows
}

/// Where a thing is not known, or nobody holds the GPU, the row comes last in either direction.
fn compare(a: &TopRow, b: &TopRow, sort: Sort, reverse: bool) -> Ordering {
    fn known<T: Ord>(a: Option<T>, b: Option<T>, reverse: bool) -> Ordering {
        match (a, b) {
            (Some(a), Some(b)) if reverse => b.cmp(&a),
            (Some(a), Some(b)) => a.cmp(&b),
            (a, b) => b.is_some().cmp(&a.is_some()),
        }
    }
    let by = |of: fn(&TopRow) -> Option<u64>| known(of(a), of(b), reverse);
    match sort {
        Sort::Gpu => {
            let place = |r: &TopRow| Some((r.gpu.index, r.gpu.place()));
            known(place(a), place(b), reverse)
        }
        Sort::Util => by(|r| r.gpu.utilisation.map(u64::from)),
        Sort::Memory => by(|r| r.gpu.memory_used),
        Sort::Power => by(|r| r.power.map(u64::from)),
        Sort::Temp => by(|r| r.temperature.map(u64::from)),
        Sort::Holder => known(a.gpu.holder.as_deref(), b.gpu.holder.as_deref(), reverse),
        // The oldest has been held for the longest.
        Sort::For => known(a.gpu.since, b.gpu.since, !reverse),
    }
}

/// Whether a row has all these words, which are in small letters.
fn has(row: &TopRow, words: &[String]) -> bool {
    if words.is_empty() {
        return true;
    }
    let gpu = &row.gpu;
    let free = if gpu.holder.is_none() { "free" } else { "" };
    let mut text = format!(
        "{} {} {} {} {} {} {free}",
        gpu.uuid,
        gpu.model,
        gpu.holder.as_deref().unwrap_or_default(),
        gpu.owner.as_deref().unwrap_or_default(),
        gpu.state.as_deref().unwrap_or_default(),
        gpu.health,
    );
    for process in &row.processes {
        text.push_str(&format!(" {} {}", process.pid, process.program));
    }
    let text = text.to_lowercase();
    words.iter().all(|word| text.contains(word))
}

/// A column of the table of GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Its place.
    Gpu,
    /// Utilisation.
    Util,
    /// Memory used, and in all.
    Memory,
    /// Power taken, and what it may take.
    Power,
    /// Temperature.
    Temp,
    /// Who holds it.
    Holder,
    /// Whose that is.
    Owner,
    /// For how long.
    For,
    /// How it is.
    Health,
    /// What it is.
    Model,
}

/// Columns as they stand, each with its least width and how much it is wanted: 0 always, and the
/// largest goes first where there is no room.
const COLUMNS: [(Column, u16, u8); 10] = [
    (Column::Gpu, 5, 0),
    (Column::Util, 4, 0),
    (Column::Memory, 12, 2),
    (Column::Power, 8, 4),
    (Column::Temp, 4, 4),
    (Column::Holder, 12, 0),
    (Column::Owner, 9, 5),
    (Column::For, 4, 3),
    (Column::Health, 8, 1),
    (Column::Model, 22, 6),
];
/// What each of these gets besides, in this order, of the room that is left.
const MORE: [(Column, u16); 5] = [
    (Column::Holder, 12),
    (Column::Health, 12),
    (Column::Owner, 6),
    (Column::Model, 14),
    (Column::Health, 60),
];

/// The columns that fit, each with its width; one space stands between two.
pub fn columns(width: u16) -> Vec<(Column, u16)> {
    let fits = |most: u8| {
        let some: Vec<(Column, u16)> = COLUMNS
            .iter()
            .filter(|(_, _, wanted)| *wanted <= most)
            .map(|(column, least, _)| (*column, *least))
            .collect();
        let taken: u16 = some.iter().map(|(_, least)| least + 1).sum();
        let left = width.saturating_add(1).checked_sub(taken)?;
        Some((some, left))
    };
    let Some((mut some, mut left)) = (0..=6).rev().find_map(fits) else { return Vec::new() };
    for (column, most) in MORE {
        if let Some((_, has)) = some.iter_mut().find(|(c, _)| *c == column) {
            let more = left.min(most);
            *has += more;
            left -= more;
        }
    }
    some
}

impl Column {
    /// Its header.
    pub fn header(self) -> &'static str {
        match self {
            Self::Gpu => "GPU",
            Self::Util => "UTIL",
            Self::Memory => "MEMORY",
            Self::Power => "POWER",
            Self::Temp => "TEMP",
            Self::Holder => "HOLDER",
            Self::Owner => "OWNER",
            Self::For => "FOR",
            Self::Health => "HEALTH",
            Self::Model => "MODEL",
        }
    }

    /// What it is ordered by.
    pub fn sort(self) -> Option<Sort> {
        Some(match self {
            Self::Gpu => Sort::Gpu,
            Self::Util => Sort::Util,
            Self::Memory => Sort::Memory,
            Self::Power => Sort::Power,
            Self::Temp => Sort::Temp,
            Self::Holder => Sort::Holder,
            Self::For => Sort::For,
            Self::Owner | Self::Health | Self::Model => return None,
        })
    }

    /// What stands in it.
    pub fn cell(self, row: &TopRow, now: Timestamp) -> String {
        let gpu = &row.gpu;
        let dash = || "-".to_owned();
        match self {
            Self::Gpu => gpu.place().to_string(),
            Self::Util => gpu.utilisation.map_or_else(dash, |u| format!("{u}%")),
            // Nothing tells slots apart: what goes on on their GPU stands in its own row.
            Self::Memory if gpu.slot.is_some() => dash(),
            Self::Memory => {
                let used = gpu.memory_used.map_or_else(dash, |b| gibibytes(b, false));
                format!("{used}/{}", gibibytes(gpu.memory_total, true))
            }
            Self::Power => match (row.power, row.power_limit) {
                (Some(power), Some(limit)) => format!("{}/{}W", watts(power), watts(limit)),
                (Some(power), None) => format!("{}W", watts(power)),
                (None, _) => dash(),
            },
            Self::Temp => row.temperature.map_or_else(dash, |t| format!("{t}C")),
            Self::Holder => gpu.holder.as_deref().map_or_else(dash, visible),
            Self::Owner => gpu.owner.as_deref().map_or_else(dash, visible),
            Self::For => gpu.since.map_or_else(dash, |since| span(since, now)),
            Self::Health => match gpu.state.as_deref() {
                Some(state @ ("claimed" | "reserved")) if gpu.health == "ok" => state.to_owned(),
                _ => visible(&gpu.health),
            },
            Self::Model => visible(&gpu.model),
        }
    }
}

fn watts(milliwatts: u32) -> u32 {
    milliwatts.saturating_add(500) / 1000
}

/// `1.5`, or `80GiB`.
fn gibibytes(bytes: u64, unit: bool) -> String {
    let tenths = (bytes >> 20) * 10 / 1024;
    let (whole, rest) = (tenths / 10, tenths % 10);
    let unit = if unit { "GiB" } else { "" };
    if rest == 0 || whole >= 100 {
        format!("{whole}{unit}")
    } else {
        format!("{whole}.{rest}{unit}")
    }
}

/// How long it is since then, in at most four characters: `45s`, `12m`, `5h`, `3d`, `20w`.
pub fn span(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.millis_since(since) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        172_800..8_640_000 => format!("{}d", seconds / 86400),
        _ => format!("{}w", seconds / 604_800),
    }
}

/// The words that say whose a process is.
pub fn of_whom(row: &TopRow, process: &TopProcess) -> String {
    match process.of {
        OfWhom::Holder => row.gpu.holder.as_deref().map_or_else(|| "its holder".into(), visible),
        OfWhom::Stranger => "without a lease".into(),
        OfWhom::Leftover => "left over".into(),
        OfWhom::Other => "-".into(),
    }
}
