//! The journal of a change: written before its first side effect, moved on before each step, gone
//! with its last commit. Whoever holds the container's lock and finds a journal knows that its
//! author is dead, and finishes or undoes it.

use std::time::Duration;

use gpuctl_ledger::ledger::{At, Batch, LedgerError};
use gpuctl_ledger::model::{
    ContainerName, DockerName, Operation, OperationKind, SCHEMA, Timestamp, Token, VersionRecord,
};
use gpuctl_ledger::node::lock::{self, Lock};
use gpuctl_ledger::store::{Outcome, Revision, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::api::{Event, Failure, Front};
use super::context::Context;
use super::{names, recover, under_way, version};

/// How long a change waits for another one to the same container.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// The right to change one container, with nothing left over from changes before.
#[derive(Debug)]
pub(super) struct Locked {
    lock: Lock,
    name: ContainerName,
    /// The change that had been broken off and was brought to an end just now.
    pub(super) ended: Option<OperationKind>,
}

impl Locked {
    /// Makes sure that what was found under the lock is the container that it is for: by an id, another
    /// one may have been found meanwhile.
    ///
    /// # Errors
    /// When it is another.
    pub(super) fn is_of(&self, found: &ContainerName) -> Result<(), Failure> {
        if *found == self.name {
            return Ok(());
        }
        Err(Failure::new(format!("{} was removed meanwhile", self.name))
            .hint("docker gpuctl ps -a shows what there is"))
    }

    /// Lets go of a name that is no more: its lock goes with it. One that stays does no harm.
    pub(super) fn forget(self) {
        let _ = self.lock.remove();
    }
}

/// Takes the container's lock, and finishes or undoes what a dead change left.
///
/// # Errors
/// When another change is under way, or the one before cannot be brought to an end.
pub(super) fn lock(
    ctx: &Context,
    name: &ContainerName,
    front: &mut dyn Front,
) -> Result<Locked, Failure> {
    let taken = lock::take(&ctx.config.paths.locks(), name.as_str(), LOCK_LIMIT).map_err(|e| {
        let why = gpuctl_ledger::config::plain_io_error(&e);
        Failure::new(format!("the lock of {name} cannot be taken: {why}"))
    })?;
    let Some(taken) = taken else {
        let busy = under_way::of(ctx, name);
        let hint = busy.hint(under_way::docker_name(ctx, name).as_ref());
        return Err(Failure::new(busy.told()).hint(hint));
    };
    let mut ended = None;
    if let Some(operation) = ctx.ledger.operation(name)? {
        let said = recover::recover(ctx, &operation)?;
        front.event(Event::Note { text: said });
        ended = Some(operation.record.kind);
    }
    Ok(Locked { lock: taken, name: name.clone(), ended })
}

/// As [`lock()`], of the container that `foo` or `foo-N` names: also of one that has no record, or
/// not that version, but whose change was broken off and has to be brought to an end first.
///
/// # Errors
/// As [`lock()`], and when there is no such container.
pub(super) fn lock_named(
    ctx: &Context,
    text: &str,
    front: &mut dyn Front,
) -> Result<Locked, Failure> {
    let name = match names::record(ctx, text) {
        Ok(found) => found.record.name,
        Err(unknown) => changing(ctx, text)?.ok_or(unknown)?,
    };
    lock(ctx, &name, front)
}

/// The name with an open journal that `foo` or `foo-N` may mean.
fn changing(ctx: &Context, text: &str) -> Result<Option<ContainerName>, Failure> {
    let whole = ContainerName::new(text).ok();
    let base = DockerName::split(text).map(|(name, _)| name);
    for name in whole.into_iter().chain(base) {
        if ctx.ledger.operation(&name)?.is_some() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// As [`lock()`], without waiting; `None` when a change is under way.
///
/// # Errors
/// When the lock cannot be looked at.
pub(super) fn try_lock(ctx: &Context, name: &ContainerName) -> Result<Option<Locked>, Failure> {
    lock::take(&ctx.config.paths.locks(), name.as_str(), Duration::ZERO)
        .map(|taken| taken.map(|lock| Locked { lock, name: name.clone(), ended: None }))
        .map_err(|e| {
            let why = gpuctl_ledger::config::plain_io_error(&e);
            Failure::new(format!("the lock of {name} cannot be taken: {why}"))
        })
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    /// As last written.
    pub(super) operation: Operation,
    revision: Revision,
}

impl Journal {
    /// Opens a journal; the lock is held, so there is none.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) fn begin(
        ctx: &Context,
        name: &ContainerName,
        kind: OperationKind,
        by: Option<String>,
        step: &str,
        data: &impl Serialize,
    ) -> Result<Self, Failure> {
        Self::begin_with(ctx, name, kind, by, step, data, |_, _| {})
    }

    /// As [`Self::begin`], with other conditions and writes in the same commit.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) fn begin_with(
        ctx: &Context,
        name: &ContainerName,
        kind: OperationKind,
        by: Option<String>,
        step: &str,
        data: &impl Serialize,
        with: impl FnOnce(&Operation, &mut Batch),
    ) -> Result<Self, Failure> {
        let token =
            Token::random().map_err(|_| Failure::new("the kernel gives no random numbers"))?;
        let operation = Operation {
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
        let key = ctx.ledger.keys().operation(name);
        batch.absent(key.clone()).put(key, &journal.operation);
        with(&journal.operation, &mut batch);
        journal.write(ctx, &batch)?;
        fault(kind, step, "begun");
        Ok(journal)
    }

    /// An open journal that was found.
    pub(super) fn found(operation: &At<Operation>) -> Self {
        Self { operation: operation.record.clone(), revision: operation.revision }
    }

    /// What finishing or undoing needs.
    ///
    /// # Errors
    /// When a newer version wrote it.
    pub(super) fn data<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_value(self.operation.data.clone()).map_err(|_| {
            Failure::new(format!("the journal of {} is not understood", self.operation.name))
                .hint("upgrade docker-gpuctl on this host")
        })
    }

    /// Moves on to a step, with new data and with other writes in the same commit.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) fn step(
        &mut self,
        ctx: &Context,
        step: &str,
        data: &impl Serialize,
        with: Batch,
    ) -> Result<(), Failure> {
        match self.try_step(ctx, step, data, with)? {
            true => Ok(()),
            false => Err(conflict(&self.operation.name)),
        }
    }

    /// As [`Self::step`]; false where a condition of the other writes did not hold: then nothing is
    /// written, and the journal stands where it stood.
    ///
    /// # Errors
    /// The ledger's, and where the journal itself was changed.
    pub(super) fn try_step(
        &mut self,
        ctx: &Context,
        step: &str,
        data: &impl Serialize,
        mut with: Batch,
    ) -> Result<bool, Failure> {
        fault(self.operation.kind, &self.operation.step, "done");
        let before = self.operation.clone();
        step.clone_into(&mut self.operation.step);
        self.operation.data = serde_json::to_value(data).unwrap_or_default();
        let name = self.operation.name.clone();
        let key = ctx.ledger.keys().operation(&name);
        with.at(key.clone(), self.revision).put(key, &self.operation);
        if self.written(ctx, &with)? {
            fault(self.operation.kind, step, "begun");
            return Ok(true);
        }
        self.operation = before;
        match ctx.ledger.operation(&name)? {
            Some(now) if now.revision == self.revision => Ok(false),
            _ => Err(conflict(&name)),
        }
    }

    /// Ends the change: the journal goes in the same commit as these writes.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) fn finish(self, ctx: &Context, with: Batch) -> Result<(), Failure> {
        self.end(ctx, with)?
    }

    /// As [`Self::finish`], with the record of a version. Where the store does not take that, it is
    /// written without its spec: a change that can be neither done nor undone would keep its
    /// container from every other.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) fn finish_with(
        self,
        ctx: &Context,
        with: &Batch,
        record: &VersionRecord,
    ) -> Result<(), Failure> {
        let key = ctx.ledger.keys().version(&record.name, record.version);
        let carrying = |record: &VersionRecord| {
            let mut batch = with.clone();
            batch.put(key.clone(), record);
            batch
        };
        match self.end(ctx, carrying(record)) {
            Err(LedgerError::Store(StoreError::BadRecord)) => {
                self.finish(ctx, carrying(&version::without_spec(record)))
            }
            ended => Ok(ended??),
        }
    }

    /// The last commit; a conflict is the inner error.
    fn end(&self, ctx: &Context, mut with: Batch) -> Result<Result<(), Failure>, LedgerError> {
        let kind = self.operation.kind;
        fault(kind, &self.operation.step, "done");
        let key = ctx.ledger.keys().operation(&self.operation.name);
        with.at(key.clone(), self.revision).delete(key.clone());
        let name = &self.operation.name;
        let proof = |ledger: &gpuctl_ledger::ledger::Ledger| -> Result<bool, LedgerError> {
            Ok(ledger.operation(name)?.is_none())
        };
        let outcome = ctx.ledger.commit_proved(&with, proof)?;
        fault(kind, "end", "done");
        match outcome {
            Outcome::Done(_) => Ok(Ok(())),
            Outcome::Conflict => Ok(Err(conflict(name))),
        }
    }

    fn write(&mut self, ctx: &Context, batch: &Batch) -> Result<(), Failure> {
        match self.written(ctx, batch)? {
            true => Ok(()),
            false => Err(conflict(&self.operation.name)),
        }
    }

    /// Commits; false for a conflict.
    fn written(&mut self, ctx: &Context, batch: &Batch) -> Result<bool, Failure> {
        let name = &self.operation.name;
        match ctx.ledger.commit(batch) {
            Ok(Outcome::Done(revision)) => {
                self.revision = revision;
                Ok(true)
            }
            Ok(Outcome::Conflict) => Ok(false),
            Err(LedgerError::Store(StoreError::Unknown(shown))) => {
                // The journal itself tells whether the commit happened.
                match ctx.ledger.operation(name)? {
                    Some(now) if now.record == self.operation => {
                        self.revision = now.revision;
                        Ok(true)
                    }
                    _ => Err(LedgerError::Store(StoreError::Unknown(shown)).into()),
                }
            }
            Err(e) => Err(e.into()),
        }
    }
}

