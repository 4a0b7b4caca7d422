# shellcheck shell=bash
# The rpm. Sourced by packaging/build, after deb.sh.

# rpm's changelog of Debian's.
rpm_changelog() {
    local line version='' entries=() when
    changelog_of "$1" | while IFS= read -r line; do
        case $line in
            'docker-gpuctl ('*)
                version=${line#*(}
                version=${version%%)*}
                entries=()
                ;;
            '  * '*) entries+=("- ${line#  \* }") ;;
            ' -- '*)
                when=$(date -d "${line##*  }" '+%a %b %d %Y')
                line=${line# -- }
                printf '* %s %s - %s-1\n' "$when" "${line%%  *}" "$version"
                printf '%s\n' "${entries[@]}" ''
                ;;
        esac
    done
}

# make_rpm WORK VERSION OUT: of the files in WORK/root.
make_rpm() {
    local work=$1 version=$2 out=$3 root=$1/rpm machine spec=$1/docker-gpuctl.spec
    machine=$(uname -m)
    cp -a "$work/root" "$root"
    install -D -m 644 LICENSE "$root/usr/share/licenses/docker-gpuctl/LICENSE"
    install -D -m 644 packaging/files/_docker-gpuctl "$root/usr/share/zsh/site-functions/_docker-gpuctl"
    install -D -m 644 "$root/usr/share/gpuctl/config.toml" "$root/etc/gpuctl/config.toml"
    touch -d "@$SOURCE_DATE_EPOCH" "$root/etc/gpuctl/config.toml" "$root/usr/share/zsh/site-functions/_docker-gpuctl" \
        "$root/usr/share/licenses/docker-gpuctl/LICENSE"
    {
        sed -e "s/@version@/$version/" packaging/rpm/docker-gpuctl.spec |
            sed -e '/^@common@$/{r packaging/files/common.sh' -e 'd}'
        printf '%%changelog\n'
        rpm_changelog "$version"
    } >"$spec"
    # Whatever this machine's own macros say.
    if ! rpmbuild -bb --quiet --target "$machine" --buildroot "$work/buildroot" \
        --define "_topdir $work/rpmbuild" --define "_rpmdir $work/rpms" --define "staged $root" \
        --define "_build_id_links none" --define "_buildhost localhost" --define "debug_package %{nil}" \
        --define "__os_install_post %{nil}" --define "_binary_payload w$level.xzdio" \
        --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
        --define "source_date_epoch_from_changelog 0" --define "_source_filedigest_algorithm 8" \
        --define "_binary_filedigest_algorithm 8" "$spec" >"$work/rpmbuild.log" 2>&1; then
        tail -30 "$work/rpmbuild.log" >&2
        return 1
    fi
    install -m 644 "$work/rpms/$machine/docker-gpuctl-$version-1.$machine.rpm" "$out/"
    echo "$out/docker-gpuctl-$version-1.$machine.rpm"
}
