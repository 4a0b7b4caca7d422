//! What each command shows of its answer. All return text; nothing here prints.

use gpuctl_ledger::audit::Entry;
use gpuctl_ledger::model::{GpuRequest, Path, Place, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Table, ago, mebibytes};
use crate::engine::api::{Check, Diff, Files, GpuRow, HistoryRow, PsRow, Verdict, VersionInfo};

/// How rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One object a line.
    Json,
}

const NOTHING: &str = "-";
/// Characters of a UUID in a table: enough to tell GPUs apart.
const SHORT_UUID: usize = 12;

fn or_dash(text: Option<&str>) -> String {
    text.filter(|t| !t.is_empty()).unwrap_or(NOTHING).to_owned()
}

fn json_lines(objects: impl Iterator<Item = Value>) -> String {
    objects.map(|o| o.to_string() + "\n").collect()
}

fn joined<T: ToString>(list: &[T]) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

/// `3 (0,2,5)` while it holds GPUs; what it is to get otherwise.
fn gpus_cell(wanted: &GpuRequest, held: &[Place]) -> String {
    match held {
        [] => wanted.to_string(),
        held => format!("{} ({})", held.len(), joined(held)),
    }
}

/// ps.
pub fn ps(rows: &[PsRow], format: Format, quiet: bool, whole: bool, now: Timestamp) -> String {
    let id = |r: &PsRow| {
        let id = r.id.as_ref()?;
        Some(if whole { id.as_str() } else { id.short() }.to_owned())
    };
    if quiet {
        // What takes ids takes those of managed ones only.
        let managed = rows.iter().filter(|r| r.version.is_some());
        return managed.filter_map(id).map(|i| i + "\n").collect();
    }
    if format == Format::Json {
        return json_lines(rows.iter().map(|r| {
            json!({
                "name": r.name, "version": r.version, "id": r.id, "image": r.image,
                "gpus": r.gpus.to_string(), "held": r.held, "owner": r.owner, "since": r.since,
                "status": r.status, "ports": r.ports, "running": r.running,
                "refused": r.refused,
            })
        }));
    }
    let mut table = Table::new(&["NAME", "VERSION", "GPUS", "OWNER", "SINCE", "STATUS", "PORTS"]);
    for r in rows {
        table.row(vec![
            r.name.to_string(),
            r.version.map_or_else(|| NOTHING.to_owned(), |v| v.to_string()),
            gpus_cell(&r.gpus, &r.held),
            or_dash(r.owner.as_deref()),
            r.since.map_or_else(|| NOTHING.to_owned(), |s| ago(s, now)),
            r.status.clone(),
            r.ports.clone(),
        ]);
    }
    table.to_string()
}

/// gpus.
pub fn gpus(rows: &[GpuRow], format: Format, quiet: bool, whole: bool) -> String {
    if quiet {
        return rows.iter().map(|r| r.uuid.to_string() + "\n").collect();
    }
    if format == Format::Json {
        return json_lines(rows.iter().filter_map(|r| serde_json::to_value(r).ok()));
    }
    let mut table =
        Table::new(&["GPU", "UUID", "MODEL", "MEMORY", "UTIL", "HOLDER", "PROCESSES", "HEALTH"]);
    for r in rows {
        let uuid = r.uuid.as_str();
        let short = || uuid.get(..SHORT_UUID).unwrap_or(uuid).to_owned();
        let uuid = match r.slot {
            _ if whole => uuid.to_owned(),
            Some(slot) => format!("{}/{slot}", short()),
            None => short(),
        };
        let used = r.memory_used.map_or_else(|| NOTHING.to_owned(), mebibytes);
        table.row(vec![
            r.place().to_string(),
            uuid,
            r.model.clone(),
            match r.slot {
                Some(_) => NOTHING.to_owned(),
                None => format!("{used} / {}", mebibytes(r.memory_total)),
            },
            r.utilisation.map_or_else(|| NOTHING.to_owned(), |u| format!("{u}%")),
            or_dash(r.holder.as_deref()),
            or_dash(Some(&joined(&r.processes))),
            r.health.clone(),
        ]);
    }
    table.to_string()
}

/// gpus --links: how each GPU lies to each, in the words of `nvidia-smi topo -m`.
pub fn links(rows: &[GpuRow]) -> String {
    let gpus: Vec<&GpuRow> = rows.iter().filter(|r| matches!(r.place(), Place::Whole(_))).collect();
    let names: Vec<String> = gpus.iter().map(|r| format!("GPU{}", r.index)).collect();
    let mut head = vec![""];
    head.extend(names.iter().map(String::as_str));
    let mut table = Table::new(&head);
    for (row, name) in gpus.iter().zip(&names) {
        let mut cells = vec![name.clone()];
        cells.extend(gpus.iter().map(|other| {
            let peer = row.links.iter().find(|peer| peer.gpu == other.index);
            match peer {
                _ if row.index == other.index => "X".to_owned(),
                Some(peer) if peer.nvlinks > 0 => format!("NV{}", peer.nvlinks),
                Some(peer) => match peer.path {
                    Path::Board | Path::Switch => "PIX",
                    Path::Switches => "PXB",
                    Path::Bridge => "PHB",
                    Path::Socket => "NODE",
                    Path::System => "SYS",
                }
                .to_owned(),
                None => "SYS".to_owned(),
            }
        }));
        table.row(cells);
    }
    table.to_string()
}

