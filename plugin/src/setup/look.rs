//! Looks at the host: everything that the plan is made from. Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gpuctl_ledger::config::Config;
use gpuctl_ledger::ledger::Ledger;
use gpuctl_ledger::model::{ContainerId, Inventory, Timestamp, Unit};
use gpuctl_ledger::node::{busy, files, links, mig, process};
use gpuctl_ledger::rules::liveness::Life;
use gpuctl_ledger::view::NodeView;

use super::access::{self, Access};
use super::daemon_json::DaemonJson;
use super::daemons;
use super::observed::{Observed, Places, Program, Seen, Service};
use super::plan::GATE;
use super::{flags, record, settings, units};
use crate::docker::{Docker, Inspect};
use crate::engine::api::Failure;
use crate::engine::{NVML_LIMIT, is_exempt};
use crate::gpu;

/// Longest file that is read, in bytes.
const LONGEST: u64 = 1 << 20;
/// The longest that all containers together are asked about.
const LIMIT: Duration = Duration::from_secs(60);
/// Where systemd looks for units, the first counting before the next.
const UNITS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// dockerd looks for this before it takes a bare --gpus.
const HOOK: &str = "nvidia-container-runtime-hook";

/// Looks at everything. `docker` is absent where the Engine does not answer. The ledger is asked only for
/// seeding: what takes setup away goes without it, since it may be damaged or out of reach.
///
/// # Errors
/// Where a file that counts cannot be read, or the Engine breaks off.
pub(super) fn look(
    config: &Config,
    mut places: Places,
    host: &str,
    docker: Option<&Docker>,
    seeding: bool,
) -> Result<Observed, Failure> {
    let engine = match docker {
        Some(docker) => Some(docker.info()?),
        None => None,
    };
    let socket = host.strip_prefix("unix://").map(Path::new);
    let dockerd = socket.and_then(|socket| daemons::behind(socket, "dockerd"));
    let mut flags =
        dockerd.as_ref().map(|d| flags::read(&daemons::words(d.pid))).unwrap_or_default();
    if let Some(file) = &flags.config_file {
        places.daemon_json.clone_from(file);
    }
    let inventory = gpu::read_inventory(config).ok().flatten();
    let driver = driver(config);
    let known = driver.as_ref().ok().or(inventory.as_ref());
    let containers = match docker {
        Some(docker) => containers(config, docker, known)?,
        None => Vec::new(),
    };
    let leases = if seeding { leases(config)? } else { BTreeMap::new() };
    let nvidia_config = places.at("/etc/nvidia-container-runtime/config.toml");
    let record_file = config.paths.state.join(record::FILE);
    let texts = texts(&places, [&nvidia_config, &record_file])?;
    let system = Some(places.at(flags::SYSTEM_CONTAINERD)).filter(|path| path.exists());
    let text = texts.get(&places.daemon_json).map(String::as_str);
    flags.containerd = flags::containerd(flags.containerd, text, system);
    let containerd =
        flags.containerd.as_deref().and_then(|socket| daemons::behind(socket, "containerd"));
    let record = texts.get(&record_file).and_then(|text| serde_json::from_str(text).ok());
    let search = search(dockerd.as_ref().map(|d| d.path.as_str()).unwrap_or_default(), &places);
    let own_file = places.libexec.join("gpuctl-hook");
    let own = Own::of(&own_file);
    let programs = names(config, &texts, &places, &nvidia_config)
        .into_iter()
        .filter_map(|name| Some((name.clone(), own.program(&find(&search, &name)?)?)))
        .collect();
    let running_path = dockerd.as_ref().map(|d| d.path.clone()).unwrap_or_default();
    let hooks: Vec<PathBuf> =
        running_path.split(':').map(|f| Path::new(f).join(HOOK)).filter(|p| p.is_file()).collect();
    let foreign = |path: &&PathBuf| own.program(path).is_none_or(|p| !p.ours);
    let stub = places.stub().join(HOOK);
    let char_nodes = links::nodes(&config.gpu.dev);
    let wanted = places.links_wanted();
    Ok(Observed {
        engine,
        host: host.to_owned(),
        systemd: places.at("/run/systemd/system").is_dir(),
        docker_unit: service(&places, "docker"),
        containerd_unit: service(&places, "containerd"),
        symlinks: std::fs::read_link(&wanted).map(|to| (wanted, to)).into_iter().collect(),
        own: ["gpuctl-runtime", GATE, "strict/runc", "stub/nvidia-container-runtime-hook"]
            .iter()
            .map(|name| places.libexec.join(name))
            .filter(|path| own.program(path).is_some_and(|p| p.ours))
            .collect(),
        hook: own.program(&own_file),
        toolkit: hooks.iter().find(|path| **path != stub && foreign(path)).cloned(),
        stub_elsewhere: hooks.iter().any(|path| *path != stub && !foreign(&path)),
        ctk: find(&search, "nvidia-ctk"),
        cdi: has_cdi(config),
        packaged: packaged(&places),
        service: service(&places, "gpuctl").is_some(),
        unlinked: char_nodes
            .iter()
            .filter(|node| !links::is_linked(&config.gpu.dev, node))
            .map(|node| node.name.clone())
            .collect(),
        programs,
        files: texts,
        nvidia_config,
        driver,
        inventory,
        containers,
        leases,
        record,
        dockerd,
        flags,
        containerd,
        places,
    })
}

