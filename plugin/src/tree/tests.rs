//! On the file system of the temporary folder; tests/tests/trees.rs does it on ext4, xfs and btrfs.
//! What needs root is left out without it.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, FileType, IFlags, Mode, Timespec, Timestamps, XattrFlags};
use tempfile::TempDir;

use super::*;

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: owners, devices and attributes of trees need root");
    }
    root
}

fn all() -> Compare {
    Compare { content: true, skip_xattrs: Vec::new() }
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn times(path: &Path, nanos: i64) {
    let of = |n| Timespec { tv_sec: 1_600_000_000, tv_nsec: n };
    let times = Timestamps { last_access: of(nanos + 1), last_modification: of(nanos) };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A tree with one of each kind.
fn tree(at: &Path) {
    fs::create_dir_all(at.join("d/e")).unwrap();
    fs::write(at.join("d/file"), b"content").unwrap();
    fs::write(at.join("d/long"), vec![7; 3 << 20]).unwrap();
    fs::write(at.join("empty"), b"").unwrap();
    fs::hard_link(at.join("d/file"), at.join("second")).unwrap();
    fs::hard_link(at.join("d/file"), at.join("d/e/third")).unwrap();
    symlink("/nowhere/at/all", at.join("link")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"odd\n\xff name");
    fs::write(at.join(odd), b"odd").unwrap();
    let hole = fs::File::create(at.join("hole")).unwrap();
    hole.set_len(64 << 20).unwrap();
    hole.write_all_at(b"in the middle", 20 << 20).unwrap();
    let make = |name: &str, kind, mode, device| {
        rustix::fs::mknodat(CWD, at.join(name), kind, Mode::from_raw_mode(mode), device).unwrap();
    };
    make("fifo", FileType::Fifo, 0o600, 0);
    make("socket", FileType::Socket, 0o600, 0);
    make("whiteout", FileType::CharacterDevice, 0, 0);
    make("block", FileType::BlockDevice, 0o660, rustix::fs::makedev(240, 7));
    rustix::fs::chown(at.join("d/long"), Some(id(1234)), Some(gid(4321))).unwrap();
    fs::set_permissions(at.join("d/long"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(at.join("d"), fs::Permissions::from_mode(0o1777)).unwrap();
    set(&at.join("d/long"), "user.note", b"of a user");
    set(&at.join("d"), "trusted.overlay.opaque", b"y");
    set(&at.join("link"), "trusted.of.link", b"1");
    set(&at.join("whiteout"), "trusted.of.whiteout", b"2");
    // cap_net_raw+ep.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set(&at.join("d/long"), "security.capability", &capability);
    for (n, name) in
        ["d/e", "d/file", "d/long", "d", "link", "fifo", "whiteout", "hole", ""].iter().enumerate()
    {
        times(&at.join(name), 123_456_700 + i64::try_from(n).unwrap());
    }
}

fn id(id: u32) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(id)
}

fn gid(id: u32) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(id)
}

/// A tree, and a copy of it.
fn two() -> (TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    tree(&a);
    copy(&a, &b, &Options::default(), &Stop::new()).unwrap();
    (dir, a, b)
}

fn found(a: &Path, b: &Path) -> Vec<String> {
    compare(a, b, &all(), &Stop::new()).unwrap().lines
}

#[test]
fn a_copy_is_the_tree_and_says_which_sockets_it_left() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    tree(&a);
    // Not by compare: what it could overlook as a copy does. And before: to read a link is to access it.
    let facts = |root: &Path| {
        let of = |name: &str| {
            let m = fs::symlink_metadata(root.join(name)).unwrap();
            let times = (m.mtime(), m.mtime_nsec(), m.atime(), m.atime_nsec());
            (name.to_owned(), m.mode(), m.uid(), m.gid(), m.rdev(), times)
        };
        ["d", "d/e", "d/file", "d/long", "link", "fifo", "whiteout", "block", "hole"].map(of)
    };
    let before = facts(&a);
    let report = copy(&a, &b, &Options::default(), &Stop::new()).unwrap();
    assert_eq!(facts(&b), before);
    // It was read and does not show it, but for links, which cannot be read so.
    for (was, is) in before.iter().zip(&facts(&a)).filter(|(was, _)| was.0 != "link") {
        assert_eq!(was, is);
    }
    assert_eq!(report.sockets, [PathBuf::from("socket")]);
    let size = measure(&a, &Stop::new()).unwrap();
    assert_eq!((report.entries, report.sockets_count), (size.entries, 1));
    assert_eq!(size.apparent, (64 << 20) + (3 << 20) + 7 + 3);
    assert!(size.bytes >= (3 << 20) + 10 && size.bytes < 4 << 20, "{size:?}");
    assert_eq!(found(&a, &b), Vec::<String>::new());
    let of = |name: &str| fs::symlink_metadata(b.join(name)).unwrap();
    assert!(of("hole").blocks() * 512 < 1 << 20);
    assert_eq!(of("second").ino(), of("d/e/third").ino());
    assert_eq!(fs::read(b.join("d/e/third")).unwrap(), b"content");
    assert_eq!(fs::read_link(b.join("link")).unwrap(), Path::new("/nowhere/at/all"));
}

/// Each of these is a bug that a copy could have; compare finds it.
#[test]
fn compare_finds_a_tree_that_differs_in_one_thing_only() {
    if !is_root() {
        return;
    }
    let (_dir, a, b) = two();
    // What is to be seen in the line, and the change of the copy. Each is made good again by a new copy.
    type Change = fn(&Path);
    let changes: &[(&str, Change)] = &[
        ("\"empty\": is in the first only", |b| fs::remove_file(b.join("empty")).unwrap()),
        ("\"d/more\": is in the second only", |b| fs::write(b.join("d/more"), b"").unwrap()),
        ("mode 6755 and 0755", |b| {
            let path = b.join("d/long");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }),
        ("owner 0:0 and 1:0", |b| rustix::fs::chown(b.join("d/e"), Some(id(1)), None).unwrap()),
        ("owner 0:0 and 0:1", |b| rustix::fs::chown(b.join("d/e"), None, Some(gid(1))).unwrap()),
        ("7 and 8 bytes", |b| fs::write(b.join("second"), b"contents").unwrap()),
        ("\"d/file\": has other content", |b| {
            fs::write(b.join("second"), b"CONTENT").unwrap();
            times(&b.join("second"), 123_456_701);
        }),
        ("\"d/long\": has other content", |b| write_one(&b.join("d/long"), (3 << 20) - 1)),
        ("\"hole\": has other content", |b| write_one(&b.join("hole"), 63 << 20)),
        ("\"hole\": has other content", |b| write_one(&b.join("hole"), (20 << 20) + 3)),
        ("changed at 1600000000.123456703 and 1600000000.123456704", |b| {
            times(&b.join("d"), 123_456_704);
        }),
        ("\"link\": leads elsewhere", |b| {
            fs::remove_file(b.join("link")).unwrap();
            symlink("/nowhere/at/ALL", b.join("link")).unwrap();
        }),
        ("\"block\": device 240:7 and 240:8", |b| {
            fs::remove_file(b.join("block")).unwrap();
            let device = rustix::fs::makedev(240, 8);
            let mode = Mode::from_raw_mode(0o660);
            rustix::fs::mknodat(CWD, b.join("block"), FileType::BlockDevice, mode, device).unwrap();
        }),
        ("is a character device and a file", |b| {
            fs::remove_file(b.join("whiteout")).unwrap();
            fs::write(b.join("whiteout"), b"").unwrap();
        }),
        ("\"link\": is a link and a folder", |b| {
            fs::remove_file(b.join("link")).unwrap();
            fs::create_dir(b.join("link")).unwrap();
        }),
        ("\"d/long\": attribute user.note", |b| set(&b.join("d/long"), "user.note", b"other")),
        ("\"empty\": attribute user.more", |b| set(&b.join("empty"), "user.more", b"")),
        ("\"d\": attribute trusted.overlay.opaque", |b| {
            rustix::fs::removexattr(b.join("d"), "trusted.overlay.opaque").unwrap();
        }),
        ("\"link\": attribute trusted.of.link", |b| {
            rustix::fs::lremovexattr(b.join("link"), "trusted.of.link").unwrap();
        }),
        ("\"whiteout\": attribute trusted.of.whiteout", |b| {
            rustix::fs::lremovexattr(b.join("whiteout"), "trusted.of.whiteout").unwrap();
        }),
        ("attribute security.capability", |b| {
            rustix::fs::removexattr(b.join("d/long"), "security.capability").unwrap();
        }),
        ("\".\": attribute user.root", |b| set(b, "user.root", b"x")),
        ("\".\": changed at", |b| times(b, 5)),
        ("is not one file with the same other names", |b| {
            fs::remove_file(b.join("second")).unwrap();
            fs::write(b.join("second"), b"content").unwrap();
            times(&b.join("second"), 123_456_701);
        }),
        ("is not one file with the same other names", |b| {
            // Linked where the first has two files.
            fs::remove_file(b.join("empty")).unwrap();
            fs::hard_link(b.join("d/file"), b.join("empty")).unwrap();
        }),
        ("what chattr protects", |b| guard(&b.join("empty"), IFlags::NODUMP)),
    ];
    for (what, change) in changes {
        change(&b);
        let lines = found(&a, &b);
        assert!(lines.iter().any(|line| line.contains(what)), "{what}: {lines:?}");
        remove(&b).unwrap();
        copy(&a, &b, &Options::default(), &Stop::new()).unwrap();
        assert_eq!(found(&a, &b), Vec::<String>::new(), "made good after: {what}");
    }
}

fn write_one(path: &Path, at: u64) {
    let meta = fs::metadata(path).unwrap();
    fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"!", at).unwrap();
    let of = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: of(meta.atime(), meta.atime_nsec()),
        last_modification: of(meta.mtime(), meta.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()).unwrap();
}

