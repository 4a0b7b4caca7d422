//! create, start, kill, delete: with runc alone and with gpuctl-runtime, called as containerd's shim
//! calls a runtime.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gpuctl_ledger::config::Config;
use gpuctl_ledger::node::busy;
use gpuctl_ledger::view::NodeView;
use gpuctl_sim::{Place, Result, command};
use gpuctl_tests::Node;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::stage::Stage;
use crate::stats::Sample;
use crate::table::{Aim, Row};

/// The steps of a cycle; the wait is for the killed process.
const STEPS: [&str; 5] = ["create", "start", "kill", "wait for its end", "delete"];
/// The PATH that dockerd, and so its runtimes, have.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One way of running a container.
struct Variant {
    runtime: PathBuf,
    config: PathBuf,
    bundle: Bundle,
    steps: [Sample; 5],
    whole: Sample,
}

impl Variant {
    fn new(runtime: &Path, config: &Path, bundle: Bundle) -> Self {
        let (runtime, config) = (runtime.to_owned(), config.to_owned());
        Self { runtime, config, bundle, steps: Default::default(), whole: Sample::default() }
    }

    fn call(&self, words: &[&OsStr]) -> Result<Duration> {
        let folder = &self.bundle.folder;
        let log = folder.join("log.json");
        let said = folder.join("stderr");
        let _ = fs::remove_file(&log);
        let file = fs::File::create(&said).map_err(|e| format!("cannot make a log: {e}"))?;
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(folder.with_file_name("state")).arg("--log").arg(&log);
        command.args(["--log-format", "json"]).args(words);
        command.env_clear().env("PATH", PATH).env("GPUCTL_CONFIG", &self.config);
        command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let began = Instant::now();
        let status = command.status().map_err(|e| format!("the runtime does not start: {e}"))?;
        let took = began.elapsed();
        if status.success() {
            return Ok(took);
        }
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Err(format!("{}: {status}\n{}{}", command::shown(&command), read(&log), read(&said)))
    }

    fn cycle(&mut self, keep: bool) -> Result<()> {
        self.bundle.reset()?;
        let id = OsStr::new(&self.bundle.id).to_owned();
        let (folder, pidfile) = (self.bundle.folder.clone(), self.bundle.folder.join("init.pid"));
        let word = OsStr::new;
        let create = self.call(&[
            word("create"),
            word("--bundle"),
            folder.as_os_str(),
            word("--pid-file"),
            pidfile.as_os_str(),
            &id,
        ])?;
        let pid = fs::read_to_string(&pidfile).map_err(|e| format!("no pid file: {e}"))?;
        let pid = pid.trim().parse().map_err(|_| "the pid file holds no pid")?;
        let start = self.call(&[word("start"), &id])?;
        let kill = self.call(&[word("kill"), &id, word("9")])?;
        // We are its reaper, as the shim is.
        let began = Instant::now();
        waitpid(Pid::from_raw(pid), None).map_err(|e| format!("the container is lost: {e}"))?;
        let wait = began.elapsed();
        let delete = self.call(&[word("delete"), &id])?;
        if keep {
            let steps = [create, start, kill, wait, delete];
            self.steps.iter_mut().zip(steps).for_each(|(sample, took)| sample.add(took));
            self.whole.add(steps.iter().sum());
        }
        Ok(())
    }
}

fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// Both tables: what has an aim, and what it is made of.
pub(crate) fn measure(node: &Node, stage: &Stage, rounds: usize) -> Result<(Vec<Row>, Vec<Row>)> {
    let place = node.place();
    let real = command::find(&["runc"])?;
    let Stage { recorded, runc: configs, .. } = stage;
    let ours = place.libexec().join("gpuctl-gate");
    let plain = recorded.bundle(place, id('a'), 0)?;
    let with_gpu = recorded.bundle(place, id('b'), 1)?;
    // runc alone gets the spec that ours comes to, without our hooks: the same GPU by hand.
    let mut by_hand = recorded.bundle(place, id('c'), 0)?;
    let mut first = Variant::new(&ours, &configs.sqlite, with_gpu.clone());
    let spec = spec_with_gpu(&mut first)?;
    by_hand.spec = spec.replace(&first.bundle.id, &by_hand.id);
    // What runc itself needs to run two hooks, whatever they do.
    let mut hooked = recorded.bundle(place, id('f'), 0)?;
    hooked.spec = with_hooks(&spec.replace(&first.bundle.id, &hooked.id))?;
    let mut variants = [
        Variant::new(&real, &configs.sqlite, plain.clone()),
        Variant::new(&ours, &configs.sqlite, plain),
        Variant::new(&real, &configs.sqlite, by_hand),
        Variant::new(&ours, &configs.sqlite, with_gpu.clone()),
        Variant::new(&ours, &configs.etcd, with_gpu),
        Variant::new(&real, &configs.sqlite, hooked),
    ];
    take_turns(&mut variants, rounds)?;
    let [bare, without, by_hand, sqlite, etcd, hooked] = &variants;
    let whole = |what: &str, baseline: &Variant, ours: &Variant, aim| {
        Row::compare(what, &baseline.whole, &ours.whole, aim)
    };
    let mut rows = vec![
        whole("create to delete, no GPU: runc / gpuctl", bare, without, Aim::More(3.0)),
        whole("create to delete, 1 GPU: runc / gpuctl on SQLite", by_hand, sqlite, Aim::More(12.0)),
        whole("create to delete, 1 GPU: runc / gpuctl on etcd", by_hand, etcd, Aim::More(12.0)),
    ];
    rows.extend(own_check(node, rounds)?);
    let what = "1 GPU: runc / runc with two hooks that do nothing";
    let mut parts = vec![whole(what, by_hand, hooked, Aim::None)];
    let sets = [
        ("no GPU", bare, without),
        ("1 GPU, SQLite", by_hand, sqlite),
        ("1 GPU, etcd", by_hand, etcd),
    ];
    for (what, baseline, ours) in sets {
        for (name, (before, after)) in STEPS.iter().zip(baseline.steps.iter().zip(&ours.steps)) {
            parts.push(Row::compare(&format!("{what}: {name}"), before, after, Aim::None));
        }
    }
    parts.push(Row::alone("writing and syncing 4 KiB to this disk", &sync_cost(place, rounds)?));
    Ok((rows, parts))
}

