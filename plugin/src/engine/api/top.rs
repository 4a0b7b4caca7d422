//! What top shows, as plain data: one look at the node.

use gpuctl_ledger::model::{ContainerName, GpuRequest, Timestamp};
use serde::{Deserialize, Serialize};

use super::GpuRow;

/// One look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopView {
    /// The node's name.
    pub node: String,
    /// When it was looked.
    pub at: Timestamp,
    /// Its GPUs, MIG devices and slots, in nvidia-smi order.
    pub rows: Vec<TopRow>,
    /// Why the driver told nothing of what goes on on them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<String>,
}

/// A GPU, a MIG device or a slot, with what goes on on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TopRow {
    /// As gpus has it.
    pub gpu: GpuRow,
    /// The managed name of its holder; absent for one that `docker run` made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ContainerName>,
    /// What its holder gets when it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wants: Option<GpuRequest>,
    /// Degrees Celsius.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<u32>,
    /// Milliwatts that it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power: Option<u32>,
    /// Milliwatts that it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_limit: Option<u32>,
    /// The processes on it, by pid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub processes: Vec<TopProcess>,
}

/// A process on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopProcess {
    /// As the driver tells it.
    pub pid: u32,
    /// The program's name, as the kernel has it; empty where it has ended.
    pub program: String,
    /// Bytes of the GPU's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Whose it is.
    pub of: OfWhom,
}

/// Whose a process on a GPU is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OfWhom {
    /// Of a container that has a lease on the GPU or a part of it.
    Holder,
    /// Of nobody who has one.
    Stranger,
    /// Left over from a container that has ended.
    Leftover,
    /// It only looks on, as nvidia-smi does; or it ended a moment ago.
    Other,
}
