//! Volumes in a booted Debian: mount units and a power cut, ext4 that grows while it is written to, and
//! the project quotas of XFS, which only a kernel of a distribution has.

use gpuctl_tests::booted::Host;
use gpuctl_vm::CgroupDriver;

const MIB: u64 = 1 << 20;

/// What one container says that has the volume at /v.
#[track_caller]
fn inside(host: &mut Host, volume: &str, script: &str) -> String {
    host.sh(&format!("docker run --rm --network none -v {volume}:/v busybox sh -c '{script}'"))
}

/// Writes until there is no room, as root in a container; how many bytes got in.
#[track_caller]
fn fill(host: &mut Host, volume: &str, name: &str) -> u64 {
    let script = format!(
        "dd if=/dev/zero of=/v/{name} bs=4096 2>/tmp/e; grep -qE \"No space left|quota exceeded\" /tmp/e \
         || exit 1; sync; stat -c %s /v/{name} 2>/dev/null || echo 0"
    );
    inside(host, volume, &script).parse().expect("a number")
}

/// The power is cut in the middle of a resize by copy: the volume is as it was, nothing of the new version
/// is left, and the resize can be had again.
#[track_caller]
fn cut_in_a_copy(host: &mut Host, name: &str, copied: &str) {
    let old = host.sh(&format!("docker gpuctl volume inspect {name} --format json"));
    let old: serde_json::Value = serde_json::from_str(&old).expect("JSON");
    let old = old["docker_name"].as_str().expect("a name").to_owned();
    let many = "mkdir /v/many; cd /v/many; for n in $(seq 3000); do echo $n >$n; done; \
                dd if=/dev/urandom of=/v/one bs=1M count=20 2>/dev/null; sync";
    inside(host, &old, many);
    let sums = "cd /v && find . -type f -exec md5sum {} + | sort | md5sum";
    let sum = inside(host, &old, sums);
    host.sh(&format!(
        "setsid docker gpuctl volume resize {name} 90MB >/dev/null 2>&1 </dev/null &"
    ));
    host.wait_for("the copy", &format!("test -n \"$(ls -A {copied} 2>/dev/null)\""));
    host.machine.power_cut();
    host.machine.power_on().expect("the machine boots again");
    host.machine.settle().expect("systemd is done with the boot");
    let up = host.try_sh("timeout 120 sh -c 'until docker ps 2>/dev/null; do sleep 1; done' || journalctl -b -u docker --no-pager | grep -v level=info | tail -20 >&2");
    assert!(up.stderr.is_empty() || up.stdout.contains("CONTAINER"), "{up}");
    let next = host.try_sh(&format!("docker gpuctl volume resize {name} 95MB --dry-run"));
    let history = host.sh(&format!("docker gpuctl volume history {name} -q | tail -1"));
    assert!(old.ends_with(&format!("-{history}")), "{history}: {next}");
    host.sh(&format!("test -z \"$(ls -A {copied} 2>/dev/null)\""));
    assert_eq!(inside(host, &old, sums), sum, "{next}");
    assert!(!host.sh("docker gpuctl doctor; true").contains("was broken off"));
    let new = host.sh(&format!("docker gpuctl volume resize {name} 90MB"));
    assert_eq!(inside(host, &new, sums), sum);
}

/// What a growth in place by 100 MB takes, in ms: the median of three.
#[track_caller]
fn growth(host: &mut Host, name: &str, mib: u64) -> u64 {
    host.sh(&format!("docker gpuctl volume create {name} --size {mib}MB"));
    let times = host.sh(&format!(
        "for n in 1 2 3; do began=$(date +%s%N); \
         docker gpuctl volume resize {name} $(({mib} + n * 100))MB --in-place >&2 || exit 1; \
         echo $((($(date +%s%N) - began) / 1000000)); done"
    ));
    host.sh(&format!("docker gpuctl volume rm --history {name}"));
    let mut times: Vec<u64> = times.lines().map(|t| t.parse().expect("a number")).collect();
    times.sort_unstable();
    times[1]
}

