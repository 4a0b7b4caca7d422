//! Operations and what comes of them, as plain data: the same behind a terminal, the service's
//! socket and, later, HTTP. Nothing here acts.

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::model::{
    ContainerId, ContainerName, DockerName, GpuRequest, Peer, Place, Timestamp, Unit, Version,
};
use gpuctl_ledger::rules::retry::WaitsFor;
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod change;
mod front;
mod more;
mod progress;
mod top;
mod volume;

use crate::change::Difference;
pub use change::{ChangeRequest, Changed, Diff, DiffRequest, Files, How, RollbackRequest};
pub use front::{AskError, Front};
pub use more::{
    AdoptRequest, AutoPort, CloneRequest, CommitRequest, MoreAnswer, MoreRequest, PortRow,
    PruneRequest, PruneRow,
};
pub use progress::{Amount, Doing, Progress};
pub use top::{OfWhom, TopProcess, TopRow, TopView};
pub use volume::{
    BackendRow, PrunedRow, ResizeHow, VolumeAnswer, VolumeRequest, VolumeRow, VolumeVersionRow,
};

/// What a user asks the engine to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// run and create.
    Create(CreateRequest),
    /// start of stopped containers.
    Start {
        /// Names as the user wrote them: `foo` or `foo-N`.
        names: Vec<String>,
        /// With the user's terminal on it; then it is one name.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        attach: bool,
    },
    /// stop: GPUs are given back.
    Stop {
        /// As for start.
        names: Vec<String>,
        /// Grace in seconds before the kill; Docker's own when absent.
        timeout: Option<i32>,
        /// The signal that asks it to end: `INT`, `SIGINT` or `2`; the container's own when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
    },
    /// restart: the same number of GPUs, those held now first.
    Restart {
        /// As for start.
        names: Vec<String>,
        /// As for stop.
        timeout: Option<i32>,
        /// As for stop.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
    },
    /// rm.
    Remove {
        /// As for start.
        names: Vec<String>,
        /// Also a running one.
        force: bool,
        /// Its anonymous volumes too.
        volumes: bool,
        /// Its history too.
        history: bool,
    },
    /// update and scale.
    Change(Box<ChangeRequest>),
    /// rollback.
    Rollback(RollbackRequest),
    /// diff.
    Diff(DiffRequest),
    /// A run with --rm has come to its end: what it left is forgotten, if Docker has it no more.
    Ended {
        /// Its name.
        name: ContainerName,
        /// Its id in Docker: the name may be another's by now.
        id: ContainerId,
    },
    /// ps.
    Ps {
        /// Stopped ones too.
        all: bool,
    },
    /// gpus.
    Gpus,
    /// top: one look.
    Top,
    /// top of another host: looks, as events, until nobody sees them.
    Watch {
        /// How long from one to the next, in milliseconds.
        every: u64,
    },
    /// inspect: record, leases and Docker's own inspect of each.
    Inspect {
        /// As for start.
        names: Vec<String>,
    },
    /// history.
    History {
        /// The container's name.
        name: String,
    },
    /// The name in Docker, for exec and logs, which the Docker CLI does itself.
    Resolve {
        /// As for start.
        name: String,
    },
    /// doctor.
    Doctor {
        /// Mend what can be mended safely.
        fix: bool,
    },
    /// events: what was decided, and what is.
    Events(EventsRequest),
    /// version: of the service.
    Version,
    /// pause, commit, ports, rename...
    More(MoreRequest),
    /// volume ...
    Volume(VolumeRequest),
}

/// events. Lists that are empty ask for nothing in particular.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsRequest {
    /// From then on.
    pub since: Option<Timestamp>,
    /// Up to then, and no longer; else until nobody looks on.
    pub until: Option<Timestamp>,
    /// Of those that there are only so many, the last.
    pub tail: Option<u32>,
    /// Containers: managed names, names in Docker, ids or beginnings of them.
    pub containers: Vec<String>,
    /// GPUs: indexes, UUIDs or beginnings of them.
    pub gpus: Vec<String>,
    /// Decisions.
    pub decisions: Vec<Decision>,
    /// Users.
    pub users: Vec<String>,
}

/// run and create.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateRequest {
    /// The name given; one is made up where there is none.
    pub name: Option<ContainerName>,
    /// What it is to get.
    pub gpus: GpuRequest,
    /// Whether, and how, it is started.
    pub start: StartMode,
    /// `--rm` was given.
    pub auto_remove: bool,
    /// Build from the record of this container and version instead of from flags.
    pub from: Option<(ContainerName, Option<Version>)>,
    /// Ports of the host that are to be chosen: `-p auto:22`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<AutoPort>,
}

