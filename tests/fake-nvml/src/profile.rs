//! The GPUs that the library claims to see: a JSON file, read again whenever it changes.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

/// Names the profile; without it, `fake-nvml.json` beside the library is read.
const PATH_VARIABLE: &str = "FAKE_NVML_PROFILE";
const BESIDE: &str = "fake-nvml.json";

/// What the driver shows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub driver: String,
    /// Functions that answer as if this driver did not have them.
    #[serde(default)]
    pub missing: Vec<String>,
    /// In nvidia-smi order: a card's place here is its index.
    pub gpus: Vec<Gpu>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    pub uuid: String,
    pub name: String,
    pub minor: u32,
    /// As NVML writes it: `00000000:3B:00.0`.
    pub pci: String,
    /// Bytes, here and below.
    pub memory_total: u64,
    #[serde(default)]
    pub memory_used: u64,
    /// Percent.
    #[serde(default)]
    pub utilization: u32,
    /// Degrees Celsius.
    #[serde(default)]
    pub temperature: u32,
    #[serde(default)]
    pub power_mw: u32,
    /// Absent: a card that has no such limit.
    pub power_limit_mw: Option<u32>,
    #[serde(default)]
    pub persistence: bool,
    pub numa: Option<u32>,
    /// The number of the PCIe switch that it is under.
    pub switch: Option<u32>,
    /// Indexes of the cards that it has an NVLink to, once for each NVLink.
    #[serde(default)]
    pub links: Vec<u32>,
    #[serde(default)]
    pub processes: Vec<Process>,
    /// `null` or absent: MIG mode is off.
    pub mig: Option<Vec<Mig>>,
    pub fault: Option<Fault>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    pub pid: u32,
    pub memory: u64,
    /// It draws and does not compute.
    #[serde(default)]
    pub graphics: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mig {
    pub uuid: String,
    pub index: u32,
    pub memory: u64,
    /// `1g.10gb`: the end of its name.
    #[serde(default)]
    pub profile: Option<String>,
    /// Ids of the GPU instance and of the compute instance in it.
    pub gi: u32,
    pub ci: u32,
    /// Minors of the two nvidia-caps nodes. NVML does not tell them: they are here for whoever lays
    /// out the driver's folder in /proc.
    #[serde(default)]
    #[allow(dead_code)]
    pub caps: Vec<u32>,
    #[serde(default)]
    pub memory_used: u64,
    #[serde(default)]
    pub processes: Vec<Process>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Off the bus: no call about it works, not even the one that gives its handle.
    Lost,
    /// It has a handle, and every call with it fails.
    Unknown,
    /// As `unknown`, with the code that says a reset is due.
    Reset,
    /// It answers, and an event with this number is waiting for whoever listens.
    Xid(u64),
}

type Stamp = (i64, i64, u64, u64);

static LAST: Mutex<Option<(Stamp, Arc<Profile>)>> = Mutex::new(None);

/// The profile as the file is now. While it cannot be read or is wrong (half written, say) the last
/// good one stands; with none yet, `None`, and the reason on stderr.
pub fn current() -> Option<Arc<Profile>> {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match refresh(last.as_ref()) {
        Ok(Some(fresh)) => *last = Some(fresh),
        Ok(None) => {}
        Err(why) if last.is_none() => eprintln!("fake-nvml: {why}"),
        Err(_) => {}
    }
    last.as_ref().map(|(_, profile)| Arc::clone(profile))
}

fn refresh(last: Option<&(Stamp, Arc<Profile>)>) -> Result<Option<(Stamp, Arc<Profile>)>, String> {
    let path = path().ok_or("it does not know where it was loaded from")?;
    let shown = path.display();
    let meta = std::fs::metadata(&path).map_err(|e| format!("{shown}: {e}"))?;
    let stamp = (meta.mtime(), meta.mtime_nsec(), meta.size(), meta.ino());
    if last.is_some_and(|(seen, _)| *seen == stamp) {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{shown}: {e}"))?;
    let profile = serde_json::from_str(&text).map_err(|e| format!("{shown}: {e}"))?;
    Ok(Some((stamp, Arc::new(profile))))
}

fn path() -> Option<PathBuf> {
    match std::env::var_os(PATH_VARIABLE) {
        Some(path) if !path.is_empty() => Some(path.into()),
        _ => Some(own_path()?.with_file_name(BESIDE)),
    }
}

/// dlfcn.h's Dl_info.
#[repr(C)]
struct DlInfo {
    dli_fname: *const c_char,
    dli_fbase: *mut c_void,
    dli_sname: *const c_char,
    dli_saddr: *mut c_void,
}

unsafe extern "C" {
    fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
}

/// The file that this library was loaded from.
fn own_path() -> Option<PathBuf> {
    let mut info = DlInfo {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: the address is that of a static of this library, and `info` outlives the call.
    let found = unsafe { dladdr((&raw const LAST).cast(), &raw mut info) } != 0;
    if !found || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: on success the linker gives a C string that lives as long as the library is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(Path::new(std::ffi::OsStr::from_bytes(name.to_bytes())).to_owned())
}