#[test]
fn an_image_outlives_a_power_cut_and_grows_while_it_is_written_to() {
    let Some(mut host) = Host::boot(CgroupDriver::Systemd, false) else { return };
    let backends = host.sh("docker gpuctl volume backends");
    assert!(
        backends.contains("yes, preferred") && backends.contains("only xfs has the quotas"),
        "{backends}"
    );
    assert_eq!(host.sh("docker gpuctl volume create data --size 64MB"), "data-0");
    // Written to all the while.
    let write = "while :; do date >>/v/log; sleep 0.05; done";
    host.sh(&format!(
        "docker run -d --restart always --network none --name writer -v data-0:/v busybox sh -c '{write}'"
    ));
    assert_eq!(host.sh("docker gpuctl volume resize data 200MB --in-place"), "data-0");
    let got = fill(&mut host, "data-0", "full");
    assert!(got <= 200 * MIB && got > 198 * MIB, "{got}");
    assert_eq!(
        host.sh("docker inspect -f '{{.State.Running}} {{.RestartCount}}' writer"),
        "true 0"
    );
    inside(&mut host, "data-0", "rm /v/full; echo kept >/v/kept; sync");
    for (point, size) in [("grow:begun", 220), ("grow:done", 240)] {
        let resize = format!("docker gpuctl volume resize data {size}MB --in-place");
        let killed = host.try_sh(&format!("GPUCTL_KILL_AT=volume-in-place:{point} {resize}"));
        assert_ne!(killed.code, 0, "{killed}");
        let next = host.try_sh(&resize);
        assert!(next.code == 0 && next.stderr.contains("was broken off: it is done"), "{next}");
    }
    host.machine.power_cut();
    host.machine.power_on().expect("the machine boots again");
    host.machine.settle().expect("systemd is done with the boot");
    host.sh("mountpoint /var/lib/gpuctl/volumes/mounts/data-0");
    host.wait_for("the writer", "test \"$(docker inspect -f '{{.State.Running}}' writer)\" = true");
    assert_eq!(inside(&mut host, "data-0", "cat /v/kept"), "kept");
    let unit = host.sh("systemctl list-units --type mount --no-legend | grep 'data.*0.mount'");
    assert!(unit.contains("active"), "{unit}");
    let got = fill(&mut host, "data-0", "full");
    assert!(got <= 240 * MIB && got > 238 * MIB, "{got}");
    host.sh("docker rm -f writer && docker gpuctl volume rm --history data");
    // While it is mounted, how large it was does not matter.
    let (small, vast) = (growth(&mut host, "small", 300), growth(&mut host, "vast", 20 << 10));
    eprintln!("a growth in place by 100 MB: of 300 MB {small} ms, of 20 GB {vast} ms");
    assert!(vast < 2 * small, "{vast} ms, {small} ms");
    host.sh("docker gpuctl volume create cut --size 80MB");
    cut_in_a_copy(&mut host, "cut", "/var/lib/gpuctl/volumes/mounts/cut-1/data");
    host.sh("docker gpuctl volume rm --history cut");
    host.sh(
        "! ls /etc/systemd/system/docker.service.wants/*data* /etc/systemd/system/*data*.mount",
    );
    host.sh("! losetup -a | grep data-0");
}

/// All that volumes with quotas have on the host.
fn traces(host: &mut Host) -> String {
    host.sh("docker volume ls -q; ls /var/lib/docker/volumes; docker ps -a --format '{{.Names}} {{.State}}' | sort; \
             docker images -a --format '{{.Repository}}:{{.Tag}}'; docker gpuctl volume ls -q; docker gpuctl volume history kill -q 2>&1; true")
}

/// Kills a command on the volume at a point; what the next one said, which ends it first.
#[track_caller]
fn killed(host: &mut Host, point: &str, name: &str, words: &str) -> String {
    let killed = host.try_sh(&format!("GPUCTL_KILL_AT={point} docker gpuctl volume {words}"));
    assert_ne!(killed.code, 0, "{point}: {killed}");
    let next = host.try_sh(&format!("docker gpuctl volume resize {name} 1GB --dry-run --roll"));
    format!("{}{}", next.stdout, next.stderr)
}

