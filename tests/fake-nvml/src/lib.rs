//! An NVML library without a driver: it exports the NVML functions that docker-gpuctl calls, no
//! others, and answers them from a file (see `profile.rs`). tests/profiles/README.md describes the file.
//!
//! Why `unsafe` is here: these are C functions, and what they answer goes through pointers that the
//! caller gives. NVML's contract is each block's ground: a pointer is null or valid for the call,
//! and a buffer is as long as the caller says. Null is checked; handles are never dereferenced.

mod abi;
mod events;
mod profile;

use std::ffi::{CStr, c_char, c_uint, c_ulong};
use std::sync::atomic::{AtomicU32, Ordering};

use abi::*;
use profile::{Fault, Gpu, Mig, Process, Profile};

/// How often nvmlInit was called more than nvmlShutdown.
static INITIALISED: AtomicU32 = AtomicU32::new(0);

/// Runs `f` with the profile, if the library is initialised and this driver has function `name`.
fn with_profile(name: &str, f: impl FnOnce(&Profile) -> Ret) -> Ret {
    if INITIALISED.load(Ordering::SeqCst) == 0 {
        return UNINITIALIZED;
    }
    let Some(profile) = profile::current() else { return DRIVER_NOT_LOADED };
    if profile.missing.iter().any(|m| m == name) {
        return FUNCTION_NOT_FOUND;
    }
    f(&profile)
}

/// Runs `f` with the card, and the MIG device where the handle is one's, if the card answers at all.
fn with_device(name: &str, handle: Device, f: impl FnOnce(&Gpu, Option<&Mig>) -> Ret) -> Ret {
    with_profile(name, |profile| {
        let (low, high) = (handle as usize & 0xffff, handle as usize >> 16);
        let Some(index) = low.checked_sub(1) else { return INVALID_ARGUMENT };
        let Some(gpu) = profile.gpus.get(index) else { return GPU_IS_LOST };
        match gpu.fault {
            Some(Fault::Lost) => return GPU_IS_LOST,
            Some(Fault::Unknown) => return UNKNOWN,
            Some(Fault::Reset) => return RESET_REQUIRED,
            Some(Fault::Xid(_)) | None => {}
        }
        match high.checked_sub(1) {
            None => f(gpu, None),
            Some(wanted) => match migs(gpu).iter().find(|m| m.index as usize == wanted) {
                Some(mig) => f(gpu, Some(mig)),
                None => NOT_FOUND,
            },
        }
    })
}

fn migs(gpu: &Gpu) -> &[Mig] {
    gpu.mig.as_deref().unwrap_or_default()
}

fn handle_of(gpu: usize, mig: Option<u32>) -> Device {
    let high = mig.map_or(0, |m| m as usize + 1);
    ((gpu + 1) | (high << 16)) as Device
}

/// Writes an answer to where the caller wants it; null is an invalid argument.
unsafe fn put<T>(to: *mut T, value: T) -> Ret {
    if to.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, so by NVML's contract the caller's own variable of this type.
    unsafe { to.write(value) };
    SUCCESS
}

