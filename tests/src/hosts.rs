//! Hosts on which the product is not set up yet: their Engine takes its runtimes from daemon.json.

use std::fs;
use std::path::{Path, PathBuf};

use gpuctl_sim::engine::{self, NEXT_PATH};

use crate::{Node, Options, Output};

/// A host on which nothing is set up yet: these are its daemon.json and its PATH before the usual.
///
/// # Panics
/// When it does not come up.
pub fn host(daemon_json: &str, first_on_path: Option<&Path>) -> Node {
    let first_on_path = first_on_path.map(Path::to_owned);
    host_of(daemon_json, engine::Options { first_on_path, ..engine::Options::default() })
}

/// As [`host`], with more of the Engine to be chosen.
///
/// # Panics
/// As there.
pub fn host_of(daemon_json: &str, engine: engine::Options) -> Node {
    host_with(daemon_json, Options { engine, ..Options::default() })
}

/// As [`host`], with all to be chosen.
///
/// # Panics
/// As there.
pub fn host_with(daemon_json: &str, options: Options) -> Node {
    let first_on_path = options.engine.first_on_path.clone();
    let engine = engine::Options { daemon_json: Some(daemon_json.into()), ..options.engine };
    let node = Node::start(Options { inventory: false, engine, ..options });
    // As a host with systemd would have it.
    let root = root(&node);
    fs::create_dir_all(root.join("run/systemd/system")).expect("the host is laid out");
    let units = root.join("lib/systemd/system");
    fs::create_dir_all(&units).expect("the host is laid out");
    let first = first_on_path.map(|p| format!("{}:", p.display())).unwrap_or_default();
    let unit = format!(
        "[Service]\nExecStart=/usr/sbin/dockerd -H fd://\n\
         Environment=PATH={first}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
    );
    fs::write(units.join("docker.service"), unit).expect("the host is laid out");
    // What a package does not bring, setup makes.
    for name in ["gpuctl-runtime", "gpuctl-gate"] {
        fs::remove_file(node.place().libexec().join(name)).expect("the host is laid out");
    }
    node
}

/// What stands for the system's own files.
pub fn root(node: &Node) -> PathBuf {
    node.place().at("host")
}

/// Runs `docker gpuctl setup` on it.
///
/// # Panics
/// When the CLI cannot be started.
pub fn setup(node: &Node, flags: &[&str]) -> Output {
    let root = root(node).display().to_string();
    node.gpuctl(&[&["setup", "--root", &root], flags].concat())
}

/// As [`setup`], which must end with 0.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn setup_ok(node: &Node, flags: &[&str]) -> Output {
    let got = setup(node, flags);
    assert_eq!(got.code, 0, "{got}\n{}", node.site().engine().last_words());
    got
}

/// The Engine's default runtime, by its own word.
///
/// # Panics
/// When it does not answer.
pub fn default_runtime(node: &Node) -> String {
    node.docker_ok(&["info", "--format", "{{.DefaultRuntime}}"])
}

/// The Engine is restarted with the PATH that the drop-in gives docker.service, or its own.
///
/// # Panics
/// When it does not come up.
pub fn restart(node: &Node) {
    let drop_in = root(node).join("etc/systemd/system/docker.service.d/zz-gpuctl.conf");
    let next = node.place().at(NEXT_PATH);
    match fs::read_to_string(drop_in) {
        Ok(text) => {
            let path = text
                .split("PATH=")
                .nth(1)
                .and_then(|t| t.split('"').next())
                .expect("the host is laid out");
            fs::write(&next, path).expect("the host is laid out");
        }
        Err(_) => drop(fs::remove_file(&next)),
    }
    node.site().engine().stop().expect("the host is laid out");
    node.start_engine();
}
