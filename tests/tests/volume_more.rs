//! Volumes: the service for those who are not root, a full host disk, volumes that Docker made, many of
//! them, many files in one, and what is refused.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use gpuctl_tests::{Node, Options, engine_runs_here};

fn node() -> Node {
    Node::start(Options { volumes: Some(""), ..Options::default() })
}

#[track_caller]
fn inside(node: &Node, volume: &str, script: &str) -> String {
    let bind = format!("{volume}:/v");
    node.docker_ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        &bind,
        "busybox",
        "sh",
        "-c",
        script,
    ])
}

#[test]
fn who_is_not_root_does_it_through_the_service() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { volumes: Some(""), service: true, ..Options::default() });
    use std::os::unix::fs::MetadataExt as _;
    let gid = std::fs::metadata(node.place().socket()).expect("a socket").gid();
    let uid = 12345;
    let ok = |words: &[&str]| {
        let got = node.gpuctl_as(uid, gid, words);
        assert_eq!(got.code, 0, "{got}");
        got.stdout.trim().to_owned()
    };
    assert_eq!(ok(&["volume", "create", "data", "-s", "16MB"]), "data-0");
    inside(&node, "data-0", "echo a >/v/f");
    assert_eq!(ok(&["volume", "resize", "data", "32MB"]), "data-1");
    assert_eq!(inside(&node, "data-1", "cat /v/f"), "a");
    assert_eq!(ok(&["volume", "resize", "data", "20MB", "--in-place"]), "data-1");
    assert!(ok(&["volume", "backends"]).contains("yes, preferred"));
    assert!(ok(&["volume", "ls"]).contains("20MB"));
    assert_eq!(ok(&["volume", "prune", "-f"]), "data-0");
    assert_eq!(ok(&["volume", "rm", "--history", "data"]), "data");
}

#[test]
fn wrong_sizes_and_names_are_refused_before_anything_is_made() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    for size in ["", "G", "-1GB", "1.2.3GB", "20XB", "1e3", "99999999999TB"] {
        let size = format!("--size={size}");
        let got = node.gpuctl(&["volume", "create", "data", &size]);
        assert!(got.code == 125 && got.stderr.contains("20GB"), "{size}: {got}");
    }
    for name in ["a/b", "../x", "-x", "a b", ".x", "x", "é"] {
        let got = node.gpuctl(&["volume", "create", "--size=16MB", "--", name]);
        assert!(got.code == 1 && got.stderr.contains("volume name"), "{name}: {got}");
    }
    let dashes = format!("a{}", "-b".repeat(59));
    let long = node.gpuctl(&["volume", "create", &dashes, "--size", "16MB"]);
    assert!(long.code == 1 && long.stderr.contains("one with fewer -"), "{long}");
    let small = node.gpuctl(&["volume", "create", "data", "--size", "1"]);
    assert!(small.code == 1 && small.stderr.contains("at least 8MB"), "{small}");
    let size = node.gpuctl(&["volume", "create", "data", "--size", "16MB", "--backend", "size"]);
    assert!(size.code == 1 && size.stderr.contains("backends"), "{size}");
    node.docker_ok(&["volume", "create", "there-0"]);
    let there = node.gpuctl(&["volume", "create", "there", "--size", "16MB"]);
    assert!(there.code == 1 && there.stderr.contains("volume adopt there-0"), "{there}");
    node.gpuctl_ok(&["volume", "create", "data", "--size", "16MB"]);
    for name in ["data", "data-3"] {
        let got = node.gpuctl(&["volume", "create", name, "--size", "16MB"]);
        assert_eq!(got.code, 1, "{got}");
    }
    let left = std::fs::read_dir(node.place().at("volumes")).expect("a folder").count();
    assert_eq!(left, 2, "data-0.img and mounts");
    let vast = node.gpuctl(&["volume", "create", "vast", "--size", "1100GB"]);
    assert!(vast.code == 0 && vast.stderr.contains("warning: 1.07TB asked for"), "{vast}");
    let on_disk = |name: &str| {
        let shown = node.gpuctl_ok(&["volume", "inspect", name, "--format", "json"]);
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        shown["on_disk"].as_u64().expect("a size")
    };
    // A vast one takes next to nothing until something is written to it.
    assert!(on_disk("vast") < 64 << 20, "{}", on_disk("vast"));
    let allocated = node.gpuctl(&["volume", "create", "taken", "--size", "1100GB", "--allocate"]);
    assert!(allocated.code == 1 && allocated.stderr.contains("1.07TB asked for"), "{allocated}");
    node.gpuctl_ok(&["volume", "create", "taken", "--size", "16MB", "--allocate"]);
    assert!(on_disk("taken") >= 16 << 20, "{}", on_disk("taken"));
}

