//! A private Docker Engine, away from any other of the host: its own folder, sockets, containerd,
//! cgroup and mount namespace.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use serde_json::json;

use crate::{Doing as _, Place, Result, Root, bridge, command, processes, reaper};

/// How long the Engine may take to answer.
const UP: Duration = Duration::from_secs(60);

/// In the new namespace: the place's `dev` becomes `/dev`, then the Engine starts. With `-` as the
/// place, `/dev` stays the host's. With a root, it is entered, the place at its own path in it: the
/// files of both sides name the same paths. A chroot would not do: `docker exec` joins the mount
/// namespace, and would come out at the root of that, beside the container. Where systemd is init, its
/// sockets are there too: it may be asked for cgroups.
const ENTERING: &str = r#"set -eu
place=$1 dev=$2 root=$3
shift 3
if [ "$dev" != - ]; then
    mount --bind "$dev" "$dev"
    for name in pts shm mqueue; do
        if mountpoint -q "/dev/$name"; then mount --rbind "/dev/$name" "$dev/$name"; fi
    done
    mount --rbind "$dev" /dev
fi
[ "$root" != - ] || exec "$@"
mount --bind "$root" "$root"
for name in proc sys dev; do mount --rbind "/$name" "$root/$name"; done
for name in systemd dbus; do
    [ -d "/run/$name" ] || continue
    mkdir -p "$root/run/$name"
    mount --rbind "/run/$name" "$root/run/$name"
done
mkdir -p "$root$place" "$root/mnt"
mount --rbind "$place" "$root$place"
cd "$root"
pivot_root . mnt
umount -l /mnt
exec "$@"
"#;

/// The name of [`ENTERING`] in a place.
const ENTER: &str = "enter.sh";

/// How the Engine is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Containers get a network, see [`crate::bridge`]. Else they have none but with `--network host`.
    pub bridge: bool,
    /// The place's `dev` is the Engine's `/dev`.
    pub own_dev: bool,
    /// The runtime behind `gpuctl` and `gpuctl-gate`; `None`: the place's own.
    pub runtime: Option<PathBuf>,
    /// More arguments for dockerd.
    pub more: Vec<String>,
    /// A folder to put first on the Engine's PATH, in the place where it is relative: strict mode is
    /// [`crate::Place::strict`].
    pub first_on_path: Option<PathBuf>,
    /// The folder of NVIDIA's toolkit, on the Engine's PATH before our stub.
    pub toolkit: Option<PathBuf>,
    /// The runtime of containers that name none; `None`: `gpuctl-gate`.
    pub default_runtime: Option<String>,
    /// Cgroups are systemd's to make; else the Engine makes them.
    pub systemd_cgroup: bool,
    /// Another Debian, whose Engine and CLI are taken instead of this machine's.
    pub root: Option<Root>,
    /// Images are kept in containerd's store; for an Engine of a [`Root`].
    pub containerd_store: bool,
    /// The content of daemon.json before the first start, on a host where the product is not set up:
    /// then no flag names a runtime, no stub is on PATH, and daemon.json is left alone afterwards.
    /// `@place@` in it is the place's folder.
    pub daemon_json: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bridge: true,
            own_dev: true,
            runtime: None,
            more: vec![],
            first_on_path: None,
            toolkit: None,
            default_runtime: None,
            systemd_cgroup: false,
            root: None,
            containerd_store: false,
            daemon_json: None,
        }
    }
}

/// The file of a place that holds another PATH for the Engine's next start, as a drop-in would.
pub const NEXT_PATH: &str = "engine.path";

/// An Engine at a place.
#[derive(Debug, Clone)]
pub struct Engine {
    place: Place,
    options: Options,
    cli: PathBuf,
}

