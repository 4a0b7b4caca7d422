//! What SQLite's file meets: other processes, full and read-only disks, damage.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gpuctl_ledger::store::{Condition, Outcome, Revision, SqliteStore, Store, StoreError, Write};
use rusqlite::Connection;

use crate::LIMIT;
use crate::suite::{collect, done, put};

fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(path, LIMIT)
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.db");
    done(&open(&path).unwrap(), &[], &[put("/a", b"1")]);
    (folder, path)
}

fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

#[test]
fn a_new_ledger_is_private_and_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made/by us/ledger #1?.db");
    let store = open(&path).unwrap();
    done(&store, &[], &[put("/a", b"1")]);
    let mode = |p: &Path| fs::metadata(p).unwrap().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for file in fs::read_dir(path.parent().unwrap()).unwrap() {
        let file = file.unwrap().path();
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    drop(store);
    let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "no draft, no log: {left:?}");
}

#[test]
fn what_is_written_outlasts_reopening() {
    let (_folder, path) = fresh();
    let revision = open(&path).unwrap().list("").unwrap().revision;
    for i in 1..4 {
        let store = open(&path).unwrap();
        assert_eq!(store.get("/a").unwrap().unwrap().value, b"1");
        assert_eq!(done(&store, &[], &[put("/b", b"2")]).0, revision.0 + i);
    }
}

#[test]
fn two_handles_share_one_file() {
    let (_folder, path) = fresh();
    let (one, two) = (open(&path).unwrap(), open(&path).unwrap());
    let start = one.list("").unwrap().revision;
    let mut watch = one.watch("/", start).unwrap();
    let at = done(&two, &[Condition::Absent("/b".into())], &[put("/b", b"two")]);
    assert_eq!(
        one.commit(&[Condition::Absent("/b".into())], &[put("/b", b"")]),
        Ok(Outcome::Conflict)
    );
    done(&one, &[Condition::At("/b".into(), at)], &[put("/b", b"one")]);
    assert_eq!(two.get("/b").unwrap().unwrap().value, b"one");
    assert_eq!(collect(&mut *watch, 2).len(), 2);
}

#[test]
fn many_create_it_at_once_and_it_is_one_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/ledger.db");
    let wins = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let claim = [Condition::Absent("/gpu".into())];
                    open(&path).unwrap().commit(&claim, &[put("/gpu", b"")]).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).filter(|o| *o != Outcome::Conflict).count()
    });
    assert_eq!(wins, 1);
}

/// The ledger that a process writes to which the test below starts and kills.
const WRITER: &str = "STORE_TEST_PATH";

/// What the test below is in that process.
fn write_without_end(path: &Path) {
    let store = open(path).unwrap();
    for i in 0_u32.. {
        let n = i.to_string();
        done(&store, &[], &[put("/pair/a", n.as_bytes()), put("/pair/b", n.as_bytes())]);
    }
}

/// Commits by another process, killed in the middle again and again, are there whole or not at all.
#[test]
fn a_killed_writer_leaves_whole_commits() {
    if let Some(path) = std::env::var_os(WRITER) {
        return write_without_end(Path::new(&path));
    }
    let (_folder, path) = fresh();
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sqlite_faults::a_killed_writer_leaves_whole_commits"])
            .env(WRITER, &path)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let store = open(&path).unwrap();
        let begun = store.list("").unwrap().revision.0;
        let deadline = Instant::now() + Duration::from_secs(10);
        while store.list("").unwrap().revision.0 < begun + 20 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let listing = store.list("/pair/").unwrap();
        assert!(listing.revision.0 >= begun + 20, "round {round}: {}", listing.revision.0);
        let [a, b] = &listing.entries[..] else { panic!("{listing:?}") };
        assert_eq!((&a.value, a.revision), (&b.value, b.revision));
        done(&store, &[], &[put("/after", b"")]);
    }
}

#[test]
fn a_lock_held_too_long_is_unreachable_and_reads_go_on() {
    let (_folder, path) = fresh();
    let limit = Duration::from_millis(300);
    let store = Arc::new(SqliteStore::open(&path, limit).unwrap());
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let commit = scope.spawn(|| store.commit(&[], &[put("/b", b"")]));
        std::thread::sleep(Duration::from_millis(50));
        let read = Instant::now();
        assert_eq!(store.get("/a").unwrap().unwrap().value, b"1");
        assert!(read.elapsed() < Duration::from_millis(200), "a waiting writer keeps readers");
        assert!(matches!(commit.join().unwrap(), Err(StoreError::Unreachable(_))));
    });
    let took = begun.elapsed();
    assert!(took >= limit && took < limit * 3, "{took:?}");
    other.execute_batch("ROLLBACK").unwrap();
    done(&*store, &[], &[put("/b", b"")]);
}

