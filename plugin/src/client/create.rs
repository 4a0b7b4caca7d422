//! From the words of `docker gpuctl run` to those of `docker create`. Nothing here acts.

use gpuctl_ledger::model::{ContainerName, GpuRequest, Version};

use super::flags::{Flag, Split, SplitError, go_bool};
use crate::engine::api::{AutoPort, CreateAsk, CreateRequest, StartMode};

/// What gpuctl's own labels begin with: they tell what a change has made.
const OUR_LABELS: &str = "gpuctl.";
/// The longest hostname that Linux takes, in bytes.
const LONGEST_HOSTNAME: usize = 63;

/// What the words of run or create ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// `--help`: nothing else counts.
    pub help: bool,
    /// `--name`.
    pub name: Option<ContainerName>,
    /// `--gpus`; `None` when not given.
    pub gpus: Option<GpuRequest>,
    /// A container that is there already is attached to.
    pub made: bool,
    /// `--from NAME[@N]`.
    pub from: Option<(ContainerName, Option<Version>)>,
    /// `-d`.
    pub detach: bool,
    /// `-i`.
    pub interactive: bool,
    /// `-t`.
    pub tty: bool,
    /// `--rm`.
    pub auto_remove: bool,
    /// `--detach-keys`.
    pub detach_keys: Option<String>,
    /// `--sig-proxy`.
    pub sig_proxy: Option<bool>,
    /// `-a`: only these of the container's streams; all where it is not given.
    pub attach: Vec<String>,
    /// `-p auto:22`.
    pub ports: Vec<AutoPort>,
    /// What goes to `docker create` as it is, in order.
    pass: Vec<Flag>,
    /// Whether the user wrote `--` before the image.
    dashes: bool,
    /// Image, command and its arguments.
    operands: Vec<String>,
}

/// Why words make no request; the text is for the user, the hint says what to type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Wrong {
    /// What is wrong.
    pub message: String,
    /// What to type instead.
    pub hint: Option<String>,
    /// Nothing is wrong with what is there, but something is missing besides flags.
    pub is_missing: bool,
    /// It is no flag's fault for docker create, whose Engine refuses it.
    pub is_refused: bool,
}

impl Wrong {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, is_missing: false, is_refused: false }
    }
    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<SplitError> for Wrong {
    fn from(error: SplitError) -> Self {
        Self::new(error.to_string())
    }
}

