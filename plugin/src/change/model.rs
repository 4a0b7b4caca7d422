//! What a user asks to be changed, as data.

use gpuctl_ledger::model::GpuRequest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// All that one update changes; what is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// `--gpus`.
    pub gpus: Option<GpuRequest>,
    /// `--cpus`, in billionths of a processor.
    pub nano_cpus: Option<i64>,
    /// `--cpuset-cpus`.
    pub cpuset_cpus: Option<String>,
    /// `--memory`, bytes.
    pub memory: Option<i64>,
    /// `--shm-size`, bytes.
    pub shm_size: Option<i64>,
    /// `--env`: name and value.
    pub env: Vec<(String, String)>,
    /// `--env-rm`: names.
    pub env_rm: Vec<String>,
    /// `--publish`.
    pub publish: Vec<Publish>,
    /// `--publish-rm`: `80`, `80/udp`, `8080:80`.
    pub publish_rm: Vec<String>,
    /// `--volume OLD:NEW`.
    pub volumes: Vec<(String, String)>,
    /// `--mount-add`.
    pub mount_add: Vec<Mount>,
    /// `--mount-rm`: places inside the container.
    pub mount_rm: Vec<String>,
    /// `--image`.
    pub image: Option<String>,
    /// `--restart`.
    pub restart: Option<Restart>,
    /// `--label`: name and value.
    pub labels: Vec<(String, String)>,
    /// `--label-rm`: names.
    pub label_rm: Vec<String>,
}

/// A port of the container made known on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The host's address; empty for all.
    pub address: String,
    /// The host's port.
    pub host: HostPort,
    /// The container's port.
    pub inside: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

impl Publish {
    /// `22/tcp`.
    pub fn inside(&self) -> String {
        format!("{}/{}", self.inside, self.protocol)
    }
}

/// Which port of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostPort {
    /// This one.
    Number(u16),
    /// One that Docker chooses anew at each start.
    Any,
    /// One of the configured range, kept for this container through every change.
    Auto,
}

/// A mount, as Docker's API takes it: `-v` is a bind, `--mount` an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mount {
    /// `SOURCE:TARGET[:OPTIONS]`.
    Bind(String),
    /// An element of HostConfig.Mounts.
    Object(Value),
}

impl Mount {
    /// Its place in the container.
    pub fn target(&self) -> &str {
        match self {
            Self::Bind(text) => text.split(':').nth(1).unwrap_or_default(),
            Self::Object(value) => value.get("Target").and_then(Value::as_str).unwrap_or_default(),
        }
    }
}

/// A restart policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// `no`, `always`, `unless-stopped`, `on-failure`.
    pub name: String,
    /// Of on-failure: most tries, 0 without end.
    pub tries: i64,
}

impl Change {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
