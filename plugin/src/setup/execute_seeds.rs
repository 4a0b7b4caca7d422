//! Writes down who has which GPUs already: the leases that are missing.

use std::collections::BTreeMap;
use std::path::Path;

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::grant::{LOCK, guard_overlaps};
use gpuctl_ledger::ledger::{Batch, Sight};
use gpuctl_ledger::model::{
    ContainerId, DockerName, Evidence, Holder, Inventory, Lease, LeaseState, Process, SCHEMA,
    Timestamp, Token, Unit,
};
use gpuctl_ledger::node::{lock, notes, process};
use gpuctl_ledger::rules::liveness::Life;
use gpuctl_ledger::store::Outcome;
use gpuctl_ledger::view::NodeView;

use super::execute::{Doing, failed};
use super::seed::Seed;
use crate::engine::Context;
use crate::engine::api::Failure;

/// How often a container's leases are tried while others change theirs.
const TRIES: u32 = 8;

impl Doing<'_> {
    /// Writes the leases that are missing, under the lock of grants: nobody claims between look and
    /// commit.
    pub(super) fn seeds(&self, seeds: &[Seed]) -> Result<(), Failure> {
        let ctx = self.context()?;
        let limit = ctx.config.ledger.timeout();
        let _locked = lock::take(&ctx.config.paths.grants(), LOCK, limit)
            .map_err(failed("locked", &ctx.config.paths.grants()))?
            .ok_or_else(|| Failure::new("GPUs are being granted just now").hint("try again"))?;
        let view = ctx.view();
        // What cannot be compared is neither claimed nor freed: setup stops, and a later one goes on.
        let inventory = view.inventory().map_err(|e| {
            Failure::new(format!("running containers cannot be given leases: {e}"))
                .hint("what came before is done; docker gpuctl setup goes on where this stopped")
        })?;
        let sowing = Sowing { ctx: &ctx, view: &view, inventory: &inventory };
        seeds.iter().try_for_each(|seed| sowing.one(seed))
    }
}

/// What all seeds need.
struct Sowing<'a> {
    ctx: &'a Context,
    view: &'a NodeView<'a>,
    inventory: &'a Inventory,
}

/// One container's leases as they would be written.
struct Planned {
    batch: Batch,
    units: Vec<Unit>,
    /// The dead whose leases go, and on what they stood.
    freed: Vec<(Holder, Vec<Unit>)>,
}

