//! What only a booted machine shows: systemd as the first process and as the Engine's cgroup driver,
//! cgroup v2, units in whatever order, and a power that is cut. See docs/adr/0013.

use gpuctl_tests::booted::Host;
use gpuctl_vm::CgroupDriver;

/// What every container may open.
const ORDINARY: [&str; 4] = ["null", "zero", "urandom", "tty"];
/// nvidiactl.
const CONTROL: &str = "255";

/// The links of /dev/char decide what stays when systemd writes a container's rules anew. The wrapper
/// makes those of what it grants.
#[test]
fn systemd_takes_no_granted_device_away() {
    let Some(mut host) = Host::boot(CgroupDriver::Systemd, false) else { return };
    assert_eq!(host.sh("docker info -f '{{.CgroupDriver}} {{.CgroupVersion}}'"), "systemd 2");
    host.run("two", "--gpus 2");
    let held = host.holds_what_it_opens("two");
    assert_eq!(held.len(), 2);
    let before = host.open("two");
    assert!(before.has(&ORDINARY) && before.has(&[CONTROL, "nvidia-uvm"]), "{before:?}");
    for minor in held.iter().chain([&255]) {
        host.sh(&format!("test -c /dev/char/195:{minor}"));
    }
    let uvm_is_linked = host.try_sh("test -c /dev/char/510:0").code == 0;
    let check = |host: &mut Host, after: &str| {
        let open = host.open("two");
        assert_eq!(open.gpus, held, "after {after}");
        assert!(open.has(&ORDINARY) && open.has(&[CONTROL]), "after {after}: {open:?}");
        assert!(!uvm_is_linked || open.has(&["nvidia-uvm"]), "after {after}: {open:?}");
    };
    host.reload();
    check(&mut host, "daemon-reload");
    host.update("two");
    check(&mut host, "update");
    host.reload();
    check(&mut host, "update and daemon-reload");

    // Without the links, as by a runtime that makes none: this is why they are made.
    let free = (0..8).find(|minor| !held.contains(minor)).expect("a free GPU");
    let link = format!("/dev/char/195:{free}");
    host.sh(&format!("rm -f {link}"));
    host.run("bare", &format!("--runtime runc --device /dev/nvidia{free}"));
    assert_eq!(host.open("bare").gpus, [free].into());
    host.reload();
    assert_eq!(host.open("bare").gpus, [].into(), "systemd knows no node without a link");
    host.sh(&format!("ln -s ../nvidia{free} {link} && docker restart -t 0 bare"));
    host.reload();
    assert_eq!(host.open("bare").gpus, [free].into());
    check(&mut host, "all that");
}

/// Taking GPUs out of rules that open everything leaves everything else, also when the rules are
/// written anew.
fn strip_leaves_all_else(driver: CgroupDriver) {
    let Some(mut host) = Host::boot(driver, false) else { return };
    let of_all = ["null", "zero", "urandom", "tty", "fuse", "loop0"];
    let of_characters = ["null", "zero", "urandom", "tty", "fuse"];
    let containers: [(&str, &str, usize, &[&str]); 6] = [
        ("privileged", "--privileged", 0, &of_all),
        ("with-one", "--privileged --gpus 1", 1, &of_all),
        ("rule-all", "--device-cgroup-rule 'a *:* rwm'", 0, &of_all),
        ("rule-characters", "--device-cgroup-rule 'c *:* rwm'", 0, &of_characters),
        ("rule-major", "--device-cgroup-rule 'c 195:* rwm'", 0, &ORDINARY),
        ("plain", "", 0, &ORDINARY),
    ];
    let mut held = Vec::new();
    for (name, flags, count, others) in containers {
        host.run(name, flags);
        let its = host.holds_what_it_opens(name);
        assert_eq!(its.len(), count, "{name}");
        let open = host.open(name);
        assert!(open.has(others), "{name}: {open:?}");
        assert!(!open.has(&["nvidia-cap1"]) || name != "plain", "{open:?}");
        held.push(its);
    }
    let check = |host: &mut Host, after: &str| {
        for ((name, _, _, others), held) in containers.iter().zip(&held) {
            let open = host.open(name);
            assert_eq!(&open.gpus, held, "{name} after {after}");
            assert!(open.has(others), "{name} after {after}: {open:?}");
            assert!(held.is_empty() || open.has(&[CONTROL]), "{name} after {after}: {open:?}");
        }
    };
    host.reload();
    check(&mut host, "daemon-reload");
    for (name, ..) in containers {
        host.update(name);
    }
    check(&mut host, "update");
    host.reload();
    check(&mut host, "update and daemon-reload");
    host.sh("docker exec privileged sh -c 'echo x >/dev/null'");
}

