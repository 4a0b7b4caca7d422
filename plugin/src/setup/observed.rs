//! What setup sees of a host, as data. [`super::look`] fills it, [`super::plan`] decides by it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gpuctl_ledger::model::{ContainerId, Inventory, Unit};

use super::flags::Flags;
use crate::docker::Info;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// As cooperative, but bare containers are only logged.
    Observe,
    /// Runtime entries, one of them the default.
    Cooperative,
    /// And a `runc` of ours first on the PATH of dockerd and containerd.
    Strict,
}

impl Level {
    /// Its word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Cooperative => "cooperative",
            Self::Strict => "strict",
        }
    }
}

/// Where everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// Before every path of the system that is not named by the config or by dockerd: `/`, but for
    /// tests and images of hosts.
    pub(super) root: PathBuf,
    /// gpuctl's own config.
    pub(super) config: PathBuf,
    /// dockerd's.
    pub(super) daemon_json: PathBuf,
    /// The folder of our programs.
    pub(super) libexec: PathBuf,
}

impl Places {
    /// A path of the system.
    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
    /// The folder with our `runc`.
    pub(super) fn strict(&self) -> PathBuf {
        self.libexec.join("strict")
    }
    /// Our `runc`.
    pub(super) fn runc(&self) -> PathBuf {
        self.strict().join("runc")
    }
    /// The folder with the stub.
    pub(super) fn stub(&self) -> PathBuf {
        self.libexec.join("stub")
    }
    /// The drop-in of a service. systemd reads them by name, and of several PATHs the last counts:
    /// after `override.conf`, which `systemctl edit` makes.
    pub(super) fn drop_in(&self, service: &str) -> PathBuf {
        self.at(&format!("/etc/systemd/system/{service}.service.d/zz-gpuctl.conf"))
    }
    /// The unit of the links.
    pub(super) fn links_unit(&self) -> PathBuf {
        self.at("/etc/systemd/system/gpuctl-links.service")
    }
    /// What `systemctl enable` would make of it.
    pub(super) fn links_wanted(&self) -> PathBuf {
        self.at("/etc/systemd/system/multi-user.target.wants/gpuctl-links.service")
    }
    /// The udev rule of the links.
    pub(super) fn links_rule(&self) -> PathBuf {
        self.at("/etc/udev/rules.d/70-gpuctl-links.rules")
    }
    /// The same unit and the same rule where a package of ours brings them: what setup makes would count
    /// before them.
    pub(super) fn packaged_links(&self) -> [PathBuf; 2] {
        ["systemd/system/gpuctl-links.service", "udev/rules.d/70-gpuctl-links.rules"]
            .map(|file| self.at("/usr/lib").join(file))
    }
}

/// A service of systemd.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Service {
    /// Its unit and drop-ins without ours, in systemd's order: path and text.
    pub(super) texts: Vec<(PathBuf, String)>,
    /// The files that it takes its environment from: path and text.
    pub(super) environment: Vec<(PathBuf, String)>,
}

impl Service {
    /// The PATH that its own settings give it.
    pub(super) fn path(&self) -> Option<String> {
        super::units::path_of(self.texts.iter().map(|(_, text)| text.as_str()))
    }
}

/// A process: dockerd or containerd.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Daemon {
    /// Its pid.
    pub(super) pid: i32,
    /// Its PATH.
    pub(super) path: String,
    /// Whether it runs as root of this host.
    pub(super) root: bool,
    /// `GPUCTL_CONFIG` of its environment.
    pub(super) config: Option<PathBuf>,
}

/// A program that a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    /// All links followed.
    pub(super) path: PathBuf,
    /// Whether it is root's and nobody else's to write.
    pub(super) trusted: bool,
    /// Whether it is ours.
    pub(super) ours: bool,
}

impl Program {
    /// Whether it is NVIDIA's runtime.
    pub(super) fn is_nvidia(&self) -> bool {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("nvidia-container-runtime") && !name.ends_with("-hook")
    }
}

/// A container, for what its runtime's name means to setup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its id.
    pub(super) id: ContainerId,
    /// Its name.
    pub(super) name: String,
    /// The runtime that it names.
    pub(super) runtime: String,
    /// Whether it runs.
    pub(super) running: bool,
    /// Its init, while it runs.
    pub(super) pid: Option<i32>,
    /// When it was last started, RFC 3339.
    pub(super) started: String,
    /// Whether root's exempt list has it.
    pub(super) exempt: bool,
    /// What it may open.
    pub(super) access: super::access::Access,
    /// The GPUs' minors that its processes have open now.
    pub(super) open: Vec<u32>,
    /// systemd's name of its cgroup, where systemd made that: `docker-ID.scope`.
    pub(super) scope: Option<String>,
}

/// All of it.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    /// Where everything is.
    pub(super) places: Places,
    /// The Engine's word; `None` where it does not answer (only for --remove).
    pub(super) engine: Option<Info>,
    /// Its endpoint.
    pub(super) host: String,
    /// dockerd.
    pub(super) dockerd: Option<Daemon>,
    /// dockerd's flags.
    pub(super) flags: Flags,
    /// containerd, where it is a service of its own.
    pub(super) containerd: Option<Daemon>,
    /// Whether systemd runs the host.
    pub(super) systemd: bool,
    /// docker.service.
    pub(super) docker_unit: Option<Service>,
    /// containerd.service.
    pub(super) containerd_unit: Option<Service>,
    /// Texts of files that setup may change, by path; those that are not there are left out.
    pub(super) files: BTreeMap<PathBuf, String>,
    /// Those of the names of our program that are there and are it.
    pub(super) own: BTreeSet<PathBuf>,
    /// Links that setup may make, and where they lead.
    pub(super) symlinks: BTreeMap<PathBuf, PathBuf>,
    /// What the programs named in daemon.json, `runc` and those of NVIDIA's config stand for, by the
    /// name as it is written.
    pub(super) programs: BTreeMap<String, Program>,
    /// Our hook program's file: whether it is there, and root's alone.
    pub(super) hook: Option<Program>,
    /// NVIDIA's nvidia-container-runtime-hook on dockerd's PATH.
    pub(super) toolkit: Option<PathBuf>,
    /// Whether a stub of ours is on the running dockerd's PATH in another folder than setup's own.
    pub(super) stub_elsewhere: bool,
    /// nvidia-ctk.
    pub(super) ctk: Option<PathBuf>,
    /// NVIDIA's config.
    pub(super) nvidia_config: PathBuf,
    /// Whether a CDI spec of the GPUs' kind is there.
    pub(super) cdi: bool,
    /// Whether a package of ours brings unit and rule of the links, for this program and this config.
    pub(super) packaged: bool,
    /// Whether gpuctl.service is known to systemd.
    pub(super) service: bool,
    /// NVIDIA's nodes without their link in /dev/char.
    pub(super) unlinked: Vec<String>,
    /// What the driver says there is.
    pub(super) driver: Result<Inventory, String>,
    /// What the node's file says there is.
    pub(super) inventory: Option<Inventory>,
    /// The containers.
    pub(super) containers: Vec<Seen>,
    /// Who holds what, by the ledger: the container and its name.
    pub(super) leases: BTreeMap<Unit, (ContainerId, String)>,
    /// What an earlier setup wrote down.
    pub(super) record: Option<super::record::Record>,
}

impl Observed {
    /// A file's text.
    pub(super) fn text(&self, path: &Path) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }
    /// What a program's name stands for.
    pub(super) fn program(&self, name: &str) -> Option<&Program> {
        self.programs.get(name)
    }
}
