//! Trees with all that a copy can lose, and whether two trees are the same, by means that are not the
//! product's: rsync, find and getfattr.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;

use crate::skip;

/// What [`build`] and [`differences`] run.
const PROGRAMS: [&str; 6] = ["setfattr", "getfattr", "setfacl", "setcap", "rsync", "find"];
/// The socket that [`build`] makes.
pub const SOCKET: &str = "run/socket";

/// Whether trees can be built and compared here; says so where not.
pub fn can_be_built() -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("trees with owners, devices and attributes need root");
        return false;
    }
    let missing = PROGRAMS.iter().find(|name| gpuctl_sim::command::find(&[name]).is_err());
    if let Some(name) = missing {
        skip(&format!("{name} is not installed"));
    }
    missing.is_none()
}

/// Runs a program in a folder.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn run(folder: &Path, words: &[&str]) -> Vec<u8> {
    let (program, rest) = words.split_first().expect("a program");
    let out = Command::new(program).args(rest).current_dir(folder).env("LC_ALL", "C").output();
    let out = out.unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{words:?}: {}: {said}", out.status);
    out.stdout
}

/// Makes a tree with one of each: kinds, owners, modes, attributes, names, links, holes and times.
///
/// # Panics
/// When it cannot.
pub fn build(at: &Path) {
    make(at, true);
}

/// As [`build`], on a mounted overlay: without overlay's own marks, which it takes from nobody.
///
/// # Panics
/// When it cannot.
pub fn build_within(at: &Path) {
    make(at, false);
}

fn make(at: &Path, marks: bool) {
    let path = |name: &str| at.join(name);
    for folder in ["bin", "run", "deep/er/still", "opaque", "sticky", "redirected", "locked"] {
        fs::create_dir_all(path(folder)).expect("a folder");
    }
    for n in 0..300 {
        fs::write(path("deep/er").join(format!("small-{n}")), vec![b'x'; n * 37]).expect("a file");
    }
    fs::write(path("bin/tool"), vec![0x7f; 100_000]).expect("a file");
    fs::write(path("empty"), b"").expect("a file");
    // Hard links across folders, and two groups that have the same content.
    for (from, to) in [("bin/tool", "deep/tool"), ("bin/tool", "deep/er/still/tool")] {
        fs::hard_link(path(from), path(to)).expect("a link");
    }
    for name in ["one", "other"] {
        fs::write(path(name), b"the same content").expect("a file");
        fs::hard_link(path(name), path("bin").join(name)).expect("a link");
    }
    symlink("/nowhere/at all", path("dangling")).expect("a link");
    symlink("..", path("bin/up")).expect("a link");
    symlink("x".repeat(1000), path("long-link")).expect("a link");
    fs::hard_link(path("dangling"), path("bin/dangling")).expect("a link to a link");
    for name in [&b"new\nline"[..], b"not \xff\xfe UTF-8", b"-rf", b" ", b"*?[", &[b'n'; 255]] {
        fs::write(at.join(OsStr::from_bytes(name)), name).expect("a file");
    }
    sparse(&path("sparse"), 200 << 20, &[0, 5 << 20, (100 << 20) + 1000]);
    sparse(&path("all-hole"), 10 << 20, &[]);
    sparse(&path("begins-with-a-hole"), (3 << 20) + 1, &[(3 << 20) - 5]);
    let node = |name: &str, kind: SFlag, mode: u32, device: (u64, u64)| {
        let mode = Mode::from_bits_truncate(mode);
        mknod(&path(name), kind, mode, makedev(device.0, device.1)).expect(name);
    };
    node("run/fifo", SFlag::S_IFIFO, 0o620, (0, 0));
    node(SOCKET, SFlag::S_IFSOCK, 0o600, (0, 0));
    if marks {
        // What overlay has where a file of a layer below was removed. It links them to one.
        node("whiteout", SFlag::S_IFCHR, 0, (0, 0));
        fs::hard_link(path("whiteout"), path("deep/er/whiteout")).expect("a link");
        for words in [
            ["-n", "trusted.overlay.opaque", "-v", "y", "opaque"],
            ["-n", "trusted.overlay.redirect", "-v", "/was/here", "redirected"],
            ["-n", "trusted.node", "-v", "n", "whiteout"],
        ] {
            run(at, &[&["setfattr"][..], &words].concat());
        }
    }
    node("run/char", SFlag::S_IFCHR, 0o666, (195, 255));
    node("run/block", SFlag::S_IFBLK, 0o640, (259, 200_000));
    let owned = |name: &str, uid: u32, gid: u32, mode: u32| {
        std::os::unix::fs::chown(path(name), Some(uid), Some(gid)).expect(name);
        fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).expect(name);
    };
    owned("bin/tool", 0, 0, 0o4755);
    owned("one", 1000, 1000, 0o6711);
    owned("run/fifo", 33, 33, 0o622);
    owned("sticky", 0, 100, 0o3777);
    owned("locked", 4_000_000_000, 4_000_000_001, 0);
    owned("empty", 5, 6, 0);
    std::os::unix::fs::lchown(path("dangling"), Some(7), Some(8)).expect("its owner");
    for words in [
        &["setfattr", "-n", "user.note", "-v", "of a user", "other"][..],
        &["setfattr", "-n", "user.empty", "other"],
        &["setfattr", "-n", "user.bytes", "-v", "0x00ff00", "deep"],
        &["setfattr", "-h", "-n", "trusted.link", "-v", "l", "dangling"],
        &["setfattr", "-n", "trusted.fifo", "-v", "f", "run/fifo"],
        &["setfattr", "-n", "security.ima", "-v", "0x0102", "one"],
        &["setfacl", "-m", "u:1234:rwx,g:4321:r-x,m::rx", "other"],
        &["setfacl", "-m", "u:1234:rwx,d:u:1234:rwx,d:g:5:r", "deep"],
        &["setcap", "cap_net_raw,cap_sys_admin+ep", "deep/er/small-7"],
        &["setfattr", "-n", "user.root", "-v", "r", "."],
    ] {
        run(at, words);
    }
    // The longest that ext4 keeps beside an inode; others keep more.
    fs::write(path("long-attribute"), b"").expect("a file");
    run(at, &["setfattr", "-n", "user.long", "-v", &"v".repeat(3000), "long-attribute"]);
    // Changed to the nanosecond; folders last, for what is made in them changes them. Times before 1970
    // and after 2038 too.
    let names =
        ["empty", "one", "dangling", "run/fifo", "whiteout", "run/block", "sparse", "deep/er"];
    let more = ["deep", "locked", "sticky", "opaque", "bin", ""];
    let there = |name: &&&str| path(name).symlink_metadata().is_ok();
    for (n, name) in names.iter().chain(&more).filter(there).enumerate() {
        let n = i64::try_from(n).expect("few");
        let modified =
            TimeSpec::new([1_600_000_000, -1000, 4_000_000_000][n as usize % 3], 123_456_700 + n);
        let accessed = TimeSpec::new(1_500_000_000 + n, 999_999_900 + n);
        let flags = UtimensatFlags::NoFollowSymlink;
        utimensat(AT_FDCWD, &path(name), &accessed, &modified, flags).expect("its times");
    }
}

