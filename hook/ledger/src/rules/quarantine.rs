//! Which GPUs are kept from everybody until they are clean: those on which the driver still shows a
//! process after its container is gone, those with a fatal XID, and those that do not answer.

use serde::{Deserialize, Serialize};

use crate::model::{BootId, SCHEMA, Timestamp, Unit};

/// What an XID says of the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// A program's own fault brought it about; the card is sound. The list is that of NVIDIA's device
    /// plugin for Kubernetes.
    OfPrograms,
    /// The driver tells of something that it has dealt with, or that another XID tells of too.
    Informational,
    /// The card, its memory, its links or its firmware are not sound. Also every number not known.
    Fatal,
}

/// What an XID says of the card, by NVIDIA's catalog of XIDs. What is not known counts as fatal.
pub fn weigh(xid: u64) -> Weight {
    match xid {
        13 | 31 | 43 | 45 | 68 | 109 => Weight::OfPrograms,
        // A row or page was put out of use; a high rate of errors that were corrected; a corrected
        // error of the link between chips; which recovery another XID calls for.
        63 | 92 | 121 | 154 => Weight::Informational,
        _ => Weight::Fatal,
    }
}

/// What an XID means, for people; empty where there is no word for it.
fn meaning(xid: u64) -> &'static str {
    match xid {
        46 => "it stopped processing",
        48 => "a memory error that could not be corrected",
        62 => "its microcontroller halted",
        64 => "bad memory that could not be put out of use",
        74 => "an NVLink error",
        79 => "it fell off the bus",
        94 => "a memory error that was contained",
        95 => "a memory error that was not contained",
        119 | 120 => "its firmware does not answer",
        140 => "a memory error that was not recovered from",
        _ => "",
    }
}

/// Why a GPU is in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Cause {
    /// The driver shows a process on it, and no container that could have it there.
    Process {
        /// Its pid, as the driver tells it.
        pid: u32,
        /// Its program; empty where it is gone already.
        name: String,
        /// The container that it was of, by its name in Docker, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<String>,
    },
    /// The driver told of this XID; 0 where it did not say which.
    Xid {
        /// The number.
        xid: u64,
        /// Whether the card has ceased to answer since: if it then answers again, it was reset.
        #[serde(default)]
        silent: bool,
    },
    /// It does not answer as it should: fallen off the bus, in need of a reset.
    Card {
        /// In words.
        why: String,
    },
}

impl Cause {
    /// In words that finish "quarantined: ".
    pub fn words(&self) -> String {
        match self {
            Self::Process { pid, name, of } => {
                let program = if name.is_empty() { String::new() } else { format!(" ({name})") };
                let of = match of {
                    Some(of) => format!("{of} has ended"),
                    None => "no container has it there".into(),
                };
                format!("the driver still shows process {pid}{program} on it, and {of}")
            }
            Self::Xid { xid: 0, .. } => "an XID without a number".into(),
            Self::Xid { xid, .. } => match meaning(*xid) {
                "" => format!("XID {xid}"),
                meaning => format!("XID {xid}: {meaning}"),
            },
            Self::Card { why } => why.clone(),
        }
    }

    /// Whether it is the same trouble, however it is worded.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Process { pid: a, .. }, Self::Process { pid: b, .. }) => a == b,
            (Self::Xid { xid: a, .. }, Self::Xid { xid: b, .. }) => a == b,
            (Self::Card { .. }, Self::Card { .. }) => true,
            _ => false,
        }
    }
}

/// One GPU and one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The GPU.
    pub unit: Unit,
    /// Why.
    pub cause: Cause,
    /// Since when.
    pub since: Timestamp,
}

/// A process that somebody has said may be on a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pardoned {
    /// The GPU.
    pub unit: Unit,
    /// The process.
    pub pid: u32,
}

/// All GPUs of a node that are in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Layout, [`SCHEMA`].
    pub schema: u32,
    /// The boot in which it was so: another one has reset every card and ended every process.
    pub boot_id: BootId,
    /// Which loading of the driver it was; empty where that could not be told.
    #[serde(default)]
    pub driver: String,
    /// The GPUs.
    pub held: Vec<Held>,
    /// What was cleared by hand and is still to be seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pardoned: Vec<Pardoned>,
}

/// What a look showed of one GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The GPU.
    pub unit: Unit,
    /// Why it does not answer as it should; `None` where it does.
    pub bad: Option<String>,
    /// Processes that are left over on it; `None` where the driver did not say who is on it.
    pub leftovers: Option<Vec<Leftover>>,
}

/// A process that is left over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Its pid, as the driver tells it.
    pub pid: u32,
    /// Its program; empty where it is gone.
    pub name: String,
    /// The container that it was of, where that is known.
    pub of: Option<String>,
}

/// What a look changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Turn {
    /// How it is now.
    pub now: Quarantine,
    /// What has begun.
    pub began: Vec<Held>,
    /// What is over, and why.
    pub over: Vec<(Held, &'static str)>,
}

