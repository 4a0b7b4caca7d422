//! `gpuctl-bench`: what docker-gpuctl costs beside runc and Docker alone, side by side in one run.
//! `tests/bench/run` builds what it needs and starts it.

mod bundle;
mod changes;
mod commands;
mod cycle;
mod layers;
mod listing;
mod memory;
mod scaling;
mod stage;
mod stats;
mod table;
mod volumes;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use gpuctl_sim::{Result, command};
use gpuctl_tests::{Node, Options};
use table::{Row, render};

const USAGE: &str = "usage: gpuctl-bench [--quick | --smoke] [--only cycle|ps|scale|memory|volumes|size|layers|changes]...";

const PARTS: [&str; 8] = ["cycle", "ps", "scale", "memory", "volumes", "size", "layers", "changes"];

/// What is to be measured, and how often.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    rounds: Rounds,
    only: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rounds {
    Many,
    Quick,
    Smoke,
}

impl Rounds {
    /// So many of many, of a quick run or of a smoke test.
    fn of(self, many: usize, quick: usize) -> usize {
        match self {
            Self::Many => many,
            Self::Quick => quick,
            Self::Smoke => 1,
        }
    }
}

impl Plan {
    fn read(words: &[String]) -> Result<Self> {
        let mut plan = Self { rounds: Rounds::Many, only: Vec::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => plan.rounds = Rounds::Quick,
                "--smoke" => plan.rounds = Rounds::Smoke,
                "--only" => {
                    let part = words.next().map(String::as_str).unwrap_or_default();
                    if !PARTS.contains(&part) {
                        return Err(USAGE.into());
                    }
                    plan.only.push(part.to_owned());
                }
                _ => return Err(USAGE.into()),
            }
        }
        Ok(plan)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| o == part)
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let done = match words.split_first() {
        Some((word, rest)) if word == memory::HELPER => memory::helper(rest),
        _ => Plan::read(&words).and_then(|plan| run(&plan)).map(|()| 0),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "gpuctl-bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// On a node of its own, on which the service runs.
fn served(rounds: usize) -> Result<Vec<Row>> {
    let node = Node::start(Options { name: "bench2", service: true, ..Options::default() });
    cycle::measure_served(&node, &stage::Stage::set(&node)?, rounds)
}

fn run(plan: &Plan) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err("it starts containers, which needs root".into());
    }
    // Containers that a runtime leaves behind are ours to wait for, as the shim's.
    nix::sys::prctl::set_child_subreaper(true).map_err(|e| e.to_string())?;
    say(&about());
    let (rounds, smoke) = (plan.rounds, plan.rounds == Rounds::Smoke);
    // Layers need no Engine, changes and the backend size have their own.
    let apart = |part: &String| ["layers", "changes", "size"].contains(&part.as_str());
    let (mut rows, parts) = match plan.only.iter().all(apart) {
        true if !plan.only.is_empty() => Default::default(),
        _ => on_a_node(plan)?,
    };
    // Among the volumes, where all is measured.
    if plan.wants("size") && !plan.wants("volumes") {
        say("measuring volumes of the backend size");
        rows.extend(volumes::measure_size(rounds.of(3, 1), smoke)?);
    }
    if plan.wants("layers") {
        say("measuring layers");
        rows.extend(layers::measure(rounds.of(5, 3), smoke)?);
    }
    if plan.wants("changes") {
        say("measuring changes");
        rows.extend(changes::measure(rounds.of(5, 3), smoke)?);
    }
    say(&format!("\n{}", render("Times in ms: median (90th percentile)", &rows)));
    if !parts.is_empty() {
        say(&render("What that is made of", &parts));
    }
    let missed = rows.iter().filter(|row| row.missed()).count();
    say(&format!("{missed} of the aims missed; load at the end: {}", load()));
    Ok(())
}

/// What containers take; and what that is made of.
fn on_a_node(plan: &Plan) -> Result<(Vec<Row>, Vec<Row>)> {
    let node = Node::start(Options { name: "bench", ..Options::default() });
    let (rounds, smoke) = (plan.rounds, plan.rounds == Rounds::Smoke);
    let (mut rows, mut parts): (Vec<Row>, Vec<Row>) = Default::default();
    if plan.wants("cycle") || plan.wants("memory") {
        let stage = stage::Stage::set(&node)?;
        if plan.wants("cycle") {
            say("measuring create to delete");
            let (figures, steps) = cycle::measure(&node, &stage, rounds.of(60, 15))?;
            rows.extend(figures);
            rows.extend(served(rounds.of(60, 15))?);
            parts.extend(steps);
            parts.extend(memory::roles(&node, &stage, rounds.of(40, 10))?);
        }
        if plan.wants("memory") {
            say("measuring memory");
            rows.extend(memory::measure(&node, &stage, rounds.of(5, 2))?);
        }
    }
    if plan.wants("ps") {
        say("measuring ps");
        let (figures, steps) = listing::measure(&node, rounds.of(40, 10), smoke)?;
        rows.extend(figures);
        parts.extend(steps);
    }
    if plan.wants("scale") {
        say("measuring scale");
        rows.extend(scaling::measure(&node, rounds.of(20, 5), smoke)?);
    }
    if plan.wants("volumes") {
        say("measuring volumes");
        rows.extend(volumes::measure(rounds.of(5, 3), smoke)?);
    }
    Ok((rows, parts))
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// What the figures were taken on.
fn about() -> String {
    let first = |program: &str| {
        let mut command = Command::new(program);
        let output = command::run(command.arg("--version"), Duration::from_secs(10));
        let text = output.map(|o| o.stdout).unwrap_or_default();
        text.lines().next().unwrap_or(program).to_owned()
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string(Path::new("/proc/sys/kernel/osrelease"));
    format!(
        "{}; {}; {}; Linux {}; {cpus} CPUs; load at the start: {}",
        first("dockerd"),
        first("runc"),
        first("etcd"),
        kernel.unwrap_or_default().trim(),
        load()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_can_be_chosen_and_wrong_words_are_refused() {
        let read = |line: &str| Plan::read(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let plan = read("--quick --only ps --only scale").unwrap();
        assert!(plan.wants("ps") && plan.wants("scale") && !plan.wants("cycle"));
        assert_eq!(plan.rounds.of(40, 10), 10);
        assert!(Plan::read(&[]).unwrap().wants("memory"));
        assert!(read("--only gpus").is_err());
        assert!(read("--only").is_err());
        assert!(read("--fast").is_err());
    }
}
