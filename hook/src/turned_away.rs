//! A start that is refused: why, and whether the service is to try it again.

use gpuctl_ledger::audit::{self, Decision};
use gpuctl_ledger::config::Config;
use gpuctl_ledger::model::{ContainerId, GpuRequest, Unit};
use gpuctl_ledger::node::docker::DockerFiles;
use gpuctl_ledger::node::refused::{self, Refused};
use gpuctl_ledger::rules::liveness::Files;
use gpuctl_ledger::rules::retry::{WaitsFor, would_restart};

/// Why a container may not start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TurnedAway {
    /// In one line.
    pub(crate) text: String,
    /// What it waits for, where the reason passes by itself.
    pub(crate) until: Option<WaitsFor>,
    /// The GPUs that it was about to get.
    pub(crate) units: Vec<Unit>,
    /// Nothing that anybody need be told of later.
    pub(crate) expected: bool,
}

impl TurnedAway {
    /// For a reason that passes by itself.
    pub(crate) fn until(waits_for: WaitsFor, text: impl Into<String>) -> Self {
        Self { text: text.into(), until: Some(waits_for), units: Vec::new(), expected: false }
    }
}

impl From<String> for TurnedAway {
    fn from(text: String) -> Self {
        Self { text, until: None, units: Vec::new(), expected: false }
    }
}

impl From<&str> for TurnedAway {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// Writes down a decision about a container of which nothing but its id is known, and that may be none.
pub(crate) fn write_down(config: &Config, decision: Decision, id: &str, why: &str) {
    let files =
        ContainerId::new(id).ok().and_then(|id| DockerFiles::read(&config.docker.root, &id).ok());
    let name = files.as_ref().map_or("", |files| files.container.docker_name());
    audit::write(config, decision, id, name, &[], why);
}

/// Notes a refusal for the service where its reason passes by itself and the container's restart policy
/// asks for it; else forgets what was noted. The line for the user.
pub(crate) fn line(
    config: &Config,
    id: &ContainerId,
    files: Option<&DockerFiles>,
    request: Option<&GpuRequest>,
    why: TurnedAway,
) -> String {
    // One of ours that never ran is being made: who makes it is told, and removes it.
    let being_made = |files: &DockerFiles| {
        let started = matches!(files.facts(), Files::Present { ever_started: true, .. });
        files.host.runtime == config.runtime.managed_name && !started
    };
    let files = files.filter(|files| would_restart(files.facts()) && !being_made(files));
    let waits = why.until.zip(files);
    let Some((waits_for, files)) = waits else {
        let _ = refused::forget(&config.paths, id);
        return why.text;
    };
    let refused = Refused {
        container: id,
        docker_name: files.container.docker_name(),
        waits_for,
        reason: &why.text,
        request,
    };
    // A note that cannot be written is no reason to say something else than why.
    match refused::note(&config.paths, &refused) {
        Ok(true) => format!(
            "{}; restart policy {}: the gpuctl service, where it runs, starts it when that has passed",
            why.text, files.host.restart_policy.name
        ),
        Ok(false) | Err(_) => why.text,
    }
}
