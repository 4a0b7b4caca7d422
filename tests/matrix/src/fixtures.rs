//! What Engine 29 hands to a runtime, as it was recorded: each spec is made to fit this machine - its
//! rootfs, its cgroup, a program that probes - and goes through the real wrapper and the real runc,
//! so that a cell is again what a real container could open.

use std::fs;
use std::path::{Path, PathBuf};

use gpuctl_sim::files::write;
use gpuctl_tests::programs;
use serde_json::{Value, json};

use crate::cell::Verdict;
use crate::column::{Cgroup, Column};
use crate::probe;
use crate::rows::{Row, Tried, judge_probe, rootfs};
use crate::run::Under;
use crate::trial::Trial;

/// Which recording is of which row.
const RECORDED: [(&str, &str); 14] = [
    ("gpus-count", "gpus-2"),
    ("gpus-all", "gpus-all"),
    ("gpus-device", "gpus-device-1-3"),
    ("gpus-0", "gpus-0"),
    ("cdi-device", "device-cdi-uuid"),
    ("image-env", "image-env-all"),
    ("node", "device-node-3"),
    ("node-renamed", "device-node-renamed"),
    ("rule-major", "cgroup-rule-wildcard"),
    ("rule-char", "cgroup-rule-any"),
    ("bind-node", "bind-node"),
    ("privileged", "privileged"),
    ("privileged-gpus", "privileged-gpus-1"),
    ("exec", "plain"),
];

/// The recordings' folder.
const FOLDER: &str = "engine-29";

/// A node whose containers are the recorded ones. Its own Engine makes none of them.
pub struct Recorded {
    trial: Trial,
}

impl Recorded {
    /// Brings the node up: four GPUs as the recording's machine had, the first of them held.
    ///
    /// # Errors
    /// As for [`Trial::start`].
    pub fn start(column: Column) -> Result<Self, String> {
        Ok(Self { trial: Trial::start(column)? })
    }

    fn by_systemd(&self) -> bool {
        self.trial.column.cgroup == Cgroup::V2Systemd
    }

    fn run(&self, name: &str) -> Tried {
        let place = self.trial.node.place();
        let folder = recordings();
        let mut spec = json_of(&folder.join(format!("{name}.config.json")))?;
        let host = json_of(&folder.join(format!("{name}.hostconfig.json")))?;
        let id = spec
            .pointer("/linux/cgroupsPath")
            .and_then(Value::as_str)
            .and_then(|p| p.rsplit('/').next())
            .ok_or("a recording without a cgroup")?
            .to_owned();
        self.fit(&mut spec, &id)?;
        // Docker's files of it, where Docker keeps them.
        let files = place.data().join("containers").join(&id);
        let bundle = self.trial.folder().join(name);
        for folder in [&files, &bundle] {
            fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        }
        write(&files.join("hostconfig.json"), &host.to_string())?;
        let made = json!({
            "ID": id, "Name": format!("/{name}"), "Image": "sha256:recorded",
            "Config": {"Image": "recorded"}, "HasBeenManuallyStopped": false,
        });
        write(&files.join("config.v2.json"), &made.to_string())?;
        write(&bundle.join("config.json"), &spec.to_string())?;
        let entry = match self.trial.column.strict {
            true => place.at("strict").join("runc"),
            false => place.libexec().join("gpuctl-gate"),
        };
        let mut runc = self.trial.node.site().engine().inside(&entry);
        runc.env("GPUCTL_CONFIG", place.config()).arg("--root").arg(bundle.join("r"));
        runc.arg("--log").arg(bundle.join("log.json")).args(["--log-format", "json"]);
        if self.by_systemd() {
            runc.arg("--systemd-cgroup");
        }
        runc.args(["run", "--bundle"]).arg(&bundle).arg(&id);
        let tried = judge_probe(&self.trial, runc, |holder| holder == id);
        let _ = fs::remove_dir_all(&files);
        tried
    }

    /// What is of the machine that it was recorded on becomes this one's.
    fn fit(&self, spec: &mut Value, id: &str) -> Result<(), String> {
        let place = self.trial.node.place();
        let script = format!("{}; sleep 1", probe::script(&self.trial.devices()));
        spec["process"]["args"] = json!(["/bin/sh", "-c", script]);
        spec["process"]["terminal"] = json!(false);
        spec["root"] = json!({"path": rootfs(&self.trial)?});
        // As Docker writes it with each driver.
        spec["linux"]["cgroupsPath"] = json!(match self.by_systemd() {
            true => format!("{}.slice:docker:{id}", place.cgroup()),
            false => format!("/{}/{id}", place.cgroup()),
        });
        // runc 1.1 knows no time namespaces.
        if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
            list.retain(|n| n["type"] != "time");
        }
        let dev = place.dev();
        if let Some(list) = spec["mounts"].as_array_mut() {
            list.retain(|m| !m["source"].as_str().unwrap_or("").starts_with("/var/lib/docker/"));
            for mount in list.iter_mut() {
                let node = mount["source"].as_str().and_then(|s| s.strip_prefix("/dev/nvidia"));
                if let Some(node) = node {
                    mount["source"] = json!(dev.join(format!("nvidia{node}")));
                }
            }
        }
        for stage in ["prestart", "createRuntime", "createContainer", "startContainer"] {
            if let Some(list) = spec["hooks"][stage].as_array_mut() {
                list.retain(|h| Path::new(h["path"].as_str().unwrap_or("")).is_file());
            }
        }
        Ok(())
    }
}

impl Under for Recorded {
    fn try_row(&mut self, row: &Row) -> Tried {
        let Some((_, name)) = RECORDED.iter().find(|(id, _)| *id == row.id) else {
            return Ok(Verdict::not_applicable("not recorded"));
        };
        Ok(self.run(name)?.noting(&format!("recording {name}")))
    }

    fn tidy(&self) -> Result<(), String> {
        self.trial.tidy()
    }
}

/// Those beside the built programs go before the repository's: so they are read where there is none.
fn recordings() -> PathBuf {
    let beside = std::env::var_os("GPUCTL_PROGRAMS").map(|folder| Path::new(&folder).join(FOLDER));
    let own = || programs::repository().join("hook/tests/fixtures").join(FOLDER);
    beside.filter(|folder| folder.is_dir()).unwrap_or_else(own)
}

fn json_of(path: &Path) -> Result<Value, String> {
    let text = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    serde_json::from_slice(&text).map_err(|e| format!("{}: {e}", path.display()))
}
