//! Writable layers of real overlays, carried to another overlay on the same layers below, and seen there
//! as they were.

use std::fs;
use std::path::{Path, PathBuf};

use docker_gpuctl::layer::{self, LayerError};
use docker_gpuctl::tree::{self, Stop};
use gpuctl_tests::loop_fs::{Kind, LoopFs, loop_fs};
use gpuctl_tests::trees;
use nix::mount::{MntFlags, umount2};

/// Folders of overlays, laid out as Docker does.
struct Stage {
    fs: LoopFs,
}

/// An overlay that is mounted.
struct Overlay {
    upper: PathBuf,
    merged: PathBuf,
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = umount2(&self.merged, MntFlags::MNT_DETACH);
    }
}

impl Stage {
    fn set(kind: Kind, size: u64) -> Option<Self> {
        if !trees::can_be_built() {
            return None;
        }
        let fs = loop_fs(kind, size)?;
        let stage = Self { fs };
        stage.image();
        Some(stage)
    }

    /// The layer of an image.
    fn image(&self) {
        let lower = self.at("image");
        fs::create_dir(&lower).unwrap();
        trees::image(&lower);
    }

    fn at(&self, name: &str) -> PathBuf {
        self.fs.path().join(name)
    }

    fn mount(&self, name: &str, options: &str) -> Overlay {
        let home = self.at(name);
        let (upper, work, merged) = (home.join("diff"), home.join("work"), home.join("merged"));
        for folder in [&upper, &work, &merged] {
            fs::create_dir_all(folder).unwrap();
        }
        let lower = self.at("image");
        let (lower, upper_, work) = (lower.display(), upper.display(), work.display());
        // To look is not to change: overlay has times of its own.
        let all = format!("noatime,lowerdir={lower},upperdir={upper_},workdir={work}{options}");
        let folder = merged.to_str().unwrap();
        trees::run(&home, &["mount", "-t", "overlay", "overlay", "-o", &all, folder]);
        Overlay { upper, merged }
    }
}

/// What somebody did in a container: files, and a tree with one of each.
fn live_in(merged: &Path, redirects: bool) {
    trees::live_in(merged);
    if redirects {
        trees::run(merged, &["sh", "-ec", "mv usr/lib home/lib; mv opt opt2"]);
    }
    let tree = merged.join("tree");
    fs::create_dir(&tree).unwrap();
    // Overlay takes no attributes of its own name, nor whiteouts, from within: those are made below.
    for n in 0..50 {
        fs::write(tree.join(format!("file-{n}")), vec![n; 1000 * n as usize]).unwrap();
    }
    let script =
        "ln file-1 ../home/first; mkfifo fifo; mknod char c 195 3; setfattr -n user.x -v y file-2
        setcap cap_net_raw+ep file-3; setfacl -m u:1:rw file-4; truncate -s 50M hole; echo x >>hole
        setfattr -n trusted.x -v y file-5; touch -d @1600000000.123456789 file-6
        setfacl -m d:u:1:rw .; ln -s /nowhere link; touch -h -d @1500000000.987654321 link";
    trees::run(&tree, &["sh", "-ec", script]);
}

fn carried(kind: Kind, options: &str, redirects: bool) {
    let Some(stage) = Stage::set(kind, 600 << 20) else { return };
    let first = stage.mount("first", options);
    live_in(&first.merged, redirects);
    let inodes = inodes(&first.merged);
    let before = (trees::listed(&first.merged), trees::listed(&first.upper));
    // A look at it as it runs is allowed: a paused one is copied so.
    let second = stage.mount("second", options);
    layer::check(&first.upper, &second.upper, &Stop::new()).unwrap();
    let (from, to) = (first.upper.clone(), second.upper.clone());
    let keep = own_uuid(&to);
    drop(first);
    // What a runtime leaves of a container that was made and not started.
    fs::create_dir_all(second.merged.join("data/mounted")).unwrap();
    fs::write(second.merged.join("etc/hosts"), "").unwrap();
    let refused = layer::carry(&from, &to, &Stop::new()).unwrap_err();
    assert!(refused.to_string().contains("is running on"), "{refused}");
    drop(second);
    let fit = layer::check(&from, &to, &Stop::new()).unwrap();
    assert_eq!(fit.shares, kind.shares());
    let report = layer::carry(&from, &to, &Stop::new()).unwrap().report;
    assert_eq!((report.entries, report.bytes > 0), (fit.size.entries, true));
    assert_eq!(own_uuid(&to), keep, "each overlay has its own");
    assert_eq!(trees::listed(&to), before.1);
    trees::run(
        &to,
        &["sh", "-c", "setfattr -x trusted.overlay.uuid .; setfattr -x user.overlay.uuid .; true"],
    );
    trees::run(
        &from,
        &["sh", "-c", "setfattr -x trusted.overlay.uuid .; setfattr -x user.overlay.uuid .; true"],
    );
    let found = trees::differences(&from, &to);
    assert!(found.is_empty(), "{}", found.join("\n"));
    // As its processes see it.
    let second = stage.mount("second", options);
    assert_eq!(trees::listed(&second.merged), before.0);
    let again = stage.mount("first", options);
    let found = trees::differences(&again.merged, &second.merged);
    assert!(found.is_empty(), "{}", found.join("\n"));
    // Files that were in the image keep their inodes: by them overlay knows what they come from.
    assert_eq!(self::inodes(&second.merged), inodes);
    // It can be lived in, and carried again.
    live_again(&second.merged);
}

