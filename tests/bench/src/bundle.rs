//! Bundles as the Engine makes them, to be started without an Engine: spec and Docker's own files
//! are those of a container that the Engine has really run, under another id.

use std::fs;
use std::path::{Path, PathBuf};

use gpuctl_sim::{Place, Result, command, files};
use gpuctl_tests::Node;
use serde_json::{Value, json};

/// What the Engine wrote for a container of its own.
#[derive(Debug)]
pub(crate) struct Recorded {
    id: String,
    spec: String,
    host: String,
    container: String,
    root: PathBuf,
}

/// A bundle, and where its container's files are.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    /// The container's id.
    pub(crate) id: String,
    /// The bundle's folder.
    pub(crate) folder: PathBuf,
    /// config.json as the runtime is to find it.
    pub(crate) spec: String,
}

fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

fn made(result: std::io::Result<()>, what: &str) -> Result<()> {
    result.map_err(|e| format!("cannot make {what}: {e}"))
}

fn parsed(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| format!("the Engine's file is no JSON: {e}"))
}

impl Recorded {
    /// Has the Engine run a container, and keeps what it wrote.
    pub(crate) fn of(node: &Node) -> Result<Self> {
        let run = node.docker(&["run", "-d", "--name", "sample", "busybox", "sleep", "1000000"]);
        let id = run.ok()?.trim().to_owned();
        let files = node.place().data().join("containers").join(&id);
        let recorded = Self {
            spec: text(&node.place().bundles().join(&id).join("config.json"))?,
            host: text(&files.join("hostconfig.json"))?,
            container: text(&files.join("config.v2.json"))?,
            root: root(node.place())?,
            id,
        };
        node.docker(&["rm", "-f", "sample"]).ok()?;
        Ok(recorded)
    }

    /// A bundle for a container with this id that asks for so many GPUs with `--gpus`.
    pub(crate) fn bundle(&self, place: &Place, id: String, gpus: u32) -> Result<Bundle> {
        let files = place.data().join("containers").join(&id);
        made(fs::create_dir_all(&files), "the container's files")?;
        for name in ["resolv.conf", "hostname", "hosts"] {
            files::write(&files.join(name), "bench\n")?;
        }
        let mut host = parsed(&self.host)?;
        if gpus != 0 {
            host["DeviceRequests"] = json!([{"Driver": "", "Count": gpus, "DeviceIDs": null,
                "Capabilities": [["gpu"]], "Options": {}}]);
        }
        files::write(&files.join("hostconfig.json"), &host.to_string())?;
        let container = self.container.replace(&self.id, &id);
        files::write(&files.join("config.v2.json"), &container)?;
        let mut spec = parsed(&self.spec.replace(&self.id, &id))?;
        spec["root"]["path"] = json!(self.root);
        // The Engine's network hook names a network of its own.
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("hooks");
        }
        let folder = place.at("bench").join(id.get(..12).unwrap_or(&id));
        made(fs::create_dir_all(&folder), "a bundle")?;
        Ok(Bundle { id, folder, spec: spec.to_string() })
    }
}

impl Bundle {
    /// Puts config.json back to what it was before a runtime changed it.
    pub(crate) fn reset(&self) -> Result<()> {
        files::write(&self.folder.join("config.json"), &self.spec)
    }

    /// What config.json has become.
    pub(crate) fn now(&self) -> Result<Value> {
        parsed(&text(&self.folder.join("config.json"))?)
    }
}

/// A root filesystem with busybox in it.
fn root(place: &Place) -> Result<PathBuf> {
    let root = place.at("bench/root");
    for folder in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        made(fs::create_dir_all(root.join(folder)), "the root filesystem")?;
    }
    files::install(&command::find(&["busybox"])?, &root.join("bin/busybox"))?;
    made(std::os::unix::fs::symlink("busybox", root.join("bin/sleep")), "a link")?;
    Ok(root)
}
