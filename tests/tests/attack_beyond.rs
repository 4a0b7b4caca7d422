//! What cannot be closed, tried: docs/security.md names each. A test of these fails when the world has
//! become better, or the page wrong.

use std::fs;
use std::process::Command;
use std::time::Duration;

use gpuctl_sim::command;
use gpuctl_tests::node::{run, wait_for};
use gpuctl_tests::siege::{BOUND, Siege, Strict};
use gpuctl_tests::{engine_runs_here, probe, skip};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// `pass give SOCKET NODE` opens the node and hands it to whoever connects; `pass take SOCKET` is
/// handed a descriptor and reads from it.
const PASS: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    strncpy(at.sun_path, argv[2], sizeof at.sun_path - 1);
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    char byte = 'x', room[CMSG_SPACE(sizeof(int))] = { 0 };
    struct iovec io = { &byte, 1 };
    struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
    if (strcmp(argv[1], "give") == 0) {
        int fd = open(argv[3], O_RDONLY | O_NONBLOCK);
        if (fd < 0 || bind(s, (void *)&at, sizeof at) || listen(s, 1)) { perror("give"); return 1; }
        int c = accept(s, 0, 0);
        struct cmsghdr *h = CMSG_FIRSTHDR(&m);
        h->cmsg_level = SOL_SOCKET; h->cmsg_type = SCM_RIGHTS; h->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(h), &fd, sizeof fd);
        if (sendmsg(c, &m, 0) < 0) { perror("send"); return 1; }
        return 0;
    }
    int tries = 0;
    while (connect(s, (void *)&at, sizeof at) && ++tries < 50) usleep(100000);
    if (recvmsg(s, &m, 0) < 0) { perror("take"); return 1; }
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    if (!h) { puts("no descriptor"); return 1; }
    int fd; memcpy(&fd, CMSG_DATA(h), sizeof fd);
    char line[8192]; long n;
    /* EPIPE says that the log has been written over meanwhile: the next read goes on after that. */
    for (tries = 0; (n = read(fd, line, sizeof line)) < 0 && tries < 1000; tries++) usleep(1000);
    printf("read %ld\n", n);
    return n > 0 ? 0 : 1;
}
"#;

#[test]
fn a_descriptor_that_is_passed_over_a_socket_works_where_its_node_cannot_be_opened() {
    if !engine_runs_here() {
        return;
    }
    let Ok(cc) = command::find(&["cc", "gcc"]) else { return skip("no C compiler") };
    let siege = Siege::begin(Strict::PathAlone);
    let node = &siege.node;
    // There is no driver behind a simulated GPU, so nobody can have one open: the kernel's log stands for
    // it, a character device that an ordinary container may not open either.
    mknod(&node.place().dev().join("kmsg"), SFlag::S_IFCHR, Mode::S_IRUSR, makedev(1, 11)).unwrap();
    for (name, flags) in
        [("giver", &["--device", "/dev/kmsg", "--cap-add", "SYSLOG"][..]), ("taker", &[])]
    {
        let got = run(node, name, &[&["-v", "both:/both"], flags].concat());
        assert_eq!(got.code, 0, "{got}");
    }
    let volume = node.place().data().join("volumes/both/_data");
    let source = volume.join("pass.c");
    fs::write(&source, PASS).unwrap();
    let mut compile = Command::new(cc);
    compile.args(["-static", "-o"]).arg(volume.join("pass")).arg(&source);
    command::run(&mut compile, BOUND).unwrap().ok().unwrap();
    let got = node.docker(&["exec", "taker", "sh", "-c", "mknod /k c 1 11; : </k"]);
    assert!(
        got.code != 0 && got.stderr.contains("not permitted"),
        "it may not open it itself\n{got}"
    );
    node.docker_ok(&["exec", "-d", "giver", "/both/pass", "give", "/both/s", "/dev/kmsg"]);
    wait_for("the giver", Duration::from_secs(10), || volume.join("s").exists());
    let said = node.docker_ok(&["exec", "taker", "/both/pass", "take", "/both/s"]);
    assert!(said.starts_with("read ") && said != "read 0", "{said}");
    node.docker_ok(&["rm", "-f", "giver", "taker"]);
    siege.afresh().end();
}

#[test]
fn a_privileged_container_that_mounts_the_cgroup_filesystem_allows_itself_any_device() {
    if !engine_runs_here() {
        return;
    }
    let Ok(line) = fs::read_to_string("/proc/self/cgroup") else { return skip("no cgroups") };
    if !line.lines().any(|l| l.split(':').nth(1) == Some("devices")) {
        return skip(
            "cgroup v2 only: there the program that decides is replaced by bpf(2), not by a file",
        );
    }
    let siege = Siege::begin(Strict::PathAlone);
    let node = &siege.node;
    let got = run(node, "mounts", &["--privileged", "--cgroupns", "host"]);
    assert_eq!(got.code, 0, "{got}");
    assert!(probe::opens(node, "mounts").is_empty());
    let script = "mkdir /cg && mount -t cgroup -o devices none /cg && \
        echo 'c 195:* rwm' >/cg$(sed -n 's/.*:devices://p' /proc/self/cgroup)/devices.allow";
    node.docker_ok(&["exec", "--privileged", "mounts", "sh", "-c", script]);
    let open = probe::opens(node, "mounts");
    assert!(open.contains(&siege.minor()), "docs/security.md says that it can: {open:?}");
    node.docker_ok(&["rm", "-f", "mounts"]);
    siege.end();
}

/// Rootless Docker's containers are this: a user's own namespaces, the host's nodes bound into them, and
/// no device rules, which only root can make.
#[test]
fn a_host_process_and_a_users_own_namespace_open_what_the_nodes_mode_lets_them() {
    if !engine_runs_here() {
        return;
    }
    let siege = Siege::begin(Strict::PathAlone);
    let path =
        siege.node.place().dev().join(format!("nvidia{}", siege.minor())).display().to_string();
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let read = ["sh", "-c", ": <\"$0\"", &path];
    let mut plain = Command::new("setpriv");
    let got = command::run(plain.args(nobody).args(read), BOUND).unwrap();
    assert!(got.stderr.contains("No such device or address"), "{got}");
    let mut spaces = Command::new("setpriv");
    let spaces = spaces.args(nobody).args([
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "--pid",
        "--fork",
    ]);
    let got = command::run(spaces.args(read), BOUND).unwrap();
    if got.stderr.contains("unshare failed") {
        skip("this kernel gives users no namespaces");
    } else {
        assert!(got.stderr.contains("No such device or address"), "{got}");
    }
    siege.end();
}
