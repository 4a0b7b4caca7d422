//! The part of nvml.h that the exported functions use: layouts and codes.

use std::ffi::{c_char, c_uint, c_ulonglong, c_void};

pub type Ret = c_uint;
pub const SUCCESS: Ret = 0;
pub const UNINITIALIZED: Ret = 1;
pub const INVALID_ARGUMENT: Ret = 2;
pub const NOT_SUPPORTED: Ret = 3;
pub const NOT_FOUND: Ret = 6;
pub const INSUFFICIENT_SIZE: Ret = 7;
pub const DRIVER_NOT_LOADED: Ret = 9;
pub const TIMEOUT: Ret = 10;
pub const FUNCTION_NOT_FOUND: Ret = 13;
pub const GPU_IS_LOST: Ret = 15;
pub const RESET_REQUIRED: Ret = 16;
pub const VERSION_MISMATCH: Ret = 25;
pub const UNKNOWN: Ret = 999;

pub const TOPOLOGY_SINGLE: c_uint = 10;
pub const TOPOLOGY_NODE: c_uint = 40;
pub const TOPOLOGY_SYSTEM: c_uint = 50;
pub const EVENT_XID: c_ulonglong = 8;
pub const P2P_INDEX_NVLINK: c_uint = 2;
pub const P2P_OK: c_uint = 0;
pub const P2P_NOT_SUPPORTED: c_uint = 5;
/// The most MIG devices that a card can have.
pub const MIG_MOST: c_uint = 7;
pub const NO_INSTANCE: c_uint = c_uint::MAX;

/// nvmlDevice_t: a card's index + 1, and above bit 16 the index + 1 of its MIG device. Never a
/// pointer to anything.
pub type Device = *mut c_void;
/// nvmlEventSet_t: the set's number, never a pointer to anything.
pub type EventSet = *mut c_void;

#[repr(C)]
pub struct PciInfo {
    pub bus_id_legacy: [c_char; 16],
    pub domain: c_uint,
    pub bus: c_uint,
    pub device: c_uint,
    pub pci_device_id: c_uint,
    pub pci_sub_system_id: c_uint,
    pub bus_id: [c_char; 32],
}

#[repr(C)]
pub struct Memory2 {
    pub version: c_uint,
    pub total: c_ulonglong,
    pub reserved: c_ulonglong,
    pub free: c_ulonglong,
    pub used: c_ulonglong,
}

#[repr(C)]
pub struct Utilization {
    pub gpu: c_uint,
    pub memory: c_uint,
}

#[repr(C)]
pub struct ProcessInfo {
    pub pid: c_uint,
    pub used_gpu_memory: c_ulonglong,
    pub gpu_instance_id: c_uint,
    pub compute_instance_id: c_uint,
}

#[repr(C)]
pub struct EventData {
    pub device: Device,
    pub event_type: c_ulonglong,
    pub event_data: c_ulonglong,
    pub gpu_instance_id: c_uint,
    pub compute_instance_id: c_uint,
}
