//! The deb and the rpm as `packaging/build` makes them: what is in them, that two of the same are the same
//! bytes, and what installing, upgrading, removing and purging do. See docs/packages.md.
//!
//! Of the programs that the other tests run, so not of a release. What takes a Debian of its own runs with
//! `tests/run --full` only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gpuctl_sim::command::{self, Output};
use gpuctl_tests::packages::{have, make};
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
    let made = make("");
    let folder = programs::repository();
    let got = sh(
        &format!(
            "lintian -I --allow-root --fail-on error,warning --tag-display-limit 0 {}",
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
for name in $(busybox --list | grep -vx busybox); do ln -sf /bin/busybox "bin/$name"; done
cp "$(command -v busybox)" usr/bin/runc
echo root:x:0:0::/root:/bin/sh >etc/passwd
echo root:x:0: >etc/group"#;
        ok(script, folder.path());
        // What the plugin is linked with: the scripts call it.
        let plugin = programs::programs().plugin;
        let linked = format!(
            "ldd {} | grep -o '/[^ ]*' | while read -r file; do mkdir -p .${{file%/*}}; cp -L $file .$file; done",
            plugin.display()
        );
        ok(&linked, folder.path());
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
        let plain = |line: &&str| {
            !line.starts_with('(') && !line.starts_with("rpmlib(") && !line.starts_with("config(")
        };
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

    // What cannot be undone stays.
    let json = root.folder.path().join("etc/docker/daemon.json");
    fs::create_dir_all(json.parent().expect("a folder")).expect("a folder");
    fs::write(&json, "{ broken").expect("a broken daemon.json");
    let got = root.rpm("-e docker-gpuctl");
    assert_ne!(got.code, 0, "{got}");
    assert!(got.stderr.contains("the package stays") && got.stderr.contains("broken"), "{got}");
    assert!(root.has("/usr/libexec/gpuctl/gpuctl-hook"), "{got}");
    fs::write(
        &json,
        r#"{"runtimes": {"gpuctl-gate": {"path": "/usr/libexec/gpuctl/gpuctl-gate"}}, "default-runtime": "gpuctl-gate"}"#,
    )
    .expect("a daemon.json");
    let got = root.rpm("-e docker-gpuctl");
    assert_eq!(got.code, 0, "{got}");
    let text = fs::read_to_string(&json).expect("daemon.json");
    assert!(text.contains("\"default-runtime\": \"runc\"") && !text.contains("libexec"), "{text}");
    for (path, _) in FILES.iter().filter(|(path, _)| *path != "/var/lib/gpuctl") {
        assert!(!root.has(path), "{path} is left");
    }
    assert_eq!(fs::read_to_string(&ledger).expect("the ledger stays"), "leases");
}

/// A Debian 13 whose apt finds all that the deb depends on.
#[test]
fn the_deb_is_installed_upgraded_removed_and_purged_in_trixie() {
    if !gpuctl_tests::full() {
        return skip("the deb in Debian 13: ./tests/run --full");
    }
    if !have(&["rpmbuild", "dpkg-deb", "debootstrap"]) {
        return;
    }
    let mirror = match gpuctl_sim::root::mirror() {
        Ok(mirror) => mirror,
        Err(why) => return skip(&format!("the deb in Debian 13: {why}")),
    };
    let (older, newer) = (make(OLDER), make(NEWER));
    let root = tempfile::tempdir_in("/var/tmp").expect("a folder");
    let shown = root.path().display().to_string();
    let here = Path::new("/");
    let got = sh(&format!("debootstrap --variant=minbase trixie {shown} {mirror}"), here);
    if got.code != 0 {
        return skip(&format!(
            "Debian 13 cannot be fetched: {}",
            got.stdout.lines().last().unwrap_or_default()
        ));
    }
    fs::copy(&older.deb, root.path().join("older.deb")).expect("the older deb");
    fs::copy(&newer.deb, root.path().join("newer.deb")).expect("the newer deb");
    fs::write(root.path().join("usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n").expect("a policy");
    ok(&format!("chmod 755 {shown}/usr/sbin/policy-rc.d"), here);
    let inside = |script: &str| {
        let mut chroot = Command::new("chroot");
        chroot.arg(root.path()).args(["sh", "-c", script]).env_clear();
        chroot.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        chroot.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").env("HOME", "/root");
        command::run(&mut chroot, LIMIT).expect("chroot runs")
    };
    let done = |script: &str| {
        let got = inside(script);
        assert_eq!(got.code, 0, "{got}");
        format!("{}{}", got.stdout, got.stderr)
    };
    let said = done("apt-get install -y ./older.deb");
    assert!(said.contains("docker gpuctl setup"), "what to type next: {said}");
    // Docker's own client finds the plugin, and its completion asks it.
    done("docker gpuctl --help | grep -q scale");
    done("docker __complete gpuctl sc | grep -q ^scale");
    assert_eq!(done("stat -c %a:%U /var/lib/gpuctl").trim(), "700:root");
    done("test ! -e /etc/docker/daemon.json && test -z \"$(dpkg -V docker-gpuctl)\"");
    for unit in ["gpuctl.socket", "gpuctl.service", "gpuctl-links.service"] {
        done(&format!("find /etc/systemd/system -name {unit} | grep -q wants"));
    }
    done("echo '# mine' >>/etc/gpuctl/config.toml; echo leases >/var/lib/gpuctl/ledger.db");
    done("apt-get install -y ./newer.deb");
    assert_eq!(done("dpkg-query -W -f '${Version}' docker-gpuctl"), NEWER);
    done("grep -qx '# mine' /etc/gpuctl/config.toml && grep -q leases /var/lib/gpuctl/ledger.db");
    // Not where setup cannot be undone.
    done("mkdir -p /etc/docker; echo '{ broken' >/etc/docker/daemon.json");
    let got = inside("dpkg -r docker-gpuctl");
    assert!(got.code != 0 && got.stderr.contains("the package stays"), "{got}");
    done("docker gpuctl --help >/dev/null; rm /etc/docker/daemon.json");
    done("apt-get remove -y docker-gpuctl");
    done(
        "test ! -e /usr/libexec/docker/cli-plugins/docker-gpuctl && test -e /etc/gpuctl/config.toml",
    );
    // Purged, the ledger stays unless it was asked for.
    let said = done("dpkg --purge docker-gpuctl");
    assert!(said.contains("/var/lib/gpuctl stays"), "{said}");
    done(
        "test -e /var/lib/gpuctl/ledger.db && test ! -e /etc/gpuctl && ! find /etc/systemd | grep gpuctl",
    );
    done(
        "dpkg -i newer.deb && mkdir /var/lib/gpuctl/volumes && touch /var/lib/gpuctl/volumes/data",
    );
    done("echo docker-gpuctl docker-gpuctl/purge boolean true | debconf-set-selections");
    done("dpkg --purge docker-gpuctl");
    assert_eq!(done("find /var/lib/gpuctl -type f").trim(), "/var/lib/gpuctl/volumes/data");
}
