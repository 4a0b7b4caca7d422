# shellcheck shell=bash
# The release programs. Sourced, after packages.sh, in the root of the tree.

# No path of this machine gets into a program: neither the compiler's nor the C compiler's.
remapped() {
    local cargo_home=${CARGO_HOME:-$HOME/.cargo}
    printf '%s\n' "--remap-path-prefix=$PWD=/src" "--remap-path-prefix=$1=/target" \
        "--remap-path-prefix=$cargo_home=/cargo"
}

# One release program: its package, its folder for what is built, and flags of rustc.
release_program() {
    local package=$1 folder=$2 flags
    shift 2
    flags=$(printf '%s\n' "$@" $(remapped "$folder") | paste -sd $'\x1f')
    CARGO_ENCODED_RUSTFLAGS=$flags CARGO_INCREMENTAL=0 \
        CFLAGS="${CFLAGS:-} -ffile-prefix-map=$PWD=/src -ffile-prefix-map=$folder=/target -ffile-prefix-map=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
        cargo build --locked --release --target "$(host_target)" --target-dir "$folder" -p "$package" --bins
}

# Builds both programs into a folder. `built` is where cargo works.
build_release() {
    local to=$1 built=$2 triple
    triple=$(host_target)
    mkdir -p "$built" "$to"
    built=$(cd "$built" && pwd)
    # Static, and not position-independent: see build_static_hook.
    release_program gpuctl-hook "$built/hook" -C target-feature=+crt-static -C relocation-model=static
    release_program docker-gpuctl "$built/plugin"
    check_static "$built/hook/$triple/release/gpuctl-hook"
    install -t "$to" "$built/hook/$triple/release/gpuctl-hook" "$built/plugin/$triple/release/docker-gpuctl"
}