/// Our own program, to know it by.
struct Own {
    file: Option<PathBuf>,
    id: Option<(u64, u64)>,
}

impl Own {
    fn of(hook: &Path) -> Self {
        let id = std::fs::metadata(hook).ok().map(|m| (m.dev(), m.ino()));
        Self { file: std::fs::canonicalize(hook).ok(), id }
    }

    fn program(&self, path: &Path) -> Option<Program> {
        let real = std::fs::canonicalize(path).ok()?;
        let meta = std::fs::metadata(&real).ok()?;
        if !meta.is_file() || meta.mode() & 0o111 == 0 {
            return None;
        }
        // Whoever may write to the folder may put another file there.
        let folder = std::fs::metadata(real.parent()?).ok()?;
        let roots_alone = |m: &std::fs::Metadata| m.uid() == 0 && m.mode() & 0o022 == 0;
        let ours = self.file.as_ref() == Some(&real) || self.id == Some((meta.dev(), meta.ino()));
        Some(Program { trusted: roots_alone(&meta) && roots_alone(&folder), ours, path: real })
    }
}

/// dockerd's PATH without our folders, then the usual one.
fn search(path: &str, places: &Places) -> Vec<PathBuf> {
    let ours = [places.strict(), places.stub()];
    let all = path.split(':').chain(units::USUAL_PATH.split(':')).map(PathBuf::from);
    all.filter(|folder| folder.is_absolute() && !ours.contains(folder)).collect()
}

fn find(search: &[PathBuf], name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    search.iter().map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Every program name that counts.
fn names(
    config: &Config,
    texts: &BTreeMap<PathBuf, String>,
    places: &Places,
    nvidia: &Path,
) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = ["runc".to_owned()].into();
    names.insert(config.runtime.real.to_string_lossy().into_owned());
    names.extend(config.runtime.runc.iter().map(|p| p.to_string_lossy().into_owned()));
    let json = texts.get(&places.daemon_json).map(String::as_str).unwrap_or_default();
    if let Ok(json) = DaemonJson::parse(json) {
        names.extend(json.runtimes().into_iter().filter_map(|r| r.program));
    }
    let list = texts.get(nvidia).and_then(|text| settings::nvidia_runtimes(text).ok());
    names.extend(list.unwrap_or_default());
    names
}

