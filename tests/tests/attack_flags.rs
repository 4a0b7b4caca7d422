//! The adversary writes `docker run` lines. Strict mode, and nothing but the `runc` on dockerd's PATH
//! keeps him out: no runtime of ours is the default.

use std::fs;
use std::os::unix::fs::symlink;

use gpuctl_tests::siege::{End, Siege, Strict, VICTIM};
use gpuctl_tests::{engine_runs_here, probe};

/// It runs, and opens nothing.
#[track_caller]
fn nothing(end: &End) {
    assert!(matches!(end, End::Opens(gpus) if gpus.is_empty()), "{end:?}");
}

/// It runs, and opens so many, all its own.
#[track_caller]
fn own(end: &End, count: usize) {
    assert!(matches!(end, End::Opens(gpus) if gpus.len() == count), "{end:?}");
}

/// It is refused by us.
#[track_caller]
fn refused(end: &End) {
    assert!(matches!(end, End::Refused(_)), "{end:?}");
}

/// It runs and opens nothing, or does not run.
#[track_caller]
fn gains_nothing(end: &End) {
    assert!(!matches!(end, End::Opens(gpus) if !gpus.is_empty()), "{end:?}");
}

#[test]
fn the_environment_and_labels_give_no_gpu_and_no_name() {
    if !engine_runs_here() {
        return;
    }
    let siege = Siege::begin(Strict::PathAlone);
    let (uuid, _) = siege.prize();
    let victims = format!("NVIDIA_VISIBLE_DEVICES={uuid}");
    let preload = format!("LD_PRELOAD={}/evil.so", siege.canary().display());
    let config = format!("GPUCTL_CONFIG={}/config.toml", siege.canary().display());
    let environments: [&[&str]; 8] = [
        &["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=0", "nvidia_visible_devices=all"],
        &[
            "NVIDIA_VISIBLE_DEVICES =all",
            " NVIDIA_VISIBLE_DEVICES=all",
            "NVIDIA_VISIBLE_DEVICES=void,all",
        ],
        &["A\nNVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=all\n", "\u{1b}]0;x\u{7}=1"],
        &["NVIDIA_VISIBLE_DEVICES=\u{1b}[2J\u{202e}0", "CUDA_VERSION=8.0"],
        &["NVIDIA_VISIBLE_DEVICES=-1", "NVIDIA_MIG_CONFIG_DEVICES=all", "NVIDIA_DISABLE_REQUIRE=1"],
        &[&victims, "NVIDIA_IMEX_CHANNELS=0", "CUDA_VISIBLE_DEVICES=0"],
        &[&preload, &config, "LD_LIBRARY_PATH=.", "GCONV_PATH=.", "PATH=/evil:/bin"],
        &["GPUCTL_RUNTIME_DEPTH=9", "GPUCTL_VIA=local", "_LIBCONTAINER_INITPIPE=3"],
    ];
    for environment in environments {
        let flags: Vec<&str> = environment.iter().flat_map(|e| ["-e", e]).collect();
        nothing(&siege.run(&flags, "busybox"));
    }
    // Beside a request that is his to make, they change nothing of it.
    for environment in environments.iter().take(4) {
        let mut flags: Vec<&str> = environment.iter().flat_map(|e| ["-e", e]).collect();
        flags.extend(["--gpus", "1"]);
        own(&siege.run(&flags, "busybox"), 1);
    }
    nothing(&siege.run(&[], "cuda-like"));

    // Labels that look like ours, with the victim's own token in them.
    let victim = siege.node.id(VICTIM);
    let leases = siege.node.leases();
    let lease = leases.values().find(|l| l.holder.container.as_str() == victim).expect("a lease");
    let token = format!("gpuctl.operation={}", lease.token.as_str());
    let labels = [
        token.as_str(),
        "gpuctl.name=victim",
        "gpuctl.version=0",
        "com.docker.compose.project=\u{1b}[2Jx",
        "\u{7}\n=\u{9b}",
    ];
    let flags: Vec<&str> = labels.iter().flat_map(|l| ["--label", l]).collect();
    nothing(&siege.run(&flags, "busybox"));
    own(&siege.run(&[&flags[..], &["--gpus", "1"]].concat(), "busybox"), 1);
    refused(&siege.run(
        &[&flags[..], &["--gpus", "device=", "--gpus", &format!("device={uuid}")]].concat(),
        "busybox",
    ));

    // Ten thousand labels, one of them of 2 MB, and names as long and as odd as Docker takes.
    let file = siege.node.place().at("docker/labels");
    let mut text: String = (0..10_000).map(|n| format!("gpuctl.{n}=x\n")).collect();
    text.push_str(&format!("huge={}\n", "\u{1b}[1m".repeat(16_000)));
    fs::write(&file, text).unwrap();
    let file = file.to_string_lossy().into_owned();
    nothing(&siege.run(&["--label-file", &file], "busybox"));
    own(&siege.run(&["--label-file", &file, "--gpus", "2"], "busybox"), 2);
    for name in ["n".repeat(4000), "victim_".into(), "a..-_b".into()] {
        let got = siege
            .docker(&["run", "-d", "--name", &name, "--gpus", "1", "busybox", "sleep", "1000"]);
        own(&siege.judge(&name, &got, &["a name"]), 1);
        siege.node.docker_ok(&["rm", "-f", &name]);
    }
    gains_nothing(
        &siege.run(&["--hostname", "\u{1b}]0;x\u{7}", "--domainname", "a\nb"], "busybox"),
    );
    siege.end();
}

