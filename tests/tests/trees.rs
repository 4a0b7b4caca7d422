//! Trees, copied on ext4, xfs and btrfs, and compared by other means than our own.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use docker_gpuctl::tree::{self, Compare, Options, Progress, Stop, TreeError, Watch};
use gpuctl_tests::loop_fs::{Kind, LoopFs, loop_fs};
use gpuctl_tests::trees;

const ALL: Compare = Compare { content: true, skip_xattrs: Vec::new() };

/// A file system, and a tree's place on it and that of its copy.
fn stage(kind: Kind, size: u64) -> Option<(LoopFs, PathBuf, PathBuf)> {
    if !trees::can_be_built() {
        return None;
    }
    let fs = loop_fs(kind, size)?;
    let (a, b) = (fs.path().join("a"), fs.path().join("b"));
    fs::create_dir(&a).unwrap();
    Some((fs, a, b))
}

#[track_caller]
fn same(a: &Path, b: &Path) {
    let found = trees::differences(a, b);
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
    let ours = tree::compare(a, b, &ALL, &Stop::new()).unwrap();
    assert!(ours.is_empty(), "{ours:?}");
}

fn everything(kind: Kind) {
    let Some((_fs, a, b)) = stage(kind, 600 << 20) else { return };
    trees::build(&a);
    let before = trees::listed(&a);
    let report = tree::copy(&a, &b, &Options::default(), &Stop::new()).unwrap();
    assert_eq!(report.sockets, [PathBuf::from(trees::SOCKET)]);
    assert_eq!(report.reflinked_bytes > 0, kind.shares(), "{report:?}");
    same(&a, &b);
    assert_eq!(trees::listed(&a), before, "nothing became of the first");
    for [one, other] in [["bin/tool", "deep/er/still/tool"], ["dangling", "bin/dangling"]] {
        assert_eq!(trees::inode(&b.join(one)), trees::inode(&b.join(other)));
    }
    assert_ne!(trees::inode(&b.join("one")), trees::inode(&b.join("other")));
    // Without sharing too, into a folder that is there.
    tree::remove(&b).unwrap();
    fs::create_dir(&b).unwrap();
    trees::run(&b, &["setfacl", "-m", "d:u:99:rwx,u:99:rwx", "."]);
    let options = Options { reflink: false, ..Options::default() };
    let report = tree::copy(&a, &b, &options, &Stop::new()).unwrap();
    assert_eq!(report.reflinked_bytes, 0);
    same(&a, &b);
}

#[test]
fn nothing_is_lost_on_ext4() {
    everything(Kind::Ext4);
}

#[test]
fn nothing_is_lost_on_xfs() {
    everything(Kind::Xfs);
}

#[test]
fn nothing_is_lost_on_btrfs() {
    everything(Kind::Btrfs);
}

/// The means of these tests find what is lost: else they prove nothing.
#[test]
fn the_other_means_find_what_is_lost() {
    let Some((_fs, a, b)) = stage(Kind::Ext4, 600 << 20) else { return };
    trees::build(&a);
    tree::copy(&a, &b, &Options::default(), &Stop::new()).unwrap();
    let changes: [(&str, &[&str]); 10] = [
        ("capability", &["setcap", "-r", "deep/er/small-7"]),
        ("user.note", &["setfattr", "-x", "user.note", "other"]),
        ("redirect", &["setfattr", "-x", "trusted.overlay.redirect", "redirected"]),
        ("find", &["touch", "-h", "-d", "@1600000000.1", "dangling"]),
        ("find", &["touch", "-a", "-d", "@1600000000.1", "empty"]),
        ("find", &["chmod", "0755", "one"]),
        ("find", &["chown", "-h", "7:9", "dangling"]),
        ("on the disk became", &["fallocate", "-l", "20M", "all-hole"]),
        ("rsync", &["rm", "whiteout"]),
        ("rsync", &["cp", "--remove-destination", "-p", "one", "bin/one"]),
    ];
    for (what, words) in changes {
        trees::run(&b, words);
        let found = trees::differences(&a, &b);
        assert!(found.iter().any(|line| line.contains(what)), "{words:?}: {found:?}");
        tree::remove(&b).unwrap();
        tree::copy(&a, &b, &Options::default(), &Stop::new()).unwrap();
    }
    same(&a, &b);
}

