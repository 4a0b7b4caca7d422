//! The node as grants and reconciliation see it: its GPUs, its notes, and who of the holders lives.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::config::Config;
use crate::grant::{GrantError, node_error, shown_time};
use crate::model::{BootId, ContainerName, Evidence, Gpu, Health, Inventory, Lease, Timestamp};
use crate::node::busy::Look;
use crate::node::notes::{self, Grant};
use crate::node::{docker, files, mig, process, quarantine};
use crate::rules::liveness::{Facts, Files, Life, Seen, judge};
use crate::rules::quarantine::Held;
use crate::sharing;

/// Longest inventory, in bytes.
const LONGEST_INVENTORY: u64 = 4 << 20;
/// Longest `information` of the driver's, in bytes.
const LONGEST_INFORMATION: u64 = 16 << 10;

/// The node as grants see it.
#[derive(Debug)]
pub struct NodeView<'a> {
    /// The settings.
    pub config: &'a Config,
    /// This boot.
    pub boot_id: BootId,
    begun: Mutex<Option<Look>>,
}

impl<'a> NodeView<'a> {
    /// Looks at the node.
    ///
    /// # Errors
    /// When the boot id cannot be read.
    pub fn new(config: &'a Config) -> Result<Self, GrantError> {
        if !process::sees_all() {
            return Err(GrantError::Node {
                what: "this PID namespace",
                why: "holders of GPUs can only be judged in the node's initial one",
            });
        }
        let boot_id = process::boot_id(&config.paths.boot_id).map_err(node_error("the boot id"))?;
        Ok(Self::of_boot(config, boot_id))
    }

    /// The same where the boot is known.
    pub fn of_boot(config: &'a Config, boot_id: BootId) -> Self {
        Self { config, boot_id, begun: Mutex::new(None) }
    }

    /// Begins the look at who has GPUs open, which the next grant will need, beside what comes before
    /// it. Where that does not work, the grant makes its own.
    pub fn look_ahead(&self) {
        if let Ok(look) = Look::begin() {
            *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(look);
        }
    }

    /// The look that was begun ahead, once.
    pub(crate) fn begun_look(&self) -> Option<Look> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The node's GPUs, less those that the driver no longer shows.
    ///
    /// # Errors
    /// When there is no inventory or it cannot be read.
    pub fn inventory(&self) -> Result<Inventory, GrantError> {
        let what = "the inventory of GPUs";
        let mut inventory: Inventory =
            files::read_json(&self.config.paths.inventory(), LONGEST_INVENTORY)
                .map_err(node_error(what))?
                .ok_or(GrantError::Node {
                    what,
                    why: "it is not there: run docker gpuctl doctor --fix",
                })?;
        sharing::share(&mut inventory, &self.config.gpu.shared);
        let shown = shown_gpus(&self.config.gpu.proc);
        for gpu in &mut inventory.gpus {
            let why = match shown.get(&gpu.pci.to_ascii_lowercase()) {
                None => "the driver does not show it",
                Some(now) if now.is(gpu) && mig::is_as_shown(&self.config.gpu.proc, gpu) => {
                    continue;
                }
                Some(now) if now.is(gpu) => {
                    "its MIG devices are others by now: docker gpuctl doctor --fix looks anew"
                }
                // Other hardware, or another order since the inventory was made: its minor may now
                // be another GPU's.
                Some(_) => "it has changed its place: docker gpuctl doctor --fix looks anew",
            };
            gpu.health = Health::Bad(why.into());
        }
        let quarantine = quarantine::read(&self.config.paths, &self.boot_id)
            .map_err(node_error("the list of GPUs in quarantine"))?;
        for gpu in &mut inventory.gpus {
            if let Some(held) = quarantine.of(&gpu.unit) {
                gpu.health = Health::Bad(quarantine_words(held));
            }
            for mig in &mut gpu.mig {
                if let Some(held) = quarantine.of(&mig.unit) {
                    mig.health = Health::Bad(quarantine_words(held));
                }
            }
        }
        Ok(inventory)
    }

    /// What tells that this process claims.
    ///
    /// # Errors
    /// When /proc is not readable.
    pub fn claimer(&self) -> Result<Evidence, GrantError> {
        Ok(Evidence {
            boot_id: self.boot_id.clone(),
            claimer: process::own().map_err(node_error("/proc"))?,
            init: None,
            cgroup: None,
            ended: None,
        })
    }

    fn process_seen(&self, evidence: &Evidence) -> (bool, Seen, Option<Seen>, Option<Seen>) {
        let same_boot = evidence.boot_id == self.boot_id;
        (
            same_boot,
            process::seen(evidence.claimer),
            evidence.init.map(process::seen),
            evidence.cgroup.as_ref().map(process::cgroup_seen),
        )
    }

