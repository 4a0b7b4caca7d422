//! Commands that the Docker CLI does itself, on the current container behind a name: exec, logs.

use super::run::{no_docker, no_help};
use super::session::{Session, odd};
use super::{help, near};
use crate::client::argv::Globals;
use crate::client::flags::FlagTable;
use crate::client::signals;
use crate::engine::api::{Answer, Failure, Request};
use crate::ui;

/// A command of Docker's whose first operand is a container.
pub(super) struct Passed {
    /// Its name.
    pub(super) command: &'static str,
    /// Shown on --help, before Docker's own list of options.
    pub(super) usage: &'static str,
    /// How many operands it needs.
    pub(super) operands: usize,
}

impl Passed {
    /// There are only so many operands: what else it needs, and how it is written.
    fn too_few(&self, given: usize) -> Failure {
        let usage = self.usage.lines().next().unwrap_or_default();
        let usage = usage.strip_prefix("Usage:").unwrap_or(usage).trim();
        let command = format!("docker gpuctl {}", self.command);
        let operands = usage.strip_prefix(&command).unwrap_or(usage).split_whitespace();
        let needed: Vec<&str> =
            operands.filter(|word| !word.starts_with('[')).skip(given).collect();
        Failure::new(format!("{command} requires {}", needed.join(" and ")))
            .hint(format!("{usage}; {command} --help tells more"))
            .code(1)
    }
}

pub(super) fn words(globals: &Globals, words: &[String], passed: &Passed) -> Result<u8, Failure> {
    let session = Session::open(globals)?;
    let dockers = session.cli().help(passed.command).map_err(|why| no_help(passed.command, why))?;
    let mut table = FlagTable::from_help(&dockers);
    table.add("help", None, false);
    let wrong = |text: String| {
        let help = format!("docker gpuctl {} --help", passed.command);
        let hint = match near::flag(&text, &table) {
            Some(flag) => format!("did you mean {flag}? {help} shows all"),
            None => help,
        };
        Failure::new(text).hint(hint).code(super::WRONG_FLAG)
    };
    let split = table.split(words).map_err(|e| wrong(e.to_string()))?;
    if split.flags.iter().any(|f| f.name == "help") {
        let options = dockers.split_once("Options:").map_or("", |(_, o)| o);
        let after = help::after(passed.command, false);
        let text = format!("{}\n{after}\nOptions:{options}", passed.usage);
        ui::print(&help::fitted(&text, ui::Screen::stdout().width));
        return Ok(0);
    }
    let Some((name, rest)) =
        split.operands.split_first().filter(|_| split.operands.len() >= passed.operands)
    else {
        return Err(passed.too_few(split.operands.len()));
    };
    // 125 is what Docker ends with for a wrong flag alone.
    let resolved = session.look(Request::Resolve { name: name.clone() }).map_err(|f| f.code(1))?;
    let Answer::Resolved { id, .. } = resolved else {
        return Err(odd());
    };
    let mut line = vec![passed.command.to_owned()];
    line.extend(split.flags.into_iter().flat_map(|f| f.words));
    // By id: it stays right if the container gets its next name just now.
    line.push(id.to_string());
    line.extend(rest.iter().cloned());
    signals::run_child(session.cli().command(line)).map_err(|_| no_docker())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_as_elsewhere() {
        let exec = Passed {
            command: "exec",
            usage: "Usage:  docker gpuctl exec [OPTIONS] CONTAINER COMMAND [ARG...]\n\nText\n",
            operands: 2,
        };
        let said = |given| {
            let failure = exec.too_few(given);
            assert_eq!(failure.code, 1);
            let hint = "docker gpuctl exec [OPTIONS] CONTAINER COMMAND [ARG...]; \
                        docker gpuctl exec --help tells more";
            assert_eq!(failure.hint.as_deref(), Some(hint));
            failure.message
        };
        assert_eq!(said(0), "docker gpuctl exec requires CONTAINER and COMMAND");
        assert_eq!(said(1), "docker gpuctl exec requires COMMAND");
    }
}
