//! The OCI prestart hook: reads the final spec, refuses if it opens any GPU that the ledger does not
//! show as leased to this container under this claim, and else activates the leases.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::PathBuf;

use gpuctl_ledger::audit::{self, Decision};
use gpuctl_ledger::config::Config;
use gpuctl_ledger::grant;
use gpuctl_ledger::ledger::{Leases, Ledger, LedgerError};
use gpuctl_ledger::model::{ContainerId, GpuRef, GpuRequest, Inventory, Token, Unit};
use gpuctl_ledger::node::docker::DockerFiles;
use gpuctl_ledger::node::{files, notes, process};
use gpuctl_ledger::rules::retry::WaitsFor;
use gpuctl_ledger::view::NodeView;
use serde::Deserialize;

use crate::devices::emulate;
use crate::driver;
use crate::fault;
use crate::request;
use crate::spec::Spec;
use crate::turned_away::{self, TurnedAway};

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

/// The nvidia-caps nodes that a final spec opens, by minor; `None` where it opens them all.
pub fn opened_caps(spec: &Spec, caps_major: Option<u32>) -> Option<BTreeSet<u32>> {
    let Some(major) = caps_major else { return Some(BTreeSet::new()) };
    let verdict = emulate(spec.rules()).ok().filter(|verdict| !verdict.allow_all)?;
    let nodes = spec.nodes();
    let mut minors: BTreeSet<u32> =
        nodes.iter().filter_map(|node| node.caps_minor(caps_major)).collect();
    for (meta, access) in &verdict.exceptions {
        let covers = !meta.block && meta.major.is_none_or(|m| m == major);
        if covers && access.opens() {
            minors.insert(meta.minor?);
        }
    }
    Some(minors)
}

/// Whether the nvidia-caps nodes that a final spec opens are those of MIG devices leased: pure.
///
/// # Errors
/// One line for people: which is not.
pub fn check_caps(
    opened: Option<&BTreeSet<u32>>,
    leased: &[Unit],
    inventory: Option<&Inventory>,
    keep_rest: bool,
) -> Result<(), String> {
    if keep_rest {
        return Ok(());
    }
    let Some(opened) = opened else {
        return Err("its final spec opens every MIG device of the node".into());
    };
    let held: BTreeSet<u32> = inventory
        .into_iter()
        .flat_map(|inventory| leased.iter().filter_map(|unit| inventory.piece(unit)?.mig()))
        .flat_map(|mig| mig.caps)
        .collect();
    match opened.difference(&held).next() {
        Some(minor) => Err(format!(
            "its final spec opens /dev/nvidia-caps/nvidia-cap{minor}, which is of no MIG device that it has \
             a lease on"
        )),
        None => Ok(()),
    }
}

/// Whether a final spec opens only what is leased: pure. A GPU's node is open to whoever has a part of
/// it; what parts are open nvidia-caps tells, see [`check_caps`].
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
        let has = |inventory: &Inventory| {
            let mut held = leased.iter().filter_map(|unit| inventory.piece(unit));
            held.any(|piece| piece.gpu.minor == *minor)
        };
        if !inventory.is_some_and(has) {
            return Err(format!(
                "its final spec opens /dev/nvidia{minor}, on which it has no lease"
            ));
        }
    }
    Ok(())
}

/// Whether what NVIDIA's legacy hook will add is leased: pure. It is told by UUID, by us.
///
/// # Errors
/// One line for people: what is not.
pub fn check_env(asked: &GpuRequest, leased: &[Unit]) -> Result<(), String> {
    let leased = |one: &GpuRef| match one {
        GpuRef::Uuid(uuid) => leased.iter().any(|u| u.card().eq_ignore_ascii_case(uuid)),
        _ => false,
    };
    match asked {
        GpuRequest::None => Ok(()),
        GpuRequest::Named(list) if list.iter().all(leased) => Ok(()),
        other => {
            Err(format!("NVIDIA's hook in its final spec would add GPUs ({other}) without a lease"))
        }
    }
}

fn leased(leases: &Leases, id: &ContainerId, token: Option<&Token>) -> Vec<Unit> {
    leases
        .values()
        .map(|at| &at.record)
        .filter(|l| l.holder.container == *id && token.is_none_or(|token| l.token == *token))
        .map(|l| l.unit.clone())
        .collect()
}

