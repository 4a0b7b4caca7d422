//! What there is: the inventory, asked of the driver, and its file.

use std::collections::BTreeMap;
use std::path::Path;

use gpuctl_ledger::config::Config;
use gpuctl_ledger::model::{Gpu, Health, Inventory, SCHEMA, Timestamp, Unit};
use nvml_wrapper::Device;

use super::nvml::{answer, general};
use super::proc::{self, Fact};
use super::{Driver, GpuError, file, links, mig};

/// The longest inventory that is read, in bytes: some 1000 cards.
const LONGEST: u64 = 1024 * 1024;
/// The most cards of one node.
const MOST_CARDS: u32 = 256;

/// One card as far as the driver told.
struct Seen<'n> {
    index: u32,
    device: Option<Device<'n>>,
    unit: Option<Unit>,
    minor: Option<u32>,
    model: Option<String>,
    pci: Option<String>,
    memory: Option<u64>,
    /// Why it must not be granted.
    why: Option<String>,
}

impl Driver {
    /// Asks for every card. One that answers with an error is [`Health::Bad`] with the reason. Its name then comes from what it still answers, from
    /// /proc, or from `previous`, the inventory before; one that nothing names any more is left out
    /// (it still has its row in [`Driver::usage`]). Memory is 0 where the driver is too old to say.
    ///
    /// # Errors
    /// [`GpuError`] where the driver as a whole does not answer.
    pub fn inventory(
        &self,
        config: &Config,
        previous: Option<&Inventory>,
    ) -> Result<Inventory, GpuError> {
        let driver = self.version()?;
        let count = self.count()?.min(MOST_CARDS);
        let facts = proc::cards(&config.gpu.proc);
        let mut seen = (0..count).map(|index| self.look(index)).collect::<Result<Vec<_>, _>>()?;
        name_the_silent(&mut seen, &facts, previous);

        let mut gpus: Vec<Gpu> = Vec::new();
        let mut devices = Vec::new();
        for card in seen {
            let Some((mut gpu, device)) = card.into_gpu() else { continue };
            let mut why = match &gpu.health {
                Health::Bad(why) => Some(why.clone()),
                Health::Ok => None,
            };
            if let Some(device) = &device {
                let folder = &config.gpu.proc;
                gpu.mig = mig::devices(&self.nvml, device, &gpu.unit, gpu.minor, folder, &mut why);
            }
            gpu.numa = links::numa(Path::new("/sys"), &gpu.pci, device.as_ref());
            gpu.health = why.map_or(Health::Ok, Health::Bad);
            devices.push((gpu.index, device));
            gpus.push(gpu);
        }
        for (gpu, links) in gpus.iter_mut().zip(links::links(&devices)) {
            gpu.links = links;
        }
        for (at, peers) in links::peers(&self.nvml, &gpus, &devices).into_iter().enumerate() {
            if let Some(gpu) = gpus.get_mut(at) {
                gpu.peers = peers;
            }
        }
        Ok(Inventory { schema: SCHEMA, at: Timestamp::now(), driver, gpus })
    }

    /// What the card at this place answers.
    fn look(&self, index: u32) -> Result<Seen<'_>, GpuError> {
        let mut why = None;
        let asked = self.nvml.device_by_index(index);
        if let Err(e) = &asked
            && super::nvml::broken(e).is_none()
        {
            // No card says this, but a driver that is not there or not open to us.
            return Err(general("a GPU", e));
        }
        let device = answer(asked, &mut why);
        let mut seen = Seen {
            index,
            device: None,
            unit: None,
            minor: None,
            model: None,
            pci: None,
            memory: None,
            why: None,
        };
        if let Some(device) = &device {
            let uuid = answer(device.uuid(), &mut why);
            seen.unit = uuid.and_then(|u| Unit::new(u).ok());
            seen.minor = answer(device.minor_number(), &mut why);
            seen.model = answer(device.name(), &mut why);
            seen.pci = answer(device.pci_info(), &mut why).map(|p| p.bus_id);
            seen.memory = answer(device.memory_info(), &mut why).map(|m| m.total);
        }
        seen.why = why;
        seen.device = device;
        Ok(seen)
    }
}

