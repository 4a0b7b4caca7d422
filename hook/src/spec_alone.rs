//! What can be done for a container of which only the bundle is known: the config is broken, Docker's
//! files cannot be read, or its id is none that could hold a lease.

use std::path::Path;

use gpuctl_ledger::audit::Decision;
use gpuctl_ledger::config::{Config, Inject};
use gpuctl_ledger::node::files;

use crate::driver::Driver;
use crate::request::{self, NodeFacts, swarm};
use crate::spec::Spec;
use crate::turned_away::write_down;
use crate::{inject, strip};

/// Lets a container start that asks for no GPU as far as its spec tells, and else says `why` not. What
/// only opens GPUs along with everything else (`--privileged`, a wildcard rule) loses them, as by the
/// default policy, which is written down. `config` is the default one where there is none that can be
/// read; `id` is the container's, and may be none; `nvidia`: NVIDIA's runtime is behind us.
///
/// # Errors
/// `why`, or that the spec cannot be written.
pub(crate) fn without_gpus(
    config: &Config,
    (id, nvidia): (&str, bool),
    bundle: &Path,
    mut spec: Spec,
    why: impl Fn() -> String,
) -> Result<(), String> {
    let facts = NodeFacts {
        // Then the environment is heeded by the real runtime.
        nvidia_runtime: nvidia || config.gpu.inject == Inject::Env,
        cdi_kind: &config.gpu.cdi_kind,
        ..NodeFacts::default()
    };
    let heeded = swarm::heed(&mut spec, &config.gpu.swarm_resource, facts.nvidia_runtime);
    let Ok(asked) = request::detect(&spec, None, &facts) else { return Err(why()) };
    if asked.is_nothing() {
        return if heeded.is_empty() { Ok(()) } else { write_spec(bundle, &spec) };
    }
    if !asked.request.is_none() {
        return Err(why());
    }
    inject::clear(&mut spec);
    let caps_major = Driver::new(config).caps_major();
    strip::whitelist(&mut spec, &[], caps_major).map_err(|_| why())?;
    write_spec(bundle, &spec)?;
    if !asked.opens_nothing() {
        write_down(config, Decision::Stripped, id, &format!("it may have no lease: {}", why()));
    }
    Ok(())
}

/// Puts a changed spec in the place of the bundle's.
///
/// # Errors
/// One line for people.
pub(crate) fn write_spec(bundle: &Path, spec: &Spec) -> Result<(), String> {
    use std::os::unix::fs::MetadataExt as _;
    let path = bundle.join("config.json");
    let mode = std::fs::metadata(&path).map_or(0o600, |meta| meta.mode() & 0o777);
    files::replace_unsynced(&path, &spec.to_bytes(), mode)
        .map_err(|_| "the bundle's config.json cannot be written".into())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::gate::opened;

    /// A recorded spec in a bundle of its own, and what becomes of it where only the spec is known.
    /// Decisions go to a log of the test's own.
    fn without(config: &Config, recorded: &str) -> (Result<(), String>, Spec, Spec) {
        let mut config = config.clone();
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/engine-29");
        let bytes = std::fs::read(format!("{folder}/{recorded}.config.json")).unwrap();
        let bundle = tempfile::tempdir().unwrap();
        let path = bundle.path().join("config.json");
        config.paths.state = bundle.path().to_owned();
        config.paths.journal = bundle.path().join("journal");
        std::fs::write(&path, &bytes).unwrap();
        let before = Spec::parse(&bytes).unwrap();
        let done = without_gpus(
            &config,
            ("c1", false),
            bundle.path(),
            Spec::parse(&bytes).unwrap(),
            || "why".into(),
        );
        (done, before, Spec::parse(&std::fs::read(&path).unwrap()).unwrap())
    }

    #[test]
    fn where_only_the_spec_is_known_what_opens_gpus_along_with_all_else_loses_them() {
        let config = Config::default();
        let without = |recorded: &str| without(&config, recorded);
        for recorded in ["privileged", "cgroup-rule-any", "cgroup-rule-wildcard"] {
            let (done, before, after) = without(recorded);
            assert_eq!(done, Ok(()), "{recorded}");
            assert_eq!(opened(&before), None, "{recorded}");
            assert_eq!(opened(&after), Some(BTreeSet::new()), "{recorded}");
        }
        let (done, before, after) = without("plain");
        assert_eq!((done, before.to_bytes()), (Ok(()), after.to_bytes()));
        for recorded in ["gpus-2", "gpus-all", "device-node-3", "device-cdi-1", "privileged-gpus-1"]
        {
            let (done, before, after) = without(recorded);
            assert_eq!(done, Err("why".into()), "{recorded}");
            assert_eq!(before.to_bytes(), after.to_bytes(), "{recorded}");
        }
    }

    #[test]
    fn the_environment_counts_where_nvidias_runtime_is_the_real_one() {
        let mut config = Config::default();
        assert_eq!(without(&config, "image-env-all").0, Ok(()));
        config.gpu.inject = Inject::Env;
        assert_eq!(without(&config, "image-env-all").0, Err("why".into()));
        assert_eq!(without(&config, "plain").0, Ok(()));
    }
}
