//! Packages as `packaging/build` makes them, of the programs that the tests run.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::programs;

/// The longest that making them may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Packages of one version.
pub struct Made {
    /// Theirs; it goes with this.
    pub folder: tempfile::TempDir,
    /// The deb.
    pub deb: PathBuf,
    /// The rpm.
    pub rpm: PathBuf,
}

/// Makes them; of the tree's own version where none is named.
///
/// # Panics
/// When that fails.
pub fn make(version: &str) -> Made {
    let folder = tempfile::tempdir().expect("a folder");
    let hook = programs::programs().hook;
    let from = hook.parent().expect("a folder of programs");
    // Of another version, another time: systemd knows a unit that has changed by its file's.
    let epoch = 1_700_000_000 + version.bytes().map(u32::from).sum::<u32>();
    let mut build = Command::new(programs::repository().join("packaging/build"));
    build.args(["--fast", "--programs"]).arg(from);
    if !version.is_empty() {
        build.args(["--version", version]);
    }
    build.arg("--out").arg(folder.path()).env("SOURCE_DATE_EPOCH", epoch.to_string());
    let got = gpuctl_sim::command::run(&mut build, LIMIT).expect("packaging/build runs");
    assert_eq!(got.code, 0, "{got}");
    let one = |extension: &str| {
        let files = std::fs::read_dir(folder.path()).expect("a folder").flatten().map(|e| e.path());
        let mut found = files.filter(|p| p.extension().is_some_and(|e| e == extension));
        found.next().unwrap_or_else(|| panic!("no {extension}: {got}"))
    };
    Made { deb: one("deb"), rpm: one("rpm"), folder }
}

/// Whether root is here with these programs; says so where not.
pub fn have(names: &[&str]) -> bool {
    for name in names {
        if gpuctl_sim::command::find(&[name]).is_err() {
            crate::skip(&format!(
                "{name} is not installed: package_test_packages of packaging/lib/packages.sh"
            ));
            return false;
        }
    }
    if !nix::unistd::geteuid().is_root() {
        crate::skip("packages are installed by root");
        return false;
    }
    true
}
