//! Other programs that make containers: Compose, swarm, podman, ctr, and the runtime by itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gpuctl_sim::command::{self, Output};
use serde_json::json;

use super::{Row, Tried};
use crate::cell::{Cell, Verdict, judge};
use crate::probe;
use crate::trial::{FREE, HELD, Trial, refusal};

pub(super) const ROWS: &[Row] = &[
    Row {
        id: "compose-devices",
        what: "Compose's `deploy.resources.reservations.devices`",
        run: compose_devices,
    },
    Row {
        id: "compose-up",
        what: "`docker compose up` of a service with a device node",
        run: compose_up,
    },
    Row {
        id: "swarm",
        what: "a swarm service of a CUDA image that binds a device node",
        run: swarm,
    },
    Row { id: "podman", what: "`podman run --device`, with our gate in hooks.d", run: podman },
    Row { id: "ctr", what: "`ctr run --device` at the Engine's containerd", run: ctr },
];

/// The longest that one of these may take.
const LIMIT: Duration = Duration::from_secs(120);

/// A root filesystem in a folder, for programs that share no images with Docker.
pub(crate) fn rootfs(trial: &Trial) -> Result<PathBuf, String> {
    let root = trial.folder().join("rootfs");
    if root.join("bin/busybox").is_file() {
        return Ok(root);
    }
    for folder in ["bin", "tmp", "proc", "sys", "dev", "etc"] {
        std::fs::create_dir_all(root.join(folder)).map_err(|e| e.to_string())?;
    }
    gpuctl_sim::files::install(&command::find(&["busybox"])?, &root.join("bin/busybox"))?;
    for name in ["sh", "mknod", "rm", "echo", "sleep", "test"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name))
            .map_err(|e| e.to_string())?;
    }
    Ok(root)
}

/// Judges a program that runs the probe as its container's own, by the leases of `id` meanwhile.
pub(crate) fn judge_probe(
    trial: &Trial,
    mut program: Command,
    mine: impl Fn(&str) -> bool,
) -> Tried {
    let own = trial.holder.as_str();
    let (got, held) = std::thread::scope(|scope| {
        let running = scope.spawn(move || command::run(&mut program, LIMIT));
        let mut held = std::collections::BTreeSet::new();
        while !running.is_finished() {
            held.extend(trial.leases(|id| id != own && mine(id)));
            std::thread::sleep(Duration::from_millis(50));
        }
        let got = running.join().map_err(|_| "its thread ended in a panic".to_owned())?;
        Ok::<_, String>((got?, held))
    })?;
    if let Some(line) = refusal(&got) {
        return Ok(Verdict { cell: Cell::Refused, detail: line });
    }
    if got.code != 0 {
        return Err(got.to_string());
    }
    judge(&probe::read(&got.stdout, &trial.devices())?, &held)
}

/// First with a GPU that the holder has, then with a free one; see [`Trial::run_named`].
fn named(trial: &Trial, with: impl Fn(usize, &str) -> Tried) -> Tried {
    let first = with(HELD[0], "of-another")?;
    if matches!(first.cell, Cell::NotApplicable(_)) {
        return Ok(first);
    }
    if matches!(first.cell, Cell::NotCaught | Cell::Leased) {
        let first = first.noting(&format!("GPU {}, which another container holds", HELD[0]));
        return Ok(Verdict { cell: Cell::NotCaught, ..first });
    }
    trial.tidy()?;
    Ok(with(FREE, "of-nobody")?.noting(&format!("of a GPU that another holds: {}", first.cell)))
}

fn shell(trial: &Trial) -> String {
    format!("{}; sleep 1", probe::script(&trial.devices()))
}

/// Compose as this Engine's users have it: the CLI's plugin, else the older program by itself.
fn compose(trial: &Trial, arguments: &[&str]) -> Result<Option<Output>, String> {
    let engine = trial.node.site().engine();
    let plugin = trial.node.docker(&["compose", "version"]).code == 0;
    let mut program = match plugin {
        true => engine.docker(),
        false if !trial.takes_cdi() => match command::find(&["docker-compose"]) {
            Ok(found) => {
                let mut program = Command::new(found);
                for (name, value) in engine.environment() {
                    program.env(name, value);
                }
                program
            }
            Err(_) => return Ok(None),
        },
        false => return Ok(None),
    };
    if plugin {
        program.arg("compose");
    }
    command::run(program.args(arguments), LIMIT).map(Some)
}

fn composed(trial: &Trial, name: &str, service: &str) -> Tried {
    let folder = trial.folder().join(name);
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let file = folder.join("compose.yaml");
    let text = format!(
        "version: \"3.8\"\nservices:\n  gpu:\n    image: busybox\n    container_name: {name}\n    \
         command: sleep 100000\n    network_mode: none\n    stop_grace_period: 0s\n{service}"
    );
    gpuctl_sim::files::write(&file, &text)?;
    let file = file.display().to_string();
    match compose(trial, &["-f", &file, "up", "-d"])? {
        None => Ok(Verdict::not_applicable("Compose is not installed")),
        Some(got) => trial.judge_start(&got, name),
    }
}

