//! The journal of a change: written before its first side effect, moved on before each step, gone
//! with its last commit. Whoever holds the container's lock and finds a journal knows that its
//! author is dead, and finishes or undoes it.

use std::time::Duration;

use gpuctl_ledger::keys::Keys;
use gpuctl_ledger::ledger::{At, Batch, Ledger, LedgerError};
use gpuctl_ledger::model::{
    ContainerName, DockerName, Operation, OperationKind, SCHEMA, Timestamp, Token, VersionRecord,
};
use gpuctl_ledger::node::lock::{self, Lock};
use gpuctl_ledger::store::{Outcome, Revision, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

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
    let taken = take(ctx, name)?;
    let mut ended = None;
    if let Some(operation) = ctx.ledger.operation(name)? {
        let said = recover::recover(ctx, &operation)?;
        front.event(Event::Note { text: said });
        ended = Some(operation.record.kind);
    }
    Ok(Locked { ended, ..taken })
}

/// The container's lock alone, for who knows what its open journal is about.
///
/// # Errors
/// When another change is under way.
pub(super) fn take(ctx: &Context, name: &ContainerName) -> Result<Locked, Failure> {
    let taken = lock::take(&ctx.config.paths.locks(), name.as_str(), LOCK_LIMIT).map_err(|e| {
        let why = gpuctl_ledger::config::plain_io_error(&e);
        Failure::new(format!("the lock of {name} cannot be taken: {why}"))
    })?;
    let Some(lock) = taken else {
        let busy = under_way::of(ctx, name);
        let hint = busy.hint(under_way::docker_name(ctx, name).as_ref());
        return Err(Failure::new(busy.told()).hint(hint));
    };
    Ok(Locked { lock, name: name.clone(), ended: None })
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

/// A record that stands in the ledger while a change is under way: of a container or of a volume.
pub(super) trait Change: Clone + PartialEq + Serialize + DeserializeOwned {
    /// Whose change.
    type Name;
    /// Which change.
    type Kind: Copy;

    /// The record of a change that begins.
    fn of(ctx: &Context, name: &Self::Name, kind: Self::Kind, begun: Begun) -> Self;
    /// Where it stands.
    fn key(&self, keys: &Keys) -> String;
    /// Whose it is, in messages: `train`, `volume data`.
    fn shown(&self) -> String;
    /// What comes before the step where tests kill the program: `scale`, `volume-resize`.
    #[cfg(feature = "faults")]
    fn point(&self) -> String;
    /// The last step begun.
    fn step(&self) -> &str;
    /// What finishing or undoing needs.
    fn data(&self) -> &Value;
    /// Is at a step from now on.
    fn moves_on(&mut self, step: &str, data: Value);
}

/// What the records of all changes have alike.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) token: Token,
    pub(super) since: Timestamp,
    pub(super) by: Option<String>,
    pub(super) step: String,
    pub(super) data: Value,
}

impl Change for Operation {
    type Name = ContainerName;
    type Kind = OperationKind;

    fn of(ctx: &Context, name: &ContainerName, kind: OperationKind, begun: Begun) -> Self {
        let Begun { token, since, by, step, data } = begun;
        let (actor, boot_id) = (ctx.me, ctx.boot_id.clone());
        Self {
            schema: SCHEMA,
            name: name.clone(),
            kind,
            token,
            actor,
            boot_id,
            since,
            by,
            step,
            data,
        }
    }
    fn key(&self, keys: &Keys) -> String {
        keys.operation(&self.name)
    }
    fn shown(&self) -> String {
        self.name.to_string()
    }
    #[cfg(feature = "faults")]
    fn point(&self) -> String {
        format!("{:?}", self.kind).to_lowercase()
    }
    fn step(&self) -> &str {
        &self.step
    }
    fn data(&self) -> &Value {
        &self.data
    }
    fn moves_on(&mut self, step: &str, data: Value) {
        step.clone_into(&mut self.step);
        self.data = data;
    }
}

/// An open journal of a container.
pub(super) type Journal = JournalOf<Operation>;

/// An open journal.
#[derive(Debug)]
pub(super) struct JournalOf<C> {
    /// As last written.
    pub(super) operation: C,
    revision: Revision,
}

