//! The commands: one file each, with its words and what it does with them.

mod adopt;
mod clone;
mod commit;
pub mod complete;
mod create;
mod dial;
mod diff;
mod doctor;
mod events;
mod exec;
mod filters;
mod gpus;
mod help;
mod hints;
mod history;
mod inspect;
mod list_args;
mod logs;
mod looks;
mod man;
mod near;
mod pass;
mod pause;
mod ports;
mod prune;
mod ps;
mod quick;
mod rename;
mod restart;
mod rm;
mod rollback;
mod run;
mod scale;
mod serve;
mod session;
mod setup;
mod snapshot;
mod start;
mod stop;
mod switches;
mod top;
mod unpause;
mod update;
mod usage;
mod version;
mod volume;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::client::argv::Globals;
use crate::engine::api::Failure;
use crate::ui;
pub use session::Session;

/// In a [`Failure`]: a flag is not known, or its value makes no sense. A number of its own, for a refusal has
/// the code that Docker ends with then, which is a refusal's for `run` alone.
const WRONG_FLAG: u8 = 2;
/// The exit code of that, as Docker's. What else is wrong with a command's words ends with 1.
const WRONG_FLAG_CODE: u8 = 125;
/// The exit code of run where it starts nothing.
const REFUSED_CODE: u8 = 125;

/// GPU containers on this node: run, scale, stop, start, without losing anything.
#[derive(Debug, Parser)]
#[command(
    name = "docker gpuctl",
    bin_name = "docker gpuctl",
    version,
    about = "Run GPU containers and change how many GPUs they have",
    disable_version_flag = false,
    // As Docker's flags: the last one counts.
    args_override_self = true
)]
struct Words {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Create(create::Args),
    Start(start::Args),
    Stop(stop::Args),
    Restart(restart::Args),
    Pause(pause::Args),
    #[command(alias = "continue")]
    Unpause(unpause::Args),
    Rename(rename::Args),
    Adopt(adopt::Args),
    Rm(rm::Args),
    Ps(ps::Args),
    Inspect(inspect::Args),
    Scale(scale::Args),
    #[command(alias = "patch")]
    Update(Box<update::Args>),
    Rollback(rollback::Args),
    History(history::Args),
    Diff(diff::Args),
    Clone(clone::Args),
    Snapshot(snapshot::Args),
    Prune(prune::Args),
    Commit(commit::Args),
    #[command(alias = "execute")]
    Exec(exec::Args),
    Logs(logs::Args),
    Gpus(gpus::Args),
    Top(top::Args),
    Ports(ports::Args),
    Events(events::Args),
    Volume(volume::Args),
    Doctor(doctor::Args),
    Setup(setup::Args),
    Version(version::Args),
    Serve(serve::Args),
}

/// Whether a command's exit codes are those of docker run.
fn like_run(name: &str) -> bool {
    matches!(name, "run" | "exec" | "execute")
}

/// All words, with their help.
fn command() -> clap::Command {
    help::dressed(Words::command())
}

/// Whether a command draws on the whole terminal.
pub fn draws(words: &[String]) -> bool {
    words.first().is_some_and(|name| name == top::WORD)
}

/// Does what the words say; the exit code.
pub fn main(globals: Globals, words: &[String]) -> u8 {
    let name = words.first().map(String::as_str).unwrap_or_default();
    let rest = words.get(1..).unwrap_or_default();
    let outcome = match name {
        // Their words are Docker's, so they are read by Docker's rules and not by clap's.
        "run" => run::words(globals, rest),
        "create" => create::words(globals, rest),
        "exec" | "execute" => exec::words(globals, rest),
        "logs" => logs::words(globals, rest),
        man::WORD => man::pages(rest),
        dial::WORD => dial::dial(rest),
        _ => parsed(globals, words),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            ui::failure(&failure);
            match failure.code {
                WRONG_FLAG => WRONG_FLAG_CODE,
                _ if failure.is_not_there() && like_run(name) => REFUSED_CODE,
                code if like_run(name) => code,
                code @ crate::client::signals::INTERRUPTED_CODE => code,
                _ => 1,
            }
        }
    }
}

