//! What a replace will do, in words: what `--dry-run` prints.

use gpuctl_ledger::model::DockerName;

use super::Prepared;
use crate::change::Kept;
use crate::engine::api::How;
use crate::engine::layers;
use crate::engine::names::Found;

impl Prepared {
    /// One step a line, in order.
    pub(in crate::engine) fn steps(
        &self,
        found: &Found,
        what: &[String],
        new_name: &DockerName,
        how: &How,
    ) -> Vec<String> {
        let data = &self.data;
        let name = &found.docker_name;
        let what =
            if what.is_empty() { "nothing but the container".to_owned() } else { what.join(", ") };
        let mut steps = vec![format!("change {name} by a new container {new_name}: {what}")];
        if let Some(image) = &self.pulled {
            steps.push(format!("pull {image}"));
        }
        if data.was_running {
            if !data.gpus.is_none() {
                steps.push(
                    "claim what it needs beyond what it holds; it keeps running meanwhile".into(),
                );
            }
            let grace = how.timeout.map_or_else(|| "its own".to_owned(), |s| format!("{s} s"));
            steps.push(format!("stop {name} (stop grace: {grace}): it is down from here on"));
        }
        steps.push(format!("create {new_name}"));
        match &self.kept {
            Kept::Nothing => {}
            Kept::From => steps.push("with the anonymous volumes that it has".into()),
            Kept::Named(volumes) => {
                steps.push(format!("with its anonymous volumes, named: {}", volumes.join(", ")));
            }
        }
        steps.push(match &self.files {
            Ok((words, fit)) => {
                format!("carry {words}, and compare: {}", layers::announced(fit))
            }
            Err(none) => none.clone(),
        });
        if data.was_running {
            steps.push(format!(
                "start {new_name}; where its image says how, wait until it is healthy"
            ));
        }
        steps.push(format!("record the version; {name} is kept, stopped"));
        steps
    }
}