/// Whether and how a new container is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartMode {
    /// Not at all: create.
    No,
    /// By the engine: `run -d`.
    Detached,
    /// By the client's `docker start --attach`, so that no output is lost: `run`.
    Attached,
}

/// What the engine asks of its client to have created with `docker create`, which parses every flag
/// of run, pulls, and resolves the client's own paths and credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateAsk {
    /// `--name`.
    pub docker_name: DockerName,
    /// `--runtime`.
    pub runtime: String,
    /// `--hostname` and network alias, unless the user gives a hostname.
    pub name: ContainerName,
    /// `--label`s as key and value; the operation's token is among them, so that a container whose
    /// creation outlived the operation is found.
    pub labels: Vec<(String, String)>,
    /// `--publish`es, with the ports that were chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<String>,
}

/// Something the engine tells while it works.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// For stderr: what happens now, or what must be known ("processes restart").
    Note {
        /// One line.
        text: String,
    },
    /// Something is not as it should be, and the operation goes on.
    Warning {
        /// One line.
        text: String,
    },
    /// Of events, for stdout: a decision.
    Decision {
        /// As the audit log has it.
        entry: Box<Entry>,
        /// Where its GPUs stand, of those that the node has.
        indexes: Vec<Place>,
    },
    /// How far a copy of files is, several times a second.
    Progress(Progress),
    /// Of watch: one look.
    View(Box<TopView>),
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "data", rename_all = "snake_case")]
pub enum Answer {
    /// Of run and create, and of a start with a terminal on it.
    Created {
        /// Its id in Docker; `run -d` and `create` print it.
        id: ContainerId,
        /// Its name.
        name: ContainerName,
        /// Its name in Docker.
        docker_name: DockerName,
    },
    /// Of start, stop, restart, rm: the names as the user wrote them, each on a line of stdout, and
    /// the failures of the others.
    Each {
        /// Done.
        done: Vec<String>,
        /// Not done.
        failed: Vec<Failure>,
    },
    /// Of update, scale and rollback.
    Changed(Changed),
    /// Of diff.
    Diff(Diff),
    /// Of --dry-run: one step a line, in order.
    Plan {
        /// For stdout.
        steps: Vec<String>,
    },
    /// Of ps.
    Ps(Vec<PsRow>),
    /// Of gpus.
    Gpus(Vec<GpuRow>),
    /// Of top.
    Top(TopView),
    /// Of inspect.
    Inspect {
        /// One object of each name that is there.
        objects: Vec<Value>,
        /// Why there is none of the others.
        failed: Vec<Failure>,
    },
    /// Of history, oldest first.
    History(Vec<HistoryRow>),
    /// Of resolve.
    Resolved {
        /// The current name in Docker.
        docker_name: DockerName,
        /// Its id.
        id: ContainerId,
    },
    /// Of doctor.
    Doctor(Vec<Check>),
    /// Of events: the end of them.
    Events,
    /// Of watch: nobody looks on.
    Watched,
    /// Of version.
    Version(VersionInfo),
    /// Of what [`Request::More`] asks.
    More(MoreAnswer),
    /// Of volume ...
    Volume(VolumeAnswer),
}

/// Why a request was refused or failed; printed as `error:`, indented details, `hint:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What was asked and what is so, in one line without a full stop.
    pub message: String,
    /// Lines of a table, or the like.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// What to type next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The exit code that run and exec end with where Docker has one of its own (125, 126, 127);
    /// other commands end with 1.
    pub code: u8,
}

/// In [`Failure::code`]: what is named is not there. The exit code is a refusal's.
const NOT_THERE: u8 = 3;

impl Failure {
    /// A refusal: exit code 125 of run, 1 elsewhere.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), details: Vec::new(), hint: None, code: 125 }
    }

    /// Of a change that failed and could not be undone either.
    #[must_use]
    pub fn undoing_failed(&self, also: &Self) -> Self {
        Self::new(format!("{self}; and undoing it failed: {also}"))
            .hint("docker gpuctl doctor --fix ends what was left")
    }

    /// With what to type next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What is named is not there: no failure for who has it removed by force, as of Docker's rm.
    #[must_use]
    pub fn not_there(self) -> Self {
        self.code(NOT_THERE)
    }

    /// Whether what was named is not there.
    pub fn is_not_there(&self) -> bool {
        self.code == NOT_THERE
    }

    /// With more lines.
    #[must_use]
    pub fn details(mut self, details: Vec<String>) -> Self {
        self.details = details;
        self
    }

    /// With another exit code.
    #[must_use]
    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

