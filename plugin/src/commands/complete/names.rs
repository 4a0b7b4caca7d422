//! Names of what there is, asked of engine, service and Docker with a limit of time.

use gpuctl_ledger::audit::Decision;
use gpuctl_ledger::model::{ByteSize, DockerName, Version};

use super::Proposal;
use super::place::{self, Kind, State};
use crate::client::argv::Globals;
use crate::client::flags::FlagTable;
use crate::commands::Session;
use crate::commands::filters;
use crate::commands::quick::{self, asked, in_time};
use crate::engine::api::{Answer, GpuRow, PsRow, Request, VolumeAnswer, VolumeRequest, VolumeRow};

/// The names of a kind, for what is `typed` so far.
pub(super) fn of(kind: &Kind, typed: &str) -> Vec<Proposal> {
    match kind {
        Kind::Containers(state) => containers(*state),
        Kind::Foreign => foreign(),
        Kind::Versions(name) => versions(name),
        Kind::Gpus(own) => gpu_requests(&gpus(), own.as_deref(), typed),
        Kind::Images => images(),
        Kind::Volumes => volumes(),
        Kind::ForeignVolumes => foreign_volumes(),
        Kind::VolumeVersions(name) => volume_versions(name),
        Kind::FilterValue { of, key } => {
            let whole = |(value, about)| (format!("{key}={value}"), about);
            filter_values(of, key).into_iter().map(whole).collect()
        }
    }
}

fn rows() -> Vec<PsRow> {
    match asked(Request::Ps { all: true }) {
        Some(Answer::Ps(rows)) => rows,
        _ => Vec::new(),
    }
}

fn containers(state: State) -> Vec<Proposal> {
    let is = |row: &PsRow| {
        let paused = row.status.contains("(Paused)");
        match state {
            State::Any => true,
            State::Running => row.running && !paused,
            State::Stopped => !row.running,
            State::Paused => paused,
        }
    };
    let managed = rows().into_iter().filter(|row| row.version.is_some() && is(row));
    managed.map(|row| (row.name.to_string(), row.status)).collect()
}

/// What docker made: all that there is, without what is managed, and older versions of that.
fn foreign() -> Vec<Proposal> {
    // Both at once: on another host each is a login.
    let managed = std::thread::spawn(rows);
    let all = quick::containers(true);
    let managed = managed.join().unwrap_or_default();
    let managed: Vec<(String, Version)> =
        managed.into_iter().filter_map(|row| Some((row.name.to_string(), row.version?))).collect();
    all.into_iter().filter(|(name, _)| !is_of(name, &managed)).collect()
}

/// Whether a name in Docker is of one of these, in its current version or an older one. Pure.
fn is_of(name: &str, managed: &[(String, Version)]) -> bool {
    DockerName::split(name).is_some_and(|(own, version)| {
        managed.iter().any(|(name, current)| own.as_str() == name && version <= *current)
    })
}

fn versions(name: &str) -> Vec<Proposal> {
    match asked(Request::History { name: name.to_owned() }) {
        Some(Answer::History(rows)) => {
            rows.into_iter().rev().map(|row| (row.version.to_string(), row.why)).collect()
        }
        _ => Vec::new(),
    }
}

fn volume_rows() -> Vec<VolumeRow> {
    match asked(Request::Volume(VolumeRequest::Ls)) {
        Some(Answer::Volume(VolumeAnswer::Rows(rows))) => rows,
        _ => Vec::new(),
    }
}

/// All volumes, and how large they are.
fn volumes() -> Vec<Proposal> {
    let size =
        |size: Option<ByteSize>| size.map_or_else(|| "no limit".to_owned(), |s| s.to_string());
    volume_rows().into_iter().map(|row| (row.name.to_string(), size(row.size))).collect()
}

/// The volumes of docker's own that have no size yet.
fn foreign_volumes() -> Vec<Proposal> {
    let ours = volume_rows();
    let all = quick::names(&["volume", "ls", "--format", "{{.Name}}"]).into_iter();
    let foreign = all.filter(|name| ours.iter().all(|row| row.name.as_str() != name));
    foreign.map(|name| (name, String::new())).collect()
}

/// The versions of a volume to which it can go back, and how they came to be.
fn volume_versions(name: &str) -> Vec<Proposal> {
    let request = Request::Volume(VolumeRequest::History { name: name.to_owned() });
    let Some(Answer::Volume(VolumeAnswer::History(rows))) = asked(request) else {
        return Vec::new();
    };
    let there = rows.into_iter().filter(|row| row.present && !row.current);
    there.map(|row| (row.version.to_string(), row.why)).collect()
}

