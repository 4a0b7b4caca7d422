//! Which GPUs a container asks for, by every route, from its config.json and, where Docker is the
//! engine, its hostconfig.json. Pure: nothing is opened, nothing is looked up.
//!
//! hostconfig.json says what the user typed; config.json says what came of it. Where both are known
//! the first explains the second: of `--gpus 2` on Engine 29.2 the spec shows GPUs 0 and 1, which
//! dockerd picked by itself and nobody asked for.

mod answered;
mod ids;
pub(crate) mod mounted;
pub mod swarm;

use std::collections::BTreeSet;

use gpuctl_ledger::config::ImageEnvPolicy;
use gpuctl_ledger::model::{GpuRef, GpuRequest, Inventory};
use serde_json::Value;

use crate::devices::{Kind, Rule, emulate};
use crate::hostconfig::{DeviceRequest, HostConfig};
use crate::spec::{STAGES, Spec, hook_program, str_of};
use ids::merge;
pub(crate) use ids::shown;

/// The environment variable that NVIDIA's runtime obeys.
pub const VISIBLE: &str = "NVIDIA_VISIBLE_DEVICES";
/// Variables by which NVIDIA's runtime lets a container that may administer the system watch and cut the
/// node's MIG devices. No lease is of that.
pub const MIG_CONTROL: [&str; 2] = ["NVIDIA_MIG_CONFIG_DEVICES", "NVIDIA_MIG_MONITOR_DEVICES"];
/// Annotations whose name begins with this name CDI devices to NVIDIA's runtime.
pub const CDI_ANNOTATIONS: &str = "cdi.k8s.io/";
/// The programs that are NVIDIA's legacy prestart hook.
const LEGACY_HOOKS: [&str; 2] = ["nvidia-container-runtime-hook", "nvidia-container-toolkit"];
/// Capabilities that dockerd's nvidia driver claims to have.
const CAPABILITIES: [&str; 9] =
    ["gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display", "ngx"];

/// The kernel gives out majors from here on (CHRDEV_MAJOR_DYN_END).
const FIRST_DYNAMIC_MAJOR: u32 = 234;

/// What is known besides the container's own files.
#[derive(Debug, Clone, Copy)]
pub struct NodeFacts<'a> {
    /// Major number of nvidia-caps, from /proc/devices.
    pub caps_major: Option<u32>,
    /// The node's GPUs, to know MIG devices by their nvidia-caps nodes; without it MIG nodes are
    /// taken for their whole GPU.
    pub inventory: Option<&'a Inventory>,
    /// Whether NVIDIA's runtime is around us, so that the environment will be honoured.
    pub nvidia_runtime: bool,
    /// Whether `all` in the environment is the image's own word and nobody asked for it; then what is
    /// made of it.
    pub image_env: Option<ImageEnvPolicy>,
    /// The CDI kind of the GPUs: `nvidia.com/gpu`.
    pub cdi_kind: &'a str,
    /// The environment as Docker has it, before any runtime changed the spec; where Docker's files are
    /// known.
    pub docker_env: Option<&'a [String]>,
}

impl Default for NodeFacts<'_> {
    fn default() -> Self {
        Self {
            caps_major: None,
            inventory: None,
            nvidia_runtime: false,
            image_env: None,
            cdi_kind: "nvidia.com/gpu",
            docker_env: None,
        }
    }
}

/// A way of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `--gpus` or Compose's `devices:`.
    DeviceRequest,
    /// `--device nvidia.com/gpu=X`.
    CdiDevice,
    /// `--device /dev/nvidiaN`, perhaps under another path; or, where hostconfig.json is unknown, a
    /// node in the spec, whoever put it there.
    DeviceNode,
    /// A node that neither a flag nor a device request explains: NVIDIA's runtime put it there.
    AppliedNode,
    /// `--device-cgroup-rule`: the minor that it names, or `None` for a wildcard. A wildcard by
    /// itself asks for no GPU, it only opens them: see [`Asked::wildcard`].
    CgroupRule {
        /// N of /dev/nvidiaN.
        minor: Option<u32>,
    },
    /// The environment, and something that will honour it.
    Env,
    /// The same, but the image says `all` and the user nothing.
    ImageEnv,
    /// A mount that names GPUs, and something that will honour it.
    VolumeMount,
    /// An annotation `cdi.k8s.io/...`, where NVIDIA's runtime is around us.
    Annotation,
    /// `--privileged`. By itself it asks for no GPU, though every node is in the spec.
    Privileged,
}

