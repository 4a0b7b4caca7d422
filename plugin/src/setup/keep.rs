//! What systemd is told before it reads its units anew. Pure.

use super::observed::{Observed, Seen};
use super::plan::{Plan, Step};
use crate::engine::api::Failure;

/// A container whose GPUs systemd is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// Its name.
    pub(super) name: String,
    /// systemd's name of its cgroup.
    pub(super) scope: String,
    /// The GPUs' minors.
    pub(super) minors: Vec<u32>,
}

/// systemd reads its units anew, and takes nothing away by it. runc up to 1.1 tells it of a device only
/// where the link was there when the container was started: so it is told now. The kernel lets a container
/// at what both systemd's program and runc's let through, so that this opens nothing on cgroup v2; on v1
/// it would outlast the lease. Where rules open everything, systemd keeps no list.
pub(super) fn reload(seen: &Observed, plan: &mut Plan) {
    let lists = seen
        .engine
        .as_ref()
        .is_some_and(|e| e.cgroup_driver == "systemd" && e.cgroup_version == "2");
    let kept = |seen: &Seen| {
        let access = &seen.access;
        if access.minors.is_empty() || access.all || access.privileged {
            return None;
        }
        let minors = access.minors.iter().copied().collect();
        Some(Kept { name: seen.name.clone(), scope: seen.scope.clone()?, minors })
    };
    let all: Vec<Kept> = seen.containers.iter().filter(|_| lists).filter_map(kept).collect();
    if !all.is_empty() {
        plan.steps.push(Step::Keep(all));
    }
    plan.steps.push(Step::DaemonReload);
}

/// What a package does once its units have changed: links first, then as every reload of ours.
///
/// # Errors
/// Where nobody says what runs.
pub(super) fn units(seen: &Observed) -> Result<Plan, Failure> {
    if seen.engine.is_none() {
        return Err(Failure::new("the Engine does not say which containers run and hold GPUs").hint(
            "once it answers: docker gpuctl setup --reload-units; systemd goes by its old units until then",
        ));
    }
    let mut plan = Plan::default();
    if !seen.systemd {
        return Ok(plan);
    }
    if !seen.unlinked.is_empty() {
        plan.steps.push(Step::CharLinks(seen.unlinked.clone()));
    }
    reload(seen, &mut plan);
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use gpuctl_ledger::config::Config;

    use super::super::observed::Level;
    use super::super::plan::{plan, tests::host};
    use super::super::testing::seen as container;
    use super::*;

    fn kept(seen: &Observed) -> Vec<Kept> {
        let plan = plan(seen, &Config::default(), Level::Strict).unwrap();
        let at = plan.steps.iter().position(|s| *s == Step::DaemonReload).unwrap();
        let before = &plan.steps[..at];
        assert!(!plan.steps[at..].iter().any(|s| matches!(s, Step::Keep(_))));
        let kept = before.iter().filter_map(|s| match s {
            Step::Keep(kept) => Some(kept.clone()),
            _ => None,
        });
        kept.flatten().collect()
    }

    #[test]
    fn a_package_has_links_and_gpus_kept_before_units_are_read() {
        let mut seen = host();
        seen.engine.as_mut().unwrap().cgroup_version = "2".into();
        seen.containers = vec![container("web", &[1])];
        seen.unlinked = vec!["nvidia0".into()];
        let steps = units(&seen).unwrap().steps;
        assert!(
            matches!(steps.as_slice(), [Step::CharLinks(_), Step::Keep(_), Step::DaemonReload]),
            "{steps:?}"
        );
        seen.engine = None;
        assert!(units(&seen).is_err());
    }

    #[test]
    fn gpus_that_a_rule_names_are_kept_where_systemd_has_a_list() {
        let mut seen = host();
        let engine = seen.engine.as_mut().unwrap();
        engine.cgroup_version = "2".into();
        let mut open = container("open", &[2]);
        open.access.all = true;
        let mut privileged = container("privileged", &[2]);
        privileged.access.privileged = true;
        let mut elsewhere = container("elsewhere", &[3]);
        elsewhere.scope = None;
        seen.containers =
            vec![container("web", &[1]), container("plain", &[]), open, privileged, elsewhere];
        let web = &seen.containers[0];
        let scope = web.scope.clone().unwrap();
        assert_eq!(kept(&seen), [Kept { name: "web".into(), scope, minors: vec![2] }]);
        for (driver, version) in [("cgroupfs", "2"), ("systemd", "1")] {
            let engine = seen.engine.as_mut().unwrap();
            (engine.cgroup_driver, engine.cgroup_version) = (driver.into(), version.into());
            assert_eq!(kept(&seen), []);
        }
    }
}