#[test]
fn strip_leaves_all_else_where_systemd_has_the_cgroups() {
    strip_leaves_all_else(CgroupDriver::Systemd);
}

#[test]
fn strip_leaves_all_else_where_the_engine_has_the_cgroups() {
    strip_leaves_all_else(CgroupDriver::Cgroupfs);
}

/// A power cut, and a boot in either order of Engine and service. What Docker starts again has the
/// GPUs that it had; what it does not holds none.
#[test]
fn a_power_cut_frees_what_does_not_come_back_and_keeps_what_does() {
    let Some(mut host) = Host::boot(CgroupDriver::Systemd, false) else { return };
    host.sh("docker gpuctl run -d --name train --gpus 2 --restart always --network none busybox sleep 1000000");
    host.sh("docker gpuctl run -d --name trial --gpus 1 --network none busybox sleep 1000000");
    host.run("always", "--gpus 1 --restart always");
    host.run("once", "--gpus 1");
    let (train, always) = (host.holds_what_it_opens("train-0"), host.holds_what_it_opens("always"));
    assert_eq!((train.len(), always.len()), (2, 1));
    assert_eq!(host.leased("once").0.len() + host.leased("trial-0").0.len(), 2);
    let boot = host.sh("cat /proc/sys/kernel/random/boot_id");
    // Who comes up late in the boot that follows.
    for late in ["docker", "gpuctl"] {
        let folder = format!("/etc/systemd/system/{late}.service.d");
        host.sh(&format!(
            "rm -f /etc/systemd/system/*.service.d/late.conf; mkdir -p {folder}; \
             printf '[Service]\\nExecStartPre=/bin/sleep 20\\n' >{folder}/late.conf; sync"
        ));
        host.machine.power_cut();
        host.machine.power_on().expect("the machine boots again");
        if late == "docker" {
            // What is reserved is so before the Engine is there, and nobody else's.
            host.wait_for(
                "the service",
                "docker gpuctl gpus -q || test -S /run/gpuctl/gpuctl.sock",
            );
        }
        host.machine.settle().expect("systemd is done with the boot");
        assert_ne!(host.sh("cat /proc/sys/kernel/random/boot_id"), boot);
        for name in ["train-0", "always"] {
            let running =
                format!("test \"$(docker inspect -f '{{{{.State.Running}}}}' {name})\" = true");
            host.wait_for(name, &running);
        }
        assert_eq!(host.holds_what_it_opens("train-0"), train, "{late} was late");
        assert_eq!(host.holds_what_it_opens("always"), always, "{late} was late");
        host.wait_for(
            "the end of what does not come back",
            "! docker gpuctl gpus --format json | grep -E '\"holder\":\"(once|trial-0)\"'",
        );
        // And they are free for others.
        host.run("other", "--gpus 5");
        assert_eq!(host.holds_what_it_opens("other").len(), 5);
        host.sh("docker rm -f other");
    }
    // What was removed by hand a moment ago is freed within seconds.
    host.wait_for("a node without a finding", "docker gpuctl doctor");
}

/// Strict mode by two drop-ins: our `runc` stands first on the PATH of dockerd and of containerd.
#[test]
fn strict_drop_ins_catch_every_runtime_by_name() {
    let Some(mut host) = Host::boot(CgroupDriver::Systemd, true) else { return };
    let named = |minor: u32| format!("--device /dev/nvidia{minor}");
    for (minor, runtime) in
        ["", "--runtime runc", "--runtime io.containerd.runc.v2"].iter().enumerate()
    {
        let (minor, name) = (u32::try_from(minor).expect("small"), format!("by-{minor}"));
        host.run(&name, &format!("{runtime} {}", named(minor)));
        assert_eq!(host.holds_what_it_opens(&name), [minor].into(), "{runtime}");
        let taken = host.try_sh(&format!(
            "docker run --rm --network none {runtime} {} busybox true",
            named(minor)
        ));
        assert_eq!(taken.code, 125, "{runtime}: {taken}");
        assert!(taken.stderr.contains(&name), "the holder is named: {taken}");
        let privileged = format!("privileged-{minor}");
        host.run(&privileged, &format!("{runtime} --privileged"));
        assert_eq!(host.open(&privileged).gpus, [].into(), "{runtime}");
    }
    host.reload();
    assert_eq!(host.holds_what_it_opens("by-1"), [1].into());
    // A container that was made before keeps its runtime's name, which is now ours.
    assert_eq!(host.sh("docker inspect -f '{{.HostConfig.Runtime}}' by-1"), "runc");
    host.sh("docker restart -t 0 by-1");
    assert_eq!(host.holds_what_it_opens("by-1"), [1].into());
    host.machine.power_off().expect("it powers off");
}