#[test]
fn a_volume_of_dockers_is_taken_in_and_gets_a_limit() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    node.docker_ok(&["volume", "create", "old"]);
    inside(
        &node,
        "old",
        "mkdir /v/.d && echo a >/v/.d/f && dd if=/dev/zero of=/v/z bs=1M count=12 2>/dev/null",
    );
    assert_eq!(node.gpuctl_ok(&["volume", "adopt", "old"]), "old");
    let ls = node.gpuctl_ok(&["volume", "ls"]);
    assert!(ls.contains("plain") && ls.contains("12"), "{ls}");
    let twice = node.gpuctl(&["volume", "adopt", "old", "--name", "other"]);
    assert!(twice.code == 1 && twice.stderr.contains("version of volume old"), "{twice}");
    let small = node.gpuctl(&["volume", "resize", "old", "10MB"]);
    assert!(small.code == 1 && small.stderr.contains("10MB asked for, 12"), "{small}");
    let in_place = node.gpuctl(&["volume", "resize", "old", "30MB", "--in-place"]);
    assert!(in_place.code == 1 && in_place.stderr.contains("without --in-place"), "{in_place}");
    assert_eq!(node.gpuctl_ok(&["volume", "resize", "old", "30MB"]), "old-1");
    assert_eq!(inside(&node, "old-1", "cat /v/.d/f; stat -c %s /v/z"), "a\n12582912");
    assert_eq!(inside(&node, "old", "cat /v/.d/f"), "a");
    // `data-4` of an older tool is data at version 4.
    node.docker_ok(&["volume", "create", "data-4"]);
    node.gpuctl_ok(&["volume", "adopt", "data-4"]);
    assert_eq!(node.gpuctl_ok(&["volume", "resize", "data", "16MB"]), "data-5");
    for wrong in ["nowhere", "old-1"] {
        assert_eq!(node.gpuctl(&["volume", "adopt", wrong]).code, 1, "{wrong}");
    }
}

