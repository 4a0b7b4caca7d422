//! Injection over specs recorded on a real Engine, with CDI specs as nvidia-ctk writes them.

use std::path::{Path, PathBuf};

use gpuctl_ledger::model::{Gpu, Health, MigDevice, Part, Unit};
use serde_json::json;

use super::*;
use crate::strip;

fn gpu(index: u32, minor: u32) -> Gpu {
    Gpu {
        index,
        unit: Unit::new(format!("GPU-{minor}")).unwrap(),
        minor,
        model: String::new(),
        pci: String::new(),
        memory: 0,
        health: Health::Ok,
        numa: None,
        links: Vec::new(),
        peers: Vec::new(),
        mig: Vec::new(),
        slots: 0,
    }
}

fn device(name: &str, minors: &[u32]) -> Value {
    let node = |m: &u32| {
        json!({"path": format!("/dev/nvidia{m}"), "hostPath": format!("/srv/x{m}"),
               "type": "c", "major": 195, "minor": m})
    };
    json!({"name": name, "containerEdits": {"deviceNodes": minors.iter().map(node).collect::<Vec<_>>()}})
}

fn cdi_spec(devices: &[Value]) -> Value {
    json!({"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices, "containerEdits": {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": "/dev/nvidiactl", "type": "c", "major": 195, "minor": 255}],
        "mounts": [{"hostPath": "/usr/lib/libcuda.so.1", "containerPath": "/usr/lib/libcuda.so.1",
                    "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"]}],
        "hooks": [{"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook",
            "args": ["nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib/x86_64-linux-gnu"],
            "env": ["NVIDIA_CTK_DEBUG=false"]}]}})
}

fn usual() -> Value {
    let mut devices: Vec<Value> = (0..4).map(|m| device(&m.to_string(), &[m])).collect();
    devices.extend((0..4).map(|m| device(&format!("GPU-{m}"), &[m])));
    devices.push(device("all", &[0, 1, 2, 3]));
    cdi_spec(&devices)
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn load(&self) -> Result<CdiSpecs, InjectError> {
        let dirs: Vec<PathBuf> = ["a", "b"].iter().map(|d| self.0.path().join(d)).collect();
        CdiSpecs::load(&dirs, "nvidia.com/gpu")
    }
}

fn usual_cdi() -> CdiSpecs {
    Folder::with(&[("a/nvidia.json", &usual().to_string())]).load().unwrap()
}

fn recorded(name: &str) -> Spec {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/engine-29");
    Spec::parse(&std::fs::read(folder.join(format!("{name}.config.json"))).unwrap()).unwrap()
}

fn gpu_nodes(spec: &Spec) -> Vec<u32> {
    let mut minors: Vec<u32> = spec.nodes().iter().filter_map(Node::gpu_minor).collect();
    minors.sort_unstable();
    minors
}

fn gpu_rules(spec: &Spec) -> Vec<u32> {
    spec.rules().iter().filter(|r| r.allow).filter_map(Rule::gpu_minor).collect()
}

#[test]
fn every_recorded_spec_ends_with_just_the_gpus_held_and_twice_is_once() {
    let cdi = usual_cdi();
    for name in [
        "plain",
        "gpus-2",
        "gpus-all",
        "gpus-device-1-3",
        "device-cdi-1",
        "device-cdi-uuid",
        "device-node-3",
        "cgroup-rule-any",
        "cgroup-rule-wildcard",
        "privileged",
        "privileged-gpus-1",
        "image-env-all",
    ] {
        let mut spec = recorded(name);
        let held = [&gpu(2, 2), &gpu(3, 3)];
        let mut once = None;
        for _ in 0..2 {
            inject_cdi(&mut spec, &held, &cdi).unwrap();
            strip::whitelist(&mut spec, &[2, 3], None).unwrap();
            add_hooks(&mut spec, Path::new("/h"), &["h", "gate"], &["h", "release"]);
            // Too long to be printed.
            assert!(*once.get_or_insert(spec.clone()) == spec, "{name} twice");
        }
        assert_eq!(gpu_nodes(&spec), [2, 3], "{name}");
        let mut rules = gpu_rules(&spec);
        rules.sort_unstable();
        rules.dedup();
        assert_eq!(rules, [2, 3], "{name}");
        assert!(spec.rules().iter().any(|r| r.allow && r.minor == Some(255)), "{name}");
        assert_eq!(spec.hooks("createContainer").len(), 1, "{name}");
        assert_eq!(
            spec.mounts().filter(|m| str_of(m, "destination").ends_with("libcuda.so.1")).count(),
            1
        );
        assert_eq!(spec.env(VISIBLE), Some("void"));
        spec.to_oci().unwrap();
    }
}

