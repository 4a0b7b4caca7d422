//! The words of the field as types. A value that exists is valid: every constructor checks, and so
//! does deserialisation.

mod id;
mod inventory;
mod piece;
mod record;
mod request;
mod size;
mod time;
mod volume;
mod wanted;

pub use id::{
    BootId, ContainerId, ContainerName, DockerName, Invalid, NodeName, Token, Unit, Version,
    VolumeName,
};
pub use inventory::{Gpu, Health, Inventory, MigDevice, Path, Peer};
pub use piece::{Part, Piece, Place};
pub use record::{
    Binding, Cgroup, ContainerRecord, Evidence, Holder, How, KeptLayer, Lease, LeaseState,
    NodeRecord, Operation, OperationKind, PortRecord, Process, SCHEMA, VersionRecord,
};
pub use request::{GpuRef, GpuRequest};
pub use size::{ByteSize, SIZE_FORMS};
pub use time::Timestamp;
pub use volume::{
    Backend, VolumeOperation, VolumeOperationKind, VolumeRecord, VolumeVersionRecord,
};
pub use wanted::{Comparison, Kind, MemoryBound, Wanted};