impl Wanted {
    /// Takes our flags out of a command line. `runtime` is the name that marks managed containers.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn of(split: Split, runtime: &str) -> Result<Self, Wrong> {
        let mut wanted = Self { dashes: split.dashes, operands: split.operands, ..Self::default() };
        for flag in split.flags {
            let value = flag.value.clone().unwrap_or_default();
            match flag.name.as_str() {
                "help" => wanted.help = true,
                "name" => {
                    let name = ContainerName::new(value)
                        .map_err(|e| Wrong { is_refused: true, ..Wrong::new(e.to_string()) })?;
                    wanted.name = Some(name);
                }
                "gpus" if wanted.gpus.is_some() => {
                    return Err(Wrong::new("--gpus is given twice")
                        .hint("--gpus device=0,3 names several GPUs"));
                }
                "gpus" => {
                    let gpus = value.parse().map_err(|e: gpuctl_ledger::model::Invalid| {
                        Wrong::new(e.to_string()).hint("--gpus 2, --gpus all, --gpus device=0,3; docker gpuctl run --help shows all ways")
                    })?;
                    wanted.gpus = Some(gpus);
                }
                "from" => wanted.from = Some(from(&value)?),
                "detach" => wanted.detach = switch(&flag)?,
                "sig-proxy" => wanted.sig_proxy = Some(switch(&flag)?),
                "detach-keys" => wanted.detach_keys = Some(value),
                "runtime" => {
                    return Err(Wrong::new(format!(
                        "--runtime {value} is given; a container of gpuctl has the runtime {runtime}"
                    ))
                    .hint("docker run --runtime ... runs a container without gpuctl"));
                }
                "device" if gpu_device(&value).is_some() => {
                    return Err(Wrong::new(format!(
                        "--device {value} names a GPU; a container of gpuctl gets its GPUs by --gpus"
                    ))
                    .hint(gpu_device(&value).unwrap_or_default()));
                }
                "publish" => match AutoPort::read(&value) {
                    None => wanted.pass.push(flag),
                    Some(Ok(auto)) => wanted.ports.push(auto),
                    Some(Err(why)) => {
                        return Err(Wrong::new(format!("--publish {value}: {why}"))
                            .hint("-p auto:22, -p 127.0.0.1:auto:53/udp"));
                    }
                },
                "label" if value.starts_with(OUR_LABELS) => {
                    return Err(Wrong::new(format!(
                        "--label {value} is given; labels {OUR_LABELS}* are gpuctl's own"
                    ))
                    .hint("give the label another name"));
                }
                name => {
                    match name {
                        "interactive" => wanted.interactive = switch(&flag)?,
                        "tty" => wanted.tty = switch(&flag)?,
                        "rm" => wanted.auto_remove = switch(&flag)?,
                        "attach" => wanted.attach.push(value.to_lowercase()),
                        _ => {}
                    }
                    wanted.pass.push(flag);
                }
            }
        }
        if wanted.help {
            return Ok(wanted);
        }
        if !wanted.attach.is_empty() && wanted.detach {
            return Err(Wrong::new("conflicting options: -a and -d"));
        }
        wanted.complete()
    }

    fn complete(self) -> Result<Self, Wrong> {
        let without = |n: &&str| matches!(*n, "host" | "none") || n.starts_with("container:");
        if let Some(network) = self.networks().find(without).filter(|_| !self.ports.is_empty()) {
            return Err(Wrong::new(format!(
                "-p auto:PORT and --network {network} are given, and there no port is published"
            ))
            .hint("leave one of the two out"));
        }
        if self.from.is_some() && !self.ports.is_empty() {
            return Err(Wrong::new(
                "--from takes everything from the record; --publish is given besides",
            )
            .hint("--gpus, --name and -d go with --from"));
        }
        match (&self.from, self.operands.first()) {
            (None, None) => {
                let hint = "docker gpuctl run [OPTIONS] IMAGE [COMMAND] [ARG...]";
                let wrong = Wrong::new("an image is missing").hint(hint);
                Err(Wrong { is_missing: true, ..wrong })
            }
            (Some(_), Some(operand)) => Err(Wrong::new(format!(
                "--from takes image and command from the record; {operand:?} is given besides"
            ))),
            (Some(_), None) => {
                let other = self.pass.iter().find(|f| !matches!(f.name.as_str(), "interactive"));
                match other {
                    Some(flag) => Err(Wrong::new(format!(
                        "--from takes everything from the record; --{} is given besides",
                        flag.name
                    ))
                    .hint("--gpus, --name and -d go with --from")),
                    None => Ok(self),
                }
            }
            _ => Ok(self),
        }
    }

    /// What the engine is asked; `run` tells run from create.
    pub fn request(&self, run: bool) -> CreateRequest {
        CreateRequest {
            name: self.name.clone(),
            gpus: self.gpus.clone().unwrap_or_default(),
            start: match (run, self.detach) {
                (false, _) => StartMode::No,
                (true, true) => StartMode::Detached,
                (true, false) => StartMode::Attached,
            },
            auto_remove: self.auto_remove,
            from: self.from.clone(),
            ports: self.ports.clone(),
        }
    }

    /// The words of `docker create`.
    pub fn create_words(&self, ask: &CreateAsk) -> Vec<String> {
        let mut words = vec!["create".to_owned()];
        let mut add = |flag: &str, value: &str| {
            words.push(flag.to_owned());
            words.push(value.to_owned());
        };
        add("--name", ask.docker_name.as_str());
        add("--runtime", &ask.runtime);
        for (key, value) in &ask.labels {
            add("--label", &format!("{key}={value}"));
        }
        for publish in &ask.publish {
            add("--publish", publish);
        }
        if self.wants_hostname(ask.name.as_str()) {
            add("--hostname", ask.name.as_str());
        }
        let (alias, pass) = self.with_alias(ask.name.as_str());
        if let Some(alias) = alias {
            add("--network-alias", alias);
        }
        words.extend(pass);
        if self.dashes {
            words.push("--".to_owned());
        }
        words.extend(self.operands.iter().cloned());
        words
    }

    /// Our hostname is the container's name, so that it stays over versions; not where the user
    /// gives one, and not where the container has no hostname of its own: in another's network
    /// Docker refuses one, and in the host's, programs expect to find themselves by the host's.
    fn wants_hostname(&self, name: &str) -> bool {
        let given = |n: &str| self.pass.iter().any(|f| f.name == n);
        let host_uts =
            self.pass.iter().any(|f| f.name == "uts" && f.value.as_deref() == Some("host"));
        let shared = self.networks().any(|n| n == "host" || n.starts_with("container:"));
        !given("hostname") && !host_uts && !shared && name.len() <= LONGEST_HOSTNAME
    }

    fn networks(&self) -> impl Iterator<Item = &str> {
        self.pass.iter().filter(|f| is_network(f)).map(network_name)
    }

    /// The alias to give for the first network, and the flags to pass on: `--network-alias` holds
    /// for the first network only, and Docker refuses it beside an alias within `--network`.
    fn with_alias<'a>(&self, name: &'a str) -> (Option<&'a str>, Vec<String>) {
        let mut words = Vec::new();
        let mut alias = None;
        let mut first = true;
        for flag in &self.pass {
            let named = is_network(flag) && takes_alias(network_name(flag));
            let value = flag.value.as_deref().unwrap_or_default();
            let inside = value.split(',').any(|part| part.starts_with("alias="));
            if named && first && !inside {
                alias = Some(name);
                words.extend(flag.words.iter().cloned());
            } else if named {
                let long = if value.contains('=') { String::new() } else { "name=".to_owned() };
                words.push("--network".to_owned());
                words.push(format!("{long}{value},alias={name}"));
            } else {
                words.extend(flag.words.iter().cloned());
            }
            first = first && !is_network(flag);
        }
        (alias, words)
    }

    /// For a start with the terminal on it, of a container that is there.
    pub fn attaching(interactive: bool, detach_keys: Option<String>) -> Self {
        Self { made: true, interactive, detach_keys, ..Self::default() }
    }

    /// Whether the container has a terminal of its own; of one that is recorded or there already the
    /// words do not tell.
    pub fn has_tty(&self) -> Option<bool> {
        (self.from.is_none() && !self.made).then_some(self.tty)
    }

    /// Whether this one of the container's streams (`stdout`, `stderr`) is attached to.
    pub fn attaches(&self, stream: &str) -> bool {
        self.attach.is_empty() || self.attach.iter().any(|wanted| wanted == stream)
    }

    /// The words of `docker start` that attach to the container.
    pub fn attach_words(&self, docker_name: &str) -> Vec<String> {
        let mut words = vec!["start".to_owned(), "--attach".to_owned()];
        if self.interactive {
            words.push("--interactive".to_owned());
        }
        if let Some(keys) = &self.detach_keys {
            words.push(format!("--detach-keys={keys}"));
        }
        words.push(docker_name.to_owned());
        words
    }
}

