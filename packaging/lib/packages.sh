# shellcheck shell=bash
# Debian packages for the quickstart and the tests. Sourced.

# What building needs; cargo itself is there.
build_packages=(gcc libc6-dev protobuf-compiler libprotobuf-dev)
# What a private Engine needs.
engine_packages=(docker.io containerd runc busybox-static iptables iproute2 tar)
# What volumes with a size need: filesystems, and loop devices.
volume_packages=(e2fsprogs xfsprogs mount util-linux)
# What the tests of trees make and compare them with, by other means than the product's.
tree_packages=(acl attr btrfs-progs dash diffutils e2fsprogs libcap2-bin rsync xfsprogs)
# What the fuzz targets need besides: libFuzzer is C++.
fuzz_packages=(g++)
etcd_packages=(etcd-server etcd-client)
# What the tests fetch newer Engines with: Debian 12's takes no CDI devices (docker run --device
# nvidia.com/gpu=0), later releases' do. The packages are unpacked into a folder and never installed here.
newer_engine_packages=(debootstrap debian-archive-keyring wget)
# What makes containers besides Docker, for the whole matrix of docs/matrix.md; what shows and takes away device
# rules of cgroup v2; a manager that has cgroups, see tests/matrix/under-systemd.
matrix_packages=(podman docker-compose bpftool systemd)

# What packaging/build needs besides: the tools of both kinds.
package_packages=(binutils dpkg-dev rpm)
# A real terminal, for what draws on one; another host, for Docker's contexts.
terminal_packages=(tmux procps)
context_packages=(openssh-server openssh-client openssl)

# What looks the packages over, and shells that complete.
package_test_packages=(lintian rpmlint debootstrap debian-archive-keyring bash-completion zsh fish shellcheck)

# A booted Debian: for what needs systemd, cgroup v2 or a power cut (docs/adr/0013).
vm_packages=(qemu-system-x86 debootstrap debian-archive-keyring e2fsprogs wget)

# Names those of its arguments that are not installed.
missing_packages() {
    local name
    for name in "$@"; do
        if [ "$name" = docker.io ] && command -v dockerd >/dev/null && command -v docker >/dev/null; then
            continue # docker-ce is as good, and Debian's would push it out
        fi
        if [ "$name" = containerd ] && command -v containerd >/dev/null; then continue; fi
        if [ "$name" = runc ] && command -v runc >/dev/null; then continue; fi
        dpkg-query -W -f '${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed ||
            printf '%s\n' "$name"
    done
}

# Installs packages without starting the services they bring: a docker.io that was not there does not
# become a second Engine on this host, and one that runs is not disturbed.
install_packages() {
    local policy=/usr/sbin/policy-rc.d ours=0 code=0
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" || return 1
        ours=1
    fi
    {
        [ -n "$(ls /var/lib/apt/lists/*Packages* 2>/dev/null)" ] || apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" || {
            apt-get update -q &&
                DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
        }
    } || code=$?
    [ "$ours" = 0 ] || rm -f "$policy"
    return "$code"
}

# The target that this machine's programs are built for.
host_target() {
    rustc -vV | sed -n 's/^host: //p'
}

# Builds the hook as one static binary: it runs as root in whatever namespaces runc gives it, and must
# not depend on any file of the host. Not position-independent: relocating itself was half of what it
# takes to start (docs/adr/0008).
static_flags='-C target-feature=+crt-static -C relocation-model=static'
build_static_hook() {
    RUSTFLAGS="$static_flags" cargo build -p gpuctl-hook --bins \
        --target "$(host_target)" "$@"
}

# Fails unless the program is statically linked.
check_static() {
    local said
    said=$(LC_ALL=C ldd "$1" 2>&1) || true
    case $said in
        *"statically linked"* | *"not a dynamic executable"*) ;;
        *)
            echo "$1 is not static: $said" >&2
            return 1
            ;;
    esac
}
