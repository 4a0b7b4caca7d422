//! Could this container have these GPUs now? Asked before anything is done, so that a refusal changes
//! nothing and says all that there is to say. The claim itself decides again.

use std::collections::BTreeMap;

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::config::AllPolicy;
use gpuctl_ledger::grant::{Observed, observe, shortage_refusal};
use gpuctl_ledger::model::{ContainerId, GpuRequest, Unit};
use gpuctl_ledger::rules::allocate::{Supply, Want, allocate};
use gpuctl_ledger::rules::words::Refusal;

use super::api::Failure;
use super::context::Context;

/// Why it could not; `None` where it could.
///
/// # Errors
/// When ledger or node cannot be read.
pub(super) fn now(
    ctx: &Context,
    container: Option<&ContainerId>,
    request: &GpuRequest,
    prefer: &[Unit],
) -> Result<Option<Refusal>, Failure> {
    if request.is_none() {
        return Ok(None);
    }
    let seen = observe(&ctx.ledger, &ctx.view(), container)?;
    Ok(by(ctx, &seen, container, request, prefer))
}

/// The same by what was seen already.
pub(super) fn by(
    ctx: &Context,
    seen: &Observed,
    container: Option<&ContainerId>,
    request: &GpuRequest,
    prefer: &[Unit],
) -> Option<Refusal> {
    let supply = Supply { inventory: &seen.inventory, leases: &seen.judged, busy: &seen.busy };
    let want = Want { request, container, prefer, all: ctx.config.policy.all };
    let shortage = allocate(&supply, &want).err();
    shortage.map(|shortage| shortage_refusal(&shortage, request, &ctx.ledger))
}

/// Why the node never could, whoever holds what; `None` where it could one day.
///
/// # Errors
/// When the node cannot be read.
pub(super) fn ever(ctx: &Context, request: &GpuRequest) -> Result<Option<Refusal>, Failure> {
    if request.is_none() {
        return Ok(None);
    }
    let inventory = ctx.view().inventory()?;
    let supply = Supply { inventory: &inventory, leases: &BTreeMap::new(), busy: &BTreeMap::new() };
    let want = Want { request, container: None, prefer: &[], all: AllPolicy::Free };
    let shortage = allocate(&supply, &want).err();
    Ok(shortage.map(|shortage| shortage_refusal(&shortage, request, &ctx.ledger)))
}

/// Writes down that this was refused to a user, before Docker was asked.
pub(super) fn tell_refused(
    ctx: &Context,
    container: Option<&ContainerId>,
    name: &str,
    user: Option<String>,
    refusal: &Refusal,
) {
    let id = container.map_or("", ContainerId::as_str);
    Entry::new(Decision::Refused, id, name).user(user).why(refusal.one_line()).write(&ctx.config);
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.headline).details(refusal.rows).hint(refusal.hint)
    }
}