/// A file with holes, and a few bytes at each of these places.
fn sparse(path: &Path, size: u64, data: &[u64]) {
    let file = File::create(path).expect("a file");
    file.set_len(size).expect("its length");
    for at in data {
        file.write_all_at(b"data", *at).expect("its data");
    }
}

/// Makes a path far beyond the longest that the system takes, with a file at its end.
///
/// # Panics
/// When it cannot.
pub fn build_deep(at: &Path, depth: usize) {
    let script = "i=0; while [ $i -lt $1 ]; do mkdir folder-$i && cd -P folder-$i || exit 1; i=$((i+1)); done; \
                  echo bottom >file; setfattr -n user.deep -v d file; ln file again";
    // dash goes into a folder by its name, busybox's sh does not below the longest path.
    run(at, &["dash", "-c", script, "sh", &depth.to_string()]);
}

/// The layer of an image: what is changed, moved and removed of it in [`live_in`].
///
/// # Panics
/// When it cannot be made.
pub fn image(at: &Path) {
    let script = "mkdir -p etc usr/bin usr/lib/big opt/tool/data var/log home
        for n in $(seq 50); do echo library $n >usr/lib/big/$n; done
        echo conf >etc/conf; echo passwd >etc/passwd; echo gone >etc/gone
        head -c 300000 /dev/urandom >usr/bin/program; chmod 4755 usr/bin/program
        ln usr/bin/program usr/bin/linked; ln -s program usr/bin/short
        echo a >opt/tool/a; echo b >opt/tool/data/b; echo log >var/log/old
        setfattr -n user.image -v i etc/conf; setfacl -m u:77:r etc/passwd";
    run(at, &["sh", "-ec", script]);
}

/// What somebody does in a container of [`image`]: files changed, removed, moved, folders replaced.
///
/// # Panics
/// When it cannot be done.
pub fn live_in(merged: &Path) {
    let script = "echo changed >>etc/conf; rm etc/gone; chmod 600 etc/passwd
        rm -r usr/lib/big; mkdir usr/lib/big; echo new >usr/lib/big/new
        rm -r opt/tool/data; echo file instead of a folder >opt/tool/data
        touch -a var/log/old; mv var/log/old var/log/older; echo new >var/log/old
        rm usr/bin/short; ln -s elsewhere usr/bin/short; echo more >>usr/bin/linked
        chown 1000:1000 home; chmod 1777 .; mv usr/bin/program home/moved";
    run(merged, &["sh", "-ec", script]);
}

