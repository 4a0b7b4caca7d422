//! What the Engine shows of a container.

use gpuctl_ledger::model::ContainerId;
use serde_json::{Map, Value, json};

/// What of an endpoint was asked for; the rest the Engine found out while it ran.
pub(super) const ASKED_OF_ENDPOINT: [&str; 4] = ["IPAMConfig", "Links", "DriverOpts", "GwPriority"];

/// The answer of `GET /containers/<id>/json`, with every field that the Engine sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspect(pub Value);

impl Inspect {
    fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
    fn flag(&self, pointer: &str) -> bool {
        self.0.pointer(pointer).and_then(Value::as_bool).unwrap_or_default()
    }
    fn number(&self, pointer: &str) -> i64 {
        self.0.pointer(pointer).and_then(Value::as_i64).unwrap_or_default()
    }

    /// What it was created with, and nothing of what has become of it since: the same before its
    /// first start and after its last. All that it takes to create it again.
    pub fn creation(&self) -> Value {
        let mut kept = Map::new();
        for key in ["Id", "Name", "Created", "Image", "Platform", "Config", "HostConfig", "Mounts"]
        {
            if let Some(value) = self.0.get(key) {
                kept.insert(key.to_owned(), value.clone());
            }
        }
        let networks = self.0.pointer("/NetworkSettings/Networks").and_then(Value::as_object);
        if let Some(networks) = networks {
            let asked = |key: &str| key == "Aliases" || ASKED_OF_ENDPOINT.contains(&key);
            let networks: Map<String, Value> = networks
                .iter()
                .map(|(name, shown)| {
                    let fields = shown.as_object().into_iter().flatten();
                    let fields = fields.filter(|(key, _)| asked(key));
                    let fields = fields.map(|(key, value)| (key.clone(), value.clone()));
                    (name.clone(), Value::Object(fields.collect()))
                })
                .collect();
            kept.insert("NetworkSettings".to_owned(), json!({ "Networks": networks }));
        }
        Value::Object(kept)
    }

