//! docs/json.md and the program are one: every key of every list stands there, with its type, and none that
//! there is not.

use std::collections::{BTreeMap, BTreeSet};

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::model::{
    Backend, ByteSize, ContainerId, ContainerName, DockerName, GpuRequest, How, Path, Peer, Place,
    Timestamp, Unit, Version, VolumeName,
};
use gpuctl_ledger::rules::retry::WaitsFor;
use serde_json::{Value, json};

use super::list::{List, View};
use super::screen::Screen;
use super::{
    BACKENDS, CHECKS, CONTAINERS, DECISIONS, Format, GPUS, PORTS, Told, VERSIONS, VOLUME_VERSIONS,
    VOLUMES,
};
use crate::change::Difference;
use crate::engine::api::{
    BackendRow, Check, Diff, Files, GpuRow, HistoryRow, PortRow, PsRow, RefusedRow, Verdict,
    VersionInfo, VolumeRow, VolumeVersionRow,
};

const PAGE: &str = include_str!("../../../docs/json.md");

/// Type by key of a command's section.
fn documented(command: &str) -> BTreeMap<String, String> {
    let head = format!("\n## {command}\n");
    let (_, section) = PAGE.split_once(&head).expect(command);
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let of = |line: &str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let key = cells.next().unwrap_or_default().trim_matches('`').to_owned();
        (key, cells.next().unwrap_or_default().to_owned())
    };
    rows.map(of).collect()
}

fn fits(value: &Value, kind: &str) -> bool {
    let word = match value {
        Value::Null => return kind.contains("or null"),
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    kind.starts_with(word)
}

/// A row with everything in it, and one with as little as can be.
#[track_caller]
fn same(command: &str, full: &Value, bare: &Value) {
    let kinds = documented(command);
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().expect("an object").keys().cloned().collect()
    };
    let all: BTreeSet<String> = kinds.keys().cloned().collect();
    assert_eq!(keys(full), all, "{command}: docs/json.md has other keys than the program");
    for (key, kind) in &kinds {
        assert!(fits(&full[key], kind), "{command}: {key} is no {kind}: {}", full[key]);
        match bare.get(key) {
            None => assert!(kind.contains("optional"), "{command}: {key} may be absent"),
            Some(value) => assert!(fits(value, kind), "{command}: {key} is no {kind}: {value}"),
        }
    }
}

#[track_caller]
fn list<R>(command: &str, list: &List<R>, full: R, bare: R) {
    same(command, &(list.object)(&full), &(list.object)(&bare));
    // Every column can be shown of both, and its key is one that there is.
    let (format, screen) = (Format::Table, Screen::default());
    let view = View { format, quiet: false, whole: false, now: Timestamp::EPOCH, screen };
    let kinds = documented(command);
    let mut fields = BTreeSet::new();
    for column in list.columns {
        assert!(fields.insert(column.field), "{command}: .{} stands twice", column.field);
        assert!(
            column.key.is_empty() || kinds.contains_key(column.key),
            "{command}: {}",
            column.key
        );
        assert!(!(column.cell)(&full, &view).is_empty(), "{command}: .{}", column.field);
        let _ = (column.cell)(&bare, &view);
    }
}

const AT: fn() -> Timestamp = || Timestamp::from_millis(0);

#[test]
fn containers_and_versions_are_as_documented() {
    let full = PsRow {
        name: DockerName::new("train").unwrap(),
        version: Some(Version(2)),
        id: Some(ContainerId::new("0123456789abcdef").unwrap()),
        image: "busybox".into(),
        gpus: GpuRequest::Count(3),
        held: vec![Place::Whole(0), Place::Mig(1, 2), Place::Slot(3, 1)],
        owner: Some("ann".into()),
        since: Some(AT()),
        status: "Up 5 minutes".into(),
        ports: "80/tcp".into(),
        running: true,
        refused: Some(RefusedRow {
            tries: 1,
            reason: "none is free".into(),
            waits_for: WaitsFor::Gpus,
            since: AT(),
            next: AT(),
        }),
    };
    let mut object = (CONTAINERS.object)(&full);
    assert_eq!(object["held"], json!([0, "1:2", "3/1"]));
    let refused = object["refused"].take();
    let keys: Vec<&String> = refused.as_object().unwrap().keys().collect();
    for key in keys {
        assert!(
            documented("ps").contains_key("refused") && PAGE.contains(&format!("`{key}`")),
            "{key}"
        );
    }
    let bare = PsRow {
        version: None,
        id: None,
        held: vec![],
        owner: None,
        since: None,
        refused: None,
        ..full.clone()
    };
    list("ps", &CONTAINERS, full, bare);

    let full = HistoryRow {
        version: Version(1),
        current: true,
        at: AT(),
        by: Some("ann".into()),
        why: "scale 1 -> 2".into(),
        gpus: GpuRequest::Count(2),
        image: "busybox".into(),
        how: Some(How::InPlace),
        changes: vec![Difference { field: "gpus".into(), before: None, after: Some("2".into()) }],
        files: Files::Snapshot { bytes: ByteSize(1) },
    };
    assert_eq!(json!(full.how), "in-place");
    assert_eq!(json!(full.files), json!({"kept": "snapshot", "bytes": 1}));
    let bare =
        HistoryRow { by: None, how: None, changes: vec![], files: Files::None, ..full.clone() };
    list("history", &VERSIONS, full, bare);

    let diff = Diff {
        name: ContainerName::new("train").unwrap(),
        from: Version(0),
        to: Version(1),
        differences: vec![],
    };
    let (format, screen) = (Format::Json, Screen::default());
    let view = View { format, quiet: false, whole: false, now: AT(), screen };
    let diff: Value = serde_json::from_str(&super::diff(&diff, &view).unwrap()).unwrap();
    same("diff", &diff, &diff);
}

