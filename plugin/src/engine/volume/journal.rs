//! The journal of a change to a volume, and its lock; as of containers, see [`super::super::journal`].

use std::time::Duration;

use gpuctl_ledger::config::plain_io_error;
use gpuctl_ledger::ledger::{At, Batch, LedgerError};
use gpuctl_ledger::model::{
    SCHEMA, Timestamp, Token, VolumeName, VolumeOperation, VolumeOperationKind,
};
use gpuctl_ledger::node::lock::{self, Lock};
use gpuctl_ledger::store::{Outcome, Revision, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::api::{Event, Failure, Front};
use super::super::context::Context;
use super::{find, recover};

/// How long a change waits for another one to the same volume.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// The right to change one volume, with nothing left over from changes before.
#[derive(Debug)]
pub(super) struct Locked {
    lock: Lock,
    /// The volume's name.
    pub(super) name: VolumeName,
    /// The change that had been broken off and was brought to an end just now.
    pub(super) ended: Option<VolumeOperationKind>,
}

impl Locked {
    /// Lets go of a name that is no more: its lock goes with it. One that stays does no harm.
    pub(super) fn forget(self) {
        let _ = self.lock.remove();
    }
}

/// The word for a change.
pub(super) fn word(kind: VolumeOperationKind) -> &'static str {
    match kind {
        VolumeOperationKind::Create => "create",
        VolumeOperationKind::Resize => "resize",
        VolumeOperationKind::InPlace => "resize in place",
        VolumeOperationKind::Remove => "rm",
        VolumeOperationKind::Adopt => "adopt",
    }
}

/// The journal of a volume's change, if one is open.
///
/// # Errors
/// The ledger's.
pub(super) fn open(
    ctx: &Context,
    name: &VolumeName,
) -> Result<Option<At<VolumeOperation>>, LedgerError> {
    ctx.ledger.get(&ctx.ledger.keys().volume_operation(name))
}

fn take(ctx: &Context, name: &VolumeName, limit: Duration) -> Result<Option<Lock>, Failure> {
    lock::take(&ctx.config.paths.volume_locks(), name.as_str(), limit).map_err(|e| {
        Failure::new(format!("the lock of volume {name} cannot be taken: {}", plain_io_error(&e)))
    })
}

/// Takes the volume's lock, and finishes or undoes what a dead change left.
///
/// # Errors
/// When another change is under way, or the one before cannot be brought to an end.
pub(super) fn lock(
    ctx: &Context,
    name: &VolumeName,
    front: &mut dyn Front,
) -> Result<Locked, Failure> {
    let Some(taken) = take(ctx, name, LOCK_LIMIT)? else {
        let told = told(open(ctx, name).ok().flatten().map(|at| at.record).as_ref(), name);
        return Err(Failure::new(told).hint("wait for it, then try again"));
    };
    let mut ended = None;
    if let Some(operation) = open(ctx, name)? {
        let said = recover::recover(ctx, &operation)?;
        front.event(Event::Note { text: said });
        ended = Some(operation.record.kind);
    }
    Ok(Locked { lock: taken, name: name.clone(), ended })
}

fn told(operation: Option<&VolumeOperation>, name: &VolumeName) -> String {
    let Some(operation) = operation else {
        return format!("another change to volume {name} is under way");
    };
    let by = operation.by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    let age = Timestamp::now().millis_since(operation.since) / 1000;
    format!(
        "another {} of volume {name}{by} (pid {}) is under way for {age} s",
        word(operation.kind),
        operation.actor.pid
    )
}

/// As [`lock()`], of the volume that `data` or `data-N` names: also of one that has no record, or not
/// that version, but whose change was broken off and has to be brought to an end first.
///
/// # Errors
/// As [`lock()`], and when there is no such volume.
pub(super) fn lock_named(
    ctx: &Context,
    text: &str,
    front: &mut dyn Front,
) -> Result<Locked, Failure> {
    let name = match find::record(ctx, text) {
        Ok(found) => found.record.name,
        Err(unknown) => changing(ctx, text)?.ok_or(unknown)?,
    };
    lock(ctx, &name, front)
}

