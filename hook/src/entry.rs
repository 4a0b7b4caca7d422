//! Which of its parts the program is entered as.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;

use gpuctl_ledger::audit::Decision;
use gpuctl_ledger::config::Config;
use gpuctl_ledger::model::Token;
use gpuctl_ledger::node::links;

use crate::gate::{self, GateArgs, State};
use crate::{refuse, release, runtime, turned_away};

/// The name that dockerd looks for on its PATH before it takes a bare `--gpus`.
const STUB: &str = "nvidia-container-runtime-hook";

/// What the stub says: the container's runtime is another one.
const STUB_REFUSES: &str = "this container asks for GPUs and its runtime is not gpuctl's, so it has no lease; \
                            leave out --runtime, or run it with docker gpuctl run";

/// The same where gpuctl only looks on: then nobody else is there to give GPUs, with gpuctl or without.
const STUB_OBSERVES: &str = "this container asks for GPUs by --gpus, which NVIDIA's Container Toolkit gives, and that is \
                             not installed; gpuctl gives none where policy.observe is true: install the toolkit, or \
                             run docker gpuctl setup";

/// Runs the part that `entered` (argv\[0\]) names. The exit status.
pub fn main(entered: &OsStr, args: &[OsString]) -> i32 {
    let name = Path::new(entered).file_name().unwrap_or_default().to_string_lossy();
    match name.as_ref() {
        "gpuctl-hook" => hook(args),
        STUB => {
            let config = Config::load().map(|(config, _)| config).unwrap_or_default();
            let why = if config.policy.observe { STUB_OBSERVES } else { STUB_REFUSES };
            // As a hook it is told whom it keeps from starting; by hand it is told nothing.
            if args.last().is_some_and(|word| word == "prestart") {
                let id = State::from_stdin().map(|state| state.id).unwrap_or_default();
                turned_away::write_down(&config, Decision::Refused, &id, why);
            }
            complain(why)
        }
        name => runtime::main(name, args),
    }
}

fn complain(why: &str) -> i32 {
    let _ = writeln!(std::io::stderr(), "gpuctl: {}", refuse::presentable(why));
    1
}

/// `gpuctl-hook gate|release|links [--config FILE] [--token TOKEN] [--keep-rest]`, the state on stdin.
/// Without a word it is the gate: so a hooks.d file calls it.
fn hook(args: &[OsString]) -> i32 {
    match parsed(args).and_then(|(part, config, args)| run(&part, config, &args)) {
        Ok(()) => 0,
        Err(why) => complain(&why),
    }
}

fn run(part: &str, config: Result<Config, String>, args: &GateArgs) -> Result<(), String> {
    match part {
        "version" => {
            let _ = writeln!(std::io::stdout(), "gpuctl-hook {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        "gate" => at_the_gate(config, args),
        "release" => {
            let state = State::from_stdin()?;
            release::release(&config?, &state.id, args.token.as_ref()).map(drop)
        }
        "links" => links::all(&config?).map(|made| {
            let _ = writeln!(std::io::stdout(), "{made} links made");
        }),
        other => Err(format!("gpuctl-hook has no part {other:?}: gate, release, links or version")),
    }
}

/// A gate without a config, or without a container, is shut, which is written down as any refusal.
fn at_the_gate(config: Result<Config, String>, args: &GateArgs) -> Result<(), String> {
    let state = State::from_stdin();
    let (config, id, why) = match (config, state) {
        (Ok(config), Ok(state)) => return gate::gate(&config, &state, args),
        (Err(why), state) => (Config::default(), state.map(|s| s.id).unwrap_or_default(), why),
        (Ok(config), Err(why)) => (config, String::new(), why),
    };
    turned_away::write_down(&config, Decision::Refused, &id, &why);
    Err(why)
}

type Parsed = (String, Result<Config, String>, GateArgs);

fn parsed(args: &[OsString]) -> Result<Parsed, String> {
    let mut words = args.iter().map(|a| a.to_string_lossy());
    let mut part = "gate".to_owned();
    let mut config = None;
    let mut gate = GateArgs::default();
    let mut first = true;
    while let Some(word) = words.next() {
        match word.as_ref() {
            "--config" => {
                let path = words.next().ok_or("--config needs a file")?;
                config = Some(Config::at(Path::new(path.as_ref())));
            }
            "--token" => {
                let token = words.next().ok_or("--token needs a token")?;
                gate.token = Some(Token::new(token).map_err(|e| e.to_string())?);
            }
            "--keep-rest" => gate.keep_rest = true,
            word if first && !word.starts_with('-') => part = word.to_owned(),
            other => return Err(format!("gpuctl-hook knows no {other:?}")),
        }
        first = false;
    }
    let config = config.unwrap_or_else(|| Config::load().map(|(config, _)| config));
    Ok((part, config.map_err(|e| e.to_string()), gate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_and_wrong_ones_named() {
        let read =
            |line: &str| parsed(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>());
        let (part, _, args) = read("release --token abc --keep-rest").unwrap();
        assert_eq!((part.as_str(), args.keep_rest), ("release", true));
        assert_eq!(args.token, Some(Token::new("abc").unwrap()));
        assert_eq!(read("").unwrap().0, "gate");
        assert!(read("gate --tokn x").is_err());
        assert!(read("gate --token").is_err());
        assert!(read("gate --token ../x").is_err());
    }
}
