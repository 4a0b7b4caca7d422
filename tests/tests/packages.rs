//! The deb and the rpm as `packaging/build` makes them: what is in them, that two of the same are the same
//! bytes, and what installing, upgrading, removing and purging do. See docs/packages.md.
//!
//! Of the programs that the other tests run, so not of a release. What takes a Debian of its own runs with
//! `tests/run --full` only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gpuctl_sim::command::{self, Output};
use gpuctl_tests::{programs, skip};

/// The longest that making the packages, or one program on them, may take.
const LIMIT: Duration = Duration::from_secs(600);
/// The version of an older package.
const OLDER: &str = "0.0.9";
/// The version that is made, whatever the tree's is.
const NEWER: &str = "9.9.9";

fn sh(script: &str, folder: &Path) -> Output {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).current_dir(folder).env("LC_ALL", "C");
    command::run(&mut shell, LIMIT).expect("sh runs")
}

#[track_caller]
fn ok(script: &str, folder: &Path) -> String {
    let got = sh(script, folder);
    assert_eq!(got.code, 0, "{script}\n{got}");
    got.stdout
}

/// Whether these programs are here; says so where not.
fn have(names: &[&str]) -> bool {
    for name in names {
        if command::find(&[name]).is_err() {
            skip(&format!(
                "{name} is not installed: package_test_packages of packaging/lib/packages.sh"
            ));
            return false;
        }
    }
    if !nix::unistd::geteuid().is_root() {
        skip("packages are installed by root");
        return false;
    }
    true
}

/// Packages of a version, made into a folder of their own.
struct Made {
    _folder: tempfile::TempDir,
    deb: PathBuf,
    rpm: PathBuf,
}

fn make(version: &str) -> Made {
    let folder = tempfile::tempdir().expect("a folder");
    let hook = programs::programs().hook;
    let from = hook.parent().expect("a folder of programs");
    let mut build = Command::new(programs::repository().join("packaging/build"));
    build.arg("--programs").arg(from).args(["--version", version]);
    build.arg("--out").arg(folder.path()).env("SOURCE_DATE_EPOCH", "1700000000");
    let got = command::run(&mut build, LIMIT).expect("packaging/build runs");
    assert_eq!(got.code, 0, "{got}");
    let one = |extension: &str| {
        let files = fs::read_dir(folder.path()).expect("a folder").flatten().map(|e| e.path());
        let mut found = files.filter(|p| p.extension().is_some_and(|e| e == extension));
        found.next().unwrap_or_else(|| panic!("no {extension}: {got}"))
    };
    Made { deb: one("deb"), rpm: one("rpm"), _folder: folder }
}

/// Files that both have, and their modes.
const FILES: [(&str, &str); 18] = [
    ("/usr/libexec/docker/cli-plugins/docker-gpuctl", "-rwxr-xr-x"),
    ("/usr/libexec/gpuctl/gpuctl-hook", "-rwxr-xr-x"),
    ("/usr/libexec/gpuctl/gpuctl-runtime", "lrwxrwxrwx"),
    ("/usr/libexec/gpuctl/gpuctl-gate", "lrwxrwxrwx"),
    ("/usr/libexec/gpuctl/stub/nvidia-container-runtime-hook", "lrwxrwxrwx"),
    ("/usr/libexec/gpuctl/strict/runc", "lrwxrwxrwx"),
    ("/usr/lib/systemd/system/gpuctl.socket", "-rw-r--r--"),
    ("/usr/lib/systemd/system/gpuctl.service", "-rw-r--r--"),
    ("/usr/lib/systemd/system/gpuctl-links.service", "-rw-r--r--"),
    ("/usr/lib/udev/rules.d/70-gpuctl-links.rules", "-rw-r--r--"),
    ("/usr/lib/tmpfiles.d/gpuctl.conf", "-rw-r--r--"),
    ("/usr/share/gpuctl/config.toml", "-rw-r--r--"),
    ("/usr/share/gpuctl/hooks.d/gpuctl.json", "-rw-r--r--"),
    ("/usr/share/man/man1/docker-gpuctl.1.gz", "-rw-r--r--"),
    ("/usr/share/man/man1/docker-gpuctl-scale.1.gz", "-rw-r--r--"),
    ("/usr/share/fish/vendor_conf.d/docker-gpuctl.fish", "-rw-r--r--"),
    ("/usr/share/doc/docker-gpuctl/THIRD-PARTY.gz", "-rw-r--r--"),
    ("/var/lib/gpuctl", "drwx------"),
];

/// Path and mode, of `ls -l` lines with root's owner in them.
fn listed(lines: &str) -> BTreeMap<String, String> {
    let one = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let owned = line.contains("root/root") || line.contains("root     root");
        assert!(owned, "not root's: {line}");
        let at = words.iter().position(|w| w.starts_with('/') || w.starts_with("./")).expect(line);
        let path = words[at].trim_start_matches('.').trim_end_matches('/');
        (path.to_owned(), words[0].to_owned())
    };
    lines.lines().map(one).collect()
}

