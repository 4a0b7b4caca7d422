//! `docker gpuctl volume`: one file a subcommand.

mod adopt;
mod backends;
mod create;
mod history;
mod inspect;
mod ls;
mod prune;
mod resize;
mod rm;
mod rollback;

use clap::Subcommand;
use gpuctl_ledger::model::Backend;

use super::session::{Session, odd};
use crate::engine::api::{Answer, Failure, Request, VolumeAnswer, VolumeRequest};
use crate::ui;

/// Volumes with a size, which grow and shrink
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Args),
    Ls(ls::Args),
    Inspect(inspect::Args),
    Resize(resize::Args),
    History(history::Args),
    Rollback(rollback::Args),
    Rm(rm::Args),
    Prune(prune::Args),
    Backends(backends::Args),
    Adopt(adopt::Args),
}

pub(super) fn volume(session: &Session, args: Args) -> Result<u8, Failure> {
    match args.command {
        Command::Create(args) => create::create(session, args),
        Command::Ls(args) => ls::ls(session, &args),
        Command::Inspect(args) => inspect::inspect(session, args),
        Command::Resize(args) => resize::resize(session, args),
        Command::History(args) => history::history(session, args),
        Command::Rollback(args) => rollback::rollback(session, args),
        Command::Rm(args) => rm::rm(session, args),
        Command::Prune(args) => prune::prune(session, &args),
        Command::Backends(args) => backends::backends(session, &args),
        Command::Adopt(args) => adopt::adopt(session, args),
    }
}

/// Has something looked at.
fn look(session: &Session, request: VolumeRequest) -> Result<VolumeAnswer, Failure> {
    answer(session.look(Request::Volume(request))?)
}

/// Has something changed.
fn change(session: &Session, request: VolumeRequest) -> Result<VolumeAnswer, Failure> {
    change_with(session, request, false)
}

/// Has something changed; quiet, what goes on is not shown.
fn change_with(
    session: &Session,
    request: VolumeRequest,
    quiet: bool,
) -> Result<VolumeAnswer, Failure> {
    let mut terminal = session.terminal().quiet(quiet);
    answer(session.change(Request::Volume(request), &mut terminal)?)
}

fn answer(answer: Answer) -> Result<VolumeAnswer, Failure> {
    match answer {
        Answer::Volume(answer) => Ok(answer),
        _ => Err(odd()),
    }
}

/// Shows what was made, or the plan of it.
fn made(answer: VolumeAnswer) -> Result<u8, Failure> {
    made_with(answer, false)
}

/// As [`made`]; quiet, only the name of what was made.
fn made_with(answer: VolumeAnswer, quiet: bool) -> Result<u8, Failure> {
    match answer {
        VolumeAnswer::Made { docker_name, summary } => {
            if !quiet {
                ui::tell(&summary);
            }
            ui::lines([docker_name]);
        }
        VolumeAnswer::Plan(steps) => ui::lines(steps),
        _ => return Err(odd()),
    }
    Ok(0)
}

/// A backend as it is written after `--backend`.
fn backend(text: &str) -> Result<Backend, String> {
    match text {
        "size" => Ok(Backend::Size),
        "image" => Ok(Backend::Image),
        _ => Err("it is size or image".to_owned()),
    }
}
