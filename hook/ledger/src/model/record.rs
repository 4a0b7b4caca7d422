//! What stands under each key of the ledger, as JSON. docs/ledger.md lists the keys.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    BootId, ByteSize, ContainerId, ContainerName, DockerName, GpuRequest, Inventory, NodeName,
    Timestamp, Token, Unit, Version,
};

/// The layout of every record written by this version. A record with a greater number is refused.
pub const SCHEMA: u32 = 1;

/// `/self`: the node's machine, bound at first use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Layout, [`SCHEMA`].
    pub schema: u32,
    /// The node's name.
    pub node: NodeName,
    /// Contents of /etc/machine-id, or of the file the config names.
    pub machine_id: String,
    /// The boot in which this was last written.
    pub boot_id: BootId,
    /// Its GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
}

/// A process, so named that a reused pid is not taken for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Pid in the node's initial PID namespace.
    pub pid: i32,
    /// Start time in clock ticks since boot: field 22 of /proc/PID/stat.
    pub start: u64,
}

/// Which container, and whose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The OCI container id.
    pub container: ContainerId,
    /// Its name in Docker when the claim was made; the id where there is none.
    pub docker_name: DockerName,
    /// The managed name; absent for a container that `docker run` made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ContainerName>,
    /// Who asked: the user's name where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

impl Holder {
    /// The word for it in a table: the managed name, else the name in Docker.
    pub fn shown(&self) -> &str {
        self.docker_name.as_str()
    }
}

/// How far a lease has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// Claimed, the container's init does not run yet.
    Claimed,
    /// The gate has seen the container's init.
    Active,
    /// The process is gone but Docker will start the container again by itself, or may within
    /// seconds.
    Reserved,
}

/// A cgroup, so named that the one which the container's next start makes at the same place is not
/// taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its folder on this node: of the devices controller (v1), else of the unified hierarchy.
    pub folder: String,
    /// The folder's inode, which the kernel gives out once a boot.
    pub inode: u64,
}

/// What tells whether the holder lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The boot in which the rest was seen.
    pub boot_id: BootId,
    /// The process that claimed: the runtime, or the engine.
    pub claimer: Process,
    /// The container's init, once activated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<Process>,
    /// The init's cgroup, once activated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Cgroup>,
    /// When poststop saw the end of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
}

/// `/leases/<unit>`: the exclusive right of one container to one GPU of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Layout, [`SCHEMA`].
    pub schema: u32,
    /// The GPU.
    pub unit: Unit,
    /// Who holds it.
    pub holder: Holder,
    /// Since when this holder has it.
    pub since: Timestamp,
    /// The claim under which it stands.
    pub token: Token,
    /// How far it has come.
    pub state: LeaseState,
    /// What tells whether the holder lives.
    pub evidence: Evidence,
}

/// `/bindings/<container id>`: how many GPUs a managed container is to get when it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Layout, [`SCHEMA`].
    pub schema: u32,
    /// The container's id.
    pub container: ContainerId,
    /// Its managed name.
    pub name: ContainerName,
    /// Its version.
    pub version: Version,
    /// What it is to get.
    pub gpus: GpuRequest,
    /// The GPUs it held last, preferred at the next start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last: Vec<Unit>,
    /// Who owns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The claim that goes with the binding; a start claims or takes over under it.
    pub token: Token,
    /// Set when a newer version has taken its place: then it may not start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retired: bool,
    /// Set while the container is being made and its files are not all there: then it may not start.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unfinished: bool,
    /// The upper directory of its writable layer, as the wrapper saw it mounted at the last create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper_dir: Option<String>,
}

/// `/containers/<name>`: the current version of a managed container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Layout, [`SCHEMA`].
    pub schema: u32,
    /// Its name.
    pub name: ContainerName,
    /// The current version.
    pub version: Version,
    /// The Docker container of that version; absent once it was removed (history stays).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerId>,
    /// Who owns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// When the current version came to be.
    pub at: Timestamp,
    /// Whether Docker removes it by itself at its end: `--rm`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_remove: bool,
}

/// `/versions/<name>/<n>`: all that is needed to make that version again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Layout, [`SCHEMA`].
    pub schema: u32,
    /// The container's name.
    pub name: ContainerName,
    /// The version.
    pub version: Version,
    /// The Docker container it was.
    pub container: ContainerId,
    /// What GPUs it was to get.
    pub gpus: GpuRequest,
    /// When it came to be.
    pub at: Timestamp,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why: `run`, `scale 3 -> 5 GPUs`.
    pub why: String,
    /// How it came to be; absent in records of old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<How>,
    /// Its writable layer, where that was kept beside the container's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<KeptLayer>,
    /// Whole creation spec: Docker's inspect of the created container.
    pub spec: Value,
}

/// How a version came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// By run or create.
    Created,
    /// The container of the version before was changed.
    InPlace,
    /// A new container took the place of the one before, with its files.
    Replaced,
    /// A container that Docker had made was taken in.
    Adopted,
    /// It was made from another managed container, with its files.
    Cloned,
}

/// A writable layer that was kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLayer {
    /// Its folder on this node, root's alone.
    pub path: String,
    /// What it takes on the disk, where it shares nothing with others: allocated bytes.
    pub bytes: ByteSize,
    /// When it was taken.
    pub at: Timestamp,
}

/// `/ports/<port>`: a port of the host that is kept for a managed container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// Layout, [`SCHEMA`].
    pub schema: u32,
    /// The port, for every protocol.
    pub port: u16,
    /// Whose it is.
    pub name: ContainerName,
    /// What is behind it: `22/tcp`.
    pub inside: String,
    /// Since when.
    pub since: Timestamp,
}

/// Which change is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// run or create.
    Run,
    /// scale.
    Scale,
    /// rm.
    Remove,
    /// update of what Docker itself can change: processors, memory, restart policy.
    Update,
    /// A change that needs a new container.
    Replace,
    /// rename.
    Rename,
    /// adopt.
    Adopt,
    /// snapshot, and the removal of what was kept.
    Snapshot,
    /// prune.
    Prune,
    /// clone.
    Clone,
}

impl OperationKind {
    /// The command that it is of.
    pub fn word(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Scale => "scale",
            Self::Remove => "rm",
            Self::Update | Self::Replace => "update",
            Self::Rename => "rename",
            Self::Adopt => "adopt",
            Self::Snapshot => "snapshot",
            Self::Prune => "prune",
            Self::Clone => "clone",
        }
    }
}

/// `/operations/<name>`: the journal of a change under way. It is there from the first side effect
/// to the last; while it is, nothing is released for this container but by the change itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Layout, [`SCHEMA`].
    pub schema: u32,
    /// The container's name.
    pub name: ContainerName,
    /// Which change.
    pub kind: OperationKind,
    /// The claim it makes.
    pub token: Token,
    /// Who runs it.
    pub actor: Process,
    /// The boot in which it runs.
    pub boot_id: BootId,
    /// When it began.
    pub since: Timestamp,
    /// Who asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The last step begun.
    pub step: String,
    /// What finishing or undoing needs, by kind.
    pub data: Value,
}
