//! `docker gpuctl dial`: for a plugin on another host. It joins stdin and stdout to this node's service, and
//! is in no help: see docs/contexts.md.

use std::path::{Path, PathBuf};

use gpuctl_ledger::config::Config;

use super::session::config;
use crate::client::argv::Globals;
use crate::client::endpoint::{Surroundings, check};
use crate::engine::api::Failure;
use crate::service::dial;

/// The command's name.
pub(super) const WORD: &str = "dial";

/// `--engine ENDPOINT`: the Engine that is meant, where one is named. `--root FOLDER`: where this host's
/// files are, as a container sees them.
pub(super) fn dial(words: &[String]) -> Result<u8, Failure> {
    let (mut engine, mut root) = (None, None);
    for pair in words.chunks(2) {
        match pair {
            [flag, value] if flag == "--engine" => engine = Some(value.clone()),
            [flag, value] if flag == "--root" => root = Some(PathBuf::from(value)),
            _ => {
                return Err(Failure::new("dial is for docker gpuctl on another host")
                    .hint("docker --context NAME gpuctl ... uses it"));
            }
        }
    }
    let socket = socket(engine, root.as_deref());
    Ok(dial::dial(socket.as_deref().map_err(Clone::clone)))
}

fn socket(engine: Option<String>, root: Option<&Path>) -> Result<PathBuf, Failure> {
    let config = match root.map(|root| root.join("etc/gpuctl/config.toml")) {
        None => config()?.0,
        Some(file) if file.symlink_metadata().is_ok() => Config::read(&file)
            .map_err(|e| Failure::new(format!("on the other host, {e}")).hint("mend its config"))?,
        Some(_) => Config::default(),
    };
    if let Some(engine) = engine {
        let named = Globals { host: Some(engine), ..Globals::default() };
        check(&named, &Surroundings::default(), &config.docker.host)?;
    }
    let socket = config.paths.socket;
    Ok(match (root, socket.strip_prefix("/")) {
        (Some(root), Ok(inside)) => root.join(inside),
        _ => socket,
    })
}
