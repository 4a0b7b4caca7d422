//! nvidia-container-toolkit: its version, and what is known to be wrong with it. NVIDIA's bulletins name
//! the first version without each fault.

use std::path::PathBuf;
use std::time::Duration;

use gpuctl_ledger::config::{Config, Inject};

use super::{Checks, ask};
use crate::setup::Toolkit;

const NAME: &str = "toolkit";
/// How long the toolkit may take to say its version.
const LIMIT: Duration = Duration::from_secs(5);

/// A version; a candidate comes before the release of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    numbers: (u32, u32, u32),
    released: bool,
}

impl Version {
    const fn of(major: u32, minor: u32, patch: u32) -> Self {
        Self { numbers: (major, minor, patch), released: true }
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (major, minor, patch) = self.numbers;
        let candidate = if self.released { "" } else { ", a candidate," };
        write!(f, "{major}.{minor}.{patch}{candidate}")
    }
}

/// A fault by which a container gets out onto the host.
struct Fault {
    cve: &'static str,
    /// The first version without it.
    mended: Version,
    /// By which way of giving GPUs it is open, in a version.
    by: fn(Version) -> &'static str,
}

/// The hook that NVIDIA's runtime has for every container was first there in this version; before it only CDI
/// had hooks of that kind.
const HOOKED: Version = Version::of(1, 17, 5);

/// Newest last.
const FAULTS: [Fault; 3] = [
    Fault { cve: "CVE-2024-0132", mended: Version::of(1, 16, 2), by: |_| " (not by CDI)" },
    Fault { cve: "CVE-2025-23359", mended: Version::of(1, 17, 4), by: |_| "" },
    Fault {
        cve: "CVE-2025-23266",
        mended: Version::of(1, 17, 8),
        by: |version| if version < HOOKED { " (only by CDI)" } else { "" },
    },
];

pub(super) fn checks(found: &Toolkit, config: &Config, checks: &mut Checks) {
    let programs: Vec<&PathBuf> = found.ctk.iter().chain(&found.hook).collect();
    if programs.is_empty() {
        return match config.gpu.inject {
            Inject::Env => checks.problem(
                NAME,
                "nvidia-container-toolkit is not installed, and inject = \"env\" needs it",
                Some("apt-get install nvidia-container-toolkit".into()),
            ),
            _ => checks.ok(NAME, "nvidia-container-toolkit is not installed, and not needed"),
        };
    }
    let told = programs.iter().find_map(|program| {
        // Root runs it for us: not one that others can write.
        let trusted = ask::is_trusted(program);
        trusted.then(|| ask::answer(program, &["--version"], LIMIT)).flatten()
    });
    let shown = programs.first().map(|p| p.display().to_string()).unwrap_or_default();
    match told.as_deref().map(version) {
        Some(Some(read)) => judge(read, checks),
        Some(None) => {
            let fix = format!("{shown} --version tells what it says instead");
            checks.warning(NAME, format!("{shown} does not say its version"), Some(fix));
        }
        None => {
            let text = format!("{shown} cannot be asked for its version");
            let fix = format!("{shown} --version, as root; it must be root's alone to write");
            checks.warning(NAME, text, Some(fix));
        }
    }
}

/// `NVIDIA Container Toolkit CLI version 1.16.1` and lines after it. What a package adds to the number, as
/// in `1.16.1-1`, makes no other version of it, and `~` or `rc` a candidate.
fn version(text: &str) -> Option<Version> {
    let mut words = text.split_whitespace();
    words.find(|word| word.trim_end_matches(':').eq_ignore_ascii_case("version"))?;
    let word = words.next()?.trim_start_matches('v');
    let plain = |c: char| c.is_ascii_digit() || c == '.';
    let (digits, more) = word.split_at(word.find(|c| !plain(c)).unwrap_or(word.len()));
    let mut numbers = digits.split('.').map(str::parse::<u32>);
    let mut next = || numbers.next().and_then(Result::ok);
    let numbers = (next()?, next()?, next().unwrap_or(0));
    let more = more.to_ascii_lowercase();
    let candidate =
        more.starts_with('~') || ["rc", "alpha", "beta", "dev"].iter().any(|w| more.contains(w));
    Some(Version { numbers, released: !candidate })
}

