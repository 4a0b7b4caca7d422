//! May this container start, and with what? Pure: given what the container asks for, what the
//! ledger's binding of it says and the policy, it says what the wrapper is to do.

use gpuctl_ledger::config::{AllPolicy, BarePolicy, Exempt, Policy, PrivilegedPolicy};
use gpuctl_ledger::model::{Binding, ContainerName, DockerName, GpuRequest, Unit};
use gpuctl_ledger::rules::words::Refusal;

use crate::request::{AskError, Asked};

/// Whether the container is ours, and bound to what.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound<'a> {
    /// It carries another runtime's name: `docker run` made it.
    NotManaged,
    /// It carries our runtime's name, and neither ledger nor node know it.
    Unknown,
    /// Its binding.
    To(&'a Binding),
}

/// Who the container is, for the exempt list.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Who<'a> {
    /// Its name in Docker.
    pub docker_name: &'a str,
    /// Its image, as it was named.
    pub image: &'a str,
    /// Its image's id.
    pub image_id: &'a str,
}

/// What the wrapper is to do.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub enum Admit {
    /// Nothing: the real runtime gets the spec as it is.
    Pass,
    /// As [`Admit::Pass`], because root's exempt list says so: written to the audit.
    Exempt,
    /// As [`Admit::Pass`], because the policy leaves privileged containers every GPU: written to the audit.
    Open,
    /// No GPU: every one is taken out of the spec, the rest stays. No ledger is needed.
    Without,
    /// These are claimed; every other one is taken out.
    Claim {
        /// What.
        request: GpuRequest,
        /// Taken first.
        prefer: Vec<Unit>,
        /// What `all` means.
        all: AllPolicy,
        /// Whether the rest stays reachable: privileged, and the policy lets it be.
        keep_rest: bool,
    },
    /// It may not start.
    Refuse(Refusal),
}

fn is_exempt(list: &[Exempt], who: Who<'_>) -> bool {
    list.iter().any(|exempt| {
        exempt.image.as_deref().is_none_or(|image| image == who.image || image == who.image_id)
            && exempt.name.as_deref().is_none_or(|name| name == who.docker_name)
    })
}

/// May this container start, and with what? `current` is the current version's name in Docker of
/// the managed container that a retired binding belongs to, where it is known.
pub fn admit(
    bound: Bound<'_>,
    asked: &Result<Asked, AskError>,
    who: Who<'_>,
    policy: &Policy,
) -> Admit {
    match bound {
        Bound::To(binding) if binding.retired => {
            return Admit::Refuse(retired(&binding.name, who));
        }
        Bound::To(binding) if binding.unfinished => {
            return Admit::Refuse(unfinished(&binding.name, who));
        }
        Bound::To(binding) if binding.gpus.is_none() => return Admit::Without,
        Bound::To(binding) => {
            return Admit::Claim {
                request: binding.gpus.clone(),
                prefer: binding.last.clone(),
                all: policy.all,
                keep_rest: false,
            };
        }
        Bound::Unknown => {
            return Admit::Refuse(Refusal::plain(
                format!(
                    "container {} is marked as managed, and the ledger does not know it",
                    who.docker_name
                ),
                match DockerName::split(who.docker_name) {
                    Some((name, _)) => format!(
                        "docker gpuctl doctor tells more; docker gpuctl run --name {name} ... makes a new one"
                    ),
                    None => {
                        "docker gpuctl doctor tells more; docker gpuctl run makes a new one".into()
                    }
                },
            ));
        }
        Bound::NotManaged => {}
    }
    if is_exempt(&policy.exempt, who) {
        return Admit::Exempt;
    }
    let asked = match asked {
        Ok(asked) if asked.is_nothing() => return Admit::Pass,
        Ok(asked) => asked,
        Err(why) => {
            return Admit::Refuse(Refusal::plain(
                why.to_string(),
                "docker gpuctl gpus shows all of them",
            ));
        }
    };
    let request = asked.request.clone();
    let keep_rest = asked.is_privileged() && policy.privileged == PrivilegedPolicy::Allow;
    if request.is_none() {
        return if keep_rest { Admit::Open } else { Admit::Without };
    }
    if policy.bare == BarePolicy::Refuse {
        return Admit::Refuse(Refusal::plain(
            "GPUs are given here through docker gpuctl only",
            format!("docker gpuctl run --gpus {request} ..."),
        ));
    }
    Admit::Claim { request, prefer: Vec::new(), all: policy.all, keep_rest }
}

fn retired(name: &ContainerName, who: Who<'_>) -> Refusal {
    Refusal::plain(
        format!("{} is an older version of {name} and may not be started by hand", who.docker_name),
        format!(
            "docker gpuctl start {name} starts the current one; docker gpuctl history {name} shows all"
        ),
    )
}

