//! The Engine: its version, the runtimes that it knows, its root.

use std::path::Path;

use gpuctl_ledger::config::Config;

use super::super::runtimes::Runtimes;
use super::{Checks, packaged};
use crate::docker::Info;

pub(super) const NAME: &str = "engine";

/// The oldest Engine that this was tried with.
const OLDEST: (u32, u32) = (20, 10);

/// The first two numbers of a version: `20.10.24+dfsg1`.
pub(super) fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What the Engine's word means. Pure.
pub(super) fn judge(
    info: &Info,
    runtimes: &Runtimes,
    config: &Config,
    config_path: &Path,
    checks: &mut Checks,
) {
    let version = &info.version;
    match major_minor(version) {
        Some(read) if read < OLDEST => {
            let text = format!(
                "Docker Engine {version} is older than {}.{}, the oldest that gpuctl works with",
                OLDEST.0, OLDEST.1
            );
            checks.problem(NAME, text, Some(packaged::newer_docker(Path::new("/"))));
        }
        Some(_) => checks.ok(NAME, format!("Docker Engine {version}")),
        None => {
            checks.warning(NAME, format!("Docker Engine of an unknown version: {version}"), None);
        }
    }
    let setup = || Some("docker gpuctl setup".to_owned());
    let program = |name: &str| info.runtimes.get(name).map(String::as_str).unwrap_or_default();
    let name = &config.runtime.managed_name;
    if !info.runtimes.contains_key(name) {
        let text =
            format!("the Engine has no runtime {name}: docker gpuctl run cannot start anything");
        checks.problem("runtime", text, setup());
    } else if runtimes.is_ours(config, name) {
        checks.ok("runtime", format!("runtime {name} is there"));
    } else {
        let text = format!(
            "runtime {name} is {}, no program of gpuctl's: docker gpuctl run starts nothing by it",
            program(name)
        );
        checks.problem("runtime", text, setup());
    }
    let default = &info.default_runtime;
    if runtimes.is_gone(default, &info.runtimes) {
        let text = format!(
            "the default runtime {default} is {}, which is not there: no container starts",
            program(default)
        );
        checks.problem("enforcement", text, Some(packaged::again(Path::new("/"))));
    } else if runtimes.is_ours(config, default) {
        checks.ok("enforcement", format!("containers of docker run pass {default}"));
    } else if default.starts_with("gpuctl") {
        let text = format!(
            "the default runtime {default} is {}, no program of gpuctl's: docker run passes by the leases",
            program(default)
        );
        checks.problem("enforcement", text, setup());
    } else {
        let text = format!("the default runtime is {default}: docker run passes by the leases");
        checks.warning("enforcement", text, setup());
    }
    let root = &info.root;
    if Path::new(root) == config.docker.root {
        checks.ok("docker root", root.clone());
    } else {
        let text = format!(
            "the Engine's root is {root}, the config says {}",
            config.docker.root.display()
        );
        let fix = format!("set root = \"{root}\" under [docker] in {}", config_path.display());
        checks.problem("docker root", text, Some(fix));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::api::Verdict;

    fn judged(change: impl FnOnce(&mut Info)) -> Vec<(String, Verdict)> {
        let mut info = Info {
            runtimes: ["gpuctl", "runc"].map(|n| (n.into(), n.into())).into(),
            default_runtime: "gpuctl-gate".into(),
            root: "/var/lib/docker".into(),
            version: "29.0.1".into(),
            ..Info::default()
        };
        change(&mut info);
        let mut checks = Checks::default();
        let look = |path: &Path| (!path.starts_with("/gone")).then(|| path.starts_with("/ours"));
        let runtimes = Runtimes::of(&info.runtimes, look);
        judge(&info, &runtimes, &Config::default(), Path::new("/c"), &mut checks);
        let bad = checks.0.into_iter().filter(|c| c.verdict != Verdict::Ok);
        bad.map(|c| (c.name, c.verdict)).collect()
    }

    #[test]
    fn each_thing_that_is_not_as_it_should_be_is_named() {
        assert_eq!(judged(|_| {}), []);
        let one = |name: &str, verdict| vec![(name.to_owned(), verdict)];
        assert_eq!(judged(|i| i.version = "19.03.5".into()), one("engine", Verdict::Problem));
        assert_eq!(judged(|i| i.version = "20.10.24+dfsg1".into()), []);
        assert_eq!(judged(|i| i.version = "dev".into()), one("engine", Verdict::Warning));
        assert_eq!(judged(|i| i.runtimes.clear()), one("runtime", Verdict::Problem));
        assert_eq!(
            judged(|i| i.default_runtime = "runc".into()),
            one("enforcement", Verdict::Warning)
        );
        // By what file it is, whatever its name.
        let led = |name: &'static str, to: &'static str| {
            judged(move |i| drop(i.runtimes.insert(name.into(), to.into())))
        };
        assert_eq!(led("gpuctl", "/usr/bin/runc"), one("runtime", Verdict::Problem));
        assert_eq!(led("gpuctl-gate", "/usr/bin/runc"), one("enforcement", Verdict::Problem));
        assert_eq!(led("gpuctl", "/ours/gpuctl-runtime"), []);
        assert_eq!(led("gpuctl-gate", "/gone/gate"), one("enforcement", Verdict::Problem));
        let house = judged(|i| {
            i.default_runtime = "house".into();
            i.runtimes.insert("house".into(), "/ours/gate".into());
        });
        assert_eq!(house, []);
        assert_eq!(judged(|i| i.root = "/elsewhere".into()), one("docker root", Verdict::Problem));
    }
}
