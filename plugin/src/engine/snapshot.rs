//! snapshot: the writable layer of now is kept as this version's.
//!
//! One step of the journal, `copy`; undone: what was copied goes, and a container that was paused for it
//! goes on. The layer stands in the version's record with the journal's last commit.

use std::path::{Path, PathBuf};
use std::time::Instant;

use gpuctl_ledger::config::plain_io_error;
use gpuctl_ledger::ledger::{At, Batch};
use gpuctl_ledger::model::{
    ByteSize, ContainerId, DockerName, KeptLayer, OperationKind, Timestamp, Token, Version,
    VersionRecord,
};
use gpuctl_ledger::node::{files, notes};
use serde::{Deserialize, Serialize};

use super::api::{Answer, Event, Failure, Front, MoreAnswer};
use super::asker::Asker;
use super::context::Context;
use super::journal::{self, Journal};
use super::{kept, names};
use crate::docker::Inspect;
use crate::tree::{self, Report, TreeError};
use crate::volume::usage;

/// A disk that nobody would call fast, in bytes a second: so long it takes at most, as a rule.
const SLOW_DISK: u64 = 100 << 20;
/// What stays free on the disk of the layers.
const SPARE: u64 = 64 << 20;
/// Settings of the kernel with which an upper directory is not all that was written.
const OVERLAY: [&str; 2] = ["metacopy", "index"];
const PARAMETERS: &str = "/sys/module/overlay/parameters";

/// What undoing needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Data {
    id: ContainerId,
    version: Version,
    /// Where the copy is made.
    to: PathBuf,
    /// It is paused for the copy.
    pauses: bool,
}

/// Keeps the writable layer of a container.
///
/// # Errors
/// [`Failure`]; then nothing is kept, and what was kept before is.
pub(super) fn snapshot(
    ctx: &Context,
    name: &str,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let lock = journal::lock_named(ctx, name, front)?;
    let found = names::existing(ctx, name)?;
    let record = &found.record.record;
    lock.is_of(&record.name)?;
    let docker_name = &found.docker_name;
    let shown = ctx.docker()?.inspect_with_size(found.id.as_str())?.ok_or_else(|| {
        Failure::new(format!("Docker no longer has {docker_name}"))
            .hint(format!("docker gpuctl rm {} forgets it", record.name))
    })?;
    let from = upper(ctx, &found.id, &shown, docker_name)?;
    let layers = ctx.config.layers();
    let unreachable = |e: std::io::Error| {
        let why = plain_io_error(&e);
        Failure::new(format!("no layer can be kept in {}: {why}", layers.display()))
            .hint("change.layers in the config names where layers are kept")
    };
    files::make_private_dir(&layers).map_err(unreachable)?;
    let parent = layers.join(record.name.as_str());
    files::make_private_dir(&parent).map_err(unreachable)?;
    let bytes = shown.written();
    check_room(&from, &layers, bytes)?;
    let pauses = shown.running() && !shown.paused();
    if shown.restarting() {
        return Err(Failure::new(format!("{docker_name} is being restarted")).hint("try again"));
    }
    front.event(Event::Note { text: announced(docker_name, bytes, pauses) });
    // A name of its own, so that what was kept before stays until this is there.
    let token = Token::random().map_err(|_| Failure::new("the kernel gives no random numbers"))?;
    let short = token.as_str().get(..8).unwrap_or_default();
    let to = parent.join(format!("{}-{short}", record.version));
    let data = Data { id: found.id.clone(), version: record.version, to, pauses };
    let kind = OperationKind::Snapshot;
    let journal = Journal::begin(ctx, &record.name, kind, front.user(), "copy", &data)?;
    let began = Instant::now();
    let copied = carry(ctx, (&data.id, data.pauses), (&from, &data.to), front);
    match copied {
        Ok(report) => {
            let bytes = ByteSize(report.bytes);
            finish(ctx, journal, &data, bytes)?;
            let shared = match report.reflinked_bytes {
                0 => String::new(),
                shared => format!(", {} of them shared with the container's", ByteSize(shared)),
            };
            let sockets = match report.sockets_count {
                0 => String::new(),
                n => format!("; {n} sockets are not in it"),
            };
            let text = format!(
                "{bytes} in {} files kept in {:.1} s{shared}{sockets}",
                report.entries,
                began.elapsed().as_secs_f64()
            );
            front.event(Event::Note { text });
            Ok(Answer::More(MoreAnswer::Kept { docker_name: docker_name.clone(), bytes }))
        }
        Err(failure) => match undo(ctx, journal) {
            Ok(()) => Err(failure),
            Err(also) => Err(failure.undoing_failed(&also)),
        },
    }
}

/// Said before it begins.
fn announced(docker_name: &DockerName, bytes: u64, pauses: bool) -> String {
    let seconds = bytes.div_ceil(SLOW_DISK).max(1);
    let paused = if pauses { "; its processes stand still meanwhile" } else { "" };
    format!(
        "keeping {} of {docker_name}: some {seconds} s where the filesystem has to copy, a moment where it \
         shares{paused}",
        ByteSize(bytes)
    )
}