fn guard(path: &Path, flags: IFlags) {
    let file = fs::File::open(path).unwrap();
    let had = rustix::fs::ioctl_getflags(&file).unwrap();
    rustix::fs::ioctl_setflags(&file, had | flags).unwrap();
}

#[test]
fn what_chattr_protects_is_protected_in_the_copy_and_is_removed() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    tree(&a);
    let guarded =
        [("d/file", IFlags::IMMUTABLE), ("empty", IFlags::APPEND), ("d", IFlags::IMMUTABLE)];
    for (name, flags) in guarded {
        guard(&a.join(name), flags);
    }
    copy(&a, &b, &Options::default(), &Stop::new()).unwrap();
    assert!(fs::remove_file(b.join("d/long")).is_err() && fs::write(b.join("empty"), b"").is_err());
    assert_eq!(found(&a, &b), Vec::<String>::new());
    assert_eq!(
        fs::metadata(b.join("second")).unwrap().nlink(),
        3,
        "linked before it was protected"
    );
    remove(&b).unwrap();
    remove(&a).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_that_is_there_and_empty_becomes_the_copy() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    tree(&a);
    fs::create_dir(&b).unwrap();
    set(&b, "user.old", b"x");
    set(&b, "trusted.keep", b"mine");
    set(&a, "trusted.keep", b"not this");
    // An ACL that would pass on to all that is made in it: user::rwx, user:1:rwx, group, mask, other.
    let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[7, 0], &id.to_le_bytes()].concat();
    let none = u32::MAX;
    let acl = [(1, none), (2, 1), (4, none), (16, none), (32, none)];
    let entries: Vec<u8> = acl.iter().flat_map(|(tag, id)| entry(*tag, *id)).collect();
    set(&b, "system.posix_acl_default", &[&2u32.to_le_bytes()[..], &entries].concat());
    let skip = vec!["trusted.keep".to_owned()];
    let options = Options { skip_xattrs: skip.clone(), ..Options::default() };
    copy(&a, &b, &options, &Stop::new()).unwrap();
    let how = Compare { content: true, skip_xattrs: skip };
    let lines = compare(&a, &b, &how, &Stop::new()).unwrap().lines;
    assert_eq!(lines, Vec::<String>::new());
    let mut value = [0; 16];
    let kept = rustix::fs::getxattr(&b, "trusted.keep", &mut value).unwrap();
    assert_eq!(&value[..kept], b"mine");
    assert_eq!(
        copy(&a, &b, &options, &Stop::new()),
        Err(TreeError::NotEmpty { path: b.clone() }),
        "what is there is not overwritten"
    );
}