/// Lets the container through, with its leases activated, or not. A refusal is written down.
///
/// # Errors
/// One line for people; the runtime then kills the container before its program has run.
pub fn gate(config: &Config, state: &State, args: &GateArgs) -> Result<(), String> {
    let_through(config, state, args).map_err(|why| {
        let id = ContainerId::new(state.id.clone()).ok();
        let files = id.as_ref().and_then(|id| DockerFiles::read(&config.docker.root, id).ok());
        let name = files.as_ref().map_or("", |files| files.container.docker_name());
        audit::write(config, Decision::Refused, &state.id, name, &[], &why.text);
        match id {
            Some(id) => turned_away::line(config, &id, files.as_ref(), None, why),
            None => why.text,
        }
    })
}

fn let_through(config: &Config, state: &State, args: &GateArgs) -> Result<(), TurnedAway> {
    let out_of_reach = |e: LedgerError| TurnedAway::until(WaitsFor::Ledger, e.to_string());
    fault::here(config, "gate");
    let bytes = files::read_bounded(&state.bundle.join("config.json"), LONGEST_SPEC)
        .map_err(|_| "the bundle's config.json cannot be read")?;
    let spec = Spec::parse(&bytes).map_err(|e| e.to_string())?;
    let opened = opened(&spec);
    let by_env: Result<Vec<GpuRequest>, _> =
        request::swarm::each(&spec, &config.gpu.swarm_resource)
            .iter()
            .map(request::by_legacy_hook)
            .collect();
    let by_env = by_env.map_err(|e| e.to_string())?;
    let nothing =
        opened.as_ref().is_some_and(BTreeSet::is_empty) && by_env.iter().all(GpuRequest::is_none);
    if args.token.is_none() && nothing {
        return Ok(());
    }
    let id = ContainerId::new(state.id.clone()).map_err(|e| e.to_string())?;
    let view = NodeView::new(config).map_err(|e| e.to_string())?;
    let ledger = Ledger::open(config).map_err(out_of_reach)?.within(config.ledger.timeout());
    let leases = ledger.leases().map_err(out_of_reach)?;
    let mine = leased(&leases, &id, args.token.as_ref());
    let inventory = view.inventory().ok();
    check(opened.as_ref(), &mine, inventory.as_ref(), args.keep_rest)?;
    let caps = opened_caps(&spec, driver::caps_major(config));
    check_caps(caps.as_ref(), &mine, inventory.as_ref(), args.keep_rest)?;
    by_env.iter().try_for_each(|asked| check_env(asked, &mine))?;
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
    fault::here(config, "noted");
    let active =
        grant::activate(&ledger, leases, &id, token, init, cgroup).map_err(out_of_reach)?;
    if mine.iter().any(|unit| !active.contains(unit)) {
        return Err("its claim was taken away while it started".into());
    }
    fault::here(config, "activated");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(text: &str) -> Unit {
        Unit::new(text).unwrap()
    }

    fn spec(rules: &str, more: &str) -> Spec {
        let text = format!(r#"{{"linux":{{"resources":{{"devices":[{rules}]}}}}{more}}}"#);
        Spec::parse(text.as_bytes()).unwrap()
    }

    const ONE: &str = r#"{"allow":false,"access":"rwm"},
        {"allow":true,"type":"c","major":195,"minor":4,"access":"rw"},
        {"allow":true,"type":"c","major":195,"minor":255,"access":"rw"}"#;

    #[test]
    fn what_a_spec_opens_is_its_gpus_and_not_the_shared_nodes() {
        assert_eq!(opened(&spec(ONE, "")), Some(BTreeSet::from([4])));
        let all = r#"{"allow":true,"access":"rwm"}"#;
        assert_eq!(opened(&spec(all, "")), None);
        let wildcard = r#"{"allow":false},{"allow":true,"type":"c","major":195,"access":"rw"}"#;
        assert_eq!(opened(&spec(wildcard, "")), None);
    }

    #[test]
    fn a_gpu_without_a_lease_or_without_a_name_is_refused() {
        let inventory: Inventory = serde_json::from_str(
            r#"{"schema":1,"at":"2026-01-01T00:00:00Z","driver":"1","gpus":[
            {"index":0,"unit":"GPU-a","minor":4,"model":"m","pci":"0","memory":1}]}"#,
        )
        .unwrap();
        let one = BTreeSet::from([4]);
        assert!(check(Some(&one), &[unit("GPU-a")], Some(&inventory), false).is_ok());
        assert!(check(Some(&one), &[unit("GPU-b")], Some(&inventory), false).is_err());
        assert!(check(Some(&one), &[unit("GPU-a")], None, false).is_err());
        assert!(check(None, &[unit("GPU-a")], Some(&inventory), false).is_err());
        assert!(check(None, &[], Some(&inventory), true).is_ok());
    }

    #[test]
    fn of_a_gpu_cut_into_mig_devices_only_the_leased_one_is_open() {
        let inventory: Inventory = serde_json::from_str(
            r#"{"schema":1,"at":"2026-01-01T00:00:00Z","driver":"1","gpus":[
            {"index":0,"unit":"GPU-a","minor":4,"model":"m","pci":"0","memory":1,"mig":[
              {"index":0,"unit":"MIG-a","memory":1,"caps":[21,22]},
              {"index":1,"unit":"MIG-b","memory":1,"caps":[30,31]}]}]}"#,
        )
        .unwrap();
        let caps = |rules: &str| opened_caps(&spec(&format!("{ONE},{rules}"), ""), Some(236));
        let rule = |minor: u32| {
            format!(r#"{{"allow":true,"type":"c","major":236,"minor":{minor},"access":"rw"}}"#)
        };
        let two = caps(&format!("{},{}", rule(21), rule(22)));
        let check = |caps: &Option<BTreeSet<u32>>, unit_of: &str| {
            let leased = [unit(unit_of)];
            check(Some(&BTreeSet::from([4])), &leased, Some(&inventory), false)?;
            check_caps(caps.as_ref(), &leased, Some(&inventory), false)
        };
        assert_eq!(check(&two, "MIG-a"), Ok(()));
        assert!(check(&two, "MIG-b").unwrap_err().contains("nvidia-cap21"));
        assert!(check(&caps(&rule(31)), "MIG-a").unwrap_err().contains("nvidia-cap31"));
        // The GPU itself is no key to its parts, and another's part is none to the GPU's node.
        assert!(check(&two, "GPU-a").is_err());
        assert!(check(&two, "MIG-c").unwrap_err().contains("/dev/nvidia4"));
        let every = r#"{"allow":true,"type":"c","major":236,"access":"rw"}"#;
        assert_eq!(caps(every), None);
        assert!(check(&None, "MIG-a").is_err());
        assert_eq!(caps(r#"{"allow":true,"type":"c","minor":30,"access":"r"}"#), Some([30].into()));
        assert_eq!(caps(r#"{"allow":true,"type":"c","major":236,"access":"m"}"#), Some([].into()));
        let node = r#"{"path":"/dev/x","type":"c","major":236,"minor":30}"#;
        let with_node = format!(r#"{{"linux":{{"devices":[{node}]}}}}"#);
        let with_node = Spec::parse(with_node.as_bytes()).unwrap();
        assert_eq!(opened_caps(&with_node, Some(236)), Some([30].into()));
        assert_eq!(opened_caps(&with_node, None), Some([].into()), "no driver, no such devices");
        assert!(check_caps(None, &[], None, true).is_ok());
    }

    #[test]
    fn a_slot_is_a_lease_on_its_gpu() {
        let inventory: Inventory = serde_json::from_str(
            r#"{"schema":1,"at":"2026-01-01T00:00:00Z","driver":"1","gpus":[
            {"index":0,"unit":"GPU-a","minor":4,"model":"m","pci":"0","memory":1}]}"#,
        )
        .unwrap();
        let one = BTreeSet::from([4]);
        assert!(check(Some(&one), &[unit("GPU-a/2")], Some(&inventory), false).is_ok());
        assert!(check(Some(&one), &[unit("GPU-b/2")], Some(&inventory), false).is_err());
        let env = GpuRequest::Named(vec![GpuRef::Uuid("gpu-a".into())]);
        assert!(check_env(&env, &[unit("GPU-a/2")]).is_ok());
    }

    #[test]
    fn what_nvidias_hook_would_add_must_be_leased_by_uuid() {
        let hook = |value: &str| {
            let more = format!(
                r#","process":{{"env":["NVIDIA_VISIBLE_DEVICES={value}"]}},
                "hooks":{{"prestart":[{{"path":"/usr/bin/nvidia-container-runtime-hook"}}]}}"#
            );
            request::by_legacy_hook(&spec(ONE, &more)).unwrap()
        };
        let leased = [unit("GPU-a"), unit("GPU-b")];
        assert!(check_env(&hook("GPU-a"), &leased).is_ok());
        assert!(check_env(&hook("gpu-b,GPU-a"), &leased).is_ok());
        assert!(check_env(&hook("void"), &leased).is_ok());
        assert!(check_env(&hook("GPU-c"), &leased).is_err());
        assert!(check_env(&hook("all"), &leased).is_err());
        // An index may mean another GPU tomorrow: only UUIDs are taken for proof.
        assert!(check_env(&hook("0"), &leased).is_err());
    }
}
