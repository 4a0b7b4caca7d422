//! Docker's own files of a container: they are read in the ledger, whose liveness rule needs them
//! in both programs.

pub use gpuctl_ledger::node::hostconfig::*;