#[test]
fn what_is_unknown_to_us_is_kept() {
    let mut value = recorded("gpus-2").value().clone();
    value["linux"]["newThing"] = json!({"x": [1, {"y": null}]});
    value["process"]["another"] = json!(7);
    let mut spec = Spec::from_value(value).unwrap();
    inject_cdi(&mut spec, &[&gpu(1, 1)], &usual_cdi()).unwrap();
    assert_eq!(spec.value()["linux"]["newThing"], json!({"x": [1, {"y": null}]}));
    assert_eq!(spec.value()["process"]["another"], 7);
    let before = recorded("gpus-2").value().clone();
    for same in ["/linux/seccomp", "/linux/namespaces", "/root", "/process/capabilities"] {
        assert_eq!(spec.value().pointer(same), before.pointer(same), "{same}");
    }
}

#[test]
fn a_node_that_the_user_gave_another_path_stays_if_it_is_held() {
    let mut spec = recorded("device-node-renamed");
    inject_cdi(&mut spec, &[&gpu(3, 3)], &usual_cdi()).unwrap();
    assert_eq!(gpu_nodes(&spec), [3, 3], "/dev/x and /dev/nvidia3");
    let mut spec = recorded("device-node-renamed");
    inject_cdi(&mut spec, &[&gpu(1, 1)], &usual_cdi()).unwrap();
    assert_eq!(gpu_nodes(&spec), [1]);
}

#[test]
fn the_node_decides_and_not_the_name() {
    // The cards were swapped since: index 0 is /dev/nvidia1 now, and the spec says otherwise.
    let by_index = cdi_spec(&[device("0", &[0]), device("1", &[1]), device("all", &[0, 1])]);
    let cdi = Folder::with(&[("a/x.json", &by_index.to_string())]).load().unwrap();
    let mut spec = recorded("plain");
    inject_cdi(&mut spec, &[&gpu(0, 1)], &cdi).unwrap();
    assert_eq!(gpu_nodes(&spec), [1]);
    let stale = inject_cdi(&mut spec, &[&gpu(7, 7)], &cdi).unwrap_err();
    assert!(matches!(stale, InjectError::NoDevice { minor: 7, .. }), "{stale}");

    let mut mig = device("0:0", &[0]);
    let cap =
        json!({"path": "/dev/nvidia-caps/nvidia-cap3", "type": "c", "major": 236, "minor": 3});
    mig["containerEdits"]["deviceNodes"].as_array_mut().unwrap().push(cap);
    let cdi = Folder::with(&[("a/x.json", &cdi_spec(&[mig]).to_string())]).load().unwrap();
    assert!(inject_cdi(&mut spec, &[&gpu(0, 0)], &cdi).is_err(), "a MIG device is not its GPU");
}