/// Answers the Docker CLI, which asks for a hint after a command of its own.
pub fn hint(data: &str) {
    hints::answer(data);
}

fn parsed(globals: Globals, words: &[String]) -> Result<u8, Failure> {
    if matches!(words, [] | [_])
        && matches!(words.first().map(String::as_str), None | Some("help" | "--help" | "-h"))
    {
        ui::print(&help::root(&command()));
        return Ok(0);
    }
    if words == ["-v"] {
        return parsed(globals, &["--version".to_owned()]);
    }
    let plain = switches::plain(&Words::command(), words);
    let all = std::iter::once("docker gpuctl").chain(plain.iter().map(String::as_str));
    let read = command().try_get_matches_from(all);
    let command = match read.and_then(|matches| Words::from_arg_matches(&matches)) {
        Ok(Words { command: Some(command) }) => command,
        Ok(Words { command: None }) => {
            ui::print(&help::root(&command()));
            return Ok(0);
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // As docker volume does it.
            ui::print(&help::as_dockers(&error.render().to_string()));
            return Ok(0);
        }
        Err(error) if error.use_stderr() => return Err(usage::usage(&error, words)),
        Err(error) => {
            ui::print(&help::as_dockers(&error.render().to_string()));
            return Ok(0);
        }
    };
    match command {
        Command::Run(args) => run::words(globals, &args.words),
        Command::Create(args) => create::words(globals, &args.words),
        Command::Exec(args) => exec::words(globals, &args.words),
        Command::Logs(args) => logs::words(globals, &args.words),
        Command::Serve(args) => serve::serve(&args),
        Command::Setup(args) => setup::setup(&globals, &args),
        Command::Start(args) => start::start(&Session::open(&globals)?, args),
        Command::Stop(args) => stop::stop(&Session::open(&globals)?, args),
        Command::Restart(args) => restart::restart(&Session::open(&globals)?, args),
        Command::Pause(args) => pause::pause(&Session::open(&globals)?, args),
        Command::Unpause(args) => unpause::unpause(&Session::open(&globals)?, args),
        Command::Adopt(args) => adopt::adopt(&Session::open(&globals)?, args),
        Command::Clone(args) => clone::clone(&Session::open(&globals)?, args),
        Command::Snapshot(args) => snapshot::snapshot(&Session::open(&globals)?, args),
        Command::Prune(args) => prune::prune(&Session::open(&globals)?, args),
        Command::Rename(args) => rename::rename(&Session::open(&globals)?, args),
        Command::Commit(args) => commit::commit(&Session::open(&globals)?, args),
        Command::Ports(args) => ports::ports(&Session::open(&globals)?, &args),
        Command::Rm(args) => rm::rm(&Session::open(&globals)?, args),
        Command::Ps(args) => ps::ps(&Session::open(&globals)?, &args),
        Command::Inspect(args) => inspect::inspect(&Session::open(&globals)?, args),
        Command::Scale(args) => scale::scale(&Session::open(&globals)?, args),
        Command::Update(args) => update::update(&Session::open(&globals)?, *args),
        Command::Rollback(args) => rollback::rollback(&Session::open(&globals)?, args),
        Command::Diff(args) => diff::diff(&Session::open(&globals)?, args),
        Command::History(args) => history::history(&Session::open(&globals)?, args),
        Command::Gpus(args) => gpus::gpus(&Session::open(&globals)?, &args),
        Command::Top(args) => top::top(Session::open(&globals)?, &args),
        Command::Events(args) => events::events(&Session::open(&globals)?, &args),
        Command::Volume(args) => volume::volume(&Session::open(&globals)?, args),
        Command::Doctor(args) => doctor::doctor(&Session::open(&globals)?, &args),
        Command::Version(args) => version::version(&globals, &args),
    }
}

/// Names and one-line descriptions of the commands.
#[cfg(test)]
fn names() -> Vec<(String, String)> {
    commands_of(&Words::command())
}