/// An image outlives `docker volume rm`, and Docker gets its volume again; what `docker run -v` has made in
/// its place meanwhile is not taken for it.
#[test]
fn what_was_removed_in_docker_is_given_back() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    let create = ["volume", "create", "data", "--size", "32MB", "--label", "team=x", "--allocate"];
    node.gpuctl_ok(&create);
    inside(&node, "data-0", "echo zero >/v/f");
    node.gpuctl_ok(&["volume", "resize", "data", "48MB"]);
    inside(&node, "data-1", "echo one >/v/f");
    node.docker_ok(&["volume", "rm", "data-0", "data-1"]);
    let history = node.gpuctl_ok(&["volume", "history", "data"]);
    let row = |n: usize| history.lines().nth(n).unwrap_or_default().to_owned();
    assert!(row(1).contains("MB (removed)") && row(2).contains("MB (removed)"), "{history}");
    // The room of the next version is taken at once too.
    let taken = |n| row(n).split_whitespace().nth(3).and_then(|t| t[..2].parse::<u32>().ok());
    assert!(taken(2).is_some_and(|mb| mb >= 48), "{history}");
    let refused = node.gpuctl(&["volume", "resize", "data", "64MB"]);
    assert!(refused.code == 1 && refused.stderr.contains("doctor --fix gives"), "{refused}");
    assert_eq!(node.docker_ok(&["volume", "ls", "-q"]), "");

    let fixed = node.gpuctl(&["doctor", "--fix"]);
    assert!(fixed.stdout.contains("Docker has it again"), "{fixed}");
    assert_eq!(inside(&node, "data-1", "cat /v/f"), "one");
    let label = ["volume", "inspect", "-f", "{{.Labels.team}}", "data-1"];
    assert_eq!(node.docker_ok(&label), "x");
    // An older one is for rollback, or goes with the next prune.
    assert_eq!(node.docker_ok(&["volume", "ls", "-q"]), "data-1");
    assert_eq!(node.gpuctl_ok(&["volume", "rollback", "data"]), "data-2");
    assert_eq!(inside(&node, "data-2", "cat /v/f"), "zero");

    node.docker_ok(&["volume", "rm", "data-2", "data-0"]);
    inside(&node, "data-2", "echo theirs >/v/g");
    let ls = node.gpuctl_ok(&["volume", "ls"]);
    assert!(ls.contains("another volume has its name"), "{ls}");
    for words in [
        &["volume", "resize", "data", "64MB"][..],
        &["volume", "rm", "data"],
        &["volume", "rm", "--history", "data"],
    ] {
        let got = node.gpuctl(words);
        assert!(got.code == 1 && got.stderr.contains("docker volume rm data-2, if"), "{got}");
    }
    let doctor = node.gpuctl(&["doctor", "--fix"]);
    assert!(doctor.stdout.contains("data-2 in Docker is another volume than ours"), "{doctor}");
    assert_eq!(inside(&node, "data-2", "cat /v/g"), "theirs");
    node.docker_ok(&["volume", "rm", "data-2"]);
    node.gpuctl(&["doctor", "--fix"]);
    assert_eq!(inside(&node, "data-2", "cat /v/f; ls /v"), "zero\nf");
    // Of data-0 only the image was left.
    assert_eq!(node.gpuctl_ok(&["volume", "prune", "-f"]), "data-0\ndata-1");
    let left = std::fs::read_dir(node.place().at("volumes")).expect("a folder").count();
    assert_eq!(left, 2, "data-2.img and mounts");
    node.gpuctl_ok(&["volume", "rm", "--history", "data"]);
    node.check();
}

/// The disk of the images is full in the middle of a copy: all is as it was.
#[test]
fn a_host_disk_that_gets_full_undoes_a_resize() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    node.gpuctl_ok(&["volume", "create", "data", "--size", "64MB"]);
    inside(
        &node,
        "data-0",
        "dd if=/dev/urandom of=/v/f bs=1M count=40 2>/dev/null; md5sum /v/f >/v/sum",
    );
    // A disk of its own for the images to come, with room for less than that.
    let disk = Narrow::mount(&node, "200M");
    node.edit_config(|text| text.replace("/volumes\"", "/volumes/narrow\""));
    // What is to be copied fits; with the filesystem around it, it does not. And then it does not fit at
    // all, which is said before anything is made.
    for (left, says) in [((40 << 20) + (96 << 10), "not copied"), (20 << 20, "have to be copied")] {
        disk.leave(left);
        let before = disk.free();
        let got = node.gpuctl(&["volume", "resize", "data", "128MB"]);
        assert!(got.code == 1 && got.stderr.contains(says), "{got}");
        assert!(got.stderr.contains("hint:"), "{got}");
        let left: Vec<_> = std::fs::read_dir(&disk.folder)
            .expect("a folder")
            .flatten()
            .map(|e| e.file_name())
            .collect();
        assert!(!left.iter().any(|n| n.to_string_lossy().ends_with(".img")), "{left:?}");
        assert!(disk.free() + (64 << 10) >= before, "room is still taken");
    }
    assert_eq!(node.gpuctl_ok(&["volume", "history", "data", "-q"]), "0");
    assert_eq!(inside(&node, "data-0", "cd /v && md5sum -c /v/sum"), "/v/f: OK");
}

