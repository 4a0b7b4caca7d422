//! history.

use serde_json::json;

use super::{ago, has, is, or_dash};
use crate::engine::api::{Files, HistoryRow};
use crate::ui::list::{Column, Filter, List, TRUTH};

/// Where a version's files are.
fn kept(files: &Files) -> String {
    match files {
        Files::Current => "current".into(),
        Files::Container => "container".into(),
        Files::Snapshot { bytes } => format!("snapshot {bytes}"),
        Files::None => "-".into(),
    }
}

/// history.
pub static VERSIONS: List<HistoryRow> = List {
    columns: &[
        Column::new("Version", "VERSION", "version", |r: &HistoryRow, _| {
            format!("{}{}", r.version, if r.current { " *" } else { "" })
        }),
        Column::new("Created", "CREATED", "at", |r: &HistoryRow, v| ago(r.at, v)),
        Column::new("By", "BY", "by", |r: &HistoryRow, _| or_dash(r.by.as_deref())),
        Column::new("GPUs", "GPUS", "gpus", |r: &HistoryRow, _| r.gpus.to_string()),
        Column::new("Image", "IMAGE", "image", |r: &HistoryRow, _| r.image.clone()).may_cut(),
        Column::new("Files", "FILES", "files", |r: &HistoryRow, _| kept(&r.files)),
        Column::new("Change", "CHANGE", "why", |r: &HistoryRow, _| r.why.clone()).may_cut(),
        Column::new("Current", "CURRENT", "current", |r: &HistoryRow, _| r.current.to_string())
            .hidden(),
        Column::new("CreatedAt", "CREATED AT", "at", |r: &HistoryRow, _| r.at.to_string()).hidden(),
    ],
    filters: &[
        Filter::new("by", "Who asked for it", |r, v| r.by.as_deref() == Some(v)),
        Filter::new("change", "Part of what changed", |r, v| has(&r.why, v)),
        Filter::new("current", "true, false", |r: &HistoryRow, v| is(r.current, v)).only(TRUTH),
    ],
    name: |r, _| Some(r.version.to_string()),
    object: |r| {
        json!({
            "version": r.version, "current": r.current, "at": r.at, "by": r.by, "why": r.why,
            "gpus": r.gpus.to_string(), "image": r.image, "how": r.how, "changes": r.changes,
            "files": r.files,
        })
    },
};
