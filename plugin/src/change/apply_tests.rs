use super::*;
use crate::change::model::Restart;

fn spec() -> Value {
    json!({
        "Config": {"Env": ["A=1", "B=2", "A=3"], "Labels": {"team": "x"}, "Image": "busybox",
            "ExposedPorts": {"80/tcp": {}}, "Volumes": null},
        "HostConfig": {"Memory": 1024, "MemorySwap": 2048, "CpuQuota": 50_000, "Binds": ["data:/data:ro"],
            "Mounts": [{"Type": "volume", "Source": "sets", "Target": "/sets"}],
            "Tmpfs": {"/tmp": ""},
            "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}},
        "Mounts": [{"Type": "volume", "Name": "data", "Destination": "/data"},
            {"Type": "volume", "Name": "sets", "Destination": "/sets"},
            {"Type": "volume", "Name": "anon", "Destination": "/anon"}],
    })
}

fn applied(change: Change) -> Value {
    apply(&spec(), &change).unwrap()
}

fn refused(change: Change) -> Wrong {
    apply(&spec(), &change).unwrap_err()
}

#[test]
fn nothing_asked_is_nothing_changed() {
    assert_eq!(applied(Change::default()), spec());
}

#[test]
fn limits_are_set_and_what_conflicts_goes() {
    let new = applied(Change {
        nano_cpus: Some(1_500_000_000),
        memory: Some(4096),
        cpuset_cpus: Some("0-3".into()),
        shm_size: Some(1 << 20),
        restart: Some(Restart { name: "always".into(), tries: 0 }),
        ..Change::default()
    });
    let host = &new["HostConfig"];
    assert_eq!((&host["NanoCpus"], &host["CpuQuota"]), (&json!(1_500_000_000), &json!(0)));
    assert_eq!((&host["Memory"], &host["MemorySwap"]), (&json!(4096), &json!(8192)));
    assert_eq!((&host["CpusetCpus"], &host["ShmSize"]), (&json!("0-3"), &json!(1 << 20)));
    assert_eq!(host["RestartPolicy"]["Name"], "always");
}

#[test]
fn a_limit_of_swap_that_was_said_stays() {
    let swap = |memory: i64, swap: i64, to: i64| {
        let mut spec = spec();
        spec["HostConfig"]["Memory"] = json!(memory);
        spec["HostConfig"]["MemorySwap"] = json!(swap);
        let new = apply(&spec, &Change { memory: Some(to), ..Change::default() }).unwrap();
        new["HostConfig"]["MemorySwap"].as_i64().unwrap()
    };
    assert_eq!(swap(1024, -1, 4096), -1);
    assert_eq!(swap(1024, 10_000, 4096), 10_000);
    assert_eq!(swap(1024, 3000, 4096), 8192, "less than the memory is no limit that Docker takes");
    assert_eq!(swap(0, 0, 4096), 8192);
}

#[test]
fn environment_and_labels_are_set_and_taken_away() {
    let new = applied(Change {
        env: vec![("A".into(), "9".into()), ("C".into(), "x=y".into())],
        env_rm: vec!["B".into()],
        labels: vec![("job".into(), "7".into())],
        label_rm: vec!["team".into()],
        ..Change::default()
    });
    assert_eq!(new["Config"]["Env"], json!(["A=1", "A=9", "C=x=y"]), "the last one counts");
    assert_eq!(new["Config"]["Labels"], json!({"job": "7"}));
    assert!(
        refused(Change { env_rm: vec!["Z".into()], ..Change::default() }).message.contains("Z")
    );
    let none = refused(Change { label_rm: vec!["none".into()], ..Change::default() });
    assert!(none.message.contains("none"));
}

#[test]
fn ports_are_published_and_taken_back() {
    let publish = Publish {
        address: "127.0.0.1".into(),
        host: HostPort::Number(2222),
        inside: 22,
        protocol: "tcp".into(),
    };
    let new = applied(Change {
        publish: vec![publish.clone(), publish],
        publish_rm: vec!["80".into()],
        ..Change::default()
    });
    assert_eq!(
        new["HostConfig"]["PortBindings"],
        json!({"22/tcp": [{"HostIp": "127.0.0.1", "HostPort": "2222"}]})
    );
    assert_eq!(new["Config"]["ExposedPorts"], json!({"80/tcp": {}, "22/tcp": {}}));
    let same = applied(Change { publish_rm: vec!["8080:80/tcp".into()], ..Change::default() });
    assert_eq!(same["HostConfig"]["PortBindings"], json!({}));
    // Of several addresses one.
    let two = json!({"Config": {}, "HostConfig": {"PortBindings": {"80/tcp": [
        {"HostIp": "127.0.0.1", "HostPort": "8080"}, {"HostIp": "::1", "HostPort": "8080"},
        {"HostIp": "", "HostPort": "8080"}]}}});
    let left = |text: &str| {
        let change = Change { publish_rm: vec![text.into()], ..Change::default() };
        let new = apply(&two, &change).unwrap();
        let list = new["HostConfig"]["PortBindings"]["80/tcp"].as_array().cloned();
        list.unwrap_or_default().iter().map(|b| b["HostIp"].to_string()).collect::<String>()
    };
    assert_eq!(left("127.0.0.1:8080:80"), r#""::1""""#);
    assert_eq!(left("[::1]:8080:80"), r#""127.0.0.1""""#);
    assert_eq!(left("0.0.0.0:8080:80"), r#""127.0.0.1""::1""#);
    assert_eq!(left("8080:80"), "");
    for wrong in ["81", "80/udp", "9090:80", "127.0.0.1:8080:80"] {
        assert!(
            refused(Change { publish_rm: vec![wrong.into()], ..Change::default() }).hint.is_some()
        );
    }
}

#[test]
fn a_volume_is_swapped_wherever_it_is_said() {
    let swap = |old: &str| {
        applied(Change { volumes: vec![(old.into(), "new".into())], ..Change::default() })
    };
    assert_eq!(swap("data")["HostConfig"]["Binds"], json!(["new:/data:ro"]));
    assert_eq!(swap("sets")["HostConfig"]["Mounts"][0]["Source"], "new");
    assert_eq!(swap("anon")["HostConfig"]["Binds"], json!(["data:/data:ro", "new:/anon"]));
    // What another container gave to be read only is read only still; a place is one however it is written.
    let mut spec = spec();
    spec["Mounts"][2]["RW"] = json!(false);
    spec["HostConfig"]["Binds"] = json!(["data://data/"]);
    let swap = |old: &str| {
        let change = Change { volumes: vec![(old.into(), "new".into())], ..Change::default() };
        apply(&spec, &change).unwrap()["HostConfig"]["Binds"].clone()
    };
    assert_eq!(swap("anon"), json!(["data://data/", "new:/anon:ro"]));
    assert_eq!(swap("data"), json!(["new://data/"]));
    let none =
        refused(Change { volumes: vec![("other".into(), "new".into())], ..Change::default() });
    assert!(none.hint.unwrap().contains("data, sets, anon"));
}

#[test]
fn mounts_are_taken_away_and_added() {
    let of = |target: &str| applied(Change { mount_rm: vec![target.into()], ..Change::default() });
    assert_eq!(of("/data")["HostConfig"]["Binds"], json!([]));
    assert_eq!(of("/sets")["HostConfig"]["Mounts"], json!([]));
    assert_eq!(of("/tmp/")["HostConfig"]["Tmpfs"], json!({}));
    assert_eq!(of("/anon")["Mounts"].as_array().unwrap().len(), 2);
    assert!(refused(Change { mount_rm: vec!["/none".into()], ..Change::default() }).hint.is_some());
    let new = applied(Change {
        mount_rm: vec!["/data".into()],
        mount_add: vec![Mount::Bind("other:/data".into())],
        ..Change::default()
    });
    assert_eq!(new["HostConfig"]["Binds"], json!(["other:/data"]));
    let twice = Change { mount_add: vec![Mount::Bind("other:/sets/".into())], ..Change::default() };
    assert!(refused(twice).hint.unwrap().contains("--mount-rm /sets"));
}

#[test]
fn a_port_of_the_host_is_had_once_and_by_who_has_a_network() {
    let spec = json!({"Config": {}, "HostConfig": {"NetworkMode": "bridge",
        "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}}});
    let of = |text: &str, rm: &[&str]| {
        let publish = crate::change::publish(text).unwrap();
        let publish_rm = rm.iter().map(|text| (*text).to_owned()).collect();
        apply(&spec, &Change { publish, publish_rm, ..Change::default() })
    };
    let why = of("8080:81", &[]).unwrap_err();
    assert!(why.message.contains("80/tcp") && why.hint.unwrap().contains("--publish-rm 8080:80"));
    for (text, rm) in
        [("8080:81", &["80"][..]), ("8080:81/udp", &[]), ("8080:80", &[]), ("81", &[])]
    {
        assert!(of(text, rm).is_ok(), "{text}");
    }
    assert!(super::can_publish(&spec).is_ok());
    for mode in ["host", "none", "container:abc"] {
        let spec = json!({"HostConfig": {"NetworkMode": mode}});
        assert!(super::can_publish(&spec).is_err(), "{mode}");
    }
}
