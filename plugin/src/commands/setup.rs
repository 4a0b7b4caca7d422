//! `docker gpuctl setup`.

use std::path::PathBuf;

use super::session;
use crate::client::argv::Globals;
use crate::client::endpoint::{Surroundings, check};
use crate::engine::api::Failure;
use crate::setup::{self, Call, Wanted};

/// Install enforcement on this host, or remove it (as root)
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Log what docker run would get, and keep nothing from it: the first stage
    #[arg(long, group = "level")]
    observe: bool,
    /// Also catch --runtime runc, containers made before, and builds: a runc of ours first on PATH
    #[arg(long, group = "level")]
    strict: bool,
    /// Take away what setup made
    #[arg(long, group = "level")]
    remove: bool,
    /// Have systemd read its units anew, so that no container loses a GPU by it: for packages
    #[arg(long, group = "level", hide = true)]
    reload_units: bool,
    /// Print the exact changes and make none
    #[arg(long)]
    dry_run: bool,
    /// Before the paths of the system's own files: for tests and for images of hosts
    #[arg(long, hide = true, default_value = "/")]
    root: PathBuf,
}

pub(super) fn setup(globals: &Globals, args: &Args) -> Result<u8, Failure> {
    let (config, config_path) = session::config_to_be()?;
    let around = Surroundings::found(globals);
    let local = |host: &Option<String>| host.clone().filter(|h| h.starts_with("unix://"));
    let host = local(&globals.host).or_else(|| local(&around.host));
    let host = host.unwrap_or_else(|| config.docker.host.clone());
    check(globals, &around, &host)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new("setup changes the system's files, and runs as root")
            .hint("sudo docker gpuctl setup"));
    }
    let wanted = match (args.observe, args.strict, args.remove) {
        (true, ..) => Wanted::Observe,
        (_, true, _) => Wanted::Strict,
        (.., true) => Wanted::Remove,
        _ if args.reload_units => Wanted::ReloadUnits,
        _ => Wanted::Cooperative,
    };
    let root = args.root.clone();
    setup::run(&Call { wanted, dry_run: args.dry_run, root, config, config_path, host })?;
    Ok(0)
}