/// A machine whose Docker root is XFS with project quotas.
fn with_quotas() -> Option<Host> {
    let mut host = Host::boot(CgroupDriver::Systemd, false)?;
    host.sh("docker save busybox >/root/busybox.tar && systemctl stop docker.socket docker && \
         truncate -s 1500M /root/docker.xfs && mkfs.xfs -q /root/docker.xfs && \
         echo '/root/docker.xfs /var/lib/docker xfs loop,prjquota 0 0' >>/etc/fstab && \
         mount /var/lib/docker && systemctl start docker && docker load -q -i /root/busybox.tar");
    Some(host)
}

/// kill -9 at each step of what is done to a volume that Docker's quotas keep to its size: all is as it was,
/// or as it was to be, and kept to just that.
#[test]
fn quotas_and_a_kill_at_each_step() {
    let Some(mut host) = with_quotas() else { return };
    let host = &mut host;
    // It would end what was broken off, sooner than the next command on a slow machine.
    host.sh("systemctl stop gpuctl.service");
    let clean = traces(host);
    let undone = ["size:volume", "size:image", "size:mounted", "size:container"];
    for point in ["volume-create:make:begun", "volume-create:make:done"].into_iter().chain(undone) {
        let said = killed(host, point, "gone", "create gone --size 40MB");
        eprintln!("{point}: {}", said.trim());
        assert!(said.contains("was broken off: it is undone"), "{point}: {said}");
        assert_eq!(traces(host), clean, "{point}");
    }
    // Of another name: undoing one whose name Docker remembers comes to such an end, too.
    killed(host, "volume-create:end:done", "kill", "create kill --size 40MB");
    let current = |host: &mut Host| {
        let shown = host.sh("docker gpuctl volume inspect kill --format json");
        let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        shown["docker_name"].as_str().expect("a name").to_owned()
    };
    let mut volume = current(host);
    inside(
        host,
        &volume,
        "dd if=/dev/urandom of=/v/f bs=1M count=20 2>/dev/null; ln /v/f /v/.g; sync",
    );
    let sum = inside(host, &volume, "md5sum /v/f");
    host.sh(&format!(
        "docker gpuctl run -d --name rolls --gpus 1 --network none --stop-signal KILL -v {volume}:/v busybox sleep 1000000"
    ));
    let mut size = 40;
    let steps = [
        ("make:begun", false),
        ("make:done", false),
        ("stop:begun", false),
        ("stop:done", false),
        ("copy:begun", false),
        ("copy:done", false),
        ("move:begun", false),
        ("move:done", false),
        ("record:begun", true),
        ("record:done", true),
        ("end:done", true),
    ];
    let steps = steps.map(|(step, done)| (format!("volume-resize:{step}"), done));
    for (point, done) in undone.map(|point| (point.to_owned(), false)).into_iter().chain(steps) {
        let before = traces(host);
        let wanted = if size == 40 { 60 } else { 40 };
        let said = killed(host, &point, "kill", &format!("resize kill {wanted}MB --roll"));
        if !point.ends_with("end:done") {
            let how =
                if done { "was broken off: it is done" } else { "was broken off: it is undone" };
            assert!(said.contains(how), "{point}: {said}");
        }
        if !done {
            assert_eq!(traces(host), before, "{point}");
            continue;
        }
        let old = std::mem::replace(&mut volume, current(host));
        assert_ne!(old, volume, "{point}");
        size = wanted;
        let script =
            "md5sum /v/f; dd if=/dev/zero of=/v/z bs=4096 2>/dev/null; stat -c %s /v/z; rm /v/z";
        let got =
            host.sh(&format!("docker exec $(docker ps -q --filter name=rolls-) sh -c '{script}'"));
        let (now, room) = got.split_once('\n').expect("two lines");
        let room: u64 = room.trim().parse().expect("a number");
        let left = (size - 20) * MIB;
        assert!(now == sum && room <= left && room > left - MIB, "{point}: {got}");
        host.sh("docker gpuctl prune rolls -f; docker gpuctl volume prune -f");
        assert!(!traces(host).lines().any(|line| line == old), "{point}");
    }
    host.sh("docker gpuctl rm -f rolls");
    let points = ["volume-rm:remove:begun", "volume-rm:remove:done", "volume-rm:end:done"];
    // Each of another name: Docker remembers a dozen of the first.
    for (point, name) in points.into_iter().zip(["kill", "second", "third"]) {
        if name != "kill" {
            host.sh(&format!("docker gpuctl volume create {name} --size 40MB"));
        }
        let said = killed(host, point, name, &format!("rm --history {name}"));
        assert!(said.contains("it is done") || point.ends_with("end:done"), "{point}: {said}");
        assert_eq!(traces(host), clean, "{point}");
    }
}

