//! A container's files in the next one: made in a real container with all that can be lost, and compared
//! from within the new one and on the disk, on each file system, with both image stores, whoever asks.

use std::path::Path;

use gpuctl_tests::loop_fs::Kind;
use gpuctl_tests::served::DAEMON;
use gpuctl_tests::stage::{Stage, TOPS, amount};
use gpuctl_tests::trees;

/// What tools that are not ours see as different on the disk.
#[track_caller]
fn same_on_disk(old: &Path, new: &Path) {
    // Whoever starts a container reads its /etc/passwd, which changes a time of access.
    let etc = |upper: &Path| trees::seen(&upper.join("etc"));
    assert_eq!(etc(old), etc(new));
    for top in TOPS {
        let found = trees::differences(&old.join(top), &new.join(top));
        assert!(found.is_empty(), "{top}: {}", found.join("\n"));
    }
    let deep =
        |upper: &Path| (trees::listed(&upper.join("deep")), trees::seen(&upper.join("deep")));
    let (one, other) = (deep(old), deep(new));
    assert_eq!(one.0.len(), 603, "all of them");
    assert!(one == other, "the folder beyond all paths");
    // The root of a layer is the container's root folder.
    let root = |upper: &Path| trees::run(upper, &["stat", "-c", "%f %u %g %Y", "."]);
    assert_eq!(root(old), root(new));
}

#[track_caller]
fn same_within(before: &[(&str, Vec<String>)], after: &[(&str, Vec<String>)]) {
    for ((top, before), (_, after)) in before.iter().zip(after) {
        let lost: Vec<&String> =
            before.iter().filter(|line| !after.contains(line)).take(9).collect();
        assert!(before == after, "{top} is not as it was: {lost:#?}");
    }
}

fn carried(kind: Kind, containerd: bool, user: u32) {
    let Some(stage) = Stage::set(kind, containerd, user) else { return };
    stage.run();
    stage.redirect();
    let (before, told) = (stage.seen("train-0"), stage.told("train-0"));
    assert!(told.contains("4755 0 3 100000") && told.contains("folder-100"), "{told}");
    let old = stage.upper("train-0");
    let used = stage.used();
    let got = stage.gpuctl(&["update", "train", "--env", "A=1"]);
    assert_eq!(got.stdout, "train-1\n");
    assert!(got.stderr.contains("the socket \"tree/run/socket\" is not in the copy"), "{got}");
    let new = stage.upper("train-1");
    assert_ne!(old, new);
    same_on_disk(&old, &new);
    let more = stage.used() - used;
    let layer = u64::from(amount().1) << 20;
    assert_eq!(more < layer, kind.shares(), "{more} bytes more are used");
    same_within(&before, &stage.seen("train-1"));
    assert_eq!(stage.told("train-1"), told);
    let tool = |name: &str| trees::inode(&stage.within("train-1").join("tree").join(name));
    assert_eq!(tool("bin/tool"), tool("deep/er/still/tool"), "one file");
    // A snapshot, a second container, and back to the files of the snapshot.
    let got = stage.gpuctl(&["snapshot", "train"]);
    assert!(got.stderr.contains("keeping the files of train-1: "), "{got}");
    let layers = stage.served.node.config().layers().join("train");
    let kept = std::fs::read_dir(&layers).unwrap().next().unwrap().unwrap().path();
    same_on_disk(&stage.upper("train-1"), &kept);
    stage.gpuctl(&["clone", "train", "twin"]);
    same_on_disk(&stage.upper("train-1"), &stage.upper("twin-0"));
    same_within(&before, &stage.seen("twin-0"));
    stage.gpuctl(&["rm", "-f", "--history", "twin"]);
    stage.served.node.docker_ok(&["exec", "train-1", "sh", "-c", "echo more >>/etc/conf"]);
    let got = stage.gpuctl(&["rollback", "train", "1", "--files", "-q"]);
    assert!(got.stderr.lines().all(|line| line.starts_with("warning: ")), "{got}");
    same_on_disk(&kept, &stage.upper("train-2"));
    same_within(&before, &stage.seen("train-2"));
    stage.served.node.check();
    stage.gpuctl(&["rm", "-f", "--history", "train"]);
    assert!(!layers.exists(), "what was kept is gone");
}

/// Two of the seven ways are tried in each run, with ext4 and xfs, both image stores, root and a user of the
/// service among them.
fn in_full() -> bool {
    let full = gpuctl_tests::full();
    if !full {
        gpuctl_tests::skip("this filesystem with this image store, in the full run only");
    }
    full
}

#[test]
fn all_files_arrive_on_ext4() {
    carried(Kind::Ext4, false, 0);
}

#[test]
fn all_files_arrive_on_xfs_by_the_service() {
    if !in_full() {
        return;
    }
    carried(Kind::Xfs, false, DAEMON);
}

#[test]
fn all_files_arrive_on_btrfs() {
    if !in_full() {
        return;
    }
    carried(Kind::Btrfs, false, 0);
}

#[test]
fn all_files_arrive_with_containerds_image_store_on_ext4_by_the_service() {
    if !in_full() {
        return;
    }
    carried(Kind::Ext4, true, DAEMON);
}

#[test]
fn all_files_arrive_with_containerds_image_store_on_xfs_by_the_service() {
    carried(Kind::Xfs, true, DAEMON);
}

#[test]
fn all_files_arrive_with_containerds_image_store_on_xfs() {
    if !in_full() {
        return;
    }
    carried(Kind::Xfs, true, 0);
}

#[test]
fn all_files_arrive_with_containerds_image_store_on_btrfs() {
    if !in_full() {
        return;
    }
    carried(Kind::Btrfs, true, 0);
}