/// Writes a text with its end mark into a buffer of `room` bytes.
unsafe fn put_text(to: *mut c_char, room: c_uint, text: &str) -> Ret {
    if to.is_null() {
        return INVALID_ARGUMENT;
    }
    if text.len() >= room as usize {
        return INSUFFICIENT_SIZE;
    }
    // SAFETY: the buffer holds `room` bytes by NVML's contract, and the text with its mark fits.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), to, text.len());
        to.add(text.len()).write(0);
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Ret {
    if profile::current().is_none() {
        return DRIVER_NOT_LOADED;
    }
    INITIALISED.fetch_add(1, Ordering::SeqCst);
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Ret {
    let down = INITIALISED.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    if down.is_ok() { SUCCESS } else { UNINITIALIZED }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(to: *mut c_char, room: c_uint) -> Ret {
    // SAFETY: the caller's buffer, see `put_text`.
    with_profile("nvmlSystemGetDriverVersion", |p| unsafe { put_text(to, room, &p.driver) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(to: *mut c_uint) -> Ret {
    with_profile("nvmlDeviceGetCount_v2", |p| {
        // SAFETY: the caller's variable, see `put`; so in all that follow.
        unsafe { put(to, c_uint::try_from(p.gpus.len()).unwrap_or(c_uint::MAX)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, to: *mut Device) -> Ret {
    with_profile("nvmlDeviceGetHandleByIndex_v2", |p| match p.gpus.get(index as usize) {
        None => INVALID_ARGUMENT,
        Some(gpu) if gpu.fault == Some(Fault::Lost) => GPU_IS_LOST,
        // SAFETY: as above.
        Some(_) => unsafe { put(to, handle_of(index as usize, None)) },
    })
}

/// Takes a card's UUID, a MIG device's, and the older form `MIG-<card's UUID>/<gi>/<ci>`, which
/// drivers still take and which alone leads from the two ids to a MIG device.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, to: *mut Device) -> Ret {
    with_profile("nvmlDeviceGetHandleByUUID", |p| {
        if uuid.is_null() {
            return INVALID_ARGUMENT;
        }
        // SAFETY: not null, so by NVML's contract a C string.
        let Ok(wanted) = unsafe { CStr::from_ptr(uuid) }.to_str() else { return INVALID_ARGUMENT };
        let found = p.gpus.iter().enumerate().find_map(|(i, gpu)| {
            if gpu.uuid == wanted {
                return Some((gpu, handle_of(i, None)));
            }
            let is = |m: &&Mig| {
                m.uuid == wanted || format!("MIG-{}/{}/{}", gpu.uuid, m.gi, m.ci) == wanted
            };
            migs(gpu).iter().find(is).map(|m| (gpu, handle_of(i, Some(m.index))))
        });
        match found {
            None => NOT_FOUND,
            Some((gpu, _)) if gpu.fault == Some(Fault::Lost) => GPU_IS_LOST,
            // SAFETY: as above.
            Some((_, handle)) => unsafe { put(to, handle) },
        }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(device: Device, to: *mut c_char, room: c_uint) -> Ret {
    with_device("nvmlDeviceGetUUID", device, |gpu, mig| {
        let uuid = mig.map_or(&gpu.uuid, |m| &m.uuid);
        // SAFETY: as above.
        unsafe { put_text(to, room, uuid) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetName(device: Device, to: *mut c_char, room: c_uint) -> Ret {
    with_device("nvmlDeviceGetName", device, |gpu, mig| {
        let name = match mig.and_then(|mig| mig.profile.as_ref()) {
            Some(profile) => format!("{} MIG {profile}", gpu.name),
            None => gpu.name.clone(),
        };
        // SAFETY: as above.
        unsafe { put_text(to, room, &name) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMinorNumber(device: Device, to: *mut c_uint) -> Ret {
    // SAFETY: as above.
    with_device("nvmlDeviceGetMinorNumber", device, |gpu, _| unsafe { put(to, gpu.minor) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPciInfo_v3(device: Device, to: *mut PciInfo) -> Ret {
    with_device("nvmlDeviceGetPciInfo_v3", device, |gpu, _| {
        let hex = |text: Option<&str>| text.and_then(|t| c_uint::from_str_radix(t, 16).ok());
        let mut parts = gpu.pci.split([':', '.']);
        let (domain, bus, slot) = (hex(parts.next()), hex(parts.next()), hex(parts.next()));
        let mut info = PciInfo {
            bus_id_legacy: [0; 16],
            domain: domain.unwrap_or(0),
            bus: bus.unwrap_or(0),
            device: slot.unwrap_or(0),
            pci_device_id: 0,
            pci_sub_system_id: 0,
            bus_id: [0; 32],
        };
        for (to, from) in info.bus_id.iter_mut().zip(gpu.pci.bytes().take(31)) {
            *to = from as c_char;
        }
        // SAFETY: as above.
        unsafe { put(to, info) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Device, to: *mut Memory2) -> Ret {
    with_device("nvmlDeviceGetMemoryInfo_v2", device, |gpu, mig| {
        if to.is_null() {
            return INVALID_ARGUMENT;
        }
        let version = c_uint::try_from(size_of::<Memory2>() | (2 << 24)).unwrap_or(0);
        // SAFETY: not null, so the caller's struct, whose first field it has filled.
        if unsafe { (*to).version } != version {
            return VERSION_MISMATCH;
        }
        let (total, used) = match mig {
            Some(mig) => (mig.memory, mig.memory_used),
            None => (gpu.memory_total, gpu.memory_used),
        };
        let free = total.saturating_sub(used);
        // SAFETY: as above.
        unsafe { put(to, Memory2 { version, total, reserved: 0, free, used }) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUtilizationRates(d: Device, to: *mut Utilization) -> Ret {
    with_device("nvmlDeviceGetUtilizationRates", d, |gpu, mig| {
        // A driver has no such figure for a card in MIG mode or for a part of one.
        if mig.is_some() || gpu.mig.is_some() {
            return NOT_SUPPORTED;
        }
        // SAFETY: as above.
        unsafe { put(to, Utilization { gpu: gpu.utilization, memory: 0 }) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTemperature(
    device: Device,
    _sensor: c_uint,
    to: *mut c_uint,
) -> Ret {
    // SAFETY: as above.
    with_device("nvmlDeviceGetTemperature", device, |gpu, _| unsafe { put(to, gpu.temperature) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPowerUsage(device: Device, to: *mut c_uint) -> Ret {
    // SAFETY: as above.
    with_device("nvmlDeviceGetPowerUsage", device, |gpu, _| unsafe { put(to, gpu.power_mw) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetEnforcedPowerLimit(device: Device, to: *mut c_uint) -> Ret {
    with_device("nvmlDeviceGetEnforcedPowerLimit", device, |gpu, _| match gpu.power_limit_mw {
        // SAFETY: as above.
        Some(limit) => unsafe { put(to, limit) },
        None => NOT_SUPPORTED,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetPersistenceMode(device: Device, to: *mut c_uint) -> Ret {
    with_device("nvmlDeviceGetPersistenceMode", device, |gpu, _| {
        // SAFETY: as above.
        unsafe { put(to, c_uint::from(gpu.persistence)) }
    })
}

/// Only the list of memory nodes: the bit of the card's own.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryAffinity(
    device: Device,
    words: c_uint,
    to: *mut c_ulong,
    _scope: c_uint,
) -> Ret {
    with_device("nvmlDeviceGetMemoryAffinity", device, |gpu, _| {
        if to.is_null() || words == 0 {
            return INVALID_ARGUMENT;
        }
        let Some(node) = gpu.numa else { return NOT_SUPPORTED };
        let (word, bit) = (node as usize / 64, node % 64);
        if word >= words as usize {
            return INSUFFICIENT_SIZE;
        }
        // SAFETY: the caller's array of `words` words; `word` lies in it.
        unsafe {
            std::ptr::write_bytes(to, 0, words as usize);
            to.add(word).write(1 << bit);
        }
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetP2PStatus(
    one: Device,
    other: Device,
    what: c_uint,
    to: *mut c_uint,
) -> Ret {
    let name = "nvmlDeviceGetP2PStatus";
    // The other card must answer as well.
    let reachable = with_device(name, other, |_, _| SUCCESS);
    if reachable != SUCCESS {
        return reachable;
    }
    with_device(name, one, |gpu, _| {
        let index = (other as usize & 0xffff).wrapping_sub(1);
        let linked = what == P2P_INDEX_NVLINK && gpu.links.iter().any(|l| *l as usize == index);
        // SAFETY: as above.
        unsafe { put(to, if linked { P2P_OK } else { P2P_NOT_SUPPORTED }) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetTopologyCommonAncestor(
    one: Device,
    other: Device,
    to: *mut c_uint,
) -> Ret {
    let name = "nvmlDeviceGetTopologyCommonAncestor";
    with_device(name, other, |theirs, _| {
        with_device(name, one, |gpu, _| {
            let level = if gpu.switch.is_some() && gpu.switch == theirs.switch {
                TOPOLOGY_SINGLE
            } else if gpu.numa == theirs.numa {
                TOPOLOGY_NODE
            } else {
                TOPOLOGY_SYSTEM
            };
            // SAFETY: as above.
            unsafe { put(to, level) }
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkState(
    device: Device,
    link: c_uint,
    to: *mut c_uint,
) -> Ret {
    with_device("nvmlDeviceGetNvLinkState", device, |gpu, _| {
        if link as usize >= gpu.links.len() {
            return INVALID_ARGUMENT;
        }
        // SAFETY: as above.
        unsafe { put(to, 1) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(
    device: Device,
    link: c_uint,
    to: *mut PciInfo,
) -> Ret {
    let name = "nvmlDeviceGetNvLinkRemotePciInfo_v2";
    with_device(name, device, |gpu, _| {
        let Some(index) = gpu.links.get(link as usize) else { return INVALID_ARGUMENT };
        // SAFETY: as above; the card at the other end is asked as its own caller would.
        unsafe { nvmlDeviceGetPciInfo_v3(handle_of(*index as usize, None), to) }
    })
}

/// The processes on a device: those of all its MIG devices too where it is a whole card.
fn processes(gpu: &Gpu, mig: Option<&Mig>, graphics: bool) -> Vec<ProcessInfo> {
    let info = |p: &Process, m: Option<&Mig>| ProcessInfo {
        pid: p.pid,
        used_gpu_memory: p.memory,
        gpu_instance_id: m.map_or(NO_INSTANCE, |m| m.gi),
        compute_instance_id: m.map_or(NO_INSTANCE, |m| m.ci),
    };
    let wanted = |p: &&Process| p.graphics == graphics;
    let of = |m: &Mig| -> Vec<_> {
        m.processes.iter().filter(wanted).map(|p| info(p, Some(m))).collect()
    };
    match mig {
        Some(mig) => of(mig),
        None => {
            let whole = gpu.processes.iter().filter(wanted).map(|p| info(p, None));
            whole.chain(migs(gpu).iter().flat_map(of)).collect()
        }
    }
}

unsafe fn put_processes(to: *mut ProcessInfo, count: *mut c_uint, all: Vec<ProcessInfo>) -> Ret {
    if count.is_null() {
        return INVALID_ARGUMENT;
    }
    // SAFETY: not null, so the caller's variable, which holds the length of its array.
    let room = unsafe { count.read() } as usize;
    // SAFETY: as above.
    unsafe { count.write(c_uint::try_from(all.len()).unwrap_or(c_uint::MAX)) };
    if all.len() > room {
        return INSUFFICIENT_SIZE;
    }
    if to.is_null() && !all.is_empty() {
        return INVALID_ARGUMENT;
    }
    for (i, info) in all.into_iter().enumerate() {
        // SAFETY: the caller's array has `room` elements, and there are no more than that.
        unsafe { to.add(i).write(info) };
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: Device,
    count: *mut c_uint,
    to: *mut ProcessInfo,
) -> Ret {
    with_device("nvmlDeviceGetComputeRunningProcesses_v3", device, |gpu, mig| {
        // SAFETY: as above.
        unsafe { put_processes(to, count, processes(gpu, mig, false)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: Device,
    count: *mut c_uint,
    to: *mut ProcessInfo,
) -> Ret {
    with_device("nvmlDeviceGetGraphicsRunningProcesses_v3", device, |gpu, mig| {
        // SAFETY: as above.
        unsafe { put_processes(to, count, processes(gpu, mig, true)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(
    device: Device,
    now: *mut c_uint,
    pending: *mut c_uint,
) -> Ret {
    with_device("nvmlDeviceGetMigMode", device, |gpu, _| {
        let on = c_uint::from(gpu.mig.is_some());
        // SAFETY: as above.
        unsafe { put(now, on).max(put(pending, on)) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(device: Device, to: *mut c_uint) -> Ret {
    with_device("nvmlDeviceGetMaxMigDeviceCount", device, |gpu, _| {
        // SAFETY: as above.
        unsafe { put(to, if gpu.mig.is_some() { MIG_MOST } else { 0 }) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    device: Device,
    index: c_uint,
    to: *mut Device,
) -> Ret {
    with_device("nvmlDeviceGetMigDeviceHandleByIndex", device, |gpu, _| {
        if !migs(gpu).iter().any(|m| m.index == index) {
            return NOT_FOUND;
        }
        let gpu = (device as usize & 0xffff) - 1;
        // SAFETY: as above.
        unsafe { put(to, handle_of(gpu, Some(index))) }
    })
}
