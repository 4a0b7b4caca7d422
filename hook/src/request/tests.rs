//! One case a row of the design's table of routes, and the odd ones between.

use gpuctl_ledger::model::{
    Gpu, GpuRef, GpuRequest, Health, Inventory, MigDevice, Timestamp, Unit,
};
use serde_json::{Value, json};

use super::*;

const HOOK: &str = "/usr/bin/nvidia-container-runtime-hook";

fn spec(env: &[&str], nodes: &[(&str, u32, u32)], rules: Value, hook: bool) -> Spec {
    let node = |(path, major, minor): &(&str, u32, u32)| json!({"path": path, "type": "c", "major": major, "minor": minor});
    let mut all = vec![json!({"allow": false, "access": "rwm"})];
    all.extend(rules.as_array().unwrap().clone());
    let mut value = json!({"ociVersion": "1.0.2-dev", "process": {"env": env},
        "linux": {"devices": nodes.iter().map(node).collect::<Vec<_>>(),
                  "resources": {"devices": all}}});
    if hook {
        value["hooks"] = json!({"prestart": [{"path": HOOK, "args": [HOOK, "prestart"]}]});
    }
    Spec::from_value(value).unwrap()
}

fn rule(major: i64, minor: i64) -> Value {
    json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"})
}

fn host(value: Value) -> HostConfig {
    HostConfig::parse(value.to_string().as_bytes()).unwrap()
}

fn gpus(count: i64, ids: &[&str]) -> HostConfig {
    host(json!({"DeviceRequests": [{"Driver": "", "Count": count, "DeviceIDs": ids,
        "Capabilities": [["gpu"]]}]}))
}

fn minors(list: &[u32]) -> GpuRequest {
    GpuRequest::Named(list.iter().map(|&m| GpuRef::Minor(m)).collect())
}

fn indexes(list: &[u32]) -> GpuRequest {
    GpuRequest::Named(list.iter().map(|&i| GpuRef::Index(i)).collect())
}

fn ask(spec: &Spec, host: Option<&HostConfig>) -> Asked {
    detect(spec, host, &NodeFacts::default()).unwrap()
}

fn routes(asked: &Asked) -> Vec<Route> {
    asked.found.iter().map(|f| f.route).collect()
}

#[test]
fn gpus_up_to_engine_29_1() {
    let s = spec(&["NVIDIA_VISIBLE_DEVICES=0,1"], &[], json!([]), true);
    let asked = ask(&s, Some(&gpus(2, &[])));
    assert_eq!(asked.request, GpuRequest::Count(2));
    assert_eq!(routes(&asked), [Route::DeviceRequest]);
    assert!(asked.legacy_hook && !asked.is_nothing());
    assert_eq!(ask(&s, Some(&gpus(0, &["0", "1"]))).request, indexes(&[0, 1]));
    assert_eq!(ask(&s, Some(&gpus(-1, &[]))).request, GpuRequest::All);
    assert_eq!(ask(&s, None).request, indexes(&[0, 1]), "from config.json alone they are the same");
}

#[test]
fn gpus_from_engine_29_2_on_are_what_was_typed_and_not_what_dockerd_picked() {
    let nodes = [("/dev/nvidiactl", 195, 255), ("/dev/nvidia0", 195, 0), ("/dev/nvidia1", 195, 1)];
    let s = spec(
        &["NVIDIA_VISIBLE_DEVICES=void"],
        &nodes,
        json!([rule(195, 255), rule(195, 0), rule(195, 1)]),
        false,
    );
    let asked = ask(&s, Some(&gpus(2, &[])));
    assert_eq!(asked.request, GpuRequest::Count(2));
    assert_eq!(asked.cdi_applied, [0, 1]);
    assert_eq!(ask(&s, None).request, minors(&[0, 1]));
}

#[test]
fn a_device_request_for_others_is_none_of_ours() {
    let s = spec(&[], &[], json!([]), false);
    for other in [
        json!({"Driver": "amd", "Count": 1, "Capabilities": [["gpu"]]}),
        json!({"Driver": "cdi", "DeviceIDs": ["vendor.com/net=eth0", "amd.com/gpu=0"]}),
        json!({"Driver": "", "Count": 1, "Capabilities": [["tpu"]]}),
    ] {
        let h = host(json!({"DeviceRequests": [other]}));
        assert!(ask(&s, Some(&h)).is_nothing());
    }
    let h = host(json!({"DeviceRequests": [{"Driver": "nvidia", "Count": 1}]}));
    assert_eq!(ask(&s, Some(&h)).request, GpuRequest::Count(1));
}