/// As `/home` and Docker's root may be, or a volume in an image.
#[test]
fn nothing_is_lost_from_one_file_system_to_another() {
    let Some((_one, a, _)) = stage(Kind::Xfs, 600 << 20) else { return };
    let Some((_other, c, b)) = stage(Kind::Ext4, 600 << 20) else { return };
    trees::build(&a);
    tree::copy(&a, &b, &Options::default(), &Stop::new()).unwrap();
    same(&a, &b);
    tree::remove(&c).unwrap();
    tree::copy(&b, &a.join("back"), &Options::default(), &Stop::new()).unwrap();
    same(&b, &a.join("back"));
}

#[test]
fn paths_beyond_the_longest_arrive() {
    for kind in [Kind::Ext4, Kind::Xfs, Kind::Btrfs] {
        let Some((_fs, a, b)) = stage(kind, 300 << 20) else { return };
        trees::build_deep(&a, 1200);
        let report = tree::copy(&a, &b, &Options::default(), &Stop::new()).unwrap();
        assert_eq!(report.entries, 1202);
        assert_eq!(trees::listed(&a), trees::listed(&b), "{kind:?}");
        assert!(tree::compare(&a, &b, &ALL, &Stop::new()).unwrap().is_empty());
        tree::remove(&b).unwrap();
        assert!(!b.exists());
    }
}

/// A hundred thousand files, one of 1 GB, and one of 4 GB that is mostly holes.
fn many_and_large(kind: Kind) {
    let Some((_fs, a, b)) = stage(kind, 5 << 30) else { return };
    for folder in 0..100 {
        let folder = a.join(format!("folder-{folder}"));
        fs::create_dir(&folder).unwrap();
        for n in 0..1000_usize {
            fs::write(folder.join(n.to_string()), vec![b'x'; n]).unwrap();
        }
    }
    let large = fs::File::create(a.join("large")).unwrap();
    let mut piece = vec![0; 1 << 20];
    for n in 0..1024 {
        // Each piece is another, so that one in the wrong place is seen.
        piece.iter_mut().enumerate().for_each(|(i, byte)| *byte = ((i * 7 + n * 13) % 251) as u8);
        large.write_all_at(&piece, n as u64 * (1 << 20)).unwrap();
    }
    let sparse = fs::File::create(a.join("sparse")).unwrap();
    sparse.set_len(4 << 30).unwrap();
    for n in 0..4 {
        sparse.write_all_at(&piece, n * (1 << 30) + 12345).unwrap();
    }
    let began = Instant::now();
    let report = tree::copy(&a, &b, &Options::default(), &Stop::new()).unwrap();
    let copied = began.elapsed();
    assert_eq!(report.entries, 100_102);
    let ours = tree::compare(&a, &b, &ALL, &Stop::new()).unwrap();
    eprintln!("{kind:?}: copied in {copied:?}, compared in {:?}", began.elapsed() - copied);
    assert!(ours.is_empty(), "{ours:?}");
    let name = |root: &Path, name: &str| root.join(name).to_string_lossy().into_owned();
    for file in ["large", "sparse"] {
        trees::run(&a, &["cmp", &name(&a, file), &name(&b, file)]);
    }
    trees::run(
        &a,
        &["diff", "-rq", "--exclude=sparse", "--exclude=large", &name(&a, ""), &name(&b, "")],
    );
    assert_eq!(trees::listed(&a), trees::listed(&b));
    assert!(trees::on_disk(&b) < trees::on_disk(&a) + (10 << 20));
    // One byte anywhere, with the time as it was.
    let times = fs::metadata(b.join("large")).unwrap();
    let copy = fs::OpenOptions::new().write(true).open(b.join("large")).unwrap();
    copy.write_all_at(b"!", 777_777_777).unwrap();
    let times = fs::FileTimes::new()
        .set_modified(times.modified().unwrap())
        .set_accessed(times.accessed().unwrap());
    copy.set_times(times).unwrap();
    let lines = tree::compare(&a, &b, &ALL, &Stop::new()).unwrap().lines;
    assert_eq!(lines, ["\"large\": has other content"]);
    let began = Instant::now();
    tree::remove(&b).unwrap();
    eprintln!("{kind:?}: removed in {:?}", began.elapsed());
}

#[test]
fn a_hundred_thousand_files_and_a_large_one_arrive_on_ext4() {
    many_and_large(Kind::Ext4);
}

#[test]
fn a_hundred_thousand_files_and_a_large_one_arrive_on_xfs() {
    if !gpuctl_tests::full() {
        gpuctl_tests::skip("a hundred thousand files on xfs: in the full run");
        return;
    }
    many_and_large(Kind::Xfs);
}

