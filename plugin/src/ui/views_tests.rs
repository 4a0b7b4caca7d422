use super::*;
use crate::engine::api::PsRow;
use crate::ui::screen::Screen;
use crate::ui::{CONTAINERS, GPUS};
use gpuctl_ledger::audit::Decision;
use gpuctl_ledger::audit::Entry;
use gpuctl_ledger::model::GpuRequest;
use gpuctl_ledger::model::Timestamp;
use gpuctl_ledger::model::{ContainerId, DockerName, Path, Peer, Place, Unit, Version};
use gpuctl_ledger::rules::retry::WaitsFor;

use crate::engine::api::RefusedRow;

fn row() -> PsRow {
    PsRow {
        name: DockerName::new("train").unwrap(),
        version: Some(Version(2)),
        id: Some(ContainerId::new("0123456789abcdef").unwrap()),
        image: "busybox".into(),
        gpus: GpuRequest::Count(3),
        held: vec![Place::Whole(0), Place::Whole(2), Place::Whole(5)],
        owner: Some("ann".into()),
        since: Some(Timestamp::from_millis(0)),
        status: "Up 5 minutes".into(),
        ports: "80/tcp".into(),
        running: true,
        refused: None,
    }
}

fn view(format: Format, quiet: bool, whole: bool) -> View {
    View { format, quiet, whole, now: Timestamp::from_millis(300_000), screen: Screen::default() }
}

fn ps(rows: &[PsRow], format: Format, quiet: bool, whole: bool) -> String {
    CONTAINERS.show(rows, &view(format, quiet, whole)).unwrap()
}

fn gpus(rows: &[GpuRow], format: Format, quiet: bool, whole: bool) -> String {
    GPUS.show(rows, &view(format, quiet, whole)).unwrap()
}

#[test]
fn ps_shows_what_is_held_or_what_is_wanted() {
    let stopped = PsRow { held: vec![], owner: None, since: None, ..row() };
    let text = ps(&[row(), stopped], Format::Table, false, false);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("NAME    VERSION   GPUS        OWNER   SINCE"), "{text}");
    assert!(lines[1].contains("3 (0,2,5)") && lines[1].contains("5 minutes ago"), "{text}");
    assert!(lines[2].contains(" 3 ") && lines[2].contains(" - "), "{text}");
    assert_eq!(ps(&[row()], Format::Table, true, false), "0123456789ab\n");
    assert_eq!(ps(&[row()], Format::Table, true, true), "0123456789abcdef\n");
    assert_eq!(ps(&[], Format::Json, false, false), "");
}

#[test]
fn json_is_one_object_a_line_and_keeps_texts_as_they_are() {
    let odd = PsRow { image: "a\nb".into(), ..row() };
    let text = ps(&[odd.clone(), odd], Format::Json, false, false);
    assert_eq!(text.lines().count(), 2);
    let one: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(one["image"], "a\nb");
    assert_eq!(one["gpus"], "3");
    assert_eq!(one["held"], json!([0, 2, 5]));
}

