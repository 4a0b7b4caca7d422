//! What NVIDIA's runtime has answered before us. In CDI mode it puts the devices that the environment
//! names into the spec and leaves the environment at `void`: of what was asked only Docker's own copy
//! of the environment tells.

use gpuctl_ledger::model::GpuRequest;
use serde_json::json;

use super::{Route, VISIBLE, honoured_env, total};
use crate::spec::Spec;

/// What the environment asked for, where somebody between Docker and us has answered it: Docker's
/// copy names GPUs, and the spec's names none any more. `None` where nobody did.
pub(super) fn word(spec: &Spec, docker_env: Option<&[String]>) -> Option<GpuRequest> {
    let docker = Spec::from_value(json!({"process": {"env": docker_env?}})).ok()?;
    let by_env = |spec: &Spec| {
        let found = honoured_env(spec).ok()?;
        total(found.iter().filter(|f| f.route == Route::Env)).ok()
    };
    let changed = spec.env(VISIBLE) != docker.env(VISIBLE);
    if !changed || !by_env(spec)?.is_none() {
        return None;
    }
    by_env(&docker).filter(|word| !word.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(spec: &[&str], docker: &[&str]) -> Option<GpuRequest> {
        let spec = Spec::from_value(json!({"process": {"env": spec}})).unwrap();
        let docker: Vec<String> = docker.iter().map(|l| (*l).to_owned()).collect();
        word(&spec, Some(&docker))
    }

    #[test]
    fn only_a_word_that_somebody_took_out_counts() {
        const ALL: &str = "NVIDIA_VISIBLE_DEVICES=all";
        const VOID: &str = "NVIDIA_VISIBLE_DEVICES=void";
        assert_eq!(asked(&[VOID], &[ALL]), Some(GpuRequest::All));
        assert_eq!(asked(&[VOID], &[VOID, ALL]), Some(GpuRequest::All));
        // Nobody was between: the image's word was heeded by nobody.
        assert_eq!(asked(&[ALL], &[ALL]), None);
        assert_eq!(asked(&[VOID], &[ALL, VOID]), None);
        assert_eq!(asked(&[], &[]), None);
        let one = asked(&[VOID], &["NVIDIA_VISIBLE_DEVICES=3"]).unwrap();
        assert_eq!(one.to_string(), "device=3");
        // Nonsense asks for nothing.
        assert_eq!(asked(&[VOID], &["NVIDIA_VISIBLE_DEVICES=x y"]), None);
        assert_eq!(word(&Spec::from_value(json!({})).unwrap(), None), None);
    }
}
