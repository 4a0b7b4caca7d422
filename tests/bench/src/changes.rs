//! A container replaced with its files by `docker gpuctl update`, beside `docker commit` and a run of that
//! image; beside `cp -rf -p` of all that the container sees, which is how older tools do it; and beside
//! `cp -a` of what it wrote. Each brings it to the disk; only ours compares, and only ours and
//! Docker's have a container that runs in the end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use docker_gpuctl::tree;
use gpuctl_sim::{Result, command, engine};
use gpuctl_tests::loop_fs::{Kind, loop_fs};
use gpuctl_tests::{Node, Options};

use crate::commands::{docker, sh, timed};
use crate::layers::{CONTENTS, Content, IMAGE, write_once};
use crate::stats::Sample;
use crate::table::{Aim, Row};

/// The image, the layer, an image of both and one more copy, with room to spare, in bytes.
const ROOM: u64 = 6 << 30;

/// A node whose Docker keeps everything on a file system of its own.
struct Stage {
    // Ends before its disk does.
    node: Node,
    disk: PathBuf,
}

/// Times of the ways to give a container's files to another.
#[derive(Default)]
struct Times {
    ours: Sample,
    commit: Sample,
    whole: Sample,
    layer: Sample,
}

impl Stage {
    fn set(disk: &Path) -> Result<Self> {
        let data = disk.join("docker");
        std::fs::create_dir(&data).map_err(|e| format!("cannot make a folder: {e}"))?;
        let more = ["--storage-driver", "overlay2"].map(str::to_owned).to_vec();
        let engine = engine::Options { more, ..engine::Options::default() };
        let node =
            Node::start(Options { name: "bench5", data: Some(data), engine, ..Options::default() });
        let stage = Self { node, disk: disk.to_owned() };
        stage.import()?;
        Ok(stage)
    }

    /// Runs a script, in a folder.
    fn run(&self, script: &str, folder: &Path) -> Result<Duration> {
        let mut sh = sh(script, folder);
        sh.envs(self.node.site().engine().environment());
        timed(&mut sh)
    }

    /// An image of 1 GB.
    fn import(&self) -> Result<()> {
        let folder = self.disk.join("image");
        std::fs::create_dir(&folder).map_err(|e| format!("cannot make a folder: {e}"))?;
        let busybox = command::find(&["busybox"])?;
        let script = format!(
            "mkdir bin proc sys dev; cp {} bin/busybox; for n in sh sleep; do ln -s busybox bin/$n; done
            {IMAGE}",
            busybox.display()
        );
        self.run(&script, &folder)?;
        self.run("tar -cf - . | docker import - world >/dev/null", &folder)?;
        tree::remove(&folder).map_err(|e| e.to_string())
    }

    fn shown(&self, format: &str, container: &str) -> Result<String> {
        let got = self.node.docker(&["inspect", "-f", format, container]).ok()?;
        Ok(got.trim().to_owned())
    }

    fn docker(&self, words: &[&str]) -> Result<()> {
        docker(&self.node, words).map(drop)
    }

    /// What was removed is not to go to the disk in the next one's time.
    fn settle(&self) -> Result<()> {
        self.run("sync -f .", &self.disk).map(drop)
    }

    /// One layer, by each way in turn.
    fn one(&self, content: &Content, rounds: usize) -> Result<Times> {
        let run =
            ["gpuctl", "run", "-d", "--name", "train", "--gpus", "1", "--stop-signal", "KILL"];
        self.docker(&[&run[..], &["world", "sleep", "1000000"]].concat())?;
        let within = |container: &str| {
            let pid = self.shown("{{.State.Pid}}", container)?;
            Ok::<_, String>(PathBuf::from(format!("/proc/{pid}/root")))
        };
        self.run(content.script, &within("train-0")?)?;
        self.settle()?;
        let copy = self.disk.join("copy");
        let mut times = Times::default();
        for round in 0..rounds {
            let now = format!("train-{round}");
            let upper = PathBuf::from(self.shown("{{.GraphDriver.Data.UpperDir}}", &now)?);
            for (sample, cp, from) in [
                (&mut times.layer, "cp -a", &upper),
                (&mut times.whole, "cp -rf -p -x", &within(&now)?),
            ] {
                sample.add(self.run(&format!("{cp} . {0} && sync -f {0}", copy.display()), from)?);
                tree::remove(&copy).map_err(|e| e.to_string())?;
                self.settle()?;
            }
            let words = "docker commit $0 kept >/dev/null && docker run -d --name copy kept sleep 1000000 \
                         >/dev/null && sync -f .";
            let words = words.replace("$0", &now);
            times.commit.add(self.run(&words, &self.disk)?);
            self.docker(&["rm", "-f", "copy"])?;
            self.docker(&["rmi", "-f", "kept"])?;
            self.settle()?;
            // It is on the disk when it ends.
            let words = format!("docker gpuctl update train --env ROUND={round} -q >/dev/null");
            times.ours.add(self.run(&words, &self.disk)?);
            self.docker(&["gpuctl", "prune", "-f"])?;
            self.settle()?;
        }
        self.docker(&["gpuctl", "rm", "-f", "--history", "train"])?;
        self.settle()?;
        Ok(times)
    }
}

fn on(kind: Kind, rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
    let name = kind.name();
    let Some(fs) = loop_fs(kind, ROOM) else {
        rows.push(Row::skipped(&format!("a container replaced on {name}"), "see above"));
        return Ok(());
    };
    write_once(fs.path())?;
    let stage = Stage::set(fs.path())?;
    // The aims: with shared blocks a tenth of the old way, without no slower than cp.
    let (layer, whole) = match kind.shares() {
        true => (Aim::None, Aim::Times(0.1)),
        false => (Aim::Times(1.0), Aim::None),
    };
    for content in &CONTENTS {
        let times = stage.one(content, rounds)?;
        for (way, before, aim) in [
            ("docker commit and run", &times.commit, Aim::None),
            ("cp -rf -p of all", &times.whole, whole),
            ("cp -a of the layer", &times.layer, layer),
        ] {
            let what = format!("{}, {name}: {way} / replaced", content.what);
            rows.push(Row::compare(&what, before, &times.ours, aim));
        }
    }
    Ok(())
}

/// The table.
pub(crate) fn measure(rounds: usize, smoke: bool) -> Result<Vec<Row>> {
    if smoke {
        return Ok(vec![Row::skipped("a container replaced", "--smoke")]);
    }
    // Its file systems are seen by this thread and what it starts only.
    let measured = std::thread::spawn(move || {
        let mut rows = Vec::new();
        on(Kind::Ext4, rounds, &mut rows)?;
        on(Kind::Xfs, rounds, &mut rows)?;
        Ok(rows)
    });
    measured.join().map_err(|_| "measuring changes panicked".to_owned())?
}
