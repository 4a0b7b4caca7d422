//! What runtimes are called with directly: configs for either ledger, and a recorded container.

use std::fs;
use std::path::{Path, PathBuf};

use gpuctl_sim::etcd::Etcd;
use gpuctl_sim::{Place, Result, command, files};
use gpuctl_tests::Node;

use crate::bundle::Recorded;

/// A config for either ledger.
#[derive(Debug)]
pub(crate) struct Configs {
    /// The ledger is SQLite.
    pub(crate) sqlite: PathBuf,
    /// The ledger is etcd.
    pub(crate) etcd: PathBuf,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Stage {
    /// What the Engine wrote for a container.
    pub(crate) recorded: Recorded,
    /// runc is behind our runtime.
    pub(crate) runc: Configs,
    /// A program that does nothing is behind it: what is seen then is ours.
    pub(crate) nothing: Configs,
    _server: Etcd,
}

impl Stage {
    /// Sets it: starts an etcd, writes the configs, has the Engine run a container.
    pub(crate) fn set(node: &Node) -> Result<Self> {
        let place = node.place();
        let server = Etcd::start(&place.at("bench/etcd"), 1)?;
        let real = command::find(&["runc"])?;
        let runc = Configs::write(place, "runc", &real, &server.url())?;
        let nothing = Configs::write(place, "nothing", &command::find(&["true"])?, &server.url())?;
        Ok(Self { recorded: Recorded::of(node)?, runc, nothing, _server: server })
    }
}

impl Configs {
    /// The node's config with `real` behind our runtime.
    fn write(place: &Place, name: &str, real: &Path, url: &str) -> Result<Self> {
        let text = fs::read_to_string(place.config())
            .map_err(|e| format!("cannot read the node's config: {e}"))?;
        let with = |ledger: &str, url: Option<&str>| {
            let changed = text.lines().map(|line| match (line.split(' ').next(), url) {
                (Some("real"), _) => format!("real = \"{}\"\n", real.display()),
                (Some("url"), Some(url)) => format!("url = \"{url}\"\n"),
                _ => format!("{line}\n"),
            });
            let path = place.at("bench").join(format!("{name}-{ledger}.toml"));
            files::write(&path, &changed.collect::<String>())?;
            Ok::<_, String>(path)
        };
        Ok(Self { sqlite: with("sqlite", None)?, etcd: with("etcd", Some(url))? })
    }
}