/// One way of asking that a container uses, and what it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The way.
    pub route: Route,
    /// What is asked for by it; none for wildcards and `--privileged`.
    pub request: GpuRequest,
}

/// What a container asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// All of [`Self::found`] as one request.
    pub request: GpuRequest,
    /// Each way by itself.
    pub found: Vec<Found>,
    /// Whether GPUs that nothing names can be opened: an allow-all rule, or a wildcard over them.
    pub wildcard: bool,
    /// Minors of the GPU nodes in `linux.devices`, in order.
    pub nodes: Vec<u32>,
    /// Minors of the GPUs that a cgroup rule names and opens, in order.
    pub rules: Vec<u32>,
    /// Minors of the nvidia-caps nodes in `linux.devices`, in order.
    pub caps: Vec<u32>,
    /// Whether an nvidia-caps node can be opened: there is one, or a rule for them.
    pub opens_caps: bool,
    /// Minors of the GPU nodes that dockerd or NVIDIA's runtime has put there for a request.
    pub cdi_applied: Vec<u32>,
    /// Whether NVIDIA's legacy prestart hook is in the spec.
    pub legacy_hook: bool,
    /// Whether the environment names to NVIDIA's runtime what is not to be heeded and is to be taken out:
    /// GPUs though they were asked for otherwise, perhaps none (`--gpus 0`), or control of MIG devices.
    pub overruled: bool,
}

impl Asked {
    /// Whether the spec has nothing to do with GPUs: the real runtime can have it as it is.
    pub fn is_nothing(&self) -> bool {
        // With `--gpus 0` it is in the spec, and may be our stub, which refuses.
        self.opens_nothing() && !self.legacy_hook
    }

    /// Whether nothing in the spec opens a GPU or names one. NVIDIA's runtime, where it is around us,
    /// puts its legacy hook into every container: it has nothing to do then, and nobody misses it.
    pub fn opens_nothing(&self) -> bool {
        self.request.is_none()
            && !self.wildcard
            && self.nodes.is_empty()
            && self.rules.is_empty()
            && !self.opens_caps
            && !self.overruled
            // It is ignored only once it is taken out.
            && !self.is_image_env()
    }

    /// Whether the image's own environment asks.
    pub fn is_image_env(&self) -> bool {
        self.found.iter().any(|f| f.route == Route::ImageEnv)
    }

    /// Whether it is `--privileged`, or looks like it where hostconfig.json is unknown.
    pub fn is_privileged(&self) -> bool {
        self.found.iter().any(|f| f.route == Route::Privileged)
    }
}

/// Why a request cannot be understood. The container is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// A GPU's name, fit to be printed, that is none.
    #[error("GPU {0:?} is neither an index, a UUID, a PCI address nor index:mig")]
    BadId(String),
    /// A count, and names besides.
    #[error("{0} GPUs of any kind and {1} by name are asked for in one container: ask in one way")]
    Mixed(u32, String),
    /// A slot of a shared GPU, and something besides.
    #[error(
        "a slot of a shared GPU and other GPUs are asked for in one container: ask for one of them"
    )]
    Shared,
    /// More names than any node has GPUs.
    #[error("more than {0} GPUs are asked for by name in one container")]
    TooMany(usize),
}

