//! Where the built programs are.

use std::path::{Path, PathBuf};

use gpuctl_sim::site::Programs;

/// The folder of the repository.
pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ lies in the repository").to_owned()
}

/// Where the programs are: in `GPUCTL_PROGRAMS`, else where cargo put this test.
fn folder() -> PathBuf {
    std::env::var_os("GPUCTL_PROGRAMS").map_or_else(
        || {
            let me = std::env::current_exe().expect("this test's own file");
            me.ancestors().nth(2).expect("target/debug/deps/test").to_owned()
        },
        PathBuf::from,
    )
}

fn built(file: PathBuf) -> PathBuf {
    let shown = file.display();
    assert!(file.is_file(), "{shown} was not built: cargo build --workspace, or ./tests/run");
    file
}

/// The product's programs.
///
/// # Panics
/// When one was not built.
pub fn programs() -> Programs {
    let folder = folder();
    Programs {
        plugin: built(folder.join("docker-gpuctl")),
        hook: built(folder.join("gpuctl-hook")),
        nvml: built(folder.join("libfake_nvml.so")),
    }
}

/// `gpuctl-sim`.
///
/// # Panics
/// When it was not built.
pub fn sim() -> PathBuf {
    built(folder().join("gpuctl-sim"))
}

/// `gpuctl-vm`.
///
/// # Panics
/// When it was not built.
pub fn vm() -> PathBuf {
    built(folder().join("gpuctl-vm"))
}

/// A profile of `tests/profiles` by its name without `.json`.
///
/// One beside the built programs goes before the repository's: so they run where there is none.
pub fn profile(name: &str) -> PathBuf {
    let beside = folder().join("profiles").join(format!("{name}.json"));
    if beside.is_file() {
        return beside;
    }
    repository().join("tests/profiles").join(format!("{name}.json"))
}
