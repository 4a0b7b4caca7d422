# What the scripts of deb and rpm share: put into each of them when the packages are made. sh.
plugin=/usr/libexec/docker/cli-plugins/docker-gpuctl
libexec=/usr/libexec/gpuctl
config=/etc/gpuctl/config.toml
units='gpuctl.socket gpuctl.service gpuctl-links.service'

say() {
    echo "docker-gpuctl: $*" >&2
}

# systemd runs this system: no chroot, no image of one.
booted() {
    [ -d /run/systemd/system ] && command -v systemctl >/dev/null
}

make_folders() {
    if booted && command -v systemd-tmpfiles >/dev/null; then
        systemd-tmpfiles --create gpuctl.conf || true
    fi
    rm -f /run/gpuctl/left
}

# systemd goes by the units as they were until it reads them anew. That takes GPUs from containers, unless it
# is told of them first: the plugin does both, and by the plugin alone is it done here.
reload_units() {
    booted || return 0
    for unit in $units; do
        case $(systemctl show -p NeedDaemonReload "$unit" 2>/dev/null) in
            *=yes)
                "$plugin" setup --reload-units >&2 ||
                    say "systemd goes by the units of the version before until: docker gpuctl setup --reload-units"
                return 0
                ;;
        esac
    done
}

# start_units systemctl|deb-systemd-invoke first|again
start_units() {
    booted || return 0
    "$libexec/gpuctl-hook" links --config "$config" >/dev/null ||
        say "the links in /dev/char were not made: $libexec/gpuctl-hook links says why again"
    if [ "$2" = first ]; then
        "$1" start gpuctl.socket gpuctl.service >/dev/null ||
            say "gpuctl.service does not start: systemctl status gpuctl.socket gpuctl.service"
    else
        "$1" try-restart gpuctl.service >/dev/null ||
            say "gpuctl.service does not start again: systemctl status gpuctl.service"
    fi
}

# Setup, only if the administrator said so beforehand. $1 is debconf's answer, empty without debconf.
set_up() {
    answer=$1
    case $answer in
        '' | no)
            answer=no
            [ ! -r /etc/gpuctl/setup-answer ] || answer=$(head -n 1 /etc/gpuctl/setup-answer)
            ;;
    esac
    case $answer in
        observe | strict) level=--$answer ;;
        cooperative) level= ;;
        no)
            say "installed. Nothing of Docker is changed until you run it:"
            say "    docker gpuctl setup --dry-run    shows what it would change"
            say "    docker gpuctl setup              has every container's GPUs leased"
            return 0
            ;;
        *)
            say "setup was not run: $answer is none of no, observe, cooperative, strict"
            return 0
            ;;
    esac
    # shellcheck disable=SC2086 # one word or none
    "$plugin" setup $level >&2 || say "setup stopped; once that is mended: docker gpuctl setup $level"
}

# Docker is as it was before, or the package stays: daemon.json would name programs that are gone.
undo_setup() {
    [ -x "$plugin" ] || return 0
    if ! "$plugin" setup --remove >&2; then
        say "setup cannot be undone, so the package stays: Docker would look for its programs"
        return 1
    fi
    mkdir -p -m 0755 /run/gpuctl
    rm -f /run/gpuctl/left
    # Containers that run are killed and deleted by the runtime that started them, by its path.
    if grep -qs '^containerd-shim' /proc/[0-9]*/comm; then
        real=$(sed -n 's/^real = "\(\/[^"]*\)".*/\1/p' "$config" 2>/dev/null | head -n 1)
        echo "${real:-/usr/bin/runc}" >/run/gpuctl/left
    fi
}

stop_units() {
    booted || return 0
    systemctl stop gpuctl.socket gpuctl.service gpuctl-links.service 2>/dev/null || true
}

# After the files are gone: what runs finds the real runtime where it looks for ours.
leave_runtime() {
    [ -r /run/gpuctl/left ] || return 0
    real=$(head -n 1 /run/gpuctl/left)
    mkdir -p -m 0755 "$libexec" "$libexec/strict"
    for name in gpuctl-runtime gpuctl-gate strict/runc; do
        ln -sf "$real" "$libexec/$name"
    done
    say "containers run that gpuctl's runtime started, and are ended by it:"
    say "    its names in $libexec lead to $real until you remove that folder"
}
