//! ps.

use gpuctl_ledger::model::{GpuRequest, Place};
use serde_json::json;

use super::{NOTHING, ago, has, is, joined, or_dash};
use crate::engine::api::PsRow;
use crate::ui::list::{Column, Filter, List, TRUTH, View, is_named};
use crate::ui::screen::Tint;

/// `3 (0,2,5)` while it holds GPUs; what it is to get otherwise.
fn gpus(wanted: &GpuRequest, held: &[Place]) -> String {
    match held {
        [] => wanted.to_string(),
        held => format!("{} ({})", held.len(), joined(held)),
    }
}

fn id(row: &PsRow, view: &View) -> Option<String> {
    let id = row.id.as_ref()?;
    Some(if view.whole { id.as_str() } else { id.short() }.to_owned())
}

/// Docker's word for its state, of what its status says.
pub(crate) fn state(status: &str) -> &'static str {
    match status.split([' ', '(']).next().unwrap_or_default() {
        _ if status.contains("(Paused)") => "paused",
        "Up" => "running",
        "Created" => "created",
        "Restarting" => "restarting",
        "Removal" => "removing",
        "Dead" => "dead",
        _ => "exited",
    }
}

/// What states there are, as docker ps filters by them.
const STATES: &[&str] =
    &["created", "running", "paused", "restarting", "removing", "exited", "dead"];

/// ps.
pub static CONTAINERS: List<PsRow> = List {
    columns: &[
        Column::new("Name", "NAME", "name", |r: &PsRow, _| r.name.to_string()),
        Column::new("Version", "VERSION", "version", |r: &PsRow, _| {
            r.version.map_or_else(|| NOTHING.to_owned(), |v| v.to_string())
        }),
        Column::new("GPUs", "GPUS", "", |r: &PsRow, _| gpus(&r.gpus, &r.held)),
        Column::new("Owner", "OWNER", "owner", |r: &PsRow, _| or_dash(r.owner.as_deref())),
        Column::new("Since", "SINCE", "since", |r: &PsRow, v| {
            r.since.map_or_else(|| NOTHING.to_owned(), |s| ago(s, v))
        })
        .may_cut(),
        Column::new("Status", "STATUS", "status", |r: &PsRow, _| r.status.clone())
            .may_cut()
            .tinted(|r| r.refused.as_ref().map(|_| Tint::Doubtful)),
        Column::new("Ports", "PORTS", "ports", |r: &PsRow, _| r.ports.clone()).may_cut(),
        Column::new("ID", "CONTAINER ID", "id", |r: &PsRow, v| {
            id(r, v).unwrap_or_else(|| NOTHING.into())
        })
        .hidden(),
        Column::new("Image", "IMAGE", "image", |r: &PsRow, _| r.image.clone()).hidden(),
        Column::new("Asked", "ASKED", "gpus", |r: &PsRow, _| r.gpus.to_string()).hidden(),
        Column::new("Held", "HELD", "held", |r: &PsRow, _| joined(&r.held)).hidden(),
        Column::new("State", "STATE", "", |r: &PsRow, _| state(&r.status).to_owned()).hidden(),
        Column::new("Running", "RUNNING", "running", |r: &PsRow, _| r.running.to_string()).hidden(),
        Column::new("Refused", "REFUSED", "refused", |r: &PsRow, _| {
            r.refused.as_ref().map_or_else(|| NOTHING.to_owned(), |refused| refused.reason.clone())
        })
        .hidden(),
    ],
    filters: &[
        Filter::new("name", "Part of its name, or ^NAME$", |r, v| is_named(r.name.as_str(), v)),
        Filter::new("id", "Beginning of its id", |r, v| {
            r.id.as_ref().is_some_and(|id| id.as_str().starts_with(v))
        }),
        Filter::new("status", "created, running, paused, restarting, exited", |r: &PsRow, v| {
            state(&r.status) == v
        })
        .only(STATES),
        Filter::new("ancestor", "Its image, with or without tag", |r, v| {
            r.image == v || r.image.rsplit_once(':').is_some_and(|(name, _)| name == v)
        }),
        Filter::new("owner", "Who owns it", |r, v| r.owner.as_deref() == Some(v)),
        Filter::new("gpu", "A GPU that it holds, by index", |r, v| {
            r.held.iter().any(|place| place.to_string() == v)
        }),
        Filter::new("managed", "Whether docker gpuctl made it: true, false", |r: &PsRow, v| {
            is(r.version.is_some(), v)
        })
        .only(TRUTH),
        Filter::new("refused", "Part of why its start was refused", |r, v| {
            r.refused.as_ref().is_some_and(|refused| has(&refused.reason, v))
        }),
    ],
    // What takes ids takes those of managed ones only.
    name: |r, v| r.version.and_then(|_| id(r, v)),
    object: |r| {
        json!({
            "name": r.name, "version": r.version, "id": r.id, "image": r.image,
            "gpus": r.gpus.to_string(), "held": r.held, "owner": r.owner, "since": r.since,
            "status": r.status, "ports": r.ports, "running": r.running,
            "refused": r.refused,
        })
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_dockers_word_for_it() {
        for (status, word) in [
            ("Up 5 minutes", "running"),
            ("Up 5 minutes (Paused)", "paused"),
            ("Exited (137) 3 minutes ago", "exited"),
            ("Created", "created"),
            ("Restarting (1) 2 seconds ago", "restarting"),
            ("Removed", "exited"),
        ] {
            assert_eq!(state(status), word, "{status}");
        }
    }
}