fn compose_devices(trial: &mut Trial) -> Tried {
    named(trial, |index, name| {
        let service = format!(
            "    deploy:\n      resources:\n        reservations:\n          devices:\n            \
             - driver: nvidia\n              device_ids: [\"{index}\"]\n              \
             capabilities: [gpu]\n"
        );
        composed(trial, name, &service)
    })
}

fn compose_up(trial: &mut Trial) -> Tried {
    named(trial, |index, name| {
        let minor = trial.node.minor(index);
        let service = format!("    devices:\n      - /dev/nvidia{minor}:/dev/nvidia{minor}\n");
        composed(trial, name, &service)
    })
}

fn swarm(trial: &mut Trial) -> Tried {
    let node = &trial.node;
    // Another column's swarm, or the machine's own, may have the usual port.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let address = port.map_err(|e| format!("no free port: {e}"))?.to_string();
    let init =
        node.docker(&["swarm", "init", "--advertise-addr", &address, "--listen-addr", &address]);
    if init.code != 0 {
        let said = init.stderr.lines().next().unwrap_or("nothing").trim();
        return Ok(Verdict::not_applicable(format!("docker swarm init says: {said}")));
    }
    let minor = node.minor(HELD[0]);
    let mount = format!("type=bind,source=/dev/nvidia{minor},target=/dev/nvidia{minor}");
    let create = [
        "service",
        "create",
        "--detach",
        "--name",
        "swarm",
        "--network",
        "host",
        "--restart-condition",
        "none",
        "--no-resolve-image",
        "--mount",
        &mount,
        "cuda-like",
        "sleep",
        "100000",
    ];
    let verdict = swarm_service(trial, &create, &format!("/dev/nvidia{minor}"), minor);
    node.docker(&["service", "rm", "swarm"]);
    node.docker(&["swarm", "leave", "--force"]);
    verdict
}

fn swarm_service(trial: &Trial, create: &[&str], path: &str, minor: u32) -> Tried {
    let node = &trial.node;
    node.docker_ok(create);
    let until = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let filter = "label=com.docker.swarm.service.name=swarm";
        let shown = node.docker_ok(&["ps", "-q", "--no-trunc", "--filter", filter]);
        if let Some(id) = shown.lines().next() {
            let verdict = trial.judge(id)?;
            if verdict.cell != Cell::NoAccess {
                return Ok(verdict);
            }
            let got = node.docker(&["exec", id, "sh", "-c", &probe::of_path(path, (195, minor))]);
            let open = probe::read(&got.stdout, &[(195, minor)].into())?;
            return judge(&open, &trial.leased(id));
        }
        let tasks =
            node.docker(&["service", "ps", "--no-trunc", "--format", "{{.Error}}", "swarm"]);
        if let Some((_, line)) = tasks.stdout.split_once("gpuctl: ") {
            return Ok(Verdict { cell: Cell::Refused, detail: line.trim().into() });
        }
        if !tasks.stdout.trim().is_empty() || std::time::Instant::now() > until {
            return Err(format!("the service does not run\n{tasks}"));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn podman(trial: &mut Trial) -> Tried {
    let Ok(podman) = command::find(&["podman"]) else {
        return Ok(Verdict::not_applicable("podman is not installed"));
    };
    if trial.takes_cdi() {
        return Ok(Verdict::not_applicable("podman has nothing to do with the Engine: see 20.10"));
    }
    let (root, place) = (rootfs(trial)?, trial.node.place().clone());
    let folder = trial.folder();
    let hooks = folder.join("hooks.d");
    std::fs::create_dir_all(&hooks).map_err(|e| e.to_string())?;
    let hook = place.libexec().join("gpuctl-hook");
    let config = place.config().display().to_string();
    let text = json!({
        "version": "1.0.0",
        "hook": {"path": hook, "args": ["gpuctl-hook", "gate", "--config", config]},
        "when": {"always": true},
        "stages": ["createRuntime"],
    });
    gpuctl_sim::files::write(&hooks.join("gpuctl.json"), &text.to_string())?;
    let runc = trial.node.site().engine().runc()?;
    let run = |name: &str, flags: &[String]| {
        let mut program = Command::new(&podman);
        program.arg("--root").arg(folder.join("podman")).arg("--runroot").arg(folder.join("prun"));
        program.args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
        program.arg("--hooks-dir").arg(&hooks).arg("--runtime").arg(&runc);
        program.args(["run", "--rm", "--network", "none", "--cap-add", "MKNOD", "--name", name]);
        // As for ctr.
        program.args(["--pids-limit", "-1"]);
        // Where root may not raise its own limits, podman's default ones are too high.
        program.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]);
        program.arg("--cgroup-parent").arg(format!("/{}", place.cgroup())).args(flags);
        program.args(["--rootfs"]).arg(&root).args(["/bin/sh", "-c", &shell(trial)]);
        judge_probe(trial, program, |_| true)
    };
    let plain = run("plain", &[])?;
    if plain.cell != Cell::NoAccess {
        return Ok(plain.noting("without any device"));
    }
    named(trial, |index, name| {
        let minor = trial.node.minor(index);
        let node = place.dev().join(format!("nvidia{minor}"));
        run(name, &["--device".into(), format!("{}:/dev/nvidia{minor}", node.display())])
    })
}