#[test]
fn cdi_devices_by_name() {
    let s = spec(&["NVIDIA_VISIBLE_DEVICES=void"], &[("/dev/nvidia1", 195, 1)], json!([]), false);
    let cdi = |ids: &[&str]| {
        let h = host(json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ids}]}));
        detect(&s, Some(&h), &NodeFacts::default())
    };
    let asked = cdi(&["nvidia.com/gpu=1", "other.com/x=y"]).unwrap();
    assert_eq!((asked.request, asked.found[0].route), (indexes(&[1]), Route::CdiDevice));
    assert_eq!(cdi(&["nvidia.com/gpu=all"]).unwrap().request, GpuRequest::All);
    assert_eq!(
        cdi(&["nvidia.com/gpu=GPU-a1"]).unwrap().request,
        GpuRequest::Named(vec![GpuRef::Uuid("GPU-a1".into())])
    );
    let why = cdi(&["nvidia.com/gpu=\u{7}bell"]).unwrap_err().to_string();
    assert!(why.contains("nvidia.com/gpu=?bell"), "{why}");
}

#[test]
fn the_environment_counts_only_where_something_honours_it() {
    let plain = spec(&["NVIDIA_VISIBLE_DEVICES=all"], &[], json!([]), false);
    let h = host(json!({}));
    assert!(ask(&plain, Some(&h)).is_nothing());
    assert!(ask(&plain, None).is_nothing());

    let around = NodeFacts { nvidia_runtime: true, ..NodeFacts::default() };
    let asked = detect(&plain, Some(&h), &around).unwrap();
    assert_eq!(asked.request, GpuRequest::All);
    assert_eq!(routes(&asked), [Route::Env]);

    let hook =
        spec(&["NVIDIA_VISIBLE_DEVICES=GPU-1", "NVIDIA_VISIBLE_DEVICES=2"], &[], json!([]), true);
    assert_eq!(ask(&hook, Some(&h)).request, indexes(&[2]), "of duplicates the last");
    let old = spec(&["CUDA_VERSION=8.0"], &[], json!([]), true);
    assert_eq!(ask(&old, Some(&h)).request, GpuRequest::All, "an old CUDA image that says nothing");
    let bad = spec(&["NVIDIA_VISIBLE_DEVICES=wat"], &[], json!([]), true);
    assert_eq!(detect(&bad, Some(&h), &around), Err(AskError::BadId("wat".into())));
    let none = spec(&["NVIDIA_VISIBLE_DEVICES=wat"], &[], json!([]), false);
    assert!(ask(&none, Some(&h)).is_nothing(), "nobody reads it, so nobody minds");
}

#[test]
fn gpus_named_by_mounts_count_where_the_environment_does() {
    let mut value = spec(&[], &[], json!([]), true).value().clone();
    value["mounts"] = json!([
        {"destination": "/var/run/nvidia-container-devices/1", "source": "/dev/null"},
        {"destination": "/var/run/nvidia-container-devices/cdi/nvidia.com/gpu/2", "source": "/dev/null"}
    ]);
    let asked = ask(&Spec::from_value(value).unwrap(), Some(&host(json!({}))));
    assert_eq!((asked.request, asked.found[0].route), (indexes(&[1, 2]), Route::VolumeMount));
}

