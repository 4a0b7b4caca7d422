//! A node for one test: Engine, GPUs, ledger, and what happens to them on bad days.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gpuctl_ledger::config::Config;
use gpuctl_ledger::store::{Store, open};
use gpuctl_sim::command::{self, Output};
use gpuctl_sim::engine;
use gpuctl_sim::etcd::Etcd;
use gpuctl_sim::files::Gpus;
use gpuctl_sim::site::{Plan, Site};
use gpuctl_sim::{Place, processes, sweep};

use crate::{inventory, programs};

/// Where the tests' places are. Short, for the sockets below, and no tmpfs, for overlay2.
pub const BASE: &str = "/var/tmp/gpuctl-tests";
/// The longest that one command of a test may take.
pub const LIMIT: Duration = Duration::from_secs(60);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Where leases are kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ledger {
    /// SQLite in the node's folder.
    #[default]
    Sqlite,
    /// The node's own etcd, of so many members.
    Etcd(usize),
    /// What this URL names: two nodes on one etcd.
    Url(String),
}

/// What the node is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// A profile of tests/profiles.
    pub profile: &'static str,
    /// Where leases are kept.
    pub ledger: Ledger,
    /// The service runs.
    pub service: bool,
    /// The product is installed. Else a runtime that only passes on stands in its place.
    pub product: bool,
    /// The node's name in the ledger.
    pub name: &'static str,
    /// The inventory is there from the start, as if the product had been set up. Else the product
    /// has to find the GPUs itself.
    pub inventory: bool,
    /// More TOML for the config: `[policy]`...
    pub config: String,
    /// More TOML for `[volumes]`; with it the Engine sees what is mounted in the place's `volumes`, as
    /// it does on a host where it has the host's mounts.
    pub volumes: Option<&'static str>,
    /// The folder that is Docker's data root: on a file system of its own, see [`crate::loop_fs`]. Seen by
    /// the calling thread and what it starts.
    pub data: Option<PathBuf>,
    /// How the Engine is started.
    pub engine: engine::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            profile: "a100x8",
            ledger: Ledger::Sqlite,
            service: false,
            product: true,
            name: "node1",
            inventory: true,
            config: String::new(),
            volumes: None,
            data: None,
            engine: engine::Options::default(),
        }
    }
}

/// A node that runs. Dropped, all of it is gone; `GPUCTL_KEEP=1` leaves it for a look.
pub struct Node {
    site: Site,
    plan: Plan,
    etcd: Option<Etcd>,
    service: bool,
}