fn gpus() -> Vec<GpuRow> {
    match asked(Request::Gpus) {
        Some(Answer::Gpus(rows)) => rows,
        _ => Vec::new(),
    }
}

/// What `--gpus` may be: counts of what is free, or what the container that is changed has itself, and GPUs
/// by index and UUID. Pure.
fn gpu_requests(rows: &[GpuRow], own: Option<&str>, typed: &str) -> Vec<Proposal> {
    let is_own = |holder: &str| {
        own == Some(holder)
            || DockerName::split(holder).is_some_and(|(name, _)| own == Some(name.as_str()))
    };
    let free = |row: &&GpuRow| row.health == "ok" && row.holder.as_deref().is_none_or(is_own);
    if let Some(list) = typed.strip_prefix("device=") {
        let named: Vec<&str> = list.split(',').collect();
        let (_, chosen) = named.split_last().unwrap_or((&"", &[]));
        let kept: String = chosen.iter().map(|one| format!("{one},")).collect();
        let left = rows.iter().filter(free).filter(|row| {
            let (place, uuid) = (row.place().to_string(), row.uuid.as_str());
            !chosen.iter().any(|one| *one == place || *one == uuid)
        });
        return left
            .flat_map(|row| {
                let about = format!("{} {}", row.place(), row.model);
                [
                    (format!("device={kept}{}", row.place()), row.model.clone()),
                    (format!("device={kept}{}", row.uuid), about),
                ]
            })
            .collect();
    }
    let whole = rows.iter().filter(free).filter(|row| row.mig.is_none() && row.slot.is_none());
    let whole = whole.count();
    let can = if own.is_some() { "free or its own" } else { "free" };
    let mig = rows.iter().filter(free).filter(|row| row.mig.is_some()).count();
    let slots = rows.iter().filter(free).filter(|row| row.slot.is_some()).count();
    let mut found: Vec<Proposal> =
        (1..=whole).map(|n| (n.to_string(), format!("of {whole} {can}"))).collect();
    found.push(("all".into(), "Every GPU".into()));
    found.push(("device=".into(), "By index or UUID".into()));
    found.push(("count=".into(), "By what they are: count=2,memory>=40GB,name=A100".into()));
    if mig > 0 {
        found.push(("mig=1".into(), format!("A MIG device, of {mig} free")));
    }
    if slots > 0 {
        found.push(("shared".into(), format!("A slot of a shared GPU, of {slots} free")));
    }
    found
}

fn images() -> Vec<Proposal> {
    quick::images().into_iter().map(|tag| (tag, String::new())).collect()
}

/// What a filter's key may be equal to.
fn filter_values(of: &[String], key: &str) -> Vec<Proposal> {
    let plain = |words: Vec<String>| words.into_iter().map(|word| (word, String::new())).collect();
    let path: Vec<&str> = of.iter().map(String::as_str).collect();
    let filter = filters::of_command(&path).into_iter().find(|filter| filter.key == key);
    if let Some(filter) = filter.filter(|filter| !filter.values.is_empty()) {
        // Of the ways to say true, the one in words.
        let words = filter.values.iter().filter(|word| !matches!(**word, "0" | "1"));
        return plain(words.map(|&word| word.to_owned()).collect());
    }
    match key {
        "name" if path.first() == Some(&"volume") => volumes(),
        "owner" if path.first() == Some(&"volume") => {
            plain(volume_rows().into_iter().filter_map(|row| row.owner).collect())
        }
        "container" | "name" => containers(State::Any),
        // Of a container only the index is known.
        "gpu" if path == ["ps"] => {
            gpus().into_iter().map(|row| (row.place().to_string(), row.model)).collect()
        }
        "gpu" => {
            let both = |row: GpuRow| {
                [(row.place().to_string(), row.model.clone()), (row.uuid.to_string(), row.model)]
            };
            gpus().into_iter().flat_map(both).collect()
        }
        "uuid" => gpus().into_iter().map(|row| (row.uuid.to_string(), row.model)).collect(),
        "holder" => plain(gpus().into_iter().filter_map(|row| row.holder).collect()),
        "owner" => plain(rows().into_iter().filter_map(|row| row.owner).collect()),
        "ancestor" => images(),
        "decision" => plain(Decision::ALL.iter().map(|d| d.word().to_owned()).collect()),
        _ => Vec::new(),
    }
}

