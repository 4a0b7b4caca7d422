# shellcheck shell=bash
# The deb. Sourced by packaging/build.

maintainer='docker-gpuctl <docker-gpuctl@users.noreply.github.com>'
homepage=https://github.com/docker-gpuctl/docker-gpuctl
summary='GPU leases for Docker: no two containers get the same GPU'

# The changelog, with an entry of its own for a version that it does not have.
changelog_of() {
    if ! head -1 packaging/changelog | grep -qF "($1)"; then
        printf 'docker-gpuctl (%s) unstable; urgency=medium\n\n  * Built from the sources of %s.\n\n -- %s  %s\n\n' \
            "$1" "$(sed -n '1s/.*(\(.*\)).*/\1/p' packaging/changelog)" "$maintainer" \
            "$(date -R -d "@$SOURCE_DATE_EPOCH")"
    fi
    cat packaging/changelog
}

# A script with what all of them share put in.
script_of() {
    sed -e '/^@common@$/{r packaging/files/common.sh' -e 'd}' "$1"
}

# make_deb WORK VERSION OUT: of the files in WORK/root.
make_deb() {
    local work=$1 version=$2 out=$3 root=$1/deb architecture glibc name
    architecture=$(dpkg --print-architecture)
    cp -a "$work/root" "$root"
    mkdir -p "$root/DEBIAN" "$root/usr/share/lintian/overrides"
    local doc=$root/usr/share/doc/docker-gpuctl
    install -m 644 packaging/deb/copyright "$doc/copyright"
    changelog_of "$version" | compressed >"$doc/changelog.gz"
    install -m 644 packaging/deb/lintian-overrides "$root/usr/share/lintian/overrides/docker-gpuctl"
    sed -i 's/^\([a-z]\)/docker-gpuctl: \1/' "$root/usr/share/lintian/overrides/docker-gpuctl"
    # zsh looks for what packages bring in another folder on Debian than elsewhere.
    install -D -m 644 packaging/files/_docker-gpuctl "$root/usr/share/zsh/vendor-completions/_docker-gpuctl"
    install -m 644 packaging/deb/templates "$root/DEBIAN/templates"
    install -m 755 packaging/deb/config "$root/DEBIAN/config"
    for name in postinst prerm postrm; do
        script_of "packaging/deb/$name" >"$root/DEBIAN/$name"
        chmod 755 "$root/DEBIAN/$name"
    done
    glibc=$(glibc_of "$root/usr/libexec/docker/cli-plugins/docker-gpuctl")
    # docker.io of Debian 13 has the client in a package of its own, that of Ubuntu and of Debian 12 has not.
    cat >"$root/DEBIAN/control" <<-END
	Package: docker-gpuctl
	Version: $version
	Architecture: $architecture
	Maintainer: $maintainer
	Installed-Size: $(find "$root" -path "$root/DEBIAN" -prune -o -type f -printf '%s\n' | awk '{ n += int(($1 + 1023) / 1024) } END { print n }')
	Depends: libc6 (>= $glibc), libgcc-s1 (>= 4.2), debconf (>= 0.5) | debconf-2.0, init-system-helpers (>= 1.54), docker.io | docker-ce | moby-engine
	Recommends: docker-cli | docker-ce-cli | moby-cli | docker.io, e2fsprogs
	Suggests: nvidia-container-toolkit, etcd-server | etcd, openssh-client, xfsprogs
	Section: admin
	Priority: optional
	Homepage: $homepage
	Description: $summary
	 On a shared GPU server with plain Docker two containers get the same GPU,
	 "docker run --gpus 2" means GPUs 0 and 1, and giving a container two more GPUs
	 means making it anew. docker-gpuctl leases each GPU to one container at a
	 time, whoever starts it and however. "docker gpuctl" runs GPU containers and
	 gives them more GPUs, fewer or none, with all that was installed in them.
	 .
	 Installing it changes nothing about Docker until "docker gpuctl setup" is run.
	END
    (cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
    chmod 644 "$root/DEBIAN/"{control,md5sums,templates}
    find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group -Zxz -z"$level" --build "$root" "$out/docker-gpuctl_${version}_$architecture.deb" >/dev/null
    echo "$out/docker-gpuctl_${version}_$architecture.deb"
}
