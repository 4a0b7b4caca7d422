//! How large the root-run binary is, as a file and in memory, in each of its roles.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use gpuctl_sim::{Result, command};
use gpuctl_tests::Node;
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

use crate::bundle::Bundle;
use crate::stage::Stage;
use crate::stats::Sample;
use crate::table::{Aim, Row};

/// The first argument by which this program is its own small helper: it runs one program and prints
/// the most memory that it had. A process keeps the peak of the one that started it until its own
/// is higher, so that one is to be small.
pub(crate) const HELPER: &str = "--peak-of";

/// The helper: the program's exit status is passed on, its peak in KiB goes to stdout.
pub(crate) fn helper(words: &[String]) -> Result<u8> {
    let [program, rest @ ..] = words else { return Err("no program".into()) };
    // Should the program be told by its name what it is, its path says it.
    let status = Command::new(program)
        .args(rest)
        .stdout(Stdio::null())
        .status()
        .map_err(|e| format!("cannot start {program}: {e}"))?;
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).map_err(|e| e.to_string())?;
    let _ = writeln!(std::io::stdout(), "{}", usage.max_rss());
    Ok(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1))
}

/// A run of one role: its peak in bytes.
fn peak(program: &Path, words: &[&str], config: &Path, stdin: &str) -> Result<u64> {
    let me = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = Command::new(me);
    command.arg(HELPER).arg(program).args(words);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("GPUCTL_CONFIG", config);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that reads nothing may be gone already.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}\n{said}", command::shown(&command), output.status));
    }
    let kib: u64 = text.trim().parse().map_err(|_| format!("no peak in {text:?}"))?;
    Ok(kib * 1024)
}

/// The arguments of one of our hooks in a spec, without the program's name.
fn hook_words(spec: &Value, stage: &str) -> Result<Vec<String>> {
    let words = spec.pointer(&format!("/hooks/{stage}/0/args")).and_then(Value::as_array);
    let words = words.ok_or_else(|| format!("our runtime put no {stage} hook into the spec"))?;
    Ok(words.iter().skip(1).filter_map(Value::as_str).map(str::to_owned).collect())
}

struct Roles<'a> {
    node: &'a Node,
    rounds: usize,
}

impl Roles<'_> {
    /// The peak of a role, over some runs the highest.
    fn create(&self, bundle: &Bundle, config: &Path) -> Result<u64> {
        bundle.reset()?;
        let runtime = self.node.place().libexec().join("gpuctl-gate");
        let folder = bundle.folder.to_string_lossy();
        peak(&runtime, &["create", "--bundle", &folder, &bundle.id], config, "")
    }

    fn hook(&self, bundle: &Bundle, config: &Path, stage: &str) -> Result<u64> {
        let words = hook_words(&bundle.now()?, stage)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let hook = self.node.place().libexec().join("gpuctl-hook");
        // Any living process stands for the container's init; after its end there is none.
        let pid = if stage == "poststop" { 0 } else { std::process::id() };
        let state = json!({"ociVersion": "1.0.2", "id": bundle.id, "pid": pid,
            "bundle": bundle.folder, "status": "creating"});
        peak(&hook, &words, config, &state.to_string())
    }

    fn all(&self, bundle: &Bundle, config: &Path, name: &str) -> Result<Vec<Row>> {
        let [mut create, mut gate, mut release] = [0; 3];
        for _ in 0..self.rounds {
            create = create.max(self.create(bundle, config)?);
            gate = gate.max(self.hook(bundle, config, "createRuntime")?);
            self.forget(bundle, config)?;
            self.create(bundle, config)?;
            release = release.max(self.hook(bundle, config, "poststop")?);
        }
        let row = |role: &str, bytes| {
            Row::size(&format!("memory of the {role}, 1 GPU, {name}"), bytes, Aim::Below(16.0))
        };
        Ok(vec![row("wrapper's create", create), row("gate", gate), row("release", release)])
    }

    /// After the gate a lease stands on the process that was there for the container's init, this
    /// one, and that lives: it is taken off the books by hand. Without the gate between them, create
    /// and release are those of a container that was never let through.
    fn forget(&self, bundle: &Bundle, config: &Path) -> Result<()> {
        let config = gpuctl_ledger::config::Config::read(config).map_err(|e| e.to_string())?;
        let ledger = gpuctl_ledger::ledger::Ledger::open(&config).map_err(|e| e.to_string())?;
        let id =
            gpuctl_ledger::model::ContainerId::new(bundle.id.clone()).map_err(|e| e.to_string())?;
        ledger.release(&id, None, None).map_err(|e| e.to_string())?;
        gpuctl_ledger::node::notes::remove_grant(&config.paths, &id).map_err(|e| e.to_string())
    }
}