#[test]
fn whatever_nvidias_toolkit_takes_for_a_request_is_one() {
    let around = NodeFacts { nvidia_runtime: true, ..NodeFacts::default() };
    let of = |env: &[&str], at: &str| {
        let mut value = spec(env, &[], json!([]), false).value().clone();
        value["mounts"] = json!([{"destination": at, "source": "/dev/null"}]);
        detect(&Spec::from_value(value).unwrap(), Some(&host(json!({}))), &around).unwrap()
    };
    // An empty variable is one that an old image does not have, and an empty version is none.
    let old = of(&["CUDA_VERSION=8.0", "NVIDIA_REQUIRE_CUDA="], "/x");
    assert_eq!(old.request, GpuRequest::All);
    assert!(of(&["CUDA_VERSION="], "/x").is_nothing());
    assert!(of(&["CUDA_VERSION=8.0", "NVIDIA_REQUIRE_CUDA=cuda>=8"], "/x").is_nothing());
    for (at, request) in [
        ("/var/run/nvidia-container-devicesall", GpuRequest::All),
        ("/var/run/nvidia-container-devices/all,none", GpuRequest::All),
        ("/var/run/nvidia-container-devices/0,1", indexes(&[0, 1])),
        ("/var/run/nvidia-container-devices/cdi/nvidia.com/gpu=2", indexes(&[2])),
    ] {
        assert_eq!(of(&[], at).request, request, "{at}");
    }
    // What begins with a GPU is one to NVIDIA's tool, whatever stands behind a slash.
    for at in [
        "0:3b:0.0/none",
        "0:1/void",
        "all,/none",
        "cdi/nvidia.com/gpu/none,0:1/none",
        "cdi/0:3b:0.0/x/none",
        "cdi/0:1/x=VOID",
    ] {
        let mut value = spec(&[], &[], json!([]), false).value().clone();
        let at = format!("/var/run/nvidia-container-devices/{at}");
        value["mounts"] = json!([{"destination": at, "source": "/dev/null"}]);
        let asked = detect(&Spec::from_value(value).unwrap(), Some(&host(json!({}))), &around);
        assert!(matches!(asked, Err(AskError::BadId(_))), "{at}: {asked:?}");
    }
    // A channel is no GPU.
    assert!(of(&[], "/var/run/nvidia-container-devices/imex/0").is_nothing());
    // Control of MIG devices asks for no GPU, and is to be taken out.
    for name in MIG_CONTROL {
        let env = [format!("{name}=all"), "NVIDIA_VISIBLE_DEVICES=none".into()];
        let asked = of(&[&env[0], &env[1]], "/x");
        assert!(asked.request.is_none() && !asked.is_nothing(), "{name}");
    }
}

#[test]
fn a_hook_that_has_nothing_to_do_opens_nothing_and_is_taken_out_all_the_same() {
    let of = |env: &str, host: Value| {
        let asked = ask(&spec(&[env], &[], json!([]), true), Some(&self::host(host)));
        (asked.is_nothing(), asked.opens_nothing())
    };
    let none = json!({"DeviceRequests": [{"Count": 0, "Capabilities": [["gpu"]]}]});
    assert_eq!(of("A=1", json!({})), (false, true));
    assert_eq!(of("A=1", none.clone()), (false, true));
    assert_eq!(of("NVIDIA_VISIBLE_DEVICES=all", none), (false, false));
    assert_eq!(of("NVIDIA_VISIBLE_DEVICES=0", json!({})), (false, false));
}

#[test]
fn annotations_count_inside_nvidias_runtime_only() {
    let mut value = spec(&[], &[], json!([]), false).value().clone();
    value["annotations"] = json!({
        "cdi.k8s.io/a": "nvidia.com/gpu=1,example.com/net=9",
        "cdi.k8s.io/b": " nvidia.com/gpu=2",
        "cdi.k8s.io/c": "example.com/net=9",
        "other": "nvidia.com/gpu=3"
    });
    let (s, h) = (Spec::from_value(value).unwrap(), host(json!({})));
    assert!(ask(&s, Some(&h)).is_nothing());
    let around = NodeFacts { nvidia_runtime: true, ..NodeFacts::default() };
    let asked = detect(&s, Some(&h), &around).unwrap();
    assert_eq!(
        (asked.request.clone(), routes(&asked)),
        (indexes(&[1, 2]), vec![Route::Annotation])
    );
    let mut injected = s;
    crate::inject::inject_env(&mut injected, &["GPU-1"]);
    assert_eq!(
        detect(&injected, Some(&h), &around).unwrap().request,
        "device=GPU-1".parse().unwrap()
    );
    let left: Vec<_> = injected.annotations().collect();
    let net = "example.com/net=9";
    let expected = [("cdi.k8s.io/a", net), ("cdi.k8s.io/c", net), ("other", "nvidia.com/gpu=3")];
    assert_eq!(left, expected);
    let of = |device: &str| {
        let mut value = spec(&[], &[], json!([]), false).value().clone();
        value["annotations"] = json!({"cdi.k8s.io/x": device});
        let mut s = Spec::from_value(value).unwrap();
        let asked = detect(&s, Some(&h), &around);
        crate::inject::clear(&mut s);
        assert_eq!(s.annotations().count(), 0, "{device}");
        asked.map(|asked| asked.request)
    };
    for other in ["runtime.nvidia.com/gpu=all", "x=all"] {
        assert!(matches!(of(other), Err(AskError::BadId(_))), "{other}");
    }
    // Without a kind it is one of NVIDIA's to newer versions of its runtime.
    assert_eq!(of("all"), Ok(GpuRequest::All));
    assert_eq!(of("1,2"), Ok(indexes(&[1, 2])));
    assert_eq!(of(""), Ok(GpuRequest::None));
}