#[test]
fn quotas_of_xfs_keep_a_volume_to_its_size() {
    let Some(mut host) = with_quotas() else { return };
    let backends = host.sh("docker gpuctl volume backends");
    assert!(
        backends.lines().any(|l| l.starts_with("size") && l.contains("yes, preferred")),
        "{backends}"
    );
    assert_eq!(host.sh("docker gpuctl volume create data --size 64MB"), "data-0");
    assert_eq!(host.sh("docker volume inspect -f '{{.Options.size}}' data-0"), "64MB");
    let images = "docker images -q | wc -l";
    assert_eq!(
        (host.sh(images), host.sh("docker ps -aq | wc -l")),
        ("1".to_owned(), "0".to_owned())
    );
    let got = fill(&mut host, "data-0", "full");
    assert!((63 * MIB..=64 * MIB).contains(&got), "{got}");
    assert_eq!(fill(&mut host, "data-0", "more"), 0, "one more");
    let small = host.try_sh("docker gpuctl volume resize data 60MB");
    assert!(small.code == 1 && small.stderr.contains("60MB asked for, 64MB of data-0"), "{small}");
    let in_place = host.try_sh("docker gpuctl volume resize data 100MB --in-place");
    assert!(in_place.code == 1 && in_place.stderr.contains("without --in-place"), "{in_place}");
    inside(
        &mut host,
        "data-0",
        "rm /v/full; dd if=/dev/urandom of=/v/f bs=1M count=30 2>/dev/null; ln /v/f /v/.g",
    );
    let sum = inside(&mut host, "data-0", "md5sum /v/f");
    assert_eq!(host.sh("docker gpuctl volume resize data 100MB"), "data-1");
    assert_eq!(inside(&mut host, "data-1", "md5sum /v/f"), sum);
    let got = fill(&mut host, "data-1", "full");
    assert!((69 * MIB..=70 * MIB).contains(&got), "what was copied counts too: {got}");
    inside(&mut host, "data-1", "rm /v/full");
    assert_eq!(host.sh("docker gpuctl volume resize data 40MB"), "data-2");
    let got = fill(&mut host, "data-2", "full");
    assert!((9 * MIB..=10 * MIB).contains(&got), "{got}");
    // Docker remembers the names of volumes that were removed, and would not limit new ones of these.
    host.sh("docker gpuctl volume rm --history data");
    let again = host.sh("docker gpuctl volume create data --size 32MB");
    let got = fill(&mut host, &again, "full");
    assert!((31 * MIB..=32 * MIB).contains(&got), "{again}: {got}");
    host.sh("sync");
    host.machine.power_cut();
    host.machine.power_on().expect("the machine boots again");
    host.machine.settle().expect("systemd is done with the boot");
    host.wait_for("the Engine", "docker ps");
    inside(&mut host, &again, "rm -f /v/full");
    let got = fill(&mut host, &again, "full");
    assert!((31 * MIB..=32 * MIB).contains(&got), "after a boot: {got}");
    host.sh("docker gpuctl volume create cut --size 80MB");
    cut_in_a_copy(&mut host, "cut", "/var/lib/docker/volumes/cut-1/_data");
    // One of Docker's own is taken in with its limit.
    host.sh("docker volume create -o size=50m theirs");
    assert_eq!(host.sh("docker gpuctl volume adopt theirs"), "theirs");
    assert!(host.sh("docker gpuctl volume ls").contains("50MB"));
    assert_eq!(host.sh("docker gpuctl volume create other --size 32MB --backend image"), "other-0");
    let got = fill(&mut host, "other-0", "full");
    assert!((31 * MIB..=32 * MIB).contains(&got), "{got}");
}
