//! Event sets. A real driver tells only of what happens after registration; a profile knows no
//! "after", so here a number that stands in it is delivered once to each set.

use std::ffi::{c_uint, c_ulonglong};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::abi::*;
use crate::profile::Fault;
use crate::{put, with_device, with_profile};

struct Set {
    number: usize,
    /// Cards that it listens to: handle and what it was last told of it.
    cards: Vec<(usize, Option<Fault>)>,
}

static SETS: Mutex<(usize, Vec<Set>)> = Mutex::new((0, Vec::new()));

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetCreate(to: *mut EventSet) -> Ret {
    with_profile("nvmlEventSetCreate", |_| {
        let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
        sets.0 += 1;
        let number = sets.0;
        sets.1.push(Set { number, cards: Vec::new() });
        // SAFETY: the caller's variable, see `put`.
        unsafe { put(to, number as EventSet) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlEventSetFree(set: EventSet) -> Ret {
    SETS.lock().unwrap_or_else(PoisonError::into_inner).1.retain(|s| s.number != set as usize);
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceRegisterEvents(
    device: Device,
    kinds: c_ulonglong,
    set: EventSet,
) -> Ret {
    with_device("nvmlDeviceRegisterEvents", device, |_, _| {
        if kinds & !EVENT_XID != 0 {
            return NOT_SUPPORTED;
        }
        let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
        match sets.1.iter_mut().find(|s| s.number == set as usize) {
            Some(set) => set.cards.push((device as usize, None)),
            None => return INVALID_ARGUMENT,
        }
        SUCCESS
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlEventSetWait_v2(
    set: EventSet,
    to: *mut EventData,
    timeout_ms: c_uint,
) -> Ret {
    let until = Instant::now() + Duration::from_millis(timeout_ms.into());
    loop {
        let mut found = None;
        let asked = with_profile("nvmlEventSetWait_v2", |profile| {
            let mut sets = SETS.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(set) = sets.1.iter_mut().find(|s| s.number == set as usize) else {
                return INVALID_ARGUMENT;
            };
            for (handle, told) in &mut set.cards {
                let fault = profile.gpus.get((*handle & 0xffff).wrapping_sub(1)).map(|g| g.fault);
                let fault = fault.unwrap_or(Some(Fault::Lost));
                let news = fault != *told;
                *told = fault;
                match fault {
                    Some(Fault::Lost) if news => return GPU_IS_LOST,
                    Some(Fault::Xid(number)) if news => {
                        found = Some((*handle, number));
                        return SUCCESS;
                    }
                    _ => {}
                }
            }
            SUCCESS
        });
        if asked != SUCCESS {
            return asked;
        }
        if let Some((handle, number)) = found {
            let data = EventData {
                device: handle as Device,
                event_type: EVENT_XID,
                event_data: number,
                gpu_instance_id: NO_INSTANCE,
                compute_instance_id: NO_INSTANCE,
            };
            // SAFETY: the caller's variable, see `put`.
            return unsafe { put(to, data) };
        }
        if Instant::now() >= until {
            return TIMEOUT;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