#[cfg(test)]
fn commands_of(command: &clap::Command) -> Vec<(String, String)> {
    let named = |c: &clap::Command| {
        let about = c.get_about().map(ToString::to_string).unwrap_or_default();
        (c.get_name().to_owned(), about)
    };
    command.get_subcommands().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_consistent() {
        Words::command().debug_assert();
        for name in ["run", "create", "start", "stop", "restart", "rm", "ps", "inspect", "scale"] {
            assert!(names().iter().any(|(n, about)| n == name && !about.is_empty()), "{name}");
        }
        assert_eq!(names().len(), 32);
    }

    #[test]
    fn docker_spellings_are_understood() {
        let read = |text: &str| {
            let words = std::iter::once("docker gpuctl").chain(text.split_whitespace());
            Words::try_parse_from(words)
        };
        for line in [
            "stop -t 3 a b",
            "stop --time 3 a",
            "stop --timeout=-1 a",
            "restart -t 0 a",
            "rm -f -v --history a",
            "rm -fv a",
            "ps -aq --no-trunc",
            "ps --format json",
            "scale a --gpus 2 --dry-run --timeout 5",
            "scale --gpus device=0,3 a",
            "history a",
            "gpus -q --no-trunc",
            "doctor --fix",
            "events",
            "top",
            "top --interval 0.5",
            "events --since 10m --until 0s -f gpu=2 -f container=a -n 5 --format json",
            "setup",
            "setup --strict --dry-run",
            "setup --remove",
            "inspect a b --format json",
            "volume create data --size 20GB --label a=b --backend image --allocate",
            "volume resize data 1.5tib --in-place",
            "volume resize data 1GB --roll --dry-run --no-verify",
            "volume ls -q",
            "volume list --format json",
            "volume rollback data 3",
            "volume rm --history a b",
            "volume prune -f",
            "volume backends",
            "volume adopt old --name data",
            "serve",
            "pause a b",
            "unpause a",
            "rename aa bb",
            "snapshot aa",
            "clone aa bb --gpus 2",
            "prune",
            "prune --keep 2 --older-than 30d -f aa bb",
            "prune --dry-run",
            "adopt aa --name bb --no-alias",
            "commit a",
            "commit -a me -m text -c CMD=x --change EXPOSE=1 -p=false a b:c",
            "commit --pause --no-pause a",
            "ports -q",
            "ports --format json",
            "ps -a --all -q -q --format json --format table",
            "stop -t 1 -t 2 a b",
            "scale a --gpus 1 --gpus 3",
        ] {
            assert!(read(line).is_ok(), "{line}: {:?}", read(line).err().map(|e| e.to_string()));
        }
        for wrong in [
            "stop",
            "setup --strict --observe",
            "scale a",
            "scale --gpus x a",
            "rm",
            "ps --format xml",
            "volume",
            "volume create data",
            "volume create data --size 20XB",
            "volume create a/b --size 20GB",
            "volume create data --size 1GB --backend plain",
            "volume resize data",
            "volume resize data 1GB --in-place --roll",
            "nope",
            "top --interval 0",
            "pause",
            "rename a",
            "rename a b/c",
            "commit -p=maybe a",
            "start",
            "ps --nope",
            "ps -f name",
            "ps nope",
        ] {
            let error = read(wrong).unwrap_err();
            let flags = [
                "scale --gpus x a",
                "volume create data --size 20XB",
                "volume create data --size 1GB --backend plain",
                "top --interval 0",
                "commit -p=maybe a",
                "ps --nope",
                "ps -f name",
            ];
            let is_of_a_flag = usage::usage(&error, &[]).code == WRONG_FLAG;
            assert_eq!(is_of_a_flag, flags.contains(&wrong), "{wrong}");
        }
    }

    #[test]
    fn old_names_are_known() {
        for (old, new) in [("patch", "update"), ("execute", "exec"), ("continue", "unpause")] {
            let root = command();
            assert_eq!(root.find_subcommand(old).map(clap::Command::get_name), Some(new));
        }
    }
}