/// Finds every way in which a container asks for GPUs.
///
/// Without `host` - another engine, or Docker's files out of reach - config.json alone decides: its
/// nodes, or with an allow-all rule only the GPUs that rules name, and the environment.
///
/// # Errors
/// [`AskError`].
pub fn detect(
    spec: &Spec,
    host: Option<&HostConfig>,
    facts: &NodeFacts<'_>,
) -> Result<Asked, AskError> {
    let nodes = spec.nodes();
    let rules = spec.rules();
    let verdict = emulate(rules.iter().copied());
    let allow_all = verdict.as_ref().map_or_else(
        |_| rules.iter().any(|r| r.allow && r.kind == Kind::All),
        |verdict| verdict.allow_all,
    );
    let in_order = |set: BTreeSet<u32>| set.into_iter().collect::<Vec<u32>>();
    let node_minors: BTreeSet<u32> = nodes.iter().filter_map(|n| n.gpu_minor()).collect();
    let rule_minors = named_by_rules(&rules);
    let mut asked = Asked {
        wildcard: verdict.as_ref().map_or_else(
            |_| rules.iter().any(|r| r.allow && r.is_gpu_wildcard()),
            |verdict| verdict.opens_gpus_unnamed(),
        ),
        nodes: in_order(node_minors.clone()),
        rules: in_order(rule_minors.clone()),
        caps: in_order(nodes.iter().filter_map(|n| n.caps_minor(facts.caps_major)).collect()),
        legacy_hook: has_legacy_hook(spec),
        ..Asked::default()
    };
    asked.opens_caps = !asked.caps.is_empty() || has_caps_rule(&rules, facts.caps_major);
    let privileged = host.map_or(allow_all, |h| h.privileged);
    let found = &mut asked.found;

    for request in host.map_or(&[][..], |h| &h.device_requests) {
        found.extend(device_request(request, facts)?);
    }
    let explicit: BTreeSet<u32> = match host {
        // A folder may be given, and is then laid out below the path in the container.
        Some(host) => {
            let given: BTreeSet<&str> = host
                .devices
                .iter()
                .map(|d| d.path_in_container.trim_end_matches('/'))
                .filter(|place| !place.is_empty())
                .collect();
            let gpus = nodes.iter().filter_map(|n| Some((n, n.gpu_minor()?)));
            gpus.filter(|(n, _)| is_at_one_of(&n.path, &given)).map(|(_, minor)| minor).collect()
        }
        None if privileged => rule_minors.clone(),
        None => node_minors.clone(),
    };
    add_nodes(found, Route::DeviceNode, &explicit, &asked.caps, facts);

    let rest: BTreeSet<u32> = node_minors.difference(&explicit).copied().collect();
    let by_request =
        found.iter().any(|f| matches!(f.route, Route::DeviceRequest | Route::CdiDevice));
    if facts.nvidia_runtime || asked.legacy_hook {
        let by_env = honoured_env(spec);
        if by_request {
            asked.overruled = !by_env.is_ok_and(|found| found.is_empty());
        } else {
            found.extend(by_env?.into_iter().map(|one| of_image(one, facts.image_env)));
        }
        asked.overruled |= MIG_CONTROL.iter().any(|name| spec.env(name).is_some());
    }
    let answered = if by_request { None } else { answered::word(spec, facts.docker_env) };
    if facts.nvidia_runtime {
        found.extend(annotated(spec, facts.cdi_kind)?);
    }
    if host.is_some() && !privileged {
        let explained = found.iter().any(|f| {
            let by_name = matches!(f.route, Route::DeviceNode | Route::VolumeMount);
            !by_name && !f.request.is_none()
        });
        match answered {
            // `all` is not the same as a list of every GPU: a policy says what it comes to.
            Some(GpuRequest::All) if !explained && !rest.is_empty() => {
                let all = Found { route: Route::Env, request: GpuRequest::All };
                found.push(of_image(all, facts.image_env));
            }
            _ if !explained => {
                add_nodes(found, Route::AppliedNode, &rest, &asked.caps, facts);
            }
            _ => {}
        }
        asked.cdi_applied = in_order(rest);
    }

    if privileged {
        // Every node is there, whoever put it there: only the word is left to tell.
        if host.is_some()
            && let Some(request) = answered
        {
            found.push(of_image(Found { route: Route::Env, request }, facts.image_env));
        }
        found.push(Found { route: Route::Privileged, request: GpuRequest::None });
    } else {
        // Rules without a node: the container makes the node itself, which Docker lets it do.
        for &minor in rule_minors.difference(&node_minors) {
            let request = GpuRequest::Named(vec![GpuRef::Minor(minor)]);
            found.push(Found { route: Route::CgroupRule { minor: Some(minor) }, request });
        }
        if asked.wildcard {
            let route = Route::CgroupRule { minor: None };
            found.push(Found { route, request: GpuRequest::None });
        }
    }
    asked.request = total(&asked.found)?;
    Ok(asked)
}

/// Everything that was found, as one request.
fn total<'a>(found: impl IntoIterator<Item = &'a Found>) -> Result<GpuRequest, AskError> {
    let sum =
        found.into_iter().try_fold(GpuRequest::None, |sum, f| merge(sum, f.request.clone()))?;
    ids::bounded(sum)
}

