//! What goes on on the cards now.

use std::collections::BTreeMap;

use gpuctl_ledger::model::{Gpu, Inventory, Unit};
use nvml_wrapper::Device;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::ProcessInfo;
use serde::Serialize;

use super::nvml::{answer, broken};
use super::{Driver, GpuError, mig};

/// One card, or one MIG device. A field that this driver or card does not tell is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Place of the card in nvidia-smi's order.
    pub index: u32,
    /// Place among the card's MIG devices, if it is one.
    pub mig: Option<u32>,
    /// Its UUID; `None` only for a card that nothing names any more.
    pub unit: Option<Unit>,
    /// Memory in use, in bytes.
    pub memory_used: Option<u64>,
    /// Memory in all, in bytes.
    pub memory_total: Option<u64>,
    /// Share of the last second or so in which it computed, in percent.
    pub utilization: Option<u32>,
    /// Processes that have it open for computing or drawing, by pid.
    pub processes: Option<Vec<GpuProcess>>,
    /// Degrees Celsius, of the card.
    pub temperature: Option<u32>,
    /// Milliwatts, of the card.
    pub power: Option<u32>,
    /// Milliwatts that the card may take, as it is set now.
    pub power_limit: Option<u32>,
    /// Whether the driver keeps the card initialised when nobody uses it.
    pub persistence: Option<bool>,
    /// Why the card does not answer.
    pub fault: Option<String>,
}

/// A process on a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuProcess {
    /// Its pid as the driver tells it, in our PID namespace.
    pub pid: u32,
    /// Memory of the card that it uses, in bytes; `None` where the driver does not say.
    pub memory: Option<u64>,
}

impl Driver {
    /// A row for every card, in nvidia-smi order; for one in MIG mode, a row for each MIG device
    /// (or its own, while it has none). A card that does not answer has a row with the reason, and
    /// its name from `known`.
    ///
    /// # Errors
    /// [`GpuError`] where the driver as a whole does not answer.
    pub fn usage(&self, known: Option<&Inventory>) -> Result<Vec<Usage>, GpuError> {
        let mut rows = Vec::new();
        for index in 0..self.count()? {
            let mut row = Usage::of(index);
            match self.nvml.device_by_index(index) {
                Err(e) => row.fault = Some(broken(&e).unwrap_or("it cannot be asked").into()),
                Ok(card) => row.ask_card(&card),
            }
            let parts = self.parts(index, &row);
            if parts.is_empty() {
                rows.push(row);
            } else {
                rows.extend(parts);
            }
        }
        name_the_silent(&mut rows, known);
        Ok(rows)
    }

    /// Rows of the MIG devices of a card.
    fn parts(&self, index: u32, card: &Usage) -> Vec<Usage> {
        let mut ignored = None;
        let Ok(device) = self.nvml.device_by_index(index) else { return Vec::new() };
        if !mig::enabled(&device, &mut ignored) {
            return Vec::new();
        }
        mig::handles(&device, &mut ignored)
            .into_iter()
            .map(|(place, part)| {
                let mut row = Usage {
                    mig: Some(place),
                    temperature: card.temperature,
                    power: card.power,
                    power_limit: card.power_limit,
                    persistence: card.persistence,
                    ..Usage::of(index)
                };
                row.ask(&part);
                row
            })
            .collect()
    }
}

impl Usage {
    fn of(index: u32) -> Self {
        Self {
            index,
            mig: None,
            unit: None,
            memory_used: None,
            memory_total: None,
            utilization: None,
            processes: None,
            temperature: None,
            power: None,
            power_limit: None,
            persistence: None,
            fault: None,
        }
    }

    /// What a card and a MIG device both tell.
    fn ask(&mut self, device: &Device) {
        let why = &mut self.fault;
        self.unit = answer(device.uuid(), why).and_then(|u| Unit::new(u).ok());
        if let Some(memory) = answer(device.memory_info(), why) {
            (self.memory_used, self.memory_total) = (Some(memory.used), Some(memory.total));
        }
        self.utilization = answer(device.utilization_rates(), why).map(|u| u.gpu);
        let computing = answer(device.running_compute_processes(), why);
        let drawing = answer(quiet(device.running_graphics_processes()), why);
        self.processes = computing.map(|c| merge(c, drawing.unwrap_or_default()));
    }

    fn ask_card(&mut self, card: &Device) {
        self.ask(card);
        let why = &mut self.fault;
        self.temperature = answer(card.temperature(TemperatureSensor::Gpu), why);
        self.power = answer(card.power_usage(), why);
        self.power_limit = answer(card.enforced_power_limit(), why);
        self.persistence = answer(card.is_in_persistent_mode(), why);
    }
}

/// Gives the rows without a name the one that the inventory has for their place, unless the card of
/// that name answered from elsewhere.
fn name_the_silent(rows: &mut [Usage], known: Option<&Inventory>) {
    let Some(known) = known else { return };
    let answered: Vec<Unit> = rows.iter().filter_map(|row| row.unit.clone()).collect();
    for row in rows.iter_mut().filter(|row| row.unit.is_none() && row.mig.is_none()) {
        let named = |g: &&Gpu| g.index == row.index && !answered.contains(&g.unit);
        if let Some(gpu) = known.gpus.iter().find(named) {
            row.unit = Some(gpu.unit.clone());
            row.memory_total = row.memory_total.or(Some(gpu.memory).filter(|m| *m > 0));
        }
    }
}

/// A card without a display engine may not know the question: no processes then.
fn quiet(asked: Result<Vec<ProcessInfo>, NvmlError>) -> Result<Vec<ProcessInfo>, NvmlError> {
    match asked {
        Err(NvmlError::NotSupported) => Ok(Vec::new()),
        other => other,
    }
}

/// One entry a process: those that both compute and draw are told twice, with the same memory.
fn merge(computing: Vec<ProcessInfo>, drawing: Vec<ProcessInfo>) -> Vec<GpuProcess> {
    let mut by_pid: BTreeMap<u32, Option<u64>> = BTreeMap::new();
    for process in computing.into_iter().chain(drawing) {
        let memory = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        let entry = by_pid.entry(process.pid).or_default();
        *entry = (*entry).max(memory);
    }
    by_pid.into_iter().map(|(pid, memory)| GpuProcess { pid, memory }).collect()
}
