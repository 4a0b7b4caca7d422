//! What comes after a grant: its leases are activated, and at the holder's end freed or kept for it.

use super::{GrantError, Observed};
use crate::audit::{Decision, Entry};
use crate::ledger::{Change, Leases, Ledger, LedgerError, Sight};
use crate::model::{Cgroup, ContainerId, LeaseState, Process, Timestamp, Token, Unit};
use crate::node::notes;
use crate::rules::liveness::Life;
use crate::view::NodeView;

/// Writes down the end of holders that are dead and of which nobody has: their time of waiting for a
/// restart by hand begins. What fails here is done by the next who is short.
pub fn note_ends(ledger: &Ledger, view: &NodeView<'_>, seen: &Observed) {
    for judged in seen.judged.values() {
        let evidence = &judged.lease.evidence;
        if judged.life == Life::Reserved && evidence.ended.is_none() {
            let _ = end(ledger, view, &judged.lease.holder.container, None);
        }
    }
}

/// Activates the leases of a container under a token: one commit that writes down its init. `seen` are
/// the leases as they were just read. The units so activated.
///
/// # Errors
/// The ledger's.
pub fn activate(
    ledger: &Ledger,
    seen: Leases,
    id: &ContainerId,
    token: &Token,
    init: Process,
    cgroup: Option<Cgroup>,
) -> Result<Vec<Unit>, LedgerError> {
    // Active already, when an answer was lost and the commit had happened.
    let already = std::cell::RefCell::new(Vec::new());
    let mut active = ledger.change_leases_seen(seen, id, Some(token), |lease| {
        let mut new = lease.clone();
        new.state = LeaseState::Active;
        new.evidence.init = Some(init);
        new.evidence.cgroup.clone_from(&cgroup);
        new.evidence.ended = None;
        if new == *lease {
            already.borrow_mut().push(lease.unit.clone());
            Change::Keep
        } else {
            Change::Put(Box::new(new))
        }
    })?;
    active.extend(already.into_inner());
    Ok(active)
}

/// What became of the leases of a container that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It had none under that token.
    Nothing,
    /// They are free.
    Released,
    /// They wait for it.
    Reserved,
    /// Left as they were: a change is open, or the holder was not seen gone.
    Left,
}

/// Ends the claim of a container that stands under `token` (any for `None`): frees its leases, or
/// keeps them reserved where Docker will start it again. Poststop, the wrapper after `delete`, and
/// reconciliation call it; calling it twice does nothing the second time.
///
/// # Errors
/// The ledger's.
pub fn end(
    ledger: &Ledger,
    view: &NodeView<'_>,
    id: &ContainerId,
    token: Option<&Token>,
) -> Result<Ended, GrantError> {
    let Sight { leases, changing } = ledger.sight()?;
    let now = Timestamp::now();
    let outcome = std::cell::Cell::new(Ended::Nothing);
    let holder = std::cell::RefCell::new(None);
    let changed = ledger.change_leases_seen(leases, id, token, |lease| {
        *holder.borrow_mut() = Some(lease.holder.clone());
        let mut ended = lease.clone();
        ended.evidence.ended = Some(lease.evidence.ended.unwrap_or(now));
        match view.judge(&ended, &changing, now) {
            Life::Gone => {
                outcome.set(Ended::Released);
                Change::Delete
            }
            Life::Reserved => {
                outcome.set(Ended::Reserved);
                ended.state = LeaseState::Reserved;
                if ended == *lease { Change::Keep } else { Change::Put(Box::new(ended)) }
            }
            Life::Alive | Life::Changing | Life::Unknown => {
                outcome.set(Ended::Left);
                Change::Keep
            }
        }
    })?;
    if let Some(holder) = holder.into_inner().filter(|_| !changed.is_empty()) {
        let told = match outcome.get() {
            Ended::Released => Some((Decision::Released, "its process is gone")),
            Ended::Reserved => Some((Decision::Reserved, "kept for its next start")),
            Ended::Nothing | Ended::Left => None,
        };
        if let Some((decision, why)) = told {
            Entry::of(decision, &holder).gpus(&changed).why(why).write(view.config);
        }
    }
    if outcome.get() != Ended::Left {
        // Only the note of this very claim, and only of the dead: a later start writes its own.
        let noted = notes::read_grant(&view.config.paths, id).ok().flatten();
        let ours = |grant: &notes::Grant| token.is_none_or(|token| grant.token == *token);
        if noted.is_some_and(|grant| ours(&grant) && !view.lives(&grant)) {
            let _ = notes::remove_grant(&view.config.paths, id);
        }
    }
    Ok(outcome.get())
}