#[test]
fn a_later_folder_overrides_and_one_folder_must_agree() {
    let mut other = usual();
    other["containerEdits"]["env"] = json!(["FROM=b"]);
    let (a, b) = (usual().to_string(), other.to_string());
    let both = Folder::with(&[("a/x.json", &a), ("b/x.json", &b)]);
    let mut spec = recorded("plain");
    inject_cdi(&mut spec, &[&gpu(0, 0)], &both.load().unwrap()).unwrap();
    assert_eq!(spec.env("FROM"), Some("b"));

    let mut differs = usual();
    differs["devices"][4]["containerEdits"]["env"] = json!(["X=1"]);
    let one = Folder::with(&[("a/x.json", &a), ("a/y.json", &differs.to_string())]);
    let before = spec.clone();
    let error = inject_cdi(&mut spec, &[&gpu(0, 0)], &one.load().unwrap()).unwrap_err();
    assert_eq!(error, InjectError::Ambiguous("nvidia.com/gpu=GPU-0".into()));
    assert!(spec == before);
    let same = Folder::with(&[("a/x.json", &a), ("a/y.json", &a)]);
    inject_cdi(&mut spec, &[&gpu(0, 0)], &same.load().unwrap()).unwrap();
}

#[test]
fn yaml_is_read_and_what_is_torn_is_named() {
    let yaml = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: '2'\n  containerEdits:\n    \
                deviceNodes:\n    - path: /dev/nvidia2\n      major: 195\n      minor: 2\n      type: c\n";
    let torn = usual().to_string();
    let folder = Folder::with(&[("a/n.yaml", yaml), ("b/torn.json", &torn[..torn.len() / 2])]);
    let mut spec = recorded("plain");
    inject_cdi(&mut spec, &[&gpu(2, 2)], &folder.load().unwrap()).unwrap();
    assert_eq!(gpu_nodes(&spec), [2]);

    for files in [&[][..], &[("b/torn.json", "{")], &[("a/x.json", "[]"), ("a/other.txt", yaml)]] {
        let error = Folder::with(files).load().unwrap_err().to_string();
        assert!(error.contains("nvidia.com/gpu") && error.contains("nvidia-ctk"), "{error}");
        assert_eq!(error.contains("torn or wrong"), !files.is_empty(), "{error}");
    }
    let other = usual().to_string().replace("nvidia.com/gpu", "vendor.com/net");
    assert!(Folder::with(&[("a/x.json", &other)]).load().is_err());
}

#[test]
fn numbers_that_the_spec_leaves_out_come_from_the_host() {
    let mut one = device("0", &[0]);
    let more = json!([{"path": "/dev/null"}, {"path": "/dev/z", "hostPath": "/dev/zero"}]);
    one["containerEdits"]["deviceNodes"]
        .as_array_mut()
        .unwrap()
        .extend(more.as_array().unwrap().clone());
    let mut spec = recorded("plain");
    let cdi = Folder::with(&[("a/x.json", &cdi_spec(&[one.clone()]).to_string())]).load().unwrap();
    inject_cdi(&mut spec, &[&gpu(0, 0)], &cdi).unwrap();
    let numbers =
        |path: &str| spec.nodes().iter().find(|n| n.path == path).map(|n| (n.major, n.minor));
    assert_eq!((numbers("/dev/null"), numbers("/dev/z")), (Some((1, 3)), Some((1, 5))));

    let elsewhere = tempfile::tempdir().unwrap();
    let moved = cdi.with_dev(elsewhere.path());
    let gone = inject_cdi(&mut spec.clone(), &[&gpu(0, 0)], &moved).unwrap_err();
    assert_eq!(gone, InjectError::NoNode("/dev/null".into()));
    for name in ["null", "zero"] {
        std::os::unix::fs::symlink("/dev/full", elsewhere.path().join(name)).unwrap();
    }
    let mut again = recorded("plain");
    inject_cdi(&mut again, &[&gpu(0, 0)], &moved).unwrap();
    assert!(again.nodes().iter().any(|n| n.path == "/dev/null" && n.minor == 7));
}