    /// The id; `None` only from an Engine that breaks its own API.
    pub fn id(&self) -> Option<ContainerId> {
        ContainerId::new(self.text("/Id")).ok()
    }
    /// The name, without Docker's slash before it.
    pub fn name(&self) -> &str {
        self.text("/Name").trim_start_matches('/')
    }
    /// The image as it was named at create.
    pub fn image(&self) -> &str {
        self.text("/Config/Image")
    }
    /// The image's id.
    pub fn image_id(&self) -> &str {
        self.text("/Image")
    }
    /// The runtime's name in daemon.json.
    pub fn runtime(&self) -> &str {
        self.text("/HostConfig/Runtime")
    }
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
    pub fn status(&self) -> &str {
        self.text("/State/Status")
    }
    /// Whether it runs, paused or not; also while Docker waits to start it again.
    pub fn running(&self) -> bool {
        self.flag("/State/Running")
    }
    /// Whether its processes are frozen.
    pub fn paused(&self) -> bool {
        self.flag("/State/Paused")
    }
    /// Bytes written to its layer, where they were asked for.
    pub fn written(&self) -> u64 {
        u64::try_from(self.number("/SizeRw")).unwrap_or_default()
    }
    /// Whether Docker waits to start it again.
    pub fn restarting(&self) -> bool {
        self.flag("/State/Restarting")
    }
    /// Whether it has never been started: `created`, and no start failed.
    pub fn never_started(&self) -> bool {
        self.started_at().is_none()
    }
    /// The init's pid in the host's PID namespace, while it runs.
    pub fn pid(&self) -> Option<i32> {
        i32::try_from(self.number("/State/Pid")).ok().filter(|p| *p > 0)
    }
    /// The exit code of its last run, or of its failed start (125, 126, 127, 128).
    pub fn exit_code(&self) -> i64 {
        self.number("/State/ExitCode")
    }
    /// Why its last start failed; empty when it did not.
    pub fn error(&self) -> &str {
        self.text("/State/Error")
    }
    /// When it was last started, RFC 3339; `None` when never.
    pub fn started_at(&self) -> Option<&str> {
        Some(self.text("/State/StartedAt")).filter(|t| !t.is_empty() && !t.starts_with("0001-"))
    }
    /// `--rm`.
    pub fn auto_remove(&self) -> bool {
        self.flag("/HostConfig/AutoRemove")
    }
    /// `no`, `always`, `unless-stopped` or `on-failure`; empty is `no` on old Engines.
    pub fn restart_policy(&self) -> &str {
        match self.text("/HostConfig/RestartPolicy/Name") {
            "" => "no",
            name => name,
        }
    }
    /// `-t`.
    pub fn tty(&self) -> bool {
        self.flag("/Config/Tty")
    }
    /// The grace in seconds of a stop that names none: `--stop-timeout`, else Docker's 10.
    pub fn stop_timeout(&self) -> i64 {
        self.0.pointer("/Config/StopTimeout").and_then(Value::as_i64).unwrap_or(10)
    }
    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key)?.as_str()
    }
    /// All labels.
    pub fn labels(&self) -> Option<&Map<String, Value>> {
        self.0.pointer("/Config/Labels")?.as_object()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_creation_is_the_same_whatever_became_of_it() {
        let shown = |state: Value, address: &str| {
            Inspect(json!({
                "Id": "ab12", "Name": "/train-0", "Image": "sha256:1", "State": state,
                "GraphDriver": {"Data": {"UpperDir": "/x"}}, "LogPath": "/y",
                "Config": {"Env": ["A=b"]}, "HostConfig": {"Runtime": "gpuctl"},
                "Mounts": [{"Name": "v"}],
                "NetworkSettings": {"SandboxID": address, "Networks": {"n": {
                    "Aliases": ["train"], "IPAMConfig": {"IPv4Address": "10.0.0.9"},
                    "IPAddress": address}}},
            }))
        };
        let before = shown(json!({"Status": "created"}), "").creation();
        let after = shown(json!({"Status": "running", "Pid": 42}), "10.0.0.9").creation();
        assert_eq!(before, after);
        let networks = json!({"n": {
            "Aliases": ["train"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}}});
        assert_eq!(
            before,
            json!({
                "Id": "ab12", "Name": "/train-0", "Image": "sha256:1",
                "Config": {"Env": ["A=b"]}, "HostConfig": {"Runtime": "gpuctl"},
                "Mounts": [{"Name": "v"}], "NetworkSettings": {"Networks": networks},
            })
        );
    }

    #[test]
    fn fields_are_read_and_missing_ones_are_empty() {
        let shown = Inspect(json!({
            "Id": "ab12", "Name": "/train-0", "Image": "sha256:1",
            "State": {"Status": "running", "Running": true, "Pid": 42, "ExitCode": 0,
                      "StartedAt": "2024-01-01T00:00:00Z", "Error": ""},
            "Config": {"Image": "busybox", "Labels": {"a": "b"}, "StopTimeout": 3},
            "HostConfig": {"Runtime": "gpuctl", "AutoRemove": true,
                           "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}},
        }));
        assert_eq!(shown.id().unwrap().as_str(), "ab12");
        assert_eq!(shown.name(), "train-0");
        assert_eq!(shown.pid(), Some(42));
        assert_eq!(shown.label("a"), Some("b"));
        assert_eq!(shown.label("c"), None);
        assert_eq!(shown.stop_timeout(), 3);
        assert_eq!(shown.restart_policy(), "always");
        assert!(shown.running() && shown.auto_remove() && !shown.never_started());

        let empty = Inspect(json!({"State": {"StartedAt": "0001-01-01T00:00:00Z"}}));
        assert!(empty.id().is_none() && empty.never_started() && empty.pid().is_none());
        assert_eq!(empty.restart_policy(), "no");
        assert_eq!(empty.stop_timeout(), 10);
    }
}