#[test]
fn a_hundred_thousand_files_and_a_large_one_arrive_on_btrfs() {
    if !gpuctl_tests::full() {
        gpuctl_tests::skip("a hundred thousand files on btrfs: in the full run");
        return;
    }
    many_and_large(Kind::Btrfs);
}

/// As many files as a process may have open, and many more, each too large to be read at once.
#[test]
fn few_files_are_open_at_once() {
    let Some((_fs, a, b)) = stage(Kind::Ext4, 1500 << 20) else { return };
    for n in 0..300 {
        fs::write(a.join(n.to_string()), vec![n as u8; 300_000]).unwrap();
    }
    for n in 0..3 {
        fs::write(a.join(format!("large-{n}")), vec![n; 140 << 20]).unwrap();
    }
    let me = std::process::id().to_string();
    trees::run(&a, &["prlimit", "--pid", &me, "--nofile=64:64"]);
    tree::copy(&a, &b, &Options::default(), &Stop::new()).unwrap();
    assert!(tree::compare(&a, &b, &ALL, &Stop::new()).unwrap().is_empty());
    tree::remove(&b).unwrap();
}

/// Shared blocks are not read to be compared: so what is no longer shared must be seen at once, before
/// it is on the disk too.
#[test]
fn what_is_no_longer_shared_is_seen() {
    for kind in [Kind::Xfs, Kind::Btrfs] {
        let Some((_fs, a, b)) = stage(kind, 300 << 20) else { return };
        let files = ["small", "large", "grown"];
        for (n, file) in files.iter().enumerate() {
            fs::write(a.join(file), vec![b'a' + n as u8; (n + 1) * 70_000]).unwrap();
        }
        let report = tree::copy(&a, &b, &Options::default(), &Stop::new()).unwrap();
        assert_eq!(report.reflinked_bytes, report.bytes);
        for file in files {
            let copy = b.join(file);
            let meta = fs::metadata(&copy).unwrap();
            let opened = fs::OpenOptions::new().write(true).open(&copy).unwrap();
            opened.write_all_at(b"!", meta.len() / 2).unwrap();
            let times = fs::FileTimes::new().set_modified(meta.modified().unwrap());
            opened.set_times(times).unwrap();
        }
        let count = tree::compare(&a, &b, &ALL, &Stop::new()).unwrap().count;
        assert_eq!(count, 3, "{kind:?}");
    }
}

#[test]
fn a_full_disk_is_said_and_what_was_copied_goes() {
    let Some((fs, a, b)) = stage(Kind::Ext4, 100 << 20) else { return };
    for n in 0..60 {
        fs::write(a.join(format!("file-{n}")), vec![n; 1 << 20]).unwrap();
    }
    let why = tree::copy(&a, &b, &Options::default(), &Stop::new()).unwrap_err();
    assert!(why.is_full() && why.to_string().contains("the disk is full"), "{why}");
    assert!(why.to_string().contains("\"file-"), "{why}");
    tree::remove(&b).unwrap();
    assert_eq!(fs::read_dir(fs.path()).unwrap().count(), 2, "a and lost+found");
}

/// Says stop once so many bytes are copied, and when it did.
struct StopsAt {
    bytes: u64,
    at: Cell<Option<Instant>>,
    seen: Cell<u64>,
}

impl Watch for StopsAt {
    fn progress(&self, progress: Progress) {
        self.seen.set(progress.bytes);
    }

    fn stopped(&self) -> bool {
        let stops = self.seen.get() >= self.bytes;
        if stops && self.at.get().is_none() {
            self.at.set(Some(Instant::now()));
        }
        stops
    }
}

#[test]
fn a_large_file_is_stopped_in_its_middle_and_while_it_goes_to_the_disk() {
    let Some((_fs, a, b)) = stage(Kind::Ext4, 2 << 30) else { return };
    let zeros = vec![1; 8 << 20];
    let file = fs::File::create(a.join("large")).unwrap();
    (0..90).for_each(|n| file.write_all_at(&zeros, n * (8 << 20)).unwrap());
    for bytes in [1, 720 << 20] {
        let watch = StopsAt { bytes, at: Cell::new(None), seen: Cell::new(0) };
        let copied = tree::copy(&a, &b, &Options::default(), &watch);
        let told = watch.at.get().map(|at| at.elapsed());
        // All was copied, and the disk was quicker than the next look.
        if bytes == 1 || copied.is_err() {
            assert_eq!(copied, Err(TreeError::Stopped));
            assert!(told.unwrap() < Duration::from_secs(1), "{told:?}");
        }
        tree::remove(&b).unwrap();
    }
}
