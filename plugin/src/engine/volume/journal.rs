//! The lock of a volume, and the record of a change to it; the journal itself is as of containers.

use std::time::Duration;

use gpuctl_ledger::config::plain_io_error;
use gpuctl_ledger::keys::Keys;
use gpuctl_ledger::ledger::{At, LedgerError};
use gpuctl_ledger::model::{SCHEMA, Timestamp, VolumeName, VolumeOperation, VolumeOperationKind};
use gpuctl_ledger::node::lock::{self, Lock};
use serde_json::Value;

use super::super::api::{Event, Failure, Front};
use super::super::context::Context;
use super::super::journal::{Begun, Change, JournalOf};
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

impl Change for VolumeOperation {
    type Name = VolumeName;
    type Kind = VolumeOperationKind;

    fn of(ctx: &Context, name: &VolumeName, kind: VolumeOperationKind, begun: Begun) -> Self {
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
        keys.volume_operation(&self.name)
    }
    fn shown(&self) -> String {
        format!("volume {}", self.name)
    }
    #[cfg(feature = "faults")]
    fn point(&self) -> String {
        match self.kind {
            VolumeOperationKind::InPlace => "volume-in-place".to_owned(),
            kind => format!("volume-{}", word(kind)),
        }
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

/// An open journal of a volume.
pub(super) type Journal = JournalOf<VolumeOperation>;