#[test]
fn nvidias_legacy_hook_goes_with_cdi_and_stays_with_env() {
    let legacy =
        json!({"path": "/opt/gpuctl/nvidia-container-runtime-hook", "args": ["x", "prestart"]});
    let with_hook = || {
        let mut value = recorded("plain").value().clone();
        value["hooks"] = json!({"prestart": [{"path": "/usr/bin/other"}, legacy]});
        let mut spec = Spec::from_value(value).unwrap();
        spec.set_env(VISIBLE, "0,1");
        spec
    };
    let mut spec = with_hook();
    inject_cdi(&mut spec, &[&gpu(0, 0)], &usual_cdi()).unwrap();
    assert_eq!(spec.hooks("prestart"), [json!({"path": "/usr/bin/other"})]);
    assert_eq!(spec.env(VISIBLE), Some("void"));

    let mut spec = with_hook();
    inject_env(&mut spec, &["GPU-1", "GPU-2"]);
    assert_eq!((spec.hooks("prestart").len(), spec.env(VISIBLE)), (2, Some("GPU-1,GPU-2")));

    let mut spec = with_hook();
    clear(&mut spec);
    assert_eq!((spec.hooks("prestart").len(), spec.env(VISIBLE)), (1, Some("void")));

    let mut plain = recorded("privileged");
    clear(&mut plain);
    assert!(plain == recorded("privileged"), "nothing to clear, nothing changed");
}

#[test]
fn what_names_gpus_to_nvidias_runtime_is_left_by_no_way_of_giving_or_taking_them() {
    let null = |at: &str| json!({"source": "/dev/null", "destination": at});
    let stays = [
        json!({"source": "/srv", "destination": "/var/run/nvidia-container-devices/1"}),
        null("/var/run/nvidia-container-devices/imex/0"),
    ];
    let mut value = recorded("plain").value().clone();
    let before = value["mounts"].as_array().unwrap().len();
    value["mounts"].as_array_mut().unwrap().extend([
        null("/var/run/nvidia-container-devices/1"),
        null("/var/run/nvidia-container-devicesall"),
        stays[0].clone(),
        stays[1].clone(),
    ]);
    value["annotations"] = json!({"cdi.k8s.io/x": "nvidia.com/gpu=all"});
    let mut named = Spec::from_value(value).unwrap();
    named.set_env("NVIDIA_MIG_CONFIG_DEVICES", "all");
    named.set_env("NVIDIA_MIG_MONITOR_DEVICES", "all");
    let gone = |how: &str, spec: &Spec, libraries: usize| {
        let mounts: Vec<&Value> = spec.mounts().collect();
        assert_eq!(mounts.len(), before + stays.len() + libraries, "{how}");
        assert!(stays.iter().all(|mount| mounts.contains(&mount)), "{how}");
        assert_eq!(spec.annotations().count(), 0, "{how}");
        let text = spec.value()["process"]["env"].to_string();
        assert!(!text.contains("NVIDIA_MIG_"), "{how}: {text}");
    };
    let mut spec = named.clone();
    inject_cdi(&mut spec, &[&gpu(0, 0)], &usual_cdi()).unwrap();
    gone("cdi", &spec, 1);
    let mut spec = named.clone();
    inject_env(&mut spec, &["GPU-1"]);
    gone("env", &spec, 0);
    clear(&mut named);
    gone("clear", &named, 0);
}

/// A GPU with two MIG devices, as nvidia-ctk names and lays them out.
fn cut() -> (Gpu, Value) {
    let mig = |index: u32, caps| MigDevice {
        index,
        unit: Unit::new(format!("MIG-{index}")).unwrap(),
        memory: 0,
        profile: String::new(),
        caps,
        health: Default::default(),
    };
    let parent = Gpu { mig: vec![mig(0, [21, 22]), mig(1, [30, 31])], ..gpu(0, 2) };
    let cap = |n: u32| json!({"path": format!("/dev/nvidia-caps/nvidia-cap{n}"), "type": "c", "major": 236, "minor": n});
    let part = |name: &str, caps: [u32; 2]| {
        let mut one = device(name, &[2]);
        let nodes = one["containerEdits"]["deviceNodes"].as_array_mut().unwrap();
        nodes.extend(caps.map(cap));
        one
    };
    let devices =
        [part("0:0", [21, 22]), part("0:1", [30, 31]), part("MIG-0", [21, 22]), device("1", &[1])];
    (parent, cdi_spec(&devices))
}

