//! A container's files in the next one: made in a real container with all that can be lost, and compared
//! from within the new one and on the disk, on each file system, with both image stores, whoever asks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gpuctl_sim::command::{self, Output};
use gpuctl_sim::engine;
use gpuctl_tests::loop_fs::{Kind, LoopFs, loop_fs};
use gpuctl_tests::newer::Debian;
use gpuctl_tests::served::{DAEMON, Served};
use gpuctl_tests::{Options, engine_runs_here, trees};
use nix::sys::statvfs::statvfs;

/// The longest that one change may take.
const LIMIT: Duration = Duration::from_secs(900);
/// What is compared of a container's files. The folder `deep` is not below the longest path, and has
/// fewer programs that can read it.
const TOPS: [&str; 8] = ["tree", "many", "big", "etc", "usr", "opt", "home", "var"];

/// How much there is: files, MB in one file, and the size of the disk in GB.
fn amount() -> (u32, u32, u64) {
    if std::env::var_os("GPUCTL_FULL").is_some() { (100_000, 4096, 16) } else { (4_000, 200, 3) }
}

/// A node whose Docker keeps everything on a file system of its own.
struct Stage {
    // Ends before its disk does.
    served: Served,
    fs: LoopFs,
    _debian: Option<Debian>,
    user: u32,
}

impl Stage {
    fn set(kind: Kind, containerd: bool, user: u32) -> Option<Self> {
        if !engine_runs_here() || !trees::can_be_built() {
            return None;
        }
        let debian = match containerd {
            true => Some(Debian::of("sid")?),
            false => None,
        };
        let fs = loop_fs(kind, amount().2 << 30)?;
        let root = debian.as_ref().map(Debian::root);
        let engine = engine::Options { root, containerd_store: containerd, ..Default::default() };
        let data = Some(fs.path().to_owned());
        let served = Served::with(Options { data, engine, ..Options::default() });
        let stage = Self { served, fs, _debian: debian, user };
        stage.import();
        Some(stage)
    }

    /// An image of which much is changed, removed and moved later.
    fn import(&self) {
        let node = &self.served.node;
        let (folder, tar) = (node.place().at("world"), node.place().at("world.tar"));
        std::fs::create_dir(&folder).unwrap();
        trees::image(&folder);
        let script = "mkdir bin proc sys dev tmp run; cp \"$0\" bin/busybox
            for name in sh sleep cat ls stat; do ln -s busybox bin/$name; done; tar -cf ../world.tar .";
        let busybox = command::find(&["busybox"]).unwrap();
        trees::run(&folder, &["sh", "-ec", script, busybox.to_str().unwrap()]);
        node.docker_ok(&["import", tar.to_str().unwrap(), "world"]);
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::remove_file(&tar).unwrap();
    }

    /// `docker gpuctl ...`, as whoever asks.
    #[track_caller]
    fn gpuctl(&self, line: &[&str]) -> Output {
        let node = &self.served.node;
        let mut command = match self.user {
            0 => node.site().engine().docker(),
            user => node.gpuctl_command_as(user, self.served.group, line),
        };
        if self.user == 0 {
            command.arg("gpuctl").args(line);
        }
        let got = command::run(&mut command, LIMIT).expect("the Docker CLI starts");
        assert_eq!(got.code, 0, "{got}\n{}", node.site().engine().last_words());
        got
    }

    fn pid(&self, container: &str) -> String {
        self.served.node.docker_ok(&["inspect", "-f", "{{.State.Pid}}", container])
    }

    /// Its root folder, as its processes see it.
    fn within(&self, container: &str) -> PathBuf {
        format!("/proc/{}/root", self.pid(container)).into()
    }

