//! A column under trial: one node, and what rows do with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gpuctl_sim::command::Output;
use gpuctl_sim::{engine, processes};
use gpuctl_tests::newer::Debian;
use gpuctl_tests::{Node, Options, skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cell::{Cell, Device, Verdict, judge};
use crate::column::{Cgroup, Column, EngineOf};
use crate::{nvidia, probe};

/// The major of nvidia-caps on a simulated node.
const CAPS: u32 = 511;
/// Who has GPUs all the time: a managed container, and what it asks for.
pub const HOLDER: &str = "holder";
/// The indexes of the GPUs that it has.
pub const HELD: [usize; 2] = [0, 1];
/// The index of a GPU that nobody has between two rows; its minor is another number.
pub const FREE: usize = 3;
/// Containers that were made before the product was installed, and what they ask for.
pub const BEFORE: [(&str, &[&str]); 3] = [
    ("before-device", &["--device", "/dev/nvidia1"]),
    ("before-gpus", &["--gpus", "1"]),
    ("before-privileged", &["--privileged"]),
];

/// What the CLI needs besides to build and to compose.
const CLI_PLUGINS: [&str; 2] = ["docker-buildx", "docker-compose"];

/// A node of a column.
pub struct Trial {
    /// The column.
    pub column: Column,
    /// The node.
    pub node: Node,
    /// The id of who has GPUs all the time.
    pub holder: String,
    // Dropped after the node, whose Engine lives in it.
    _debian: Option<Debian>,
}

impl Trial {
    /// Brings the column's node up: an Engine without the product, on which some containers are made;
    /// then the product is installed, at the column's level.
    ///
    /// # Errors
    /// Why that column cannot be had here.
    pub fn start(column: Column) -> Result<Self, String> {
        if !column.fits_machine() {
            return Err(format!("this machine's cgroups are not {}", column.cgroup_name()));
        }
        if column.cgroup == Cgroup::V2Systemd && !systemd() {
            return Err("no systemd makes cgroups here".into());
        }
        let debian = debian(column)?;
        let engine = engine::Options {
            root: debian.as_ref().map(Debian::root),
            containerd_store: column.engine == EngineOf::V28Containerd,
            systemd_cgroup: column.cgroup == Cgroup::V2Systemd,
            default_runtime: Some("runc".into()),
            ..engine::Options::default()
        };
        let recorded = column.engine == EngineOf::V29Fixtures;
        let profile = if recorded { "engine29" } else { "a100x8" };
        let mut node =
            Node::start(Options { profile, engine, service: true, ..Options::default() });
        if !recorded {
            let version = node.docker_ok(&["version", "--format", "{{.Server.Version}}"]);
            let wanted = column.engine_name().split('-').next().unwrap_or_default();
            if !version.starts_with(&format!("{wanted}.")) {
                // Another Debian moves on, and a machine may have an Engine of its own.
                let why = format!("the Engine here is {version}");
                skip(&why);
                return Err(why);
            }
        }
        for (name, flags) in BEFORE {
            let program = ["busybox", "sleep", "100000"];
            node.docker_ok(&[&["create", "--name", name], flags, &program].concat());
        }
        install(&mut node, column)?;
        let mut trial = Self { column, node, holder: String::new(), _debian: debian };
        trial.hold(if recorded { &HELD[..1] } else { &HELD });
        Ok(trial)
    }

    /// The holder takes its GPUs.
    fn hold(&mut self, indexes: &[usize]) {
        let gpus: Vec<String> = indexes.iter().map(ToString::to_string).collect();
        let gpus = format!("device={}", gpus.join(","));
        let line = ["run", "-d", "--name", HOLDER, "--gpus", &gpus, "--restart", "always"];
        self.node.gpuctl_ok(&[&line[..], &["busybox", "sleep", "100000"]].concat());
        self.holder = self.node.id(&format!("{HOLDER}-0"));
    }

    /// Whether the Engine takes CDI devices.
    pub fn takes_cdi(&self) -> bool {
        self.column.suite().is_some()
    }

    /// The devices that are tried: every GPU's node, and those of MIG devices.
    pub fn devices(&self) -> BTreeSet<Device> {
        let mut devices = BTreeSet::new();
        for gpu in self.node.gpus() {
            devices.insert((195, gpu.minor));
            devices.extend(gpu.mig().iter().flat_map(|m| m.caps).map(|cap| (CAPS, cap)));
        }
        devices
    }

    /// What a container may open by its leases.
    pub fn leased(&self, id: &str) -> BTreeSet<Device> {
        self.leases(|holder| holder == id)
    }

    /// What may be opened by the leases of those whose id is chosen.
    pub fn leases(&self, chosen: impl Fn(&str) -> bool) -> BTreeSet<Device> {
        let gpus = self.node.gpus();
        let mut devices = BTreeSet::new();
        let leases = self.node.leases();
        for lease in leases.values().filter(|l| chosen(l.holder.container.as_str())) {
            let unit = lease.unit.as_str();
            for gpu in &gpus {
                // The whole, or a slot of one that is shared: UUID/slot.
                if unit.split('/').next() == Some(gpu.uuid.as_str()) {
                    devices.insert((195, gpu.minor));
                }
                for mig in gpu.mig().iter().filter(|m| m.uuid == unit) {
                    devices.insert((195, gpu.minor));
                    devices.extend(mig.caps.map(|cap| (CAPS, cap)));
                }
            }
        }
        devices
    }

    /// What a running container can open, as seen by `docker exec` with these flags.
    ///
    /// # Errors
    /// When the probe does not work.
    pub fn opens(&self, container: &str, flags: &[&str]) -> Result<BTreeSet<Device>, String> {
        let devices = self.devices();
        let script = probe::script(&devices);
        let line = [&["exec"], flags, &[container, "sh", "-c", &script]].concat();
        let got = self.node.docker(&line);
        if got.code != 0 {
            return Err(format!("the probe failed\n{got}"));
        }
        probe::read(&got.stdout, &devices)
    }

    /// Judges a running container by what it opens.
    ///
    /// # Errors
    /// When it cannot be judged.
    pub fn judge(&self, container: &str) -> Result<Verdict, String> {
        self.judge_with(container, &[])
    }

    /// As [`Trial::judge`], by way of `docker exec FLAGS`.
    ///
    /// # Errors
    /// When it cannot be judged.
    pub fn judge_with(&self, container: &str, flags: &[&str]) -> Result<Verdict, String> {
        let id = self.node.id(container);
        judge(&self.opens(container, flags)?, &self.leased(&id))
    }

    /// Judges a command that is to start a container of this name.
    ///
    /// # Errors
    /// When it failed for another reason than our refusal.
    pub fn judge_start(&self, got: &Output, container: &str) -> Result<Verdict, String> {
        match refusal(got) {
            Some(line) => Ok(Verdict { cell: Cell::Refused, detail: line }),
            None if got.code != 0 => {
                Err(format!("{got}\n{}", self.node.site().engine().last_words()))
            }
            None => self.judge(container),
        }
    }

    /// `docker run -d --name NAME FLAGS IMAGE sleep`, judged.
    ///
    /// # Errors
    /// As for [`Trial::judge_start`].
    pub fn run(&self, name: &str, flags: &[&str], image: &str) -> Result<Verdict, String> {
        let program = [image, "sleep", "100000"];
        let line = [&["run", "-d", "--name", name], flags, &program].concat();
        self.judge_start(&self.node.docker(&line), name)
    }

    /// Tries a way that names one GPU twice: with one that the holder has, and with a free one. The
    /// cell is of the free one, unless the holder's was opened.
    ///
    /// # Errors
    /// As for [`Trial::run`].
    pub fn run_named(&self, flags: impl Fn(usize, u32) -> Vec<String>) -> Result<Verdict, String> {
        let [held, _] = HELD;
        let with = |name: &str, index: usize| {
            let flags = flags(index, self.node.minor(index));
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            self.run(name, &flags, "busybox")
        };
        let first = with("of-another", held)?;
        if matches!(first.cell, Cell::NotCaught | Cell::Leased) {
            let remark = format!("GPU {held}, which another container holds");
            return Ok(Verdict { cell: Cell::NotCaught, ..first.noting(&remark) });
        }
        let remark = format!("of a GPU that another holds: {}", first.cell);
        Ok(with("of-nobody", FREE)?.noting(&remark))
    }

    /// The `runc` that is first on the Engine's PATH.
    ///
    /// # Errors
    /// When there is none.
    pub fn runc_on_path(&self) -> Result<PathBuf, String> {
        let strict = self.node.place().at("strict").join("runc");
        if self.column.strict { Ok(strict) } else { real_runc(&self.node) }
    }

    /// Where the tests' own files for containers go.
    pub fn folder(&self) -> PathBuf {
        let folder = self.node.place().at("matrix");
        let _ = std::fs::create_dir_all(&folder);
        folder
    }

    /// Removes what a row left, and waits until only the holder has leases.
    ///
    /// # Errors
    /// When something stays.
    pub fn tidy(&self) -> Result<(), String> {
        // Each call of the CLI costs half a second where the machine is emulated.
        let listed = self.node.docker_ok(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]);
        let listed = listed.lines().filter_map(|line| line.split_once(' '));
        let is_before = |name: &str| BEFORE.iter().any(|(before, _)| *before == name);
        let of_rows = listed.clone().filter(|(name, _)| !name.starts_with(HOLDER));
        let (before, gone): (Vec<_>, Vec<_>) = of_rows.partition(|(name, _)| is_before(name));
        let gone: Vec<&str> = gone.into_iter().map(|(name, _)| name).collect();
        if !gone.is_empty() {
            // One with --rm may be quicker.
            let _ = self.node.docker(&[&["rm", "-f", "-v"], gone.as_slice()].concat());
        }
        for (name, _) in before.iter().filter(|(_, status)| status.starts_with("Up")) {
            self.node.docker_ok(&["kill", name]);
        }
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let others = self.leases(|id| id != self.holder);
            if others.is_empty() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("leases stay on {}", crate::cell::shown(&others)));
            }
            self.node.gpuctl(&["doctor", "--fix"]);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Kills what is alive in cgroups of containers that Docker does not show running: an Engine whose start
    /// fails late may leave runc's init. How many there were. Only cgroups of this place are looked at: none is
    /// another Engine's.
    ///
    /// # Errors
    /// When one cannot be killed.
    pub fn kill_unstarted(&self) -> Result<usize, String> {
        let mut killed = 0;
        for folder in processes::cgroups(self.node.place()) {
            let below = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            for cgroup in below.map(|entry| entry.path()).chain([folder.clone()]) {
                let name = cgroup.file_name().unwrap_or_default().to_string_lossy();
                if container_of(&name).is_none_or(|id| self.running(id)) {
                    continue;
                }
                let procs = std::fs::read_to_string(cgroup.join("cgroup.procs"));
                for pid in procs.iter().flat_map(|p| p.lines()).filter_map(|l| l.parse().ok()) {
                    kill(Pid::from_raw(pid), Signal::SIGKILL)
                        .map_err(|e| format!("cannot end {pid} in {}: {e}", cgroup.display()))?;
                    killed += 1;
                }
            }
        }
        Ok(killed)
    }

    /// Whether Docker shows a container running.
    pub fn running(&self, name: &str) -> bool {
        self.node.docker(&["inspect", "--format", "{{.State.Running}}", name]).stdout.trim()
            == "true"
    }
}