    /// Whether the holder of a lease lives. `changing` are the names of containers with an open
    /// change. A ledger restored from a backup shows old evidence: what the node noted of a living
    /// container counts more.
    pub fn judge(&self, lease: &Lease, changing: &[ContainerName], now: Timestamp) -> Life {
        let (same_boot, claimer, init, cgroup) = self.process_seen(&lease.evidence);
        let files = docker::facts(&self.config.docker.root, &lease.holder.container);
        // Of a container that Docker no longer has, the change is to another one of its name: to the
        // one that a run is about to make.
        let there = files != Files::Absent;
        let changing = lease.holder.name.as_ref().is_some_and(|name| changing.contains(name));
        let change_open = there && changing;
        let facts = Facts { same_boot, claimer, init, cgroup, files, change_open, now };
        let life = judge(lease, &facts);
        if !matches!(life, Life::Gone | Life::Reserved) {
            return life;
        }
        match notes::read_grant(&self.config.paths, &lease.holder.container) {
            Ok(Some(grant)) if grant.units.contains(&lease.unit) && self.lives(&grant) => {
                Life::Alive
            }
            Ok(_) => life,
            Err(_) => Life::Unknown,
        }
    }

    /// Whether the processes of a grant may still live.
    pub fn lives(&self, grant: &Grant) -> bool {
        let (same_boot, claimer, init, cgroup) = self.process_seen(&grant.evidence);
        let gone = |seen: Option<Seen>| seen.is_none_or(|s| s == Seen::Gone);
        let dead = if grant.active { gone(init) && gone(cgroup) } else { claimer == Seen::Gone };
        same_boot && !dead
    }

    /// Grants of this boot whose processes may still live.
    ///
    /// # Errors
    /// When a note cannot be read: then it is not known what is granted.
    pub fn living_grants(&self) -> Result<Vec<Grant>, GrantError> {
        let grants = notes::grants(&self.config.paths).map_err(node_error("a note of a grant"))?;
        Ok(grants.into_iter().filter(|grant| self.lives(grant)).collect())
    }
}

/// `quarantined since 10:02: it fell off the bus`.
pub fn quarantine_words(held: &Held) -> String {
    format!("quarantined since {}: {}", shown_time(held.since), held.cause.words())
}

/// What the driver shows of a GPU in /proc, where it says so.
struct Shown {
    uuid: Option<String>,
    minor: Option<u32>,
}

impl Shown {
    fn is(&self, gpu: &Gpu) -> bool {
        self.uuid.as_ref().is_none_or(|uuid| uuid.eq_ignore_ascii_case(gpu.unit.as_str()))
            && self.minor.is_none_or(|minor| minor == gpu.minor)
    }

    fn read(information: &Path) -> Self {
        let bytes = files::read_bounded(information, LONGEST_INFORMATION).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let field = |name: &str| {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        Self {
            // A card that nobody has used yet shows question marks.
            uuid: field("GPU UUID").filter(|uuid| !uuid.contains('?') && uuid.starts_with("GPU-")),
            minor: field("Device Minor").and_then(|minor| minor.parse().ok()),
        }
    }
}

/// The GPUs that the driver shows, by PCI address in lower case, with a domain of eight digits.
fn shown_gpus(proc: &Path) -> BTreeMap<String, Shown> {
    let Ok(entries) = std::fs::read_dir(proc.join("gpus")) else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?.to_ascii_lowercase();
            // /proc has a domain of four digits, NVML one of eight.
            let name = if name.find(':') == Some(4) { format!("0000{name}") } else { name };
            Some((name, Shown::read(&entry.path().join("information"))))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Unit;

    #[test]
    fn a_gpu_that_changed_its_place_is_not_the_one_of_the_inventory() {
        let proc = tempfile::tempdir().unwrap();
        let folder = proc.path().join("gpus/0000:3B:00.0");
        std::fs::create_dir_all(&folder).unwrap();
        let gpu = Gpu {
            index: 0,
            unit: Unit::new("GPU-aa").unwrap(),
            minor: 3,
            model: "m".into(),
            pci: "00000000:3B:00.0".into(),
            memory: 1,
            health: Health::Ok,
            numa: None,
            links: Vec::new(),
            peers: Vec::new(),
            mig: Vec::new(),
            slots: 0,
        };
        let is = |text: &str| {
            std::fs::write(folder.join("information"), text).unwrap();
            shown_gpus(proc.path()).get("00000000:3b:00.0").map(|shown| shown.is(&gpu))
        };
        assert_eq!(is("Model: \t m\nGPU UUID: \t GPU-AA\nDevice Minor: \t 3\n"), Some(true));
        assert_eq!(is("GPU UUID: \t GPU-bb\nDevice Minor: \t 3\n"), Some(false));
        assert_eq!(is("GPU UUID: \t GPU-aa\nDevice Minor: \t 4\n"), Some(false));
        // Not asked yet, the card does not tell.
        assert_eq!(is("GPU UUID: \t GPU-????????-????\nDevice Minor: \t 3\n"), Some(true));
        assert_eq!(is(""), Some(true));
    }
}
