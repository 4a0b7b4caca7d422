//! `docker gpuctl scale` beside `docker restart` of the same container, with a small and with a
//! large writable layer.

use std::process::Command;
use std::time::Duration;

use gpuctl_sim::{Result, command};
use gpuctl_tests::Node;
use nix::sys::statvfs::statvfs;

use crate::commands::timed;
use crate::stats::Sample;
use crate::table::{Aim, Row};

/// Below so much free room the large layer is not made, in bytes.
const ROOM: u64 = 12 << 30;
/// The longest that filling a layer may take.
const FILLING: Duration = Duration::from_secs(900);

/// One container.
struct Scaled {
    name: &'static str,
    id: String,
    /// How many GPUs it has now.
    gpus: u32,
    restart: Sample,
    scale: Sample,
}

impl Scaled {
    fn start(node: &Node, name: &'static str, mib: u32) -> Result<Self> {
        // Its init ends at once when it is told to stop: the grace is the same for both, none.
        let run = ["run", "-d", "--name", name, "--gpus", "2", "--stop-signal", "KILL"];
        let words = ["busybox", "sleep", "1000000"];
        node.gpuctl(&[&run[..], &words].concat()).ok()?;
        let id = node.docker(&["inspect", "--format", "{{.Id}}", &format!("{name}-0")]).ok()?;
        let id = id.trim().to_owned();
        let fill = format!("dd if=/dev/zero of=/fill bs=1M count={mib} && sync");
        let mut docker = node.site().engine().docker();
        command::run(docker.args(["exec", &id, "sh", "-c", &fill]), FILLING)?.ok()?;
        let (restart, scale) = (Sample::default(), Sample::default());
        Ok(Self { name, id, gpus: 2, restart, scale })
    }

    fn round(&mut self, node: &Node, keep: bool) -> Result<()> {
        let docker = || -> Command { node.site().engine().docker() };
        let restart = timed(docker().args(["restart", &self.id]))?;
        // One more and one less in turn.
        self.gpus = 5 - self.gpus;
        let number = self.gpus.to_string();
        let scale = timed(docker().args(["gpuctl", "scale", self.name, "--gpus", &number]))?;
        if keep {
            self.restart.add(restart);
            self.scale.add(scale);
        }
        Ok(())
    }
}

/// The table.
pub(crate) fn measure(node: &Node, rounds: usize, smoke: bool) -> Result<Vec<Row>> {
    let free = statvfs(node.place().root())
        .map(|f| f.blocks_available() * f.fragment_size())
        .map_err(|e| format!("cannot see how much room there is: {e}"))?;
    let skip = match (smoke, free < ROOM) {
        (true, _) => Some("--smoke".to_owned()),
        (_, true) => Some(format!("{} GiB are free, 12 are needed", free >> 30)),
        _ => None,
    };
    let mut all = vec![Scaled::start(node, "small", 10)?];
    if skip.is_none() {
        all.push(Scaled::start(node, "large", 4096)?);
    }
    for round in 0..=rounds {
        for one in &mut all {
            one.round(node, round != 0)?;
        }
    }
    let mut rows = Vec::new();
    for (one, size) in all.iter().zip(["10 MB", "4 GB"]) {
        let what = format!("{size} layer: docker restart / docker gpuctl scale");
        rows.push(Row::compare(&what, &one.restart, &one.scale, Aim::Times(1.1)));
    }
    match (all.as_slice(), skip) {
        ([small, large], _) => {
            let what = "docker gpuctl scale: 10 MB / 4 GB layer";
            rows.push(Row::compare(what, &small.scale, &large.scale, Aim::Times(1.1)));
        }
        (_, why) => rows.push(Row::skipped("4 GB layer", &why.unwrap_or_default())),
    }
    for one in &all {
        node.gpuctl(&["rm", "-f", "--history", one.name]).ok()?;
    }
    Ok(rows)
}