/// A small disk of its own, for images.
struct Narrow {
    folder: PathBuf,
}

fn command(words: &[&str]) {
    let ended = Command::new(words[0]).args(&words[1..]).output().expect("it starts");
    assert!(ended.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ended.stderr));
}

impl Narrow {
    /// One of this size, at `volumes/narrow` of the node's place.
    fn mount(node: &Node, size: &str) -> Self {
        Self::made(node, size, &["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0"])
    }

    /// As [`Self::mount`], made by this command.
    fn made(node: &Node, size: &str, make: &[&str]) -> Self {
        let (disk, folder) = (node.place().at("disk"), node.place().at("volumes/narrow"));
        std::fs::create_dir(&folder).expect("a folder");
        let (file, point) = (disk.display().to_string(), folder.display().to_string());
        command(&["truncate", "-s", size, &file]);
        command(&[make, &[file.as_str()]].concat());
        command(&["mount", "-o", "loop", &file, &point]);
        Self { folder }
    }

    fn free(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.folder).expect("a filesystem");
        stat.blocks_available() * stat.fragment_size()
    }

    /// Takes all but so many bytes.
    fn leave(&self, bytes: u64) {
        let file = std::fs::File::create(self.folder.join(format!("other-{bytes}")));
        let length = i64::try_from(self.free() - bytes).expect("small");
        let flags = nix::fcntl::FallocateFlags::empty();
        nix::fcntl::fallocate(file.expect("a file"), flags, 0, length).expect("room taken");
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.folder).output();
    }
}

/// Shrinking resizes a copy of the image. On a disk on which files share their blocks that takes room only
/// for what is moved; an xfs that was made without that is told from one that was.
#[test]
fn a_shrink_in_place_needs_room_only_where_blocks_are_not_shared() {
    if !engine_runs_here() {
        return;
    }
    for (works, reflink, left) in
        [(true, "reflink=1", 98), (false, "reflink=1", 70), (false, "reflink=0", 98)]
    {
        let node = node();
        let disk = Narrow::made(&node, "400M", &["mkfs.xfs", "-q", "-m", reflink]);
        node.edit_config(|text| text.replace("/volumes\"", "/volumes/narrow\""));
        node.gpuctl_ok(&["volume", "create", "data", "--size", "200MB"]);
        let write =
            "dd if=/dev/urandom of=/v/f bs=1M count=100 2>/dev/null; cd /v; md5sum f >sum; sync";
        inside(&node, "data-0", write);
        disk.leave(left << 20);
        let got = node.gpuctl(&["volume", "resize", "data", "150MB", "--in-place"]);
        if works {
            assert_eq!(got.code, 0, "{got}");
        } else {
            assert!(got.code == 1 && got.stderr.contains("MB are copied for it, "), "{got}");
        }
        let size = if works { "150MB" } else { "200MB" };
        assert!(node.gpuctl_ok(&["volume", "ls"]).contains(size), "{got}");
        assert_eq!(inside(&node, "data-0", "cd /v && md5sum -c sum"), "f: OK");
    }
}