fn ctr(trial: &mut Trial) -> Tried {
    let (root, place) = (rootfs(trial)?, trial.node.place().clone());
    let engine = trial.node.site().engine();
    let socket = place.exec().join("containerd/containerd.sock");
    named(trial, |index, name| {
        let minor = trial.node.minor(index);
        // The node's own file: ctr does not live in the Engine's /dev.
        let node = place.dev().join(format!("nvidia{minor}"));
        // containerd's shim keeps runc's states of all containerds of a machine in one folder.
        let name = format!("{}-{name}", place.cgroup());
        let mut program = engine.inside(Path::new("/usr/bin/ctr"));
        program.arg("-a").arg(&socket).args(["run", "--rm", "--rootfs"]);
        program.arg("--cgroup").arg(format!("/{}/{name}", place.cgroup()));
        // Where version 1 has the controllers, a version 2 beside it has none.
        program.args(["--cpu-shares", "0"]);
        program.arg("--device").arg(&node).arg(&root).arg(&name);
        program.args(["/bin/sh", "-c", &shell(trial)]);
        judge_probe(trial, program, |id| id == name)
    })
}

/// A bundle of a container that has one GPU's node and probes, as a program makes it that knows
/// nothing of Docker: BuildKit, or somebody by hand.
fn bundle(trial: &Trial, name: &str, minor: u32) -> Result<PathBuf, String> {
    let bundle = trial.folder().join(name);
    std::fs::create_dir_all(&bundle).map_err(|e| e.to_string())?;
    let caps = ["CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL"];
    let spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/sh", "-c", shell(trial)], "cwd": "/", "user": {"uid": 0, "gid": 0},
            "env": ["PATH=/bin"],
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "root": {"path": rootfs(trial)?},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
        ],
        "linux": {
            "cgroupsPath": format!("/{}/{name}", trial.node.place().cgroup()),
            "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network"}],
            "devices": [{"path": "/dev/nvidia0", "type": "c", "major": 195, "minor": minor}],
            "resources": {"devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "access": "m"},
                {"allow": true, "type": "c", "major": 195, "minor": minor, "access": "rwm"},
            ]},
        },
    });
    gpuctl_sim::files::write(&bundle.join("config.json"), &spec.to_string())?;
    Ok(bundle)
}

/// The `runc` that is first on the Engine's PATH, on such a bundle.
fn runc(trial: &Trial, program: &Path, bundle: &Path) -> Command {
    let mut runc = trial.node.site().engine().inside(program);
    runc.env("GPUCTL_CONFIG", trial.node.place().config());
    runc.arg("--root").arg(bundle.join("r"));
    runc
}

/// What BuildKit calls for a `RUN` that is given a GPU: runc, with an id of its own making, of which
/// Docker has no files.
pub(super) fn as_buildkit(trial: &Trial) -> Tried {
    named(trial, |index, name| {
        let bundle = bundle(trial, name, trial.node.minor(index))?;
        let mut runc = runc(trial, &trial.runc_on_path()?, &bundle);
        runc.args(["run", "--bundle"]).arg(&bundle).arg("--keep").arg(name);
        let verdict = judge_probe(trial, runc, |id| id == name);
        let mut delete = self::runc(trial, &trial.runc_on_path()?, &bundle);
        let _ = command::run(delete.args(["delete", name]), LIMIT)?;
        verdict
    })
}

/// `restore` of a bundle with a GPU's node. CRIU does not run on every kernel, so what is judged is
/// the spec that the wrapper leaves to the real runtime, and what the ledger then says.
pub(super) fn restore(trial: &Trial) -> Tried {
    let place = trial.node.place();
    let entry = match trial.column.strict {
        true => trial.runc_on_path()?,
        false => place.libexec().join("gpuctl-gate"),
    };
    named(trial, |index, name| {
        let bundle = bundle(trial, name, trial.node.minor(index))?;
        let mut runc = runc(trial, &entry, &bundle);
        runc.args(["restore", "--bundle"]).arg(&bundle).arg("--image-path").arg(&bundle).arg(name);
        let got = command::run(&mut runc, LIMIT)?;
        if let Some(line) = refusal(&got) {
            return Ok(Verdict { cell: Cell::Refused, detail: line });
        }
        let text = std::fs::read(bundle.join("config.json")).map_err(|e| e.to_string())?;
        let spec = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
        let all = trial.node.gpus().iter().map(|g| g.minor).collect();
        let opens = gpuctl_tests::check::minors_of_spec(&spec, &all);
        judge(&opens.into_iter().map(|m| (195, m)).collect(), &trial.leased(name))
    })
}
