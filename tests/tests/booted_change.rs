//! The power of a booted host is cut in the middle of a replace: after the boot the container is exactly the
//! old one or exactly the new one, it runs with its GPUs, and none of its files is lost.

use gpuctl_tests::booted::Host;
use gpuctl_vm::CgroupDriver;

/// What is in `train`, and what it is.
const SUMS: &str =
    "cd /many && find . -type f -exec md5sum {} + | sort | md5sum; ls /bin/df 2>&1 | wc -c";

#[track_caller]
fn inside(host: &mut Host, container: &str, script: &str) -> String {
    host.sh(&format!("docker exec {container} sh -c '{script}'"))
}

/// Begins a change in the background, waits until `moment` is so, and cuts the power. The host is up
/// again then, and whoever it is has brought the change to its end; whether it is the new container.
#[track_caller]
fn cut(host: &mut Host, version: u64, moment: &str) -> bool {
    let (old, new) = (format!("train-{version}"), format!("train-{}", version + 1));
    let sums = inside(host, &old, SUMS);
    host.sh("sync");
    host.sh(&format!(
        "setsid docker gpuctl update train --env V={version} --gpus 3 >/tmp/out 2>&1 </dev/null &"
    ));
    host.wait_for("the moment", &moment.replace("NEW", &new));
    host.machine.power_cut();
    host.machine.power_on().expect("the machine boots again");
    host.machine.settle().expect("systemd is done with the boot");
    host.wait_for("the Engine", "docker ps");
    // The service may be at it still, slow as it is here.
    let next = "docker gpuctl update train --replace --dry-run";
    host.wait_for("its end", next);
    let next = host.try_sh(next);
    let journal = host.sh("journalctl -b -u gpuctl --no-pager; true");
    let said = format!("{next}\n{journal}");
    assert!(!host.sh("docker gpuctl doctor; true").contains("broken off"), "{said}");
    let is_new = host.try_sh(&format!("docker inspect {new}")).code == 0;
    let (is, gpus) = if is_new { (&new, 3) } else { (&old, 2) };
    let running = "docker ps --format '{{.Names}}' | grep ^train-";
    host.wait_for("its start", &format!("test \"$({running})\" = {is}"));
    assert_eq!(inside(host, is, SUMS), sums, "{said}");
    assert_eq!(host.holds_what_it_opens(is).len(), gpus, "{said}");
    let policy = format!("docker inspect -f '{{{{.HostConfig.RestartPolicy.Name}}}}' {is}");
    assert_eq!(host.sh(&policy), "unless-stopped", "{said}");
    let env = inside(host, is, "echo $V");
    assert_eq!(env, if is_new { version.to_string() } else { String::new() }, "{said}");
    let history = host.sh("docker gpuctl history -q train | tail -1");
    assert_eq!(*is, format!("train-{history}"), "{said}");
    is_new
}

#[test]
fn a_power_cut_in_a_replace_leaves_the_old_container_or_the_new_one() {
    let Some(mut host) = Host::boot(CgroupDriver::Systemd, false) else { return };
    host.sh("docker gpuctl run -d --name train --network none --gpus 2 --stop-signal KILL \
             --restart unless-stopped busybox sleep 1000000");
    let fill = "mkdir /many; cd /many; for n in $(seq 2000); do echo $n >$n; done; rm /bin/df; \
                dd if=/dev/urandom of=/many/one bs=1M count=30 2>/dev/null";
    inside(&mut host, "train-0", fill);
    // In the middle of its files: some are there, and not all.
    let copying = "U=$(docker inspect -f '{{.GraphDriver.Data.UpperDir}}' NEW) && test -n \"$(ls -A $U/many)\"";
    assert!(!cut(&mut host, 0, copying), "the files were not there yet");
    // Just when it has started: the one or the other.
    let started = "test \"$(docker inspect -f '{{.State.Running}}' NEW)\" = true";
    let is_new = cut(&mut host, 0, started);
    eprintln!("cut just after the start: {}", if is_new { "new" } else { "old" });
    // And it can be changed again.
    let version = u64::from(is_new);
    host.sh("docker gpuctl update train --gpus 2 --env V=last");
    assert_eq!(host.holds_what_it_opens(&format!("train-{}", version + 1)).len(), 2);
}
