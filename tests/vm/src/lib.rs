//! A Debian that is really booted, in qemu: systemd as its first process, cgroup v2, units, power
//! cuts. What an Engine in a folder cannot show, see docs/adr/0013.
//!
//! [`System`] is kernel and disk, made once. A [`Machine`] is one that runs on a copy of that disk. In
//! it an [`agent`] runs what it is told to over a serial port; [`frame`] is what goes over that. The
//! [`Product`] is what a package of ours would install there, and GPUs made of files.

pub mod agent;
pub mod cpio;
pub mod frame;
pub mod initramfs;
pub mod machine;
pub mod probe;
pub mod product;
pub mod system;

pub use machine::Machine;
pub use product::{CgroupDriver, Product};
pub use system::{Missing, System};

/// What went wrong, in words for people.
pub type Result<T> = gpuctl_sim::Result<T>;

/// Adds what was being done to an error's own word.
pub(crate) trait Doing<T> {
    /// `what` reads as in "cannot {what}".
    fn doing(self, what: impl std::fmt::Display) -> Result<T>;
}

impl<T, E: std::fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl std::fmt::Display) -> Result<T> {
        self.map_err(|e| format!("cannot {what}: {e}"))
    }
}