fn judge(read: Version, checks: &mut Checks) {
    let open: Vec<&Fault> = FAULTS.iter().filter(|fault| read < fault.mended).collect();
    let Some(last) = open.last() else {
        let text = format!("nvidia-container-toolkit {}, with no fault that is known here", read);
        return checks.ok(NAME, text);
    };
    let cves: Vec<String> = open.iter().map(|f| format!("{}{}", f.cve, (f.by)(read))).collect();
    let text = format!(
        "nvidia-container-toolkit {} lets a container out onto the host: {}",
        read,
        cves.join(", ")
    );
    let fix = format!(
        "apt-get install --only-upgrade nvidia-container-toolkit, or dnf upgrade it, to {} or later",
        last.mended
    );
    checks.problem(NAME, text, Some(fix));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::api::Verdict;

    #[test]
    fn each_version_has_the_faults_that_were_mended_after_it() {
        let judged = |read| {
            let mut checks = Checks::default();
            judge(read, &mut checks);
            checks.0.remove(0)
        };
        let cves = |read: Version| -> Vec<&str> {
            let text = judged(read).detail;
            FAULTS.iter().map(|f| f.cve).filter(|cve| text.contains(cve)).collect()
        };
        let [a, b, c] = FAULTS.map(|fault| fault.cve);
        let cves = |text: &str| cves(version(&format!("version {text}")).unwrap());
        let judged = |text: &str| judged(version(&format!("version {text}")).unwrap());
        for (text, expected) in [
            ("1.9.0", &[a, b, c][..]),
            ("1.16.1", &[a, b, c]),
            ("1.16.2~rc.1", &[a, b, c]),
            ("1.16.2", &[b, c]),
            ("1.17.3", &[b, c]),
            ("1.17.4-rc.1", &[b, c]),
            ("1.17.4", &[c]),
            ("1.17.4-1", &[c]),
            ("1.17.7", &[c]),
            ("1.17.7-1", &[c]),
            ("1.17.8-rc.1", &[c]),
            ("1.17.8~rc.1-1", &[c]),
            ("1.17.8", &[]),
            ("1.17.8-1", &[]),
            ("1.17.8-1~deb12u1", &[]),
            ("1.17.10", &[]),
            ("1.18.0~rc.1", &[]),
            ("1.18.0", &[]),
            ("2.0", &[]),
        ] {
            assert_eq!(cves(text), expected, "{text}");
        }
        assert_eq!(judged("1.17.8").verdict, Verdict::Ok);
        let bad = judged("1.17.6");
        assert_eq!(bad.verdict, Verdict::Problem);
        assert!(bad.detail.ends_with("host: CVE-2025-23266"), "{bad:?}");
        assert!(bad.fix.unwrap().contains("to 1.17.8 or later"));
        assert!(judged("1.17.4").detail.ends_with("host: CVE-2025-23266 (only by CDI)"));
    }

    #[test]
    fn its_version_is_read_however_it_says_it() {
        let said = "NVIDIA Container Toolkit CLI version 1.16.1\ncommit: a470818ba7d9166be282cd0039dd2fc9b0a34d73\n";
        assert_eq!(version(said), Some(Version::of(1, 16, 1)));
        let candidate = version("NVIDIA Container Runtime Hook version 1.17.8-rc.1").unwrap();
        assert!(!candidate.released && candidate < Version::of(1, 17, 8));
        assert_eq!(version("version: v1.18"), Some(Version::of(1, 18, 0)));
        assert_eq!(version("usage: x"), None);
        assert_eq!(version("version unknown"), None);
        assert_eq!(version(""), None);
    }
}
