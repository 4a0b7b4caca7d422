//! What the end-to-end tests stand on: a [`Node`] with a real Engine and simulated GPUs, an etcd,
//! and the check that no GPU has two holders and none is lost.
//!
//! A test that cannot run on a machine says so with [`skip`]; `tests/run` counts those lines.

pub mod api;
pub mod booted;
pub mod broken;
pub mod check;
pub mod choose;
pub mod fields;
pub mod hosts;
pub mod inventory;
pub mod loop_fs;
pub mod newer;
pub mod node;
pub mod packages;
pub mod pages;
pub mod probe;
pub mod programs;
pub mod registry;
pub mod served;
pub mod siege;
pub mod sshd;
pub mod stage;
pub mod state;
pub mod story;
pub mod terminal;
#[path = "../../hook/fuzz/traps.rs"]
pub mod traps;
pub mod trees;

pub use gpuctl_sim::command::Output;
pub use gpuctl_sim::etcd::Etcd;
pub use node::{Ledger, Node, Options};

/// Says that a test cannot run here and why; the test then returns.
pub fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}

/// Whether all is to be tried that a test knows, and in full size: `tests/run --full`.
pub fn full() -> bool {
    std::env::var_os("GPUCTL_FULL").is_some()
}

/// Whether who mends what was broken off at a point is to be tried there: in the full run everybody at each
/// point, else one of `menders` at each, in turn.
pub fn mends_here(mender: usize, point: usize, menders: usize) -> bool {
    full() || point % menders == mender
}

/// Whether this machine can run an Engine; says so where not.
pub fn engine_runs_here() -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("a private Engine needs root");
        return false;
    }
    for program in ["dockerd", "containerd", "runc", "busybox", "unshare", "setsid"] {
        if gpuctl_sim::command::find(&[program]).is_err() {
            skip(&format!("{program} is not installed"));
            return false;
        }
    }
    true
}