/// diff.
pub fn diff(diff: &Diff, format: Format) -> String {
    if format == Format::Json {
        return json_lines(std::iter::once(json!({
            "name": diff.name, "from": diff.from, "to": diff.to, "differences": diff.differences,
        })));
    }
    let mut table =
        Table::new(&["FIELD", &format!("VERSION {}", diff.from), &format!("VERSION {}", diff.to)]);
    for d in &diff.differences {
        table.row(vec![d.field.clone(), or_dash(d.before.as_deref()), or_dash(d.after.as_deref())]);
    }
    table.to_string()
}

/// Where a version's files are, in a table.
fn kept(files: &Files) -> String {
    match files {
        Files::Current => "current".into(),
        Files::Container => "container".into(),
        Files::Snapshot { bytes } => format!("snapshot {bytes}"),
        Files::None => "-".into(),
    }
}

/// history.
pub fn history(rows: &[HistoryRow], format: Format, quiet: bool, now: Timestamp) -> String {
    if quiet {
        return rows.iter().map(|r| format!("{}\n", r.version)).collect();
    }
    if format == Format::Json {
        return json_lines(rows.iter().map(|r| {
            json!({
                "version": r.version, "current": r.current, "at": r.at, "by": r.by, "why": r.why,
                "gpus": r.gpus.to_string(), "image": r.image, "how": r.how, "changes": r.changes,
                "files": r.files,
            })
        }));
    }
    let mut table = Table::new(&["VERSION", "CREATED", "BY", "GPUS", "IMAGE", "FILES", "CHANGE"]);
    for r in rows {
        table.row(vec![
            format!("{}{}", r.version, if r.current { " *" } else { "" }),
            ago(r.at, now),
            or_dash(r.by.as_deref()),
            r.gpus.to_string(),
            r.image.clone(),
            kept(&r.files),
            r.why.clone(),
        ]);
    }
    table.to_string()
}

/// inspect: a list as docker inspect prints it, or one object a line.
pub fn inspect(objects: &[Value], format: Format) -> String {
    if format == Format::Json {
        return json_lines(objects.iter().cloned());
    }
    let mut bytes = Vec::new();
    let indented = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut out = serde_json::Serializer::with_formatter(&mut bytes, indented);
    match objects.serialize(&mut out) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => json!(objects).to_string(),
    }
}

/// doctor.
pub fn checks(rows: &[Check], format: Format) -> String {
    if format == Format::Json {
        return objects(rows);
    }
    let mut table = Table::new(&["CHECK", "", "DETAIL"]);
    for c in rows {
        let verdict = match c.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Problem => "PROBLEM",
            Verdict::Fixed => "fixed",
        };
        table.row(vec![c.name.clone(), verdict.to_owned(), c.detail.clone()]);
        if let Some(fix) = c.fix.as_ref().filter(|_| c.verdict != Verdict::Ok) {
            table.row(vec![String::new(), String::new(), format!("fix: {fix}")]);
        }
    }
    table.to_string()
}

/// A line of events, as docker events writes one.
pub fn decision(entry: &Entry, indexes: &[Place], format: Format) -> String {
    if format == Format::Json {
        let mut object = json!(entry);
        if let Some(fields) = object.as_object_mut() {
            fields.insert("indexes".into(), json!(indexes));
        }
        return object.to_string();
    }
    let time = jiff::Timestamp::from_millisecond(entry.time.millis()).map_or_else(
        |_| entry.time.to_string(),
        |time| {
            let time = time.to_zoned(jiff::tz::TimeZone::system());
            time.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
        },
    );
    let gpus = if indexes.len() == entry.gpus.len() {
        joined(indexes)
    } else {
        joined(&entry.gpus.iter().map(|unit| unit.as_str()).collect::<Vec<_>>())
    };
    let id: String = entry.container.chars().take(12).collect();
    let line = format!(
        "{time} {}{} {} (id={}, user={}, gpus={}, reason={})",
        entry.decision.word(),
        if entry.observe { " (only observed)" } else { "" },
        or_dash(Some(&entry.name)),
        or_dash(Some(&id)),
        or_dash(entry.user.as_deref()),
        or_dash(Some(&gpus)),
        or_dash(Some(&entry.reason)),
    );
    super::visible(&line)
}

/// version.
pub fn version(info: &VersionInfo, format: Format) -> String {
    if format == Format::Json {
        return objects(std::slice::from_ref(info));
    }
    let mut text = String::new();
    for (key, value) in [
        ("gpuctl", info.gpuctl.as_str()),
        ("Engine", &info.engine),
        ("driver", info.driver.as_deref().unwrap_or("none")),
        ("ledger", &info.ledger),
        ("node", &info.node),
    ] {
        text.push_str(&format!("{:<9}{}\n", format!("{key}:"), super::visible(value)));
    }
    text
}

fn objects<T: Serialize>(rows: &[T]) -> String {
    json_lines(rows.iter().filter_map(|r| serde_json::to_value(r).ok()))
}

#[cfg(test)]
#[path = "views_tests.rs"]
mod tests;
