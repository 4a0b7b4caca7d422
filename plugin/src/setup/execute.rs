//! Does what a plan says, step by step, and decides nothing.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gpuctl_ledger::config::{Config, plain_io_error};
use gpuctl_ledger::node::{files as node_files, links, process};

use super::keep::Kept;
use super::observed::{Observed, Places};
use super::plan::{Plan, Step};
use super::{daemons, files};
use crate::docker::Docker;
use crate::engine::api::Failure;
use crate::engine::{self, Context};
use crate::ui;

/// How long dockerd may take to read daemon.json anew.
const RELOAD_LIMIT: Duration = Duration::from_secs(15);
/// How long nvidia-ctk and systemctl may take.
const TOOL_LIMIT: Duration = Duration::from_secs(60);
/// Has NVIDIA's tool print a spec whose devices have names that do not change.
const CDI_WORDS: [&str; 4] =
    ["cdi", "generate", "--device-name-strategy=index", "--device-name-strategy=uuid"];
/// The longest CDI spec, in bytes.
const LONGEST_CDI: u64 = 16 << 20;

/// Where tests kill the program. Compiled out of releases.
#[cfg(feature = "faults")]
fn fault(step: &Step, when: &str) {
    crate::faults::point(&format!("setup:{}:{when}", step.word()));
}

/// Where tests kill the program: nothing in a release.
#[cfg(not(feature = "faults"))]
#[inline]
fn fault(_step: &Step, _when: &str) {}

pub(super) fn failed(what: &str, path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let text = format!("{} cannot be {what}", path.display());
    move |e| {
        Failure::new(format!("{text}: {}", plain_io_error(&e)))
            .hint("what came before is done; docker gpuctl setup goes on where this stopped")
    }
}

/// What steps need.
pub(super) struct Doing<'a> {
    /// What was seen.
    pub(super) seen: &'a Observed,
    /// The Engine, where it answers.
    pub(super) docker: Option<&'a Docker>,
    /// Where gpuctl's config is: it is read anew once it was written.
    pub(super) places: &'a Places,
    /// The settings before.
    pub(super) config: &'a Config,
}

