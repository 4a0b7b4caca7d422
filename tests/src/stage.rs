//! A node whose Docker keeps everything on a file system of its own, and a container with one of
//! everything in its files.

use std::path::PathBuf;
use std::time::Duration;

use gpuctl_sim::command::{self, Output};
use gpuctl_sim::engine;
use nix::sys::statvfs::statvfs;

use crate::loop_fs::{Kind, LoopFs, loop_fs};
use crate::newer::Debian;
use crate::served::Served;
use crate::{Options, engine_runs_here, trees};

/// The longest that one change may take.
const LIMIT: Duration = Duration::from_secs(900);
/// What is compared of a container's files. In `etc` Docker has files of its own; the folder `deep` is not below the longest path, and has
/// fewer programs that can read it.
pub const TOPS: [&str; 7] = ["tree", "many", "big", "usr", "opt", "home", "var"];

/// How much there is: files, MB in one file, and the size of the disk in GB: for five copies, where the file
/// system shares nothing.
pub fn amount() -> (u32, u32, u64) {
    if crate::full() { (100_000, 4096, 26) } else { (4_000, 200, 3) }
}

/// A node whose Docker keeps everything on a file system of its own.
pub struct Stage {
    /// The node. It ends before its disk does.
    pub served: Served,
    fs: LoopFs,
    _debian: Option<Debian>,
    user: u32,
}

impl Stage {
    /// Sets it; `None` after saying why it cannot be had here.
    ///
    /// # Panics
    /// When the node does not come up.
    pub fn set(kind: Kind, containerd: bool, user: u32) -> Option<Self> {
        Self::of_size(kind, amount().2 << 30, containerd, user)
    }

    /// As [`Stage::set`], with so large a disk, in bytes.
    ///
    /// # Panics
    /// As [`Stage::set`].
    pub fn of_size(kind: Kind, size: u64, containerd: bool, user: u32) -> Option<Self> {
        if !engine_runs_here() || !trees::can_be_built() {
            return None;
        }
        let debian = match containerd {
            true => Some(Debian::of("sid")?),
            false => None,
        };
        let fs = loop_fs(kind, size)?;
        let root = debian.as_ref().map(Debian::root);
        // Left to itself it would take btrfs' own driver on btrfs.
        let driver = ["--storage-driver", "overlay2"].map(str::to_owned);
        let more = if containerd { Vec::new() } else { driver.to_vec() };
        let engine =
            engine::Options { root, containerd_store: containerd, more, ..Default::default() };
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
        std::fs::create_dir(&folder).expect("done");
        trees::image(&folder);
        let script = "mkdir moves; echo a >moves/a; echo b >moves/b; mkdir bin proc sys dev tmp run; cp \"$0\" bin/busybox
            for name in sh sleep cat ls stat; do ln -s busybox bin/$name; done; tar -cf ../world.tar .";
        let busybox = command::find(&["busybox"]).expect("done");
        trees::run(&folder, &["sh", "-ec", script, busybox.to_str().expect("done")]);
        node.docker_ok(&["import", tar.to_str().expect("done"), "world"]);
        std::fs::remove_dir_all(&folder).expect("done");
        std::fs::remove_file(&tar).expect("done");
    }

    /// `docker gpuctl ...`, as whoever asks.
    ///
    /// # Panics
    /// When it cannot be had.
    #[track_caller]
    pub fn gpuctl(&self, line: &[&str]) -> Output {
        let got = self.try_gpuctl(line);
        let words = self.served.node.site().engine().last_words();
        assert_eq!(got.code, 0, "{got}\n{words}");
        got
    }

    /// Who asks.
    pub fn user(&self) -> u32 {
        self.user
    }