impl Node {
    /// Starts one.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(options: Options) -> Self {
        Self::try_start(options).unwrap_or_else(|why| panic!("the node does not come up: {why}"))
    }

    fn try_start(options: Options) -> gpuctl_sim::Result<Self> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            sweep::sweep(Path::new(BASE))?;
        }
        let name = format!("{}-{number}", std::process::id());
        let place = Place::new(&Path::new(BASE).join(name))?;
        place.create()?;
        sweep::claim(&place)?;
        if let Some(folder) = &options.data {
            bind(folder, &place.data())?;
        }
        let mut engine = options.engine;
        if !options.product && engine.runtime.is_none() {
            engine.runtime = Some(pass_through(&place)?);
        }
        let etcd = match options.ledger {
            Ledger::Etcd(members) => Some(Etcd::start(&place.at("etcd"), members)?),
            _ => None,
        };
        let ledger = match options.ledger {
            Ledger::Sqlite => None,
            Ledger::Etcd(_) => etcd.as_ref().map(Etcd::url),
            Ledger::Url(url) => Some(url),
        };
        let volumes = options.volumes.unwrap_or_default();
        let more = format!("{}\n{}{volumes}\n", options.config, place.volumes_config());
        if options.volumes.is_some() {
            place.share_volumes()?;
        }
        let plan = Plan {
            programs: options.product.then(programs::programs),
            sim: programs::sim(),
            profile: programs::profile(options.profile),
            gpus: Gpus::Simulated,
            node: options.name.into(),
            ledger,
            more,
            engine: engine.clone(),
        };
        let site = Site::at(place, engine)?;
        let node = Self { site, plan, etcd, service: options.service };
        node.site.lay_out(&node.plan)?;
        if options.product && options.inventory {
            node.write_inventory();
        }
        node.up()?;
        Ok(node)
    }

    fn up(&self) -> gpuctl_sim::Result<()> {
        self.site.start()?;
        if self.service { self.site.start_service() } else { Ok(()) }
    }

    /// Its files.
    pub fn place(&self) -> &Place {
        self.site.place()
    }

    /// Its Engine and programs.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Its own etcd.
    ///
    /// # Panics
    /// When it has none.
    pub fn etcd(&mut self) -> &mut Etcd {
        self.etcd.as_mut().expect("a node with Ledger::Etcd")
    }

    /// Runs `docker ...` on it.
    ///
    /// # Panics
    /// When the CLI cannot be started.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        let mut docker = self.site.engine().docker();
        command::run(docker.args(arguments), LIMIT).expect("the Docker CLI starts")
    }

    /// Runs `docker gpuctl ...` as root, to be killed at a step of its journal: `scale:restart:begun`.
    ///
    /// # Panics
    /// When the CLI cannot be started, or the command was not killed there.
    #[track_caller]
    pub fn gpuctl_killed_at(&self, point: &str, arguments: &[&str]) -> Output {
        let mut docker = self.site.engine().docker();
        docker.env("GPUCTL_KILL_AT", point).arg("gpuctl").args(arguments);
        let got = command::run(&mut docker, LIMIT).expect("the Docker CLI starts");
        assert_ne!(
            got.code, 0,
            "it was not killed at {point}: built with --features faults?\n{got}"
        );
        assert!(
            !got.stderr.contains("error: "),
            "it failed before it was killed at {point}\n{got}"
        );
        got
    }

    /// Starts `docker ...` in the background, as the first of a process group, with its outputs
    /// kept nowhere: for what is to be killed, or to wait.
    ///
    /// # Panics
    /// When the CLI cannot be started.
    pub fn spawn(&self, arguments: &[&str]) -> std::process::Child {
        use std::os::unix::process::CommandExt as _;
        let mut docker = self.site.engine().docker();
        docker.args(arguments).process_group(0).stdin(Stdio::null());
        docker.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the Docker CLI starts")
    }

    /// Runs `docker ...`, which must end with 0, and gives its output without the last newline.
    ///
    /// # Panics
    /// When it ends otherwise.
    #[track_caller]
    pub fn docker_ok(&self, arguments: &[&str]) -> String {
        let got = self.docker(arguments);
        assert_eq!(got.code, 0, "{got}\n{}", self.site.engine().last_words());
        got.stdout.trim_end().to_owned()
    }

    /// Runs `docker gpuctl ...` as root.
    ///
    /// # Panics
    /// When the CLI cannot be started.
    pub fn gpuctl(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["gpuctl"];
        all.extend(arguments);
        self.docker(&all)
    }

    /// Runs `docker gpuctl ...`, which must end with 0, and gives its standard output.
    ///
    /// # Panics
    /// When it ends otherwise.
    #[track_caller]
    pub fn gpuctl_ok(&self, arguments: &[&str]) -> String {
        let got = self.gpuctl(arguments);
        assert_eq!(got.code, 0, "{got}\n{}", self.site.engine().last_words());
        got.stdout.trim_end().to_owned()
    }

    /// The command for `docker gpuctl ...` as another user; with the group of docker.sock it may talk
    /// to the Engine and to the service.
    pub fn gpuctl_command_as(&self, uid: u32, gid: u32, arguments: &[&str]) -> Command {
        let engine = self.site.engine();
        let mut command = engine.inside(Path::new("setpriv"));
        command.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups"]);
        command.arg(engine.cli()).arg("gpuctl").args(arguments);
        for (name, value) in self.site.engine().environment() {
            command.env(name, value);
        }
        command
    }

    /// Runs `docker gpuctl ...` as another user, see [`Node::gpuctl_command_as`].
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn gpuctl_as(&self, uid: u32, gid: u32, arguments: &[&str]) -> Output {
        command::run(&mut self.gpuctl_command_as(uid, gid, arguments), LIMIT)
            .expect("setpriv starts")
    }

    /// Gives the node other GPUs while it runs.
    ///
    /// # Panics
    /// When the profile is wrong.
    pub fn set_profile(&self, name: &str) {
        self.set_profile_file(&programs::profile(name));
    }

    /// As [`Node::set_profile`], from any file.
    ///
    /// # Panics
    /// When the profile is wrong.
    pub fn set_profile_file(&self, profile: &Path) {
        self.site.set_profile(profile).expect("a profile");
    }

    /// Power goes and comes back: every process dies, what is not on disk is gone, the boot id is
    /// another, and Engine and service start as they do at boot.
    ///
    /// # Panics
    /// When it does not come up again.
    pub fn reboot(&self) {
        self.power_off();
        self.up().expect("the node comes up again");
    }

    /// The first half of [`Node::reboot`].
    ///
    /// # Panics
    /// When something does not end.
    pub fn power_off(&self) {
        let place = self.place();
        let images = place.at("volumes");
        for mount in processes::mounts(place) {
            if mount.starts_with(&images) && mount != images {
                let _ = nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH);
            }
        }
        let etcd = self.etcd.as_ref().map(Etcd::pids).unwrap_or_default();
        let spared = |pid: &i32| etcd.contains(pid);
        processes::kill_all_but(place, spared).expect("all processes end");
        for gone in [place.run(), place.exec()] {
            std::fs::remove_dir_all(&gone).expect("what was in memory is gone");
            std::fs::create_dir_all(&gone).expect("an empty folder");
        }
        gpuctl_sim::files::fresh_id(&place.boot_id(), true).expect("another boot id");
    }

    /// The second half of [`Node::reboot`].
    ///
    /// # Panics
    /// When it does not come up.
    pub fn power_on(&self) {
        self.up().expect("the node comes up again");
    }

    /// kill -9 of dockerd; containers go on.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill_engine(&self) {
        self.site.engine().kill().expect("dockerd ends");
    }

    /// Starts dockerd again.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_engine(&self) {
        self.site.engine().start().expect("dockerd comes up");
    }

    /// kill -9 of the service.
    pub fn kill_service(&self) {
        if let Some(pid) = self.site.service() {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            wait_for("the service's end", Duration::from_secs(10), || {
                self.site.service().is_none()
            });
        }
    }

    /// Starts the service, to be killed at a step of its journal.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_service_killed_at(&self, point: &str) {
        self.site.start_service_with(&[("GPUCTL_KILL_AT", point)]).expect("the service comes up");
    }

    /// Starts the service.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_service(&self) {
        self.site.start_service().expect("the service comes up");
    }

    /// Stops the Engine and its containers, and starts it with other options: what an administrator
    /// does who installs the product, or another level of it.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn with_engine(&mut self, change: impl FnOnce(&mut engine::Options)) {
        self.site.engine().stop().expect("the Engine stops");
        change(&mut self.plan.engine);
        let place = self.site.place().clone();
        self.site = Site::at(place, self.plan.engine.clone()).expect("a Docker CLI");
        self.up().expect("the Engine comes up");
    }

    /// The config as the product reads it.
    ///
    /// # Panics
    /// When it is wrong.
    pub fn config(&self) -> Config {
        Config::read(&self.place().config()).expect("a config")
    }

    /// The store behind the ledger.
    ///
    /// # Panics
    /// When it cannot be opened.
    pub fn store(&self) -> Box<dyn Store> {
        open(&self.config().ledger).expect("the store opens")
    }

    /// Writes the inventory as the product does, from the profile.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_inventory(&self) {
        let inventory = inventory::of(&self.gpus());
        let text = serde_json::to_string_pretty(&inventory).expect("JSON");
        let path = self.config().paths.inventory();
        gpuctl_sim::files::write(&path, &text).expect("written");
    }

    /// Its GPUs, in nvidia-smi order.
    ///
    /// # Panics
    /// When the profile is wrong.
    pub fn gpus(&self) -> Vec<gpuctl_sim::profile::Gpu> {
        gpuctl_sim::Profile::read(&self.place().profile()).expect("a profile").gpus
    }

    /// The minor of the GPU with this index.
    ///
    /// # Panics
    /// When there is none.
    pub fn minor(&self, index: usize) -> u32 {
        self.gpus().get(index).expect("a GPU with this index").minor
    }

    /// The Docker container's whole id.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn id(&self, container: &str) -> String {
        self.docker_ok(&["inspect", "--format", "{{.Id}}", container])
    }

    /// Changes the config by text and leaves it root's alone.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn edit_config(&self, edit: impl FnOnce(String) -> String) {
        let path = self.place().config();
        let text = std::fs::read_to_string(&path).expect("a config");
        gpuctl_sim::files::write(&path, &edit(text)).expect("written");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::env::var_os("GPUCTL_KEEP").is_some() {
            eprintln!("kept: {}", self.place().root().display());
            return;
        }
        if std::thread::panicking() {
            eprintln!("the Engine's last words:\n{}", self.site.engine().last_words());
        }
        self.etcd = None;
        if let Err(why) = processes::remove(self.site.place()) {
            if std::thread::panicking() {
                eprintln!("{why}");
            } else {
                panic!("{why}");
            }
        }
    }
}

