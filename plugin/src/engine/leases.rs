//! The leases of a container over a change: claimed for it, put back where it is undone, told of where
//! it is done.

use std::time::Duration;

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::grant::{self, Claim, Granted};
use gpuctl_ledger::ledger::{At, Batch, Change, LedgerError};
use gpuctl_ledger::model::{
    Binding, ContainerId, ContainerName, DockerName, GpuRequest, Holder, Lease, Token, Unit,
    Version,
};
use gpuctl_ledger::node::{lock, notes};
use gpuctl_ledger::store::{Outcome, Revision};

use super::api::Failure;
use super::context::Context;
use super::create::keep_copy;

/// How often leases that others change are read anew.
const TRIES: u32 = 8;

/// The leases that a container holds.
///
/// # Errors
/// The ledger's.
pub(super) fn held(ctx: &Context, id: &ContainerId) -> Result<Vec<At<Lease>>, LedgerError> {
    let leases = ctx.ledger.leases()?.into_values();
    Ok(leases.filter(|at| at.record.holder.container == *id).collect())
}

/// What of leases undoing puts back: which, and each under which claim.
pub(super) fn as_held(leases: &[At<Lease>]) -> Vec<(Unit, Token)> {
    leases.iter().map(|at| (at.record.unit.clone(), at.record.token.clone())).collect()
}

/// Claims for a container, while it runs, what it is to have after a change; with its binding in the same
/// commit, where that changes.
///
/// # Errors
/// When there is not so much, and the ledger's.
pub(super) fn claim(
    ctx: &Context,
    token: &Token,
    holder: &Holder,
    gpus: &GpuRequest,
    held: &[(Unit, Token)],
    binding: Option<(Binding, Option<Revision>)>,
) -> Result<Granted, Failure> {
    let prefer: Vec<Unit> = held.iter().map(|(unit, _)| unit.clone()).collect();
    let claim = Claim {
        holder,
        request: gpus,
        prefer: &prefer,
        token,
        binding,
        all: ctx.config.policy.all,
        free_rest: false,
        operation: Some(token),
    };
    Ok(grant::claim(&ctx.ledger, &ctx.view(), &claim, ctx.config.ledger.timeout())?)
}

/// What a change has found of a container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before<'a> {
    /// Its name.
    pub(super) name: &'a ContainerName,
    /// Its version.
    pub(super) version: Version,
    /// Its binding, which has its id.
    pub(super) binding: &'a Binding,
    /// The leases that it held, by unit and token.
    pub(super) held: &'a [(Unit, Token)],
    /// Who asked for the change.
    pub(super) by: Option<&'a String>,
    /// Whether its process runs: then that one's own grant tells under which claim. It may have been
    /// started anew by an undoing that was broken off.
    pub(super) runs: bool,
}

/// Puts binding and leases back to what they were, also from `new`, the container that was to take its
/// place; what was claimed beyond that is free. `back` makes of a lease as it is the one that is put
/// back.
///
/// # Errors
/// The ledger's, and where others change them again and again.
pub(super) fn put_back(
    ctx: &Context,
    before: Before<'_>,
    new: Option<&ContainerId>,
    back: impl Fn(Lease) -> Lease,
) -> Result<(), Failure> {
    let Before { name, version, binding, held, by, runs } = before;
    let (id, old_name) = (&binding.container, DockerName::of(name, version));
    let granted = notes::read_grant(&ctx.config.paths, id).ok().flatten().filter(|_| runs);
    let keys = ctx.ledger.keys();
    for _ in 0..TRIES {
        let mut batch = Batch::new();
        let mut freed = Vec::new();
        if let Some(now) = ctx.ledger.binding(id)? {
            let key = keys.binding(id);
            batch.at(key.clone(), now.revision).put(key, binding);
        }
        for (unit, lease) in ctx.ledger.leases()? {
            let holder = &lease.record.holder;
            if holder.container != *id && new != Some(&holder.container) {
                continue;
            }
            let key = keys.lease(&unit);
            let Some((_, token)) = held.iter().find(|(held, _)| *held == unit) else {
                batch.at(key.clone(), lease.revision).delete(key);
                freed.push(unit);
                continue;
            };
            // A process that still runs does so under its own token: its poststop must find it.
            let token = match &granted {
                Some(grant) if grant.units.contains(&unit) => &grant.token,
                _ => token,
            };
            let was = back(lease.record);
            let holder = Holder {
                container: id.clone(),
                docker_name: old_name.clone(),
                ..was.holder.clone()
            };
            let was = Lease { token: token.clone(), holder, ..was };
            batch.at(key.clone(), lease.revision).put(key, &was);
        }
        if batch.is_empty() || matches!(ctx.ledger.commit(&batch)?, Outcome::Done(_)) {
            keep_copy(ctx, binding);
            if !freed.is_empty() {
                Entry::new(Decision::Released, id.as_str(), old_name.as_str())
                    .user(by.or(binding.owner.as_ref()).cloned())
                    .gpus(&freed)
                    .why("its change was undone")
                    .write(&ctx.config);
            }
            return Ok(());
        }
    }
    Err(Failure::new("its leases are changed by others again and again")
        .hint("docker gpuctl doctor --fix ends what was left"))
}

/// Writes down what a container has after a change: nothing where it does not run.
pub(super) fn tell_rebound(
    ctx: &Context,
    (id, docker_name): (&ContainerId, &DockerName),
    by: Option<String>,
    units: Option<Vec<Unit>>,
    why: &str,
) {
    Entry::new(Decision::Rebound, id.as_str(), docker_name.as_str())
        .user(by)
        .gpus(&units.unwrap_or_default())
        .why(why)
        .write(&ctx.config);
}

/// How long the new name of a container waits for starts under way.
const NAMED: Duration = Duration::from_secs(2);

/// Has the leases of a container, and the node's note of them, say its new name.
///
/// # Errors
/// The ledger's.
pub(super) fn named(ctx: &Context, id: &ContainerId, name: &DockerName) -> Result<(), Failure> {
    let of = |holder: &Holder| Holder { docker_name: name.clone(), ..holder.clone() };
    let _ = ctx.ledger.change_leases(id, None, |lease| {
        if lease.holder.docker_name == *name {
            return Change::Keep;
        }
        Change::Put(Box::new(Lease { holder: of(&lease.holder), ..lease.clone() }))
    })?;
    note_holder(ctx, id, NAMED, |noted| (noted.docker_name != *name).then(|| of(noted)));
    Ok(())
}

/// Has the node's note of a container's grant say another holder, where `change` gives one. No start
/// writes one meanwhile. What cannot be written says the old one until the next start.
pub(super) fn note_holder(
    ctx: &Context,
    id: &ContainerId,
    limit: Duration,
    change: impl FnOnce(&Holder) -> Option<Holder>,
) {
    let paths = &ctx.config.paths;
    if let Ok(Some(_lock)) = lock::take(&paths.grants(), grant::LOCK, limit)
        && let Ok(Some(note)) = notes::read_grant(paths, id)
        && let Some(holder) = change(&note.holder)
    {
        let _ = notes::write_grant(paths, &notes::Grant { holder, ..note });
    }
}
