//! `/etc/gpuctl/config.toml`: every key, its default and its meaning, in one place. Unknown keys are
//! refused, so that a misspelt one is not silently without effect.

use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::model::NodeName;
use crate::sharing;

mod change;
mod gpu;
mod policy;

pub use change::{ChangeConfig, ImageFilesystem, PortRange, PortsConfig, ScaleBy, VolumesConfig};
pub use gpu::{GpuConfig, Inject};
pub use policy::{AllPolicy, BarePolicy, Exempt, ImageEnvPolicy, Policy, PrivilegedPolicy};

/// Where the config is when nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/gpuctl/config.toml";
/// The environment variable that names another config file. It is read from dockerd's or the
/// administrator's environment, never from a container's.
pub const PATH_VARIABLE: &str = "GPUCTL_CONFIG";
/// A config longer than this is refused, in bytes.
const LONGEST: u64 = 256 * 1024;

/// Why there is no config.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be opened or read.
    #[error("config {0} cannot be read: {1}")]
    Unreadable(PathBuf, String),
    /// Root obeys only a file that nobody but root can write.
    #[error("config {0} is not root's alone: chown root and chmod go-w it")]
    Untrusted(PathBuf),
    /// It is wrong: the parser's word, with the line.
    #[error("config {0} is wrong: {1}")]
    Wrong(PathBuf, String),
}

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The node's name in the ledger. Default: the host's name up to the first dot.
    pub node: Option<NodeName>,
    /// Where leases and versions are kept.
    pub ledger: LedgerConfig,
    /// Our own files.
    pub paths: Paths,
    /// The Engine.
    pub docker: DockerConfig,
    /// The OCI runtime behind us.
    pub runtime: RuntimeConfig,
    /// What is granted to whom.
    pub policy: Policy,
    /// The GPUs and their driver.
    pub gpu: GpuConfig,
    /// How containers are changed.
    pub change: ChangeConfig,
    /// The ports that are given out.
    pub ports: PortsConfig,
    /// Volumes with a size.
    pub volumes: VolumesConfig,
}

/// `[ledger]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LedgerConfig {
    /// `sqlite:///path`, `sqlite::memory:` (tests), or `etcd://host:2379,host2:2379`
    /// (`etcds://` for TLS).
    pub url: String,
    /// Longest wait for one answer, in milliseconds.
    pub timeout_ms: u64,
    /// etcd's user.
    pub user: Option<String>,
    /// The file that holds etcd's password, root's alone.
    pub password_file: Option<PathBuf>,
    /// PEM file of the authority that signed etcd's certificate.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file of our key.
    pub key_file: Option<PathBuf>,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            url: "sqlite:///var/lib/gpuctl/ledger.db".into(),
            timeout_ms: 5000,
            user: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

impl LedgerConfig {
    /// Longest wait for one answer.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// `[paths]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// What must outlast a reboot: copies of bindings, the inventory.
    pub state: PathBuf,
    /// What must not: grants, locks, the service's watch. A tmpfs.
    pub run: PathBuf,
    /// The service's socket.
    pub socket: PathBuf,
    /// The file that identifies the machine.
    pub machine_id: PathBuf,
    /// The file that identifies the boot.
    pub boot_id: PathBuf,
    /// The socket of the system's journal.
    pub journal: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            state: "/var/lib/gpuctl".into(),
            run: "/run/gpuctl".into(),
            socket: "/run/gpuctl/gpuctl.sock".into(),
            machine_id: "/etc/machine-id".into(),
            boot_id: "/proc/sys/kernel/random/boot_id".into(),
            journal: "/run/systemd/journal/socket".into(),
        }
    }
}