impl Doing<'_> {
    /// Does all of it.
    ///
    /// # Errors
    /// The first step that fails; what came before stays, and is harmless by itself.
    pub(super) fn all(&self, plan: &Plan) -> Result<(), Failure> {
        let mut daemon_json = None;
        for step in &plan.steps {
            fault(step, "begun");
            match step {
                Step::File { path, before, .. } if *path == self.seen.places.daemon_json => {
                    daemon_json = Some(before.as_deref());
                    self.one(step)?;
                }
                Step::Reload { pid, default_runtime } => {
                    self.reload(*pid, default_runtime, daemon_json)?;
                }
                step => self.one(step)?,
            }
            fault(step, "done");
        }
        Ok(())
    }

    fn one(&self, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Symlink { path, target } => {
                files::symlink(path, target).map_err(failed("made", path))?;
            }
            Step::Unlink(path) => node_files::remove(path).map_err(failed("removed", path))?,
            Step::File { path, before, after, mode, backup } => {
                let now = files::text(path).map_err(failed("read", path))?;
                if now != *before {
                    return Err(Failure::new(format!(
                        "{} was changed by somebody else just now",
                        path.display()
                    ))
                    .hint("try again"));
                }
                if let (true, Some(text)) = (*backup, before) {
                    let copy = files::backup(path, text).map_err(failed("kept", path))?;
                    ui::print(&format!("kept {}", copy.display()));
                }
                match after {
                    Some(text) => {
                        files::write(path, text, *mode).map_err(failed("written", path))?
                    }
                    None => node_files::remove(path).map_err(failed("removed", path))?,
                }
            }
            Step::CharLinks(_) => drop(links::make(&self.config.gpu.dev, |_| true)),
            Step::Cdi { tool, output } => self.cdi(tool, output)?,
            Step::Inventory(_) => {
                let ctx = self.context()?;
                engine::refresh_inventory(&ctx)
                    .map_err(|e| Failure::new(e.to_string()).hint(e.hint()))?;
            }
            Step::Seeds(seeds) => self.seeds(seeds)?,
            Step::Keep(kept) => self.keep(kept)?,
            Step::DaemonReload => return self.daemon_reload(step),
            Step::Service => return self.service(step),
            Step::Reload { .. } => {}
        }
        ui::lines([step.told()]);
        Ok(())
    }

    pub(super) fn context(&self) -> Result<Context, Failure> {
        let path = &self.places.config;
        let config = Config::at(path).map_err(|e| Failure::new(e.to_string()))?;
        Context::open(config, path.clone())
    }

    /// Has NVIDIA's tool make the spec, and takes it only if it is one.
    fn cdi(&self, tool: &Path, output: &Path) -> Result<(), Failure> {
        let hint = format!(
            "{} cdi generate says more; docker gpuctl setup goes on where this stopped",
            tool.display()
        );
        let kind = &self.config.gpu.cdi_kind;
        let text = bounded(Command::new(tool).args(CDI_WORDS)).map_err(|why| {
            Failure::new(format!("{} cdi generate {why}", tool.display())).hint(hint.clone())
        })?;
        let spec = String::from_utf8(text).unwrap_or_default();
        if !(spec.contains(kind.as_str())
            && spec.contains("deviceNodes")
            && spec.contains("cdiVersion"))
        {
            return Err(Failure::new(format!(
                "{} cdi generate made no CDI spec of {kind}",
                tool.display()
            ))
            .hint(hint));
        }
        files::write(output, &spec, 0o644).map_err(failed("written", output))
    }

    /// SIGHUP, and then the Engine is asked until it says so. One that does not take daemon.json would
    /// not start with it either: then the text before comes back.
    fn reload(&self, pid: i32, default: &str, before: Option<Option<&str>>) -> Result<(), Failure> {
        let hang_up = || {
            let still = self.seen.host.strip_prefix("unix://").map(Path::new);
            let now = still.and_then(|socket| daemons::behind(socket, "dockerd"));
            if now.map(|d| d.pid) != Some(pid) {
                return Err(Failure::new("dockerd was started anew just now").hint("try again"));
            }
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGHUP,
            )
            .map_err(|e| Failure::new(format!("dockerd cannot be told to reload: {}", e.desc())))
        };
        hang_up()?;
        let until = Instant::now() + RELOAD_LIMIT;
        while Instant::now() < until {
            let info = self.docker.and_then(|docker| docker.info().ok());
            if info.is_some_and(|info| info.default_runtime == default) {
                ui::lines([format!("dockerd has read it: the default runtime is {default}")]);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let path = &self.seen.places.daemon_json;
        let mut failure = Failure::new(format!(
            "dockerd did not take {} within {} s",
            path.display(),
            RELOAD_LIMIT.as_secs()
        ))
        .hint("journalctl -u docker says why; mend it, then try again");
        if let Some(before) = before {
            let back = match before {
                Some(text) => files::write(path, text, 0o644),
                None => node_files::remove(path),
            };
            back.map_err(failed("put back", path))?;
            hang_up()?;
            failure = failure.details(vec![format!("{} is as it was before", path.display())]);
        }
        Err(failure)
    }

    /// Tells systemd of the nodes of containers' GPUs, for as long as they run.
    fn keep(&self, kept: &[Kept]) -> Result<(), Failure> {
        if self.places.root != Path::new("/") {
            return Ok(());
        }
        let nodes = links::nodes(&self.config.gpu.dev);
        for one in kept {
            // Of MIG devices' nodes systemd's list may have all: runc's own program has the right ones.
            let its = nodes
                .iter()
                .filter(|n| n.is_granted(&one.minors, &[]) || n.name.contains('/'))
                .map(|n| format!("DeviceAllow=/dev/char/{}:{} rwm", n.major, n.minor));
            let mut tell = Command::new("systemctl");
            tell.args(["set-property", "--runtime", one.scope.as_str()]).args(its);
            if let Err(why) = bounded(&mut tell) {
                let seen = self.seen.containers.iter().find(|c| c.name == one.name);
                if seen
                    .and_then(|c| c.pid)
                    .is_none_or(|pid| !matches!(process::find(pid), Ok(Some(_))))
                {
                    continue;
                }
                return Err(Failure::new(format!(
                    "systemctl set-property {} {why}: {} would lose its GPUs when systemd reads its units",
                    one.scope, one.name
                ))
                .hint(format!(
                    "docker restart {}, then docker gpuctl setup, which goes on where this stopped",
                    one.name
                )));
            }
        }
        Ok(())
    }

    /// A service that does not come up again is told, and is no reason to stop: nothing is enforced by it.
    fn service(&self, step: &Step) -> Result<(), Failure> {
        let restart = "systemctl try-restart gpuctl.service";
        if self.places.root != Path::new("/") {
            return Ok(());
        }
        match bounded(Command::new("systemctl").args(["try-restart", "gpuctl.service"])) {
            Ok(_) => ui::lines([step.told()]),
            Err(why) => ui::tell(&format!("warning: {restart} {why}")),
        }
        Ok(())
    }

    /// Only where no running container would lose its GPUs by it.
    fn daemon_reload(&self, step: &Step) -> Result<(), Failure> {
        let again = "systemctl daemon-reload";
        if self.places.root != Path::new("/") {
            ui::tell(&format!("note: this is not the running system: type {again} on it"));
            return Ok(());
        }
        let dev = &self.config.gpu.dev;
        let missing: Vec<String> = links::nodes(dev)
            .iter()
            .filter(|node| !links::is_linked(dev, node))
            .map(|node| node.name.clone())
            .collect();
        let systemd = self.seen.engine.as_ref().is_none_or(|e| e.cgroup_driver == "systemd");
        if systemd && !missing.is_empty() {
            ui::tell(&format!(
                "warning: {} has no link of {}: containers would lose them. Make the links, then type {again}",
                dev.join("char").display(),
                missing.join(", ")
            ));
            return Ok(());
        }
        bounded(Command::new("systemctl").arg("daemon-reload"))
            .map_err(|why| Failure::new(format!("{again} {why}")).hint(format!("type {again}")))?;
        ui::lines([step.told()]);
        Ok(())
    }
}

