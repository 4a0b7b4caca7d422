//! `docker gpuctl volume resize` beside `cp -a` of the same content, and in place for a small and for a
//! large volume.

use std::path::{Path, PathBuf};

use gpuctl_sim::Result;
use gpuctl_tests::{Node, Options};
use nix::sys::statvfs::statvfs;

use crate::commands::{docker, sh, timed};
use crate::stats::Sample;
use crate::table::{Aim, Row};

/// Below so much free room nothing is measured, in bytes: a volume, its next version, and a copy.
const ROOM: u64 = 7 << 29;

/// What the rows of the backend size are called.
const SIZE: &str = "backend size";

/// What is in a volume.
struct Content {
    name: &'static str,
    what: &'static str,
    /// Makes it, in the volume's folder.
    script: &'static str,
}

const CONTENTS: [Content; 2] = [
    Content {
        name: "large",
        what: "1 GB in one file",
        script: "dd if=/dev/urandom of=f bs=1M count=1024 2>/dev/null",
    },
    Content {
        name: "many",
        what: "100,000 files",
        script: "for d in $(seq 100); do mkdir $d; (cd $d; seq 1000 | xargs touch; echo $d >1); done",
    },
];

fn folder(node: &Node, version: &str) -> PathBuf {
    let image = node.place().at("volumes/mounts").join(version).join("data");
    let quota = node.config().docker.root.join("volumes").join(version).join("_data");
    if image.exists() { image } else { quota }
}

fn gpuctl(node: &Node, words: &[&str]) -> Result<String> {
    docker(node, &[&["gpuctl"][..], words].concat())
}

/// Why Docker cannot keep volumes to a size by itself here; `None` where it can.
fn no_quotas(node: &Node) -> Result<Option<String>> {
    let rows = node.gpuctl(&["volume", "backends", "--format", "json"]).ok()?;
    let rows = rows.lines().filter_map(|row| serde_json::from_str::<serde_json::Value>(row).ok());
    let size = rows.into_iter().find(|row| row["backend"] == "size");
    let size = size.ok_or("volume backends does not show the backend size")?;
    Ok(size["why_not"].as_str().map(str::to_owned))
}

/// Copies on one filesystem in the images, or with Docker's own quotas.
fn copies(filesystem: &str, text: &'static str, rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
    let node = Node::start(Options { name: "bench3", volumes: Some(text), ..Options::default() });
    let backend = if filesystem == SIZE { "size" } else { "image" };
    if backend == "size"
        && let Some(why) = no_quotas(&node)?
    {
        rows.push(Row::skipped("volume resize by copy, backend size", &why));
        return Ok(());
    }
    for content in &CONTENTS {
        let name = content.name;
        gpuctl(&node, &["volume", "create", name, "--size", "1500MB", "--backend", backend])?;
        timed(&mut sh(content.script, &folder(&node, &format!("{name}-0"))))?;
        // Into another volume of the same kind, as ours.
        let other = format!("other-{name}");
        gpuctl(&node, &["volume", "create", &other, "--size", "1500MB", "--backend", backend])?;
        let copy = folder(&node, &format!("{other}-0")).join("copy");
        let (mut cp, mut whole, mut quick) =
            (Sample::default(), Sample::default(), Sample::default());
        for round in 0..rounds {
            // Both bring it to the disk.
            let words = format!("cp -a . {0} && sync -f {0}", copy.display());
            let now = gpuctl(&node, &["volume", "ls", "-q"])?;
            let now = now.lines().find(|line| !line.starts_with("other-")).unwrap_or_default();
            cp.add(timed(&mut sh(&words, &folder(&node, now)))?);
            std::fs::remove_dir_all(&copy).map_err(|e| e.to_string())?;
            let resize = |size: usize, more: &[&str]| {
                let size = format!("{size}MB");
                let words = [&["gpuctl", "volume", "resize", name, &size][..], more].concat();
                let mut docker = node.site().engine().docker();
                docker.args(words);
                docker
            };
            whole.add(timed(&mut resize(1600 + round, &[]))?);
            gpuctl(&node, &["volume", "prune", "-f"])?;
            quick.add(timed(&mut resize(1700 + round, &["--no-verify"]))?);
            gpuctl(&node, &["volume", "prune", "-f"])?;
        }
        let what = format!("{}, {filesystem}: cp -a / volume resize", content.what);
        rows.push(Row::compare(&what, &cp, &whole, Aim::None));
        let what = format!("{}, {filesystem}: cp -a / the same with --no-verify", content.what);
        rows.push(Row::compare(&what, &cp, &quick, Aim::None));
        gpuctl(&node, &["volume", "rm", "--history", name, &other])?;
    }
    Ok(())
}

