//! Giving back what a container held, once it was seen gone.

use gpuctl_ledger::grant;
use gpuctl_ledger::ledger::{Change, LedgerError};
use gpuctl_ledger::model::{ContainerId, LeaseState, Timestamp, Unit};
use gpuctl_ledger::node::notes;
use gpuctl_ledger::rules::liveness::Life;

use super::context::Context;

/// Does what poststop could not while a change was open: ends the claim of a container that ended in
/// the meantime. Of one that lives, nothing is touched. What fails here is found later.
pub(super) fn settle(ctx: &Context, id: &ContainerId) {
    let _ = grant::end(&ctx.ledger, &ctx.view(), id, None);
}

/// Frees the leases of a container whose process is gone, whether or not Docker might start it
/// again: it was stopped, removed or scaled by the one who asks. `keep` are left as they are.
/// Leases of a living process are left too. The units freed.
///
/// # Errors
/// The ledger's.
pub(super) fn release_dead(
    ctx: &Context,
    id: &ContainerId,
    keep: &[Unit],
) -> Result<Vec<Unit>, LedgerError> {
    let view = ctx.view();
    let now = Timestamp::now();
    let freed = ctx.ledger.change_leases(id, None, |lease| {
        // Reserved means: dead, and would be waited for.
        let dead = matches!(view.judge(lease, &[], now), Life::Gone | Life::Reserved)
            // Claimed by this very process for a change that is over: we have the lock.
            || (lease.state == LeaseState::Claimed && lease.evidence.claimer == ctx.me);
        if dead && !keep.contains(&lease.unit) { Change::Delete } else { Change::Keep }
    })?;
    let left = ctx.ledger.leases()?.values().any(|l| l.record.holder.container == *id);
    if !left && !view.living_grants().is_ok_and(|g| g.iter().any(|g| g.holder.container == *id)) {
        let _ = notes::remove_grant(&ctx.config.paths, id);
    }
    Ok(freed)
}
