//! What a container is given: its GPUs are claimed and put into its spec, all others taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::config::{AllPolicy, Inject};
use gpuctl_ledger::grant::{self, Claim, GrantError, Granted};
use gpuctl_ledger::ledger::Ledger;
use gpuctl_ledger::model::{Piece, Unit};
use gpuctl_ledger::node::{links, notes, refused};
use gpuctl_ledger::rules::allocate::{Supply, Want, allocate};
use gpuctl_ledger::rules::retry::WaitsFor;

use super::{Making, OPEN};
use crate::request::{AskError, Asked};
use crate::turned_away::TurnedAway;
use crate::{fault, inject, strip, visible};

/// What was granted, with its GPUs.
fn pieces(granted: &Granted) -> Vec<Piece<'_>> {
    granted.units.iter().filter_map(|unit| granted.inventory.piece(unit)).collect()
}

impl Making<'_> {
    /// Lets an exempt container through. One that asks by `--gpus` has NVIDIA's legacy hook in its
    /// spec, or where NVIDIA's toolkit is not there our stub, which refuses: then what it asks for
    /// comes by CDI, whoever holds it.
    pub(super) fn exempt(&mut self, asked: &Result<Asked, AskError>) -> Result<(), String> {
        let Ok(asked) = asked else { return Ok(()) };
        let by_cdi = asked.legacy_hook && self.config.gpu.inject == Inject::Cdi;
        if !by_cdi {
            return Ok(());
        }
        let Some(inventory) = self.driver.inventory().cloned() else { return Ok(()) };
        let (nobody, nothing) = (BTreeMap::new(), BTreeMap::new());
        let supply = Supply { inventory: &inventory, leases: &nobody, busy: &nothing };
        let want =
            Want { request: &asked.request, container: None, prefer: &[], all: AllPolicy::Free };
        let units = allocate(&supply, &want)
            .map_err(|_| format!("{} asked for, which this node does not have", asked.request))?;
        let held: Vec<Piece<'_>> = units.iter().filter_map(|unit| inventory.piece(unit)).collect();
        self.inject_cdi(&held)?;
        self.write_spec()
    }

    fn inject_cdi(&mut self, held: &[Piece<'_>]) -> Result<(), String> {
        let gpu = &self.config.gpu;
        let cdi = inject::CdiSpecs::load(&gpu.cdi_dirs, &gpu.cdi_kind)
            .map_err(|e| e.to_string())?
            .with_dev(&gpu.dev);
        inject::inject_cdi(&mut self.spec, held, &cdi).map_err(|e| e.to_string())
    }

    /// Leaves of all GPUs and MIG devices only these.
    pub(super) fn strip(&mut self, minors: &[u32], caps: &[u32]) -> Result<(), String> {
        let keep = strip::Keep { minors, caps, caps_major: self.driver.caps_major() };
        strip::whitelist_but(&mut self.spec, keep).map(drop).map_err(|e| e.to_string())
    }

    /// Claims, and puts what was granted into the spec.
    pub(super) fn claim_and_inject(
        &mut self,
        ledger: &Ledger,
        claim: &Claim<'_>,
        keep_rest: bool,
        docker_name: &str,
    ) -> Result<(), TurnedAway> {
        // What the ledger has taken so far counts.
        let limit = self.config.ledger.timeout().saturating_sub(self.began.elapsed());
        let granted = grant::claim(ledger, self.view()?, claim, limit).map_err(|e| match e {
            GrantError::Refused(refusal) => TurnedAway::until(WaitsFor::Gpus, refusal.one_line()),
            GrantError::Impossible(refusal) => refusal.one_line().into(),
            GrantError::Ledger(e) => self.out_of_reach(&e),
            e @ (GrantError::Slow | GrantError::Contended) => {
                TurnedAway::until(WaitsFor::Ledger, e.to_string())
            }
            // After a boot there may be no list of GPUs yet.
            e @ GrantError::Node { .. } => TurnedAway::until(WaitsFor::Gpus, e.to_string()),
        })?;
        fault::here(self.config, "claimed");
        if let Some(binding) = &granted.binding {
            self.write_copy(binding);
        }
        match self.inject(&granted, claim, keep_rest) {
            Ok(()) => {
                fault::here(self.config, "injected");
                self.tell_granted(&granted, docker_name);
                if keep_rest {
                    self.audit(Decision::Exempted, docker_name, &[], OPEN);
                }
                self.hint(docker_name, &pieces(&granted));
                Ok(())
            }
            Err(text) => {
                // Nothing runs yet and nothing will: the claim ends here, unless it is a change's own,
                // whose undoing needs what was held before.
                if !granted.changing {
                    let _ = ledger.release(&self.id, Some(claim.token), None);
                }
                let _ = notes::remove_grant(&self.config.paths, &self.id);
                Err(TurnedAway { text, until: None, units: granted.units, expected: false })
            }
        }
    }

    /// Writes down what it got; that it was refused before is of no account any more.
    fn tell_granted(&self, granted: &Granted, docker_name: &str) {
        let _ = refused::forget(&self.config.paths, &self.id);
        let had: BTreeSet<&Unit> = granted.before.iter().collect();
        let other = !had.is_empty() && had != granted.units.iter().collect();
        let (decision, why) = if other {
            let had: Vec<&str> = granted.before.iter().map(Unit::as_str).collect();
            (Decision::Rebound, format!("started; before it had {}", had.join(",")))
        } else {
            (Decision::Granted, "started".to_owned())
        };
        let entry = Entry::new(decision, self.id.as_str(), docker_name);
        entry.user(self.owner.clone()).gpus(&granted.units).why(why).write(self.config);
    }

    fn inject(
        &mut self,
        granted: &Granted,
        claim: &Claim<'_>,
        keep_rest: bool,
    ) -> Result<(), String> {
        let held = pieces(granted);
        let minors: Vec<u32> = held.iter().map(|piece| piece.gpu.minor).collect();
        let caps: Vec<u32> = held.iter().filter_map(Piece::mig).flat_map(|mig| mig.caps).collect();
        if !caps.is_empty() && self.driver.caps_major().is_none() {
            return Err(format!(
                "{} knows no nvidia-caps, by which MIG devices are opened: nvidia-modprobe makes it known",
                self.config.gpu.majors.display()
            ));
        }
        links::make(&self.config.gpu.dev, |node| node.is_granted(&minors, &caps));
        let own = self.spec.env(visible::CUDA);
        if let Some(order) = visible::order(claim.request, own, &held) {
            self.spec.set_env(visible::CUDA, &order);
        }
        match self.config.gpu.inject {
            Inject::Cdi => self.inject_cdi(&held)?,
            Inject::Env => {
                let uuids: Vec<&str> = held.iter().map(|piece| piece.uuid().as_str()).collect();
                inject::inject_env(&mut self.spec, &uuids);
            }
        }
        if !keep_rest {
            self.strip(&minors, &caps)?;
        }
        let token = claim.token;
        let config = self.config_path.to_string_lossy().into_owned();
        let common = ["--config", &config, "--token", token.as_str()];
        let mut gate = vec!["gpuctl-hook", "gate"];
        gate.extend(common);
        if keep_rest {
            gate.push("--keep-rest");
        }
        let mut release = vec!["gpuctl-hook", "release"];
        release.extend(common);
        inject::add_hooks(&mut self.spec, &self.config.runtime.hook, &gate, &release);
        self.write_spec()
    }

    /// Tells whoever set CUDA_VISIBLE_DEVICES to GPUs that the container did not get: in the audit, and on
    /// the standard error of the container, which its log shows. Its programs would find no GPU and not
    /// say why.
    pub(super) fn hint(&self, name: &str, held: &[Piece<'_>]) {
        let Some(hint) = visible::hint(self.spec.env(visible::CUDA), held) else { return };
        self.audit(Decision::Hint, name, &[], &hint);
        // Nobody may be listening there.
        let _ = writeln!(std::io::stderr(), "gpuctl: hint: {hint}");
    }
}