/// The table.
pub(crate) fn measure(node: &Node, stage: &Stage, rounds: usize) -> Result<Vec<Row>> {
    let place = node.place();
    let nothing = command::find(&["true"])?;
    // Nothing is behind our runtime, so that the peak is its own and not runc's.
    let Stage { recorded, nothing: configs, .. } = stage;
    let plain = recorded.bundle(place, "d".repeat(64), 0)?;
    let with_gpu = recorded.bundle(place, "e".repeat(64), 1)?;
    let hook = place.libexec().join("gpuctl-hook");
    let size = fs::metadata(&hook).map_err(|e| e.to_string())?.len();
    let roles = Roles { node, rounds };
    let mut rows = vec![Row::size("size of the root-run binary", size, Aim::Below(16.0))];
    let mut without = 0;
    for _ in 0..rounds {
        without = without.max(roles.create(&plain, &configs.sqlite)?);
    }
    let what = "memory of the wrapper's create, no GPU";
    rows.push(Row::size(what, without, Aim::Below(16.0)));
    rows.extend(roles.all(&with_gpu, &configs.sqlite, "SQLite")?);
    rows.extend(roles.all(&with_gpu, &configs.etcd, "etcd")?);
    let floor = peak(&nothing, &[], &configs.sqlite, "")?;
    rows.push(Row::size(
        "  (of a program that does nothing: what is always seen)",
        floor,
        Aim::None,
    ));
    Ok(rows)
}

/// Keeps the figures of [`crate::cycle`] honest about what is ours: each role by itself, with nothing
/// behind it.
pub(crate) fn roles(node: &Node, stage: &Stage, rounds: usize) -> Result<Vec<Row>> {
    let place = node.place();
    let nothing = command::find(&["true"])?;
    let Stage { recorded, nothing: configs, .. } = stage;
    let plain = recorded.bundle(place, "d".repeat(64), 0)?;
    let with_gpu = recorded.bundle(place, "e".repeat(64), 1)?;
    let roles = Roles { node, rounds };
    let version: &[&str] = &["--version"];
    let runtime = place.libexec().join("gpuctl-gate");
    let mut rows = Vec::new();
    let mut samples = [const { Sample::empty() }; 9];
    for _ in 0..rounds {
        let mut at = 0;
        let mut take = |work: &mut dyn FnMut() -> Result<u64>| -> Result<()> {
            let began = Instant::now();
            work()?;
            if let Some(sample) = samples.get_mut(at) {
                sample.add(began.elapsed());
            }
            at += 1;
            Ok(())
        };
        take(&mut || peak(&nothing, &[], &configs.sqlite, ""))?;
        take(&mut || peak(&runtime, version, &configs.sqlite, ""))?;
        take(&mut || roles.create(&plain, &configs.sqlite))?;
        for config in [&configs.sqlite, &configs.etcd] {
            take(&mut || roles.create(&with_gpu, config))?;
            take(&mut || roles.hook(&with_gpu, config, "createRuntime"))?;
            roles.forget(&with_gpu, config)?;
            roles.create(&with_gpu, config)?;
            take(&mut || roles.hook(&with_gpu, config, "poststop"))?;
        }
    }
    let [base, rest @ ..] = &samples;
    let names = [
        "role alone: a verb that is passed on",
        "role alone: create, no GPU",
        "role alone: create, 1 GPU, SQLite",
        "role alone: gate, SQLite",
        "role alone: release, SQLite",
        "role alone: create, 1 GPU, etcd",
        "role alone: gate, etcd",
        "role alone: release, etcd",
    ];
    for (name, sample) in names.iter().zip(rest) {
        rows.push(Row::compare(name, base, sample, Aim::None));
    }
    Ok(rows)
}
