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

/// Name and file of each package asked for, from a mirror's list of packages.
const FILENAMES: &str = r#"
set -eu
list=$1
shift
xz -dc "$list" | awk -v wanted=" $* " '
    $1 == "Package:" { name = $2 }
    $1 == "Filename:" && index(wanted, " " name " ") { print name, $2 }'
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

    /// Unpacks more packages into one of a suite: programs that need nothing else. What is there is
    /// not fetched again.
    ///
    /// # Errors
    /// When the mirror has not got one, or it cannot be unpacked.
    pub fn add(&self, suite: &str, packages: &[&str]) -> Result<()> {
        let marks = self.folder.join("var/lib/gpuctl-sim");
        fs::create_dir_all(&marks).doing("make a folder for marks")?;
        // Two tests may share the root.
        let lock = fs::File::create(marks.join("lock")).doing("open the lock of a root")?;
        lock.lock().doing("lock a root")?;
        let missing = packages.iter().filter(|name| !marks.join(name).exists());
        let missing: Vec<&str> = missing.copied().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mirror = mirror()?;
        let wget = command::find(&["wget"])?;
        let fetch = |from: &str, to: &Path| {
            let mut fetch = Command::new(&wget);
            fetch.args(["-q", "--tries=2", "--timeout=30", "-O"]).arg(to).arg(from);
            command::run(&mut fetch, FETCH)?.ok()
        };
        let list = marks.join("Packages.xz");
        fetch(&format!("{mirror}/dists/{suite}/main/binary-amd64/Packages.xz"), &list)?;
        let mut unpack = Command::new("sh");
        unpack.args(["-c", FILENAMES, "sh"]).arg(&list).args(&missing);
        let files = command::run(&mut unpack, UNPACK)?.ok()?;
        fs::remove_file(&list).doing("remove the list of packages")?;
        for name in missing {
            let file = files.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
            let file = file.ok_or_else(|| format!("Debian {suite} has no {name}"))?;
            let deb = marks.join("one.deb");
            fetch(&format!("{mirror}/{file}"), &deb)?;
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(&deb).arg(&self.folder);
            command::run(&mut unpack, UNPACK)?.ok()?;
            fs::remove_file(&deb).doing("remove a package")?;
            files::write(&marks.join(name), file)?;
        }
        Ok(())
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
