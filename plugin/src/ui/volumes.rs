//! What the volume commands show of their answers. All return text; nothing here prints.

use gpuctl_ledger::model::{ByteSize, Timestamp};
use serde::Serialize;

use super::{Format, Table, ago};
use crate::engine::api::{BackendRow, VolumeRow, VolumeVersionRow};

const NOTHING: &str = "-";

fn size(size: Option<ByteSize>) -> String {
    size.map_or_else(|| NOTHING.to_owned(), |s| s.to_string())
}

fn json_lines<T: Serialize>(rows: &[T]) -> String {
    rows.iter().filter_map(|row| serde_json::to_string(row).ok()).map(|l| l + "\n").collect()
}

/// volume ls.
pub fn volumes(rows: &[VolumeRow], format: Format, quiet: bool, now: Timestamp) -> String {
    if quiet {
        return rows.iter().map(|r| format!("{}\n", r.docker_name)).collect();
    }
    if format == Format::Json {
        return json_lines(rows);
    }
    let mut table =
        Table::new(&["NAME", "VERSION", "SIZE", "USED", "BACKEND", "OWNER", "SINCE", "CONTAINERS"]);
    for r in rows {
        let used = match (&r.fault, r.used, r.size) {
            (Some(fault), _, _) => fault.clone(),
            (None, Some(used), Some(ByteSize(all))) if all > 0 => {
                format!("{used} ({}%)", u128::from(used.0) * 100 / u128::from(all))
            }
            (None, used, _) => size(used),
        };
        let containers = match r.containers.as_slice() {
            [] => NOTHING.to_owned(),
            names => names.join(","),
        };
        table.row(vec![
            r.name.to_string(),
            r.version.to_string(),
            size(r.size),
            used,
            r.backend.to_string(),
            r.owner.clone().unwrap_or_else(|| NOTHING.to_owned()),
            ago(r.since, now),
            containers,
        ]);
    }
    table.to_string()
}

/// volume history.
pub fn volume_history(
    rows: &[VolumeVersionRow],
    format: Format,
    quiet: bool,
    now: Timestamp,
) -> String {
    if quiet {
        return rows.iter().map(|r| format!("{}\n", r.version)).collect();
    }
    if format == Format::Json {
        return json_lines(rows);
    }
    let mut table =
        Table::new(&["VERSION", "VOLUME", "SIZE", "ON DISK", "BACKEND", "WHEN", "BY", "WHY"]);
    for r in rows {
        let mark = if r.current { "*" } else { "" };
        table.row(vec![
            format!("{}{mark}", r.version),
            r.docker_name.clone(),
            size(r.size),
            if r.present { size(r.on_disk) } else { "removed".to_owned() },
            r.backend.to_string(),
            ago(r.at, now),
            r.by.clone().unwrap_or_else(|| NOTHING.to_owned()),
            r.why.clone(),
        ]);
    }
    table.to_string()
}

/// volume backends.
pub fn backends(rows: &[BackendRow], format: Format) -> String {
    if format == Format::Json {
        return json_lines(rows);
    }
    let mut table = Table::new(&["BACKEND", "HERE", "HOW", "FREE"]);
    for r in rows {
        let here = match &r.why_not {
            None if r.preferred => "yes, preferred".to_owned(),
            None => "yes".to_owned(),
            Some(why) => format!("no: {why}"),
        };
        table.row(vec![r.backend.to_string(), here, r.how.clone(), size(r.free)]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuctl_ledger::model::{Backend, Version, VolumeName};

    #[test]
    fn a_volume_shows_how_full_it_is_or_what_is_wrong() {
        let row = VolumeRow {
            name: VolumeName::new("data").unwrap(),
            version: Version(1),
            docker_name: "data-1".into(),
            size: Some(ByteSize(20 << 30)),
            used: Some(ByteSize(5 << 30)),
            backend: Backend::Image,
            containers: vec!["a-0".into(), "b-1".into()],
            owner: None,
            since: Timestamp::from_millis(0),
            fault: None,
        };
        let at = Timestamp::from_millis(60_000 * 5);
        let text = volumes(std::slice::from_ref(&row), Format::Table, false, at);
        assert!(text.contains("5GB (25%)") && text.contains("a-0,b-1"), "{text}");
        assert_eq!(volumes(std::slice::from_ref(&row), Format::Table, true, at), "data-1\n");
        let faulty = VolumeRow { fault: Some("not mounted".into()), size: None, ..row };
        assert!(volumes(&[faulty], Format::Table, false, at).contains("not mounted"));
    }
}
