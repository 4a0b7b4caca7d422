//! What Docker itself keeps of a container: hostconfig.json and config.v2.json in
//! `<docker root>/containers/<id>/`. Only the parts in use are read.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Longest file that is read, in bytes.
pub const LONGEST: usize = 16 * 1024 * 1024;

/// Why a file of Docker's says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostConfigError {
    /// It is longer than [`LONGEST`].
    #[error("Docker's file of the container is longer than 16 MiB")]
    TooLong,
    /// It is no JSON, or has another shape; line and column of the fault.
    #[error("Docker's file of the container cannot be understood (line {0}, column {1})")]
    Malformed(usize, usize),
}

/// hostconfig.json.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HostConfig {
    /// The runtime's name in daemon.json.
    #[serde(deserialize_with = "or_default")]
    pub runtime: String,
    /// `--privileged`.
    #[serde(deserialize_with = "or_default")]
    pub privileged: bool,
    /// `--gpus` and `--device VENDOR/CLASS=NAME`.
    #[serde(deserialize_with = "or_default")]
    pub device_requests: Vec<DeviceRequest>,
    /// `--device PATH`.
    #[serde(deserialize_with = "or_default")]
    pub devices: Vec<DeviceMapping>,
    /// `--device-cgroup-rule`.
    #[serde(deserialize_with = "or_default")]
    pub device_cgroup_rules: Vec<String>,
    /// `--restart`.
    #[serde(deserialize_with = "or_default")]
    pub restart_policy: RestartPolicy,
    /// `--rm`.
    #[serde(deserialize_with = "or_default")]
    pub auto_remove: bool,
}

/// One device request.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    /// `nvidia`, `cdi`, or empty for whichever driver has the capabilities.
    #[serde(rename = "Driver", deserialize_with = "or_default")]
    pub driver: String,
    /// How many; negative is all, 0 means that the ids say it.
    #[serde(rename = "Count", deserialize_with = "integer")]
    pub count: i64,
    /// Which.
    #[serde(rename = "DeviceIDs", deserialize_with = "or_default")]
    pub device_ids: Vec<String>,
    /// Lists of capabilities, of which one must be had as a whole.
    #[serde(rename = "Capabilities", deserialize_with = "or_default")]
    pub capabilities: Vec<Option<Vec<String>>>,
}

/// One `--device PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DeviceMapping {
    /// A device or a folder of devices.
    #[serde(deserialize_with = "or_default")]
    pub path_on_host: String,
    /// Where it is in the container.
    #[serde(deserialize_with = "or_default")]
    pub path_in_container: String,
}

/// `--restart`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RestartPolicy {
    /// `no`, `always`, `unless-stopped`, `on-failure`, or empty for `no`.
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Tries of `on-failure`; 0 is no limit.
    #[serde(deserialize_with = "integer")]
    pub maximum_retry_count: i64,
}

/// config.v2.json.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// The container's id, 64 hex digits.
    #[serde(rename = "ID", deserialize_with = "or_default")]
    pub id: String,
    /// Its name, with a leading slash; see [`Self::docker_name`].
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    /// Its image's id, `sha256:...`.
    #[serde(deserialize_with = "or_default")]
    pub image: String,
    /// Its image's manifest, which Engines with containerd's image store write down.
    #[serde(deserialize_with = "or_default")]
    pub image_manifest: Descriptor,
    /// Whether `docker stop` or `docker restart` ended it last.
    #[serde(deserialize_with = "or_default")]
    pub has_been_manually_stopped: bool,
    /// How often Docker has restarted it by itself.
    #[serde(deserialize_with = "integer")]
    pub restart_count: i64,
    /// What it was made from.
    #[serde(deserialize_with = "or_default")]
    pub config: Made,
    /// How it is.
    #[serde(deserialize_with = "or_default")]
    pub state: State,
}

/// What names a blob of an image store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Descriptor {
    /// `sha256:...`.
    #[serde(deserialize_with = "or_default")]
    pub digest: String,
}

/// `Config` of config.v2.json.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Made {
    /// The image as it was named.
    #[serde(deserialize_with = "or_default")]
    pub image: String,
    /// Its environment: the image's and the user's, merged.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Its labels: the image's and the user's, merged.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

