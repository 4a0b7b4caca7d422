//! Volumes of the image backend on a real Engine: the limit holds to the block, from root in a container
//! too; they grow, shrink, and are there after a reboot.

use gpuctl_tests::{Node, Options, engine_runs_here};
use serde_json::Value;

fn node() -> Node {
    Node::start(Options { volumes: Some(""), ..Options::default() })
}

const MIB: u64 = 1 << 20;

/// What one container says that has the volume at /v.
#[track_caller]
fn inside(node: &Node, volume: &str, script: &str) -> gpuctl_tests::Output {
    let bind = format!("{volume}:/v");
    node.docker(&["run", "--rm", "--network", "none", "-v", &bind, "busybox", "sh", "-c", script])
}

#[track_caller]
fn inside_ok(node: &Node, volume: &str, script: &str) -> String {
    let got = inside(node, volume, script);
    assert_eq!(got.code, 0, "{script}\n{got}");
    got.stdout.trim().to_owned()
}

/// Writes until there is no room, as root in a container; how many bytes got in.
#[track_caller]
fn fill(node: &Node, volume: &str, name: &str) -> u64 {
    let script = format!(
        "dd if=/dev/zero of=/v/{name} bs=4096 2>/tmp/e; cat /tmp/e >&2; sync; stat -c %s /v/{name}"
    );
    let got = inside(node, volume, &script);
    assert!(got.stderr.contains("No space left on device"), "{got}");
    got.stdout.trim().parse().unwrap_or_else(|_| panic!("{got}"))
}

fn inspect(node: &Node, volume: &str) -> Value {
    let text = node.gpuctl_ok(&["volume", "inspect", volume, "--format", "json"]);
    serde_json::from_str(&text).expect("JSON")
}

/// Nothing of a volume is left: no image, no mount, no volume in Docker.
#[track_caller]
fn nothing_left(node: &Node, docker_name: &str) {
    let images = node.place().at("volumes");
    assert!(!images.join(format!("{docker_name}.img")).exists());
    assert!(!images.join("mounts").join(docker_name).exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&format!("{}/mounts/{docker_name} ", images.display())), "{mounts}");
    assert_ne!(node.docker(&["volume", "inspect", docker_name]).code, 0);
}

#[test]
fn a_volume_is_full_at_its_size_and_not_a_block_later() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    for (name, size) in [("small", 8 * MIB), ("data", 64 * MIB), ("large", 300 * MIB + 12345)] {
        let made = node.gpuctl_ok(&["volume", "create", name, "--size", &size.to_string()]);
        let docker_name = format!("{name}-0");
        assert_eq!(made, docker_name);
        let wanted = size.div_ceil(4096) * 4096;
        let df = inside_ok(&node, &docker_name, "df -k /v | tail -1; ls -A /v");
        let mut words = df.split_whitespace().skip(3);
        let free: u64 = words.next().expect("a number").parse().expect("a number");
        assert_eq!(free * 1024, wanted, "{df}");
        assert_eq!(words.count(), 2, "something is in it: {df}");
        let got = fill(&node, &docker_name, "full");
        // A large file's own index takes a few blocks.
        assert!(got <= wanted && wanted - got <= 16 * 4096, "{name}: {got} of {wanted}");
        assert_eq!(fill(&node, &docker_name, "more"), 0, "one more");
        assert!(inspect(&node, name)["used"].as_u64().expect("used") >= wanted - 4096);
        node.gpuctl_ok(&["volume", "rm", name]);
        nothing_left(&node, &docker_name);
    }
}

/// A container that stays, with the volume at /v.
#[track_caller]
fn holder(node: &Node, name: &str, volume: &str) {
    let bind = format!("{volume}:/v");
    let words = ["run", "-d", "--name", name, "--network", "none", "-v", &bind];
    let got = node.docker(&[&words[..], &["busybox", "sleep", "100000"]].concat());
    assert_eq!(got.code, 0, "{got}");
}

