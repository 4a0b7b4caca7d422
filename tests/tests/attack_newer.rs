//! What only newer Engines let the adversary write: annotations, CDI devices, and an Engine that applies
//! CDI by itself before any runtime is called.

use gpuctl_tests::newer::Debian;
use gpuctl_tests::siege::{End, Siege, Strict};
use gpuctl_tests::{api, engine_runs_here, probe};
use serde_json::json;

#[test]
fn annotations_and_cdi_devices_give_what_is_leased() {
    if !engine_runs_here() {
        return;
    }
    let Some(debian) = Debian::of("sid") else { return };
    let siege = Siege::begin_on(Strict::PathAlone, Some(debian.root()));
    let (uuid, index) = siege.prize();
    let minor = siege.minor();
    let cdi = format!("nvidia.com/gpu={index}");
    let nothing: [&[&str]; 8] = [
        &["--annotation", "cdi.k8s.io/x=nvidia.com/gpu=all"],
        &["--annotation", "cdi.k8s.io/\u{1b}[2J=\u{7}\n", "--annotation", "gpuctl.token=x"],
        &[
            "--annotation",
            "run.oci.handler=krun",
            "--annotation",
            "io.kubernetes.cri-o.Devices=/dev/nvidia0",
        ],
        &[
            "--annotation",
            "org.criu.config=/etc/shadow",
            "--annotation",
            "module.wasm.image/variant=compat",
        ],
        &["--privileged"],
        &["--privileged", "--device-cgroup-rule", "c 195:* rwm", "--cgroupns", "host"],
        &["--device-cgroup-rule", "a *:* rwm"],
        &["-e", "NVIDIA_VISIBLE_DEVICES=all"],
    ];
    for flags in nothing {
        let end = siege.run(flags, "busybox");
        assert!(!matches!(&end, End::Opens(gpus) if !gpus.is_empty()), "{flags:?}: {end:?}");
    }
    let (all, by_uuid) = ("nvidia.com/gpu=all", format!("nvidia.com/gpu={uuid}"));
    let node = format!("/dev/nvidia{minor}:/dev/innocent");
    for device in [
        all,
        &cdi,
        &by_uuid,
        "nvidia.com/gpu=\u{1b}[2J",
        "nvidia.com/gpu=../0",
        "vendor.com/x=0",
        &node,
    ] {
        let end = siege.run(&["--device", device], "busybox");
        assert!(!matches!(&end, End::Opens(_)), "{device}: {end:?}");
        let end = siege.run(
            &["--device", device, "--runtime", "io.containerd.runc.v2", "--privileged"],
            "busybox",
        );
        assert!(!matches!(&end, End::Opens(gpus) if !gpus.is_empty()), "{device}: {end:?}");
    }
    for host in [
        json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [cdi]}], "Annotations": {"cdi.k8s.io/x": all}}),
        json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": vec![all; 2000]}]}),
        json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": []}, {"Count": -1, "Capabilities": [["gpu"]]}]}),
        json!({"Annotations": {"huge": "\u{1b}".repeat(1 << 20), "cdi.k8s.io/": "nvidia.com/gpu=,,=,nvidia.com/"}}),
    ] {
        let body =
            json!({"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": host}).to_string();
        let made = api::post(&siege.node, "/containers/create?name=crafted", body.as_bytes());
        if let Some(id) = made.id() {
            let started = api::post(&siege.node, &format!("/containers/{id}/start"), b"");
            gpuctl_tests::siege::clean(started.body["message"].as_str().unwrap_or_default());
            if started.status == 204 {
                assert!(siege.is_its_own("crafted").is_empty());
                assert!(!probe::opens_at(&siege.node, "crafted", &format!("/dev/nvidia{minor}")));
            }
        }
        siege.node.docker(&["rm", "-f", "crafted"]);
        siege.stands(&body);
    }
    let end =
        siege.run(&["--gpus", "1", "--annotation", "cdi.k8s.io/x=nvidia.com/gpu=all"], "busybox");
    assert!(matches!(&end, End::Opens(gpus) if gpus.len() == 1), "{end:?}");
    siege.end();
}