impl Quarantine {
    /// Of a boot in which nothing has happened yet.
    pub fn empty(boot_id: BootId) -> Self {
        let (driver, held, pardoned) = (String::new(), Vec::new(), Vec::new());
        Self { schema: SCHEMA, boot_id, driver, held, pardoned }
    }

    /// Why a GPU is not granted; `None` where it is not in quarantine. Of several reasons the first.
    pub fn of(&self, unit: &Unit) -> Option<&Held> {
        self.held.iter().find(|held| held.unit == *unit)
    }

    fn has(&self, unit: &Unit, cause: &Cause) -> bool {
        self.held.iter().any(|held| held.unit == *unit && held.cause.is(cause))
    }

    /// Takes down an XID; says whether that is new.
    pub fn fault(&mut self, unit: &Unit, xid: u64, now: Timestamp) -> Option<Held> {
        let cause = Cause::Xid { xid, silent: false };
        if weigh(xid) != Weight::Fatal || self.has(unit, &cause) {
            return None;
        }
        let held = Held { unit: unit.clone(), cause, since: now };
        self.held.push(held.clone());
        Some(held)
    }

    /// Clears by hand what a look alone does not: XIDs, and processes, which are pardoned as long as
    /// they are to be seen. A card that does not answer stays: that it is well nobody can say.
    pub fn pardon(&mut self) -> Vec<Held> {
        let by_hand = |held: &Held| !matches!(held.cause, Cause::Card { .. });
        let (cleared, stays) = std::mem::take(&mut self.held).into_iter().partition(by_hand);
        self.held = stays;
        for held in &cleared {
            if let Cause::Process { pid, .. } = held.cause {
                self.pardoned.push(Pardoned { unit: held.unit.clone(), pid });
            }
        }
        cleared
    }
}

/// What becomes of the quarantine `before` after a look at the cards. `driver` names the loading of
/// the driver, empty where that cannot be told.
pub fn turn(
    before: Quarantine,
    looks: &[Look],
    boot_id: &BootId,
    driver: &str,
    now: Timestamp,
) -> Turn {
    let reloaded = !driver.is_empty() && !before.driver.is_empty() && before.driver != driver;
    let rebooted = before.boot_id != *boot_id;
    let mut turn =
        Turn { now: Quarantine::empty(boot_id.clone()), began: Vec::new(), over: Vec::new() };
    turn.now.driver = if driver.is_empty() { before.driver.clone() } else { driver.to_owned() };
    for mut held in before.held {
        let look = looks.iter().find(|look| look.unit == held.unit);
        match after(&mut held.cause, look, rebooted, reloaded) {
            None => turn.now.held.push(held),
            Some(why) => turn.over.push((held, why)),
        }
    }
    let shown = |unit: &Unit, pid: u32| {
        let look = looks.iter().find(|look| look.unit == *unit);
        look.and_then(|look| look.leftovers.as_ref()).is_none_or(|l| l.iter().any(|l| l.pid == pid))
    };
    if !rebooted {
        turn.now.pardoned = before.pardoned;
        turn.now.pardoned.retain(|p| shown(&p.unit, p.pid));
    }
    for look in looks {
        let card = look.bad.clone().map(|why| Cause::Card { why });
        let processes =
            look.leftovers.iter().flatten().filter(|l| {
                !turn.now.pardoned.iter().any(|p| p.unit == look.unit && p.pid == l.pid)
            });
        let processes = processes.map(|l| {
            let (pid, name, of) = (l.pid, l.name.clone(), l.of.clone());
            Cause::Process { pid, name, of }
        });
        let causes: Vec<Cause> = card.into_iter().chain(processes).collect();
        for cause in causes {
            if !turn.now.has(&look.unit, &cause) {
                let held = Held { unit: look.unit.clone(), cause, since: now };
                turn.now.held.push(held.clone());
                turn.began.push(held);
            }
        }
    }
    turn
}

/// Whether a trouble is over, and why; else it is brought up to what was seen.
fn after(
    cause: &mut Cause,
    look: Option<&Look>,
    rebooted: bool,
    reloaded: bool,
) -> Option<&'static str> {
    match cause {
        Cause::Process { .. } | Cause::Xid { .. } if rebooted => Some("the node has booted anew"),
        Cause::Process { pid, .. } => {
            let shown = look?.leftovers.as_ref()?;
            (!shown.iter().any(|l| l.pid == *pid)).then_some("the process is gone")
        }
        Cause::Xid { .. } if reloaded => Some("the driver was loaded anew"),
        Cause::Xid { silent, .. } => {
            let bad = look?.bad.is_some();
            let reset = *silent && !bad;
            *silent |= bad;
            reset.then_some("it was reset: it answers again")
        }
        Cause::Card { why } => match &look?.bad {
            None => Some("it answers again"),
            Some(now) => {
                why.clone_from(now);
                None
            }
        },
    }
}

#[cfg(test)]
#[path = "quarantine_tests.rs"]
mod tests;