#[test]
fn both_have_all_files_and_are_made_the_same_twice() {
    if !have(&["dpkg-deb", "rpmbuild", "rpm"]) {
        return;
    }
    let (first, second) = (make(NEWER), make(NEWER));
    for (a, b) in [(&first.deb, &second.deb), (&first.rpm, &second.rpm)] {
        assert!(
            fs::read(a).expect("a package") == fs::read(b).expect("a package"),
            "{} differs",
            a.display()
        );
    }
    let root = Path::new("/");
    let deb = listed(&ok(&format!("dpkg-deb -c {}", first.deb.display()), root));
    let rpm = listed(&ok(&format!("rpm -qlvp {}", first.rpm.display()), root));
    for (path, mode) in FILES {
        for (kind, files) in [("deb", &deb), ("rpm", &rpm)] {
            assert_eq!(
                files.get(path).map(String::as_str),
                Some(mode),
                "{kind}: {path}\n{files:#?}"
            );
        }
    }
    assert!(
        rpm.contains_key("/etc/gpuctl/config.toml") && !deb.contains_key("/etc/gpuctl/config.toml")
    );
    for kind in [deb, rpm] {
        let touched =
            |path: &&String| path.contains("docker.service") || path.contains("/etc/docker");
        assert_eq!(kind.keys().find(touched), None, "Docker's own");
    }
    let depends = ok(&format!("dpkg-deb -f {} Depends", first.deb.display()), root);
    assert!(depends.contains("docker.io | docker-ce"), "{depends}");
    // What builds on Debian 12 is to run on RHEL 9 and Ubuntu 22.04 too.
    let glibc = depends.split("libc6 (>= 2.").nth(1).and_then(|t| t.split(')').next());
    assert!(glibc.and_then(|v| v.parse::<u32>().ok()).is_some_and(|v| v <= 35), "{depends}");
}

/// The packaged config is read as the defaults, and has every key as a comment.
#[test]
fn the_config_in_them_is_the_defaults() {
    if !have(&["dpkg-deb", "rpmbuild"]) {
        return;
    }
    let made = make(NEWER);
    let config = ok(
        &format!(
            "dpkg-deb --fsys-tarfile {} | tar -xO ./usr/share/gpuctl/config.toml",
            made.deb.display()
        ),
        Path::new("/"),
    );
    let read = |text: &str| gpuctl_ledger::config::Config::parse(text);
    assert_eq!(read(&config), Ok(gpuctl_ledger::config::Config::default()));
    let set = config.lines().filter(|l| !l.is_empty() && !l.starts_with(['#', '[']));
    assert_eq!(set.count(), 0, "{config}");
    // Each key by itself can be uncommented.
    let keys: Vec<&str> =
        config.lines().filter(|l| l.starts_with("# ") && l.contains(" = ")).collect();
    assert!(keys.len() > 30, "{config}");
    for key in ["# url = \"sqlite:", "# inject = \"cdi\"", "# bare = \"assign\""] {
        assert!(keys.iter().any(|l| l.starts_with(key)), "{key}");
        let text = config.replacen(key, key.trim_start_matches("# "), 1);
        assert_eq!(read(&text), Ok(gpuctl_ledger::config::Config::default()), "{key}");
    }
}

#[test]
fn lintian_and_rpmlint_find_nothing_that_has_no_reason() {
    if !have(&["dpkg-deb", "rpmbuild", "lintian", "rpmlint"]) {
        return;
    }
    let made = make(NEWER);
    let folder = programs::repository();
    // The user of lintian must be able to read it.
    let got = sh(
        &format!(
            "lintian --allow-root --fail-on error,warning --tag-display-limit 0 {}",
            made.deb.display()
        ),
        &folder,
    );
    assert_eq!(got.code, 0, "{got}");
    assert!(!got.stdout.contains("unused-override") && !got.stdout.contains("mismatched"), "{got}");
    let got = sh(&format!("rpmlint -c packaging/rpm/rpmlint.toml {}", made.rpm.display()), &folder);
    assert_eq!(got.code, 0, "{got}");
    assert!(got.stdout.contains("0 errors, 0 warnings"), "{got}");
}

/// A folder that rpm takes for a whole system: a shell, and a package that stands for Docker and the C
/// library.
struct RpmRoot {
    folder: tempfile::TempDir,
}

