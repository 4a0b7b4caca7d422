use super::*;
use gpuctl_ledger::config::Exempt;
use serde_json::json;

const ID: char = 'a';

/// Nothing is known of any runtime but its name.
fn none() -> Runtimes {
    Runtimes::default()
}

/// A running container of runc with these settings.
fn runs(host: Value) -> Inspect {
    runs_by("runc", host, &[])
}

fn runs_by(runtime: &str, mut host: Value, env: &[&str]) -> Inspect {
    host["Runtime"] = runtime.into();
    Inspect(json!({
        "Id": ID.to_string().repeat(64), "Name": "/web", "State": {"Running": true},
        "Config": {"Image": "busybox", "Env": env}, "HostConfig": host,
    }))
}

fn device(path: &str) -> Value {
    json!({"Devices": [{"PathOnHost": path, "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}]})
}

/// What doctor would say it was given.
fn told(shown: &Inspect, config: &Config, nodes: &Nodes) -> Option<String> {
    let found = bypasses(std::slice::from_ref(shown), &BTreeSet::new(), config, nodes, &none());
    found.into_iter().next().map(|b| b.given.join(", "))
}

fn plain(shown: &Inspect) -> Option<String> {
    told(shown, &Config::default(), &Nodes::new())
}

#[test]
fn every_way_to_a_gpu_is_told_by_its_flag() {
    for (host, flag) in [
        (device("/dev/nvidia3"), "--device /dev/nvidia3"),
        (json!({"Privileged": true}), "--privileged"),
        (json!({"DeviceCgroupRules": ["c 195:* rwm"]}), "--device-cgroup-rule 'c 195:* rwm'"),
        (json!({"DeviceCgroupRules": ["a *:* rw"]}), "--device-cgroup-rule 'a *:* rw'"),
        (
            json!({"DeviceRequests": [{"Driver": "", "Count": 1, "Capabilities": [["gpu"]]}]}),
            "--gpus",
        ),
        (
            json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=1"]}]}),
            "--gpus",
        ),
    ] {
        assert_eq!(plain(&runs(host.clone())).as_deref(), Some(flag), "{host}");
    }
    for none in [
        json!({}),
        json!({"Devices": null, "DeviceRequests": null, "DeviceCgroupRules": null}),
        device("/dev/nvidiactl"),
        device("/dev/fuse"),
        json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["vendor.com/net=1"]}]}),
        json!({"DeviceCgroupRules": ["c 195:255 rw", "b 195:* rwm", "c 195:* m", "c 10:* rwm"]}),
    ] {
        assert_eq!(plain(&runs(none.clone())), None, "{none}");
    }
}

#[test]
fn numbers_say_what_a_node_is_and_names_do_not() {
    let nodes: Nodes = [("/srv/card", Some(3)), ("/srv/ctl", Some(255)), ("/dev/nvidia7", None)]
        .map(|(path, minor)| (path.to_owned(), minor))
        .into();
    let of = |path| told(&runs(device(path)), &Config::default(), &nodes);
    assert_eq!(of("/srv/card").as_deref(), Some("--device /srv/card"));
    assert_eq!((of("/srv/ctl"), of("/dev/nvidia7"), of("/srv/gone")), (None, None, None));
    // What is not there, or only in the Engine's own /dev, has its name alone.
    assert!(of("/dev/nvidia8").is_some());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nvidia0").display().to_string();
    std::fs::write(&file, "").unwrap();
    let seen = look(vec!["/dev/null".into(), file.clone(), "/nonexistent/nvidia1".into()]);
    assert_eq!(seen, [("/dev/null".to_owned(), None), (file, None)].into());
}

#[test]
fn the_variable_counts_only_where_nvidias_runtime_is_to_read_it() {
    let all = "NVIDIA_VISIBLE_DEVICES=all";
    assert_eq!(plain(&runs_by("nvidia", json!({}), &[all])).as_deref(), Some(all));
    assert_eq!(plain(&runs_by("runc", json!({}), &[all])), None);
    let void = "NVIDIA_VISIBLE_DEVICES=void";
    assert_eq!(plain(&runs_by("nvidia", json!({}), &[all, void])), None, "the last one counts");
}

#[test]
fn who_passes_us_holds_a_lease_is_exempt_or_has_ended_is_not_named() {
    let shown = runs(device("/dev/nvidia3"));
    let config = Config::default();
    assert!(plain(&shown).is_some());
    for ours in ["gpuctl", "gpuctl-gate"] {
        assert_eq!(plain(&runs_by(ours, device("/dev/nvidia3"), &[])), None, "{ours}");
    }
    let leased = [shown.id().unwrap()].into();
    let found = bypasses(std::slice::from_ref(&shown), &leased, &config, &Nodes::new(), &none());
    assert_eq!(found, []);
    let mut ended = shown.clone();
    ended.0["State"]["Running"] = false.into();
    assert_eq!(plain(&ended), None);
    let with = |image: Option<&str>, name: Option<&str>| {
        let mut config = config.clone();
        let entry = Exempt { image: image.map(Into::into), name: name.map(Into::into) };
        config.policy.exempt = vec![entry];
        told(&shown, &config, &Nodes::new())
    };
    assert_eq!((with(Some("busybox"), None), with(None, Some("web"))), (None, None));
    assert!(with(Some("busybox"), Some("other")).is_some());
    let mut allowed = config.clone();
    allowed.policy.privileged = PrivilegedPolicy::Allow;
    assert_eq!(told(&runs(json!({"Privileged": true})), &allowed, &Nodes::new()), None);
}

#[test]
fn a_runtime_of_our_name_that_is_anothers_program_is_another() {
    let shown = runs_by("gpuctl-gate", device("/dev/nvidia3"), &[]);
    assert_eq!(plain(&shown), None);
    let programs = [("gpuctl-gate".to_owned(), "/usr/bin/runc".to_owned())].into();
    let led = Runtimes::of(&programs, |_| Some(false));
    let config = Config::default();
    let found = bypasses(&[shown], &BTreeSet::new(), &config, &Nodes::new(), &led);
    assert_eq!(found.len(), 1);
}

#[test]
fn the_check_names_the_container_and_what_to_type() {
    let found = bypasses(
        &[runs(device("/dev/nvidia3"))],
        &BTreeSet::new(),
        &Config::default(),
        &Nodes::new(),
        &none(),
    );
    let check = found.first().unwrap().check(Path::new("/etc/gpuctl/config.toml"));
    assert_eq!(check.verdict, Verdict::Problem);
    assert_eq!(
        check.detail,
        "web was started by runtime runc with --device /dev/nvidia3 and holds no lease"
    );
    assert!(check.fix.unwrap().starts_with("docker rm -f web, "));
    let both = json!({"Privileged": true, "DeviceCgroupRules": ["c 195:* rwm"]});
    for (host, verdict) in
        [(json!({"Privileged": true}), Verdict::Warning), (both, Verdict::Problem)]
    {
        let found =
            bypasses(&[runs(host)], &BTreeSet::new(), &Config::default(), &Nodes::new(), &none());
        assert_eq!(found.first().unwrap().check(Path::new("/c")).verdict, verdict);
    }
}