#[test]
fn gpus_are_shown_with_what_the_driver_says() {
    let gpu = GpuRow {
        index: 3,
        mig: None,
        slot: None,
        uuid: Unit::new("GPU-11111111-2222-3333-4444-555555555555").unwrap(),
        model: "NVIDIA A100".into(),
        memory_total: 80 << 30,
        memory_used: Some(1234 << 20),
        utilisation: Some(7),
        holder: Some("train-2".into()),
        owner: None,
        since: None,
        state: None,
        processes: vec![10, 11],
        health: "ok".into(),
        links: vec![],
    };
    let text = gpus(std::slice::from_ref(&gpu), Format::Table, false, false);
    let line = text.lines().nth(1).unwrap();
    for part in ["3 ", "GPU-11111111 ", "1234MiB / 81920MiB", "7%", "train-2", "10,11", "ok"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(gpus(std::slice::from_ref(&gpu), Format::Table, false, true).contains("555555555555"));
    let a100 = GpuRow { model: "NVIDIA A100-SXM4-80GB".into(), ..gpu.clone() };
    let screen = Screen { width: Some(80), colour: false };
    let at80 = View { screen, ..view(Format::Table, false, false) };
    let text = GPUS.show(&[a100], &at80).unwrap();
    assert!(text.contains(" A100-SXM4-80GB ") && text.contains(" train-2 "), "{text}");
    assert!(!text.contains('…') && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let slot = GpuRow {
        slot: Some(1),
        uuid: Unit::new("GPU-11111111-2222-3333-4444-555555555555/1").unwrap(),
        ..gpu.clone()
    };
    let text = gpus(&[slot], Format::Table, false, false);
    assert!(text.contains("3/1 ") && text.contains("GPU-11111111/1 "), "{text}");
    let unknown =
        GpuRow { memory_used: None, utilisation: None, holder: None, processes: vec![], ..gpu };
    let text = gpus(&[unknown], Format::Table, false, false);
    assert!(text.contains("- / 81920MiB"), "{text}");
}

#[test]
fn links_are_a_matrix_in_nvidias_words() {
    let to = |gpu, nvlinks, path| Peer { gpu, nvlinks, path };
    let row = |index, links: Vec<Peer>| GpuRow { links, ..GpuRow::of_test(index) };
    let rows = [
        row(0, vec![to(1, 4, Path::System), to(2, 0, Path::Switch)]),
        GpuRow { mig: Some(0), ..row(0, vec![]) },
        row(1, vec![to(0, 4, Path::System)]),
        row(2, vec![to(0, 0, Path::Switch), to(1, 0, Path::Socket)]),
    ];
    let text = links(&rows);
    let cells: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(cells[0], ["GPU0", "GPU1", "GPU2"]);
    assert_eq!(cells[1], ["GPU0", "X", "NV4", "PIX"]);
    assert_eq!(cells[2], ["GPU1", "NV4", "X", "SYS"]);
    assert_eq!(cells[3], ["GPU2", "PIX", "NODE", "X"]);
    assert_eq!(cells.len(), 4, "{text}");
}

#[test]
fn a_refused_start_that_waits_is_shown_and_a_bare_one_has_no_version() {
    let refused = RefusedRow {
        tries: 3,
        reason: "1 GPU asked for, 0 free".into(),
        waits_for: WaitsFor::Gpus,
        since: Timestamp::from_millis(0),
        next: Timestamp::from_millis(8000),
    };
    let status = "Exited (137) 3 minutes ago, refused 3 times: 1 GPU asked for, 0 free".to_owned();
    let bare = PsRow { version: None, status, running: false, refused: Some(refused), ..row() };
    let rows = [bare];
    let text = ps(&rows, Format::Table, false, false);
    assert!(text.contains("train   -  ") && text.contains("refused 3 times"), "{text}");
    assert_eq!(ps(&rows, Format::Table, true, false), "");
    let one: Value = serde_json::from_str(&ps(&rows, Format::Json, false, false)).unwrap();
    assert_eq!((&one["refused"]["tries"], &one["version"]), (&json!(3), &Value::Null));
}

#[test]
fn a_decision_is_one_line_whatever_is_in_it() {
    let units = [Unit::new("GPU-a").unwrap(), Unit::new("GPU-b").unwrap()];
    let entry = Entry::new(Decision::Rebound, "4e530d075be1491f", "train-1").gpus(&units);
    let entry = entry.why("scale 1 -> 2\u{1b}[31m\nGPUs");
    let both = [Place::Whole(2), Place::Slot(5, 1)];
    let shown = |indexes: &[Place], format| {
        let told = Told { entry: entry.clone(), indexes: indexes.to_vec() };
        decision(&told, &view(format, false, false)).unwrap()
    };
    let text = shown(&both, Format::Table);
    assert!(
        text.ends_with(
            " rebound train-1 (id=4e530d075be1, user=-, gpus=2,5/1, reason=scale 1 -> 2?[31m?GPUs)"
        ),
        "{text}"
    );
    // Of a GPU that is gone there is only the UUID.
    assert!(shown(&both[..1], Format::Table).contains("gpus=GPU-a,GPU-b,"));
    let one: Value = serde_json::from_str(&shown(&both, Format::Json)).unwrap();
    assert_eq!((&one["decision"], &one["indexes"]), (&json!("rebound"), &json!([2, "5/1"])));
}