/// `State` of config.v2.json, as last written by dockerd.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct State {
    /// Whether it runs.
    #[serde(deserialize_with = "or_default")]
    pub running: bool,
    /// Pid of its init, 0 where it has none.
    #[serde(deserialize_with = "integer")]
    pub pid: i64,
    /// Its last exit code.
    #[serde(deserialize_with = "integer")]
    pub exit_code: i64,
    /// Whether Docker waits to restart it.
    #[serde(deserialize_with = "or_default")]
    pub restarting: bool,
    /// When it was last started; the year 1 where it never was.
    #[serde(deserialize_with = "or_default")]
    pub started_at: String,
}

impl HostConfig {
    /// Reads hostconfig.json.
    ///
    /// # Errors
    /// [`HostConfigError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, HostConfigError> {
        read(bytes)
    }
}

impl ContainerConfig {
    /// Reads config.v2.json.
    ///
    /// # Errors
    /// [`HostConfigError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, HostConfigError> {
        read(bytes)
    }

    /// The name without its slash.
    pub fn docker_name(&self) -> &str {
        self.name.strip_prefix('/').unwrap_or(&self.name)
    }
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, HostConfigError> {
    if bytes.len() > LONGEST {
        return Err(HostConfigError::TooLong);
    }
    // serde would take a list for a struct.
    if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
        return Err(HostConfigError::Malformed(1, 1));
    }
    serde_json::from_slice(bytes).map_err(|e| HostConfigError::Malformed(e.line(), e.column()))
}

/// Go writes null for what is empty.
fn or_default<'de, T: Deserialize<'de> + Default, D: Deserializer<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A whole number; null is 0, and what does not fit becomes the nearest that does.
fn integer<'de, D: Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
    match Value::deserialize(d)? {
        Value::Null => Ok(0),
        Value::Number(n) => Ok(n.as_i64().unwrap_or_else(|| match n.as_f64() {
            Some(f) if f < 0.0 => i64::MIN,
            _ => i64::MAX,
        })),
        _ => Err(D::Error::custom("not a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_unknown_fields_and_huge_numbers_are_borne() {
        let text = br#"{"Runtime":null,"Privileged":null,"Devices":null,"New":{"x":[1]},
            "DeviceRequests":[{"Driver":null,"Count":99999999999999999999,"DeviceIDs":null,
            "Capabilities":[null,["gpu"]]}],"RestartPolicy":null,"AutoRemove":true}"#;
        let host = HostConfig::parse(text).unwrap();
        assert_eq!(host.device_requests[0].count, i64::MAX);
        assert!(host.auto_remove && !host.privileged);
        assert_eq!(HostConfig::parse(b"{}").unwrap(), HostConfig::default());
    }

    #[test]
    fn another_shape_is_an_error_and_no_empty_answer() {
        for bad in [&b"[]"[..], b"", b"{\"DeviceRequests\":7}", b"{\"Privileged\":\"yes\"}"] {
            assert!(HostConfig::parse(bad).is_err());
        }
    }

    #[test]
    fn config_v2_tells_name_labels_and_how_it_ended() {
        let text =
            br#"{"ID":"ab12","Name":"/train-0","HasBeenManuallyStopped":true,"RestartCount":3,
            "Image":"sha256:12","Config":{"Image":"cuda","Env":["A=1"],"Labels":{"a":"b"}},
            "State":{"Running":false,"Pid":0,"ExitCode":137,"Restarting":false}}"#;
        let container = ContainerConfig::parse(text).unwrap();
        assert_eq!((container.docker_name(), container.restart_count), ("train-0", 3));
        assert!(container.has_been_manually_stopped);
        assert_eq!(
            (container.image.as_str(), container.config.image.as_str()),
            ("sha256:12", "cuda")
        );
        assert_eq!(container.state.exit_code, 137);
        assert_eq!(container.config.labels["a"], "b");
        assert_eq!(ContainerConfig::parse(br#"{"Config":null,"State":null}"#).unwrap().name, "");
    }
}
