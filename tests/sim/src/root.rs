//! Another Debian's files in a folder: the home of an Engine newer than this machine's.
//!
//! debootstrap fetches and checks the packages; then they are only unpacked. Their install scripts
//! set up a system that nobody boots, and take three times as long as all the rest.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::{Doing as _, Result, command, files};

/// What an Engine needs there.
const PACKAGES: &str = "docker.io,docker-cli,containerd,runc";
/// The longest that one attempt to reach the mirror may take.
const REACH: Duration = Duration::from_secs(30);
/// The longest that all packages may take.
const FETCH: Duration = Duration::from_secs(300);
/// The longest that unpacking them may take.
const UNPACK: Duration = Duration::from_secs(120);

/// All packages that debootstrap has fetched and not unpacked itself, two at a time.
const UNPACK_ALL: &str = r#"
set -eu
cd "$1"
find var/cache/apt/archives -name '*.deb' -print0 | xargs -0 -P2 -I{} dpkg-deb -x {} .
rm -rf var/cache/apt/archives/*.deb var/lib/apt/lists/* usr/share/doc usr/share/locale usr/share/man
"#;

/// The root folder of another Debian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    folder: PathBuf,
}

impl Root {
    /// One that was made before.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Makes one of a suite: `trixie`, `sid`.
    ///
    /// # Errors
    /// When debootstrap is not installed, its mirror cannot be reached or a package cannot be had.
    pub fn make(suite: &str, folder: &Path) -> Result<Self> {
        let debootstrap = command::find(&["debootstrap"])?;
        let mirror = mirror()?;
        let release = format!("{mirror}/dists/{suite}/InRelease");
        let mut reach = Command::new(command::find(&["wget"])?);
        reach.args(["-q", "--spider", "--tries=2", "--timeout=10", &release]);
        if command::run(&mut reach, REACH)?.code != 0 {
            return Err(format!("{release} cannot be reached"));
        }
        fs::create_dir_all(folder).doing(format!("make {}", folder.display()))?;
        let mut fetch = Command::new("setpriv");
        // Ends with the caller, however that ends; what it mounts ends with it.
        fetch.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"]);
        fetch.args(["--kill-child", "--mount-proc"]).arg(debootstrap);
        fetch.args(["--foreign", "--variant=minbase", &format!("--include={PACKAGES}")]);
        fetch.arg(suite).arg(folder).arg(&mirror);
        let got = command::run(&mut fetch, FETCH)?;
        if got.code != 0 {
            let last =
                |text: &str| text.lines().rev().find(|l| l.starts_with("E:")).map(str::to_owned);
            let why = last(&got.stdout).or_else(|| last(&got.stderr));
            return Err(format!(
                "debootstrap of {suite}: {}",
                why.unwrap_or_else(|| got.to_string())
            ));
        }
        let mut unpack = Command::new("sh");
        unpack.args(["-c", UNPACK_ALL, "sh"]).arg(folder);
        command::run(&mut unpack, UNPACK)?.ok()?;
        let root = Self::at(folder);
        // What the scripts of base-passwd would have made: the Engine looks for its group.
        for name in ["passwd", "group"] {
            let master = folder.join("usr/share/base-passwd").join(format!("{name}.master"));
            let text = fs::read_to_string(&master).doing(format!("read {}", master.display()))?;
            files::write(&folder.join("etc").join(name), &text)?;
        }
        let mut groups = fs::OpenOptions::new()
            .append(true)
            .open(folder.join("etc/group"))
            .doing("add a group")?;
        groups.write_all(b"docker:x:999:\n").doing("add a group")?;
        Ok(root)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a program is, seen from inside.
    ///
    /// # Errors
    /// When it is not there.
    pub fn find(&self, name: &str) -> Result<PathBuf> {
        let folders = ["usr/sbin", "usr/bin"];
        let found = folders.iter().map(|f| Path::new(f).join(name));
        found
            .clone()
            .find(|p| self.folder.join(p).is_file())
            .map(|p| Path::new("/").join(p))
            .ok_or_else(|| format!("{} has no {name}", self.folder.display()))
    }
}

/// The Debian mirror that this machine's own packages come from.
///
/// # Errors
/// When apt's sources name none.
pub fn mirror() -> Result<String> {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    let more = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    let mut more: Vec<PathBuf> = more.map(|e| e.path()).collect();
    more.sort();
    texts.extend(more.iter().filter_map(|path| fs::read_to_string(path).ok()));
    texts
        .iter()
        .find_map(|text| mirror_of(text))
        .ok_or_else(|| "apt's sources name no Debian mirror".to_owned())
}

/// The first Debian mirror of a file of sources, in either of their two shapes.
fn mirror_of(text: &str) -> Option<String> {
    let words = text.lines().map(str::trim).filter_map(|line| {
        line.strip_prefix("URIs:").or_else(|| line.strip_prefix("deb ")).map(str::split_whitespace)
    });
    let address = |word: &&str| word.starts_with("http://") || word.starts_with("https://");
    // Security updates have a mirror of their own, and others have packages of other kinds.
    let debian = |word: &&str| word.trim_end_matches('/').ends_with("/debian");
    words.flatten().filter(address).find(debian).map(|w| w.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_shapes_and_no_other_is_taken_for_it() {
        let found = |text| mirror_of(text);
        let both = "deb https://x.test/tools stable main\n\
                    deb [signed-by=/k] http://m.test/debian-security trixie-security main\n\
                    deb [signed-by=/k] http://m.test/debian/ trixie main\n";
        assert_eq!(found(both).as_deref(), Some("http://m.test/debian"));
        let stanza = "# URIs: http://old.test/debian\nTypes: deb\nURIs: http://n.test/debian\n";
        assert_eq!(found(stanza).as_deref(), Some("http://n.test/debian"));
        assert_eq!(found("deb http://m.test/ubuntu noble main\n"), None);
        assert_eq!(found("# deb http://m.test/debian trixie main\n"), None);
    }

    #[test]
    fn programs_are_named_as_seen_from_inside() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("usr/sbin")).unwrap();
        fs::write(folder.path().join("usr/sbin/runc"), "").unwrap();
        let root = Root::at(folder.path());
        assert_eq!(root.find("runc"), Ok("/usr/sbin/runc".into()));
        assert!(root.find("dockerd").is_err());
    }
}