/// What rsync, find and getfattr see as different, without the sockets of the first. Also whether holes
/// were filled.
pub fn differences(a: &Path, b: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let (from, to) = (format!("{}/", a.display()), format!("{}/", b.display()));
    let options = "-naHAXUc --itemize-changes --delete --numeric-ids --modify-window=-1";
    let options: Vec<&str> = options.split(' ').collect();
    // xfs shows ACLs a second time, as attributes.
    // Each overlay has an identity of its own.
    let skipped = ["--filter=-x trusted.SGI_ACL_*", "--filter=-x trusted.overlay.uuid"];
    let words = [&["rsync"][..], &options, &skipped, &[&from, &to]].concat();
    let changes = run(a, &words);
    let lines = changes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let is_socket = |line: &[u8]| line.ends_with(SOCKET.as_bytes()) && line.starts_with(b"cS");
    let shown = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
    found.extend(
        lines.filter(|line| !is_socket(line)).map(|line| format!("rsync: {}", shown(line))),
    );
    for (name, list) in [("find", listed as fn(&Path) -> Vec<String>), ("getfattr", attributes)] {
        let (one, other) = (list(a), list(b));
        let only = |of: &[String], there: &[String], which: &str| {
            let lines = of.iter().filter(|line| there.binary_search(line).is_err());
            lines.map(|line| format!("{name}, {which}: {line}")).collect::<Vec<_>>()
        };
        found.extend(only(&one, &other, "first"));
        found.extend(only(&other, &one, "second"));
    }
    let (one, other) = (on_disk(a), on_disk(b));
    if other > one + one / 20 + (1 << 20) {
        found.push(format!("{one} bytes on the disk became {other}"));
    }
    found
}

/// Each path with its kind, mode, owner, size, times and target. Of folders no size, of which each file
/// system has its own.
pub fn listed(root: &Path) -> Vec<String> {
    let folders = "%P|d|%m|%U|%G|%T@|%A@\\0";
    let others = "%P|%y|%m|%U|%G|%s|%T@|%A@|%l\\0";
    let words =
        ["find", ".", "-type", "d", "-printf", folders, "-o", "!", "-type", "s", "-printf", others];
    let found = run(root, &words);
    let lines = found.split(|byte| *byte == 0).filter(|line| !line.is_empty());
    let mut lines: Vec<String> = lines.map(|line| line.escape_ascii().to_string()).collect();
    lines.sort();
    lines
}

/// As [`listed`], without times of access; besides, all attributes and a hash of each file: what programs
/// see of a tree, whose reading changes times of access. A tree may be deeper than any path.
///
/// # Panics
/// When it cannot be read.
pub fn seen(root: &Path) -> Vec<String> {
    let mut lines: Vec<String> = listed(root)
        .into_iter()
        .map(|line| {
            let mut fields: Vec<&str> = line.split('|').collect();
            // Of a folder it is the last, of others the last but one.
            fields.remove(fields.len() - if fields.get(1) == Some(&"d") { 1 } else { 2 });
            fields.join("|")
        })
        .collect();
    // From its own folder each path is short.
    let sums = run(root, &["find", ".", "-type", "f", "-execdir", "sha256sum", "-z", "{}", "+"]);
    let sums = sums.split(|byte| *byte == 0).map(|sum| sum.escape_ascii().to_string());
    let words =
        ["find", ".", "-execdir", "getfattr", "-h", "-d", "-m", "-", "-e", "hex", "{}", "+"];
    lines.extend(sums.chain(blocks(&run(root, &words))));
    lines.sort();
    lines
}

/// Each path with all its attributes in hex.
fn attributes(root: &Path) -> Vec<String> {
    let words = ["getfattr", "-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", "."];
    blocks(&run(root, &words))
}

/// What getfattr prints: blocks, one a file, with an empty line between them.
fn blocks(out: &[u8]) -> Vec<String> {
    // xfs shows ACLs a second time, each overlay has an identity of its own.
    let skipped = [&b"trusted.SGI_ACL_"[..], b"trusted.overlay.uuid"];
    let is_seen = |line: &&[u8]| !skipped.iter().any(|name| line.starts_with(name));
    let lines = out.split(|byte| *byte == b'\n').filter(is_seen);
    let mut blocks: Vec<String> = lines
        .collect::<Vec<_>>()
        .split(|line| line.is_empty())
        .filter(|block| block.len() > 1)
        .map(|block| block.join(&b' ').escape_ascii().to_string())
        .collect();
    blocks.sort();
    blocks
}

/// Bytes of blocks of a tree.
pub fn on_disk(root: &Path) -> u64 {
    let out = String::from_utf8_lossy(&run(root, &["du", "-s", "-B1", "."])).into_owned();
    out.split_whitespace().next().and_then(|word| word.parse().ok()).expect("what du counted")
}

/// The inode of a path that is no link.
pub fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("a file").ino()
}
