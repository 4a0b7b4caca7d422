//! `docker gpuctl ps` beside `docker ps`.

use std::process::Command;

use gpuctl_sim::Result;
use gpuctl_tests::Node;

use crate::commands::timed;
use crate::stats::Sample;
use crate::table::{Aim, Row};

/// So many containers run while the lists are made.
const COUNTS: [usize; 3] = [0, 10, 30];
/// So many of them have a GPU.
const WITH_GPU: usize = 6;

/// Both tables.
pub(crate) fn measure(node: &Node, rounds: usize, smoke: bool) -> Result<(Vec<Row>, Vec<Row>)> {
    let (mut rows, mut parts) = (Vec::new(), Vec::new());
    let mut running = 0;
    for count in COUNTS {
        // The smoke test has no time for so many.
        let count = if smoke { count.min(2) } else { count };
        while running < count {
            let gpus = if running < WITH_GPU { "1" } else { "0" };
            let name = format!("c{running}");
            let run = ["run", "-d", "--name", &name, "--gpus", gpus, "busybox", "sleep", "1000000"];
            node.gpuctl(&run).ok()?;
            running += 1;
        }
        let [mut theirs, mut ours, mut alone] = [const { Sample::empty() }; 3];
        for round in 0..=rounds {
            let docker = |words: &[&str]| timed(node.site().engine().docker().args(words));
            let (first, second) = (docker(&["ps"])?, docker(&["gpuctl", "ps"])?);
            // The plugin as the Docker CLI starts it, without the CLI before it.
            let mut plugin = Command::new(node.site().plugin());
            plugin.args(["gpuctl", "ps"]).envs(node.site().engine().environment());
            let third = timed(&mut plugin)?;
            if round != 0 {
                theirs.add(first);
                ours.add(second);
                alone.add(third);
            }
        }
        let what = format!("list of {count} containers: docker ps / docker gpuctl ps");
        rows.push(Row::compare(&what, &theirs, &ours, Aim::Times(1.5)));
        let what = format!("list of {count} containers: docker ps / the plugin's process alone");
        parts.push(Row::compare(&what, &theirs, &alone, Aim::None));
    }
    let mut bare = Sample::default();
    for _ in 0..rounds {
        let mut plugin = Command::new(node.site().plugin());
        bare.add(timed(plugin.arg("docker-cli-plugin-metadata"))?);
    }
    parts.push(Row::alone("the plugin's answer who it is, asked by every docker gpuctl", &bare));
    let names: Vec<String> = (0..running).map(|n| format!("c{n}")).collect();
    for names in names.chunks(10) {
        let mut remove = vec!["rm", "-f", "--history"];
        remove.extend(names.iter().map(String::as_str));
        node.gpuctl(&remove).ok()?;
    }
    Ok((rows, parts))
}
