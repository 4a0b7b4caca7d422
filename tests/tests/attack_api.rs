//! The adversary speaks to the Engine's socket himself: what the CLI would never send. Strict mode,
//! with our gate as the default runtime besides.

use std::collections::BTreeSet;

use gpuctl_tests::siege::{BOUND, End, Siege, Strict, clean, short};
use gpuctl_tests::{api, engine_runs_here, probe};
use serde_json::{Value, json};

/// Creates and starts what he asks for; whether it runs. Nothing that is said shows raw characters.
fn runs(siege: &Siege, name: &str, body: &Value) -> bool {
    println!("{name}");
    let node = &siege.node;
    let bytes = body.to_string().into_bytes();
    let before = std::time::Instant::now();
    let made = api::post(node, &format!("/v1.41/containers/create?name={name}"), &bytes);
    let started =
        made.id().map(|id| api::post(node, &format!("/v1.41/containers/{id}/start"), b""));
    let took = before.elapsed();
    assert!(took < 6 * BOUND, "{name} took {took:?}");
    assert!(made.status != 0, "no answer to {}", short(&body.to_string()));
    let Some(started) = started else { return false };
    let said = started.body["message"].as_str().unwrap_or_default();
    clean(said);
    // JSON escapes what it carries: the message is as long as ours, and shows what Docker would.
    assert!(said.len() < 8000, "{}", short(said));
    // What the kernel does not exec - 10 MB of environment, a program that is not there - starts for
    // Docker and ends at once.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let format = ["inspect", "--format", "{{.State.Running}}", name];
    started.status == 204 && node.docker(&format).stdout.trim() == "true"
}

fn container(host: Value) -> Value {
    json!({"Image": "busybox", "Cmd": ["sleep", "100000"], "HostConfig": host})
}

#[test]
fn requests_that_no_cli_sends_give_nothing_that_is_not_free() {
    if !engine_runs_here() {
        return;
    }
    let siege = Siege::begin(Strict::Both);
    let minor = siege.minor();
    let (uuid, _) = siege.prize();
    let gpu = json!([["gpu"]]);
    let many: Vec<String> = (0..1_000_000).map(|n| n.to_string()).collect();
    let rules = |rule: &str, n: usize| json!({"DeviceCgroupRules": vec![rule; n]});
    let each: Vec<String> = (0..20_000).map(|n| format!("c *:{n} rw")).collect();
    let others: Vec<String> = (0..5_000).map(|n| format!("c 10:{n} rwm")).collect();
    let device = |path: &str, inside: &str, access: &str| json!({"Devices": [{"PathOnHost": path, "PathInContainer": inside, "CgroupPermissions": access}]});
    let victims = format!("/dev/nvidia{minor}");
    // Each with how many GPUs it may have at most.
    let hosts: Vec<(&str, Value, usize)> = vec![
        ("negative", json!({"DeviceRequests": [{"Count": -7, "Capabilities": gpu}]}), 0),
        (
            "count-and-ids",
            json!({"DeviceRequests": [{"Count": 2, "DeviceIDs": ["0"], "Capabilities": gpu}]}),
            0,
        ),
        ("huge-count", json!({"DeviceRequests": [{"Count": i64::MAX, "Capabilities": gpu}]}), 0),
        ("million-ids", json!({"DeviceRequests": [{"DeviceIDs": many, "Capabilities": gpu}]}), 0),
        (
            "control-ids",
            json!({"DeviceRequests": [{"DeviceIDs": ["\u{1b}[2J\u{7}\r\n", "\u{202e}"], "Capabilities": gpu}]}),
            0,
        ),
        (
            "empty-ids",
            json!({"DeviceRequests": [{"DeviceIDs": ["", " ", "\u{0}"], "Capabilities": gpu}]}),
            0,
        ),
        (
            "victims",
            json!({"DeviceRequests": [{"DeviceIDs": [uuid.to_uppercase()], "Capabilities": gpu}]}),
            0,
        ),
        (
            "driver-path",
            json!({"DeviceRequests": [{"Driver": "../x", "Count": 1, "Capabilities": gpu}]}),
            0,
        ),
        (
            "driver-cdi",
            json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=all"]}]}),
            0,
        ),
        ("no-caps", json!({"DeviceRequests": [{"Count": 1}]}), 0),
        (
            "nested-caps",
            json!({"DeviceRequests": [{"Count": 1, "Capabilities": [[], null, ["gpu"], ["x", "gpu"]]}]}),
            1,
        ),
        (
            "two",
            json!({"DeviceRequests": [{"Count": 1, "Capabilities": gpu}, {"Count": 1, "Capabilities": gpu}]}),
            2,
        ),
        (
            "options",
            json!({"DeviceRequests": [{"Count": 1, "Capabilities": gpu, "Options": {"\u{1b}": "\u{7}"}}]}),
            1,
        ),
        ("node", device(&victims, "/dev/x", "rwm"), 0),
        ("node-no-access", device(&victims, "/dev/x", ""), 0),
        ("node-odd-access", device(&victims, "\u{1b}[2J", "mmm"), 0),
        ("node-relative", device(&victims, "../../x", "rwm"), 0),
        ("node-outside", device(&format!("../..{victims}"), "/dev/x", "rwm"), 0),
        ("rules", rules("c 195:* rwm", 20_000), 0),
        ("any-rules", rules("a *:* rwm", 5_000), 0),
        ("each-rule", json!({"DeviceCgroupRules": each}), 0),
        ("other-rules", json!({"DeviceCgroupRules": others}), 0),
        (
            "annotations",
            json!({"Annotations": {"cdi.k8s.io/x": "nvidia.com/gpu=all", "\u{1b}": "\u{7}"}}),
            0,
        ),
        ("runtime", json!({"Runtime": "../../../usr/bin/runc", "Privileged": true}), 0),
        (
            "privileged-wild",
            json!({"Privileged": true, "DeviceCgroupRules": ["c 195:* rwm"], "Runtime": "runc"}),
            0,
        ),
        ("parent", json!({"CgroupParent": "/\n\u{1b}[2J", "Privileged": true}), 0),
        (
            "oom",
            json!({"OomScoreAdj": -1000, "PidsLimit": 1, "CgroupnsMode": "host", "UsernsMode": "host"}),
            0,
        ),
        ("masked", json!({"MaskedPaths": [], "ReadonlyPaths": [], "Sysctls": {"\u{1b}": "1"}}), 0),
    ];
    for (name, host, most) in hosts {
        let ran = runs(&siege, name, &container(host));
        if ran {
            let opens = siege.is_its_own(name);
            assert!(opens.len() <= most, "{name} opens {opens:?}");
            assert!(!probe::opens_at(&siege.node, name, "/dev/x"), "{name}");
        } else if name == "node" || name == "two" || name == "nested-caps" {
            assert_eq!(name, "node", "{name} is as good as any other");
        }
        siege.node.docker(&["rm", "-f", name]);
        siege.stands(name);
    }
    siege.end();
}