fn conflict(name: &ContainerName) -> Failure {
    Failure::new(format!("the records of {name} were changed by somebody else meanwhile"))
        .hint("try again; docker gpuctl doctor --fix finishes what was left")
}

/// Where tests kill the program: before and after each step. Compiled out of releases.
#[cfg(feature = "faults")]
pub(super) fn fault(kind: OperationKind, step: &str, when: &str) {
    let here = format!("{}:{step}:{when}", format!("{kind:?}").to_lowercase());
    if std::env::var("GPUCTL_KILL_AT").is_ok_and(|at| at == here) {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Where tests kill the program: nothing in a release.
#[cfg(not(feature = "faults"))]
#[inline]
pub(super) fn fault(_kind: OperationKind, _step: &str, _when: &str) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_whose_record_is_too_large_comes_to_its_end_without_its_spec() {
        let folder = tempfile::tempdir().unwrap();
        let ctx = Context::of_test(folder.path());
        let name = ContainerName::new("big").unwrap();
        for (version, bytes, kept) in [(1, 1000, true), (2, 2 << 20, false)] {
            let record: VersionRecord = serde_json::from_value(serde_json::json!({
                "schema": SCHEMA, "name": "big", "version": version, "container": "a".repeat(64),
                "gpus": {"count": 5}, "at": "2026-11-22T00:52:04.854Z", "why": "scale 1 -> 5 GPUs",
                "spec": {"Config": "x".repeat(bytes)},
            }))
            .unwrap();
            let kind = OperationKind::Scale;
            let journal = Journal::begin(&ctx, &name, kind, None, "rename", &()).unwrap();
            journal.finish_with(&ctx, &Batch::new(), &record).unwrap();
            assert!(ctx.ledger.operation(&name).unwrap().is_none(), "it is still open");
            let written = ctx.ledger.version(&name, record.version).unwrap().unwrap().record;
            assert_eq!(written.spec.is_null(), !kept);
            assert_eq!((&written.why, &written.gpus), (&record.why, &record.gpus));
        }
    }
}