/// What the host's disk cannot hold is said before a volume grows in place; where that was not foreseen, it
/// is undone, and the volume goes on as it was.
#[test]
fn a_growth_in_place_that_the_disk_cannot_hold_changes_nothing() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { volumes: Some("filesystem = \"xfs\""), ..Options::default() });
    let disk = Narrow::mount(&node, "900M");
    node.edit_config(|text| text.replace("/volumes\"", "/volumes/narrow\""));
    node.gpuctl_ok(&["volume", "create", "sparse", "--size", "256MB"]);
    let said = node.gpuctl(&["volume", "resize", "sparse", "1GB", "--in-place"]);
    assert!(said.code == 0 && said.stderr.contains("warning: 1GB asked for"), "{said}");
    node.gpuctl_ok(&["volume", "rm", "--history", "sparse"]);

    node.gpuctl_ok(&["volume", "create", "data", "--size", "256MB", "--allocate"]);
    let write = ["run", "-d", "--name", "wr", "--network", "none", "-v", "data-0:/v", "busybox"];
    node.docker_ok(&[&write[..], &["sh", "-c", "echo a >/v/f; exec sleep 100000"]].concat());
    let refused = node.gpuctl(&["volume", "resize", "data", "1GB", "--in-place"]);
    assert!(refused.code == 1 && refused.stderr.contains("more than now"), "{refused}");
    let fill = |name: &str| -> u64 {
        let script =
            format!("dd if=/dev/zero of=/v/{name} bs=4096 2>/dev/null; stat -c %s /v/{name}");
        node.docker_ok(&["exec", "wr", "sh", "-c", &script]).parse().expect("a number")
    };
    // What fails in the middle is undone: a filesystem that can only be read does not grow.
    let point = disk.folder.join("mounts/data-0").display().to_string();
    command(&["mount", "-o", "remount,ro", &point]);
    let got = node.gpuctl(&["volume", "resize", "data", "320MB", "--in-place"]);
    command(&["mount", "-o", "remount,rw", &point]);
    assert!(got.code == 1 && got.stderr.contains("has room for 256MB as before"), "{got}");
    let again = node.gpuctl(&["volume", "resize", "data", "256MB", "--in-place"]);
    assert!(again.code == 0 && again.stderr.contains("already"), "no journal is open: {again}");
    let room = fill("full");
    assert!(room <= 256 << 20 && room > 250 << 20, "{room}");
    // A growth for which there is room.
    let grown = node.gpuctl(&["volume", "resize", "data", "288MB", "--in-place"]);
    assert_eq!(grown.code, 0, "{grown}");
    let room = fill("more");
    assert!(room <= 32 << 20 && room > 28 << 20, "{room}");
}