/// The container that a cgroup of this name is of: `ID` by the Engine, `docker-ID.scope` by systemd, and
/// `SLICE:docker:ID` where a shim forgot to say that it meant systemd.
fn container_of(cgroup: &str) -> Option<&str> {
    let scope = cgroup.strip_prefix("docker-").and_then(|rest| rest.strip_suffix(".scope"));
    let id = scope.or(cgroup.rsplit(':').next())?;
    (id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

/// The Debian whose Engine a column has, with what the CLI needs besides; `None` for the machine's own.
///
/// # Errors
/// Why it cannot be had here.
pub fn debian(column: Column) -> Result<Option<Debian>, String> {
    let Some(suite) = column.suite() else { return Ok(None) };
    let debian = Debian::of(suite).ok_or_else(|| format!("Debian {suite} cannot be had"))?;
    debian.root().add(suite, &CLI_PLUGINS)?;
    Ok(Some(debian))
}

/// Our line in what a command printed, if it failed with one. Docker's own refusals have none.
pub fn refusal(got: &Output) -> Option<String> {
    if got.code == 0 {
        return None;
    }
    let all = got.stderr.lines().chain(got.stdout.lines());
    let line = all.filter_map(|l| l.split_once("gpuctl: ").map(|(_, rest)| rest)).next()?;
    Some(line.trim_end().trim_end_matches(": unknown").trim_end_matches(": unknown.").to_owned())
}

/// Whether systemd may be asked for cgroups here: as the machine's first process, or as tests/matrix/under-systemd
/// has it.
pub fn systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// What `setup` does to a host that has NVIDIA's toolkit: the default runtime, and in strict mode a
/// `runc` of ours first on the Engine's PATH.
fn install(node: &mut Node, column: Column) -> Result<(), String> {
    let place = node.place().clone();
    let toolkit = place.at("nvidia");
    nvidia::install(&toolkit)?;
    let strict = place.at("strict");
    let ours = strict.join("runc");
    std::fs::create_dir_all(&strict).map_err(|e| format!("no folder for runc: {e}"))?;
    let _ = std::fs::remove_file(&ours);
    std::fs::hard_link(place.libexec().join("gpuctl-hook"), &ours)
        .map_err(|e| format!("cannot make {}: {e}", ours.display()))?;
    let runc = real_runc(node)?;
    // A runtime that daemon.json names by an absolute path: strict setup points it at the wrapper.
    let by_path = if column.strict { ours } else { runc.clone() };
    let folder = runc.parent().map(Path::to_owned);
    node.with_engine(|engine| {
        engine.default_runtime = None;
        engine.first_on_path = if column.strict { Some(strict) } else { folder };
        for (name, program) in [
            ("nvidia", toolkit.join("nvidia-container-runtime")),
            ("nvidia-legacy", toolkit.join("nvidia-container-runtime.legacy")),
            ("by-path", by_path),
        ] {
            engine.more.extend(["--add-runtime".into(), format!("{name}={}", program.display())]);
        }
        engine.toolkit = Some(toolkit);
    });
    Ok(())
}

/// The runtime behind the name `runc` on an Engine without us: where the machine's root lacks a
/// capability, the one that leaves that out of `--privileged`.
fn real_runc(node: &Node) -> Result<PathBuf, String> {
    let narrow = node.place().libexec().join("runc");
    if narrow.is_file() { Ok(narrow) } else { node.site().engine().runc() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_cgroup_is_known_by_each_of_its_names() {
        let id = "0123456789abcdef".repeat(4);
        let of = |name: String| container_of(&name).map(str::to_owned);
        for name in
            [id.clone(), format!("docker-{id}.scope"), format!("gpuctl-a1.slice:docker:{id}")]
        {
            assert_eq!(of(name.clone()), Some(id.clone()), "{name}");
        }
        // A container of podman's, one without an id, and what else lies there.
        for name in [
            format!("libpod-{id}.scope"),
            format!("docker-{id}"),
            format!("docker-{}.scope", &id[1..]),
            id.replace('a', "g"),
            "gpuctl-a1.slice".into(),
            String::new(),
        ] {
            assert_eq!(of(name.clone()), None, "{name}");
        }
    }
}
