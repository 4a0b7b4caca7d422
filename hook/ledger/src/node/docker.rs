//! What Docker writes down of a container: `<docker root>/containers/<id>/hostconfig.json` and
//! `config.v2.json`. Inside a hook the Engine itself cannot be asked: it holds the container's lock.

use std::io::ErrorKind;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::model::ContainerId;
use crate::node::files;
use crate::rules::liveness::{Files, RestartPolicy};

/// Longest file of Docker's that is read, in bytes: environments and labels can be large.
pub const LONGEST: u64 = 16 << 20;

/// Why Docker's files of a container are of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DockerFilesError {
    /// There is no such container.
    #[error("Docker has no such container")]
    Absent,
    /// They cannot be read, are not root's, or are not what they should be.
    #[error("Docker's files of the container cannot be read")]
    Unreadable,
    /// They are another container's.
    #[error("Docker's files of the container name another container")]
    Foreign,
}

/// `hostconfig.json`, what we need of it. Docker writes null for what is empty.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostConfig {
    /// Name of the runtime in daemon.json.
    pub runtime: Option<String>,
    /// `--privileged`.
    pub privileged: Option<bool>,
    /// `--rm`.
    pub auto_remove: Option<bool>,
    /// `--gpus`, and `--device` with a CDI name.
    pub device_requests: Option<Vec<DeviceRequest>>,
    /// `--restart`.
    pub restart_policy: Option<Restart>,
}

/// One device request.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DeviceRequest {
    /// `nvidia`, `cdi`, or empty.
    pub driver: Option<String>,
    /// How many; -1 for all.
    pub count: Option<i64>,
    /// Which.
    #[serde(rename = "DeviceIDs")]
    pub device_ids: Option<Vec<String>>,
    /// Alternatives of sets of capabilities.
    pub capabilities: Option<Vec<Vec<String>>>,
}

/// The restart policy.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Restart {
    /// `no`, `always`, `unless-stopped`, `on-failure`, or empty.
    pub name: Option<String>,
    /// Most tries of on-failure; 0 for no limit.
    pub maximum_retry_count: Option<i64>,
}

impl HostConfig {
    /// The restart policy.
    pub fn restart(&self) -> RestartPolicy {
        let policy = self.restart_policy.clone().unwrap_or_default();
        match policy.name.as_deref() {
            Some("always" | "unless-stopped") => RestartPolicy::Always,
            Some("on-failure") => RestartPolicy::OnFailure(
                u32::try_from(policy.maximum_retry_count.unwrap_or(0)).unwrap_or(0),
            ),
            _ => RestartPolicy::No,
        }
    }
}

/// `config.v2.json`, what we need of it.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    /// The container's id.
    #[serde(rename = "ID")]
    pub id: Option<String>,
    /// Its name, with a slash before it.
    pub name: Option<String>,
    /// Stopped by docker stop, kill or restart.
    pub has_been_manually_stopped: Option<bool>,
    /// How often its restart policy has started it.
    pub restart_count: Option<i64>,
    /// What it was created with.
    pub config: Option<Created>,
    /// How it is.
    pub state: Option<State>,
}

/// What the container was created with.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Created {
    /// The image as it was named.
    pub image: Option<String>,
    /// Environment: the image's and the user's.
    pub env: Option<Vec<String>>,
    /// Labels.
    pub labels: Option<std::collections::BTreeMap<String, Value>>,
}

/// How the container is.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct State {
    /// Whether Docker thinks that it runs.
    pub running: Option<bool>,
    /// Whether Docker means to start it again.
    pub restarting: Option<bool>,
    /// The last exit code.
    pub exit_code: Option<i64>,
    /// When it was last started: the year 1 where it never was.
    pub started_at: Option<String>,
}

/// Both files of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct DockerFiles {
    /// `hostconfig.json`.
    pub host: HostConfig,
    /// `config.v2.json`.
    pub container: ContainerConfig,
}