impl Engine {
    /// An Engine that may or may not run.
    ///
    /// # Errors
    /// When no Docker CLI is installed.
    pub fn at(place: Place, options: Options) -> Result<Self> {
        // Debian's own first: it is of the same version as the Engine.
        let cli = match &options.root {
            Some(root) => root.find("docker")?,
            None => command::find(&["/usr/bin/docker", "docker"])?,
        };
        Ok(Self { place, options, cli })
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The Docker CLI, its global environment set for this Engine.
    pub fn docker(&self) -> Command {
        let mut docker = self.inside(&self.cli);
        for (name, value) in self.environment() {
            docker.env(name, value);
        }
        docker.env_remove("DOCKER_CONTEXT").env_remove("DOCKER_TLS_VERIFY");
        docker
    }

    /// The Docker CLI's file, as seen from the Engine.
    pub fn cli(&self) -> &Path {
        &self.cli
    }

    /// A program, in the Engine's root where that has one of its own. While the Engine is down the root is
    /// entered anew, which takes a dozen more programs.
    pub fn inside(&self, program: &Path) -> Command {
        if self.options.root.is_none() {
            return Command::new(program);
        }
        if let Some(namespace) = self.namespace() {
            let mut command = Command::new("nsenter");
            command.arg(format!("--mount={}", namespace.display())).arg("--").arg(program);
            return command;
        }
        let mut command = Command::new("unshare");
        self.enter(&mut command, Path::new("-"));
        command.arg(program);
        command
    }

    /// The mount namespace of the Engine that runs.
    fn namespace(&self) -> Option<PathBuf> {
        let pid: i32 = fs::read_to_string(self.place.pidfile()).ok()?.trim().parse().ok()?;
        let process = PathBuf::from(format!("/proc/{pid}"));
        let is_engine = fs::read_to_string(process.join("comm")).ok()?.trim() == "dockerd";
        is_engine.then(|| process.join("ns/mnt"))
    }

    /// The arguments of unshare, up to the program that is started in the new namespace.
    fn enter(&self, unshare: &mut Command, dev: &Path) {
        let root = self.options.root.as_ref().map_or(Path::new("-"), Root::folder);
        unshare.args(["--mount", "--propagation", "slave", "sh"]).arg(self.place.at(ENTER));
        unshare.arg(self.place.root()).arg(dev).arg(root);
    }

    /// What a shell needs to use this Engine.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("DOCKER_HOST", self.place.docker_host()),
            ("DOCKER_CONFIG", self.place.docker_config().display().to_string()),
            ("GPUCTL_CONFIG", self.place.config().display().to_string()),
        ]
    }

    /// The Engine's process, if it runs.
    pub fn pid(&self) -> Option<i32> {
        let pid = fs::read_to_string(self.place.pidfile()).ok()?.trim().parse().ok()?;
        processes::of(&self.place).contains(&pid).then_some(pid)
    }

    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it does not; with the end of what it printed.
    pub fn start(&self) -> Result<()> {
        if self.pid().is_some() && self.answers() {
            return Ok(());
        }
        if self.options.bridge {
            bridge::make(&self.place)?;
        }
        if self.pid().is_none() {
            // dockerd takes a zombie of its last run, or whoever has its pid now, for itself.
            let _ = fs::remove_file(self.place.pidfile());
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.place.docker_log())
            .doing("open the Engine's log")?;
        let mut child = self.command()?;
        let mut child = child
            .stdin(Stdio::null())
            .stdout(log.try_clone().doing("share the Engine's log")?)
            .stderr(log)
            .spawn()
            .doing("start the Engine")?;
        let until = Instant::now() + UP;
        while !self.answers() {
            // The reaper ends with the last of its children.
            let ended = child.try_wait().is_ok_and(|s| s.is_some());
            if ended || Instant::now() > until {
                return Err(format!("the Engine does not come up\n{}", self.last_words()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // Collects its exit status whenever it ends, so that no zombie stays.
        std::thread::spawn(move || child.wait());
        Ok(())
    }

    fn command(&self) -> Result<Command> {
        let place = &self.place;
        let dev = place.dev();
        let mut child = Command::new("setsid");
        child.arg(reaper::path(place)).arg("unshare");
        self.enter(&mut child, if self.options.own_dev { &dev } else { Path::new("-") });
        child.arg(match &self.options.root {
            Some(root) => root.find("dockerd")?,
            None => command::find(&["dockerd"])?,
        });
        child.arg("--data-root").arg(place.data()).arg("--exec-root").arg(place.exec());
        child.arg("-H").arg(place.docker_host()).arg("--pidfile").arg(place.pidfile());
        child.arg("--config-file").arg(place.at("daemon.json"));
        let (driver, parent) = match self.options.systemd_cgroup {
            true => ("systemd", format!("{}.slice", place.cgroup())),
            false => ("cgroupfs", format!("/{}", place.cgroup())),
        };
        child.arg("--exec-opt").arg(format!("native.cgroupdriver={driver}"));
        child.arg("--cgroup-parent").arg(parent);
        let entries = [("gpuctl", "gpuctl-runtime"), ("gpuctl-gate", "gpuctl-gate")];
        for (name, program) in entries.iter().filter(|_| self.options.daemon_json.is_none()) {
            let given = self.options.runtime.clone();
            let runtime = given.unwrap_or_else(|| place.libexec().join(program));
            child.arg("--add-runtime").arg(format!("{name}={}", runtime.display()));
        }
        if self.options.daemon_json.is_none() {
            let default = self.options.default_runtime.as_deref().unwrap_or("gpuctl-gate");
            child.args(["--default-runtime", default]);
        }
        child.args([
            "--iptables=false",
            "--ip6tables=false",
            "--ip-forward=false",
            "--ip-masq=false",
        ]);
        child.arg("--bridge");
        child.arg(if self.options.bridge { bridge::name(place) } else { "none".into() });
        child.args(&self.options.more);
        // Its runtimes and hooks inherit this; dockerd also writes it into the spec of a --gpus
        // container. The stub's folder is last, so that a real NVIDIA toolkit wins.
        let first = self.options.first_on_path.iter();
        let first = first.map(|p| format!("{}:", place.root().join(p).display()));
        let toolkit = self.options.toolkit.iter().map(|p| format!(":{}", p.display()));
        let mut path = format!(
            "{}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin{}",
            first.collect::<String>(),
            toolkit.collect::<String>(),
        );
        if self.options.daemon_json.is_none() {
            path = format!("{path}:{}", place.stub().display());
        }
        if let Ok(next) = fs::read_to_string(place.at(NEXT_PATH)) {
            path = next.trim().to_owned();
        }
        child.env_clear().env("PATH", path).env("HOME", "/root").env("LANG", "C.UTF-8");
        child.env("GPUCTL_CONFIG", place.config());
        crate::files::write(&place.at(ENTER), ENTERING)?;
        let daemon_json = place.at("daemon.json");
        match &self.options.daemon_json {
            Some(_) if daemon_json.exists() => {}
            Some(text) => {
                let text = text.replace("@place@", &place.root().display().to_string());
                crate::files::write(&daemon_json, &text)?;
            }
            None => crate::files::write(&daemon_json, &format!("{:#}\n", self.daemon_json()))?,
        }
        Ok(child)
    }

    /// What no flag says. 26.1 takes CDI devices only where it is told so; 20.10 knows neither word.
    fn daemon_json(&self) -> serde_json::Value {
        if self.options.root.is_none() {
            return json!({});
        }
        json!({
            "features": {"cdi": true, "containerd-snapshotter": self.options.containerd_store},
            "cdi-spec-dirs": [self.place.cdi()],
            // What a build may ask for, so that tests can.
            "builder": {"entitlements": {"security-insecure": true}},
        })
    }

    /// The real OCI runtime, as the Engine sees it.
    ///
    /// # Errors
    /// When there is none.
    pub fn runc(&self) -> Result<PathBuf> {
        match &self.options.root {
            Some(root) => root.find("runc"),
            None => command::find(&["runc"]),
        }
    }

    /// Whether it answers.
    pub fn answers(&self) -> bool {
        if !self.place.docker_socket().exists() {
            return false;
        }
        let mut version = self.docker();
        version.args(["version", "--format", "{{.Server.Version}}"]);
        command::run(&mut version, Duration::from_secs(10)).is_ok_and(|o| o.code == 0)
    }

    /// The last of what it complained about.
    pub fn last_words(&self) -> String {
        let text = fs::read(self.place.docker_log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let telling = |l: &&str| !l.contains("level=info") && !l.contains("cleanup warnings");
        let lines: Vec<&str> = text.lines().filter(telling).collect();
        lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
    }

    /// Stops it as systemd would: SIGTERM, which stops its containers too.
    ///
    /// # Errors
    /// When it does not end within half a minute.
    pub fn stop(&self) -> Result<()> {
        self.end(Signal::SIGTERM, Duration::from_secs(30))
    }

    /// kill -9 of dockerd. Its containerd goes with it, shims and containers stay.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&self) -> Result<()> {
        self.end(Signal::SIGKILL, Duration::from_secs(10))
    }

    fn end(&self, signal: Signal, limit: Duration) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        kill(Pid::from_raw(pid), signal).doing("signal the Engine")?;
        let until = Instant::now() + limit;
        while processes::start_time(pid).is_some() {
            if Instant::now() > until {
                return Err(format!("the Engine does not end\n{}", self.last_words()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}