#[test]
fn a_copy_into_the_tree_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("x")).unwrap();
    for to in [dir.path().join("x"), dir.path().join("x/y")] {
        let refused = copy(dir.path(), &to, &Options::default(), &Stop::new());
        assert_eq!(refused, Err(TreeError::Inside { path: to }));
    }
    let again =
        copy(&dir.path().join("x"), &dir.path().join("x"), &Options::default(), &Stop::new());
    assert!(again.is_err());
}

/// Deeper than the longest path, and deeper than files may be open.
#[test]
fn a_tree_deeper_than_any_path_is_copied_compared_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::create_dir(&a).unwrap();
    let mut at: std::os::fd::OwnedFd = fs::File::open(&a).unwrap().into();
    for n in 0..2500 {
        let name = format!("folder-{n}");
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let bottom = rustix::fs::openat(&at, "bottom", flags, Mode::RWXU).unwrap();
    rustix::io::write(&bottom, b"deep").unwrap();
    copy(&a, &b, &Options::default(), &Stop::new()).unwrap();
    assert_eq!(measure(&b, &Stop::new()).unwrap().entries, 2501);
    assert_eq!(found(&a, &b), Vec::<String>::new());
    rustix::io::write(&bottom, b"er").unwrap();
    assert!(found(&a, &b).iter().any(|line| line.contains("4 bytes")));
    remove(&a).unwrap();
    remove(&b).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn what_is_removed_while_it_is_measured_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    fs::create_dir(&root).unwrap();
    let stop = Stop::new();
    let (busy, at) = (stop.clone(), root.clone());
    let writer = std::thread::spawn(move || {
        let mut rounds = 0;
        while !busy.stopped() {
            let folder = at.join("folder");
            for n in 0..20 {
                fs::create_dir_all(folder.join(format!("{n}/deeper"))).unwrap();
                fs::write(folder.join(format!("{n}/file")), "x").unwrap();
            }
            fs::remove_dir_all(&folder).unwrap();
            rounds += 1;
        }
        rounds
    });
    for _ in 0..300 {
        measure(&root, &Stop::new()).unwrap();
        super::survey(&root, &[c"user.none"], &Stop::new()).unwrap();
    }
    stop.stop();
    assert!(writer.join().unwrap() > 3);
    let gone = measure(&dir.path().join("none"), &Stop::new()).unwrap_err();
    assert!(gone.to_string().contains("it is gone"), "{gone}");
}

