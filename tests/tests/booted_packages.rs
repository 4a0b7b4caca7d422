//! The deb on a host with systemd and Docker: installed, set up, used, upgraded with containers that run,
//! removed under them, installed again by an answer, purged. See docs/packages.md.

use gpuctl_tests::booted::Host;
use gpuctl_tests::packages::{have, make};
use gpuctl_vm::product::PROC;

/// Answers to none of debconf's questions.
const DPKG: &str = "DEBIAN_FRONTEND=noninteractive dpkg";

/// What Docker's default runtime is.
fn default_runtime(host: &mut Host) -> String {
    host.sh("docker info -f '{{.DefaultRuntime}}'")
}

/// Installs a deb; what it said.
fn install(host: &mut Host, deb: &str) -> String {
    let got = host.try_sh(&format!("{DPKG} -i /root/{deb}.deb"));
    assert_eq!(got.code, 0, "{got}\n{}", host.last_words());
    got.stderr
}

#[test]
fn the_deb_lives_its_life_on_a_booted_host() {
    if gpuctl_tests::full() && !have(&["dpkg-deb", "rpmbuild"]) {
        return;
    }
    let Some(mut host) = Host::boot_driver() else { return };
    for (version, name) in [("0.0.8", "old"), ("0.0.9", "middle"), ("9.9.9", "new")] {
        let made = make(version);
        let to = format!("/root/{name}.deb");
        host.machine.put(&[(&made.deb, to.as_str())]).expect("the deb is put there");
    }
    // What runs already, where nobody had made links: a daemon-reload would take its GPU.
    host.sh("! test -e /dev/char/195:3");
    host.run("before", "--device /dev/nvidia3 --device /dev/nvidiactl");
    assert_eq!(host.open("before").gpus, [3].into());
    let dockerd = host.sh("pidof dockerd");

    // Installed: nothing of Docker is changed.
    let said = install(&mut host, "old");
    assert!(said.contains("docker gpuctl setup"), "what to type next: {said}");
    assert_eq!(default_runtime(&mut host), "runc");
    host.sh("! test -e /etc/docker/daemon.json && ! ls -d /etc/systemd/system/docker.service.d");
    assert_eq!(host.open("before").gpus, [3].into(), "no reload");
    assert_eq!(host.sh("stat -c '%a %U' /var/lib/gpuctl"), "700 root");
    assert_eq!(host.sh("stat -c '%a %U %G' /run/gpuctl/gpuctl.sock"), "660 root docker");
    host.sh("test -e /dev/char/195:3");
    host.sh("systemctl is-active gpuctl.socket gpuctl.service && systemctl is-enabled gpuctl.socket gpuctl.service gpuctl-links.service");
    host.sh("test -z \"$(systemctl --failed --no-legend | grep gpuctl)\"");

    // A unit that changed is read anew, and takes nothing from what runs.
    host.sh(&format!("sed -i 's|^# proc = .*|proc = \"{PROC}\"|' /etc/gpuctl/config.toml; grep -q ^proc /etc/gpuctl/config.toml"));
    let config = host.sh("sha256sum /etc/gpuctl/config.toml");
    let served = host.sh("systemctl show -P MainPID gpuctl.service");
    let said = install(&mut host, "middle");
    assert!(!said.contains("docker gpuctl setup --dry-run"), "only the first time: {said}");
    assert!(said.contains("systemctl daemon-reload"), "{said}");
    assert_eq!(host.sh("systemctl show -P NeedDaemonReload gpuctl.service"), "no", "{said}");
    assert_eq!(host.open("before").gpus, [3].into(), "the upgrade reloads: {said}");
    host.reload();
    assert_eq!(host.open("before").gpus, [3].into(), "and so may others");
    assert_eq!(host.sh("sha256sum /etc/gpuctl/config.toml"), config);
    assert_ne!(
        host.sh("systemctl show -P MainPID gpuctl.service"),
        served,
        "the new program serves"
    );

    // Set up and used.
    host.sh("docker gpuctl setup");
    assert_eq!(default_runtime(&mut host), "gpuctl-gate");
    host.sh("! test -e /etc/udev/rules.d/70-gpuctl-links.rules && ! test -e /etc/systemd/system/gpuctl-links.service");
    assert_eq!(host.holds_what_it_opens("before"), [3].into());
    host.sh("docker gpuctl run -d --network none --name train --gpus 2 busybox sleep 1000000");
    assert_eq!(host.holds_what_it_opens("train-0").len(), 2);
    host.sh("HOME=/ setpriv --reuid 4711 --regid $(getent group docker | cut -d: -f3) --clear-groups docker gpuctl ps -q | grep -q .");
    let refused = host.try_sh("docker run --rm --network none --device /dev/nvidia3 busybox true");
    assert_eq!(refused.code, 125, "{refused}");

    // Upgraded under them.
    let config = host.sh("sha256sum /etc/gpuctl/config.toml");
    let (began, held) =
        (host.sh("docker inspect -f '{{.State.StartedAt}}' train-0"), host.leased("train-0"));
    install(&mut host, "new");
    assert_eq!(host.sh("docker inspect -f '{{.State.StartedAt}}' train-0"), began);
    assert_eq!(host.leased("train-0"), held);
    assert_eq!(host.holds_what_it_opens("train-0").len(), 2);
    assert_eq!(host.sh("sha256sum /etc/gpuctl/config.toml"), config);
    assert_eq!(default_runtime(&mut host), "gpuctl-gate");

    // Removed under them: Docker is as it was, and what runs can be ended.
    let got = host.try_sh(&format!("{DPKG} -r docker-gpuctl"));
    assert_eq!(got.code, 0, "{got}");
    assert!(got.stderr.contains("lead to /usr/"), "what is left is named: {got}");
    assert_eq!(default_runtime(&mut host), "runc");
    assert_eq!(host.sh("pidof dockerd"), dockerd, "nobody restarted Docker");
    assert_eq!(host.open("train-0").gpus, held.0, "it runs on");
    host.sh("docker stop -t 1 train-0 && ! docker exec train-0 true");
    host.sh("docker start train-0 && docker exec train-0 true && docker stop -t 1 train-0");
    host.sh("docker run --rm --network none busybox true");
    host.sh("test -e /etc/gpuctl/config.toml && test -s /var/lib/gpuctl/ledger.db");
    host.sh("! systemctl is-active gpuctl.service gpuctl.socket && ! test -e /usr/libexec/docker/cli-plugins/docker-gpuctl");

    // Installed again, with the answer given beforehand.
    host.sh("echo docker-gpuctl docker-gpuctl/setup select cooperative | debconf-set-selections");
    install(&mut host, "new");
    assert_eq!(default_runtime(&mut host), "gpuctl-gate");
    assert_eq!(host.sh("readlink /usr/libexec/gpuctl/gpuctl-runtime"), "gpuctl-hook");
    host.sh("docker gpuctl ps -a | grep -q train && docker gpuctl start train");
    assert_eq!(host.holds_what_it_opens("train-0").len(), 2, "the ledger knew it");
    host.sh("docker gpuctl rm -f train");

    // Purged: the ledger only where it was said.
    let got = host.try_sh(&format!("{DPKG} --purge docker-gpuctl"));
    assert_eq!(got.code, 0, "{got}");
    host.sh("test -s /var/lib/gpuctl/ledger.db && ! test -e /etc/gpuctl/config.toml");
    host.sh("! find /etc/systemd -name 'gpuctl*' | grep .");
    install(&mut host, "new");
    host.sh("echo docker-gpuctl docker-gpuctl/purge boolean true | debconf-set-selections");
    let got = host.try_sh(&format!("{DPKG} --purge docker-gpuctl"));
    assert_eq!(got.code, 0, "{got}");
    host.sh("! test -e /var/lib/gpuctl");
    host.machine.power_off().expect("it powers off");
}