impl<'n> Seen<'n> {
    /// `None` where too little is known of the card to speak of it.
    fn into_gpu(self) -> Option<(Gpu, Option<Device<'n>>)> {
        let gpu = Gpu {
            index: self.index,
            unit: self.unit?,
            minor: self.minor?,
            model: self.model.unwrap_or_else(|| "unknown".into()),
            pci: self.pci?,
            memory: self.memory.unwrap_or(0),
            health: self.why.map_or(Health::Ok, Health::Bad),
            numa: None,
            links: Vec::new(),
            peers: Vec::new(),
            mig: Vec::new(),
            slots: 0,
        };
        Some((gpu, self.device))
    }

    /// Fills in what is missing.
    fn take_fact(&mut self, fact: &Fact) {
        self.unit = self.unit.take().or_else(|| fact.unit.clone());
        self.minor = self.minor.or(fact.minor);
        self.model = self.model.take().or_else(|| fact.model.clone());
        self.pci = self.pci.take().or_else(|| Some(format!("0000{}", fact.pci.to_uppercase())));
    }

    fn take_gpu(&mut self, gpu: &Gpu) {
        self.unit = self.unit.take().or_else(|| Some(gpu.unit.clone()));
        self.minor = self.minor.or(Some(gpu.minor));
        self.model = self.model.take().or_else(|| Some(gpu.model.clone()));
        self.pci = self.pci.take().or_else(|| Some(gpu.pci.clone()));
        self.memory = self.memory.or(Some(gpu.memory));
    }
}

/// Names the cards that did not name themselves.
///
/// The kernel's folder comes first, for it is of this boot. Its cards that no card has claimed stand
/// in the same order as the silent ones, so they are paired when they are as many. What is left takes
/// the name that stood at its place before, unless that card, or its minor, is another's now.
fn name_the_silent(seen: &mut [Seen], facts: &[Fact], previous: Option<&Inventory>) {
    let before = previous.map_or(&[][..], |p| p.gpus.as_slice());
    for card in seen.iter_mut() {
        if let Some(fact) = facts.iter().find(|f| card.unit.is_some() && f.unit == card.unit) {
            card.take_fact(fact);
        }
        if let Some(gpu) = before.iter().find(|g| Some(&g.unit) == card.unit.as_ref()) {
            card.memory = card.memory.or(Some(gpu.memory));
            card.model = card.model.take().or_else(|| Some(gpu.model.clone()));
        }
    }
    let silent: Vec<usize> = places(seen, |card| card.unit.is_none());
    let named: Vec<Unit> = seen.iter().filter_map(|c| c.unit.clone()).collect();
    let unclaimed: Vec<&Fact> =
        facts.iter().filter(|f| f.unit.as_ref().is_none_or(|u| !named.contains(u))).collect();
    if unclaimed.len() == silent.len() {
        for (card, fact) in silent.iter().zip(unclaimed) {
            if let Some(card) = seen.get_mut(*card) {
                card.take_fact(fact);
            }
        }
    }
    let units: Vec<Unit> = seen.iter().filter_map(|c| c.unit.clone()).collect();
    let minors: Vec<u32> = seen.iter().filter_map(|c| c.minor).collect();
    for card in seen.iter_mut().filter(|c| c.why.is_some()) {
        let remembered = before.iter().find(|gpu| match &card.unit {
            Some(unit) => gpu.unit == *unit,
            None => gpu.index == card.index && !units.contains(&gpu.unit),
        });
        if let Some(gpu) = remembered
            && (card.minor.is_some() || !minors.contains(&gpu.minor))
        {
            card.take_gpu(gpu);
        }
    }
}

fn places(seen: &[Seen], which: impl Fn(&Seen) -> bool) -> Vec<usize> {
    seen.iter().enumerate().filter(|(_, card)| which(card)).map(|(i, _)| i).collect()
}

/// Writes the inventory's file for the hook and for people: whole or not at all, mode 0644.
///
/// # Errors
/// [`GpuError::Unwritable`].
pub fn write_inventory(config: &Config, inventory: &Inventory) -> Result<(), GpuError> {
    let path = config.paths.inventory();
    let mut bytes = serde_json::to_vec_pretty(inventory)
        .map_err(|_| GpuError::Unwritable(path.clone(), "it cannot be put as JSON"))?;
    bytes.push(b'\n');
    file::write_own(&path, &bytes)
}