#[test]
fn bodies_that_are_no_requests_leave_the_node_as_it_was() {
    if !engine_runs_here() {
        return;
    }
    let siege = Siege::begin(Strict::Both);
    let huge = "\u{1b}[31m".repeat(1 << 20);
    let labels: serde_json::Map<String, Value> =
        (0..10_000).map(|n| (format!("gpuctl.operation{n}"), json!("\u{1b}]0;x\u{7}"))).collect();
    let volumes: serde_json::Map<String, Value> =
        ["/dev", "/run/gpuctl", "/proc/x", "/sys/fs", "/etc"]
            .iter()
            .map(|v| ((*v).to_owned(), json!({})))
            .collect();
    let with = |more: Value| {
        let mut body =
            container(json!({"DeviceRequests": [{"Count": 1, "Capabilities": [["gpu"]]}]}));
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    // Containers that are entitled to one GPU, and try to be more than that.
    for (name, body) in [
        ("labels", with(json!({"Labels": labels}))),
        ("huge-label", with(json!({"Labels": {"huge": huge}}))),
        (
            "env-junk",
            with(
                json!({"Env": ["", "=", "=x", "\u{1b}", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES=all", "\u{fffd}\u{202e}=\n"]}),
            ),
        ),
        ("env-huge", with(json!({"Env": [format!("A={}", "x".repeat(10 << 20))]}))),
        (
            "env-many",
            with(
                json!({"Env": (0..2_000).map(|n| format!("A{n}=NVIDIA_VISIBLE_DEVICES=all")).collect::<Vec<_>>()}),
            ),
        ),
        ("volumes", with(json!({"Volumes": volumes}))),
        (
            "user",
            with(
                json!({"User": "\u{1b}[2J:\u{7}", "WorkingDir": "/dev/../..", "Hostname": "\u{1b}"}),
            ),
        ),
        (
            "entrypoint",
            with(
                json!({"Entrypoint": ["\u{1b}[2J no such file or directory", "permission denied"]}),
            ),
        ),
        ("stop", with(json!({"StopSignal": "\u{1b}", "Healthcheck": {"Test": ["CMD", "\u{1b}"]}}))),
    ] {
        if runs(&siege, name, &body) {
            let opens = siege.is_its_own(name);
            assert_eq!(opens.len(), 1, "{name}");
        }
        siege.node.docker(&["rm", "-f", "-v", name]);
        siege.stands(name);
    }
    let mut used = BTreeSet::new();
    for (at, bytes) in
        [&b"{"[..], b"[]", b"\xff\xfe", b"{\"HostConfig\":7}", b"null", &[b'['; 100_000]]
            .iter()
            .enumerate()
    {
        used.insert(
            api::post(&siege.node, &format!("/v1.41/containers/create?name=bad{at}"), bytes).status,
        );
    }
    assert!(!used.contains(&201), "{used:?}");
    // A thousand mounts, over everything that somebody may look at.
    let canary = siege.canary().display().to_string();
    let mut binds: Vec<String> = (0..1000).map(|n| format!("{canary}:/m/{n}:ro")).collect();
    binds.extend(
        ["/dev:/dev2", "/dev:/run/gpuctl/grants", "/sys:/var/run/nvidia-container-devices/all"]
            .map(String::from),
    );
    let body = container(
        json!({"Binds": binds, "Runtime": "runc", "DeviceRequests": [{"Count": 1, "Capabilities": [["gpu"]]}]}),
    );
    if runs(&siege, "mounts", &body) {
        let own = siege.is_its_own("mounts");
        assert_eq!(own.len(), 1);
        for minor in siege.node.gpus().iter().map(|g| g.minor) {
            let own = own.contains(&minor);
            assert_eq!(
                probe::opens_at(&siege.node, "mounts", &format!("/dev2/nvidia{minor}")),
                own
            );
        }
    }
    siege.node.docker(&["rm", "-f", "mounts"]);
    assert!(matches!(siege.run(&["--gpus", "6"], "busybox"), End::Opens(g) if g.len() == 6));
    siege.end();
}
