//! A writable layer carried to another container, beside `cp -a` of its upper directory, and beside
//! `cp -rf -p` of all that the container sees, which is how older tools do it. Each brings it to the
//! disk; only ours compares.

use std::path::{Path, PathBuf};
use std::time::Instant;

use docker_gpuctl::layer;
use docker_gpuctl::tree::{self, Stop};
use gpuctl_sim::Result;
use gpuctl_tests::loop_fs::{Kind, LoopFs, loop_fs};

use crate::commands::{sh, timed};
use crate::stats::Sample;
use crate::table::{Aim, Row};

/// The image, the layer and one copy of both, with room to spare, in bytes.
const ROOM: u64 = 7 << 30;

/// What is in a layer.
pub(crate) struct Content {
    /// In words.
    pub(crate) what: &'static str,
    /// Makes it, in the container's root folder.
    pub(crate) script: &'static str,
}

/// The layers that are measured.
pub(crate) const CONTENTS: [Content; 2] = [
    Content {
        what: "1 GB in 8 files",
        script: "for n in $(seq 8); do dd if=/dev/urandom of=f$n bs=1M count=128 2>/dev/null; done",
    },
    Content {
        what: "100,000 files",
        script: "for d in $(seq 100); do mkdir d$d; done
            awk 'BEGIN { for (d = 1; d <= 100; d++) for (n = 0; n < 1000; n++) {
                f = \"d\" d \"/\" n; print d, n > f; close(f) } }'",
    },
];

/// An image of 1 GB: some large files, and as many small ones as a small distribution has.
pub(crate) const IMAGE: &str =
    "for n in $(seq 8); do dd if=/dev/urandom of=i$n bs=1M count=120 2>/dev/null; done
    mkdir usr; cd usr; for n in $(seq 3000); do head -c 20000 ../i1 >$n; done";

/// Writes every block of a file system once: its disk is a file with holes, and a block that was
/// never written takes several times as long as one that was.
pub(crate) fn write_once(fs: &Path) -> Result<()> {
    let fill = "dd if=/dev/zero of=fill bs=1M 2>/dev/null; sync -f .; rm fill && sync -f .";
    timed(&mut sh(fill, fs)).map(drop)
}

fn folder(path: PathBuf) -> Result<PathBuf> {
    std::fs::create_dir_all(&path).map_err(|e| format!("cannot make a folder: {e}"))?;
    Ok(path)
}

/// Times of the ways to copy one layer.
#[derive(Default)]
struct Times {
    layer: Sample,
    whole: Sample,
    ours: Sample,
    /// Of ours, until it is on the disk and not yet compared.
    copied: Sample,
    /// Whether it can be carried: while the container still runs.
    checked: Sample,
}

fn one(fs: &LoopFs, content: &Content, rounds: usize) -> Result<Times> {
    let at = |name: &str| fs.path().join(name);
    let image = at("image");
    for name in ["one/diff", "one/work", "one/merged"] {
        folder(at(name))?;
    }
    let (upper, merged, copy) = (at("one/diff"), at("one/merged"), at("copy"));
    timed(&mut sh(content.script, &upper))?;
    let mount = format!(
        "mount -t overlay overlay -o lowerdir={},upperdir={},workdir={} {}",
        image.display(),
        upper.display(),
        at("one/work").display(),
        merged.display()
    );
    let mut times = Times::default();
    for _ in 0..rounds {
        let words = format!("cp -a . {0} && sync -f {0}", copy.display());
        times.layer.add(timed(&mut sh(&words, &upper))?);
        tree::remove(&copy).map_err(|e| e.to_string())?;
        timed(&mut sh(&mount, fs.path()))?;
        let words = format!("cp -rf -p . {0} && sync -f {0}", copy.display());
        times.whole.add(timed(&mut sh(&words, &merged))?);
        tree::remove(&copy).map_err(|e| e.to_string())?;
        timed(&mut sh("umount merged", &at("one")))?;
        // What was removed is not to go to the disk in the next one's time.
        timed(&mut sh("sync -f .", fs.path()))?;
        folder(copy.clone())?;
        let began = Instant::now();
        layer::check(&upper, &copy, &Stop::new()).map_err(|e| e.to_string())?;
        times.checked.add(began.elapsed());
        let began = Instant::now();
        layer::carry(&upper, &copy, &Stop::new()).map_err(|e| e.to_string())?;
        times.ours.add(began.elapsed());
        tree::remove(&copy).map_err(|e| e.to_string())?;
        timed(&mut sh("sync -f .", fs.path()))?;
        let began = Instant::now();
        let options = tree::Options::default();
        tree::copy(&upper, &copy, &options, &Stop::new()).map_err(|e| e.to_string())?;
        times.copied.add(began.elapsed());
        tree::remove(&copy).map_err(|e| e.to_string())?;
        timed(&mut sh("sync -f .", fs.path()))?;
    }
    tree::remove(&at("one")).map_err(|e| e.to_string())?;
    Ok(times)
}

fn on(kind: Kind, rounds: usize, rows: &mut Vec<Row>) -> Result<()> {
    let name = kind.name();
    let Some(fs) = loop_fs(kind, ROOM) else {
        rows.push(Row::skipped(&format!("a layer carried on {name}"), "see above"));
        return Ok(());
    };
    write_once(fs.path())?;
    timed(&mut sh(IMAGE, &folder(fs.path().join("image"))?))?;
    // The aims: with shared blocks a tenth of the old way, without no slower than cp.
    let (layer, whole) = match kind.shares() {
        true => (Aim::None, Aim::Times(0.1)),
        false => (Aim::Times(1.0), Aim::None),
    };
    for content in &CONTENTS {
        let times = one(&fs, content, rounds)?;
        let what = content.what;
        let row = |way: &str, before: &Sample, ours: &Sample, aim: Aim| {
            Row::compare(&format!("{what}, {name}: {way}"), before, ours, aim)
        };
        rows.push(row("cp -a of the layer / carried", &times.layer, &times.ours, layer));
        rows.push(row(
            "cp -a of the layer / carried, not compared",
            &times.layer,
            &times.copied,
            Aim::None,
        ));
        rows.push(row("cp -rf -p of all / carried", &times.whole, &times.ours, whole));
        rows.push(Row::alone(&format!("{what}, {name}: checked before"), &times.checked));
    }
    Ok(())
}

/// The table.
pub(crate) fn measure(rounds: usize, smoke: bool) -> Result<Vec<Row>> {
    if smoke {
        return Ok(vec![Row::skipped("a layer carried", "--smoke")]);
    }
    // Its file systems are seen by this thread only.
    let measured = std::thread::spawn(move || {
        let mut rows = Vec::new();
        on(Kind::Ext4, rounds, &mut rows)?;
        on(Kind::Xfs, rounds, &mut rows)?;
        Ok(rows)
    });
    measured.join().map_err(|_| "measuring layers panicked".to_owned())?
}