#[test]
fn gpus_ports_events_doctor_and_version_are_as_documented() {
    let full = GpuRow {
        index: 0,
        mig: Some(1),
        slot: Some(2),
        uuid: Unit::new("GPU-a").unwrap(),
        model: "A100".into(),
        memory_total: 8,
        memory_used: Some(1),
        utilisation: Some(2),
        holder: Some("train-0".into()),
        owner: Some("ann".into()),
        since: Some(AT()),
        state: Some("active".into()),
        processes: vec![1],
        health: "ok".into(),
        links: vec![Peer { gpu: 1, nvlinks: 4, path: Path::Switch }],
    };
    let link = &json!(full)["links"][0];
    assert_eq!(*link, json!({"gpu": 1, "nvlinks": 4, "path": "switch"}));
    let bare = GpuRow {
        mig: None,
        slot: None,
        memory_used: None,
        utilisation: None,
        holder: None,
        owner: None,
        since: None,
        state: None,
        processes: vec![],
        links: vec![],
        ..full.clone()
    };
    list("gpus", &GPUS, full, bare);

    let row = || PortRow {
        port: 20001,
        inside: "22/tcp".into(),
        name: ContainerName::new("train").unwrap(),
        since: AT(),
        listening: true,
    };
    list("ports", &PORTS, row(), row());

    let entry = Entry::new(Decision::Refused, "0123456789ab", "train").why("none is free");
    let entry = entry.gpus(&[Unit::new("GPU-a").unwrap()]);
    let full = Entry { user: Some("ann".into()), ..entry.clone() };
    let told = |entry: Entry| Told { entry, indexes: vec![Place::Whole(0)] };
    list("events", &DECISIONS, told(full), told(Entry { user: None, ..entry }));

    let check = |fix: Option<&str>| Check {
        name: "engine".into(),
        verdict: Verdict::Problem,
        detail: "is away".into(),
        fix: fix.map(str::to_owned),
    };
    list("doctor", &CHECKS, check(Some("x")), check(None));
    for verdict in [Verdict::Ok, Verdict::Warning, Verdict::Problem, Verdict::Fixed] {
        let word = json!(verdict);
        assert!(PAGE.contains(&format!("`{}`", word.as_str().unwrap())), "{word}");
    }

    let version = |driver: Option<&str>| {
        json!(VersionInfo {
            gpuctl: "1".into(),
            engine: "29".into(),
            driver: driver.map(str::to_owned),
            ledger: "sqlite:///x".into(),
            node: "n".into(),
        })
    };
    same("version", &version(Some("550")), &version(None));
}

#[test]
fn volumes_are_as_documented() {
    let full = VolumeRow {
        name: VolumeName::new("data").unwrap(),
        version: Version(1),
        docker_name: "data-1".into(),
        size: Some(ByteSize(20 << 30)),
        used: Some(ByteSize(5 << 30)),
        backend: Backend::Image,
        containers: vec!["a-0".into(), "b-1".into()],
        owner: Some("ann".into()),
        since: AT(),
        fault: Some("it is not mounted".into()),
    };
    let (format, screen) = (Format::Table, Screen::default());
    let view = View { format, quiet: false, whole: false, now: AT(), screen };
    let shown = |row: &VolumeRow| VOLUMES.show(std::slice::from_ref(row), &view).unwrap();
    assert!(shown(&full).contains("it is not mounted"));
    let good = VolumeRow { fault: None, ..full.clone() };
    let text = shown(&good);
    assert!(text.contains("5GB (25%)") && text.contains("a-0,b-1"), "{text}");
    let quiet = View { quiet: true, ..view };
    assert_eq!(VOLUMES.show(std::slice::from_ref(&good), &quiet).unwrap(), "data-1\n");
    let bare = VolumeRow { size: None, used: None, containers: vec![], owner: None, ..good };
    list("volume ls", &VOLUMES, full, bare);

    let full = VolumeVersionRow {
        version: Version(1),
        current: true,
        docker_name: "data-1".into(),
        present: true,
        size: Some(ByteSize(1)),
        on_disk: Some(ByteSize(1)),
        backend: Backend::Size,
        at: AT(),
        by: Some("ann".into()),
        why: "resize".into(),
    };
    let bare = VolumeVersionRow { size: None, on_disk: None, by: None, ..full.clone() };
    list("volume history", &VOLUME_VERSIONS, full, bare);

    let row = |why_not: Option<&str>, free| BackendRow {
        backend: Backend::Image,
        preferred: why_not.is_none(),
        why_not: why_not.map(str::to_owned),
        how: "files".into(),
        free,
    };
    list("volume backends", &BACKENDS, row(Some("no mkfs"), Some(ByteSize(1))), row(None, None));
}