    /// As [`Stage::gpuctl`], however it ends.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn try_gpuctl(&self, line: &[&str]) -> Output {
        let node = &self.served.node;
        let mut command = match self.user {
            0 => node.site().engine().docker(),
            user => node.gpuctl_command_as(user, self.served.group, line),
        };
        if self.user == 0 {
            command.arg("gpuctl").args(line);
        }
        command::run(&mut command, LIMIT).expect("the Docker CLI starts")
    }

    /// The pid of its init.
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn pid(&self, container: &str) -> String {
        self.served.node.docker_ok(&["inspect", "-f", "{{.State.Pid}}", container])
    }

    /// Its root folder, as its processes see it.
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn within(&self, container: &str) -> PathBuf {
        format!("/proc/{}/root", self.pid(container)).into()
    }

    /// Its upper directory, by what is mounted.
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn upper(&self, container: &str) -> PathBuf {
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.pid(container)));
        let mounts = mounts.expect("its mounts");
        let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/"));
        let options = root.and_then(|line| line.rsplit(' ').next()).expect("its root");
        let upper = options.split(',').find_map(|option| option.strip_prefix("upperdir="));
        upper.expect("an upper directory").into()
    }

    /// `train` with nothing in its files.
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn start(&self) {
        let run = ["run", "-d", "--name", "train", "--gpus", "1", "--stop-signal", "KILL", "world"];
        self.gpuctl(&[&run[..], &["sleep", "100000"]].concat());
    }

    /// `train` with one of everything in its files.
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn run(&self) {
        self.start();
        let within = self.within("train-0");
        trees::live_in(&within);
        for folder in ["tree", "deep", "many", "big"] {
            std::fs::create_dir(within.join(folder)).expect("done");
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
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn redirect(&self) {
        let follows = std::fs::read("/sys/module/overlay/parameters/redirect_always_follow");
        if !follows.is_ok_and(|text| text.starts_with(b"Y")) {
            eprintln!("without a redirect: overlays do not follow them here");
            return;
        }
        let upper = self.upper("train-0");
        self.gpuctl(&["stop", "train"]);
        let moved = upper.join("tree/moved");
        std::fs::create_dir(&moved).expect("done");
        let redirect = ["setfattr", "-n", "trusted.overlay.redirect", "-v", "/moves", "."];
        trees::run(&moved, &redirect);
        trees::run(&upper, &["mknod", "moves", "c", "0", "0"]);
        self.gpuctl(&["start", "train"]);
        let there = self.within("train-0").join("tree/moved/a");
        assert_eq!(std::fs::read_to_string(there).expect("done"), "a\n", "it is followed");
    }

    /// What is seen of all its files from within, see [`trees::seen`].
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn seen(&self, container: &str) -> Vec<(&'static str, Vec<String>)> {
        let within = self.within(container);
        let tops = TOPS.iter().chain(&["deep"]);
        tops.map(|top| (*top, trees::seen(&within.join(top)))).collect()
    }

    /// What a container's own programs say.
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn told(&self, container: &str) -> String {
        let script = "stat -c '%a %u %h %s' /tree/bin/tool /tree/one /home/moved; cat /etc/conf
            stat -c '%a %s %Y %n' /etc/conf /etc/passwd; ls /etc; ls / /tree/moved
            cat /etc/gone; ls /usr/lib/big /opt/tool; ls -l /tree/dangling /tree/run/char
            stat -c '%A %t %T' /tree/run/fifo /tree/run/block; stat -c %a /
            cd /deep; i=0; while [ $i -lt 100 ]; do cd folder-$i; i=$((i+1)); done; ls
            busybox sha256sum /big/file /many/d3000/3999";
        let mut docker = self.served.node.site().engine().docker();
        docker.args(["exec", container, "sh", "-c", script]);
        // In full size it reads 4 GB.
        let got = command::run(&mut docker, LIMIT).expect("docker starts");
        assert_eq!(got.code, 0, "{got}");
        assert!(got.stderr.contains("can't open '/etc/gone'"), "{got}");
        got.stdout
    }

    /// What is taken of the disk, in bytes.
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn used(&self) -> u64 {
        let disk = statvfs(self.fs.path()).expect("done");
        (disk.blocks() - disk.blocks_free()) * disk.fragment_size()
    }
}
