//! The flags of `docker run` and where each is tried. What cannot be together is in containers of its own.

/// Where a flag is tried.
pub enum Use {
    /// In these containers, with these words.
    In(&'static [(&'static str, &'static [&'static str])]),
    /// Nowhere, for this reason.
    Not(&'static str),
}
use Use::{In, Not};

const CLIENT: &str = "it is the client's affair, nothing of the container";
const WINDOWS: &str = "for Windows";

/// Each container has a name; `@dev@`, `@dir@` and `@n@` stand for a block device, a folder and the third
/// part of the node's networks.
pub const FLAGS: &[(&str, Use)] = &[
    ("add-host", In(&[("main", &["--add-host", "db:10.1.2.3"])])),
    ("annotation", In(&[("main", &["--annotation", "org.example.a=b"])])),
    ("attach", In(&[("attached", &["-a", "stdout", "-a", "stderr"])])),
    ("blkio-weight", In(&[("main", &["--blkio-weight", "300"])])),
    ("blkio-weight-device", In(&[("main", &["--blkio-weight-device", "@dev@:200"])])),
    ("cap-add", In(&[("main", &["--cap-add", "SYS_TIME"])])),
    ("cap-drop", In(&[("main", &["--cap-drop", "CHOWN"])])),
    ("cgroup-parent", In(&[("parent", &["--cgroup-parent", "@cgroup@"])])),
    ("cgroupns", In(&[("main", &["--cgroupns", "private"]), ("second", &["--cgroupns", "host"])])),
    ("cidfile", In(&[("main", &["--cidfile", "@dir@/cid"])])),
    ("cpu-count", Not(WINDOWS)),
    ("cpu-percent", Not(WINDOWS)),
    ("cpu-period", In(&[("second", &["--cpu-period", "50000"])])),
    ("cpu-quota", In(&[("second", &["--cpu-quota", "20000"])])),
    ("cpu-rt-period", Not("the kernel has no groups of real-time processes here")),
    ("cpu-rt-runtime", Not("the kernel has no groups of real-time processes here")),
    ("cpu-shares", In(&[("main", &["-c", "512"])])),
    ("cpus", In(&[("main", &["--cpus", "1.25"])])),
    ("cpuset-cpus", In(&[("main", &["--cpuset-cpus", "0"])])),
    ("cpuset-mems", In(&[("main", &["--cpuset-mems", "0"])])),
    (
        "detach",
        In(&[
            ("main", &["-d"]),
            ("second", &["-d"]),
            ("third", &["-d"]),
            ("links", &["-d"]),
            ("quick", &["-d"]),
            ("parent", &["-d"]),
            ("socket", &["-d"]),
        ]),
    ),
    ("detach-keys", Not(CLIENT)),
    ("device", In(&[("main", &["--device", "/dev/null:/dev/nothing:r"])])),
    ("device-cgroup-rule", In(&[("main", &["--device-cgroup-rule", "c 10:229 r"])])),
    ("device-read-bps", In(&[("main", &["--device-read-bps", "@dev@:100mb"])])),
    ("device-read-iops", In(&[("main", &["--device-read-iops", "@dev@:100000"])])),
    ("device-write-bps", In(&[("main", &["--device-write-bps", "@dev@:100mb"])])),
    ("device-write-iops", In(&[("main", &["--device-write-iops", "@dev@:100000"])])),
    ("disable-content-trust", Not(CLIENT)),
    ("dns", In(&[("main", &["--dns", "10.9.9.9"])])),
    ("dns-option", In(&[("main", &["--dns-option", "ndots:3"])])),
    ("dns-search", In(&[("main", &["--dns-search", "example.org"])])),
    ("domainname", In(&[("main", &["--domainname", "example.org"])])),
    (
        "entrypoint",
        In(&[("main", &["--entrypoint", "/bin/busybox"]), ("second", &["--entrypoint", ""])]),
    ),
    ("env", In(&[("main", &["-e", "A=b c", "-e", "EMPTY="])])),
    ("env-file", In(&[("main", &["--env-file", "@dir@/env"])])),
    ("expose", In(&[("main", &["--expose", "9000-9001"])])),
    (
        "gpus",
        In(&[
            ("main", &["--gpus", "2"]),
            ("second", &["--gpus", "device=0"]),
            ("third", &["--gpus", "1"]),
        ]),
    ),
    ("group-add", In(&[("main", &["--group-add", "7"])])),
    ("health-cmd", In(&[("main", &["--health-cmd", "true"])])),
    ("health-interval", In(&[("main", &["--health-interval", "1s"])])),
    ("health-retries", In(&[("main", &["--health-retries", "7"])])),
    ("health-start-interval", In(&[("main", &["--health-start-interval", "1s"])])),
    ("health-start-period", In(&[("main", &["--health-start-period", "2s"])])),
    ("health-timeout", In(&[("main", &["--health-timeout", "9s"])])),
    ("help", Not("it makes nothing")),
    ("hostname", In(&[("main", &["-h", "desk"])])),
    ("init", In(&[("second", &["--init"])])),
    ("interactive", In(&[("main", &["-i"])])),
    ("io-maxbandwidth", Not(WINDOWS)),
    ("io-maxiops", Not(WINDOWS)),
    ("ip", In(&[("main", &["--ip", "10.215.@n@.9"])])),
    ("ip6", In(&[("main", &["--ip6", "fd00:215:@n@::9"])])),
    ("ipc", In(&[("main", &["--ipc", "shareable"]), ("second", &["--ipc", "host"])])),
    ("isolation", In(&[("main", &["--isolation", "default"])])),
    ("kernel-memory", Not("the kernel has no such limit any more, and the Engine leaves it out")),
    ("label", In(&[("main", &["-l", "org.example=x"])])),
    ("label-file", In(&[("main", &["--label-file", "@dir@/labels"])])),
    ("link", In(&[("links", &["--link", "other:db"])])),
    ("link-local-ip", In(&[("main", &["--link-local-ip", "169.254.@n@.9"])])),
    (
        "log-driver",
        In(&[("main", &["--log-driver", "json-file"]), ("second", &["--log-driver", "none"])]),
    ),
    ("log-opt", In(&[("main", &["--log-opt", "max-size=1m", "--log-opt", "labels=a"])])),
    ("mac-address", In(&[("main", &["--mac-address", "02:42:0a:d7:00:09"])])),
    ("memory", In(&[("main", &["-m", "64m"])])),
    ("memory-reservation", In(&[("main", &["--memory-reservation", "32m"])])),
    ("memory-swap", In(&[("main", &["--memory-swap", "96m"])])),
    ("memory-swappiness", In(&[("main", &["--memory-swappiness", "30"])])),
    (
        "mount",
        In(&[
            (
                "main",
                &[
                    "--mount",
                    "type=volume,target=/made",
                    "--mount",
                    "type=volume,source=named,target=/named,readonly,volume-nocopy",
                    "--mount",
                    "type=bind,source=@dir@,target=/bound,bind-propagation=private",
                ],
            ),
            ("quick", &["--mount", "type=tmpfs,target=/quick,tmpfs-size=1m,tmpfs-mode=1770"]),
        ]),
    ),
    ("name", Not("gpuctl's own, each container here has one")),
    (
        "network",
        In(&[
            ("main", &["--network", "lan"]),
            ("second", &["--network", "host"]),
            ("third", &["--network", "container:other"]),
            ("socket", &["--network", "none"]),
        ]),
    ),
    ("network-alias", In(&[("main", &["--network-alias", "web", "--network-alias", "site"])])),
    ("no-healthcheck", In(&[("second", &["--no-healthcheck"])])),
    ("oom-kill-disable", In(&[("main", &["--oom-kill-disable"])])),
    ("oom-score-adj", In(&[("main", &["--oom-score-adj", "200"])])),
    ("pid", In(&[("second", &["--pid", "host"]), ("third", &["--pid", "container:other"])])),
    ("pids-limit", In(&[("main", &["--pids-limit", "200"])])),
    ("platform", In(&[("main", &["--platform", "linux/amd64"])])),
    ("privileged", Not("gpuctl refuses it: such a container opens every GPU")),
    ("publish", In(&[("main", &["-p", "127.0.0.1:@port@:80", "-p", "81/udp"])])),
    ("publish-all", In(&[("main", &["-P"])])),
    ("pull", Not(CLIENT)),
    ("quiet", Not(CLIENT)),
    ("read-only", In(&[("second", &["--read-only"])])),
    (
        "restart",
        In(&[
            ("main", &["--restart", "on-failure:3"]),
            ("second", &["--restart", "unless-stopped"]),
        ]),
    ),
    ("rm", Not("such a container is gone when it is stopped, and is not changed")),
    ("runtime", Not("gpuctl's own: another is refused")),
    (
        "security-opt",
        In(&[
            ("main", &["--security-opt", "no-new-privileges"]),
            ("second", &["--security-opt", "seccomp=unconfined"]),
        ]),
    ),
    ("shm-size", In(&[("main", &["--shm-size", "65m"])])),
    ("sig-proxy", Not(CLIENT)),
    (
        "stop-signal",
        In(&[
            ("main", &["--stop-signal", "SIGKILL"]),
            ("second", &["--stop-signal", "9"]),
            ("third", &["--stop-signal", "KILL"]),
            ("links", &["--stop-signal", "KILL"]),
            ("quick", &["--stop-signal", "KILL"]),
            ("parent", &["--stop-signal", "KILL"]),
            ("socket", &["--stop-signal", "KILL"]),
        ]),
    ),
    ("stop-timeout", In(&[("main", &["--stop-timeout", "7"])])),
    ("storage-opt", Not("the Engine takes a size where Docker's root is XFS with quotas")),
    ("sysctl", In(&[("main", &["--sysctl", "net.ipv4.ip_default_ttl=77"])])),
    ("tmpfs", In(&[("main", &["--tmpfs", "/run:size=2m,mode=755"])])),
    ("tty", In(&[("main", &["-t"])])),
    ("ulimit", In(&[("main", &["--ulimit", "nofile=1000:2000"])])),
    ("use-api-socket", In(&[("socket", &["--use-api-socket"])])),
    ("user", In(&[("second", &["-u", "0:7"])])),
    ("userns", In(&[("second", &["--userns", "host"])])),
    ("uts", In(&[("second", &["--uts", "host"])])),
    (
        "volume",
        In(&[
            ("main", &["-v", "/scratch", "-v", "data:/data", "-v", "@dir@:/dir:ro"]),
            ("third", &["-v", "/scratch"]),
            ("quick", &["-v", "/scratch"]),
        ]),
    ),
    ("volume-driver", In(&[("main", &["--volume-driver", "local"])])),
    (
        "volumes-from",
        In(&[("third", &["--volumes-from", "other:ro"]), ("main", &["--volumes-from", "other"])]),
    ),
    ("workdir", In(&[("main", &["-w", "/work"])])),
];

/// The containers, each tried by itself.
pub const CONTAINERS: [&str; 8] =
    ["main", "second", "third", "quick", "links", "parent", "socket", "attached"];