#[track_caller]
fn refused(node: &Node, words: &[&str], says: &[&str]) -> String {
    let got = node.gpuctl(words);
    assert_eq!(got.code, 1, "{got}");
    for text in says {
        assert!(got.stderr.contains(text), "{text} is not said: {got}");
    }
    assert!(got.stderr.contains("hint: "), "{got}");
    got.stderr
}

/// What shows every file of the volume with all that belongs to it.
const LOOK: &str = "cd /v && find . | sort | while read -r f; do \
    stat -c '%n %F %a %u %g %Y %h %s' \"$f\"; done; find . -type f | sort | xargs md5sum";

#[test]
fn a_resize_makes_a_version_with_the_same_content_and_keeps_the_old_one() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    node.gpuctl_ok(&["volume", "create", "data", "--size", "64MB", "--label", "team=vision"]);
    let make = "cd /v && mkdir -p .hidden/d && echo a >.dot && echo b >.hidden/d/f && ln .dot hard && \
        ln -s /nowhere link && mkfifo pipe && dd if=/dev/zero of=hole bs=1 count=1 seek=100M 2>/dev/null && \
        dd if=/dev/urandom of=big bs=1M count=20 2>/dev/null && chown 1234:77 big && chmod 4751 big && \
        touch -d '2001-02-03 04:05:06' big .hidden && chown 99:98 . && chmod 1775 .";
    inside_ok(&node, "data-0", make);
    let before = inside_ok(&node, "data-0", LOOK);

    // Larger.
    let got = node.gpuctl(&["volume", "resize", "data", "200MB"]);
    assert_eq!((got.code, got.stdout.trim()), (0, "data-1"), "{got}");
    let root = |version: &str| {
        let folder = node.place().at("volumes/mounts").join(version).join("data");
        std::fs::metadata(folder).expect("a folder").modified().expect("a time")
    };
    assert_eq!(root("data-0"), root("data-1"));
    let attributes = |text: String| -> Vec<String> {
        // How many names a folder has at its filesystem's own, and how long it is, is that one's affair; the
        // root's time Docker changes when it is first mounted.
        let lines = text.lines().map(|l| match l.strip_prefix(". directory 1775 99 98 ") {
            Some(_) => ". directory 1775 99 98".to_owned(),
            None if l.contains(" directory ") => l.rsplit_once(' ').expect("a length").0.to_owned(),
            None => l.to_owned(),
        });
        lines.collect()
    };
    assert_eq!(attributes(inside_ok(&node, "data-1", LOOK)), attributes(before.clone()));
    assert_eq!(inside_ok(&node, "data-0", LOOK), before, "the old one was touched");
    assert_eq!(
        node.docker_ok(&["volume", "inspect", "-f", "{{.Labels.team}}", "data-1"]),
        "vision"
    );
    inside_ok(&node, "data-1", "dd if=/dev/zero of=/v/more bs=1M count=150 && rm /v/more");

    // The same size, and the older name.
    let same = node.gpuctl(&["volume", "resize", "data", "0.1953125gib"]);
    assert_eq!((same.code, same.stdout.trim()), (0, "data-1"), "{same}");
    assert!(same.stderr.contains("already"), "{same}");
    refused(
        &node,
        &["volume", "resize", "data-0", "300MB"],
        &["data-0 is an older version: data is at 1"],
    );

    // Smaller than what is used: nothing is made.
    let why =
        refused(&node, &["volume", "resize", "data", "10MB"], &["10MB asked for", "are used"]);
    assert!(why.contains("10485760 bytes asked for, 2"), "{why}");
    nothing_left(&node, "data-2");
    // A hole of 100 MB is not in its way.
    assert_eq!(node.gpuctl_ok(&["volume", "resize", "data", "32MB"]), "data-2");
    assert_eq!(attributes(inside_ok(&node, "data-2", LOOK)), attributes(before.clone()));
    fill(&node, "data-2", "full");
    refused(
        &node,
        &["volume", "resize", "data", "30MB"],
        &["30MB asked for, 32MB of data-2 are used"],
    );

    // Back to a version; its content is as it was.
    assert_eq!(node.gpuctl_ok(&["volume", "rollback", "data", "0"]), "data-3");
    assert_eq!(attributes(inside_ok(&node, "data-3", LOOK)), attributes(before));
    assert_eq!(inspect(&node, "data")["size"], 64 * MIB);
    let history = node.gpuctl_ok(&["volume", "history", "data"]);
    for text in ["0 ", "3*", "resize 64MB -> 200MB", "rollback 2 -> 0", "image"] {
        assert!(history.contains(text), "{text}\n{history}");
    }

    // Old versions are listed with their cost, and go when nobody mounts them.
    holder(&node, "old", "data-1");
    let dry = node.gpuctl_ok(&["volume", "prune", "--dry-run"]);
    assert_eq!(dry, "data-0\ndata-2");
    assert_eq!(node.gpuctl_ok(&["volume", "prune", "--force"]), "data-0\ndata-2");
    nothing_left(&node, "data-0");
    refused(&node, &["volume", "rollback", "data", "0"], &["data-0"]);
    refused(&node, &["volume", "rm", "--history", "data"], &["data-1 is in use by old"]);
    node.docker_ok(&["rm", "-f", "old"]);
    node.gpuctl_ok(&["volume", "rm", "data"]);
    nothing_left(&node, "data-3");
    refused(&node, &["volume", "inspect", "data"], &["was removed"]);
    assert_eq!(node.gpuctl_ok(&["volume", "rollback", "data", "1"]), "data-4");
    node.gpuctl_ok(&["volume", "rm", "--history", "data"]);
    for version in 0..5 {
        nothing_left(&node, &format!("data-{version}"));
    }
    refused(&node, &["volume", "history", "data"], &["no volume data"]);
}

