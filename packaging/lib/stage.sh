# shellcheck shell=bash
# The files that both packages have, at their places below a folder. Sourced, in the root of the tree.

# The config: the example of docs/configuration.md, of which a test says that it is the defaults, with every
# key as a comment. Tables stay, so that a key can be uncommented where it stands.
config_template() {
    cat <<-'END'
	# Settings of gpuctl: the hook, the service and docker gpuctl. Each key is here with its default; take the
	# "# " before one away to change it. docker gpuctl setup writes the keys that tell of this host.
	# Afterwards: systemctl try-restart gpuctl.service

	END
    sed -n '/^```toml$/,/^```$/{/^```/d;p}' docs/configuration.md |
        sed -e '/^#/b' -e '/^$/b' -e '/^\[/b' -e 's/^/# /'
}

# The licences of all crates that are in the programs.
licences() {
    local cargo_home=${CARGO_HOME:-$HOME/.cargo} name version rest folder file
    cat <<-'END'
	The programs of docker-gpuctl contain these crates and, with libsqlite3-sys, SQLite, which is in the public
	domain. Each is followed by its licence and its notices, as it comes with them.
	END
    cargo tree --locked -p docker-gpuctl -p gpuctl-hook -e normal --prefix none --format '{p} {l}' |
        sort -u | while read -r name version rest; do
        # Ours have a folder behind the version.
        [ "${rest#(/}" = "$rest" ] || continue
        rest=${rest#(proc-macro) }
        printf '\n%s\n%s %s: %s\n' "----------------------------------------" "$name" "${version#v}" "${rest% (\*)}"
        for folder in "$cargo_home"/registry/src/*/"$name-${version#v}"; do
            for file in "$folder"/LICEN[CS]E* "$folder"/COPYING* "$folder"/NOTICE* "$folder"/COPYRIGHT*; do
                [ -f "$file" ] || continue
                printf '\n[%s]\n' "${file##*/}"
                cat "$file"
            done
            break
        done
    done
}

# The same bytes for the same text.
compressed() {
    gzip -9n
}

# stage ROOT PROGRAMS VERSION
stage() {
    local root=$1 programs=$2 version=$3 libexec=$1/usr/libexec/gpuctl share=$1/usr/share
    local doc=$share/doc/docker-gpuctl units=$1/usr/lib/systemd/system
    mkdir -p "$libexec"/{stub,strict} "$root/usr/libexec/docker/cli-plugins" "$units" \
        "$root"/usr/lib/{tmpfiles.d,udev/rules.d,systemd/system-preset} \
        "$share"/{man/man1,gpuctl/hooks.d,fish/vendor_conf.d} "$doc" "$root/var/lib/gpuctl"

    install -m 755 "$programs/gpuctl-hook" "$libexec/gpuctl-hook"
    install -m 755 "$programs/docker-gpuctl" "$root/usr/libexec/docker/cli-plugins/docker-gpuctl"
    strip --strip-unneeded "$libexec/gpuctl-hook" "$root/usr/libexec/docker/cli-plugins/docker-gpuctl"
    ln -s gpuctl-hook "$libexec/gpuctl-runtime"
    ln -s gpuctl-hook "$libexec/gpuctl-gate"
    ln -s ../gpuctl-hook "$libexec/stub/nvidia-container-runtime-hook"
    ln -s ../gpuctl-hook "$libexec/strict/runc"

    install -m 644 -t "$units" packaging/files/gpuctl{.socket,.service,-links.service}
    install -m 644 packaging/files/tmpfiles.conf "$root/usr/lib/tmpfiles.d/gpuctl.conf"
    install -m 644 -t "$root/usr/lib/udev/rules.d" packaging/files/70-gpuctl-links.rules
    install -m 644 -t "$root/usr/lib/systemd/system-preset" packaging/files/90-gpuctl.preset
    chmod 700 "$root/var/lib/gpuctl"

    config_template >"$share/gpuctl/config.toml"
    install -m 644 packaging/files/podman-gate.json "$share/gpuctl/hooks.d/gpuctl.json"
    install -m 644 packaging/files/docker-gpuctl.fish "$share/fish/vendor_conf.d/docker-gpuctl.fish"

    "$programs/docker-gpuctl" __man "$share/man/man1"
    gzip -9n "$share"/man/man1/*.1
    # All pages: they lead to each other.
    install -m 644 -t "$doc" README.md
    cp -r docs "$doc/docs"
    find "$doc/docs" -type d -exec chmod 755 {} + -o -type f -exec chmod 644 {} +
    licences | compressed >"$doc/THIRD-PARTY.gz"

    find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    # What a machine of another kind could not run.
    echo "staged docker-gpuctl $version of $(sha256sum <"$programs/gpuctl-hook" | cut -c1-12)"
}

# The newest symbols of the C library that a program wants: what the package depends on.
glibc_of() {
    objdump -T "$1" | sed -n 's/.*GLIBC_\([0-9.]*\).*/\1/p' | sort -Vu | tail -1
}