/// The texts of the files that setup may change.
fn texts(places: &Places, more: [&PathBuf; 2]) -> Result<BTreeMap<PathBuf, String>, Failure> {
    let own = [
        places.config.clone(),
        places.daemon_json.clone(),
        places.drop_in("docker"),
        places.drop_in("containerd"),
        places.links_unit(),
        places.links_rule(),
    ];
    let mut texts = BTreeMap::new();
    for path in own.iter().chain(more) {
        if let Some(text) = read(path)? {
            texts.insert(path.clone(), text);
        }
    }
    Ok(texts)
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    // A link is followed: daemon.json may be one, and is replaced where it leads.
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let wrong = |why: &str| Err(Failure::new(format!("{} {why}", path.display())));
    match std::fs::metadata(&real) {
        Err(_) if path.is_symlink() => return wrong("is a link that leads nowhere"),
        Ok(meta) if !meta.is_file() => return wrong("is no plain file"),
        Ok(meta) if meta.len() > LONGEST => return wrong("is longer than 1 MiB"),
        _ => {}
    }
    match files::read_bounded(&real, LONGEST) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| Failure::new(format!("{} is no text in UTF-8", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => {
            let why = gpuctl_ledger::config::plain_io_error(&e);
            Err(Failure::new(format!("{} cannot be read: {why}", path.display())))
        }
    }
}

/// A service's unit with its drop-ins, ours left out; `None` where there is no such unit.
fn service(places: &Places, name: &str) -> Option<Service> {
    let folders = UNITS.map(|folder| places.at(folder));
    let file = format!("{name}.service");
    let unit = folders.iter().map(|f| f.join(&file)).find(|p| p.is_file())?;
    let mut paths = vec![unit];
    let mut drop_ins = BTreeMap::new();
    for folder in folders.iter().rev() {
        let entries =
            std::fs::read_dir(folder.join(format!("{file}.d"))).into_iter().flatten().flatten();
        for path in entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "conf"))
        {
            drop_ins.insert(path.file_name().map(ToOwned::to_owned), path);
        }
    }
    let ours = places.drop_in(name);
    paths.extend(drop_ins.into_values().filter(|path| *path != ours));
    let text = |path: PathBuf| read(&path).ok().flatten().map(|text| (path, text));
    let texts: Vec<(PathBuf, String)> = paths.into_iter().filter_map(text).collect();
    let files = units::environment_files(texts.iter().map(|(_, t)| t.as_str()));
    let environment = files.iter().filter_map(|file| text(places.at(file))).collect();
    Some(Service { texts, environment })
}

/// Whether a package brings the unit and the rule that setup would make.
fn packaged(places: &Places) -> bool {
    let call = units::links_call(&places.libexec.join("gpuctl-hook"), &places.config);
    let has = |path: &PathBuf| read(path).ok().flatten().is_some_and(|text| text.contains(&call));
    places.packaged_links().iter().all(has)
}

fn has_cdi(config: &Config) -> bool {
    let entries = config.gpu.cdi_dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok());
    entries.flatten().flatten().any(|entry| {
        files::read_bounded(&entry.path(), 16 << 20)
            .is_ok_and(|text| String::from_utf8_lossy(&text).contains(&config.gpu.cdi_kind))
    })
}

fn driver(config: &Config) -> Result<Inventory, String> {
    let asked = config.clone();
    gpu::within(NVML_LIMIT, move || {
        let previous = gpu::read_inventory(&asked).ok().flatten();
        gpu::Driver::open(&asked)?.inventory(&asked, previous.as_ref())
    })
    .map_err(|e| e.to_string())
}

/// Who holds what and lives, by the ledger. One that is not there yet knows nobody, and is not made.
fn leases(config: &Config) -> Result<BTreeMap<Unit, (ContainerId, String)>, Failure> {
    let file = config.ledger.url.strip_prefix("sqlite://");
    if file.is_some_and(|file| !Path::new(file).exists()) {
        return Ok(BTreeMap::new());
    }
    let ledger = Ledger::open(config)?;
    let view = NodeView::new(config)?;
    let sight = ledger.sight()?;
    let now = Timestamp::now();
    let alive = sight
        .leases
        .into_iter()
        .filter(|(_, at)| !matches!(view.judge(&at.record, &sight.changing, now), Life::Gone));
    let holder = |lease: &gpuctl_ledger::model::Lease| {
        (lease.holder.container.clone(), lease.holder.shown().to_owned())
    };
    Ok(alive.map(|(unit, at)| (unit, holder(&at.record))).collect())
}