/// Whether this process has CAP_SYS_RESOURCE.
fn may_grow_mounted() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let held = status.lines().find_map(|l| l.strip_prefix("CapEff:")).expect("capabilities");
    u64::from_str_radix(held.trim(), 16).expect("a number") >> 24 & 1 == 1
}

#[test]
fn what_is_in_use_is_neither_copied_nor_removed() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    node.gpuctl_ok(&["volume", "create", "data", "--size", "32MB"]);
    holder(&node, "writer", "data-0");
    // What is in use grows only for who has CAP_SYS_RESOURCE, and shrinks for nobody: that is not
    // proposed where it would be refused as well.
    for (size, in_place) in [("64MB", may_grow_mounted()), ("16MB", false)] {
        let words = ["volume", "resize", "data", size];
        refused(&node, &words, &["data-0", "writer", "stop writer first"]);
        assert_eq!(node.gpuctl(&words).stderr.contains("--in-place"), in_place, "{size}");
    }
    refused(&node, &["volume", "rm", "data"], &["data-0 is in use by writer", "running"]);
    node.docker_ok(&["kill", "writer"]);
    refused(&node, &["volume", "rm", "data"], &["writer", "not running"]);
    // Stopped, it is in no copy's way, and it is said what it mounts.
    let got = node.gpuctl(&["volume", "resize", "data", "64MB"]);
    assert!(got.code == 0 && got.stderr.contains("writer still mounts data-0"), "{got}");
    // Who only reads is in nobody's way.
    let words = ["run", "-d", "--name", "reader", "--network", "none", "-v", "data-1:/v:ro"];
    node.docker_ok(&[&words[..], &["busybox", "sleep", "100000"]].concat());
    assert_eq!(node.gpuctl_ok(&["volume", "resize", "data", "40MB"]), "data-2");
    let ls = node.gpuctl_ok(&["volume", "ls"]);
    assert!(ls.contains("40MB") && ls.contains("image"), "{ls}");
}

