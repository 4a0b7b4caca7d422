//! events, for templates and JSON.

use gpuctl_ledger::audit::Entry;
use gpuctl_ledger::model::Place;
use serde_json::json;

use super::{joined, or_dash};
use crate::ui::list::{Column, List};

/// A decision, and where its GPUs stand.
#[derive(Debug)]
pub struct Told {
    /// As the audit log has it.
    pub entry: Entry,
    /// Of those GPUs that the node has.
    pub indexes: Vec<Place>,
}

impl Told {
    /// Its GPUs: by index where all are known, else by UUID.
    pub(crate) fn gpus(&self) -> String {
        if self.indexes.len() == self.entry.gpus.len() {
            joined(&self.indexes)
        } else {
            joined(&self.entry.gpus.iter().map(|unit| unit.as_str()).collect::<Vec<_>>())
        }
    }
}

/// events.
pub static DECISIONS: List<Told> = List {
    columns: &[
        Column::new("Time", "TIME", "time", |r, _| r.entry.time.to_string()),
        Column::new("Decision", "DECISION", "decision", |r, _| r.entry.decision.word().to_owned()),
        Column::new("Name", "NAME", "name", |r, _| or_dash(Some(&r.entry.name))),
        Column::new("ID", "CONTAINER ID", "container", |r, _| or_dash(Some(&r.entry.container))),
        Column::new("User", "USER", "user", |r, _| or_dash(r.entry.user.as_deref())),
        Column::new("GPUs", "GPUS", "gpus", |r, _| or_dash(Some(&r.gpus()))),
        Column::new("Reason", "REASON", "reason", |r, _| or_dash(Some(&r.entry.reason))),
        Column::new("Observe", "OBSERVE", "observe", |r, _| r.entry.observe.to_string()),
    ],
    filters: &[],
    name: |r, _| Some(r.entry.name.clone()),
    object: |r| {
        let mut object = json!(r.entry);
        if let Some(fields) = object.as_object_mut() {
            fields.insert("indexes".into(), json!(r.indexes));
        }
        object
    },
};