/// The name with an open journal that `data` or `data-N` may mean.
fn changing(ctx: &Context, text: &str) -> Result<Option<VolumeName>, Failure> {
    let whole = VolumeName::new(text).ok();
    let base = VolumeName::split(text).map(|(name, _)| name);
    for name in whole.into_iter().chain(base) {
        if open(ctx, &name)?.is_some() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// As [`lock()`], without waiting and without ending anything; `None` when a change is under way.
///
/// # Errors
/// When the lock cannot be looked at.
pub(super) fn try_lock(ctx: &Context, name: &VolumeName) -> Result<Option<Locked>, Failure> {
    let taken = take(ctx, name, Duration::ZERO)?;
    Ok(taken.map(|lock| Locked { lock, name: name.clone(), ended: None }))
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    /// As last written.
    pub(super) operation: VolumeOperation,
    revision: Revision,
}

impl Journal {
    /// Opens a journal; the lock is held, so there is none.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) fn begin(
        ctx: &Context,
        name: &VolumeName,
        kind: VolumeOperationKind,
        by: Option<String>,
        step: &str,
        data: &impl Serialize,
    ) -> Result<Self, Failure> {
        let token =
            Token::random().map_err(|_| Failure::new("the kernel gives no random numbers"))?;
        let operation = VolumeOperation {
            schema: SCHEMA,
            name: name.clone(),
            kind,
            token,
            actor: ctx.me,
            boot_id: ctx.boot_id.clone(),
            since: Timestamp::now(),
            by,
            step: step.to_owned(),
            data: serde_json::to_value(data).unwrap_or_default(),
        };
        let mut journal = Self { operation, revision: Revision(0) };
        let mut batch = Batch::new();
        let key = ctx.ledger.keys().volume_operation(name);
        batch.absent(key.clone()).put(key, &journal.operation);
        journal.write(ctx, &batch)?;
        fault(kind, step, "begun");
        Ok(journal)
    }

    /// An open journal that was found.
    pub(super) fn found(operation: &At<VolumeOperation>) -> Self {
        Self { operation: operation.record.clone(), revision: operation.revision }
    }

    /// What finishing or undoing needs.
    ///
    /// # Errors
    /// When a newer version wrote it.
    pub(super) fn data<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_value(self.operation.data.clone()).map_err(|_| {
            Failure::new(format!("the journal of volume {} is not understood", self.operation.name))
                .hint("upgrade docker-gpuctl on this host")
        })
    }

    /// Moves on to a step, with new data.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) fn step(
        &mut self,
        ctx: &Context,
        step: &str,
        data: &impl Serialize,
    ) -> Result<(), Failure> {
        fault(self.operation.kind, &self.operation.step, "done");
        step.clone_into(&mut self.operation.step);
        self.operation.data = serde_json::to_value(data).unwrap_or_default();
        let key = ctx.ledger.keys().volume_operation(&self.operation.name);
        let mut batch = Batch::new();
        batch.at(key.clone(), self.revision).put(key, &self.operation);
        self.write(ctx, &batch)?;
        fault(self.operation.kind, step, "begun");
        Ok(())
    }

    /// Ends the change: the journal goes in the same commit as these writes.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) fn finish(self, ctx: &Context, mut with: Batch) -> Result<(), Failure> {
        let kind = self.operation.kind;
        fault(kind, &self.operation.step, "done");
        let name = &self.operation.name;
        let key = ctx.ledger.keys().volume_operation(name);
        with.at(key.clone(), self.revision).delete(key.clone());
        let outcome = ctx
            .ledger
            .commit_proved(&with, |ledger| Ok(ledger.get::<VolumeOperation>(&key)?.is_none()))?;
        fault(kind, "end", "done");
        match outcome {
            Outcome::Done(_) => Ok(()),
            Outcome::Conflict => Err(conflict(name)),
        }
    }

    fn write(&mut self, ctx: &Context, batch: &Batch) -> Result<(), Failure> {
        let name = &self.operation.name;
        match ctx.ledger.commit(batch) {
            Ok(Outcome::Done(revision)) => {
                self.revision = revision;
                Ok(())
            }
            Ok(Outcome::Conflict) => Err(conflict(name)),
            Err(LedgerError::Store(StoreError::Unknown(shown))) => {
                // The journal itself tells whether the commit happened.
                match open(ctx, name)? {
                    Some(now) if now.record == self.operation => {
                        self.revision = now.revision;
                        Ok(())
                    }
                    _ => Err(LedgerError::Store(StoreError::Unknown(shown)).into()),
                }
            }
            Err(e) => Err(e.into()),
        }
    }
}

fn conflict(name: &VolumeName) -> Failure {
    Failure::new(format!("the records of volume {name} were changed by somebody else meanwhile"))
        .hint("try again; docker gpuctl doctor --fix finishes what was left")
}

/// Where tests kill the program: before and after each step. Compiled out of releases.
#[cfg(feature = "faults")]
fn fault(kind: VolumeOperationKind, step: &str, when: &str) {
    let kind = match kind {
        VolumeOperationKind::InPlace => "in-place",
        kind => word(kind),
    };
    let here = format!("volume-{kind}:{step}:{when}");
    if std::env::var("GPUCTL_KILL_AT").is_ok_and(|at| at == here) {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Where tests kill the program: nothing in a release.
#[cfg(not(feature = "faults"))]
#[inline]
fn fault(_kind: VolumeOperationKind, _step: &str, _when: &str) {}