fn switch(flag: &Flag) -> Result<bool, Wrong> {
    match &flag.value {
        None => Ok(true),
        Some(text) => go_bool(text).ok_or_else(|| {
            Wrong::new(format!("--{} is neither true nor false: {text:?}", flag.name))
        }),
    }
}

/// What to type instead of a `--device` that is a GPU, by its CDI name or its node; `None` for any
/// other device. The runtime takes out what the binding does not say: let through, it would be a GPU
/// asked for that silently does not come.
fn gpu_device(value: &str) -> Option<String> {
    if let Some((kind, name)) = value.split_once('=')
        && kind.ends_with("nvidia.com/gpu")
    {
        let list = if name == "all" { name.to_owned() } else { format!("device={name}") };
        return Some(format!("--gpus {list}"));
    }
    let mut paths = value.split(':');
    let minor = paths.next()?.strip_prefix("/dev/nvidia")?;
    let number = !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit());
    let hint = "--gpus device=0 names GPU 0; docker gpuctl gpus shows all of them";
    number.then(|| hint.to_owned())
}

fn from(value: &str) -> Result<(ContainerName, Option<Version>), Wrong> {
    let (name, version) = match value.split_once('@') {
        Some((name, version)) => (name, Some(version)),
        None => (value, None),
    };
    let name = ContainerName::new(name).map_err(|e| Wrong::new(e.to_string()))?;
    let version = match version {
        None => None,
        Some(text) => Some(Version(text.parse().map_err(|_| {
            Wrong::new(format!("--from {value}: {text:?} is no version"))
                .hint(format!("docker gpuctl history {name} shows them"))
        })?)),
    };
    Ok((name, version))
}

fn is_network(flag: &Flag) -> bool {
    matches!(flag.name.as_str(), "network" | "net")
}

/// The network of `--network`: its value, or what `name=` says among `key=value`s.
fn network_name(flag: &Flag) -> &str {
    let value = flag.value.as_deref().unwrap_or_default();
    if !value.contains('=') {
        return value;
    }
    value.split(',').find_map(|part| part.strip_prefix("name=")).unwrap_or_default()
}

/// Whether a network resolves aliases: only user-defined ones do.
fn takes_alias(network: &str) -> bool {
    !matches!(network, "" | "default" | "bridge" | "host" | "none" | "nat")
        && !network.starts_with("container:")
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;
