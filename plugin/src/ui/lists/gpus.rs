//! gpus.

use super::{NOTHING, ago, has, is, joined, object, or_dash};
use crate::engine::api::GpuRow;
use crate::ui::list::{Column, Filter, List, TRUTH, View};
use crate::ui::mebibytes;
use crate::ui::screen::Tint;

/// Characters of a UUID in a table: enough to tell GPUs apart.
const SHORT_UUID: usize = 12;

fn uuid(row: &GpuRow, view: &View) -> String {
    let uuid = row.uuid.as_str();
    let short = || uuid.get(..SHORT_UUID).unwrap_or(uuid).to_owned();
    match row.slot {
        _ if view.whole => uuid.to_owned(),
        Some(slot) => format!("{}/{slot}", short()),
        None => short(),
    }
}

/// Without the maker, who is the same for all.
fn short_model(row: &GpuRow) -> String {
    row.model.strip_prefix("NVIDIA ").unwrap_or(&row.model).to_owned()
}

fn memory(row: &GpuRow) -> String {
    let used = row.memory_used.map_or_else(|| NOTHING.to_owned(), mebibytes);
    match row.slot {
        Some(_) => NOTHING.to_owned(),
        None => format!("{used} / {}", mebibytes(row.memory_total)),
    }
}

fn is_free(row: &GpuRow) -> bool {
    row.holder.is_none() && row.health == "ok"
}

/// gpus.
pub static GPUS: List<GpuRow> = List {
    columns: &[
        Column::new("GPU", "GPU", "", |r: &GpuRow, _| r.place().to_string()),
        Column::new("UUID", "UUID", "uuid", uuid).may_go(),
        Column::new("Model", "MODEL", "model", |r: &GpuRow, _| r.model.clone())
            .shorter(short_model)
            .may_cut_last(),
        Column::new("Memory", "MEMORY", "", |r: &GpuRow, _| memory(r)),
        Column::new("Util", "UTIL", "utilisation", |r: &GpuRow, _| {
            r.utilisation.map_or_else(|| NOTHING.to_owned(), |u| format!("{u}%"))
        }),
        Column::new("Holder", "HOLDER", "holder", |r: &GpuRow, _| or_dash(r.holder.as_deref()))
            .may_cut_last(),
        Column::new("Processes", "PROCESSES", "processes", |r: &GpuRow, _| {
            or_dash(Some(&joined(&r.processes)))
        })
        .may_cut(),
        Column::new("Health", "HEALTH", "health", |r: &GpuRow, _| r.health.clone())
            .may_cut()
            .tinted(|r| (r.health != "ok").then_some(Tint::Bad)),
        Column::new("Index", "INDEX", "index", |r: &GpuRow, _| r.index.to_string()).hidden(),
        Column::new("Owner", "OWNER", "owner", |r: &GpuRow, _| or_dash(r.owner.as_deref()))
            .hidden(),
        Column::new("Since", "SINCE", "since", |r: &GpuRow, v| {
            r.since.map_or_else(|| NOTHING.to_owned(), |s| ago(s, v))
        })
        .hidden(),
        Column::new("State", "STATE", "state", |r: &GpuRow, _| or_dash(r.state.as_deref()))
            .hidden(),
        Column::new("MemoryUsed", "USED", "memory_used", |r: &GpuRow, _| {
            r.memory_used.map_or_else(|| NOTHING.to_owned(), mebibytes)
        })
        .hidden(),
        Column::new("MemoryTotal", "TOTAL", "memory_total", |r: &GpuRow, _| {
            mebibytes(r.memory_total)
        })
        .hidden(),
        Column::new("Links", "LINKS", "links", |r: &GpuRow, _| {
            joined(&r.links.iter().map(|peer| peer.gpu).collect::<Vec<_>>())
        })
        .hidden(),
    ],
    filters: &[
        Filter::new("gpu", "Its index as in nvidia-smi, or a beginning of its UUID", |r, v| {
            r.place().to_string() == v || r.index.to_string() == v || r.uuid.as_str().starts_with(v)
        }),
        Filter::new("model", "Part of its model", |r, v| has(&r.model, v)),
        Filter::new("holder", "The container that holds it: NAME or NAME-VERSION", |r, v| {
            let base = |name: &str| {
                name.rsplit_once('-').is_some_and(|(name, n)| name == v && n.parse::<u32>().is_ok())
            };
            r.holder.as_deref().is_some_and(|holder| holder == v || base(holder))
        }),
        Filter::new("owner", "Who owns that", |r, v| r.owner.as_deref() == Some(v)),
        Filter::new("free", "Whether it could be had: true, false", |r: &GpuRow, v| {
            is(is_free(r), v)
        })
        .only(TRUTH),
        Filter::new("health", "ok, or part of what is wrong", |r, v| {
            if v == "ok" { r.health == "ok" } else { has(&r.health, v) }
        }),
    ],
    name: |r, _| Some(r.uuid.to_string()),
    object,
};