/// With the service running, as on a host where it is installed: it keeps the ledger's file open, so
/// that not every call of the runtime has to fold the log into it.
pub(crate) fn measure_served(node: &Node, stage: &Stage, rounds: usize) -> Result<Vec<Row>> {
    let place = node.place();
    let (recorded, configs) = (&stage.recorded, &stage.runc);
    let with_gpu = recorded.bundle(place, id('b'), 1)?;
    let mut by_hand = recorded.bundle(place, id('c'), 0)?;
    let ours = place.libexec().join("gpuctl-gate");
    let mut first = Variant::new(&ours, &configs.sqlite, with_gpu.clone());
    by_hand.spec = spec_with_gpu(&mut first)?.replace(&first.bundle.id, &by_hand.id);
    let mut variants = [
        Variant::new(&command::find(&["runc"])?, &configs.sqlite, by_hand),
        Variant::new(&ours, &configs.sqlite, with_gpu),
    ];
    take_turns(&mut variants, rounds)?;
    let [by_hand, sqlite] = &variants;
    let what = "the same with the service running, on SQLite";
    Ok(vec![Row::compare(what, &by_hand.whole, &sqlite.whole, Aim::More(12.0))])
}

/// Rounds of all variants. The first warms caches and is not counted.
fn take_turns(variants: &mut [Variant], rounds: usize) -> Result<()> {
    let count = variants.len();
    for round in 0..=rounds {
        for step in 0..count {
            // Whoever comes first in a round is not always the same.
            if let Some(variant) = variants.get_mut((step + round) % count) {
                variant.cycle(round != 0)?;
            }
        }
    }
    Ok(())
}

/// What our runtime makes of a spec, less its own hooks, as runc finds it after create.
fn spec_with_gpu(variant: &mut Variant) -> Result<String> {
    let bundle = variant.bundle.clone();
    variant.cycle(false)?;
    let mut spec = bundle.now()?;
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("hooks");
    }
    Ok(spec.to_string())
}

/// A spec with hooks where ours stand, which do nothing.
fn with_hooks(spec: &str) -> Result<String> {
    let nothing = command::find(&["true"])?;
    let mut spec: Value = serde_json::from_str(spec).map_err(|e| e.to_string())?;
    let hook = json!([{"path": nothing, "args": ["true"], "env": [format!("PATH={PATH}")],
        "timeout": 90}]);
    spec["hooks"] = json!({"createRuntime": hook, "poststop": hook});
    Ok(spec.to_string())
}

/// What the node itself is asked before a grant: who has a GPU open, and which grants are noted.
fn own_check(node: &Node, rounds: usize) -> Result<Vec<Row>> {
    let config: Config = node.config();
    let view = NodeView::new(&config).map_err(|e| e.to_string())?;
    let minors: Vec<u32> = node.gpus().iter().map(|g| g.minor).collect();
    let (mut scan, mut grants) = (Sample::default(), Sample::default());
    for _ in 0..rounds {
        let began = Instant::now();
        let found = busy::Look::begin()
            .and_then(|look| look.end(&minors, &config.gpu.watchers))
            .map_err(|e| e.to_string())?;
        scan.add(began.elapsed());
        std::hint::black_box(found);
        let began = Instant::now();
        let found = view.living_grants().map_err(|e| e.to_string())?;
        grants.add(began.elapsed());
        std::hint::black_box(found);
    }
    let listed = fs::read_dir("/proc").map_err(|e| format!("cannot list /proc: {e}"))?;
    let is_process = |name: &OsStr| name.as_encoded_bytes().first().is_some_and(u8::is_ascii_digit);
    let processes = listed.flatten().filter(|e| is_process(&e.file_name())).count();
    let what = format!("  of that the node's check: open devices of {processes} processes");
    Ok(vec![Row::alone(&what, &scan), Row::alone("  of that the node's check: grants", &grants)])
}

fn sync_cost(place: &Place, rounds: usize) -> Result<Sample> {
    use std::io::{Seek as _, Write as _};
    let path = place.at("bench/sync");
    let work = || -> std::io::Result<Sample> {
        let mut sample = Sample::default();
        let mut file = fs::File::create(&path)?;
        for _ in 0..=rounds {
            let began = Instant::now();
            file.rewind()?;
            file.write_all(&[7; 4096])?;
            file.sync_data()?;
            sample.add(began.elapsed());
        }
        Ok(sample)
    };
    work().map_err(|e| format!("cannot write {}: {e}", path.display()))
}