fn unfinished(name: &ContainerName, who: Who<'_>) -> Refusal {
    Refusal::plain(
        format!("{} is being made and its files are not all there", who.docker_name),
        format!(
            "docker gpuctl ps -a shows how {name} is; docker gpuctl doctor --fix ends what was broken off"
        ),
    )
}

#[cfg(test)]
mod tests {
    use gpuctl_ledger::model::{ContainerId, SCHEMA, Token, Version};

    use super::*;
    use crate::request::{Found, Route};

    fn binding(gpus: GpuRequest, retired: bool) -> Binding {
        Binding {
            schema: SCHEMA,
            container: ContainerId::new("c1").unwrap(),
            name: ContainerName::new("train").unwrap(),
            version: Version(0),
            gpus,
            last: Vec::new(),
            owner: None,
            token: Token::new("t").unwrap(),
            retired,
            unfinished: false,
            upper_dir: None,
        }
    }

    fn asked(request: GpuRequest, routes: &[Route], wildcard: bool) -> Result<Asked, AskError> {
        let found =
            routes.iter().map(|route| Found { route: *route, request: request.clone() }).collect();
        Ok(Asked { request, found, wildcard, ..Asked::default() })
    }

    const WHO: Who<'_> = Who { docker_name: "train-0", image: "busybox", image_id: "sha256:1" };

    #[test]
    fn a_managed_container_gets_what_its_binding_says_whatever_its_spec_asks_for() {
        let all = asked(GpuRequest::All, &[Route::DeviceRequest], true);
        let two = binding(GpuRequest::Count(2), false);
        assert!(matches!(
            admit(Bound::To(&two), &all, WHO, &Policy::default()),
            Admit::Claim { request: GpuRequest::Count(2), keep_rest: false, .. }
        ));
        let none = binding(GpuRequest::None, false);
        assert_eq!(admit(Bound::To(&none), &all, WHO, &Policy::default()), Admit::Without);
        let old = binding(GpuRequest::None, true);
        assert!(matches!(admit(Bound::To(&old), &all, WHO, &Policy::default()), Admit::Refuse(_)));
        assert!(matches!(admit(Bound::Unknown, &all, WHO, &Policy::default()), Admit::Refuse(_)));
        let half = Binding { unfinished: true, ..binding(GpuRequest::None, false) };
        assert!(matches!(admit(Bound::To(&half), &all, WHO, &Policy::default()), Admit::Refuse(_)));
    }

    #[test]
    fn what_asks_for_nothing_passes_and_privileged_is_stripped_unless_allowed() {
        let nothing = asked(GpuRequest::None, &[], false);
        assert_eq!(admit(Bound::NotManaged, &nothing, WHO, &Policy::default()), Admit::Pass);
        let privileged = asked(GpuRequest::None, &[Route::Privileged], true);
        assert_eq!(admit(Bound::NotManaged, &privileged, WHO, &Policy::default()), Admit::Without);
        let allow = Policy { privileged: PrivilegedPolicy::Allow, ..Policy::default() };
        assert_eq!(admit(Bound::NotManaged, &privileged, WHO, &allow), Admit::Open);
        // Allowing privileged containers does not open a wildcard rule of others.
        let rule = asked(GpuRequest::None, &[Route::CgroupRule { minor: None }], true);
        assert_eq!(admit(Bound::NotManaged, &rule, WHO, &allow), Admit::Without);
    }

    #[test]
    fn an_exempt_entry_with_image_and_name_needs_both() {
        let one = asked(GpuRequest::Count(1), &[Route::DeviceRequest], false);
        let policy = Policy {
            exempt: vec![Exempt { image: Some("dcgm".into()), name: Some("dcgm-exporter".into()) }],
            ..Policy::default()
        };
        let right = Who { docker_name: "dcgm-exporter", image: "dcgm", ..WHO };
        let wrong = Who { docker_name: "other", image: "dcgm", ..WHO };
        assert_eq!(admit(Bound::NotManaged, &one, right, &policy), Admit::Exempt);
        assert!(matches!(admit(Bound::NotManaged, &one, wrong, &policy), Admit::Claim { .. }));
        let by_id = Policy {
            exempt: vec![Exempt { image: Some("sha256:1".into()), name: None }],
            ..policy
        };
        assert_eq!(admit(Bound::NotManaged, &one, WHO, &by_id), Admit::Exempt);
        let renamed = Who { image_id: "sha256:2", ..WHO };
        assert!(matches!(admit(Bound::NotManaged, &one, renamed, &by_id), Admit::Claim { .. }));
    }

    #[test]
    fn a_bare_request_is_refused_where_the_policy_says_so() {
        let one = asked(GpuRequest::Count(1), &[Route::DeviceRequest], false);
        let policy = Policy { bare: BarePolicy::Refuse, ..Policy::default() };
        assert!(matches!(admit(Bound::NotManaged, &one, WHO, &policy), Admit::Refuse(_)));
    }
}