/// Whether this process has CAP_SYS_RESOURCE.
fn grows_mounted() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    held.and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .is_some_and(|held| held >> 24 & 1 == 1)
}

/// In place: a volume of 300 MB beside one of 20 GB, both grown by as much.
fn in_place(
    filesystem: &str,
    text: &'static str,
    rounds: usize,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let node = Node::start(Options { name: "bench4", volumes: Some(text), ..Options::default() });
    let mut samples = [Sample::default(), Sample::default()];
    for (name, mib) in [("small", 300), ("vast", 20 << 10)] {
        node.gpuctl(&["volume", "create", name, "--size", &format!("{mib}MB")]).ok()?;
    }
    for round in 1..=rounds {
        for (sample, (name, mib)) in samples.iter_mut().zip([("small", 300), ("vast", 20 << 10)]) {
            let size = format!("{}MB", mib + round * 100);
            let mut docker = node.site().engine().docker();
            docker.args(["gpuctl", "volume", "resize", name, &size, "--in-place"]);
            sample.add(timed(&mut docker)?);
        }
    }
    let [small, vast] = &samples;
    // Without the right to grow what is mounted, a copy of the image is checked and resized.
    let how = if filesystem == "ext4" && !grows_mounted() { ", unmounted for it" } else { "" };
    let what = format!("volume resize --in-place, {filesystem}{how}: 300 MB / 20 GB");
    rows.push(Row::compare(&what, small, vast, Aim::Times(1.5)));
    Ok(())
}

/// Why copies are not measured; `None` where they are.
fn no_room(smoke: bool) -> Result<Option<String>> {
    let tests = Path::new("/var/tmp/gpuctl-tests");
    let place = if tests.exists() { tests } else { Path::new("/var/tmp") };
    let free = statvfs(place)
        .map(|f| f.blocks_available() * f.fragment_size())
        .map_err(|e| format!("cannot see how much room there is: {e}"))?;
    Ok(match smoke {
        true => Some("--smoke".to_owned()),
        false => {
            (free < ROOM).then(|| format!("{} MiB are free, {} are needed", free >> 20, ROOM >> 20))
        }
    })
}

/// The backend size alone: it needs a kernel with the quotas of XFS, see `tests/bench/booted`.
pub(crate) fn measure_size(rounds: usize, smoke: bool) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    match no_room(smoke)? {
        Some(why) => rows.push(Row::skipped("volume resize by copy, backend size", &why)),
        None => copies(SIZE, "", rounds, &mut rows)?,
    }
    Ok(rows)
}

/// The table.
pub(crate) fn measure(rounds: usize, smoke: bool) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if let Some(why) = no_room(smoke)? {
        rows.push(Row::skipped("volume resize by copy", &why));
    } else {
        copies("ext4", "", rounds, &mut rows)?;
        copies("xfs", "filesystem = \"xfs\"", rounds, &mut rows)?;
        copies(SIZE, "", rounds, &mut rows)?;
    }
    in_place("ext4", "", rounds, &mut rows)?;
    in_place("xfs", "filesystem = \"xfs\"", rounds, &mut rows)?;
    Ok(rows)
}