#[test]
fn inside_nvidias_runtime_the_final_nodes_count() {
    let s = spec(&[], &[("/dev/nvidia2", 195, 2)], json!([rule(195, 2)]), false);
    let h = host(json!({"Runtime": "nvidia"}));
    let asked = ask(&s, Some(&h));
    assert_eq!((asked.request.clone(), routes(&asked)), (minors(&[2]), vec![Route::AppliedNode]));
    let env = spec(&["NVIDIA_VISIBLE_DEVICES=all"], &[("/dev/nvidia2", 195, 2)], json!([]), false);
    let around = NodeFacts { nvidia_runtime: true, ..NodeFacts::default() };
    let asked = detect(&env, Some(&h), &around).unwrap();
    assert_eq!(asked.request, GpuRequest::All, "the environment explains the node");
    assert_eq!(asked.cdi_applied, [2]);
}

#[test]
fn device_nodes_are_known_by_their_numbers() {
    let h = host(json!({"Devices": [
        {"PathOnHost": "/dev/nvidia3", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}]}));
    let s = spec(&[], &[("/dev/x", 195, 3)], json!([rule(195, 3)]), false);
    for host in [Some(&h), None] {
        let asked = ask(&s, host);
        assert_eq!(
            (asked.request.clone(), routes(&asked)),
            (minors(&[3]), vec![Route::DeviceNode])
        );
    }
    let shared = [("/dev/a", 195, 255), ("/dev/b", 195, 254), ("/dev/c", 511, 0)];
    let s = spec(&[], &shared, json!([rule(195, 255), rule(195, 254)]), false);
    assert!(ask(&s, Some(&h)).is_nothing(), "shared nodes are no request");
    let folder = host(json!({"Devices": [{"PathOnHost": "/dev", "PathInContainer": "/host"}]}));
    let s = spec(&[], &[("/host/nvidia0", 195, 0), ("/hostile", 195, 1)], json!([]), false);
    let asked = ask(&s, Some(&folder));
    assert_eq!(routes(&asked), [Route::DeviceNode, Route::AppliedNode], "/hostile is not in /host");
    assert_eq!(asked.request, minors(&[0, 1]));
}

#[test]
fn cgroup_rules_with_a_name_ask_and_with_a_wildcard_open() {
    let h = host(json!({"DeviceCgroupRules": ["x"]}));
    let named = ask(&spec(&[], &[], json!([rule(195, 3)]), false), Some(&h));
    assert_eq!(named.request, minors(&[3]));
    assert_eq!(routes(&named), [Route::CgroupRule { minor: Some(3) }]);
    for wild in [rule(195, -1), rule(-1, -1), rule(-1, 2), json!({"allow": true, "type": "a"})] {
        let asked = ask(&spec(&[], &[], json!([wild]), false), Some(&h));
        assert!(asked.wildcard && asked.request.is_none() && !asked.is_nothing(), "{wild}");
        assert_eq!(routes(&asked), [Route::CgroupRule { minor: None }]);
    }
    let mknod = json!({"allow": true, "type": "c", "access": "m"});
    assert!(ask(&spec(&[], &[], json!([mknod]), false), Some(&h)).is_nothing());
    let undone = json!([rule(195, 3), {"allow": false, "access": "rwm"}]);
    assert!(ask(&spec(&[], &[], undone, false), Some(&h)).is_nothing());
}

#[test]
fn privileged_asks_for_what_is_named_and_no_more() {
    let nodes = [("/dev/nvidia0", 195, 0), ("/dev/nvidia1", 195, 1), ("/dev/nvidiactl", 195, 255)];
    let all = json!({"allow": true, "access": "rwm"});
    let bare = spec(&[], &nodes, json!([all]), false);
    let h = host(json!({"Privileged": true}));
    for host in [Some(&h), None] {
        let asked = ask(&bare, host);
        assert!(asked.is_privileged() && asked.wildcard && asked.request.is_none());
        assert_eq!(asked.nodes, [0, 1]);
    }
    let one = spec(&[], &nodes, json!([all, rule(195, 255), rule(195, 1)]), false);
    let mut counted = gpus(1, &[]);
    counted.privileged = true;
    assert_eq!(ask(&one, Some(&counted)).request, GpuRequest::Count(1));
    assert_eq!(ask(&one, None).request, minors(&[1]), "the rule behind allow-all names it");
    let h = host(json!({"Privileged": true,
        "Devices": [{"PathOnHost": "/dev/nvidia1", "PathInContainer": "/dev/nvidia1"}]}));
    assert_eq!(ask(&bare, Some(&h)).request, minors(&[1]));
}

