//! snapshot: the writable layer of now is kept as this version's.
//!
//! One step of the journal, `copy`; undone: what was copied goes, and a container that was paused for it
//! goes on. The layer stands in the version's record with the journal's last commit.

use std::path::{Path, PathBuf};
use std::time::Instant;

use gpuctl_ledger::config::plain_io_error;
use gpuctl_ledger::ledger::{At, Batch};
use gpuctl_ledger::model::{
    ByteSize, ContainerId, KeptLayer, OperationKind, Timestamp, Token, Version, VersionRecord,
};
use gpuctl_ledger::node::files;
use serde::{Deserialize, Serialize};

use super::api::{Answer, Event, Failure, Front, MoreAnswer};
use super::context::Context;
use super::journal::{self, Journal};
use super::names::{self, Found};
use super::{kept, layers};
use crate::docker::Inspect;
use crate::tree::{Report, Size};

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
    let shown = ctx.docker()?.inspect(found.id.as_str())?.ok_or_else(|| {
        Failure::new(format!("Docker no longer has {}", found.docker_name))
            .hint(format!("docker gpuctl rm {} forgets it", record.name))
    })?;
    keep(ctx, &found, &shown, front)
}

/// Where the files are that are to be kept.
fn source(ctx: &Context, found: &Found, shown: &Inspect) -> Result<PathBuf, Failure> {
    let docker_name = &found.docker_name;
    layers::upper(ctx, &found.id, shown, docker_name)?.ok_or_else(|| {
        Failure::new(format!("{docker_name} has never run: it has no files of its own"))
            .hint(format!("docker gpuctl start {docker_name}"))
    })
}

/// What a plan says of it. Touches nothing.
///
/// # Errors
/// As [`keep`], as far as that can be known.
pub(super) fn planned(
    ctx: &Context,
    found: &Found,
    shown: &Inspect,
    front: &mut dyn Front,
) -> Result<String, Failure> {
    let from = source(ctx, found, shown)?;
    // The folder that is to be made lies in the last one that is there.
    let layers = ctx.config.layers();
    let there = layers.ancestors().find(|folder| folder.is_dir()).unwrap_or(&layers);
    let fit = layers::check_keeping(&from, there, &found.docker_name, front)?;
    let (name, version) = (&found.docker_name, found.record.record.version);
    Ok(format!("keep the files of {name} as version {version}'s: {}", layers::announced(&fit)))
}

/// As [`snapshot`], of one whose lock the caller has.
///
/// # Errors
/// As [`snapshot`].
pub(super) fn keep(
    ctx: &Context,
    found: &Found,
    shown: &Inspect,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let (record, docker_name) = (&found.record.record, &found.docker_name);
    let from = source(ctx, found, shown)?;
    let folder = ctx.config.layers();
    let unreachable = |e: std::io::Error| {
        let why = plain_io_error(&e);
        Failure::new(format!("no layer can be kept in {}: {why}", folder.display()))
            .hint("change.layers in the config names where layers are kept")
    };
    files::make_private_dir(&folder).map_err(unreachable)?;
    let parent = folder.join(record.name.as_str());
    files::make_private_dir(&parent).map_err(unreachable)?;
    let fit = layers::check_keeping(&from, &parent, docker_name, front)?;
    let pauses = shown.running() && !shown.paused();
    if shown.restarting() {
        return Err(Failure::new(format!("{docker_name} is being restarted")).hint("try again"));
    }
    let paused = if pauses { "; its processes stand still meanwhile" } else { "" };
    let text = format!("keeping the files of {docker_name}: {}{paused}", layers::announced(&fit));
    front.event(Event::Note { text });
    // A name of its own, so that what was kept before stays until this is there.
    let token = Token::random().map_err(|_| Failure::new("the kernel gives no random numbers"))?;
    let short = token.as_str().get(..8).unwrap_or_default();
    let to = parent.join(format!("{}-{short}", record.version));
    let data = Data { id: found.id.clone(), version: record.version, to, pauses };
    let kind = OperationKind::Snapshot;
    let journal = Journal::begin(ctx, &record.name, kind, front.user(), "copy", &data)?;
    let began = Instant::now();
    let copied = files::make_private_dir(&data.to).map_err(unreachable).and_then(|()| {
        let files = (from.as_path(), data.to.as_path(), fit.size);
        carry(ctx, (&data.id, data.pauses), (docker_name.as_str(), files), front)
    });
    match copied {
        Ok(report) => {
            let bytes = ByteSize(report.bytes);
            finish(ctx, journal, &data, bytes)?;
            let shared = match report.reflinked_bytes {
                0 => String::new(),
                shared => format!(", {} of them shared with the container's", ByteSize(shared)),
            };
            let text = format!(
                "{bytes} in {} files kept in {:.1} s{shared}",
                report.entries,
                began.elapsed().as_secs_f64()
            );
            front.event(Event::Note { text });
            Ok(Answer::More(MoreAnswer::Kept { docker_name: docker_name.clone(), bytes }))
        }
        Err(failure) => match undo(ctx, journal) {
            Ok(()) => Err(Failure {
                message: format!("{}; nothing is kept of it", failure.message),
                ..failure
            }),
            Err(also) => Err(failure.undoing_failed(&also)),
        },
    }
}

/// Copies a layer and compares the two, the container paused meanwhile where that is said.
///
/// # Errors
/// [`Failure`]: what was copied until then is the caller's to remove.
fn carry(
    ctx: &Context,
    (id, pauses): (&ContainerId, bool),
    (name, (from, to, size)): (&str, (&Path, &Path, Size)),
    front: &mut dyn Front,
) -> Result<Report, Failure> {
    if pauses {
        ctx.docker()?.pause(id.as_str())?;
    }
    let copied = layers::carry(from, to, (name, Some(size)), front);
    // Before anything else: its processes wait.
    let goes_on = unpause(ctx, id, pauses);
    let report = copied?;
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