/// The containers, running or not.
fn containers(
    config: &Config,
    docker: &Docker,
    inventory: Option<&Inventory>,
) -> Result<Vec<Seen>, Failure> {
    let until = Instant::now() + LIMIT;
    let open = open(config, inventory);
    let driver = access::Driver { inventory, caps_major: mig::caps_major(config) };
    let mut seen = Vec::new();
    for row in docker.list(true)? {
        if Instant::now() > until {
            return Err(Failure::new(format!(
                "the Engine did not show all containers within {} s",
                LIMIT.as_secs()
            ))
            .hint("try again when it is less busy; nothing was changed"));
        }
        // One that is removed meanwhile is none.
        let Some(shown) = docker.inspect(&row.id)? else { continue };
        let Some(id) = shown.id() else { continue };
        let pid = shown.pid().filter(|_| shown.running());
        let mine = open.iter().filter(|(cgroups, _)| cgroups.contains(id.as_str()));
        seen.push(Seen {
            name: shown.name().to_owned(),
            runtime: shown.runtime().to_owned(),
            running: shown.running(),
            started: shown.started_at().unwrap_or_default().to_owned(),
            exempt: is_exempt(&shown, config),
            access: pid.map(|pid| may_open(&shown, &id, pid, driver)).unwrap_or_default(),
            open: mine.map(|(_, minor)| *minor).collect(),
            scope: pid.and_then(scope),
            pid,
            id,
        });
    }
    Ok(seen)
}

/// systemd's name of a process's cgroup, where it is a scope.
fn scope(pid: i32) -> Option<String> {
    let cgroup = process::cgroup_of(pid).ok()?;
    let name = Path::new(&cgroup.folder).file_name()?.to_str()?.to_owned();
    name.ends_with(".scope").then_some(name)
}

/// GPUs that are open: the cgroups of the process, and the minor.
fn open(config: &Config, inventory: Option<&Inventory>) -> Vec<(String, u32)> {
    let minors: Vec<u32> = inventory.iter().flat_map(|i| &i.gpus).map(|gpu| gpu.minor).collect();
    let found = busy::Look::begin().and_then(|look| look.end(&minors, &config.gpu.watchers));
    let found = found.map(|found| found.open).unwrap_or_default();
    let each = found
        .into_iter()
        .flat_map(|(minor, pids)| pids.into_iter().map(move |(pid, _)| (pid, minor)));
    each.filter_map(|(pid, minor)| {
        let bytes =
            files::read_bounded(&PathBuf::from(format!("/proc/{pid}/cgroup")), LONGEST).ok()?;
        Some((String::from_utf8_lossy(&bytes).into_owned(), minor))
    })
    .collect()
}

/// What a running container may open: by the kernel, else by its final spec, else by what was asked.
fn may_open(shown: &Inspect, id: &ContainerId, pid: i32, driver: access::Driver<'_>) -> Access {
    let asked = access::of_inspect(&shown.0, &devices(shown), driver);
    let privileged =
        shown.0.pointer("/HostConfig/Privileged") == Some(&serde_json::Value::Bool(true));
    let list = process::cgroup_of(pid).ok().and_then(|cgroup| {
        files::read_bounded(&Path::new(&cgroup.folder).join("devices.list"), LONGEST).ok()
    });
    let found = match list {
        Some(list) => access::of_list(&String::from_utf8_lossy(&list), driver),
        None => match daemons::bundle(pid, id) {
            Some(spec) => access::of_spec(&spec, driver),
            None => Access {
                all: asked.all || privileged,
                all_caps: asked.all_caps || privileged,
                ..asked.clone()
            },
        },
    };
    let open = found.all && privileged;
    let (minors, caps) = if open { (asked.minors, asked.caps) } else { (found.minors, found.caps) };
    // Asked for all of them, a privileged container means it.
    Access {
        minors,
        all: found.all,
        caps,
        all_caps: found.all_caps,
        privileged: open && !asked.all,
    }
}

/// Major and minor of the nodes that a container was given by --device.
fn devices(shown: &Inspect) -> Vec<(u64, u32)> {
    use std::os::unix::fs::FileTypeExt as _;
    let devices = shown.0.pointer("/HostConfig/Devices").and_then(serde_json::Value::as_array);
    let paths = devices.into_iter().flatten().filter_map(|d| d.get("PathOnHost")?.as_str());
    let numbers = |path: &str| {
        let meta = std::fs::metadata(path).ok().filter(|m| m.file_type().is_char_device())?;
        let minor = u32::try_from(nix::sys::stat::minor(meta.rdev())).ok()?;
        Some((nix::sys::stat::major(meta.rdev()), minor))
    };
    paths.filter_map(numbers).collect()
}