/// A hundred thousand with tests/run --full, else some thousands.
#[test]
fn many_files_are_carried_over() {
    if !engine_runs_here() {
        return;
    }
    let folders = if gpuctl_tests::full() { 100 } else { 6 };
    let node = node();
    node.gpuctl_ok(&["volume", "create", "many", "--size", "1GB"]);
    let script = format!(
        "cd /v; for d in $(seq {folders}); do mkdir $d; cd $d; seq 1000 | xargs touch; echo $d >1; cd ..; done"
    );
    inside(&node, "many-0", &script);
    let began = Instant::now();
    assert_eq!(node.gpuctl_ok(&["volume", "resize", "many", "2GB"]), "many-1");
    eprintln!("a resize of {folders},000 files took {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(60));
    let look = "find /v | wc -l; cat /v/*/1 | md5sum";
    let copied = inside(&node, "many-1", look);
    assert_eq!(copied, inside(&node, "many-0", look));
    assert!(copied.starts_with(&format!("{}\n", folders * 1001 + 1)), "{copied}");
}

/// xfs in the image grows while it is written to, and does not shrink in place.
#[test]
fn an_image_with_xfs_grows_while_it_is_in_use() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options { volumes: Some("filesystem = \"xfs\""), ..Options::default() });
    let small = node.gpuctl(&["volume", "create", "data", "--size", "100MB"]);
    assert!(small.code == 1 && small.stderr.contains("at least 256MB"), "{small}");
    node.gpuctl_ok(&["volume", "create", "data", "--size", "256MB"]);
    let free = |volume: &str| -> u64 {
        let df = inside(&node, volume, "df -k /v | tail -1");
        df.split_whitespace().nth(3).expect("free").parse().expect("a number")
    };
    assert_eq!(free("data-0"), 256 << 10);
    let write = "while :; do date >>/v/log; sleep 0.05; done";
    let words =
        ["run", "-d", "--name", "writer", "--network", "none", "-v", "data-0:/v", "busybox"];
    node.docker_ok(&[&words[..], &["sh", "-c", write]].concat());
    // Killed when the file was longer, it grows once more, and has room for some more than the next size.
    for (point, size, said) in [
        ("", 300, ""),
        (
            "volume-in-place:grow:begun",
            310,
            "resize in place of volume data was broken off: it is done",
        ),
        ("image:longer", 320, "resize in place of volume data was broken off: it is done"),
        ("image:device", 360, "resize in place of volume data was broken off: it is done"),
        (
            "volume-in-place:grow:done",
            420,
            "resize in place of volume data was broken off: it is done",
        ),
        ("volume-in-place:end:done", 430, ""),
    ] {
        let wanted = format!("{size}MB");
        let words = ["volume", "resize", "data", &wanted, "--in-place"];
        if point.is_empty() {
            node.gpuctl_ok(&words);
        } else {
            node.gpuctl_killed_at(point, &words);
            // The next command says what became of it, and has nothing to do.
            let next = node.gpuctl(&words);
            assert!(
                next.code == 0 && next.stderr.contains(said) && next.stderr.contains("already"),
                "{next}"
            );
        }
        let now = free("data-0");
        // What the writer has written, and what xfs took for itself.
        assert!(now <= size << 10 && (size << 10) - now < 4096, "{size}: {now}");
    }
    let shrink = node.gpuctl(&["volume", "resize", "data", "280MB", "--in-place"]);
    assert!(shrink.code == 1 && shrink.stderr.contains("only grows"), "{shrink}");
    node.docker_ok(&["rm", "-f", "writer"]);
    assert_eq!(node.gpuctl_ok(&["volume", "resize", "data", "280MB"]), "data-1");
    let lines = inside(
        &node,
        "data-1",
        "wc -l </v/log; dd if=/dev/zero of=/v/full bs=4096 2>/dev/null; stat -c %s /v/full",
    );
    let got: u64 = lines.lines().nth(1).expect("two lines").parse().expect("a number");
    assert!(got <= 280 << 20 && got > 279 << 20, "{lines}");
}

#[test]
fn a_thousand_volumes_are_made_listed_and_removed() {
    if !gpuctl_tests::full() {
        println!("skipped: a thousand volumes take minutes: tests/run --full makes them");
        return;
    }
    if !engine_runs_here() {
        return;
    }
    let node = node();
    let names: Vec<String> = (0..1000).map(|n| format!("v{n:04}x")).collect();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for some in names.chunks(250) {
            let node = &node;
            scope.spawn(move || {
                for name in some {
                    node.gpuctl_ok(&["volume", "create", name, "--size", "8MB"]);
                }
            });
        }
    });
    let made = began.elapsed();
    let began = Instant::now();
    assert_eq!(node.gpuctl_ok(&["volume", "ls"]).lines().count(), 1001);
    let listed = began.elapsed();
    assert!(listed < Duration::from_secs(10), "{listed:?}");
    let got = inside(
        &node,
        "v0999x-0",
        "dd if=/dev/zero of=/v/full bs=4096 2>/dev/null; stat -c %s /v/full",
    );
    assert!(got.parse::<u64>().expect("a number") <= 8 << 20, "{got}");
    let began = Instant::now();
    let words: Vec<&str> =
        ["volume", "rm", "--history"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let mut docker = node.site().engine().docker();
    let removed =
        gpuctl_sim::command::run(docker.arg("gpuctl").args(words), Duration::from_secs(600));
    assert_eq!(removed.expect("it ends").code, 0);
    eprintln!(
        "1000 volumes: made in {made:?}, listed in {listed:?}, removed in {:?}",
        began.elapsed()
    );
    assert_eq!(node.docker_ok(&["volume", "ls", "-q"]), "");
    assert_eq!(std::fs::read_dir(node.place().at("volumes/mounts")).expect("a folder").count(), 0);
}
