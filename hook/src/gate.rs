//! The OCI prestart hook: reads the final spec, refuses if it opens any GPU that the ledger does not
//! show as leased to this container under this claim, and else activates the leases.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::PathBuf;

use gpuctl_ledger::config::Config;
use gpuctl_ledger::grant::{self, NodeView};
use gpuctl_ledger::ledger::{Leases, Ledger};
use gpuctl_ledger::model::{ContainerId, Inventory, Token, Unit};
use gpuctl_ledger::node::{files, notes, process};
use serde::Deserialize;

use crate::devices::emulate;
use crate::spec::Spec;

/// Longest state that a runtime hands to a hook, in bytes: annotations can be long.
const LONGEST_STATE: u64 = 16 << 20;
/// Longest config.json, in bytes.
pub const LONGEST_SPEC: u64 = 16 << 20;

/// What a runtime tells a hook on its standard input. There are no labels in it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct State {
    /// The container's id.
    pub id: String,
    /// Pid of the container's init; 0 or absent after its end.
    #[serde(default)]
    pub pid: i32,
    /// The bundle's folder.
    #[serde(default)]
    pub bundle: PathBuf,
}

impl State {
    /// Reads a state.
    ///
    /// # Errors
    /// One line for people.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|_| "the hook's state cannot be understood".into())
    }

    /// Reads the state from standard input.
    ///
    /// # Errors
    /// One line for people.
    pub fn from_stdin() -> Result<Self, String> {
        let mut bytes = Vec::new();
        std::io::stdin()
            .take(LONGEST_STATE)
            .read_to_end(&mut bytes)
            .map_err(|_| "the hook's state cannot be read")?;
        Self::parse(&bytes)
    }
}

/// What the gate was told by the wrapper, in its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GateArgs {
    /// The claim's token; absent when the gate stands by itself (a hooks.d file).
    pub token: Option<Token>,
    /// Whether GPUs that are not leased stay reachable: privileged, and the policy lets it be.
    pub keep_rest: bool,
}

/// The GPUs that a final spec opens, by minor; `None` where it opens all that there are.
pub fn opened(spec: &Spec) -> Option<BTreeSet<u32>> {
    let Ok(verdict) = emulate(spec.rules()) else { return None };
    if verdict.opens_gpus_unnamed() {
        return None;
    }
    let named = spec.rules().into_iter().filter(|rule| rule.allow).filter_map(|r| r.gpu_minor());
    // A node without a rule cannot be opened, but it is what NVIDIA's runtime leaves for its own
    // hook to allow: it counts.
    Some(named.chain(spec.nodes().iter().filter_map(|node| node.gpu_minor())).collect())
}

/// Whether a final spec opens only what is leased: pure.
///
/// # Errors
/// One line for people: which GPU is not.
pub fn check(
    opened: Option<&BTreeSet<u32>>,
    leased: &[Unit],
    inventory: Option<&Inventory>,
    keep_rest: bool,
) -> Result<(), String> {
    if keep_rest {
        return Ok(());
    }
    let Some(opened) = opened else {
        return Err("its final spec opens every GPU of the node".into());
    };
    for minor in opened {
        let gpu = inventory.and_then(|inventory| inventory.by_minor(*minor));
        if !gpu.is_some_and(|gpu| leased.contains(&gpu.unit)) {
            return Err(format!(
                "its final spec opens /dev/nvidia{minor}, on which it has no lease"
            ));
        }
    }
    Ok(())
}

fn leased(leases: &Leases, id: &ContainerId, token: Option<&Token>) -> Vec<Unit> {
    leases
        .values()
        .map(|at| &at.record)
        .filter(|l| l.holder.container == *id && token.is_none_or(|token| l.token == *token))
        .map(|l| l.unit.clone())
        .collect()
}

/// Lets the container through, with its leases activated, or not.
///
/// # Errors
/// One line for people; the runtime then kills the container before its program has run.
pub fn gate(config: &Config, state: &State, args: &GateArgs) -> Result<(), String> {
    let bytes = files::read_bounded(&state.bundle.join("config.json"), LONGEST_SPEC)
        .map_err(|_| "the bundle's config.json cannot be read")?;
    let spec = Spec::parse(&bytes).map_err(|e| e.to_string())?;
    let opened = opened(&spec);
    let nothing = opened.as_ref().is_some_and(BTreeSet::is_empty);
    if args.token.is_none() && nothing {
        return Ok(());
    }
    let id = ContainerId::new(state.id.clone()).map_err(|e| e.to_string())?;
    let view = NodeView::new(config).map_err(|e| e.to_string())?;
    let ledger = Ledger::open(config).map_err(|e| e.to_string())?;
    let leases = ledger.leases().map_err(|e| e.to_string())?;
    let mine = leased(&leases, &id, args.token.as_ref());
    let inventory = view.inventory().ok();
    check(opened.as_ref(), &mine, inventory.as_ref(), args.keep_rest)?;
    let Some(token) = &args.token else { return Ok(()) };
    if mine.is_empty() {
        return Err("its claim is no longer in the ledger".into());
    }
    let init = process::find(state.pid)
        .map_err(|_| "the container's process cannot be looked at")?
        .ok_or("the container's process is gone")?;
    let cgroup = process::cgroup_of(state.pid).ok();
    // The note first: should the ledger be lost, the node still knows who runs.
    if let Ok(Some(mut grant)) = notes::read_grant(&config.paths, &id)
        && grant.token == *token
    {
        grant.active = true;
        grant.evidence.init = Some(init);
        grant.evidence.cgroup.clone_from(&cgroup);
        notes::write_grant(&config.paths, &grant)
            .map_err(|_| "the note of the grant cannot be written")?;
    }
    let active = grant::activate(&ledger, &id, token, init, cgroup).map_err(|e| e.to_string())?;
    if mine.iter().any(|unit| !active.contains(unit)) {
        return Err("its claim was taken away while it started".into());
    }
    Ok(())
}