#[test]
fn a_mount_alone_is_no_request() {
    let mut value = spec(&[], &[], json!([]), false).value().clone();
    value["mounts"] =
        json!([{"destination": "/dev/nvidia3", "type": "bind", "source": "/dev/nvidia3"}]);
    assert!(ask(&Spec::from_value(value).unwrap(), Some(&host(json!({})))).is_nothing());
}

#[test]
fn mig_nodes_are_the_mig_device_and_not_the_whole_gpu() {
    let mig = |index, caps| MigDevice {
        index,
        unit: Unit::new(format!("MIG-{index}")).unwrap(),
        memory: 0,
        profile: String::new(),
        caps,
        health: Default::default(),
    };
    let gpu = Gpu {
        index: 0,
        unit: Unit::new("GPU-0").unwrap(),
        minor: 0,
        model: String::new(),
        pci: String::new(),
        memory: 0,
        health: Health::Ok,
        numa: None,
        links: Vec::new(),
        peers: Vec::new(),
        mig: vec![mig(0, [30, 31]), mig(1, [39, 40])],
        slots: 0,
    };
    let inventory = Inventory {
        schema: 1,
        at: Timestamp::from_millis(0),
        driver: String::new(),
        gpus: vec![gpu],
    };
    let facts =
        NodeFacts { caps_major: Some(236), inventory: Some(&inventory), ..NodeFacts::default() };
    let caps = [("/dev/nvidia0", 195, 0), ("/dev/c39", 236, 39), ("/dev/c40", 236, 40)];
    let asked = detect(&spec(&[], &caps, json!([]), false), None, &facts).unwrap();
    assert_eq!(asked.request, GpuRequest::Named(vec![GpuRef::Uuid("MIG-1".into())]));
    assert_eq!(asked.caps, [39, 40]);
    let half = detect(&spec(&[], &caps[..2], json!([]), false), None, &facts).unwrap();
    assert_eq!(half.request, minors(&[0]));
}

#[test]
fn a_count_beside_a_name_is_refused_and_names_add_up() {
    let s = spec(&[], &[("/dev/nvidia3", 195, 3)], json!([]), false);
    let mut h = gpus(2, &[]);
    h.devices = host(json!({"Devices": [{"PathInContainer": "/dev/nvidia3"}]})).devices;
    assert_eq!(
        detect(&s, Some(&h), &NodeFacts::default()),
        Err(AskError::Mixed(2, "/dev/nvidia3".into()))
    );
    h.device_requests = gpus(0, &["1"]).device_requests;
    assert_eq!(
        ask(&s, Some(&h)).request,
        GpuRequest::Named(vec![GpuRef::Index(1), GpuRef::Minor(3)])
    );
}

#[test]
fn a_key_to_a_mig_device_is_something_even_without_its_gpu() {
    let facts = NodeFacts { caps_major: Some(236), ..NodeFacts::default() };
    let node = spec(&[], &[("/dev/x", 236, 39)], json!([]), false);
    let rule = |access: &str| {
        let rule = json!({"allow": true, "type": "c", "major": 236, "access": access});
        Spec::from_value(json!({"linux": {"resources": {"devices": [rule]}}})).unwrap()
    };
    for (spec, nothing) in [(&node, false), (&rule("rw"), false), (&rule("m"), true)] {
        assert!(names_dynamic_major(spec));
        let asked = detect(spec, None, &facts).unwrap();
        assert_eq!((asked.is_nothing(), asked.request), (nothing, GpuRequest::None));
        assert!(detect(spec, None, &NodeFacts::default()).unwrap().is_nothing(), "no such driver");
    }
    assert!(!names_dynamic_major(&spec(&[], &[("/dev/fuse", 10, 229)], json!([]), false)));
}

