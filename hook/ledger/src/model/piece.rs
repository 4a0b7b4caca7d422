//! What a GPU can be leased as: whole, a MIG device of it, or a slot of it where the config shares it.

use serde::{Deserialize, Serialize};

use super::{Gpu, GpuRef, Health, Inventory, MigDevice, Unit};

/// Something that can be leased by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Piece<'a> {
    /// The GPU.
    pub gpu: &'a Gpu,
    /// How much of it.
    pub part: Part<'a>,
}

/// How much of a GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Part<'a> {
    /// All of it.
    Whole,
    /// One of its MIG devices.
    Mig(&'a MigDevice),
    /// One of its slots.
    Slot(u32),
}

impl<'a> From<&'a Gpu> for Piece<'a> {
    fn from(gpu: &'a Gpu) -> Self {
        Self { gpu, part: Part::Whole }
    }
}

impl<'a> Piece<'a> {
    /// What the ledger knows it by.
    pub fn unit(&self) -> Unit {
        match self.part {
            Part::Whole => self.gpu.unit.clone(),
            Part::Mig(mig) => mig.unit.clone(),
            Part::Slot(slot) => {
                Unit::of_slot(&self.gpu.unit, slot).unwrap_or_else(|| self.gpu.unit.clone())
            }
        }
    }

    /// The MIG device that it is.
    pub fn mig(&self) -> Option<&'a MigDevice> {
        match self.part {
            Part::Mig(mig) => Some(mig),
            Part::Whole | Part::Slot(_) => None,
        }
    }

    /// The name by which CUDA and NVIDIA's runtime know it: a slot is its GPU.
    pub fn uuid(&self) -> &'a Unit {
        self.mig().map_or(&self.gpu.unit, |mig| &mig.unit)
    }

    /// Its memory, in bytes. A slot's is the GPU's: nothing divides it.
    pub fn memory(&self) -> u64 {
        self.mig().map_or(self.gpu.memory, |mig| mig.memory)
    }

    /// Whether it may be granted.
    pub fn health(&self) -> &'a Health {
        match (&self.gpu.health, self.mig()) {
            (Health::Ok, Some(mig)) => &mig.health,
            (health, _) => health,
        }
    }

    /// Where it stands, for people.
    pub fn place(&self) -> Place {
        let gpu = self.gpu.index;
        match self.part {
            Part::Whole => Place::Whole(gpu),
            Part::Mig(mig) => Place::Mig(gpu, mig.index),
            Part::Slot(slot) => Place::Slot(gpu, slot),
        }
    }

    /// Whether both cannot be leased at once: they are one, or a GPU and a part of it, or parts of
    /// different kinds. The one rule of exclusion.
    pub fn overlaps(&self, other: &Piece<'_>) -> bool {
        let apart = match (self.part, other.part) {
            (Part::Mig(a), Part::Mig(b)) => a.unit != b.unit,
            (Part::Slot(a), Part::Slot(b)) => a != b,
            _ => false,
        };
        self.gpu.unit == other.gpu.unit && !apart
    }
}

/// Where a leased thing stands: `3`, the MIG device `0:1`, the slot `3/0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "Shown", try_from = "Shown")]
pub enum Place {
    /// A GPU, by its index.
    Whole(u32),
    /// A MIG device, by its GPU's index and its own.
    Mig(u32, u32),
    /// A slot, by its GPU's index and its number.
    Slot(u32, u32),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(gpu) => write!(f, "{gpu}"),
            Self::Mig(gpu, mig) => write!(f, "{gpu}:{mig}"),
            Self::Slot(gpu, slot) => write!(f, "{gpu}/{slot}"),
        }
    }
}

impl Place {
    /// A place as it is shown; `None` where the text is none.
    pub fn read(text: &str) -> Option<Self> {
        let pair = |sign| {
            let (gpu, part) = text.split_once(sign)?;
            Some((gpu.parse().ok()?, part.parse().ok()?))
        };
        let whole = || text.parse().ok().map(Self::Whole);
        let mig = || pair(':').map(|(gpu, mig)| Self::Mig(gpu, mig));
        let slot = || pair('/').map(|(gpu, slot)| Self::Slot(gpu, slot));
        whole().or_else(mig).or_else(slot)
    }