    /// Its upper directory, by what is mounted.
    fn upper(&self, container: &str) -> PathBuf {
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.pid(container)));
        let mounts = mounts.expect("its mounts");
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"));
        let options = root.and_then(|line| line.rsplit(' ').next()).expect("its root");
        let upper = options.split(',').find_map(|option| option.strip_prefix("upperdir="));
        upper.expect("an upper directory").into()
    }

    /// `train` with one of everything in its files.
    fn run(&self) {
        let run = ["run", "-d", "--name", "train", "--gpus", "1", "--stop-signal", "KILL", "world"];
        self.gpuctl(&[&run[..], &["sleep", "100000"]].concat());
        let within = self.within("train-0");
        trees::live_in(&within);
        for folder in ["tree", "deep", "many", "big"] {
            std::fs::create_dir(within.join(folder)).unwrap();
        }
        trees::build_within(&within.join("tree"));
        trees::build_deep(&within.join("deep"), 600);
        let (files, mib, _) = amount();
        let script = "cd many; awk -v files=$0 'BEGIN { for (n = 0; n < files; n++) {
                if (n % 1000 == 0) { d = \"d\" n; system(\"mkdir \" d) }
                f = d \"/\" n; print n > f; close(f) } }'
            cd ../big; dd if=/dev/urandom of=file bs=1M count=$1 2>/dev/null";
        trees::run(&within, &["sh", "-ec", script, &files.to_string(), &mib.to_string()]);
    }

    /// A folder that was renamed, which this kernel's overlays follow but do not make unless told so.
    fn redirect(&self) {
        let follows = std::fs::read("/sys/module/overlay/parameters/redirect_always_follow");
        if !follows.is_ok_and(|text| text.starts_with(b"Y")) {
            eprintln!("without a redirect: overlays do not follow them here");
            return;
        }
        let upper = self.upper("train-0");
        self.gpuctl(&["stop", "train"]);
        let moved = upper.join("tree/moved");
        std::fs::create_dir(&moved).unwrap();
        let redirect = ["setfattr", "-n", "trusted.overlay.redirect", "-v", "/opt/tool", "."];
        trees::run(&moved, &redirect);
        self.gpuctl(&["start", "train"]);
        let there = self.within("train-0").join("tree/moved/a");
        assert_eq!(std::fs::read_to_string(there).unwrap(), "a\n", "it is followed");
    }

    fn seen(&self, container: &str) -> Vec<(&'static str, Vec<String>)> {
        let within = self.within(container);
        let tops = TOPS.iter().chain(&["deep"]);
        tops.map(|top| (*top, trees::seen(&within.join(top)))).collect()
    }

    /// What a container's own programs say.
    fn told(&self, container: &str) -> String {
        let script = "stat -c '%a %u %h %s' /tree/bin/tool /tree/one /home/moved; cat /etc/conf
            cat /etc/gone; ls /usr/lib/big /opt/tool; ls -l /tree/dangling /tree/run/char
            stat -c '%A %t %T' /tree/run/fifo /tree/run/block; stat -c %a /
            cd /deep; i=0; while [ $i -lt 100 ]; do cd folder-$i; i=$((i+1)); done; ls
            busybox sha256sum /big/file /many/d3000/3999";
        self.served.node.docker(&["exec", container, "sh", "-c", script]).to_string()
    }

    fn used(&self) -> u64 {
        let disk = statvfs(self.fs.path()).unwrap();
        (disk.blocks() - disk.blocks_free()) * disk.fragment_size()
    }
}

/// What tools that are not ours see as different on the disk.
#[track_caller]
fn same_on_disk(old: &Path, new: &Path) {
    // Whoever starts a container reads its /etc/passwd, which changes a time of access.
    let etc = |upper: &Path| trees::seen(&upper.join("etc"));
    assert_eq!(etc(old), etc(new));
    for top in TOPS.iter().filter(|top| **top != "etc") {
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
    stage.gpuctl(&["rollback", "train", "1", "--files", "-q"]);
    same_on_disk(&kept, &stage.upper("train-2"));
    same_within(&before, &stage.seen("train-2"));
    stage.served.node.check();
    stage.gpuctl(&["rm", "-f", "--history", "train"]);
    assert!(!layers.exists(), "what was kept is gone");
}

#[test]
fn all_files_arrive_on_ext4() {
    carried(Kind::Ext4, false, 0);
}

#[test]
fn all_files_arrive_on_xfs_by_the_service() {
    carried(Kind::Xfs, false, DAEMON);
}

#[test]
fn all_files_arrive_on_btrfs() {
    carried(Kind::Btrfs, false, 0);
}

#[test]
fn all_files_arrive_with_containerds_image_store_on_ext4_by_the_service() {
    carried(Kind::Ext4, true, DAEMON);
}

#[test]
fn all_files_arrive_with_containerds_image_store_on_xfs() {
    carried(Kind::Xfs, true, 0);
}

#[test]
fn all_files_arrive_with_containerds_image_store_on_btrfs() {
    carried(Kind::Btrfs, true, 0);
}
