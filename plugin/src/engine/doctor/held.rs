//! GPUs in quarantine, and processes on GPUs that belong to no lease.

use gpuctl_ledger::config::plain_io_error;
use gpuctl_ledger::model::Unit;
use gpuctl_ledger::node::{busy, quarantine};
use gpuctl_ledger::rules::quarantine::Cause;
use gpuctl_ledger::view;

use super::{Checks, by_fix, check};
use crate::engine::api::Verdict;
use crate::engine::context::Context;
use crate::engine::{look, watch};

const NAME: &str = "quarantine";
const PROCESSES: &str = "processes";

/// `fix` clears by hand what can be so cleared.
pub(super) fn checks(ctx: &Context, fix: bool, user: Option<&str>, checks: &mut Checks) {
    let inventory = ctx.view().inventory().ok();
    let gpu = |unit: &Unit| {
        let known = inventory.as_ref().and_then(|inventory| inventory.piece(unit));
        known.map_or_else(
            || format!("GPU {unit}"),
            |piece| format!("GPU {} ({unit})", piece.place()),
        )
    };
    // Also with --fix it is first seen what is over by itself.
    let before = busy::last_watch(&ctx.config.paths.watch());
    let seen = if fix { watch::seen(ctx) } else { look::look(ctx, before.as_ref()) };
    let cleared = if fix { watch::pardon(ctx, user) } else { Ok(Vec::new()) };
    match cleared {
        Ok(cleared) => {
            for held in cleared {
                let text = format!("{}: cleared by hand: {}", gpu(&held.unit), held.cause.words());
                checks.0.push(check(NAME, Verdict::Fixed, text, None));
            }
        }
        Err(why) => checks.failed(NAME, why),
    }
    match quarantine::read(&ctx.config.paths, &ctx.boot_id) {
        Ok(now) if now.held.is_empty() => checks.ok(NAME, "no GPU is in quarantine"),
        Ok(now) => {
            for held in &now.held {
                let text = format!("{}: {}", gpu(&held.unit), view::quarantine_words(held));
                let by_hand = match held.cause {
                    Cause::Card { .. } => {
                        "nvidia-smi and dmesg say more; it comes back once it answers"
                    }
                    _ => {
                        "it comes back once it is clean; docker gpuctl doctor --fix clears it by hand"
                    }
                };
                checks.problem(NAME, text, Some(by_hand.into()));
            }
        }
        Err(e) => {
            let text = format!("the list of GPUs in quarantine: {}", plain_io_error(&e));
            checks.problem(NAME, text, by_fix());
        }
    }
    // That the driver does not answer has been said already.
    let Ok(seen) = seen else { return };
    let mut strangers = 0;
    for (unit, on) in seen.on {
        if !on.strangers.is_empty() {
            strangers += 1;
            let text = format!(
                "{}: {} without a lease: it is not granted to anybody",
                gpu(&unit),
                look::strangers_words(&on.strangers)
            );
            let fix = "nothing is killed here: see whose it is, and end it, or give it a lease";
            checks.warning(PROCESSES, text, Some(fix.into()));
        }
    }
    if strangers == 0 {
        checks.ok(PROCESSES, "no process uses a GPU without a lease");
    }
}
