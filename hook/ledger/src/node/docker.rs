//! What Docker writes down of a container: `<docker root>/containers/<id>/hostconfig.json` and
//! `config.v2.json`. Inside a hook the Engine itself cannot be asked: it holds the container's lock.

use std::io::ErrorKind;
use std::path::Path;

use crate::model::ContainerId;
use crate::node::files;
pub use crate::node::hostconfig::{ContainerConfig, HostConfig, LONGEST};
use crate::rules::liveness::{Files, RestartPolicy};

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

impl HostConfig {
    /// The restart policy as a rule takes it.
    pub fn restart(&self) -> RestartPolicy {
        match self.restart_policy.name.as_str() {
            "always" | "unless-stopped" => RestartPolicy::Always,
            "on-failure" => RestartPolicy::OnFailure(
                u32::try_from(self.restart_policy.maximum_retry_count).unwrap_or(0),
            ),
            _ => RestartPolicy::No,
        }
    }
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
            files::read_trusted(&folder.join(name), LONGEST as u64).map_err(|e| match e.kind() {
                ErrorKind::NotFound => DockerFilesError::Absent,
                _ => DockerFilesError::Unreadable,
            })
        };
        let container = ContainerConfig::parse(&read("config.v2.json")?)
            .map_err(|_| DockerFilesError::Unreadable)?;
        let host = HostConfig::parse(&read("hostconfig.json")?)
            .map_err(|_| DockerFilesError::Unreadable)?;
        if container.id != id.as_str() {
            return Err(DockerFilesError::Foreign);
        }
        Ok(Self { host, container })
    }

    /// What liveness needs to know.
    pub fn facts(&self) -> Files {
        let state = &self.container.state;
        Files::Present {
            policy: self.host.restart(),
            stopped_by_hand: self.container.has_been_manually_stopped,
            ever_started: !state.started_at.is_empty() && !state.started_at.starts_with("0001-"),
            restarts: u32::try_from(self.container.restart_count).unwrap_or(0),
            // While Docker has not yet seen the end, the code is that of an earlier one.
            exit_code: (!state.running).then(|| i32::try_from(state.exit_code).unwrap_or(-1)),
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
            host: HostConfig::parse(host.as_bytes()).unwrap(),
            container: ContainerConfig::parse(container.as_bytes()).unwrap(),
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