#[test]
fn device_flags_give_what_is_leased_by_whatever_path() {
    if !engine_runs_here() {
        return;
    }
    let siege = Siege::begin(Strict::PathAlone);
    let minor = siege.minor();
    let node = format!("/dev/nvidia{minor}");
    let link = siege.canary().join("folder/link");
    symlink(&node, &link).unwrap();
    // Of the siege's own making, so that it does not stand for a fault.
    let siege = siege.afresh();
    let link = link.to_string_lossy().into_owned();
    for device in [
        node.clone(),
        format!("{node}:/dev/innocent"),
        format!("{node}:/dev/null2:r"),
        format!("/dev/../dev//nvidia{minor}"),
        format!("/proc/self/root{node}"),
        format!("/dev/nvidia{minor}:/dev/nvidia{minor}/"),
        link.clone(),
        format!("{link}:/x"),
    ] {
        let end = siege.run(&["--device", &device], "busybox");
        assert!(!matches!(&end, End::Opens(_)), "{device}: {end:?}");
    }
    refused(&siege.run(&["--device", &node], "busybox"));
    refused(&siege.run(&["--device", "/dev:/d"], "busybox"));
    for rule in [
        "a *:* rwm",
        "a *:* m",
        "c *:* rwm",
        "c *:* m",
        "c 195:* rwm",
        "c 195:* r",
        "c 195:* m",
        "c 195:* rrr",
        "b 195:* rwm",
        "a 195:0 rwm",
        "c 4294967491:* rwm",
        "c 195:4294967296 rwm",
        "c 0xc3:* rwm",
        "a",
        "c 195:* rwmx",
        " c 195:* rwm",
        "c 195:* rwm\n",
        "c 195:-1 rwm",
        "c 18446744073709551811:0 rwm",
    ] {
        gains_nothing(&siege.run(&["--device-cgroup-rule", rule], "busybox"));
    }
    for rule in
        [format!("c 195:{minor} rwm"), format!("c 195:000{minor} r"), format!("c 0195:{minor} w")]
    {
        let end = siege.run(&["--device-cgroup-rule", &rule], "busybox");
        assert!(!matches!(&end, End::Opens(_)), "{rule}: {end:?}");
    }
    nothing(&siege.run(&["--device-cgroup-rule", &format!("c 195:{minor} m")], "busybox"));
    gains_nothing(&siege.run(&["--device-cgroup-rule", &format!("c *:{minor} rwm")], "busybox"));
    let many: Vec<String> = (0..400).map(|n| format!("c *:{n} rwm")).collect();
    let flags: Vec<&str> = many.iter().flat_map(|r| ["--device-cgroup-rule", r]).collect();
    gains_nothing(&siege.run(&flags, "busybox"));
    siege.end();
}

