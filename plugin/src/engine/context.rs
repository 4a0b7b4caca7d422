//! What every operation stands on: the settings, the ledger, the Engine, the node.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use gpuctl_ledger::config::Config;
use gpuctl_ledger::grant::GrantError;
use gpuctl_ledger::ledger::{Ledger, LedgerError};
use gpuctl_ledger::model::{BootId, Process};
use gpuctl_ledger::node::process;
use gpuctl_ledger::store::StoreError;
use gpuctl_ledger::view::NodeView;

use super::api::Failure;
use crate::docker::{Docker, DockerError};

/// The limit of a plain call to the Engine.
pub(super) const DOCKER_LIMIT: Duration = Duration::from_secs(30);

/// See the module. One a process; an operation borrows it.
#[derive(Debug)]
pub struct Context {
    /// The settings.
    pub config: Config,
    /// Where they were read.
    pub config_path: PathBuf,
    /// The book of this node.
    pub ledger: Ledger,
    /// This boot.
    pub boot_id: BootId,
    /// This process.
    pub me: Process,
    docker: OnceLock<Docker>,
}

impl Context {
    /// Opens the ledger and makes sure that the node's name is this machine's.
    ///
    /// # Errors
    /// When it cannot be: with what to do.
    pub fn open(config: Config, config_path: PathBuf) -> Result<Self, Failure> {
        let read = |what: &'static str| {
            move |e: std::io::Error| {
                let why = gpuctl_ledger::config::plain_io_error(&e);
                Failure::new(format!("{what} cannot be read: {why}"))
            }
        };
        let boot_id = process::boot_id(&config.paths.boot_id).map_err(read("the boot id"))?;
        let machine =
            process::machine_id(&config.paths.machine_id).map_err(read("the machine id"))?;
        let me = process::own().map_err(read("/proc"))?;
        // The same check as the hook's: a verdict is only given by someone who can see.
        NodeView::new(&config)?;
        let ledger = Ledger::open(&config)?;
        ledger.bind_node(&machine, &boot_id)?;
        Ok(Self { config, config_path, ledger, boot_id, me, docker: OnceLock::new() })
    }

    /// For tests: a node of its own, with nothing in it and no Engine.
    #[cfg(test)]
    pub(super) fn of_test(folder: &std::path::Path) -> Self {
        use gpuctl_ledger::model::NodeName;
        use gpuctl_ledger::store::SqliteStore;
        let text = format!(
            "node = \"n\"\n[paths]\nstate = \"{0}/state\"\nrun = \"{0}/run\"\n\
             [docker]\nroot = \"{0}/docker\"\nhost = \"unix://{0}/docker.sock\"\n",
            folder.display()
        );
        let config = Config::parse(&text).unwrap();
        let store = SqliteStore::in_memory(Duration::from_secs(5)).unwrap();
        Self {
            ledger: Ledger::on(Box::new(store), NodeName::new("n").unwrap()),
            boot_id: process::boot_id(&config.paths.boot_id).unwrap(),
            me: process::own().unwrap(),
            config,
            config_path: folder.join("config.toml"),
            docker: OnceLock::new(),
        }
    }

    /// The Engine. Nothing is said to it before the first call.
    ///
    /// # Errors
    /// When the config names no Engine that can be spoken to.
    pub fn docker(&self) -> Result<&Docker, Failure> {
        if let Some(docker) = self.docker.get() {
            return Ok(docker);
        }
        let docker = Docker::connect(&self.config.docker.host, DOCKER_LIMIT)?;
        Ok(self.docker.get_or_init(|| docker))
    }

    /// The node as grants see it.
    pub fn view(&self) -> NodeView<'_> {
        NodeView::of_boot(&self.config, self.boot_id.clone())
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        let failure = Self::new(error.to_string());
        match error {
            LedgerError::Store(error) => failure.hint(store_hint(&error)),
            LedgerError::TooNew { .. } => failure.hint("upgrade docker-gpuctl on this host"),
            LedgerError::OtherMachine(_) => {
                failure.hint("set node = \"another name\" in /etc/gpuctl/config.toml")
            }
            _ => failure.hint("docker gpuctl doctor tells more"),
        }
    }
}

/// What to do about a store. Doctor says the same: without a ledger it can look at nothing else.
fn store_hint(error: &StoreError) -> String {
    let path = |shown: &str| shown.strip_prefix("sqlite://").map(str::to_owned);
    match error {
        StoreError::Unreachable(shown) | StoreError::Unknown(shown) => {
            let look = match path(shown) {
                Some(_) => "see that its folder is there and that no program keeps it locked",
                None => "see that etcd runs and can be reached from here",
            };
            format!("{look}; running containers are not touched")
        }
        StoreError::NotWritable(..) => {
            "see to its disk, then try again; running containers are not touched".into()
        }
        StoreError::Damaged(shown, why) if why.starts_with("others may write it") => {
            let file = path(shown).unwrap_or_default();
            format!("see who wrote it, then chown root:root {file} && chmod 600 {file}; running containers are not touched")
        }
        // Some say themselves what to do about them.
        StoreError::Damaged(shown, why) if !why.contains(':') => match path(shown) {
            Some(file) => format!(
                "put a backup in its place; or move {file} away and type docker gpuctl doctor --fix: \
                 running containers keep their GPUs, names and history are lost"
            ),
            None => "restore it from a backup, then type docker gpuctl doctor --fix".into(),
        },
        StoreError::BadRecord => {
            "environment, labels or command may be too long for a record: put them into a file that \
             the container mounts"
                .into()
        }
        _ => "running containers are not touched; see the ledger section of the config".into(),
    }
}

impl From<GrantError> for Failure {
    fn from(error: GrantError) -> Self {
        match error {
            GrantError::Refused(refusal) | GrantError::Impossible(refusal) => refusal.into(),
            GrantError::Ledger(error) => error.into(),
            GrantError::Slow => Self::new(error.to_string())
                .hint("docker gpuctl doctor tells more; running containers are not touched"),
            GrantError::Contended => Self::new(error.to_string()).hint("try again"),
            GrantError::Node { .. } => Self::new(error.to_string())
                .hint("docker gpuctl doctor --fix mends what can be mended"),
        }
    }
}

impl From<DockerError> for Failure {
    fn from(error: DockerError) -> Self {
        if let Some(ours) = error.from_gpuctl() {
            return refusal_text(ours);
        }
        let failure = Self::new(error.to_string());
        match error {
            DockerError::Unreachable(..) => {
                failure.hint("is dockerd running? systemctl start docker")
            }
            _ => failure,
        }
    }
}

/// Takes apart what our runtime said on one line: headline, rows, hint.
fn refusal_text(text: &str) -> Failure {
    let (text, hint) = match text.split_once("; hint: ") {
        Some((text, hint)) => (text, Some(hint.to_owned())),
        None => (text, None),
    };
    let mut parts = text.split("; ").map(str::to_owned);
    let mut failure = Failure::new(parts.next().unwrap_or_default()).details(parts.collect());
    failure.hint = hint;
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_runtime_is_shown_in_its_parts() {
        let docker = DockerError::Refused {
            status: 500,
            message: "OCI runtime create failed: gpuctl: 3 GPUs asked for, 1 free on gpu1; GPU 2 a; hint: x; y: unknown".into(),
        };
        let failure = Failure::from(docker);
        assert_eq!(failure.message, "3 GPUs asked for, 1 free on gpu1");
        assert_eq!(failure.details, ["GPU 2 a"]);
        assert_eq!(failure.hint.as_deref(), Some("x; y"));
    }
}