#[test]
fn an_images_own_all_is_ignored_or_claimed_and_never_passes_unseen() {
    let s = spec(&["NVIDIA_VISIBLE_DEVICES=all"], &[], json!([]), false);
    let under = |policy: Option<ImageEnvPolicy>, spec: &Spec, host: Option<&HostConfig>| {
        let facts = NodeFacts { nvidia_runtime: true, image_env: policy, ..NodeFacts::default() };
        detect(spec, host, &facts).unwrap()
    };
    let ignored = under(Some(ImageEnvPolicy::Ignore), &s, None);
    assert_eq!(
        (ignored.request.clone(), routes(&ignored)),
        (GpuRequest::None, vec![Route::ImageEnv])
    );
    // Passed on as it is, NVIDIA's runtime would obey it.
    assert!(!ignored.is_nothing() && ignored.is_image_env());
    let claimed = under(Some(ImageEnvPolicy::Claim), &s, None);
    assert_eq!(
        (claimed.request.clone(), routes(&claimed)),
        (GpuRequest::All, vec![Route::ImageEnv])
    );
    let user = under(None, &s, None);
    assert_eq!((user.request.clone(), routes(&user)), (GpuRequest::All, vec![Route::Env]));
    // What else is asked for counts; a flag is asked for instead.
    assert_eq!(
        under(Some(ImageEnvPolicy::Ignore), &s, Some(&gpus(2, &[]))).request,
        GpuRequest::Count(2)
    );
    let named = spec(&["NVIDIA_VISIBLE_DEVICES=1"], &[], json!([]), false);
    assert_eq!(under(Some(ImageEnvPolicy::Ignore), &named, None).request, indexes(&[1]));
    assert!(env_says_all(&s) && !env_says_all(&named));
    assert!(env_says_all(&spec(&["CUDA_VERSION=8"], &[], json!([]), false)));
}

#[test]
fn the_word_that_nvidias_runtime_has_answered_is_what_was_asked() {
    const VOID: &str = "NVIDIA_VISIBLE_DEVICES=void";
    let nodes = [("/dev/nvidia0", 195, 0), ("/dev/nvidia1", 195, 1)];
    let s = spec(&[VOID], &nodes, json!([rule(195, 0), rule(195, 1)]), false);
    let ask = |docker: &str, host: &HostConfig| {
        let env = [docker.to_owned()];
        detect(&s, Some(host), &NodeFacts { docker_env: Some(&env), ..NodeFacts::default() })
            .unwrap()
    };
    let plain = host(json!({}));
    let all = ask("NVIDIA_VISIBLE_DEVICES=all", &plain);
    assert_eq!((&all.request, routes(&all)), (&GpuRequest::All, vec![Route::Env]));
    // Names are the nodes' own: they are what was put there.
    let some = ask("NVIDIA_VISIBLE_DEVICES=0,1", &plain);
    assert_eq!((&some.request, routes(&some)), (&minors(&[0, 1]), vec![Route::AppliedNode]));
    let privileged = host(json!({"Privileged": true}));
    let one = ask("NVIDIA_VISIBLE_DEVICES=1", &privileged);
    assert_eq!((&one.request, routes(&one)), (&indexes(&[1]), vec![Route::Env, Route::Privileged]));
    // dockerd's own CDI leaves `void` too: then the flag is what was asked.
    let flag = ask("NVIDIA_VISIBLE_DEVICES=all", &gpus(1, &[]));
    assert_eq!(flag.request, GpuRequest::Count(1));
}

#[test]
fn what_the_environment_says_beside_gpus_0_is_not_nothing_where_it_would_be_heeded() {
    let host = HostConfig::parse(
        br#"{"DeviceRequests":[{"Driver":"","Count":0,"Capabilities":[["gpu"]]}]}"#,
    );
    let host = host.unwrap();
    let of = |env: &str, nvidia_runtime| {
        let spec = Spec::from_value(json!({"process": {"env": [env]}})).unwrap();
        let facts = NodeFacts { nvidia_runtime, ..NodeFacts::default() };
        detect(&spec, Some(&host), &facts).unwrap()
    };
    for env in ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=nonsense x", "CUDA_VERSION=8"]
    {
        let asked = of(env, true);
        assert!(asked.request.is_none() && !asked.is_nothing(), "{env}");
        assert!(of(env, false).is_nothing(), "{env}");
    }
    assert!(of("NVIDIA_VISIBLE_DEVICES=void", true).is_nothing());
}
