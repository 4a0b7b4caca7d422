//! What each command shows of its answer. All return text; nothing here prints.

use gpuctl_ledger::model::{Path, Place};
use serde::Serialize;
use serde_json::{Value, json};

use super::list::{self, View};
use super::lists::{CHECKS, DECISIONS, DIFFERENCES, Told};
use super::{Format, Table, doctor};
use crate::engine::api::{Check, Diff, GpuRow, VersionInfo};

const NOTHING: &str = "-";

fn or_dash(text: Option<&str>) -> String {
    text.filter(|t| !t.is_empty()).unwrap_or(NOTHING).to_owned()
}

/// What one version has. Set to nothing is not the same as not there.
fn side(text: Option<&str>) -> String {
    match text {
        Some("") => "\"\"".to_owned(),
        text => or_dash(text),
    }
}

fn json_lines(objects: impl Iterator<Item = Value>) -> String {
    objects.map(|o| o.to_string() + "\n").collect()
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
///
/// # Errors
/// Which field of a template there is not.
pub fn diff(diff: &Diff, view: &View) -> Result<String, String> {
    match view.format {
        Format::Json => Ok(json_lines(std::iter::once(json!({
            "name": diff.name, "from": diff.from, "to": diff.to, "differences": diff.differences,
        })))),
        Format::Template(_) => DIFFERENCES.show(&diff.differences, view),
        Format::Table => {
            let (from, to) = (format!("VERSION {}", diff.from), format!("VERSION {}", diff.to));
            let mut table = Table::new(&["FIELD", &from, &to]);
            table.may_cut(1);
            table.may_cut(2);
            for d in &diff.differences {
                let (before, after) = (side(d.before.as_deref()), side(d.after.as_deref()));
                table.row(vec![d.field.clone(), before, after]);
            }
            Ok(table.render(view.screen))
        }
    }
}

/// inspect: a list as docker inspect prints it, one object a line, or by a template.
///
/// # Errors
/// Which field of a template there is not.
pub fn inspect(values: &[Value], format: Format) -> Result<String, String> {
    match format {
        Format::Json => return Ok(json_lines(values.iter().cloned())),
        Format::Template(template) => return list::objects(values, template),
        Format::Table => {}
    }
    let mut bytes = Vec::new();
    let indented = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut out = serde_json::Serializer::with_formatter(&mut bytes, indented);
    Ok(match values.serialize(&mut out) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => json!(values).to_string(),
    })
}

/// doctor.
///
/// # Errors
/// Which field of a template there is not.
pub fn checks(rows: &[Check], view: &View) -> Result<String, String> {
    match view.format {
        Format::Table => Ok(doctor::checks(rows, view)),
        _ => CHECKS.show(rows, view),
    }
}

/// A line of events, as docker events writes one.
///
/// # Errors
/// Which field of a template there is not.
pub fn decision(told: &Told, view: &View) -> Result<String, String> {
    if view.format != Format::Table {
        return DECISIONS.show(std::slice::from_ref(told), view);
    }
    let entry = &told.entry;
    let time = jiff::Timestamp::from_millisecond(entry.time.millis()).map_or_else(
        |_| entry.time.to_string(),
        |time| {
            let time = time.to_zoned(jiff::tz::TimeZone::system());
            time.strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
        },
    );
    let id: String = entry.container.chars().take(12).collect();
    let line = format!(
        "{time} {}{} {} (id={}, user={}, gpus={}, reason={})",
        entry.decision.word(),
        if entry.observe { " (only observed)" } else { "" },
        or_dash(Some(&entry.name)),
        or_dash(Some(&id)),
        or_dash(entry.user.as_deref()),
        or_dash(Some(&told.gpus())),
        or_dash(Some(&entry.reason)),
    );
    Ok(super::visible(&line))
}

/// version.
///
/// # Errors
/// Which field of a template there is not.
pub fn version(info: &VersionInfo, format: Format) -> Result<String, String> {
    let object = || serde_json::to_value(info).unwrap_or_default();
    match format {
        Format::Json => return Ok(json_lines(std::iter::once(object()))),
        Format::Template(template) => return list::objects(&[object()], template),
        Format::Table => {}
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
    Ok(text)
}

#[cfg(test)]
#[path = "views_tests.rs"]
mod tests;