impl<C: Change> JournalOf<C> {
    /// Opens a journal; the lock is held, so there is none.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) fn begin(
        ctx: &Context,
        name: &C::Name,
        kind: C::Kind,
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
        name: &C::Name,
        kind: C::Kind,
        by: Option<String>,
        step: &str,
        data: &impl Serialize,
        with: impl FnOnce(&C, &mut Batch),
    ) -> Result<Self, Failure> {
        let token =
            Token::random().map_err(|_| Failure::new("the kernel gives no random numbers"))?;
        let (since, step) = (Timestamp::now(), step.to_owned());
        let data = serde_json::to_value(data).unwrap_or_default();
        let operation = C::of(ctx, name, kind, Begun { token, since, by, step, data });
        let mut journal = Self { operation, revision: Revision(0) };
        let mut batch = Batch::new();
        let key = journal.operation.key(ctx.ledger.keys());
        batch.absent(key.clone()).put(key, &journal.operation);
        with(&journal.operation, &mut batch);
        if !journal.written(ctx, &batch)? {
            return Err(journal.conflict());
        }
        fault(&journal.operation, "begun");
        Ok(journal)
    }

    /// An open journal that was found.
    pub(super) fn found(operation: &At<C>) -> Self {
        Self { operation: operation.record.clone(), revision: operation.revision }
    }

    /// What finishing or undoing needs.
    ///
    /// # Errors
    /// When a newer version wrote it.
    pub(super) fn data<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_value(self.operation.data().clone()).map_err(|_| {
            Failure::new(format!("the journal of {} is not understood", self.operation.shown()))
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
            false => Err(self.conflict()),
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
        fault(&self.operation, "done");
        let before = self.operation.clone();
        self.operation.moves_on(step, serde_json::to_value(data).unwrap_or_default());
        let key = self.operation.key(ctx.ledger.keys());
        with.at(key.clone(), self.revision).put(key, &self.operation);
        if self.written(ctx, &with)? {
            fault(&self.operation, "begun");
            return Ok(true);
        }
        self.operation = before;
        match self.now(&ctx.ledger)? {
            Some(now) if now.revision == self.revision => Ok(false),
            _ => Err(self.conflict()),
        }
    }

    /// Ends the change: the journal goes in the same commit as these writes.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) fn finish(self, ctx: &Context, with: Batch) -> Result<(), Failure> {
        self.end(ctx, with)?
    }

    /// The last commit; a conflict is the inner error.
    fn end(&self, ctx: &Context, mut with: Batch) -> Result<Result<(), Failure>, LedgerError> {
        fault(&self.operation, "done");
        let key = self.operation.key(ctx.ledger.keys());
        with.at(key.clone(), self.revision).delete(key);
        let outcome = ctx.ledger.commit_proved(&with, |ledger| Ok(self.now(ledger)?.is_none()))?;
        fault_at(&self.operation, "end", "done");
        match outcome {
            Outcome::Done(_) => Ok(Ok(())),
            Outcome::Conflict => Ok(Err(self.conflict())),
        }
    }

    /// Commits; false for a conflict.
    fn written(&mut self, ctx: &Context, batch: &Batch) -> Result<bool, Failure> {
        match ctx.ledger.commit(batch) {
            Ok(Outcome::Done(revision)) => {
                self.revision = revision;
                Ok(true)
            }
            Ok(Outcome::Conflict) => Ok(false),
            Err(LedgerError::Store(StoreError::Unknown(shown))) => {
                // The journal itself tells whether the commit happened.
                match self.now(&ctx.ledger)? {
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

    /// What stands in the ledger in its place.
    fn now(&self, ledger: &Ledger) -> Result<Option<At<C>>, LedgerError> {
        ledger.get(&self.operation.key(ledger.keys()))
    }

    fn conflict(&self) -> Failure {
        Failure::new(format!(
            "the records of {} were changed by somebody else meanwhile",
            self.operation.shown()
        ))
        .hint("try again; docker gpuctl doctor --fix finishes what was left")
    }
}

impl Journal {
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
}

/// Where tests kill the program: before and after each step.
fn fault(operation: &impl Change, when: &str) {
    fault_at(operation, operation.step(), when);
}

/// Where tests kill the program. Compiled out of releases.
#[cfg(feature = "faults")]
fn fault_at(operation: &impl Change, step: &str, when: &str) {
    let here = format!("{}:{step}:{when}", operation.point());
    // Of several changes of one kind, one is meant by its name.
    let this = format!("{here}@{}", operation.shown());
    crate::faults::point(&here);
    crate::faults::point(&this);
}

/// Where tests kill the program: nothing in a release.
#[cfg(not(feature = "faults"))]
#[inline]
fn fault_at(_: &impl Change, _: &str, _: &str) {}

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