/// Has a folder seen in another place.
fn bind(folder: &Path, at: &Path) -> gpuctl_sim::Result<()> {
    use nix::mount::{MsFlags, mount};
    let none: Option<&str> = None;
    mount(Some(folder), at, none, MsFlags::MS_BIND, none)
        .map_err(|e| format!("cannot bind {}: {e}", folder.display()))
}

/// `docker run -d --name NAME FLAGS` of a container that stays.
///
/// # Panics
/// When the CLI cannot be started.
#[track_caller]
pub fn run(node: &Node, name: &str, flags: &[&str]) -> Output {
    let program = ["busybox", "sleep", "100000"];
    node.docker(&[&["run", "-d", "--name", name], flags, &program].concat())
}

/// A runtime that only passes on.
fn pass_through(place: &Place) -> gpuctl_sim::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    if !gpuctl_sim::narrow::missing()?.is_empty() {
        return Ok(place.libexec().join("runc"));
    }
    let path = place.libexec().join("pass");
    let runc = command::find(&["runc"])?;
    gpuctl_sim::files::write(&path, &format!("#!/bin/sh\nexec {} \"$@\"\n", runc.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        .map_err(|e| e.to_string())?;
    Ok(path)
}

/// Asks again and again until it is so.
///
/// # Panics
/// When it is not within `limit`.
#[track_caller]
pub fn wait_for(what: &str, limit: Duration, mut so: impl FnMut() -> bool) {
    let until = Instant::now() + limit;
    while !so() {
        assert!(Instant::now() < until, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
