//! Why the Engine did not do something.

use std::time::Duration;

/// Why a call to the Engine failed. The Engine's own message is kept as it came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DockerError {
    /// There is no such container, image or network: 404.
    #[error("{0}")]
    NotFound(String),
    /// The name is taken, or the container is in a state that does not allow it: 409.
    #[error("{0}")]
    Conflict(String),
    /// Any other refusal; a start that the OCI runtime refused is one with status 400 or 500.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The Engine's message.
        message: String,
    },
    /// Nobody answers at the endpoint, or the connection broke off.
    #[error("the Docker Engine at {0} cannot be reached: {1}")]
    Unreachable(String, String),
    /// No answer within the limit. What was asked may or may not have happened.
    #[error("the Docker Engine did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The answer was not what the API promises.
    #[error("the Docker Engine's answer is not understood: {0}")]
    Odd(String),
}

impl DockerError {
    /// What our own runtime or gate said, where the refusal came from it: without the Engine's and
    /// the shim's words around it.
    pub fn from_gpuctl(&self) -> Option<&str> {
        match self {
            Self::NotFound(text) | Self::Conflict(text) | Self::Refused { message: text, .. } => {
                gpuctl_part(text)
            }
            _ => None,
        }
    }

    /// Whether nobody answers: then it is not known whether it was done, and a later try may do it.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable(..))
    }

    /// Whether there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }
}

/// The part of an Engine's message, or of `State.Error`, that our runtime wrote: what follows
/// `gpuctl: `, less the `: unknown` that containerd appends.
pub fn gpuctl_part(text: &str) -> Option<&str> {
    const MARK: &str = "gpuctl: ";
    let rest = match text.find("failed: gpuctl: ") {
        Some(at) => text.get(at + "failed: ".len() + MARK.len()..)?,
        None => text.strip_prefix(MARK)?,
    };
    let rest = rest.trim_end();
    Some(rest.strip_suffix(": unknown").unwrap_or(rest))
}

/// The exit code `docker run` ends with for a failed start: 126 where the program cannot be run,
/// 127 where it is not there, else 125. These are the texts the Docker CLI looks for.
pub fn start_exit_code(message: &str) -> u8 {
    let text = message.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| text.contains(w));
    if has(&[
        "executable file not found",
        "no such file or directory",
        "system cannot find the file",
    ]) {
        127
    } else if has(&["permission denied", "not a directory", "is a directory"]) {
        if text.contains("not a directory") { 127 } else { 126 }
    } else {
        125
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_words_are_found_in_what_engines_make_of_them() {
        let old = "OCI runtime create failed: gpuctl: 2 GPUs asked for, 1 free: unknown";
        let new = "failed to create task for container: failed to create shim task: \
                   OCI runtime create failed: gpuctl: 2 GPUs asked for, 1 free";
        for text in [old, new] {
            assert_eq!(gpuctl_part(text), Some("2 GPUs asked for, 1 free"), "{text}");
        }
        assert_eq!(gpuctl_part("gpuctl: x"), Some("x"));
        for other in ["OCI runtime create failed: runc: x", "container my-gpuctl: x", ""] {
            assert_eq!(gpuctl_part(other), None, "{other}");
        }
        let refused = DockerError::Refused { status: 400, message: old.into() };
        assert_eq!(refused.from_gpuctl(), Some("2 GPUs asked for, 1 free"));
        assert_eq!(DockerError::TimedOut(Duration::from_secs(1)).from_gpuctl(), None);
    }

    #[test]
    fn exit_codes_are_those_of_docker_run() {
        assert_eq!(start_exit_code("exec: \"nope\": executable file not found in $PATH"), 127);
        assert_eq!(start_exit_code("exec: \"/etc\": permission denied"), 126);
        assert_eq!(start_exit_code("exec: \"/etc\": is a directory"), 126);
        assert_eq!(start_exit_code("exec: \"/etc/passwd/x\": not a directory"), 127);
        assert_eq!(start_exit_code("gpuctl: 3 GPUs asked for, 1 free"), 125);
    }
}