impl Paths {
    /// The inventory's file.
    pub fn inventory(&self) -> PathBuf {
        self.state.join("inventory.json")
    }
    /// The directory of the node's copies of its bindings, one file a container id.
    pub fn bindings(&self) -> PathBuf {
        self.state.join("bindings")
    }
    /// The directory of the grants of this boot, one file a container id.
    pub fn grants(&self) -> PathBuf {
        self.run.join("grants")
    }
    /// The directory of the operation locks, one file a container name.
    pub fn locks(&self) -> PathBuf {
        self.run.join("locks")
    }
    /// The directory of the locks of volumes, one file a volume name.
    pub fn volume_locks(&self) -> PathBuf {
        self.run.join("volume-locks")
    }
    /// The processes that the service last saw on GPUs.
    pub fn watch(&self) -> PathBuf {
        self.run.join("watch.json")
    }
}

/// `[docker]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DockerConfig {
    /// Docker's data root, found by setup.
    pub root: PathBuf,
    /// The Engine's socket, for the service and for root: `unix:///var/run/docker.sock`.
    pub host: String,
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self { root: "/var/lib/docker".into(), host: "unix:///var/run/docker.sock".into() }
    }
}

/// `[runtime]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    /// The real OCI runtime, by absolute path.
    pub real: PathBuf,
    /// The real runc, by absolute path, where [`Self::real`] is NVIDIA's runtime, which calls `runc`
    /// itself: in strict mode that is us, and this is what we become then.
    pub runc: Option<PathBuf>,
    /// The hook program, by absolute path; put into specs as prestart gate and poststop hook.
    pub hook: PathBuf,
    /// The runtime's name in daemon.json that marks a managed container.
    pub managed_name: String,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            real: "/usr/bin/runc".into(),
            runc: None,
            hook: "/usr/libexec/gpuctl/gpuctl-hook".into(),
            managed_name: "gpuctl".into(),
        }
    }
}

impl Config {
    /// Reads the file that [`PATH_VARIABLE`] names, or [`DEFAULT_PATH`]. Where the default is not
    /// there, all settings have their defaults; a named one must be.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load() -> Result<(Self, PathBuf), ConfigError> {
        match std::env::var_os(PATH_VARIABLE) {
            Some(path) if !path.is_empty() => {
                let path = PathBuf::from(path);
                Ok((Self::read(&path)?, path))
            }
            _ => {
                let path = PathBuf::from(DEFAULT_PATH);
                Ok((Self::at(&path)?, path))
            }
        }
    }

    /// Reads one file; the default one need not be there.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn at(path: &Path) -> Result<Self, ConfigError> {
        let missing = || {
            let meta = std::fs::symlink_metadata(path);
            meta.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
        };
        if path == Path::new(DEFAULT_PATH) && missing() {
            return Ok(Self::default());
        }
        Self::read(path)
    }

    /// Reads one file. Root refuses a file that others may write; the check is on the opened file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |e: &std::io::Error| {
            ConfigError::Unreadable(path.to_owned(), plain_io_error(e).to_owned())
        };
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_CLOEXEC | nix::libc::O_NONBLOCK)
            .open(path)
            .map_err(|e| unreadable(&e))?;
        let meta = file.metadata().map_err(|e| unreadable(&e))?;
        let root = nix::unistd::geteuid().is_root();
        if root && (meta.uid() != 0 || meta.mode() & 0o022 != 0) {
            return Err(ConfigError::Untrusted(path.to_owned()));
        }
        if !meta.is_file() || meta.len() > LONGEST {
            return Err(ConfigError::Wrong(path.to_owned(), "it is no file of sane size".into()));
        }
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).map_err(|e| unreadable(&e))?;
        Self::parse(&text).map_err(|why| ConfigError::Wrong(path.to_owned(), why))
    }

    /// Reads a config from its text.
    ///
    /// # Errors
    /// The parser's word on one line, or ours.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|e| {
            let line = e.span().map(|s| 1 + text[..s.start.min(text.len())].matches('\n').count());
            let message = e.message().replace('\n', " ");
            line.map_or(message.clone(), |n| format!("line {n}: {message}"))
        })?;
        if config.ledger.timeout_ms == 0 || config.ledger.timeout_ms > 60_000 {
            return Err("ledger.timeout_ms must lie between 1 and 60000".into());
        }
        let runtime = &config.runtime;
        let runc = runtime.runc.as_ref().is_none_or(|runc| runc.is_absolute());
        if !runtime.real.is_absolute() || !runtime.hook.is_absolute() || !runc {
            return Err("runtime.real, runtime.runc and runtime.hook must be absolute paths".into());
        }
        if config.policy.exempt.iter().any(|e| e.image.is_none() && e.name.is_none()) {
            return Err("an entry of policy.exempt needs an image or a name".into());
        }
        sharing::check(&config.gpu.shared)?;
        let absolute = |path: &Path| path.is_absolute();
        if !absolute(&config.volumes.images)
            || !config.change.layers.as_deref().is_none_or(absolute)
        {
            return Err("volumes.images and change.layers must be absolute paths".into());
        }
        if config.volumes.backend == Some(crate::model::Backend::Plain) {
            return Err("volumes.backend is \"size\" or \"image\"".into());
        }
        Ok(config)
    }

    /// Where snapshots keep writable layers.
    pub fn layers(&self) -> PathBuf {
        let layers = self.change.layers.clone();
        layers.unwrap_or_else(|| self.docker.root.join("gpuctl/layers"))
    }

    /// The node's name: the setting, or the host's name up to the first dot.
    ///
    /// # Errors
    /// When there is no setting and the host's name makes no node name.
    pub fn node_name(&self) -> Result<NodeName, String> {
        if let Some(name) = &self.node {
            return Ok(name.clone());
        }
        let host = nix::unistd::gethostname().map_err(|_| "the host's name cannot be read")?;
        let host = host.to_string_lossy().into_owned();
        let short = host.split('.').next().unwrap_or_default();
        NodeName::new(short).map_err(|e| format!("{e}; set node in the config"))
    }
}

