//! XIDs: the driver's numbers for what goes wrong on a card. NVML tells of one only while somebody
//! listens: the service does, and puts the card into quarantine.

use std::time::Duration;

use gpuctl_ledger::model::Unit;
use gpuctl_ledger::rules::quarantine::{Weight, weigh};
use nvml_wrapper::EventSet;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;

use super::nvml::general;
use super::{Driver, GpuError};

/// A fatal XID: it says that a card is broken.
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
    /// Waits for news, for at most `limit`. What leaves the card sound is passed over.
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
        if weigh(xid) != Weight::Fatal {
            return Ok(Wake::Quiet);
        }
        let unit = event.device.uuid().ok().and_then(|u| Unit::new(u).ok());
        Ok(unit.map_or(Wake::Changed, |unit| Wake::Fault(Fault { unit, xid })))
    }
}