/// A row of ps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PsRow {
    /// Managed name; of a container that `docker run` made, its name in Docker.
    pub name: DockerName,
    /// Its version; only managed ones have one.
    pub version: Option<Version>,
    /// Its id in Docker; absent once removed.
    pub id: Option<ContainerId>,
    /// Its image, as Docker shows it.
    pub image: String,
    /// What it is to get when it starts.
    pub gpus: GpuRequest,
    /// The GPUs, MIG devices and slots that it holds now.
    pub held: Vec<Place>,
    /// Who owns it.
    pub owner: Option<String>,
    /// When this version came to be.
    pub since: Option<Timestamp>,
    /// As in docker ps: `Up 5 minutes`.
    pub status: String,
    /// As in docker ps.
    pub ports: String,
    /// Whether it runs.
    pub running: bool,
    /// Its start was refused, and is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedRow>,
}

/// A refused start, in ps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRow {
    /// How often it was refused.
    pub tries: u32,
    /// Why, the last time it was looked at.
    pub reason: String,
    /// What it waits for.
    pub waits_for: WaitsFor,
    /// When it was first refused.
    pub since: Timestamp,
    /// When it is tried again, at the earliest.
    pub next: Timestamp,
}

/// A row of gpus: a GPU, a MIG device or a slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuRow {
    /// Of the GPU, as in nvidia-smi.
    pub index: u32,
    /// Of the MIG device on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mig: Option<u32>,
    /// The slot's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Its UUID; of a slot with the number.
    pub uuid: Unit,
    /// Its model.
    pub model: String,
    /// Bytes.
    pub memory_total: u64,
    /// Bytes; absent where the driver does not say.
    pub memory_used: Option<u64>,
    /// Percent.
    pub utilisation: Option<u32>,
    /// The container that holds it, by its name in Docker.
    pub holder: Option<String>,
    /// Who owns that.
    pub owner: Option<String>,
    /// Since when it is held.
    pub since: Option<Timestamp>,
    /// `claimed`, `active`, `reserved` of a lease.
    pub state: Option<String>,
    /// Pids that the driver shows on it.
    pub processes: Vec<u32>,
    /// `ok`, or why it is not granted.
    pub health: String,
    /// How it lies to the other GPUs, where they are near.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Peer>,
}

#[cfg(test)]
impl GpuRow {
    /// A whole GPU of which nothing is known, held by nobody.
    pub(crate) fn of_test(index: u32) -> Self {
        Self {
            index,
            mig: None,
            slot: None,
            uuid: Unit::new(format!("GPU-{index}")).unwrap(),
            model: String::new(),
            memory_total: 0,
            memory_used: None,
            utilisation: None,
            holder: None,
            owner: None,
            since: None,
            state: None,
            processes: vec![],
            health: "ok".into(),
            links: vec![],
        }
    }
}

impl GpuRow {
    /// Where it stands.
    pub fn place(&self) -> Place {
        match (self.mig, self.slot) {
            (Some(mig), _) => Place::Mig(self.index, mig),
            (None, Some(slot)) => Place::Slot(self.index, slot),
            (None, None) => Place::Whole(self.index),
        }
    }
}

/// A row of history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryRow {
    /// The version.
    pub version: Version,
    /// Whether it is the current one.
    pub current: bool,
    /// When it came to be.
    pub at: Timestamp,
    /// Who asked for it.
    pub by: Option<String>,
    /// What changed.
    pub why: String,
    /// Its GPUs.
    pub gpus: GpuRequest,
    /// Its image.
    pub image: String,
    /// How it came to be.
    pub how: Option<gpuctl_ledger::model::How>,
    /// In what it differs from the one before.
    pub changes: Vec<Difference>,
    /// Where its files can be had.
    pub files: Files,
}

/// One check of doctor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub verdict: Verdict,
    /// Why, in one line.
    pub detail: String,
    /// What mends it.
    pub fix: Option<String>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but.
    Warning,
    /// Does not work.
    Problem,
    /// Was a problem, and has been mended just now.
    Fixed,
}

/// Versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionInfo {
    /// Ours.
    pub gpuctl: String,
    /// The Engine's.
    pub engine: String,
    /// The driver's, where there is one.
    pub driver: Option<String>,
    /// What the ledger is: `sqlite:///...`, `etcd://...`.
    pub ledger: String,
    /// The node's name.
    pub node: String,
}
