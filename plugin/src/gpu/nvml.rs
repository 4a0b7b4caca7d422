//! The opened library, and its errors in our words.

use std::ffi::OsStr;

use gpuctl_ledger::config::Config;
use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use super::GpuError;

/// An opened NVML library; closed when dropped.
#[derive(Debug)]
pub struct Driver {
    pub(super) nvml: Nvml,
}

impl Driver {
    /// Loads the library that `gpu.nvml` names (a path, or a name for the system's linker) and has
    /// it connect to the kernel's part of the driver. Takes up to seconds.
    ///
    /// # Errors
    /// [`GpuError`] where there is no driver that answers.
    pub fn open(config: &Config) -> Result<Self, GpuError> {
        let library = &config.gpu.nvml;
        match Nvml::builder().lib_path(OsStr::new(library)).init() {
            Ok(nvml) => Ok(Self { nvml }),
            Err(NvmlError::LibloadingError(_)) => Err(GpuError::NoLibrary(library.clone())),
            Err(NvmlError::FailedToLoadSymbol(_)) => Err(GpuError::NotNvml(library.clone())),
            Err(e) => Err(general("its GPUs", &e)),
        }
    }

    /// The driver's version: `550.90.07`.
    ///
    /// # Errors
    /// [`GpuError`] where the driver does not say.
    pub fn version(&self) -> Result<String, GpuError> {
        self.nvml.sys_driver_version().map_err(|e| general("its version", &e))
    }

    /// Whether persistence mode is on, by index: of those that know of it.
    pub fn persistence(&self) -> Vec<(u32, bool)> {
        let of = |index| {
            let on = self.nvml.device_by_index(index).ok()?.is_in_persistent_mode().ok()?;
            Some((index, on))
        };
        (0..self.count().unwrap_or(0)).filter_map(of).collect()
    }

    /// How many GPUs there are, those that do not answer included.
    pub(super) fn count(&self) -> Result<u32, GpuError> {
        self.nvml.device_count().map_err(|e| general("the number of its GPUs", &e))
    }
}

/// The error of a call that concerns no single GPU.
pub(super) fn general(asked: &'static str, error: &NvmlError) -> GpuError {
    match error {
        NvmlError::DriverNotLoaded => GpuError::NotLoaded,
        NvmlError::LibRmVersionMismatch => GpuError::Mismatch,
        NvmlError::NoPermission => GpuError::Denied,
        e => GpuError::Call(asked, broken(e).unwrap_or("it does not know the question").into()),
    }
}

/// What an error says of the card itself, in words that finish a sentence; `None` where only this
/// question has no answer: the driver is too old for it, or the card has no such part.
pub(super) fn broken(error: &NvmlError) -> Option<&'static str> {
    match error {
        NvmlError::GpuLost => Some("it fell off the bus"),
        NvmlError::ResetRequired => Some("it needs a reset"),
        NvmlError::IrqIssue => Some("its interrupts do not arrive"),
        NvmlError::InsufficientPower => Some("its power cables are not attached"),
        NvmlError::CorruptedInfoROM => Some("its infoROM is corrupt"),
        NvmlError::OperatingSystem => Some("the operating system keeps it from us"),
        NvmlError::Timeout => Some("it takes too long to answer"),
        NvmlError::InsufficientMemory => Some("the driver has no memory left"),
        NvmlError::Unknown => Some("the driver reports an unknown error"),
        NvmlError::Uninitialized => Some("the driver was not initialised"),
        _ => None,
    }
}

/// Takes an answer apart: `None` where there is none. If that is because the card is broken, `why`
/// gets the reason, unless it has one already.
pub(super) fn answer<T>(asked: Result<T, NvmlError>, why: &mut Option<String>) -> Option<T> {
    match asked {
        Ok(value) => Some(value),
        Err(e) => {
            if let (None, Some(words)) = (&why, broken(&e)) {
                *why = Some(words.to_owned());
            }
            None
        }
    }
}