    /// The GPU's index.
    pub fn gpu(self) -> u32 {
        match self {
            Self::Whole(gpu) | Self::Mig(gpu, _) | Self::Slot(gpu, _) => gpu,
        }
    }
}

/// A place in JSON: a number where it is a whole GPU, else text.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Shown {
    Index(u32),
    Text(String),
}

impl From<Place> for Shown {
    fn from(place: Place) -> Self {
        match place {
            Place::Whole(gpu) => Self::Index(gpu),
            other => Self::Text(other.to_string()),
        }
    }
}

impl TryFrom<Shown> for Place {
    type Error = &'static str;

    fn try_from(shown: Shown) -> Result<Self, Self::Error> {
        match shown {
            Shown::Index(gpu) => Ok(Self::Whole(gpu)),
            Shown::Text(text) => {
                Self::read(&text).ok_or("a place is an index, index:mig or index/slot")
            }
        }
    }
}

impl Gpu {
    /// The GPU as a whole, then its MIG devices, then its slots: all that it can be leased as.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let of = |part| Piece { gpu: self, part };
        std::iter::once(Part::Whole)
            .chain(self.mig.iter().map(Part::Mig))
            .chain((0..self.slots).map(Part::Slot))
            .map(of)
    }
}

/// The shortest beginning of a UUID that is taken for it, in characters: four behind `GPU-`.
const SHORTEST: usize = 8;