impl RpmRoot {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let script = r#"set -e
mkdir -p bin usr/bin etc run proc tmp var/lib/rpm usr/sbin
cp "$(command -v busybox)" bin/busybox
for name in $(busybox --list); do ln -sf /bin/busybox "bin/$name"; done
cp /bin/true usr/bin/runc 2>/dev/null || true
echo root:x:0:0::/root:/bin/sh >etc/passwd
echo root:x:0: >etc/group"#;
        ok(script, folder.path());
        Self { folder }
    }

    fn rpm(&self, words: &str) -> Output {
        sh(
            &format!("rpm --root {} --dbpath /var/lib/rpm {words}", self.folder.path().display()),
            Path::new("/"),
        )
    }

    fn has(&self, path: &str) -> bool {
        self.folder.path().join(path.trim_start_matches('/')).symlink_metadata().is_ok()
    }

    /// A package that provides what ours wants of the system.
    fn system(&self, rpm: &Path) {
        let wanted = ok(&format!("rpm -qRp {}", rpm.display()), Path::new("/"));
        let plain = |line: &&str| !line.starts_with("rpmlib(") && !line.starts_with('(');
        let provides: BTreeSet<&str> = wanted.lines().map(str::trim).filter(plain).collect();
        let lines: String = provides.iter().map(|p| format!("Provides: {p}\n")).collect();
        let spec = format!(
            "Name: docker-ce\nVersion: 29\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n{lines}\
             %description\nx\n%files\n"
        );
        let folder = self.folder.path().join("tmp");
        fs::write(folder.join("system.spec"), spec).expect("a spec");
        ok(
            "rpmbuild -bb --quiet --define \"_topdir $PWD/b\" --define \"_rpmdir $PWD\" system.spec",
            &folder,
        );
        let got = self.rpm(&format!("-i {}/noarch/docker-ce-29-1.noarch.rpm", folder.display()));
        assert_eq!(got.code, 0, "{got}");
    }
}

#[test]
fn the_rpm_is_installed_upgraded_and_removed_with_rpms_own_database() {
    if !have(&["rpmbuild", "rpm", "busybox", "dpkg-deb"]) {
        return;
    }
    let (older, newer) = (make(OLDER), make(NEWER));
    let root = RpmRoot::new();
    let got = root.rpm(&format!("-i {}", older.rpm.display()));
    assert_ne!(got.code, 0, "{got}");
    assert!(
        got.stderr.contains("docker-ce or moby-engine or docker"),
        "Docker is asked for: {got}"
    );
    root.system(&older.rpm);

    let got = root.rpm(&format!("-i {}", older.rpm.display()));
    assert_eq!(got.code, 0, "{got}");
    assert!(!got.stderr.contains("scriptlet failed") && !got.stderr.contains("not found"), "{got}");
    assert!(got.stderr.contains("docker gpuctl setup"), "what to type next: {got}");
    for (path, _) in FILES {
        assert!(root.has(path), "{path}");
    }
    assert!(!root.has("/etc/docker/daemon.json"), "nothing of Docker");
    let verified = root.rpm("-V --nomtime docker-gpuctl");
    assert_eq!((verified.code, verified.stdout.trim()), (0, ""), "{verified}");

    let config = root.folder.path().join("etc/gpuctl/config.toml");
    let mine = fs::read_to_string(&config).expect("the config") + "\n# mine\n";
    fs::write(&config, &mine).expect("the config");
    let ledger = root.folder.path().join("var/lib/gpuctl/ledger.db");
    fs::write(&ledger, "leases").expect("a ledger");
    let got = root.rpm(&format!("-U {}", newer.rpm.display()));
    assert_eq!(got.code, 0, "{got}");
    assert!(!got.stderr.contains("scriptlet failed") && !got.stderr.contains("not found"), "{got}");
    assert_eq!(root.rpm("-q docker-gpuctl").stdout.trim().split('-').nth(2), Some(NEWER));
    assert_eq!(fs::read_to_string(&config).expect("the config"), mine);
    assert_eq!(fs::read_to_string(&ledger).expect("the ledger"), "leases");
    assert!(
        root.has("/usr/libexec/gpuctl/gpuctl-hook"),
        "the older one's removal takes nothing away"
    );

    // The plugin runs with the C library of a real system, which this root has not: its word is that of a
    // program that cannot undo setup, and then the package stays.
    let got = root.rpm("-e docker-gpuctl");
    assert_ne!(got.code, 0, "{got}");
    assert!(got.stderr.contains("the package stays"), "{got}");
    assert!(root.has("/usr/libexec/gpuctl/gpuctl-hook"), "{got}");
    fs::write(
        root.folder.path().join("usr/libexec/docker/cli-plugins/docker-gpuctl"),
        "#!/bin/sh\necho \"$@\" >>/tmp/asked\n",
    )
    .expect("a plugin");
    let got = root.rpm("-e docker-gpuctl");
    assert_eq!(got.code, 0, "{got}");
    let asked = fs::read_to_string(root.folder.path().join("tmp/asked")).expect("what was asked");
    assert_eq!(asked, "setup --remove\n");
    for (path, _) in FILES.iter().filter(|(path, _)| *path != "/var/lib/gpuctl") {
        assert!(!root.has(path), "{path} is left");
    }
    assert_eq!(fs::read_to_string(&ledger).expect("the ledger stays"), "leases");
}
