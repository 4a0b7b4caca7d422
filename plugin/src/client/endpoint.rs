//! Which Engine the user means, and whether it is the one that this node's gpuctl serves.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::argv::Globals;
use crate::engine::api::Failure;

/// The longest file of the Docker CLI's that is read, in bytes.
const LONGEST: u64 = 1 << 20;
/// How many contexts are looked at.
const MOST_CONTEXTS: usize = 1000;

/// What the user's environment says; apart so that the rule can be tested.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Surroundings {
    /// DOCKER_HOST.
    pub host: Option<String>,
    /// DOCKER_CONTEXT.
    pub context: Option<String>,
    /// The folder of the CLI's configuration.
    pub config: Option<PathBuf>,
}

impl Surroundings {
    /// Of this process; `--config` counts before DOCKER_CONFIG and the home folder.
    pub fn found(globals: &Globals) -> Self {
        let var = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
        let home = || var("HOME").map(|h| Path::new(&h).join(".docker"));
        let config = globals.config.clone().or_else(|| var("DOCKER_CONFIG")).map(PathBuf::from);
        Self {
            host: var("DOCKER_HOST"),
            context: var("DOCKER_CONTEXT"),
            config: config.or_else(home),
        }
    }
}

/// Refuses where the user names another Engine than `ours`. Naming none is fine: then ours is
/// meant.
///
/// # Errors
/// A failure that says which Engine is meant and which is served.
pub fn check(globals: &Globals, around: &Surroundings, ours: &str) -> Result<(), Failure> {
    let (named, by) = match (&globals.host, &globals.context) {
        (Some(host), _) => (host.clone(), "-H".to_owned()),
        (None, Some(context)) => match of_context(context, around) {
            Context::At(host) => (host, format!("the context {context}")),
            Context::Default => return Ok(()),
            Context::Unknown => {
                let message = format!("the Docker context {context:?} is not known");
                return Err(Failure::new(message).hint("docker context ls shows those there are"));
            }
        },
        (None, None) => match (&around.host, chosen_context(around)) {
            (Some(host), _) => (host.clone(), "DOCKER_HOST".to_owned()),
            (None, Some(context)) => match of_context(&context, around) {
                Context::At(host) => (host, format!("the context {context}")),
                _ => return Ok(()),
            },
            (None, None) => return Ok(()),
        },
    };
    if same(&named, ours) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{by} names the Engine at {named}; gpuctl of this node serves {ours}"
    ))
    .hint(format!("docker -H {ours} gpuctl ..., or docker.host in gpuctl's config")))
}

/// Whether two endpoints are the same; sockets are compared as files, since /var/run is /run.
fn same(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    let file = |host: &str| {
        let path = host.strip_prefix("unix://")?;
        let path = if path.is_empty() { "/var/run/docker.sock" } else { path };
        std::fs::canonicalize(path).ok()
    };
    matches!((file(one), file(other)), (Some(a), Some(b)) if a == b)
}

enum Context {
    /// The one that is no file: DOCKER_HOST, else the usual socket.
    Default,
    At(String),
    Unknown,
}

fn chosen_context(around: &Surroundings) -> Option<String> {
    if around.context.is_some() {
        return around.context.clone();
    }
    let config = read(&around.config.as_ref()?.join("config.json"))?;
    let name = config.get("currentContext")?.as_str()?;
    Some(name.to_owned()).filter(|n| !n.is_empty())
}

fn of_context(name: &str, around: &Surroundings) -> Context {
    if name == "default" {
        return Context::Default;
    }
    let found = || {
        let folder = around.config.as_ref()?.join("contexts/meta");
        for entry in std::fs::read_dir(folder).ok()?.take(MOST_CONTEXTS).flatten() {
            let Some(meta) = read(&entry.path().join("meta.json")) else { continue };
            if meta.get("Name").and_then(serde_json::Value::as_str) == Some(name) {
                return Some(meta.pointer("/Endpoints/docker/Host")?.as_str()?.to_owned());
            }
        }
        None
    };
    found().map_or(Context::Unknown, Context::At)
}

fn read(path: &Path) -> Option<serde_json::Value> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "unix:///var/run/docker.sock";

    fn globals(host: Option<&str>, context: Option<&str>) -> Globals {
        Globals { host: host.map(Into::into), context: context.map(Into::into), config: None }
    }

    #[test]
    fn naming_no_engine_or_ours_is_fine_and_another_is_refused() {
        let nothing = Surroundings::default();
        assert!(check(&Globals::default(), &nothing, OURS).is_ok());
        assert!(check(&globals(Some(OURS), None), &nothing, OURS).is_ok());
        assert!(check(&globals(None, Some("default")), &nothing, OURS).is_ok());
        let other = check(&globals(Some("tcp://far:2376"), None), &nothing, OURS).unwrap_err();
        assert!(other.message.contains("tcp://far:2376") && other.message.contains(OURS));
        let by_env = Surroundings { host: Some("tcp://far:1".into()), ..nothing.clone() };
        assert!(check(&Globals::default(), &by_env, OURS).is_err());
        // A flag counts before the environment.
        assert!(check(&globals(Some(OURS), None), &by_env, OURS).is_ok());
        assert!(check(&globals(None, Some("nope")), &nothing, OURS).is_err());
    }

    #[test]
    fn a_context_is_looked_up() {
        let dir = tempfile::tempdir().unwrap();
        let meta = dir.path().join("contexts/meta/ab12");
        std::fs::create_dir_all(&meta).unwrap();
        let text = r#"{"Name":"far","Endpoints":{"docker":{"Host":"ssh://far"}}}"#;
        std::fs::write(meta.join("meta.json"), text).unwrap();
        let around = Surroundings { config: Some(dir.path().into()), ..Default::default() };
        let refused = check(&globals(None, Some("far")), &around, OURS).unwrap_err();
        assert!(refused.message.contains("ssh://far"), "{refused}");
        assert!(check(&Globals::default(), &around, OURS).is_ok());
        std::fs::write(dir.path().join("config.json"), r#"{"currentContext":"far"}"#).unwrap();
        assert!(check(&Globals::default(), &around, OURS).is_err());
        assert!(check(&Globals::default(), &around, "ssh://far").is_ok());
        // DOCKER_HOST overrides the chosen context.
        let around = Surroundings { host: Some(OURS.into()), ..around };
        assert!(check(&Globals::default(), &around, OURS).is_ok());
    }

    #[test]
    fn the_same_socket_by_another_path_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("d.sock"), "").unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("link")).unwrap();
        let host = |p: &str| format!("unix://{}/{p}", dir.path().display());
        assert!(same(&host("d.sock"), &host("link/d.sock")));
        assert!(!same(&host("d.sock"), &host("e.sock")));
    }
}