#[test]
fn rights_and_namespaces_give_no_gpu() {
    if !engine_runs_here() {
        return;
    }
    let siege = Siege::begin(Strict::PathAlone);
    let dev = siege.node.place().dev().display().to_string();
    let victim = format!("/{}/{}", siege.node.place().cgroup(), siege.node.id(VICTIM));
    let all: [&[&str]; 17] = [
        &["--privileged"],
        &["--privileged", "--device-cgroup-rule", "c 195:* rwm", "-v", "/dev:/dev"],
        &["--privileged", "--pid", "host", "--ipc", "host", "--uts", "host", "--network", "host"],
        &["--privileged", "--cgroupns", "host", "-e", "NVIDIA_VISIBLE_DEVICES=all"],
        &["--cap-add", "ALL", "--security-opt", "seccomp=unconfined"],
        &["--cap-add", "SYS_ADMIN", "--cap-add", "MKNOD", "--security-opt", "apparmor=unconfined"],
        &["--security-opt", "no-new-privileges", "--security-opt", "systempaths=unconfined"],
        &["--pid", "host", "--cap-add", "SYS_PTRACE"],
        &["--pid", "container:victim", "--ipc", "host", "--network", "container:victim"],
        &["--userns", "host", "--cgroupns", "host"],
        &["--cgroup-parent", "/"],
        &["--cgroup-parent", &victim],
        &["--cgroup-parent", "/../../../.."],
        &["--cgroup-parent", "/a:devices:/b\u{1b}[2J"],
        &["--volumes-from", "victim"],
        &["-v", "/dev:/dev"],
        &["--init", "--read-only", "--tmpfs", "/tmp:dev", "--tmpfs", "/dev/shm2"],
    ];
    for flags in all {
        gains_nothing(&siege.run(flags, "busybox"));
    }
    nothing(&siege.run(&["--privileged"], "busybox"));
    nothing(&siege.run(&["--volumes-from", VICTIM], "busybox"));
    own(&siege.run(&["--privileged", "--gpus", "1"], "busybox"), 1);
    for runtime in [
        "runc",
        "io.containerd.runc.v2",
        "io.containerd.runc.v1",
        "gpuctl",
        "gpuctl-gate",
        "nvidia",
        "../../strict/runc",
        "/usr/bin/runc",
        "",
        "\u{1b}[2J",
    ] {
        gains_nothing(&siege.run(&["--runtime", runtime, "--privileged"], "busybox"));
        let end = siege.run(&["--runtime", runtime, "--gpus", "1"], "busybox");
        assert!(!matches!(&end, End::Opens(gpus) if gpus.len() > 1), "{runtime}: {end:?}");
    }
    let _ = dev;
    siege.end();
}

#[test]
fn odd_gpu_requests_give_what_is_free_or_nothing() {
    if !engine_runs_here() {
        return;
    }
    let siege = Siege::begin(Strict::PathAlone);
    let (uuid, index) = siege.prize();
    for value in [
        format!("device={uuid}"),
        format!("\"device={index},{index}\""),
        format!("device={index}"),
        format!("device={}", uuid.to_lowercase()),
    ] {
        refused(&siege.run(&["--gpus", &value], "busybox"));
    }
    for (value, most) in [
        ("0", 0),
        ("count=0", 0),
        ("device=", 6),
        ("1,driver=nvidia", 1),
        ("driver=../x,count=1", 0),
        ("count=1,capabilities=utility", 1),
        ("\"capabilities=compute,utility\",count=2", 2),
        ("99999", 0),
        ("-5", 0),
        ("device=\u{1b}[2J", 0),
        ("\"device=0:0,\u{202e}\"", 0),
        ("device=../../x", 0),
        ("device=nvidia.com/gpu=all", 0),
        ("all", 0),
        ("7", 0),
        ("count=1,options=\u{7}", 1),
        ("capabilities=\u{1b}", 0),
    ] {
        let end = siege.run(&["--gpus", value], "busybox");
        assert!(!matches!(&end, End::Opens(gpus) if gpus.len() > most), "{value}: {end:?}");
    }
    own(&siege.run(&["--gpus", "2", "--device", "/dev/null:/dev/n2"], "busybox"), 2);
    gains_nothing(&siege.run(&["--gpus", "3", "--gpus", "4"], "busybox"));
    siege.end();
}