fn caps_of(spec: &Spec) -> (Vec<u32>, Vec<u32>) {
    let nodes = spec.nodes();
    let mut minors: Vec<u32> = nodes.iter().filter_map(|n| n.caps_minor(Some(236))).collect();
    minors.sort_unstable();
    let rules = spec.rules();
    let named = rules.iter().filter(|r| r.allow && r.major == Some(236));
    let mut rules: Vec<u32> = named.filter_map(|r| r.minor).collect();
    rules.sort_unstable();
    (minors, rules)
}

#[test]
fn a_mig_device_is_its_gpus_node_and_its_own_two_and_no_other() {
    let (parent, cdi) = cut();
    let folder = Folder::with(&[("a/x.json", &cdi.to_string())]);
    let cdi = folder.load().unwrap();
    let piece = |at: usize| Piece { gpu: &parent, part: Part::Mig(&parent.mig[at]) };
    for name in ["plain", "privileged", "gpus-2", "cgroup-rule-any"] {
        // The second has no device by its UUID: it is found by its index.
        for (at, caps) in [(0, vec![21, 22]), (1, vec![30, 31])] {
            let mut spec = recorded(name);
            for _ in 0..2 {
                inject_cdi(&mut spec, &[piece(at)], &cdi).unwrap();
                let keep = strip::Keep { minors: &[2], caps: &caps, caps_major: Some(236) };
                strip::whitelist_but(&mut spec, keep).unwrap();
                assert_eq!(gpu_nodes(&spec), [2], "{name}");
                assert_eq!(gpu_rules(&spec), [2], "{name}");
                assert_eq!(caps_of(&spec), (caps.clone(), caps.clone()), "{name}");
            }
        }
    }
    // Both of one GPU: its node once.
    let mut spec = recorded("plain");
    inject_cdi(&mut spec, &[piece(0), piece(1)], &cdi).unwrap();
    assert_eq!((gpu_nodes(&spec), gpu_rules(&spec)), (vec![2], vec![2]));
    assert_eq!(caps_of(&spec).0, [21, 22, 30, 31]);
}

#[test]
fn what_dockerd_applied_for_one_mig_device_gives_way_to_another() {
    // As Engine 29.2 lays out `--device nvidia.com/gpu=0:0`.
    let (parent, cdi) = cut();
    let folder = Folder::with(&[("a/x.json", &cdi.to_string())]);
    let cdi = folder.load().unwrap();
    let piece = |at: usize| Piece { gpu: &parent, part: Part::Mig(&parent.mig[at]) };
    let mut spec = recorded("plain");
    inject_cdi(&mut spec, &[piece(0)], &cdi).unwrap();
    let host: crate::hostconfig::HostConfig = serde_json::from_value(json!({
        "DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=0:0"]}]
    }))
    .unwrap();
    let facts = crate::request::NodeFacts { caps_major: Some(236), ..Default::default() };
    let asked = crate::request::detect(&spec, Some(&host), &facts).unwrap();
    assert_eq!(asked.request, "device=0:0".parse().unwrap());
    inject_cdi(&mut spec, &[piece(1)], &cdi).unwrap();
    assert_eq!((gpu_nodes(&spec), caps_of(&spec)), (vec![2], (vec![30, 31], vec![30, 31])));
}

#[test]
fn a_cdi_spec_older_than_the_mig_devices_is_refused() {
    let (mut parent, cdi) = cut();
    let folder = Folder::with(&[("a/x.json", &cdi.to_string())]);
    let cdi = folder.load().unwrap();
    // They were made anew since: other instances, the same names.
    parent.mig[0].caps = [48, 49];
    let mut spec = recorded("plain");
    let part = Piece { gpu: &parent, part: Part::Mig(&parent.mig[0]) };
    let error = inject_cdi(&mut spec, &[part], &cdi).unwrap_err();
    assert_eq!(
        error,
        InjectError::NoDevice { gpu: "MIG-0".into(), kind: "nvidia.com/gpu".into(), minor: 2 }
    );
    assert!(inject_cdi(&mut spec, &[&parent], &cdi).is_err(), "the GPU itself is no device");
    assert!(spec == recorded("plain"));
}