/// The GPU minors that rules open by name; what stands before a reset does not count.
fn named_by_rules(rules: &[Rule]) -> BTreeSet<u32> {
    let after = rules.iter().rposition(|r| r.kind == Kind::All).map_or(0, |i| i + 1);
    rules.iter().skip(after).filter(|r| r.allow).filter_map(Rule::gpu_minor).collect()
}

/// Whether a rule opens nodes of nvidia-caps, by their major.
fn has_caps_rule(rules: &[Rule], caps_major: Option<u32>) -> bool {
    let ours = |rule: &Rule| rule.allow && rule.kind == Kind::Char && rule.access.opens();
    caps_major.is_some() && rules.iter().any(|rule| ours(rule) && rule.major == caps_major)
}

/// Whether a spec names a character device of a major that the kernel gives out to whoever comes:
/// it may be nvidia-caps. Most name none.
pub fn names_dynamic_major(spec: &Spec) -> bool {
    let dynamic = |major: u32| major >= FIRST_DYNAMIC_MAJOR;
    spec.nodes().iter().any(|node| !node.other && dynamic(node.major))
        || spec
            .rules()
            .iter()
            .any(|rule| rule.allow && rule.kind == Kind::Char && rule.major.is_some_and(dynamic))
}

/// Whether a path is one of some others, or lies below one. Both lists are the user's and may be long.
fn is_at_one_of(path: &str, places: &BTreeSet<&str>) -> bool {
    places.contains(path)
        || path.match_indices('/').any(|(at, _)| path.get(..at).is_some_and(|p| places.contains(p)))
}

/// One of Docker's device requests; nothing where it is not for NVIDIA's GPUs.
fn device_request(
    request: &DeviceRequest,
    facts: &NodeFacts<'_>,
) -> Result<Option<Found>, AskError> {
    let ids = || request.device_ids.iter().map(String::as_str);
    if request.driver == "cdi" {
        let ours = |id: &&str| id.split_once('=').is_some_and(|(kind, _)| kind == facts.cdi_kind);
        let wanted = ids::list(ids().filter(ours))?;
        return Ok(
            (!wanted.is_none()).then_some(Found { route: Route::CdiDevice, request: wanted })
        );
    }
    let has = |list: &Vec<String>| list.iter().any(|c| CAPABILITIES.contains(&c.as_str()));
    let for_us = match request.driver.as_str() {
        "nvidia" => true,
        "" => request.capabilities.iter().flatten().any(has),
        _ => false,
    };
    if !for_us {
        return Ok(None);
    }
    let wanted = if !request.device_ids.is_empty() {
        ids::list(ids())?
    } else if request.count < 0 {
        GpuRequest::All
    } else {
        GpuRequest::count(u32::try_from(request.count).unwrap_or(u32::MAX))
    };
    Ok(Some(Found { route: Route::DeviceRequest, request: wanted }))
}

/// Adds the GPUs of nodes: a MIG device where both of its nvidia-caps nodes are there, else the GPU.
fn add_nodes(
    found: &mut Vec<Found>,
    route: Route,
    minors: &BTreeSet<u32>,
    caps: &[u32],
    facts: &NodeFacts<'_>,
) {
    let refs: Vec<GpuRef> = minors
        .iter()
        .flat_map(|&minor| {
            let gpu = facts.inventory.and_then(|i| i.by_minor(minor));
            let parts: Vec<GpuRef> = gpu
                .map_or(&[][..], |g| &g.mig)
                .iter()
                .filter(|mig| mig.caps.iter().all(|c| caps.contains(c)))
                .map(|mig| GpuRef::Uuid(mig.unit.as_str().to_owned()))
                .collect();
            if parts.is_empty() { vec![GpuRef::Minor(minor)] } else { parts }
        })
        .collect();
    if !refs.is_empty() {
        found.push(Found { route, request: GpuRequest::Named(refs) });
    }
}