/// An OS error in words that Docker does not take for an exit code ("permission denied" would make
/// it 126, "no such file or directory" 127).
pub fn plain_io_error(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::NotFound => "it is not there",
        K::PermissionDenied => "access was denied",
        K::AlreadyExists => "it exists already",
        K::IsADirectory => "it is a folder",
        K::NotADirectory => "part of its path is no folder",
        K::StorageFull => "the disk is full",
        K::QuotaExceeded => "the disk quota is used up",
        K::ReadOnlyFilesystem => "its filesystem is read-only",
        K::TimedOut => "it took too long",
        K::InvalidData => "it is not valid text",
        K::ConnectionRefused => "nothing listens there",
        _ => "the system reports an error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_config_is_all_defaults() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let why = Config::parse("[ledger]\nurll = \"x\"\n").unwrap_err();
        assert!(why.starts_with("line 2:") && why.contains("urll"), "{why}");
    }

    #[test]
    fn the_policy_for_all_is_a_word_or_a_number() {
        let all = |t: &str| Config::parse(&format!("[policy]\nall = {t}\n")).map(|c| c.policy.all);
        assert_eq!(all("\"refuse\"").unwrap(), AllPolicy::Refuse);
        assert_eq!(all("\"free\"").unwrap(), AllPolicy::Free);
        assert_eq!(all("2").unwrap(), AllPolicy::Count(2));
        assert!(all("0").is_err());
        assert!(all("\"some\"").is_err());
    }

    #[test]
    fn an_exempt_entry_that_would_match_everything_is_refused() {
        assert!(Config::parse("[[policy.exempt]]\n").is_err());
    }

    #[test]
    fn no_os_error_is_worded_as_docker_would_misread_it() {
        use std::io::ErrorKind as K;
        for kind in [K::NotFound, K::PermissionDenied, K::IsADirectory, K::NotADirectory] {
            let words = plain_io_error(&std::io::Error::from(kind));
            for trap in [
                "permission denied",
                "is a directory",
                "no such file or directory",
                "executable file not found",
                "not a directory",
            ] {
                assert!(!words.contains(trap), "{words}");
            }
        }
    }
}