/// For run, create, exec and logs: their flags are Docker's, so they are read of the Docker CLI. Within:
/// `None` for files.
pub(super) fn dockers(
    command: &str,
    words: &[String],
    flag: Option<&str>,
    typed: &str,
) -> Option<Option<Vec<Proposal>>> {
    let asked = if command == "run" { "create" } else { command }.to_owned();
    let help = in_time(move || Session::open(&Globals::default()).ok()?.cli().help(&asked).ok())?;
    let table = FlagTable::from_help(&help);
    let table = match command {
        "run" => table.for_run(),
        "create" => table.for_create(),
        _ => table,
    };
    // A flag that waits for its value.
    let waits = words.last().filter(|_| table.split(words).is_err());
    if let Some(flag) = waits {
        return Some(dockers_value(flag, typed));
    }
    let split = table.split(words).ok()?;
    if !split.operands.is_empty() {
        return Some(Some(Vec::new()));
    }
    if let Some(flag) = flag.filter(|_| !split.dashes) {
        return Some(dockers_value(flag, typed));
    }
    if typed.starts_with('-') && !split.dashes {
        let flags = table.all().map(|(name, ..)| (format!("--{name}"), String::new()));
        return Some(Some(flags.collect()));
    }
    Some(Some(match command {
        "exec" => containers(State::Running),
        "logs" => containers(State::Any),
        _ => images(),
    }))
}

/// What may be the value of a flag of run and create; `None`: a file.
fn dockers_value(flag: &str, typed: &str) -> Option<Vec<Proposal>> {
    Some(match flag {
        "--gpus" => of(&Kind::Gpus(None), typed),
        "--from" => match typed.split_once('@') {
            Some((name, _)) => {
                let whole = |(version, why)| (format!("{name}@{version}"), why);
                versions(name).into_iter().map(whole).collect()
            }
            None => containers(State::Any),
        },
        "--restart" => place::policies(),
        "--pull" => place::pulls(),
        "--network" | "--net" => {
            let names = quick::names(&["network", "ls", "--format", "{{.Name}}"]);
            names.into_iter().map(|name| (name, String::new())).collect()
        }
        "--volume" | "-v" if typed.starts_with(['/', '.', '~']) => return None,
        "--volume" | "-v" if !typed.contains(':') => {
            volumes().into_iter().map(|(name, size)| (format!("{name}:"), size)).collect()
        }
        "--volumes-from" => quick::containers(true),
        "--env-file" | "--label-file" | "--cidfile" => return None,
        _ => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(index: u32, holder: Option<&str>) -> GpuRow {
        let holder = holder.map(str::to_owned);
        GpuRow { model: "A100".into(), holder, ..GpuRow::of_test(index) }
    }

    #[test]
    fn what_is_managed_is_not_adopted() {
        let managed = [("train".to_owned(), Version(2)), ("a-1".to_owned(), Version(0))];
        for name in ["train-2", "train-0", "a-1-0"] {
            assert!(is_of(name, &managed), "{name}");
        }
        for name in ["train", "train-3", "a-1", "a-0", "x"] {
            assert!(!is_of(name, &managed), "{name}");
        }
    }

    #[test]
    fn gpus_are_proposed_that_are_free() {
        let rows = [row(0, Some("train-0")), row(1, None), row(2, None)];
        let words = |typed: &str| -> Vec<String> {
            gpu_requests(&rows, None, typed).into_iter().map(|(word, _)| word).collect()
        };
        assert_eq!(words(""), ["1", "2", "all", "device=", "count="]);
        assert_eq!(words("device="), ["device=1", "device=GPU-1", "device=2", "device=GPU-2"]);
        assert_eq!(words("device=1,"), ["device=1,2", "device=1,GPU-2"]);
        assert_eq!(words("device=GPU-2,G"), ["device=GPU-2,1", "device=GPU-2,GPU-1"]);
        // Who is changed keeps what it has.
        let own = |name| gpu_requests(&rows, Some(name), "").into_iter().map(|(word, _)| word);
        assert_eq!(own("train").collect::<Vec<_>>(), ["1", "2", "3", "all", "device=", "count="]);
        assert_eq!(own("tra").collect::<Vec<_>>(), ["1", "2", "all", "device=", "count="]);
    }
}