#[test]
fn nodes_from_elsewhere_open_nothing() {
    if !engine_runs_here() {
        return;
    }
    let siege = Siege::begin(Strict::PathAlone);
    let node = &siege.node;
    let minor = siege.minor().to_string();
    // The victim's friend makes a node in a volume that both have.
    node.docker_ok(&["exec", VICTIM, "mknod", "-m", "666", "/shared/n", "c", "195", &minor]);
    assert!(probe::opens_at(node, VICTIM, "/shared/n"), "the victim opens its own by that node");
    let on_host = node.place().data().join("volumes/shared/_data/n").display().to_string();
    for (name, flags) in [
        ("by-volume", vec!["-v".to_owned(), "shared:/shared".into()]),
        ("by-bind", vec!["-v".into(), format!("{on_host}:/shared/n")]),
        ("by-mount", vec!["--mount".into(), format!("type=bind,src={on_host},dst=/shared/n")]),
        ("by-privilege", vec!["--privileged".into(), "-v".into(), "shared:/shared".into()]),
        ("by-victim", vec!["--volumes-from".into(), VICTIM.into()]),
    ] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let line =
            [&["run", "-d", "--name", name], &flags[..], &["busybox", "sleep", "1000"]].concat();
        let got = siege.docker(&line);
        nothing(&siege.judge(name, &got, &flags));
        assert!(!probe::opens_at(node, name, "/shared/n"), "{name}");
        let got = siege.docker(&[
            "exec",
            "--privileged",
            name,
            "sh",
            "-c",
            "mknod /m c 195 $0; : </m",
            &minor,
        ]);
        assert_ne!(got.code, 0, "exec --privileged opens it\n{got}");
        assert!(!probe::opens_at(node, name, "/m"), "{name}");
        siege.docker(&["exec", "-e", "NVIDIA_VISIBLE_DEVICES=all", name, "true"]);
        nothing(&End::Opens(siege.is_its_own(name)));
    }
    refused(&siege.run(&["--device", &format!("{on_host}:/dev/innocent")], "busybox"));

    // docker cp carries a node from one container to another, docker commit a whole one.
    let tar = siege.node.place().at("docker/node.tar");
    let engine = siege.node.site().engine();
    let cli = |words: String| {
        let mut sh = std::process::Command::new("sh");
        let docker = engine.docker();
        for (name, value) in docker.get_envs() {
            if let Some(value) = value {
                sh.env(name, value);
            }
        }
        let words = words.replace("DOCKER", &docker.get_program().to_string_lossy());
        let got = gpuctl_sim::command::run(sh.args(["-c", &words]), siege::BOUND).unwrap();
        assert_eq!(got.code, 0, "{got}");
    };
    cli(format!("DOCKER cp {VICTIM}:/shared/n - >{}", tar.display()));
    cli(format!("DOCKER cp - by-bind:/tmp <{}", tar.display()));
    assert!(!probe::opens_at(node, "by-bind", "/tmp/n"));
    node.docker_ok(&["exec", VICTIM, "cp", "-a", "/shared/n", "/n"]);
    node.docker_ok(&[
        "commit",
        "--change",
        "ENV NVIDIA_VISIBLE_DEVICES=all",
        "-c",
        "LABEL gpuctl.name=victim",
        VICTIM,
        "copy",
    ]);
    let got = siege.docker(&["run", "-d", "--name", "copied", "copy", "sleep", "1000"]);
    nothing(&siege.judge("copied", &got, &["copy"]));
    assert!(!probe::opens_at(node, "copied", "/n"));

    // What can be changed of a running container opens nothing either, nor does it after a restart.
    siege.docker(&[
        "update",
        "--cpu-shares",
        "512",
        "--memory",
        "64m",
        "--memory-swap",
        "64m",
        "copied",
    ]);
    nothing(&End::Opens(siege.is_its_own("copied")));
    let body = br#"{"DeviceCgroupRules":["c 195:* rwm"],"Privileged":true,"CpuShares":3,
        "Devices":[{"PathOnHost":"/dev/nvidia0","PathInContainer":"/dev/x","CgroupPermissions":"rwm"}]}"#;
    let id = node.id("copied");
    let answer = gpuctl_tests::api::post(node, &format!("/containers/{id}/update"), body);
    nothing(&End::Opens(siege.is_its_own("copied")));
    siege.docker(&["restart", "-t", "0", "copied"]);
    nothing(&End::Opens(siege.is_its_own("copied")));
    assert!(answer.status != 0, "{answer:?}");
    siege.end();
}

use gpuctl_tests::siege;