impl Inventory {
    /// What a leased unit is; `None` where the node has no such thing (any more). A slot is found
    /// whatever the config says of its GPU now.
    pub fn piece(&self, unit: &Unit) -> Option<Piece<'_>> {
        let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
        self.gpus.iter().find_map(|gpu| {
            if same(gpu.unit.as_str(), unit.card()) {
                return Some(Piece { gpu, part: unit.slot().map_or(Part::Whole, Part::Slot) });
            }
            let mig = gpu.mig.iter().find(|mig| same(mig.unit.as_str(), unit.as_str()))?;
            Some(Piece { gpu, part: Part::Mig(mig) })
        })
    }

    /// What a user's word means; `None` where the node has none such.
    pub fn locate(&self, wanted: &GpuRef) -> Option<Piece<'_>> {
        match wanted {
            GpuRef::MigIndex(gpu, mig) => {
                let gpu = self.gpus.iter().find(|g| g.index == *gpu)?;
                let mig = gpu.mig.iter().find(|m| m.index == *mig)?;
                Some(Piece { gpu, part: Part::Mig(mig) })
            }
            GpuRef::Uuid(text) => {
                let exact = self.piece(&Unit::new(text.clone()).ok()?);
                let piece = exact.or_else(|| self.beginning(text))?;
                let there = match piece.part {
                    Part::Slot(slot) => slot < piece.gpu.slots,
                    Part::Whole | Part::Mig(_) => true,
                };
                there.then_some(piece)
            }
            other => self.find(other).map(Piece::from),
        }
    }

    /// The only GPU or MIG device whose UUID begins so, as CUDA and NVIDIA's runtime take it.
    fn beginning(&self, text: &str) -> Option<Piece<'_>> {
        let begins = |unit: &Unit| {
            let start = unit.as_str().get(..text.len());
            text.len() >= SHORTEST && start.is_some_and(|start| start.eq_ignore_ascii_case(text))
        };
        let wholes = self.gpus.iter().filter(|gpu| begins(&gpu.unit)).map(Piece::from);
        let parts = self.gpus.iter().flat_map(|gpu| {
            let cut = gpu.mig.iter().filter(|mig| begins(&mig.unit));
            cut.map(move |mig| Piece { gpu, part: Part::Mig(mig) })
        });
        let mut all = wholes.chain(parts);
        all.next().filter(|_| all.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inventory() -> Inventory {
        let mut inventory: Inventory = serde_json::from_str(
            r#"{"schema":1,"at":"2026-01-01T00:00:00Z","driver":"1","gpus":[
            {"index":0,"unit":"GPU-a","minor":1,"model":"m","pci":"0","memory":8,"mig":[
              {"index":0,"unit":"MIG-a","memory":2,"caps":[3,4]},{"index":2,"unit":"MIG-b","memory":2,"caps":[5,6]}]},
            {"index":1,"unit":"GPU-b","minor":0,"model":"m","pci":"1","memory":8}]}"#,
        )
        .unwrap();
        inventory.gpus[1].slots = 3;
        inventory
    }

    #[test]
    fn every_spelling_leads_to_the_thing_meant() {
        let inventory = inventory();
        let place = |text: &str| {
            inventory.locate(&text.parse().unwrap()).map(|piece| piece.place().to_string())
        };
        assert_eq!(place("0").as_deref(), Some("0"));
        assert_eq!(place("0:2").as_deref(), Some("0:2"));
        assert_eq!(place("mig-B").as_deref(), Some("0:2"));
        assert_eq!(place("gpu-b").as_deref(), Some("1"));
        assert_eq!(place("GPU-b/2").as_deref(), Some("1/2"));
        for none in ["0:1", "1:0", "2", "MIG-c", "GPU-b/3", "GPU-a/0", "GPU-c/0"] {
            assert_eq!(place(none), None, "{none}");
        }
        assert!(inventory.piece(&Unit::new("GPU-b/200").unwrap()).is_some(), "a lease of before");
    }

    #[test]
    fn the_beginning_of_a_uuid_is_enough_where_it_is_of_one_thing_only() {
        let mut inventory = inventory();
        let mut name = |at: usize, uuid: &str| inventory.gpus[at].unit = Unit::new(uuid).unwrap();
        name(0, "GPU-1220e65d-e526");
        name(1, "GPU-1220f65d-e526");
        inventory.gpus[0].mig[0].unit = Unit::new("MIG-4a1b77").unwrap();
        let place = |text: &str| {
            inventory.locate(&text.parse().unwrap()).map(|piece| piece.place().to_string())
        };
        assert_eq!(place("gpu-1220e").as_deref(), Some("0"));
        assert_eq!(place("GPU-1220f65d").as_deref(), Some("1"));
        assert_eq!(place("MIG-4a1b").as_deref(), Some("0:0"));
        for none in
            ["GPU-1220", "GPU-12", "GPU-1221", "GPU-1220f65d-e5267", "MIG-1220", "GPU-1220e/0"]
        {
            assert_eq!(place(none), None, "{none}");
        }
    }

    #[test]
    fn a_whole_and_its_parts_exclude_each_other_and_two_parts_of_a_kind_do_not() {
        let inventory = inventory();
        let of = |unit: &str| inventory.piece(&Unit::new(unit).unwrap()).unwrap();
        let out = |a: &str, b: &str| {
            let both = of(a).overlaps(&of(b));
            assert_eq!(both, of(b).overlaps(&of(a)));
            both
        };
        for (a, b) in
            [("GPU-a", "GPU-a"), ("GPU-a", "MIG-a"), ("GPU-b", "GPU-b/1"), ("MIG-a", "MIG-a")]
        {
            assert!(out(a, b), "{a} {b}");
        }
        assert!(out("MIG-a", "GPU-a/0"), "cut and shared at once");
        for (a, b) in
            [("MIG-a", "MIG-b"), ("GPU-b/0", "GPU-b/1"), ("GPU-a", "GPU-b"), ("MIG-a", "GPU-b/0")]
        {
            assert!(!out(a, b), "{a} {b}");
        }
    }

    #[test]
    fn a_place_is_a_number_in_json_where_it_is_a_whole_gpu() {
        let places = [Place::Whole(3), Place::Mig(0, 1), Place::Slot(3, 0)];
        let text = serde_json::to_string(&places).unwrap();
        assert_eq!(text, r#"[3,"0:1","3/0"]"#);
        assert_eq!(serde_json::from_str::<Vec<Place>>(&text).unwrap(), places);
        assert!(serde_json::from_str::<Place>("\"x\"").is_err());
    }

    #[test]
    fn an_old_inventory_is_read_and_a_gpus_pieces_are_all_that_it_can_be_leased_as() {
        let inventory = inventory();
        let units = |n: usize| -> Vec<String> {
            inventory.gpus[n].pieces().map(|p| p.unit().to_string()).collect()
        };
        assert_eq!(units(0), ["GPU-a", "MIG-a", "MIG-b"]);
        assert_eq!(units(1), ["GPU-b", "GPU-b/0", "GPU-b/1", "GPU-b/2"]);
    }
}
