//! Whether ledger, node and Docker agree, and changes that were broken off.

use super::{Checks, by_fix, check};
use crate::engine::api::Verdict;
use crate::engine::context::Context;
use crate::engine::reconcile;

const NAME: &str = "records";

/// Without an Engine there is nothing to compare with, and one that hangs is not waited for again.
pub(super) fn unasked(checks: &mut Checks) {
    let text = "not compared with Docker, which does not answer";
    checks.warning(
        NAME,
        text,
        Some("see the line of the engine, then docker gpuctl doctor".into()),
    );
}

pub(super) fn checks(ctx: &Context, fix: bool, checks: &mut Checks) {
    match reconcile::reconcile(ctx, fix) {
        Ok(findings) if findings.is_empty() => {
            checks.ok(NAME, "ledger, node and Docker agree, and no change is left half done");
        }
        Ok(findings) => {
            for finding in findings {
                let (verdict, fix) = match (finding.mended, finding.by_hand) {
                    (true, _) => (Verdict::Fixed, None),
                    (false, Some(by_hand)) => (Verdict::Problem, Some(by_hand)),
                    (false, None) => (Verdict::Problem, by_fix()),
                };
                checks.0.push(check(NAME, verdict, finding.text, fix));
            }
        }
        Err(why) => checks.failed(NAME, why),
    }
}