/// Runs a program to its end, within limits of time and of output; its standard output.
fn bounded(command: &mut Command) -> Result<Vec<u8>, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("does not start: {}", plain_io_error(&e)))?;
    let out = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(out) = out {
            let _ = out.take(LONGEST_CDI).read_to_end(&mut text);
        }
        text
    });
    let until = Instant::now() + TOOL_LIMIT;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("did not end within {} s", TOOL_LIMIT.as_secs()));
            }
        }
    };
    if !status.success() {
        return Err(format!("failed ({status})"));
    }
    reader.join().map_err(|_| "gave no output".to_owned())
}

/// The file that a step changes, or what it is about, in a word: the point at which tests kill us.
impl Step {
    #[cfg_attr(not(feature = "faults"), allow(dead_code))]
    fn word(&self) -> String {
        let name =
            |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match self {
            Self::Symlink { path, .. } | Self::Unlink(path) | Self::File { path, .. } => name(path),
            Self::CharLinks(_) => "links".into(),
            Self::Cdi { .. } => "cdi".into(),
            Self::Inventory(_) => "inventory".into(),
            Self::Seeds(_) => "seeds".into(),
            Self::Reload { .. } => "reload".into(),
            Self::Keep(_) => "keep".into(),
            Self::DaemonReload => "daemon-reload".into(),
            Self::Service => "service".into(),
        }
    }
}
