//! Which Engine the user means, as Docker resolves it, and whether it is the one that this node's gpuctl
//! serves or how another host's is reached.

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

/// The Engine that the user means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// This node's.
    Here,
    /// Another host's, which is reached so.
    There(Far),
}

/// Another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Far {
    /// Its endpoint as Docker has it: `ssh://me@far`.
    pub host: String,
    /// How it was named: `-H`, `the context far`.
    pub by: String,
    /// The Docker CLI's global flags that name it too; where there are none, the environment does.
    pub flags: Vec<String>,
    /// How its service is reached.
    pub way: Way,
}

/// How another host's service is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By ssh.
    Ssh(SshHost),
    /// Through its Engine.
    Engine,
}

/// What ssh needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SshHost {
    /// `-l`.
    pub user: Option<String>,
    /// The name or address.
    pub host: String,
    /// `-p`.
    pub port: Option<u16>,
    /// The Engine's socket there; the usual one where none is named.
    pub path: Option<String>,
}

impl SshHost {
    /// Of `ssh://[user@]host[:port][/path]`; `None` where it is not like that.
    pub fn read(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("ssh://")?;
        let (place, path) = match rest.split_once('/') {
            Some((place, path)) => (place, Some(format!("/{path}")).filter(|p| p != "/")),
            None => (rest, None),
        };
        let (user, place) = match place.rsplit_once('@') {
            Some((user, place)) => (Some(user.to_owned()), place),
            None => (None, place),
        };
        let (host, port) = match (place.strip_prefix('['), place.rsplit_once(':')) {
            (Some(six), _) => {
                let (host, rest) = six.split_once(']')?;
                (host, rest.strip_prefix(':'))
            }
            (None, Some((host, port))) => (host, Some(port)),
            (None, None) => (place, None),
        };
        let port = port.map(|p| p.parse().ok().filter(|p| *p != 0).ok_or(())).transpose().ok()?;
        // A password has no place here, nor has what ssh would take for a flag.
        let odd = |text: &str| text.is_empty() || text.starts_with('-') || text.contains(':');
        if host.is_empty() || host.starts_with('-') || user.as_deref().is_some_and(odd) {
            return None;
        }
        Some(Self { user, host: host.to_owned(), port, path })
    }

    /// As one would type it: `me@far`.
    pub fn shown(&self) -> String {
        let user = self.user.as_ref().map(|u| format!("{u}@")).unwrap_or_default();
        let port = self.port.map(|p| format!("-p {p} ")).unwrap_or_default();
        format!("{port}{user}{}", self.host)
    }
}

/// What the user named, as Docker resolves it: the endpoint, how it was named, and by which flags.
type Named = (String, String, Vec<String>);

/// `-H` and `--context` count before DOCKER_HOST, that before DOCKER_CONTEXT, and that before the one
/// that `docker context use` chose. `None` where nothing is named.
fn named(globals: &Globals, around: &Surroundings) -> Result<Option<Named>, Failure> {
    let by_env = || around.host.clone().map(|host| (host, "DOCKER_HOST".to_owned(), vec![]));
    let context = match (&globals.host, &globals.context) {
        (Some(host), _) => {
            let mut flags = vec!["--host".to_owned(), host.clone()];
            flags.extend(globals.tls.iter().cloned());
            return Ok(Some((host.clone(), "-H".to_owned(), flags)));
        }
        (None, Some(context)) => Some(context.clone()),
        (None, None) if around.host.is_some() => None,
        (None, None) => chosen_context(around),
    };
    let Some(context) = context else { return Ok(by_env()) };
    match of_context(&context, around) {
        Context::At(host) => {
            let flags = vec!["--context".to_owned(), context.clone()];
            Ok(Some((host, format!("the context {context}"), flags)))
        }
        Context::Default => Ok(by_env()),
        Context::Unknown => {
            let message = format!("the Docker context {context:?} is not known");
            Err(Failure::new(message).hint("docker context ls shows those there are"))
        }
    }
}

/// The Engine that the user means, where `ours` is this node's. Naming none is fine: then ours is meant.
///
/// # Errors
/// A failure that says which Engine is meant, and what to do instead.
pub fn resolve(globals: &Globals, around: &Surroundings, ours: &str) -> Result<Target, Failure> {
    let Some((host, by, flags)) = named(globals, around)? else { return Ok(Target::Here) };
    if same(&host, ours) {
        return Ok(Target::Here);
    }
    let way = match host.split_once("://").map(|(scheme, _)| scheme) {
        Some("ssh") => match SshHost::read(&host) {
            Some(ssh) => Way::Ssh(ssh),
            None => {
                return Err(Failure::new(format!("{by} names {host}, which ssh cannot go to"))
                    .hint("an Engine behind ssh is written ssh://[USER@]HOST[:PORT]"));
            }
        },
        Some("tcp" | "http" | "https") => Way::Engine,
        _ => return Err(another(&host, &by, ours)),
    };
    Ok(Target::There(Far { host, by, flags, way }))
}

