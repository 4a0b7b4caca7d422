//! NVIDIA's `swarm-resource`: variables from which its toolkit takes GPUs before it looks at
//! NVIDIA_VISIBLE_DEVICES, so that swarm's generic resources (`DOCKER_RESOURCE_GPU=GPU-...`) name them.
//! Whoever makes a container can set them as well: they ask, as that one does, and get what is leased. Pure.

use super::{VISIBLE, has_legacy_hook};
use crate::spec::Spec;

/// Makes of these variables, where a container has any, the one that all else goes by, and takes them out:
/// the toolkit would take one that is left before the GPUs that are leased. Which it had: if any, the spec is
/// to be written whatever it asks for. Some versions of the toolkit know no such variables, and would go by
/// the one that stands here for them. Nothing is done where the toolkit looks at no variable: its runtime is
/// not the one that puts GPUs in (`nvidia_runtime`), and its legacy hook is not in the spec.
pub fn heed(spec: &mut Spec, names: &[String], nvidia_runtime: bool) -> Vec<String> {
    let heeds = nvidia_runtime || has_legacy_hook(spec);
    let there = |name: &&String| heeds && spec.env(name).is_some();
    let heeded: Vec<String> = names.iter().filter(there).cloned().collect();
    if heeded.is_empty() {
        return heeded;
    }
    let values: Vec<&str> = heeded.iter().filter_map(|name| spec.env(name)).collect();
    let value = values.join(",");
    for name in heeded.iter().filter(|name| *name != VISIBLE) {
        spec.remove_env(name);
    }
    spec.set_env(VISIBLE, &value);
    heeded
}

/// A spec for each of these variables that a container has, as if it were the usual one; the spec itself is
/// the first. For who can write nothing: each may be the one that counts.
pub fn each(spec: &Spec, names: &[String]) -> Vec<Spec> {
    let mut all = vec![spec.clone()];
    for value in names.iter().filter_map(|name| spec.env(name)) {
        let mut one = spec.clone();
        one.set_env(VISIBLE, value);
        all.push(one);
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_that_are_there_count_before_the_usual_one_and_none_is_left() {
        let names = ["SWARM_A".to_owned(), "SWARM_B".to_owned()];
        let heeded = |env: &[&str]| {
            let mut spec = Spec::from_value(json!({"process": {"env": env}})).unwrap();
            heed(&mut spec, &names, true);
            let spec: serde_json::Value = serde_json::from_slice(&spec.to_bytes()).unwrap();
            spec["process"]["env"].clone()
        };
        assert_eq!(
            heeded(&[
                "SWARM_B=1",
                "X=1",
                "SWARM_A=GPU-a",
                "NVIDIA_VISIBLE_DEVICES=void",
                "SWARM_B=2"
            ]),
            json!(["X=1", "NVIDIA_VISIBLE_DEVICES=GPU-a,2"])
        );
        // What asks for nothing stands for what was there: no other reading is left.
        let empty = heeded(&["SWARM_A=", "NVIDIA_VISIBLE_DEVICES=all"]);
        assert_eq!(empty, json!(["NVIDIA_VISIBLE_DEVICES="]));
        assert_eq!(heeded(&["SWARM_A=", "SWARM_B=all"]), json!(["NVIDIA_VISIBLE_DEVICES=,all"]));
        assert_eq!(heeded(&["SWARM_B=all"]), json!(["NVIDIA_VISIBLE_DEVICES=all"]));
        assert_eq!(heeded(&["SWARM_AB=all", "A=1"]), json!(["SWARM_AB=all", "A=1"]));
        // Nobody looks at it.
        let mut spec = Spec::from_value(json!({"process": {"env": ["SWARM_A=all"]}})).unwrap();
        assert!(heed(&mut spec, &names, false).is_empty() && spec.env("SWARM_A").is_some());
    }

    #[test]
    fn each_may_be_the_one_that_counts() {
        let env = ["NVIDIA_VISIBLE_DEVICES=all", "SWARM_A=void", "SWARM_B=3"];
        let spec = Spec::from_value(json!({"process": {"env": env}})).unwrap();
        let all = each(&spec, &["SWARM_B".to_owned(), "SWARM_C".to_owned(), "SWARM_A".to_owned()]);
        let words: Vec<Option<&str>> = all.iter().map(|spec| spec.env(VISIBLE)).collect();
        assert_eq!(words, [Some("all"), Some("3"), Some("void")]);
    }
}