/// What NVIDIA's runtime will read out of the container's own settings.
fn honoured_env(spec: &Spec) -> Result<Vec<Found>, AskError> {
    let volumes: Vec<String> = spec.mounts().filter_map(mounted::name).collect();
    // The legacy hook takes a comma in one for the end of it.
    let names = volumes.iter().flat_map(|names| names.split(','));
    let volumes = ids::list(names.map(mounted::device))?;
    let env = match spec.env(VISIBLE) {
        Some(value) => ids::visible_devices(value)?,
        None if is_old_image(spec) => GpuRequest::All,
        None => GpuRequest::None,
    };
    let route = Route::Env;
    let both = [(Route::VolumeMount, volumes), (route, env)];
    let asking = both.into_iter().filter(|(_, request)| !request.is_none());
    Ok(asking.map(|(route, request)| Found { route, request }).collect())
}

/// Images of CUDA before 9 say nothing and mean all. A variable that is empty counts as one that is not
/// there.
fn is_old_image(spec: &Spec) -> bool {
    let says = |name| spec.env(name).is_some_and(|value| !value.is_empty());
    says("CUDA_VERSION") && !says("NVIDIA_REQUIRE_CUDA")
}

/// What becomes of the environment's word where it is the image's own: pure.
fn of_image(found: Found, policy: Option<ImageEnvPolicy>) -> Found {
    match policy {
        Some(policy) if found.route == Route::Env && found.request == GpuRequest::All => {
            let request = match policy {
                ImageEnvPolicy::Ignore => GpuRequest::None,
                ImageEnvPolicy::Claim => GpuRequest::All,
            };
            Found { route: Route::ImageEnv, request }
        }
        _ => found,
    }
}

/// Whether the environment asks for all GPUs, by its word or by an old CUDA image's silence.
pub(crate) fn env_says_all(spec: &Spec) -> bool {
    honoured_env(spec).is_ok_and(|found| {
        found.iter().any(|f| f.route == Route::Env && f.request == GpuRequest::All)
    })
}

/// The GPUs among the CDI devices that annotations name.
fn annotated(spec: &Spec, kind: &str) -> Result<Option<Found>, AskError> {
    let ours = spec.annotations().filter(|(key, _)| key.starts_with(CDI_ANNOTATIONS));
    let mut names = Vec::new();
    for device in ours.flat_map(|(_, value)| value.split(',')).map(str::trim) {
        match device.split_once('=') {
            Some((of, name)) if of == kind => names.push(name),
            _ if is_of_another_kind(device) => {}
            // Other kinds of NVIDIA's make up GPUs too, and by other names.
            _ if device.contains("nvidia.com/") => return Err(AskError::BadId(shown(device))),
            // Newer versions of NVIDIA's runtime take a name without a kind for one of theirs.
            _ => names.push(device),
        }
    }
    let request = ids::list(names)?;
    Ok((!request.is_none()).then_some(Found { route: Route::Annotation, request }))
}

/// Whether a device that an annotation names is of a CDI kind that is none of NVIDIA's.
pub(crate) fn is_of_another_kind(device: &str) -> bool {
    let kind = device.split_once('=').map(|(kind, _)| kind);
    kind.is_some_and(|kind| kind.contains('/')) && !device.contains("nvidia.com/")
}

/// Whether somebody between Docker and us has answered an environment that asked for all GPUs.
pub fn answered_all(spec: &Spec, docker_env: &[String]) -> bool {
    answered::word(spec, Some(docker_env)) == Some(GpuRequest::All)
}

/// Whether a hook is NVIDIA's legacy one.
pub(crate) fn is_legacy_hook(hook: &Value) -> bool {
    let named = |program: &str| LEGACY_HOOKS.contains(&program);
    let first = hook.get("args").and_then(|a| a.get(0)).and_then(Value::as_str).unwrap_or_default();
    named(hook_program(hook))
        || (named(first.rsplit('/').next().unwrap_or_default()) && !str_of(hook, "path").is_empty())
}

/// What NVIDIA's legacy hook, where it is in the spec, will put into the container by the
/// environment: no `config.json` shows the devices that it adds.
///
/// # Errors
/// As for [`detect`].
pub fn by_legacy_hook(spec: &Spec) -> Result<GpuRequest, AskError> {
    if !has_legacy_hook(spec) {
        return Ok(GpuRequest::None);
    }
    let found = honoured_env(spec)?;
    total(&found)
}

/// Whether NVIDIA's legacy hook is in a spec.
pub(crate) fn has_legacy_hook(spec: &Spec) -> bool {
    STAGES.iter().any(|stage| spec.hooks(stage).iter().any(is_legacy_hook))
}

#[cfg(test)]
mod tests;