fn live_again(merged: &Path) {
    let script = "rm -r usr home/first tree; echo x >>etc/conf; mkdir usr; ls -lR . >/dev/null";
    trees::run(merged, &["sh", "-ec", script]);
}

/// Inodes of what was in the image and is not new in the layer. Of a file with several names overlay
/// keeps no origin without an index, so that one has another.
fn inodes(merged: &Path) -> Vec<u64> {
    let names = ["etc/conf", "etc/passwd", "var/log/older"];
    names.iter().map(|name| trees::inode(&merged.join(name))).collect()
}

fn own_uuid(upper: &Path) -> Vec<u8> {
    trees::run(upper, &["getfattr", "-d", "-m", "overlay.uuid", "-e", "hex", "."])
}

#[test]
fn a_layer_is_what_it_was_on_ext4() {
    carried(Kind::Ext4, ",index=off,redirect_dir=on", true);
}

#[test]
fn a_layer_is_what_it_was_on_xfs() {
    carried(Kind::Xfs, ",index=off", false);
}

#[test]
fn a_layer_is_what_it_was_on_btrfs() {
    carried(Kind::Btrfs, ",index=off,redirect_dir=on,uuid=on", true);
}

#[test]
fn a_layer_with_user_attributes_is_what_it_was() {
    carried(Kind::Ext4, ",userxattr", false);
}

fn refusal(stage: &Stage, from: &Path) -> String {
    let to = stage.at("to");
    fs::create_dir_all(&to).unwrap();
    let before = (trees::listed(from), trees::listed(&to));
    let why = layer::check(from, &to, &Stop::new()).unwrap_err();
    assert!(matches!(why, LayerError::Refused { .. }) && why.hint().is_some(), "{why:?}");
    assert_eq!((trees::listed(from), trees::listed(&to)), before, "nothing was touched");
    why.to_string()
}

#[test]
fn a_layer_that_is_not_whole_is_refused() {
    let Some(stage) = Stage::set(Kind::Ext4, 300 << 20) else { return };
    let layer = stage.mount("meta", ",metacopy=on,redirect_dir=on");
    trees::run(&layer.merged, &["chmod", "700", "usr/bin/program"]);
    assert!(refusal(&stage, &layer.upper).contains("have metacopy on"));
    let upper = layer.upper.clone();
    drop(layer);
    // Not mounted any more: the file itself tells.
    let said = refusal(&stage, &upper);
    assert!(said.contains("\"usr/bin/program\"") && said.contains("metacopy"), "{said}");
    let layer = stage.mount("index", ",index=on");
    trees::run(&layer.merged, &["sh", "-c", "echo x >>usr/bin/linked"]);
    assert!(refusal(&stage, &layer.upper).contains("have index on"));
    let upper = layer.upper.clone();
    drop(layer);
    assert!(refusal(&stage, &upper).contains("keeps an index"));
}

#[test]
fn a_layer_that_does_not_fit_is_refused() {
    let Some(stage) = Stage::set(Kind::Ext4, 300 << 20) else { return };
    let layer = stage.mount("one", "");
    fs::write(layer.merged.join("large"), vec![1; 120 << 20]).unwrap();
    let said = refusal(&stage, &layer.upper);
    assert!(said.contains("need") && said.contains("are free there"), "{said}");
    // Where it can be shared, the same fits.
    let Some(stage) = Stage::set(Kind::Xfs, 400 << 20) else { return };
    let layer = stage.mount("one", "");
    fs::write(layer.merged.join("large"), vec![1; 200 << 20]).unwrap();
    let (from, to) = (layer.upper.clone(), stage.at("to"));
    fs::create_dir(&to).unwrap();
    drop(layer);
    assert!(layer::check(&from, &to, &Stop::new()).unwrap().shares);
    let report = layer::carry(&from, &to, &Stop::new()).unwrap().report;
    assert_eq!(report.reflinked_bytes, 200 << 20);
    // Too many files.
    let Some(stage) = Stage::set(Kind::Ext4, 100 << 20) else { return };
    let many = stage.at("many/diff");
    fs::create_dir_all(&many).unwrap();
    for n in 0..13_000 {
        fs::write(many.join(n.to_string()), b"").unwrap();
    }
    assert!(refusal(&stage, &many).contains("13000 files"));
}

#[test]
fn a_layer_with_files_is_not_overwritten() {
    let Some(stage) = Stage::set(Kind::Ext4, 300 << 20) else { return };
    let (first, second) = (stage.mount("first", ""), stage.mount("second", ""));
    live_in(&first.merged, false);
    fs::write(second.merged.join("work"), "of a week").unwrap();
    let (from, to) = (first.upper.clone(), second.upper.clone());
    drop((first, second));
    let refused = layer::carry(&from, &to, &Stop::new()).unwrap_err();
    assert!(refused.to_string().contains("has files already"), "{refused}");
    assert_eq!(fs::read_to_string(to.join("work")).unwrap(), "of a week");
    // What was carried and goes again leaves the first as it was.
    let before = trees::listed(&from);
    tree::remove(&to).unwrap();
    fs::create_dir(&to).unwrap();
    layer::carry(&from, &to, &Stop::new()).unwrap();
    tree::remove(&to).unwrap();
    assert_eq!(trees::listed(&from), before);
}
