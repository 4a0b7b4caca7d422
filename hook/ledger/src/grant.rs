//! Granting GPUs to a container on this node, and giving them back: observe, decide, note, commit.
//! The wrapper does it at every start of a container, the engine before a change that needs more.
//!
//! Order matters, and is the same everywhere: the node's note is written before the commit, so that
//! what the ledger may have promised the node knows of; it is removed after the holder was seen gone.

mod end;
mod observe;
mod plan;

use std::time::{Duration, Instant};

use crate::config::AllPolicy;
use crate::ledger::{Ledger, LedgerError};
use crate::model::{Binding, ContainerId, GpuRequest, Holder, Inventory, Timestamp, Token, Unit};
use crate::node::{lock, notes};
use crate::rules::allocate::{Shortage, Supply, Want, allocate};
use crate::rules::liveness::Life;
use crate::rules::retry::may_pass;
use crate::rules::words::{Refusal, refusal};
use crate::store::{Outcome, StoreError};
use crate::view::NodeView;

pub use end::{Ended, activate, end, note_ends};
use observe::unseen_refusal;
pub use observe::{Observed, observe};
pub use plan::guard_overlaps;
use plan::{Planned, held_before, is_changing, plan_commit, preferred, tell_freed};

/// The lock under which notes of grants are looked at and written: a file beside them.
pub const LOCK: &str = ".lock";

/// Why a grant was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// The ledger's word.
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    /// There are not the GPUs that were asked for.
    #[error("{}", .0.headline)]
    Refused(Refusal),
    /// The same, and waiting changes nothing: the node has no such GPUs.
    #[error("{}", .0.headline)]
    Impossible(Refusal),
    /// The node's own files: which, and what is the matter.
    #[error("{what} cannot be used: {why}")]
    Node {
        /// Which.
        what: &'static str,
        /// What is the matter, in plain words.
        why: &'static str,
    },
    /// The ledger answers, but too slowly for the whole claim.
    #[error("the ledger is too slow: the time for this claim is up")]
    Slow,
    /// Others were quicker, again and again, until the time was up.
    #[error("GPUs are being claimed by others, and the time for this claim is up")]
    Contended,
}

/// A fault of one of the node's own files, in words.
pub(crate) fn node_error(what: &'static str) -> impl Fn(std::io::Error) -> GrantError {
    move |e| GrantError::Node { what, why: crate::config::plain_io_error(&e) }
}

/// What is claimed, by whom.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// For whom.
    pub holder: &'a Holder,
    /// What.
    pub request: &'a GpuRequest,
    /// Taken first; then what the container holds already.
    pub prefer: &'a [Unit],
    /// The claim's token.
    pub token: &'a Token,
    /// The binding to write in the same commit, and the revision at which it was seen. Its `last`
    /// and `token` are set to what is granted.
    pub binding: Option<(Binding, Option<crate::store::Revision>)>,
    /// What `all` means.
    pub all: AllPolicy,
    /// Whether units that this container holds and that are not granted again are freed in the
    /// same commit, where its old process is seen gone.
    pub free_rest: bool,
    /// The change of which this claim is a part, if any: it may act on its own container.
    pub operation: Option<&'a Token>,
}

/// What was granted.
#[derive(Debug, Clone, PartialEq)]
pub struct Granted {
    /// The units, in nvidia-smi order, or in the order named.
    pub units: Vec<Unit>,
    /// The inventory from which they were granted.
    pub inventory: Inventory,
    /// The binding as committed.
    pub binding: Option<Binding>,
    /// Whether a change to the container is open: then only the change gives anything back.
    pub changing: bool,
    /// What the container held before, or had held last.
    pub before: Vec<Unit>,
}

/// A shortage as this node says it.
pub fn shortage_refusal(shortage: &Shortage, request: &GpuRequest, ledger: &Ledger) -> Refusal {
    refusal(shortage, request, ledger.node(), &shown_time)
}

/// A time as people here read it: the hour where it is of the last day, else the date too.
pub fn shown_time(at: Timestamp) -> String {
    let zone = jiff::tz::TimeZone::system();
    let Ok(time) = jiff::Timestamp::from_millisecond(at.millis()) else { return at.to_string() };
    let time = time.to_zoned(zone);
    let recent = Timestamp::now().millis_since(at) < 20 * 3600 * 1000;
    time.strftime(if recent { "%H:%M" } else { "%a %Y-%m-%d %H:%M" }).to_string()
}