/// Reads the inventory's file; `None` where none was written yet.
///
/// # Errors
/// [`GpuError`] where it is not ours, too long, of a later version or inconsistent.
pub fn read_inventory(config: &Config) -> Result<Option<Inventory>, GpuError> {
    let path = config.paths.inventory();
    let Some(bytes) = file::read_own(&path, LONGEST)? else { return Ok(None) };
    let wrong = |why: &str| GpuError::Wrong(path.clone(), why.into());
    let inventory: Inventory =
        serde_json::from_slice(&bytes).map_err(|_| wrong("it is no inventory"))?;
    if inventory.schema > SCHEMA {
        return Err(wrong("a later version of gpuctl wrote it"));
    }
    let mut by_unit = BTreeMap::new();
    let mut by_minor = BTreeMap::new();
    for gpu in &inventory.gpus {
        let twice = by_unit.insert(&gpu.unit, ()).is_some();
        if twice || by_minor.insert(gpu.minor, ()).is_some() {
            return Err(wrong("it names one GPU twice"));
        }
    }
    Ok(Some(inventory))
}

#[cfg(test)]
mod tests {
    use super::super::testing::gpu;
    use super::*;

    fn silent(index: u32) -> Seen<'static> {
        let why = Some("it fell off the bus".to_owned());
        let (device, unit, minor, model, pci, memory) = (None, None, None, None, None, None);
        Seen { index, device, unit, minor, model, pci, memory, why }
    }

    fn live(gpu: &Gpu) -> Seen<'static> {
        let mut seen = silent(gpu.index);
        seen.take_gpu(gpu);
        seen.why = None;
        seen
    }

    fn before(gpus: Vec<Gpu>) -> Inventory {
        Inventory { schema: SCHEMA, at: Timestamp::from_millis(0), driver: "550".into(), gpus }
    }

    fn units(seen: &[Seen]) -> Vec<Option<String>> {
        seen.iter().map(|c| c.unit.as_ref().map(ToString::to_string)).collect()
    }

    #[test]
    fn a_silent_card_keeps_the_name_it_had() {
        let (a, b) = (gpu(0, "GPU-a", 1), gpu(1, "GPU-b", 0));
        let mut seen = [live(&a), silent(1)];
        name_the_silent(&mut seen, &[], Some(&before(vec![a, b])));
        assert_eq!(units(&seen), [Some("GPU-a".into()), Some("GPU-b".into())]);
        assert_eq!((seen[1].minor, seen[1].memory), (Some(0), Some(80)));
    }

    #[test]
    fn a_remembered_name_that_is_anothers_now_is_not_used() {
        let (a, b) = (gpu(0, "GPU-a", 0), gpu(1, "GPU-b", 1));
        let known = before(vec![a.clone(), b]);
        // The card that stood at place 1 is at place 0 now.
        let mut seen = [live(&known.gpus[1]), silent(1)];
        name_the_silent(&mut seen, &[], Some(&known));
        assert_eq!(units(&seen)[1], None);
        // Its minor has gone to a card that came new.
        let mut seen = [live(&gpu(0, "GPU-c", 1)), silent(1)];
        name_the_silent(&mut seen, &[], Some(&known));
        assert_eq!(units(&seen)[1], None);
    }

    #[test]
    fn the_kernels_word_goes_before_memory() {
        let (a, b) = (gpu(0, "GPU-a", 0), gpu(1, "GPU-b", 1));
        let fact = |unit: &str, minor, pci: &str| Fact {
            pci: pci.into(),
            unit: Unit::new(unit).ok(),
            minor: Some(minor),
            model: None,
        };
        let facts = [fact("GPU-a", 0, "0000:01:00.0"), fact("GPU-n", 5, "0000:0a:00.0")];
        let mut seen = [live(&a), silent(1)];
        name_the_silent(&mut seen, &facts, Some(&before(vec![a.clone(), b])));
        assert_eq!(units(&seen)[1].as_deref(), Some("GPU-n"));
        assert_eq!((seen[1].minor, seen[1].memory), (Some(5), None));
        assert_eq!(seen[1].pci.as_deref(), Some("00000000:0A:00.0"));
        // Which of two it is cannot be known: then it is neither.
        let facts = [fact("GPU-a", 0, "1"), fact("GPU-n", 5, "2"), fact("GPU-m", 6, "3")];
        let mut seen = [live(&a), silent(1)];
        name_the_silent(&mut seen, &facts, None);
        assert_eq!(units(&seen)[1], None);
    }
}
