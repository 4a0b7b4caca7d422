//! NVIDIA's `swarm-resource`: variables from which its toolkit takes GPUs before it looks at
//! NVIDIA_VISIBLE_DEVICES, so that swarm's generic resources (`DOCKER_RESOURCE_GPU=GPU-...`) name them.
//! Whoever makes a container can set them as well: they ask, as that one does, and get what is leased. Pure.

use super::VISIBLE;
use crate::spec::Spec;

/// Makes of the first of these variables that a container has the one that all else goes by, and takes all
/// of them out: the toolkit would take one that is left before the GPUs that are leased.
pub fn heed(spec: &mut Spec, names: &[String]) {
    let first = names.iter().find_map(|name| spec.env(name).map(str::to_owned));
    let Some(value) = first else { return };
    for name in names.iter().filter(|name| *name != VISIBLE) {
        spec.remove_env(name);
    }
    spec.set_env(VISIBLE, &value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_that_is_there_counts_before_the_usual_one_and_none_is_left() {
        let names = ["SWARM_A".to_owned(), "SWARM_B".to_owned()];
        let heeded = |env: &[&str]| {
            let mut spec = Spec::from_value(json!({"process": {"env": env}})).unwrap();
            heed(&mut spec, &names);
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
            json!(["X=1", "NVIDIA_VISIBLE_DEVICES=GPU-a"])
        );
        assert_eq!(heeded(&["SWARM_B=all"]), json!(["NVIDIA_VISIBLE_DEVICES=all"]));
        assert_eq!(heeded(&["SWARM_AB=all", "A=1"]), json!(["SWARM_AB=all", "A=1"]));
    }
}