fn damaged(path: &Path) -> &'static str {
    match open(path) {
        Err(StoreError::Damaged(shown, why)) => {
            assert!(shown.starts_with("sqlite:///"), "{shown}");
            why
        }
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it opened"),
    }
}

#[test]
fn what_is_no_ledger_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    assert_eq!(damaged(&file("garbage", &[b'x'; 8192])), "it is no ledger file");
    assert!(damaged(&file("empty", b"")).contains("empty"));
    damaged(&file("short", b"SQLite"));
    assert!(damaged(folder.path()).contains("regular"));
    let other = folder.path().join("other");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    let before = fs::read(&other).unwrap();
    assert!(damaged(&other).contains("another program"));
    assert_eq!(fs::read(&other).unwrap(), before, "and it is left as it was");
}

#[test]
fn a_newer_form_is_refused() {
    let (_folder, path) = fresh();
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
    assert!(damaged(&path).contains("newer"));
}

#[test]
fn a_truncated_file_is_damaged() {
    let (_folder, path) = fresh();
    let whole = fs::read(&path).unwrap();
    for keep in [50, 100, 4096, whole.len() - 4096, whole.len() - 1] {
        fs::write(&path, &whole[..keep]).unwrap();
        let reading = open(&path).and_then(|s| s.list("").map(|_| ()));
        assert!(matches!(reading, Err(StoreError::Damaged(..))), "{keep}: {reading:?}");
    }
}

#[test]
fn broken_pages_are_damaged() {
    let (_folder, path) = fresh();
    let store = open(&path).unwrap();
    for i in 0..100 {
        done(&store, &[], &[put(&format!("/many/{i}"), &[7; 1000])]);
    }
    drop(store);
    let size = fs::metadata(&path).unwrap().len();
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(4096)).unwrap();
    file.write_all(&vec![0xff; usize::try_from(size).unwrap() - 4096]).unwrap();
    let reading = open(&path).and_then(|s| s.list("").map(|_| ()));
    assert!(matches!(reading, Err(StoreError::Damaged(..))), "{reading:?}");
}

#[test]
fn a_file_that_others_may_write_is_refused_to_root() {
    let (_folder, path) = fresh();
    if !is_root() {
        return;
    }
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    assert!(damaged(&path).contains("chmod"));
}

/// A ledger that vanishes under an open store is not made anew: in an empty one all is free.
#[test]
fn a_ledger_that_vanishes_is_unreachable() {
    let (_folder, path) = fresh();
    let store = open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(matches!(store.get("/a"), Err(StoreError::Unreachable(_))));
    assert!(matches!(store.commit(&[], &[put("/a", b"")]), Err(StoreError::Unreachable(_))));
    assert!(!path.exists());
}

#[test]
fn a_ledger_that_is_replaced_is_read_anew() {
    let (_folder, path) = fresh();
    let (_other_folder, other) = fresh();
    done(&open(&other).unwrap(), &[], &[put("/a", b"restored")]);
    let store = open(&path).unwrap();
    assert_eq!(store.get("/a").unwrap().unwrap().value, b"1");
    // As a careful administrator restores it: nobody has it open, and no log is left.
    fs::rename(&other, &path).unwrap();
    assert_eq!(store.get("/a").unwrap().unwrap().value, b"restored");
    done(&store, &[], &[put("/b", b"")]);
}

#[test]
fn changes_no_longer_kept_are_compacted() {
    let store = SqliteStore::in_memory(LIMIT).unwrap();
    let start = store.list("").unwrap().revision;
    let mut early = store.watch("/", start).unwrap();
    let mut last = start;
    for i in 0..10_400_u32 {
        last = done(&store, &[], &[put("/a", &i.to_le_bytes())]);
    }
    assert_eq!(store.watch("/", start).err(), Some(StoreError::Compacted));
    assert_eq!(store.watch("/", Revision(-1)).err(), Some(StoreError::Compacted));
    assert_eq!(early.next(Duration::ZERO), Err(StoreError::Compacted));
    let mut watch = store.watch("/", Revision(last.0 - 9_999)).unwrap();
    assert_eq!(collect(&mut *watch, 9_999).len(), 9_999);
}