fn another(host: &str, by: &str, ours: &str) -> Failure {
    Failure::new(format!("{by} names the Engine at {host}; gpuctl of this node serves {ours}"))
        .hint(format!("docker -H {ours} gpuctl ..., or docker.host in gpuctl's config"))
}

/// Refuses where the user names another Engine than `ours`, for what is done on this node only.
///
/// # Errors
/// A failure that says which Engine is meant and which is served.
pub fn check(globals: &Globals, around: &Surroundings, ours: &str) -> Result<(), Failure> {
    match resolve(globals, around, ours)? {
        Target::Here => Ok(()),
        Target::There(far) => {
            let failure = Failure::new(format!(
                "this works on the host whose shell you are in, and {} names the Engine at {}",
                far.by, far.host
            ));
            Err(failure.hint(match &far.way {
                Way::Ssh(host) => format!("ssh -t {} sudo docker gpuctl ...", host.shown()),
                Way::Engine => "log in on that host, and run it there".to_owned(),
            }))
        }
    }
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
        let (host, context) = (host.map(Into::into), context.map(Into::into));
        Globals { host, context, ..Globals::default() }
    }

    #[test]
    fn naming_no_engine_or_ours_is_fine_and_another_is_refused() {
        let nothing = Surroundings::default();
        assert!(check(&Globals::default(), &nothing, OURS).is_ok());
        assert!(check(&globals(Some(OURS), None), &nothing, OURS).is_ok());
        assert!(check(&globals(None, Some("default")), &nothing, OURS).is_ok());
        let other = check(&globals(Some("tcp://far:2376"), None), &nothing, OURS).unwrap_err();
        assert!(other.message.contains("-H names the Engine at tcp://far:2376"), "{other}");
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

    fn far(globals: &Globals, around: &Surroundings) -> Far {
        match resolve(globals, around, OURS).unwrap() {
            Target::There(far) => far,
            Target::Here => panic!("here"),
        }
    }

    #[test]
    fn another_host_is_reached_by_ssh_or_through_its_engine() {
        let nothing = Surroundings::default();
        let ssh = far(&globals(Some("ssh://me@far:2222"), None), &nothing);
        assert_eq!(ssh.flags, ["--host", "ssh://me@far:2222"]);
        let Way::Ssh(host) = ssh.way else { panic!("{ssh:?}") };
        assert_eq!((host.shown().as_str(), host.path), ("-p 2222 me@far", None));
        let tls =
            Globals { tls: vec!["--tlsverify".into()], ..globals(Some("tcp://far:2376"), None) };
        let tls = far(&tls, &nothing);
        assert_eq!(
            (tls.flags, tls.way),
            (vec!["--host".into(), "tcp://far:2376".into(), "--tlsverify".into()], Way::Engine)
        );
        // By the environment: the CLI reads that itself.
        let env = Surroundings { host: Some("ssh://far".into()), ..nothing.clone() };
        let by_env = far(&Globals::default(), &env);
        assert_eq!((by_env.by.as_str(), by_env.flags.len()), ("DOCKER_HOST", 0));
        // The context that is called default is what the environment says.
        assert_eq!(far(&globals(None, Some("default")), &env).host, "ssh://far");
        // Another socket of this host is nobody's.
        let other =
            resolve(&globals(Some("unix:///other.sock"), None), &nothing, OURS).unwrap_err();
        assert!(other.message.contains("unix:///other.sock") && other.message.contains(OURS));
    }

    #[test]
    fn places_of_ssh_are_read_and_nothing_becomes_a_flag() {
        let read = |url| {
            let h = SshHost::read(url)?;
            Some((h.user.unwrap_or_default(), h.host, h.port, h.path.unwrap_or_default()))
        };
        let some = |user: &str, host: &str, port, path: &str| {
            Some((user.to_owned(), host.to_owned(), port, path.to_owned()))
        };
        assert_eq!(read("ssh://far"), some("", "far", None, ""));
        assert_eq!(read("ssh://far/"), some("", "far", None, ""));
        assert_eq!(read("ssh://me@far:22/run/d.sock"), some("me", "far", Some(22), "/run/d.sock"));
        assert_eq!(read("ssh://[::1]:22"), some("", "::1", Some(22), ""));
        for odd in [
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://-l@far",
            "ssh://me:secret@far",
            "ssh://far:x",
            "ssh://far:0",
            "ssh://@far",
            "far",
            "ssh://[::1",
        ] {
            assert_eq!(read(odd), None, "{odd}");
        }
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
