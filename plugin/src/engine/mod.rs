//! What root does: observe, plan, execute, with a journal.
//!
//! Every change takes the container's lock, brings to an end what a dead change before it left,
//! writes its journal, acts, and ends the journal with the commit that makes the new state so.

mod adopt;
pub mod api;
mod asker;
mod attach;
mod bypass;
mod change;
mod clone;
mod commit;
mod context;
mod create;
mod creation;
mod doctor;
mod ending;
mod events;
#[cfg(feature = "faults")]
mod faults;
mod history;
mod images;
mod in_place;
mod journal;
mod kept;
mod layers;
mod leases;
mod leftovers;
mod lifecycle;
mod links;
mod list;
mod look;
mod names;
mod neighbours;
mod node;
mod pause;
mod ports;
mod prune;
mod reconcile;
mod recover;
mod remove;
mod rename;
mod replace;
mod retry;
mod rollback;
mod runtimes;
mod sharing;
mod snapshot;
mod supply;
mod tail;
mod top;
mod under_way;
mod undo_create;
mod undo_in_place;
mod undo_replace;
mod version;
mod volume;
mod watch;

pub(crate) use bypass::exempt as is_exempt;
pub use context::Context;
pub use doctor::doctor_without_ledger;
pub(crate) use node::{NVML_LIMIT, refresh as refresh_inventory};
pub use reconcile::tend;
pub use retry::{retry, with_waiting};
pub use watch::{listen, tick};

use std::time::Duration;

use api::{Answer, Failure, Front, MoreRequest, Request, VersionInfo};

use crate::docker::Stop;

/// Does what is asked.
///
/// # Errors
/// [`Failure`]: then all is as it was, or the failure says what is not.
pub fn perform(ctx: &Context, request: Request, front: &mut dyn Front) -> Result<Answer, Failure> {
    match request {
        Request::Create(request) => create::create(ctx, &request, front),
        Request::Start { names, attach: true } => lifecycle::attached(ctx, &names, front),
        Request::Start { names, .. } => lifecycle::start(ctx, &names, front),
        Request::Stop { names, timeout, signal } => {
            lifecycle::stop(ctx, &names, &Stop { grace: timeout, signal }, front)
        }
        Request::Restart { names, timeout, signal } => {
            lifecycle::restart(ctx, &names, &Stop { grace: timeout, signal }, front)
        }
        Request::Remove { names, force, volumes, history } => {
            let how = remove::How { force, volumes, history };
            remove::remove(ctx, &names, how, front)
        }
        Request::Change(request) => change::change(ctx, &request, front),
        Request::Rollback(request) => rollback::rollback(ctx, &request, front),
        Request::Diff(request) => history::diff(ctx, &request),
        Request::Ended { name, id } => {
            let forgotten = remove::forget_ended(ctx, &name, &id)?;
            let done = forgotten.then(|| name.to_string()).into_iter().collect();
            Ok(Answer::Each { done, failed: Vec::new() })
        }
        Request::Ps { all } => list::ps(ctx, all),
        Request::Gpus => list::gpus(ctx),
        Request::Top => top::top(ctx).map(Answer::Top),
        Request::Watch { every } => top::watch(ctx, Duration::from_millis(every), front),
        Request::Inspect { names } => list::inspect(ctx, &names),
        Request::History { name } => history::history(ctx, &name),
        Request::Resolve { name } => {
            let found = names::existing(ctx, &name)?;
            Ok(Answer::Resolved { docker_name: found.docker_name, id: found.id })
        }
        Request::Doctor { fix } => doctor::doctor(ctx, fix, front.user()),
        Request::Events(request) => events::events(ctx, &request, front),
        Request::Version => versions(ctx),
        Request::More(request) => more(ctx, request, front),
        Request::Volume(request) => volume::perform(ctx, request, front),
    }
}

fn more(ctx: &Context, request: MoreRequest, front: &mut dyn Front) -> Result<Answer, Failure> {
    match request {
        MoreRequest::Pause { names } => Ok(pause::pause(ctx, &names, front)),
        MoreRequest::Unpause { names } => Ok(pause::unpause(ctx, &names, front)),
        MoreRequest::Commit(request) => commit::commit(ctx, &request, front),
        MoreRequest::Ports => ports::list(ctx),
        MoreRequest::Adopt(request) => adopt::adopt(ctx, &request, front),
        MoreRequest::Clone(request) => clone::clone(ctx, &request, front),
        MoreRequest::Snapshot { name } => snapshot::snapshot(ctx, &name, front),
        MoreRequest::Prune(request) => prune::prune(ctx, &request, front),
        MoreRequest::Rename { name, new } => rename::rename(ctx, &name, &new, front),
    }
}

fn versions(ctx: &Context) -> Result<Answer, Failure> {
    let engine = ctx.docker()?.info().map_or_else(|_| "not reached".to_owned(), |i| i.version);
    let inventory = ctx.view().inventory().ok();
    Ok(Answer::Version(VersionInfo {
        gpuctl: env!("CARGO_PKG_VERSION").to_owned(),
        engine,
        driver: inventory.map(|i| i.driver).filter(|d| !d.is_empty()),
        ledger: ctx.ledger.store().shown().to_owned(),
        node: ctx.ledger.node().to_string(),
    }))
}
