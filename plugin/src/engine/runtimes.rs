//! Which of the Engine's runtimes are ours: by the file that a name leads to, and by the name only where no
//! file is known.

use std::collections::BTreeMap;
use std::path::Path;

use gpuctl_ledger::config::Config;

use super::create::is_ours;

/// Of each runtime that is known by its program: whether that is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Runtimes {
    known: BTreeMap<String, bool>,
}

impl Runtimes {
    /// Looks at the programs of daemon.json's runtimes.
    pub(super) fn look(config: &Config, programs: &BTreeMap<String, String>) -> Self {
        Self::of(programs, |program| is_ours(&config.runtime.hook, program))
    }

    /// As [`Runtimes::look`], by a look of the caller's. Pure. A program that is no path is found on dockerd's
    /// PATH, which strict setup leads to us or not: of that nothing is known here.
    pub(super) fn of(
        programs: &BTreeMap<String, String>,
        ours: impl Fn(&Path) -> Option<bool>,
    ) -> Self {
        let paths = programs.iter().filter(|(_, program)| program.starts_with('/'));
        let known = paths.filter_map(|(name, p)| Some((name.clone(), ours(Path::new(p))?)));
        Self { known: known.collect() }
    }

    /// Whether a runtime is a path at which no program was found. Pure.
    pub(super) fn is_gone(&self, name: &str, programs: &BTreeMap<String, String>) -> bool {
        let is_path = programs.get(name).is_some_and(|program| program.starts_with('/'));
        is_path && !self.known.contains_key(name)
    }

    /// Whether what this one starts passes us. Pure.
    pub(super) fn is_ours(&self, config: &Config, name: &str) -> bool {
        let by_name = name == config.runtime.managed_name || name.starts_with("gpuctl");
        self.known.get(name).copied().unwrap_or(by_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_judged_by_what_file_it_is_and_by_its_name_where_there_is_none() {
        let programs = [
            ("gpuctl-gate", "/usr/bin/runc"),
            ("gpuctl", "/usr/libexec/gpuctl/gpuctl-runtime"),
            ("house", "/opt/link-to-gpuctl"),
            ("gpuctl-gone", "/gone"),
            ("runc", "runc"),
            ("kata", ""),
        ];
        let programs = programs.map(|(n, p)| (n.to_owned(), p.to_owned())).into();
        let look = |program: &Path| match program.to_str().unwrap() {
            "/gone" => None,
            path => Some(path.contains("gpuctl")),
        };
        let (config, runtimes) = (Config::default(), Runtimes::of(&programs, look));
        let ours = |name: &str| runtimes.is_ours(&config, name);
        assert!(!ours("gpuctl-gate") && ours("gpuctl") && ours("house"));
        assert!(ours("gpuctl-gone") && !ours("runc") && !ours("kata") && !ours("io.x.runc.v2"));
        // Nothing is known: what is removed from daemon.json, or an Engine that does not say.
        let none = Runtimes::default();
        assert!(none.is_ours(&config, "gpuctl-gate") && !none.is_ours(&config, "house"));
    }
}