impl Sowing<'_> {
    fn one(&self, seed: &Seed) -> Result<(), Failure> {
        // One that has ended meanwhile holds nothing.
        let Ok(Some(init)) = process::find(seed.pid) else { return Ok(()) };
        let grant = self.grant(seed, init)?;
        let paths = &self.ctx.config.paths;
        // A container that holds some already has its note, which stays.
        let noted = notes::has_grant(paths, &seed.id);
        let forget = || if noted { Ok(()) } else { notes::remove_grant(paths, &seed.id) };
        for _ in 0..TRIES {
            let planned = self.plan(seed, &grant, &self.ctx.ledger.sight()?);
            if planned.units.is_empty() {
                return forget().map_err(failed("written", &paths.grants()));
            }
            if !noted {
                notes::write_grant(paths, &self.of_units(&grant, &planned.units))
                    .map_err(failed("written", &paths.grants()))?;
            }
            if let Outcome::Done(_) = self.ctx.ledger.commit(&planned.batch)? {
                self.tell(&grant.holder, &planned);
                return Ok(());
            }
        }
        forget().map_err(failed("written", &paths.grants()))?;
        Err(Failure::new("leases were changed by others again and again").hint("try again"))
    }

    /// What is noted of the container, without its units.
    fn grant(&self, seed: &Seed, init: Process) -> Result<notes::Grant, Failure> {
        let me = process::own().map_err(failed("read", Path::new("/proc/self")))?;
        let token =
            Token::random().map_err(|_| Failure::new("the kernel gives no random numbers"))?;
        let docker_name = DockerName::new(seed.name.as_str())
            .or_else(|_| DockerName::new(seed.id.short()))
            .map_err(|e| Failure::new(e.to_string()))?;
        let container = seed.id.clone();
        Ok(notes::Grant {
            holder: Holder { container, docker_name, name: None, owner: None },
            units: Vec::new(),
            minors: Vec::new(),
            token,
            since: started(&seed.started),
            evidence: Evidence {
                boot_id: self.ctx.boot_id.clone(),
                claimer: me,
                init: Some(init),
                cgroup: process::cgroup_of(seed.pid).ok(),
                ended: None,
            },
            active: true,
        })
    }

    fn of_units(&self, grant: &notes::Grant, units: &[Unit]) -> notes::Grant {
        let minor = |unit: &Unit| self.inventory.piece(unit).map(|piece| piece.gpu.minor);
        let minors = units.iter().filter_map(minor).collect();
        notes::Grant { units: units.to_vec(), minors, ..grant.clone() }
    }

    /// The leases on what nobody who lives has, under the condition that all is as it was seen.
    fn plan(&self, seed: &Seed, grant: &notes::Grant, sight: &Sight) -> Planned {
        let ledger = &self.ctx.ledger;
        let units: Vec<Unit> = seed
            .gpus
            .iter()
            .map(|(_, unit)| unit.clone())
            .filter(|unit| self.is_free(unit, sight))
            .collect();
        let mut batch = Batch::new();
        for unit in &units {
            let lease = Lease {
                schema: SCHEMA,
                unit: unit.clone(),
                holder: grant.holder.clone(),
                since: grant.since,
                token: grant.token.clone(),
                state: LeaseState::Active,
                evidence: grant.evidence.clone(),
            };
            let key = ledger.keys().lease(unit);
            let old = sight.leases.get(unit).map(|at| at.revision);
            batch.unchanged(key.clone(), old).put(key, &lease);
        }
        let seen = (self.inventory, &sight.leases);
        let overlapped = guard_overlaps(ledger, &seed.id, seen, &units, &mut batch);
        let freed = freed(&seed.id, sight, units.iter().chain(&overlapped));
        Planned { batch, units, freed }
    }

    /// Whether nobody who lives has any of it.
    fn is_free(&self, unit: &Unit, sight: &Sight) -> bool {
        let piece = self.inventory.piece(unit);
        let excludes = |other: &Unit| {
            let both = self.inventory.piece(other).zip(piece);
            other == unit || both.is_some_and(|(a, b)| a.overlaps(&b))
        };
        let now = Timestamp::now();
        let mut others = sight.leases.iter().filter(|(other, _)| excludes(other));
        others.all(|(_, at)| self.view.judge(&at.record, &sight.changing, now) == Life::Gone)
    }

    fn tell(&self, holder: &Holder, planned: &Planned) {
        let config = &self.ctx.config;
        for (dead, units) in &planned.freed {
            let why = format!("its process is gone; setup found it, for {}", holder.shown());
            Entry::of(Decision::Released, dead).gpus(units).why(why).write(config);
        }
        let entry = Entry::of(Decision::Granted, holder).gpus(&planned.units);
        entry.why("it had them when setup ran").write(config);
    }
}

/// The leases of others on these units, by holder.
fn freed<'a>(
    container: &ContainerId,
    sight: &Sight,
    units: impl Iterator<Item = &'a Unit>,
) -> Vec<(Holder, Vec<Unit>)> {
    let mut by_holder: BTreeMap<&ContainerId, (Holder, Vec<Unit>)> = BTreeMap::new();
    for unit in units {
        let Some(old) = sight.leases.get(unit).map(|at| &at.record.holder) else { continue };
        if old.container != *container {
            let of = by_holder.entry(&old.container).or_insert_with(|| (old.clone(), Vec::new()));
            of.1.push(unit.clone());
        }
    }
    by_holder.into_values().collect()
}

/// When the container was started, by Docker's word; now where that says nothing.
fn started(said: &str) -> Timestamp {
    let at = said.parse::<jiff::Timestamp>().ok();
    at.and_then(|at| serde_json::from_value(at.to_string().into()).ok())
        .unwrap_or_else(Timestamp::now)
}
