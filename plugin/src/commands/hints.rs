//! Hints after commands of Docker's own: one line under "What's next", where the user has turned them
//! on. The Docker CLI calls us when the command has ended, and prints what we answer. See docs/hints.md.

use std::collections::BTreeMap;

use gpuctl_ledger::model::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::quick;
use crate::docker::gpuctl_part;
use crate::engine::api::{Answer, GpuRow, Request};
use crate::ui;

/// What was granted so short a time ago was granted to this command, in milliseconds.
const JUST_NOW_MS: u64 = 20_000;
/// What an Engine says that finds nobody to give out GPUs.
const NOBODY: [&str; 3] =
    ["could not select device driver", "CDI spec not found", "CDI device injection failed"];
/// The template is Docker's: with these a text would be taken for one of its own.
const BRACES: &str = "{{";

/// What the Docker CLI says of the command.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ended {
    /// The entry of the config that fits: `run`, `compose up`.
    root_cmd: String,
    /// Its flags; only switches have their values.
    #[serde(default)]
    flags: Option<BTreeMap<String, String>>,
    /// Why it failed; empty where it did not.
    #[serde(default)]
    command_error: String,
}

/// Answers the Docker CLI; nothing, where there is nothing to say.
pub(super) fn answer(data: &str) {
    let Ok(ended) = serde_json::from_str::<Ended>(data) else { return };
    let line = line(&ended, || match quick::asked(Request::Gpus) {
        Some(Answer::Gpus(rows)) => rows,
        _ => Vec::new(),
    });
    if let Some(line) = line.filter(|line| !line.contains(BRACES)) {
        ui::print(&json!({"Type": 0, "Template": ui::visible(&line)}).to_string());
    }
}

/// What to type next, if anything. `gpus` is asked only where it counts.
fn line(ended: &Ended, gpus: impl FnOnce() -> Vec<GpuRow>) -> Option<String> {
    let error = &ended.command_error;
    if !error.is_empty() {
        let ours = gpuctl_part(error).is_some() || error.contains("gpuctl: ");
        if ours {
            return Some("See who holds which GPU and since when → docker gpuctl gpus".into());
        }
        let nobody = NOBODY.iter().any(|text| error.contains(text));
        return nobody.then(|| "See what this host lacks for GPUs → docker gpuctl doctor".into());
    }
    let makes = ended.root_cmd.split(' ').next_back().is_some_and(|word| word == "run");
    let asks = ended.flags.as_ref().is_some_and(|flags| flags.contains_key("gpus"));
    // Whether a start or a compose file asks for GPUs no flag tells.
    if makes && !asks {
        return None;
    }
    told(&granted(&gpus(), Timestamp::now()))
}

/// Containers that have got GPUs just now and that docker made, and those GPUs.
fn granted(rows: &[GpuRow], now: Timestamp) -> Vec<(String, Vec<String>)> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for row in rows {
        let new = row.since.is_some_and(|since| now.millis_since(since) < JUST_NOW_MS);
        let Some(holder) = row.holder.as_ref().filter(|_| new) else { continue };
        match found.iter_mut().find(|(name, _)| name == holder) {
            Some((_, gpus)) => gpus.push(row.place().to_string()),
            None => found.push((holder.clone(), vec![row.place().to_string()])),
        }
    }
    found
}

fn told(granted: &[(String, Vec<String>)]) -> Option<String> {
    let (name, gpus) = granted.first()?;
    let what = format!("{name} holds GPU {}", gpus.join(","));
    Some(match granted.len() {
        1 => format!(
            "{what}; to change that while it keeps its files → docker gpuctl adopt {name}, then docker gpuctl scale"
        ),
        2 => format!("{what}, and another container holds GPUs too → docker gpuctl ps"),
        more => {
            format!("{what}, and {} other containers hold GPUs too → docker gpuctl ps", more - 1)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuctl_ledger::model::Unit;

    fn ended(command: &str, flags: &[&str], error: &str) -> Ended {
        let data = json!({
            "RootCmd": command,
            "Flags": flags.iter().map(|f| ((*f).to_owned(), String::new())).collect::<BTreeMap<_, _>>(),
            "CommandError": error,
        });
        serde_json::from_value(data).unwrap()
    }

    fn row(index: u32, holder: Option<&str>, since: Timestamp) -> GpuRow {
        GpuRow {
            index,
            mig: None,
            slot: None,
            uuid: Unit::new(format!("GPU-{index}")).unwrap(),
            model: String::new(),
            memory_total: 0,
            memory_used: None,
            utilisation: None,
            holder: holder.map(str::to_owned),
            owner: None,
            since: Some(since),
            state: None,
            processes: vec![],
            health: "ok".into(),
            links: vec![],
        }
    }

    fn now() -> Vec<GpuRow> {
        let now = Timestamp::now();
        vec![
            row(0, Some("web"), now),
            row(3, Some("web"), now),
            row(5, Some("old"), Timestamp::EPOCH),
        ]
    }

    #[test]
    fn a_refusal_names_the_command_that_shows_why() {
        let never = || -> Vec<GpuRow> { panic!("nobody needs to be asked") };
        let refusal = "docker: Error response from daemon: failed to create task: OCI runtime create failed: gpuctl: 2 GPUs asked for, 0 free; hint: x";
        let line = |ended: Ended| super::line(&ended, never);
        assert!(line(ended("run", &["gpus"], refusal)).unwrap().ends_with("→ docker gpuctl gpus"));
        assert!(line(ended("start", &[], refusal)).is_some());
        let nobody = "could not select device driver \"\" with capabilities: [[gpu]]";
        let said = line(ended("run", &["gpus"], nobody)).unwrap();
        assert!(said.ends_with("→ docker gpuctl doctor"), "{said}");
        assert_eq!(line(ended("run", &["gpus"], "pull access denied")), None);
        assert_eq!(line(ended("run", &["name"], "")), None, "no GPUs were asked for");
    }

    #[test]
    fn what_was_granted_just_now_is_named() {
        let said = line(&ended("run", &["gpus", "detach"], ""), now).unwrap();
        assert!(
            said.starts_with("web holds GPU 0,3; ") && said.contains("docker gpuctl adopt web"),
            "{said}"
        );
        assert!(line(&ended("compose up", &["d"], ""), now).is_some());
        assert!(line(&ended("start", &[], ""), now).is_some());
        assert!(line(&ended("container run", &["gpus"], ""), now).is_some());
        assert_eq!(line(&ended("start", &[], ""), Vec::new), None);
        let old = || vec![row(5, Some("old"), Timestamp::EPOCH)];
        assert_eq!(line(&ended("start", &[], ""), old), None, "it has them for long");
        let two = || {
            let mut rows = now();
            rows.push(row(6, Some("db"), Timestamp::now()));
            rows
        };
        let said = line(&ended("compose up", &[], ""), two).unwrap();
        assert!(
            said.ends_with("and another container holds GPUs too → docker gpuctl ps"),
            "{said}"
        );
    }

    #[test]
    fn what_the_docker_cli_sends_is_read() {
        let sent = r#"{"RootCmd":"run","Flags":null,"CommandError":""}"#;
        assert!(serde_json::from_str::<Ended>(sent).unwrap().flags.is_none());
        assert!(serde_json::from_str::<Ended>("{}").is_err());
    }
}