/// The upper directory of its overlay.
///
/// # Errors
/// When it is not known, or is not all that was written.
pub(super) fn upper(
    ctx: &Context,
    id: &ContainerId,
    shown: &Inspect,
    docker_name: &DockerName,
) -> Result<PathBuf, Failure> {
    for parameter in OVERLAY {
        let value = files::read_bounded(&Path::new(PARAMETERS).join(parameter), 16);
        if value.is_ok_and(|value| value.starts_with(b"Y")) {
            return Err(Failure::new(format!(
                "this kernel's overlay has {parameter} on: a writable layer is not whole by itself then"
            ))
            .hint(format!("echo N >{PARAMETERS}/{parameter}, and restart the containers")));
        }
    }
    let driver = shown.0.pointer("/GraphDriver/Name").and_then(serde_json::Value::as_str);
    let named = shown.0.pointer("/GraphDriver/Data/UpperDir").and_then(serde_json::Value::as_str);
    if let Some(named) = named.filter(|_| driver == Some("overlay2")) {
        return Ok(named.into());
    }
    let noted = notes::read_binding(&ctx.config.paths, id).ok().flatten();
    if let Some(noted) = noted.and_then(|binding| binding.upper_dir) {
        return Ok(noted.into());
    }
    let driver = driver.unwrap_or("unknown");
    Err(match shown.never_started() {
        true => Failure::new(format!("{docker_name} has never run: it has no files of its own"))
            .hint(format!("docker gpuctl start {docker_name}")),
        false => Failure::new(format!(
            "where {docker_name} has its files is not known (storage driver {driver})"
        ))
        .hint(format!("docker gpuctl restart {docker_name} lets gpuctl see it, on an overlay")),
    })
}

/// Refuses a copy that cannot fit. On one filesystem blocks may be shared: there it is tried.
fn check_room(from: &Path, layers: &Path, bytes: u64) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
    let (Ok((free, _)), false) = (usage::free(layers), device(from) == device(layers)) else {
        return Ok(());
    };
    if free >= bytes.saturating_add(SPARE) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{} are to be kept in {}, and {} are free there",
        ByteSize(bytes),
        layers.display(),
        ByteSize(free)
    ))
    .hint("docker gpuctl prune frees what older versions keep"))
}

/// Copies a layer, the container paused meanwhile where that is said.
///
/// # Errors
/// [`Failure`]: what was copied until then is the caller's to remove.
pub(super) fn carry(
    ctx: &Context,
    (id, pauses): (&ContainerId, bool),
    (from, to): (&Path, &Path),
    front: &mut dyn Front,
) -> Result<Report, Failure> {
    if pauses {
        ctx.docker()?.pause(id.as_str())?;
    }
    let copied = tree::copy(from, to, &tree::Options::default(), &Asker::silent(front));
    // Before anything else: its processes wait.
    let goes_on = unpause(ctx, id, pauses);
    let report = copied.map_err(|why| {
        let failure = Failure::new(format!("its files could not be copied: {why}"));
        match why {
            TreeError::Stopped => Failure::new("interrupted: nothing is left of it").code(130),
            why if why.is_full() => {
                failure.hint("docker gpuctl prune frees what older versions keep")
            }
            TreeError::Changed { .. } => failure.hint("try again; docker gpuctl stop it first"),
            _ => failure,
        }
    })?;
    goes_on.map(|()| report)
}

/// Lets a container go on that was paused for the copy.
///
/// # Errors
/// The Engine's.
pub(super) fn unpause(ctx: &Context, id: &ContainerId, pauses: bool) -> Result<(), Failure> {
    if pauses && ctx.docker()?.inspect(id.as_str())?.is_some_and(|shown| shown.paused()) {
        ctx.docker()?.unpause(id.as_str())?;
    }
    Ok(())
}

/// The version's record gets the layer, in the journal's last commit; the one before it goes.
fn finish(ctx: &Context, journal: Journal, data: &Data, bytes: ByteSize) -> Result<(), Failure> {
    let name = journal.operation.name.clone();
    let Some(At { record, revision }) = ctx.ledger.version(&name, data.version)? else {
        undo(ctx, journal)?;
        return Err(Failure::new(format!("the record of {name} is gone")));
    };
    let layer =
        KeptLayer { path: data.to.to_string_lossy().into_owned(), bytes, at: Timestamp::now() };
    let before = record.layer.clone();
    let key = ctx.ledger.keys().version(&name, data.version);
    let mut batch = Batch::new();
    batch.at(key.clone(), revision).put(key, &VersionRecord { layer: Some(layer), ..record });
    journal.finish(ctx, batch)?;
    if let Some(before) = before {
        // What stays is only room on the disk.
        let _ = kept::remove_folder(&ctx.config.layers(), Path::new(&before.path));
    }
    Ok(())
}

fn undo(ctx: &Context, journal: Journal) -> Result<(), Failure> {
    let data: Data = journal.data()?;
    unpause(ctx, &data.id, data.pauses)?;
    kept::remove_folder(&ctx.config.layers(), &data.to)?;
    journal.finish(ctx, Batch::new())
}

/// Ends a snapshot that was broken off.
///
/// # Errors
/// When it cannot be brought to an end now.
pub(super) fn recover(ctx: &Context, journal: Journal) -> Result<String, Failure> {
    let name = journal.operation.name.clone();
    undo(ctx, journal)?;
    Ok(format!("an earlier snapshot of {name} was broken off: it is undone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_and_time_are_said_first() {
        let name = DockerName::new("train-1").unwrap();
        let text = announced(&name, 5 << 30, true);
        assert!(text.contains("5GB of train-1") && text.contains("some 52 s"), "{text}");
        assert!(text.contains("stand still"), "{text}");
        assert!(announced(&name, 0, false).contains("some 1 s"));
    }

    #[test]
    fn what_cannot_fit_is_refused_before_it_begins() {
        let Ok(shm) = tempfile::tempdir_in("/dev/shm") else { return };
        let here = tempfile::tempdir().unwrap();
        let why = check_room(here.path(), shm.path(), u64::MAX / 2).unwrap_err();
        assert!(why.message.contains("are free there") && why.hint.is_some());
        assert!(check_room(here.path(), here.path(), u64::MAX / 2).is_ok(), "it may share blocks");
        assert!(check_room(here.path(), shm.path(), 1).is_ok());
    }
}
