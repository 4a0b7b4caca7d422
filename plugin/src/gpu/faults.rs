//! XIDs: the driver's numbers for what goes wrong on a card. NVML tells of one only while somebody
//! listens, so what was heard is noted in a file of this boot (/run), and the inventory reads it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use gpuctl_ledger::config::Config;
use gpuctl_ledger::model::{SCHEMA, Timestamp, Unit};
use nvml_wrapper::EventSet;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use serde::{Deserialize, Serialize};

use super::nvml::general;
use super::{Driver, GpuError, file};

/// The longest file of faults that is read, in bytes.
const LONGEST: u64 = 64 * 1024;
/// XIDs that a program's own fault brings about: the card is sound. The list is that of NVIDIA's
/// device plugin for Kubernetes.
const OF_PROGRAMS: [u64; 6] = [13, 31, 43, 45, 68, 109];

/// An XID that says that a card is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The card.
    pub unit: Unit,
    /// The number; 0 where the driver does not know it.
    pub xid: u64,
}

/// What ended a wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// A card broke.
    Fault(Fault),
    /// A card is lost, or cannot be told which broke: ask for the inventory, and watch anew.
    Changed,
    /// Nothing happened.
    Quiet,
}

/// Listens for XIDs of all cards that answered when it was made.
#[derive(Debug)]
pub struct Watch<'n> {
    set: EventSet<'n>,
}

impl Driver {
    /// Begins to listen. Cards that cannot be listened to are left out.
    ///
    /// # Errors
    /// [`GpuError`] where the driver has no events at all.
    pub fn watch(&self) -> Result<Watch<'_>, GpuError> {
        let mut able: Vec<u32> = (0..self.count()?).collect();
        // A refused registration takes the set with it; so begin again without that card.
        'anew: loop {
            let made = self.nvml.create_event_set();
            let mut set = made.map_err(|e| general("events", &e))?;
            for index in able.clone() {
                let registered = self
                    .nvml
                    .device_by_index(index)
                    .map_err(Into::into)
                    .and_then(|d| d.register_events(EventTypes::CRITICAL_XID_ERROR, set));
                match registered {
                    Ok(back) => set = back,
                    Err(_) => {
                        able.retain(|i| *i != index);
                        continue 'anew;
                    }
                }
            }
            return Ok(Watch { set });
        }
    }
}

impl Watch<'_> {
    /// Waits for news, for at most `limit`. What is only a program's fault is passed over.
    ///
    /// # Errors
    /// [`GpuError`] where the driver no longer answers.
    pub fn wait(&self, limit: Duration) -> Result<Wake, GpuError> {
        let limit = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        let event = match self.set.wait(limit) {
            Ok(event) => event,
            Err(NvmlError::Timeout) => return Ok(Wake::Quiet),
            Err(NvmlError::GpuLost) => return Ok(Wake::Changed),
            Err(e) => return Err(general("events", &e)),
        };
        let xid = match event.event_data {
            Some(XidError::Value(xid)) => xid,
            Some(XidError::Unknown) => 0,
            None => return Ok(Wake::Quiet),
        };
        if OF_PROGRAMS.contains(&xid) {
            return Ok(Wake::Quiet);
        }
        let unit = event.device.uuid().ok().and_then(|u| Unit::new(u).ok());
        Ok(unit.map_or(Wake::Changed, |unit| Wake::Fault(Fault { unit, xid })))
    }
}

/// One noted fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Noted {
    xid: u64,
    at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Notes {
    schema: u32,
    faults: BTreeMap<Unit, Noted>,
}

impl Noted {
    /// The reason for people.
    pub(super) fn words(&self) -> String {
        let meaning = match self.xid {
            0 => return format!("an XID without a number at {}", self.at),
            48 => ": memory error that could not be corrected",
            62 => ": its microcontroller halted",
            64 | 63 => ": bad memory rows",
            74 => ": NVLink error",
            79 => ": it fell off the bus",
            92 => ": many memory errors",
            94 | 95 => ": memory error",
            119 | 120 => ": its firmware does not answer",
            _ => "",
        };
        format!("XID {}{meaning}, at {}", self.xid, self.at)
    }
}

fn path(config: &Config) -> PathBuf {
    config.paths.run.join("faults.json")
}

/// The faults noted since boot, one a card.
pub(super) fn read(config: &Config) -> Result<BTreeMap<Unit, Noted>, GpuError> {
    let path = path(config);
    let Some(bytes) = file::read_own(&path, LONGEST)? else { return Ok(BTreeMap::new()) };
    let notes: Notes = serde_json::from_slice(&bytes)
        .map_err(|_| GpuError::Wrong(path.clone(), "it is no list of faults".into()))?;
    if notes.schema > SCHEMA {
        return Err(GpuError::Wrong(path, "a later version of gpuctl wrote it".into()));
    }
    Ok(notes.faults)
}

fn write(config: &Config, faults: BTreeMap<Unit, Noted>) -> Result<(), GpuError> {
    let path = path(config);
    let bytes = serde_json::to_vec(&Notes { schema: SCHEMA, faults })
        .map_err(|_| GpuError::Unwritable(path.clone(), "it cannot be put as JSON"))?;
    file::write_own(&path, &bytes)
}

/// Notes a fault, so that every later inventory of this boot calls the card bad. One process alone
/// notes: the service.
///
/// # Errors
/// [`GpuError`] where the file cannot be read or written.
pub fn note_fault(config: &Config, fault: &Fault) -> Result<(), GpuError> {
    let mut faults = read(config)?;
    faults.insert(fault.unit.clone(), Noted { xid: fault.xid, at: Timestamp::now() });
    write(config, faults)
}

/// Forgets what was noted of a card, after it was reset or found sound. Says whether there was
/// anything to forget.
///
/// # Errors
/// [`GpuError`] where the file cannot be read or written.
pub fn forget_faults(config: &Config, unit: &Unit) -> Result<bool, GpuError> {
    let mut faults = read(config)?;
    let there = faults.remove(unit).is_some();
    if there {
        write(config, faults)?;
    }
    Ok(there)
}
