//! `docker gpuctl run`.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use super::session::{Session, odd};
use super::{help, near};
use crate::client::argv::Globals;
use crate::client::create::{Wanted, Wrong};
use crate::client::dockercli::{HELP_LIMIT, NoOutput};
use crate::client::flags::FlagTable;
use crate::client::signals;
use crate::engine::api::{Answer, Failure, Request};
use crate::ui;

/// Create and run a container with GPUs of its own
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Args {
    /// As for docker run
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) words: Vec<String>,
}

pub(super) const HELP: &str = "\
Usage:  docker gpuctl run [OPTIONS] IMAGE [COMMAND] [ARG...]
        docker gpuctl run [OPTIONS] --from NAME[@VERSION]

Create and run a container with GPUs of its own

Takes every option of docker run (docker run --help). Those with a meaning of their own:
      --gpus N | all | device=LIST   How many GPUs, or which: indexes as in nvidia-smi, UUIDs, MIG
                                     devices as 0:1. Held until the container stops. None when not given
      --gpus ATTRIBUTES              By what they are: count=2,memory>=40GB,name=A100 (quote it for the
                                     shell). docker run has no such --gpus
      --gpus mig=N | mig=PROFILE     MIG devices: so many, or one of a profile: mig=1g.10gb
      --gpus shared                  A slot of a GPU that the config shares among containers
  -p, --publish auto:PORT            A port of this host that is chosen, and stays the container's until rm;
                                     also IP:auto:PORT/udp. docker gpuctl ports lists them
      --name NAME                    The container's name. In Docker it is NAME-VERSION
      --from NAME[@VERSION]          Build from the record of a container instead of from options
  -d, --detach                       Run in the background and print the container's id
      --rm                           Remove the container when it exits; it cannot be scaled

Examples:
  docker gpuctl run -d --name train --gpus 2 my/image python train.py
  docker gpuctl run -it --rm --gpus device=0,3 my/image bash
  docker gpuctl run -d --gpus 'count=2,memory>=40GB' -p auto:22 my/image
  docker gpuctl run -d --from train@3
";

pub(super) fn words(globals: Globals, words: &[String]) -> Result<u8, Failure> {
    make(&globals, words, true, HELP)
}

/// run and create.
pub(super) fn make(
    globals: &Globals,
    words: &[String],
    run: bool,
    help: &str,
) -> Result<u8, Failure> {
    if words.first().is_some_and(|w| w == "--help") {
        ui::print(&help::fitted(help, ui::Screen::stdout().width));
        return Ok(0);
    }
    let session = Session::open(globals)?;
    let table = session.cli().help("create").map_err(|why| no_help("create", why))?;
    let table = FlagTable::from_help(&table);
    let table = if run { table.for_run() } else { table.for_create() };
    let wanted = table
        .split(words)
        .map_err(Wrong::from)
        .and_then(|split| Wanted::of(split, &session.config().runtime.managed_name))
        .map_err(|wrong| {
            let command = if run { "run" } else { "create" };
            let meant = near::flag(&wrong.message, &table);
            let failure = Failure::new(wrong.message);
            let help = format!("docker gpuctl {command} --help");
            let said = wrong.hint.map(|hint| {
                hint.replace("docker gpuctl run ", &format!("docker gpuctl {command} "))
            });
            let hint = said.unwrap_or_else(|| match meant {
                Some(flag) => format!("did you mean {flag}? {help} shows all"),
                None => help,
            });
            let failure = failure.hint(hint);
            match wrong {
                Wrong { is_missing: true, .. } => failure.code(1),
                Wrong { is_refused: true, .. } => failure,
                _ => failure.code(super::WRONG_FLAG),
            }
        })?;
    if wanted.help {
        ui::print(&help::fitted(help, ui::Screen::stdout().width));
        return Ok(0);
    }
    let attached = run && !wanted.detach;
    if attached && wanted.interactive && wanted.tty && !std::io::stdin().is_terminal() {
        return Err(Failure::new("the input device is not a TTY")
            .hint("-t is for a terminal: leave it out where there is none")
            .code(1));
    }
    // Of a recorded one it is not known here.
    let auto_remove = wanted.auto_remove || wanted.from.is_some();
    let request = Request::Create(wanted.request(run));
    let mut front = session.terminal().creating(wanted);
    let outcome = session.change(request, &mut front);
    let code = front.wait();
    match outcome.map_err(|failure| {
        let failure = front.told(failure);
        if front.flag_was_wrong() { failure.code(super::WRONG_FLAG) } else { failure }
    })? {
        Answer::Created { id, name, .. } if attached => {
            if auto_remove {
                // What cannot be forgotten now the service finds.
                let _ = session.look(Request::Ended { name, id });
            }
            Ok(code.unwrap_or(0))
        }
        Answer::Created { id, name, docker_name } => {
            let (is, undo, undoes) =
                if run { ("runs", "stop", "stops") } else { ("is created", "rm", "removes") };
            let hint = format!("docker gpuctl {undo} {name} {undoes} it");
            if signals::interrupted() {
                let text = format!("interrupted, but {docker_name} {is} already");
                return Err(Failure::new(text).hint(hint).code(signals::INTERRUPTED_CODE));
            }
            front.name_in_docker(&docker_name);
            ui::print(id.as_str());
            match ui::unwritten() {
                None => Ok(0),
                Some(why) => {
                    let why = match why {
                        ui::Unwritten::Closed => "nobody reads it".to_owned(),
                        ui::Unwritten::Failed(why) => why,
                    };
                    let text =
                        format!("{docker_name} {is}, but its id could not be written: {why}");
                    Err(Failure::new(text).hint(hint).code(1))
                }
            }
        }
        _ => Err(odd()),
    }
}

/// The Docker CLI does not say what flags it has.
pub(super) fn no_help(command: &str, why: NoOutput) -> Failure {
    match why {
        NoOutput::TooLong => Failure::new(format!(
            "docker {command} --help has not ended within {} s; it says which flags there are",
            HELP_LIMIT.as_secs()
        ))
        .hint("nothing was done: try again when this machine is less busy"),
        NoOutput::NotStarted | NoOutput::GivenUp => no_docker(),
    }
}

/// How long a signal that ended the Docker CLI may take to come to us.
const SAME_SIGNAL: Duration = Duration::from_millis(300);

/// The Docker CLI cannot be asked: it is not there, or the interrupt that is for us ended it.
pub(super) fn no_docker() -> Failure {
    let until = Instant::now() + SAME_SIGNAL;
    while Instant::now() < until {
        if signals::interrupted() {
            return Failure::new("interrupted").code(signals::INTERRUPTED_CODE);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Failure::new("the docker program cannot be started, which does this part of the work")
        .hint("put docker on PATH")
}