impl DockerFiles {
    /// Reads both. The folder is found by the container's own id, never by a path that the
    /// container's spec shows; owner and the id inside are checked.
    ///
    /// # Errors
    /// [`DockerFilesError`].
    pub fn read(docker_root: &Path, id: &ContainerId) -> Result<Self, DockerFilesError> {
        let folder = docker_root.join("containers").join(id.as_str());
        let read = |name: &str| {
            files::read_trusted(&folder.join(name), LONGEST).map_err(|e| match e.kind() {
                ErrorKind::NotFound => DockerFilesError::Absent,
                _ => DockerFilesError::Unreadable,
            })
        };
        let container: ContainerConfig = serde_json::from_slice(&read("config.v2.json")?)
            .map_err(|_| DockerFilesError::Unreadable)?;
        let host = serde_json::from_slice(&read("hostconfig.json")?)
            .map_err(|_| DockerFilesError::Unreadable)?;
        if container.id.as_deref() != Some(id.as_str()) {
            return Err(DockerFilesError::Foreign);
        }
        Ok(Self { host, container })
    }

    /// What liveness needs to know.
    pub fn facts(&self) -> Files {
        let state = self.container.state.clone().unwrap_or_default();
        Files::Present {
            policy: self.host.restart(),
            stopped_by_hand: self.container.has_been_manually_stopped.unwrap_or(false),
            ever_started: state.started_at.is_some_and(|at| !at.starts_with("0001-")),
            restarts: u32::try_from(self.container.restart_count.unwrap_or(0)).unwrap_or(0),
            exit_code: (state.running == Some(false))
                .then_some(state.exit_code)
                .flatten()
                .and_then(|code| i32::try_from(code).ok()),
        }
    }
}

/// What liveness needs to know of a container, whatever became of its files.
pub fn facts(docker_root: &Path, id: &ContainerId) -> Files {
    match DockerFiles::read(docker_root, id) {
        Ok(files) => files.facts(),
        // Where there is no Docker root at all, nothing is known of any container.
        Err(DockerFilesError::Absent) if docker_root.join("containers").is_dir() => Files::Absent,
        Err(_) => Files::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(host: &str, container: &str) -> DockerFiles {
        DockerFiles {
            host: serde_json::from_str(host).unwrap(),
            container: serde_json::from_str(container).unwrap(),
        }
    }

    #[test]
    fn nulls_and_missing_fields_are_read() {
        let files = parse(
            r#"{"DeviceRequests":null,"RestartPolicy":null,"Runtime":null,"Privileged":null}"#,
            r#"{"State":null,"Config":{"Env":null,"Labels":null}}"#,
        );
        assert_eq!(files.host.restart(), RestartPolicy::No);
        assert!(matches!(files.facts(), Files::Present { ever_started: false, .. }));
    }

    #[test]
    fn an_exit_code_counts_only_once_the_container_is_written_down_as_stopped() {
        let host = r#"{"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3}}"#;
        let code = |state: &str| {
            let container = format!(r#"{{"State":{state},"RestartCount":2}}"#);
            match parse(host, &container).facts() {
                Files::Present { exit_code, restarts, policy, .. } => {
                    assert_eq!((restarts, policy), (2, RestartPolicy::OnFailure(3)));
                    exit_code
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(code(r#"{"Running":true,"ExitCode":0}"#), None);
        assert_eq!(code(r#"{"Running":false,"ExitCode":0}"#), Some(0));
        assert_eq!(code(r#"{"Running":false,"ExitCode":1}"#), Some(1));
    }

    #[test]
    fn files_of_another_container_are_not_taken() {
        let root = tempfile::tempdir().unwrap();
        let id = ContainerId::new("a".repeat(64)).unwrap();
        assert_eq!(facts(root.path(), &id), Files::Unreadable);
        let folder = root.path().join("containers").join(id.as_str());
        std::fs::create_dir_all(root.path().join("containers")).unwrap();
        assert_eq!(facts(root.path(), &id), Files::Absent);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("hostconfig.json"), "{}").unwrap();
        std::fs::write(folder.join("config.v2.json"), r#"{"ID":"b"}"#).unwrap();
        assert_eq!(DockerFiles::read(root.path(), &id), Err(DockerFilesError::Foreign));
    }
}
