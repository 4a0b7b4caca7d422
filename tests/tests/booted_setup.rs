//! `docker gpuctl setup` on a host with systemd: drop-ins, the links' unit, strict mode from the restart on,
//! over a reboot, and taken away again. See docs/setup.md.

use gpuctl_tests::booted::Host;

const DROP_INS: [&str; 2] = [
    "/etc/systemd/system/docker.service.d/zz-gpuctl.conf",
    "/etc/systemd/system/containerd.service.d/zz-gpuctl.conf",
];
const LINKS: [&str; 3] = [
    "/etc/udev/rules.d/70-gpuctl-links.rules",
    "/etc/systemd/system/gpuctl-links.service",
    "/etc/systemd/system/multi-user.target.wants/gpuctl-links.service",
];

/// What doctor says of the level.
fn level(host: &mut Host) -> String {
    let said = host.try_sh("docker gpuctl doctor").stdout;
    said.lines().find(|line| line.contains("level")).unwrap_or(&said).to_owned()
}

/// The PATH that a service's process has.
fn path(host: &mut Host, service: &str) -> String {
    host.sh(&format!(
        "tr '\\0' '\\n' </proc/$(systemctl show -P MainPID {service})/environ | sed -n 's/^PATH=//p'"
    ))
}

/// GPUs by a bare device node and by --gpus are leased; what is leased is refused to others.
fn is_enforced(host: &mut Host, when: &str) {
    for runtime in ["", "--runtime runc"] {
        let taken = host.try_sh(&format!(
            "docker run --rm --network none {runtime} --device /dev/nvidia3 busybox true"
        ));
        assert_eq!(taken.code, 125, "{when}, {runtime}: {taken}");
        assert!(taken.stderr.contains("before"), "{when}: the holder is named: {taken}");
    }
    host.run("two", "--gpus 2");
    assert_eq!(host.holds_what_it_opens("two").len(), 2, "{when}");
    host.run("privileged", "--runtime runc --privileged");
    assert!(host.open("privileged").gpus.is_empty(), "{when}");
    host.sh("docker rm -f two privileged");
}

#[test]
fn setup_makes_a_host_strict_over_a_reboot_and_undoes_it() {
    let Some(mut host) = Host::boot_package() else { return };
    host.sh("systemctl daemon-reload; systemctl enable -q --now gpuctl");
    // What runs already, and was started where nobody had made links.
    host.sh("! test -e /dev/char/195:3");
    host.run("before", "--restart always --device /dev/nvidia3 --device /dev/nvidiactl");
    assert_eq!(host.open("before").gpus, [3].into());

    let plan = host.sh("docker gpuctl setup --strict --dry-run");
    host.sh("! test -e /dev/char/195:3 && ! ls /etc/systemd/system/*.service.d/zz-gpuctl.conf");
    let said = host.try_sh("docker gpuctl setup --strict");
    assert_eq!(said.code, 0, "{said}");
    for file in DROP_INS.iter().chain(&LINKS) {
        assert!(plan.contains(file), "{file} is not in the plan:\n{plan}");
        host.sh(&format!("test -e {file}"));
    }
    assert!(said.stdout.contains("daemon-reload"), "{said}");
    // systemd has read its units anew, by setup and now by hand.
    let kept = host.holds_what_it_opens("before");
    assert_eq!(kept, [3].into(), "setup's own daemon-reload");
    host.reload();
    assert_eq!(host.open("before").gpus, kept);
    assert!(host.open("before").has(&["null", "zero", "urandom", "tty", "255"]));
    assert!(level(&mut host).contains("cooperative"), "{}", level(&mut host));

    // What it says is to be typed.
    let todo = said.stderr.lines().find_map(|l| l.strip_prefix("to do: ")).expect("a line to do");
    let command = todo.split_once(": ").map_or(todo, |(_, rest)| rest);
    let command = command.split(" (").next().expect("the command").to_owned();
    assert_eq!(command, "systemctl restart containerd docker", "{said}");
    host.sh(&command);
    for service in ["docker", "containerd"] {
        let path = path(&mut host, service);
        assert!(path.starts_with("/usr/libexec/gpuctl/strict:"), "{service}: {path}");
    }
    assert!(level(&mut host).contains("strict"), "{}", level(&mut host));
    host.wait_for("the container", "docker exec before true");
    assert_eq!(host.holds_what_it_opens("before"), [3].into(), "after the restart");
    is_enforced(&mut host, "after setup");
    let again = host.try_sh("docker gpuctl setup --strict");
    assert_eq!(again.code, 0, "{again}");
    assert!(again.stderr.contains("nothing to change"), "{again}");

    // A reboot: the nodes are made anew, and nobody but the unit makes their links.
    host.machine.power_off().expect("it powers off");
    host.machine.power_on().expect("it boots again");
    host.machine.settle().expect("systemd is done with the boot");
    host.sh("systemctl show -P Result gpuctl-links | grep -x success");
    for minor in (0..8).chain([255]) {
        host.sh(&format!("test -c /dev/char/195:{minor}"));
    }
    host.wait_for("the container", "docker exec before true");
    assert_eq!(host.holds_what_it_opens("before"), [3].into(), "after the reboot");
    assert!(level(&mut host).contains("strict"), "{}", level(&mut host));
    is_enforced(&mut host, "after the reboot");

    // All of it goes.
    let said = host.try_sh("docker gpuctl setup --remove");
    assert_eq!(said.code, 0, "{said}");
    for file in DROP_INS.iter().chain(&LINKS) {
        host.sh(&format!("! test -e {file}"));
    }
    host.sh("systemctl restart containerd docker");
    for service in ["docker", "containerd"] {
        let path = path(&mut host, service);
        assert!(!path.contains("gpuctl"), "{service}: {path}");
    }
    assert_eq!(host.sh("docker info -f '{{.DefaultRuntime}}'"), "runc");
    host.sh("docker run --rm --network none busybox true");
    host.sh(
        "docker run -d --network none --name after --device /dev/nvidia3 busybox sleep 1000000",
    );
    assert_eq!(host.open("after").gpus, [3].into());
    host.machine.power_off().expect("it powers off");
}