#[test]
fn remove_follows_no_link_and_enters_nothing_mounted() {
    let dir = tempfile::tempdir().unwrap();
    let (a, outside) = (dir.path().join("a"), dir.path().join("outside"));
    fs::create_dir_all(a.join("d")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), b"").unwrap();
    symlink(&outside, a.join("link")).unwrap();
    symlink(&outside, dir.path().join("top")).unwrap();
    if is_root() {
        // In a mount namespace of its own, which goes with the thread.
        let (a, kept) = (a.clone(), outside.clone());
        std::thread::spawn(move || {
            use nix::mount::{MsFlags, mount};
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).unwrap();
            mount(Some(&kept), &a.join("d"), none, MsFlags::MS_BIND, none).unwrap();
            assert_eq!(measure(&a, &Stop::new()).unwrap().entries, 1, "the link");
            let surveyed = super::survey(&a, &[], &Stop::new()).map(|found| found.size);
            assert_eq!(surveyed, Err(TreeError::Mount { path: "d".into() }));
            let mounted = TreeError::Mount { path: a.join("d") };
            assert_eq!(remove(&a), Err(mounted));
            let refused = copy(&a, &kept.join("copy"), &Options::default(), &Stop::new());
            assert_eq!(refused, Err(TreeError::Mount { path: "d".into() }));
            fs::remove_dir(kept.join("copy")).unwrap();
        })
        .join()
        .unwrap();
    }
    remove(&a).unwrap();
    remove(&dir.path().join("top")).unwrap();
    remove(&dir.path().join("never was")).unwrap();
    assert!(outside.join("kept").exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn it_stops_soon_and_what_is_left_can_be_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::create_dir(&a).unwrap();
    for n in 0..8_000 {
        fs::write(a.join(n.to_string()), b"x").unwrap();
    }
    // Said before it begins, so that it does not depend on how quick the disk is; tests/tests/trees.rs
    // stops in the middle.
    let stop = Stop::new();
    stop.stop();
    let began = SystemTime::now();
    assert_eq!(copy(&a, &b, &Options::default(), &stop), Err(TreeError::Stopped));
    assert!(began.elapsed().unwrap() < Duration::from_secs(1));
    assert!(fs::read_dir(&b).unwrap().count() < 8_000);
    remove(&b).unwrap();
    assert_eq!(compare(&a, &a, &all(), &stop), Err(TreeError::Stopped));
    assert_eq!(measure(&a, &stop), Err(TreeError::Stopped));
}

/// Writes to a file for as long as it lives.
#[test]
fn a_file_that_changes_meanwhile_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    fs::create_dir(&a).unwrap();
    fs::write(a.join("log"), vec![1; 100 << 20]).unwrap();
    let stop = Stop::new();
    let told = stop.clone();
    let path = a.join("log");
    let writer = std::thread::spawn(move || {
        let file = fs::OpenOptions::new().append(true).open(path).unwrap();
        while !told.stopped() {
            std::io::Write::write_all(&mut &file, b"line\n").unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let options = Options { reflink: false, ..Options::default() };
    let copied = copy(&a, &b, &options, &Stop::new());
    stop.stop();
    writer.join().unwrap();
    assert_eq!(copied, Err(TreeError::Changed { path: "log".into() }));
}