#[test]
fn in_place_the_same_volume_gets_another_limit() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    node.gpuctl_ok(&["volume", "create", "data", "--size", "64MB"]);
    inside_ok(&node, "data-0", "dd if=/dev/urandom of=/v/f bs=1M count=30 2>/dev/null");
    let sum = inside_ok(&node, "data-0", "md5sum /v/f");
    let free = |node: &Node| -> u64 {
        let df = inside_ok(node, "data-0", "df -k /v | tail -1");
        df.split_whitespace().nth(3).expect("free").parse().expect("a number")
    };
    let used = 64 * 1024 - free(&node);
    for (size, kib) in
        [("300MB", 300 * 1024), ("1GB", 1024 * 1024), ("40MB", 40 * 1024), ("41MB", 41 * 1024)]
    {
        assert_eq!(node.gpuctl_ok(&["volume", "resize", "data", size, "--in-place"]), "data-0");
        let now = free(&node) + used;
        assert!(now <= kib && kib - now < 64, "{size}: {now}");
        assert_eq!(inside_ok(&node, "data-0", "md5sum /v/f"), sum);
    }
    let got = fill(&node, "data-0", "full");
    assert!(got <= 11 * MIB && got > 10 * MIB, "{got}");
    refused(&node, &["volume", "resize", "data", "20MB", "--in-place"], &["20MB asked for, 41MB"]);
    inside_ok(&node, "data-0", "rm /v/full");
    holder(&node, "writer", "data-0");
    refused(
        &node,
        &["volume", "resize", "data", "35MB", "--in-place"],
        &["in use by writer", "stop"],
    );
    let plan = node.gpuctl(&["volume", "resize", "data", "500MB", "--in-place", "--dry-run"]);
    assert!(
        plan.code == 0 && plan.stdout.contains("500MB") || plan.stderr.contains("in use"),
        "{plan}"
    );
    let history = node.gpuctl_ok(&["volume", "history", "data"]);
    assert!(history.contains("in place 40MB -> 41MB") && history.lines().count() == 2, "{history}");
    let left = std::fs::read_dir(node.place().at("volumes")).expect("a folder");
    let mut names: Vec<_> = left.flatten().map(|e| e.file_name()).collect();
    names.sort();
    assert_eq!(names, ["data-0.img", "mounts"]);
}

/// After a reboot without its unit the image is not mounted: Docker refuses to start what uses it, and
/// nothing is written into the empty mount point. The service mounts it.
#[test]
fn after_a_reboot_a_volume_is_there_and_limited_or_docker_refuses_it() {
    if !engine_runs_here() {
        return;
    }
    let node = node();
    node.gpuctl_ok(&["volume", "create", "data", "--size", "32MB"]);
    inside_ok(&node, "data-0", "echo kept >/v/f; sync");
    node.reboot();
    let got = inside(&node, "data-0", "echo lost >/v/g");
    assert_ne!(got.code, 0, "{got}");
    assert!(got.stderr.contains("failed to mount local volume"), "{got}");
    let point = node.place().at("volumes/mounts/data-0");
    assert_eq!(std::fs::read_dir(&point).expect("the mount point").count(), 0);
    let ls = node.gpuctl_ok(&["volume", "ls"]);
    assert!(ls.contains("not mounted"), "{ls}");
    let doctor = node.gpuctl(&["doctor"]);
    assert!(doctor.stdout.contains("the image of volume data-0 is not mounted"), "{doctor}");
    node.gpuctl(&["doctor", "--fix"]);
    assert_eq!(inside_ok(&node, "data-0", "cat /v/f"), "kept");
    assert!(fill(&node, "data-0", "full") <= 32 * MIB);
    node.reboot();
    node.start_service();
    gpuctl_tests::node::wait_for("the image", std::time::Duration::from_secs(40), || {
        point.join("data").exists()
    });
    assert_eq!(inside_ok(&node, "data-0", "cat /v/f"), "kept");
}