/// Claims what is asked for, or nothing: one commit over every unit of the request and the binding.
/// Tried again while others are quicker, until `limit` has passed.
///
/// # Errors
/// [`GrantError`]; then nothing is claimed, unless the ledger's answer was lost: then the note
/// stays, and the claim ends with this process.
pub fn claim(
    ledger: &Ledger,
    view: &NodeView<'_>,
    claim: &Claim<'_>,
    limit: Duration,
) -> Result<Granted, GrantError> {
    let deadline = Instant::now() + limit;
    let id = &claim.holder.container;
    loop {
        let locked = lock::take(&view.config.paths.grants(), LOCK, limit)
            .map_err(node_error("the lock for grants"))?
            .ok_or(GrantError::Contended)?;
        let seen = observe(ledger, view, Some(id))?;
        let supply = Supply { inventory: &seen.inventory, leases: &seen.judged, busy: &seen.busy };
        let prefer = preferred(claim, &seen);
        let want =
            Want { request: claim.request, container: Some(id), prefer: &prefer, all: claim.all };
        let units = allocate(&supply, &want).map_err(|s| {
            note_ends(ledger, view, &seen);
            let refusal = shortage_refusal(&s, claim.request, ledger);
            if may_pass(&s) {
                GrantError::Refused(refusal)
            } else {
                GrantError::Impossible(refusal)
            }
        })?;
        // What the container has held all along nobody else has been given meanwhile.
        let anew = |unit: &Unit| seen.judged.get(unit).is_none_or(|j| j.life == Life::Gone);
        if !seen.unseen.is_empty() && units.iter().any(anew) {
            return Err(GrantError::Refused(unseen_refusal(&seen.unseen)));
        }
        let Planned { batch, binding, leases, freed, overlapped } =
            plan_commit(ledger, view, claim, &seen, &units)?;
        let before = notes::read_grant(&view.config.paths, id).ok().flatten();
        if let Some(first) = leases.first() {
            let grant = notes::Grant {
                holder: claim.holder.clone(),
                units: units.clone(),
                minors: units
                    .iter()
                    .filter_map(|u| seen.inventory.piece(u).map(|piece| piece.gpu.minor))
                    .collect(),
                token: claim.token.clone(),
                since: first.since,
                evidence: first.evidence.clone(),
                active: false,
            };
            // A change claims while the old process still runs, whose note stays; the start that the
            // change makes writes its own.
            if claim.operation.is_none() {
                notes::write_grant(&view.config.paths, &grant)
                    .map_err(node_error("the note of a grant"))?;
            }
        }
        drop(locked);
        if Instant::now() >= deadline {
            restore_note(view, id, before);
            return Err(GrantError::Slow);
        }
        let token = claim.token;
        let proof = |ledger: &Ledger| -> Result<bool, LedgerError> {
            if units.is_empty() {
                let binding = ledger.binding(id)?;
                return Ok(binding.is_some_and(|b| b.record.token == *token));
            }
            let now = ledger.leases()?;
            Ok(units.iter().all(|u| now.get(u).is_some_and(|l| l.record.token == *token)))
        };
        match ledger.commit_proved(&batch, proof) {
            Ok(Outcome::Done(_)) => {
                let changing = is_changing(&seen, claim.holder);
                tell_freed(view, claim, &seen, &[&units[..], &overlapped].concat(), &freed);
                let before = held_before(claim, &seen);
                return Ok(Granted { units, inventory: seen.inventory, binding, changing, before });
            }
            Ok(Outcome::Conflict) => {
                restore_note(view, id, before);
                if Instant::now() >= deadline {
                    return Err(GrantError::Contended);
                }
            }
            // It may be written: the note must stay as long as this process lives.
            Err(e @ LedgerError::Store(StoreError::Unknown(_))) => return Err(e.into()),
            Err(e) => {
                restore_note(view, id, before);
                return Err(e.into());
            }
        }
    }
}

fn restore_note(view: &NodeView<'_>, id: &ContainerId, before: Option<notes::Grant>) {
    let _ = match before {
        Some(grant) => notes::write_grant(&view.config.paths, &grant),
        None => notes::remove_grant(&view.config.paths, id),
    };
}