/// Something mounted for one test.
struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mut mount = Command::new("mount");
        let done = mount.args(["-t", "tmpfs", "-o", options, "none"]).arg(at).status();
        if !done.is_ok_and(|s| s.success()) {
            println!("skipped: no tmpfs can be mounted here");
            return None;
        }
        Some(Self(at.to_owned()))
    }

    fn remount(&self, options: &str) {
        let option = format!("remount,{options}");
        assert!(
            Command::new("mount").args(["-o", &option]).arg(&self.0).status().unwrap().success()
        );
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_ledger_on_a_read_only_disk_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    if !is_root() {
        return;
    }
    let Some(disk) = Mount::tmpfs(&folder.path().join("ro"), "size=8m") else { return };
    let path = disk.0.join("ledger.db");
    done(&open(&path).unwrap(), &[], &[put("/a", b"1")]);
    disk.remount("ro");
    let store = open(&path).unwrap();
    assert_eq!(store.get("/a").unwrap().unwrap().value, b"1");
    assert_eq!(store.list("/").unwrap().entries.len(), 1);
    assert_eq!(
        store.commit(&[], &[put("/b", b"")]),
        Err(StoreError::NotWritable(store.shown().into(), "its disk is read-only"))
    );
    let missing = open(&disk.0.join("missing.db"));
    assert!(matches!(missing, Err(StoreError::NotWritable(..))), "{missing:?}");
    disk.remount("rw");
    done(&store, &[], &[put("/b", b"")]);
}

/// The disk turns read-only under a ledger that a writer has open, its log not yet in the file: the
/// newest state is read, not the file's.
#[test]
fn a_disk_that_turns_read_only_shows_what_is_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    if !is_root() {
        return;
    }
    let Some(disk) = Mount::tmpfs(&folder.path().join("ro"), "size=8m") else { return };
    let path = disk.0.join("ledger.db");
    {
        let store = open(&path).unwrap();
        done(&store, &[], &[put("/a", b"newest")]);
        // What a crash leaves: the file with its log and index.
        let crashed = disk.0.join("crashed.db");
        for suffix in ["", "-wal", "-shm"] {
            let name = |base: &Path| format!("{}{suffix}", base.display());
            fs::copy(name(&path), name(&crashed)).unwrap();
        }
    }
    disk.remount("ro");
    let store = open(&disk.0.join("crashed.db")).unwrap();
    assert_eq!(store.get("/a").unwrap().unwrap().value, b"newest");
    disk.remount("rw");
}

/// A file that cannot be written in a folder that can.
#[test]
fn a_read_only_file_can_be_read() {
    let (_folder, path) = fresh();
    if !is_root() {
        return;
    }
    let change = |how: &str| Command::new("chattr").arg(how).arg(&path).output();
    if !change("+i").is_ok_and(|o| o.status.success()) {
        println!("skipped: chattr +i does not work here");
        return;
    }
    let store = open(&path);
    let got = store.as_ref().map(|s| s.get("/a")).map_err(Clone::clone);
    let commit = store.as_ref().map(|s| s.commit(&[], &[put("/b", b"")])).map_err(Clone::clone);
    change("-i").unwrap();
    assert_eq!(got.unwrap().unwrap().unwrap().value, b"1");
    assert!(matches!(commit.unwrap(), Err(StoreError::NotWritable(..))));
}

#[test]
fn a_full_disk_is_not_writable_and_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    if !is_root() {
        return;
    }
    let Some(disk) = Mount::tmpfs(&folder.path().join("full"), "size=2m") else { return };
    let path = disk.0.join("ledger.db");
    let store = open(&path).unwrap();
    done(&store, &[], &[put("/a", b"1")]);
    let filler = disk.0.join("filler");
    let fill = || {
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
    };
    fill();
    let full = |store: &SqliteStore| {
        let large = Write::Put("/b".into(), vec![0; 500_000]);
        let refused = store.commit(&[], &[large]);
        let expected = StoreError::NotWritable(store.shown().into(), "its disk is full");
        assert_eq!(refused, Err(expected));
        assert_eq!(store.get("/a").unwrap().unwrap().value, b"1");
        assert_eq!(store.get("/b").unwrap(), None);
    };
    full(&store);
    // Room again: the same store goes on.
    fs::remove_file(&filler).unwrap();
    done(&store, &[], &[put("/c", b"")]);
    // Opened when the disk is already full, where SQLite cannot set up its index either.
    drop(store);
    fill();
    let store = open(&path).unwrap();
    full(&store);
    fs::remove_file(&filler).unwrap();
    done(&store, &[], &[put("/d", b"")]);
    assert_eq!(store.list("/").unwrap().entries.len(), 3);
    let fresh = disk.0.join("fresh.db");
    fill();
    let none = open(&fresh);
    assert!(matches!(none, Err(StoreError::NotWritable(_, "its disk is full"))), "{none:?}");
    assert!(!fresh.exists());
}
