//! The GPUs of this node as the NVIDIA driver tells them: the only place that names NVML.
//!
//! [`Driver`] is an opened NVML library. [`Driver::inventory`] says what there is, for the ledger and
//! for the hook's file; [`Driver::usage`] what goes on on it; [`Driver::watch`] waits for cards to
//! break. NVML may block for seconds in the kernel, so whoever must not hang goes through [`refresh`]
//! or [`within`].

mod faults;
mod file;
mod inventory;
mod links;
mod mig;
mod nvml;
mod proc;
#[cfg(test)]
pub(crate) mod testing;
mod usage;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use gpuctl_ledger::config::Config;
use gpuctl_ledger::model::Inventory;

pub use faults::{Fault, Wake, Watch};
pub use inventory::{read_inventory, write_inventory};
pub use nvml::Driver;
pub use usage::{GpuProcess, Usage};

/// Why the driver gave no answer, or a file of ours did not. One line; [`GpuError::hint`] says what
/// to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// The library is not there or is no library for this machine.
    #[error("the NVIDIA driver's library {0} cannot be loaded")]
    NoLibrary(String),
    /// It lacks a function that every driver has.
    #[error("{0} is no NVML library, or one too old")]
    NotNvml(String),
    /// The library is there, the kernel module is not.
    #[error("the NVIDIA driver is installed but not loaded")]
    NotLoaded,
    /// The library and the loaded kernel module are of different versions.
    #[error("the NVIDIA driver was updated, and the kernel still runs the version before")]
    Mismatch,
    /// The device nodes are closed to us.
    #[error("the NVIDIA driver lets only root ask")]
    Denied,
    /// A call that concerns no single GPU failed.
    #[error("the NVIDIA driver does not answer when asked for {0}: {1}")]
    Call(&'static str, String),
    /// No answer in time.
    #[error("the NVIDIA driver gave no answer within {} s", .0.as_secs())]
    Slow(Duration),
    /// A file of ours cannot be read.
    #[error("{0} cannot be read: {1}")]
    Unreadable(PathBuf, &'static str),
    /// A file of ours is not what it should be.
    #[error("{0} is wrong: {1}")]
    Wrong(PathBuf, String),
    /// A file of ours cannot be written.
    #[error("{0} cannot be written: {1}")]
    Unwritable(PathBuf, &'static str),
}

impl GpuError {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoLibrary(_) | Self::NotNvml(_) => {
                "install the NVIDIA driver, or name its NVML library as gpu.nvml in the config"
            }
            Self::NotLoaded => "modprobe nvidia; dmesg says why when that fails",
            Self::Mismatch => "reboot, or unload and load the nvidia modules",
            Self::Denied => "run it as root",
            Self::Call(..) | Self::Slow(_) => "nvidia-smi and dmesg say more",
            Self::Unreadable(..) | Self::Wrong(..) => {
                "remove the file; docker gpuctl setup writes it anew"
            }
            Self::Unwritable(..) => "run it as root, and look at the disk's free space",
        }
    }
}

/// Runs `ask` on a thread of its own and waits for it no longer than `limit`. A call that hangs in
/// the kernel cannot be ended: its thread is left behind.
///
/// # Errors
/// [`GpuError::Slow`], or what `ask` says.
pub fn within<T: Send + 'static>(
    limit: Duration,
    ask: impl FnOnce() -> Result<T, GpuError> + Send + 'static,
) -> Result<T, GpuError> {
    match crate::within::within(limit, "nvml", ask) {
        Ok(answer) => answer.unwrap_or(Err(GpuError::Slow(limit))),
        Err(e) => {
            let why = gpuctl_ledger::config::plain_io_error(&e);
            Err(GpuError::Call("anything", why.to_owned()))
        }
    }
}

/// Asks the driver for the inventory and writes it to its file, in at most `limit`. A card that does
/// not answer keeps its name from the file that was there; a file that is wrong is replaced.
///
/// # Errors
/// [`GpuError`]; the file is then as it was.
pub fn refresh(config: &Config, limit: Duration) -> Result<Inventory, GpuError> {
    let asked = config.clone();
    let inventory = within(limit, move || {
        let previous = read_inventory(&asked).ok().flatten();
        Driver::open(&asked)?.inventory(&asked, previous.as_ref())
    })?;
    // The service asks every few seconds, and hardly ever is there news.
    let is_news = |old: Inventory| (&old.driver, &old.gpus) != (&inventory.driver, &inventory.gpus);
    if read_inventory(config).ok().flatten().is_none_or(is_news) {
        write_inventory(config, &inventory)?;
    }
    Ok(inventory)
}
