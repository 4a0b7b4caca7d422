//! Hints after commands of Docker's own: one line under "What's next", where the user has turned them
//! on. The Docker CLI calls us when the command has ended, and prints what we answer. See docs/hints.md.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::quick;
use crate::client::front::this_user;
use crate::docker::gpuctl_part;
use crate::engine::api::{Answer, GpuRow, PsRow, Request};
use crate::ui;

/// What has run for fewer seconds was started by this command.
const JUST_NOW: u64 = 20;
/// What an Engine says that finds nobody to give out GPUs.
const NOBODY: [&str; 3] =
    ["could not select device driver", "CDI spec not found", "CDI device injection failed"];
/// What `docker start` says itself where it has told the Engine's errors before; names follow.
const NOT_STARTED: &str = "failed to start containers: ";
/// The most of these that are looked at.
const MOST: usize = 8;
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
    let line = line(&ended, quick::start_errors, || Seen {
        managed: managed_name,
        started: started(),
        gpus: gpus(),
        user: this_user(),
    });
    if let Some(line) = line.filter(|line| !line.contains(BRACES)) {
        ui::print(&json!({"Type": 0, "Template": ui::visible(&line)}).to_string());
    }
}

/// What there is on the node.
struct Seen {
    /// The managed name of a container by its name in Docker; asked only where it counts.
    managed: fn(&str) -> Option<String>,
    /// Containers that run, and for how many seconds, of those that were started just now.
    started: Vec<(String, u64)>,
    /// The GPUs and their holders.
    gpus: Vec<GpuRow>,
    /// Who has typed the command.
    user: Option<String>,
}

fn managed_name(docker_name: &str) -> Option<String> {
    let Answer::Ps(rows) = quick::asked(Request::Ps { all: false })? else { return None };
    let is_it = |row: &PsRow| {
        row.version.is_some_and(|version| format!("{}-{version}", row.name) == docker_name)
    };
    rows.into_iter().find(is_it).map(|row| row.name.to_string())
}

fn gpus() -> Vec<GpuRow> {
    match quick::asked(Request::Gpus) {
        Some(Answer::Gpus(rows)) => rows,
        _ => Vec::new(),
    }
}

fn started() -> Vec<(String, u64)> {
    let row = |(name, status): (String, String)| Some((name, age(&status)?));
    quick::containers(false).into_iter().filter_map(row).collect()
}

/// For how many seconds a container has run, if only for a few: `Up 3 seconds`.
fn age(status: &str) -> Option<u64> {
    let up = status.strip_prefix("Up ")?;
    if up.starts_with("Less than a second") {
        return Some(0);
    }
    let (number, unit) = up.split_once(' ')?;
    let seconds = number.parse().ok().filter(|_| unit.starts_with("second"))?;
    (seconds < JUST_NOW).then_some(seconds)
}

/// What to type next, if anything. The node is looked at only where that counts: `errors` are those of
/// containers that did not start, by their names.
fn line(
    ended: &Ended,
    errors: impl FnOnce(Vec<String>) -> Vec<String>,
    seen: impl FnOnce() -> Seen,
) -> Option<String> {
    let error = &ended.command_error;
    if !error.is_empty() {
        let is_ours = |error: &str| gpuctl_part(error).is_some() || error.contains("gpuctl: ");
        let not_started =
            error.find(NOT_STARTED).and_then(|at| error.get(at + NOT_STARTED.len()..));
        let ours = is_ours(error)
            || not_started.is_some_and(|names| {
                let names = names.split(", ").take(MOST).map(|name| name.trim().to_owned());
                errors(names.collect()).iter().any(|error| is_ours(error))
            });
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
    let seen = seen();
    let managed = seen.managed;
    let mut granted = granted(seen);
    if makes {
        // It made one container: what others got shortly before is not its own.
        granted.truncate(1);
    }
    told(&granted, managed)
}

/// Containers that were started just now and hold GPUs, the last first, and those GPUs. What is known to be
/// another user's is none of it.
fn granted(seen: Seen) -> Vec<(String, Vec<String>)> {
    let Seen { mut started, gpus, user, .. } = seen;
    started.sort_by_key(|(_, age)| *age);
    let with_gpus = started.into_iter().map(|(name, _)| {
        let is_ours = |row: &GpuRow| row.owner.is_none() || row.owner == user;
        let held = gpus.iter().filter(|row| row.holder.as_deref() == Some(&name) && is_ours(row));
        let places = held.map(|row| row.place().to_string()).collect();
        (name, places)
    });
    with_gpus.filter(|(_, gpus): &(String, Vec<String>)| !gpus.is_empty()).collect()
}

fn told(granted: &[(String, Vec<String>)], managed: fn(&str) -> Option<String>) -> Option<String> {
    let (name, gpus) = granted.first()?;
    let what = format!("{name} holds GPU {}", gpus.join(","));
    Some(match granted.len() {
        1 => {
            let how = match managed(name) {
                Some(name) => format!("docker gpuctl scale {name} --gpus N"),
                None => {
                    format!("docker gpuctl adopt {name}, then docker gpuctl scale {name} --gpus N")
                }
            };
            format!("{what}; to change that while it keeps its files → {how}")
        }
        2 => format!("{what}, and another container holds GPUs too → docker gpuctl ps"),
        more => {
            format!("{what}, and {} other containers hold GPUs too → docker gpuctl ps", more - 1)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(command: &str, flags: &[&str], error: &str) -> Ended {
        let data = json!({
            "RootCmd": command,
            "Flags": flags.iter().map(|f| ((*f).to_owned(), String::new())).collect::<BTreeMap<_, _>>(),
            "CommandError": error,
        });
        serde_json::from_value(data).unwrap()
    }

    fn row(index: u32, holder: &str) -> GpuRow {
        GpuRow { holder: Some(holder.to_owned()), ..GpuRow::of_test(index) }
    }

    fn seen(started: &[(&str, u64)]) -> Seen {
        let started = started.iter().map(|(name, age)| ((*name).to_owned(), *age)).collect();
        let gpus = [row(0, "web"), row(3, "web"), row(5, "old"), row(6, "db"), row(7, "m-2")];
        let managed = |name: &str| (name == "m-2").then(|| "m".to_owned());
        Seen { started, gpus: gpus.into(), managed, user: Some("ann".into()) }
    }

    #[test]
    fn what_is_another_users_is_not_named() {
        let of = |owner: Option<&str>| {
            let mut seen = seen(&[("web", 1)]);
            for row in &mut seen.gpus {
                row.owner = owner.map(str::to_owned);
            }
            granted(seen).len()
        };
        assert_eq!([of(None), of(Some("ann")), of(Some("bob"))], [1, 1, 0]);
    }

    #[test]
    fn a_refusal_names_the_command_that_shows_why() {
        let never = || -> Seen { panic!("nobody needs to be asked") };
        let refusal = "docker: Error response from daemon: failed to create task: OCI runtime create failed: gpuctl: 2 GPUs asked for, 0 free; hint: x";
        let errors = |_| -> Vec<String> { panic!("it is said already") };
        let line = |ended: Ended| super::line(&ended, errors, never);
        assert!(line(ended("run", &["gpus"], refusal)).unwrap().ends_with("→ docker gpuctl gpus"));
        assert!(line(ended("start", &[], refusal)).is_some());
        let nobody = "could not select device driver \"\" with capabilities: [[gpu]]";
        let said = line(ended("run", &["gpus"], nobody)).unwrap();
        assert!(said.ends_with("→ docker gpuctl doctor"), "{said}");
        assert_eq!(line(ended("run", &["gpus"], "pull access denied")), None);
        assert_eq!(line(ended("run", &["name"], "")), None, "no GPUs were asked for");
    }

    #[test]
    fn of_a_refused_start_the_container_tells_why() {
        let error = "failed to start containers: web, db";
        let line = |why: &str| {
            let errors = |names: Vec<String>| {
                assert_eq!(names, ["web", "db"]);
                vec![String::new(), why.to_owned()]
            };
            super::line(&ended("start", &[], error), errors, || panic!("nobody else is asked"))
        };
        let refused = "failed to create task: OCI runtime create failed: gpuctl: 0 GPUs free";
        assert!(line(refused).unwrap().ends_with("→ docker gpuctl gpus"));
        assert_eq!(line("no such file"), None);
    }

    #[test]
    fn what_was_started_just_now_and_holds_gpus_is_named() {
        let line = |command: &str, flags: &[&str], started: &[(&str, u64)]| {
            super::line(&ended(command, flags, ""), |_| Vec::new(), || seen(started))
        };
        let web = [("plain", 0), ("web", 0)];
        let said = line("run", &["gpus", "detach"], &web).unwrap();
        let whole = "web holds GPU 0,3; to change that while it keeps its files → docker gpuctl adopt web, then docker gpuctl scale web --gpus N";
        assert_eq!(said, whole);
        for (command, flags) in
            [("compose up", &["d"][..]), ("start", &[]), ("container run", &["gpus"])]
        {
            assert!(line(command, flags, &web).is_some(), "{command}");
        }
        assert_eq!(line("start", &[], &[("plain", 1)]), None, "it has no GPUs");
        // One that is managed need not be taken in.
        let said = line("start", &[], &[("m-2", 1)]).unwrap();
        let whole = "m-2 holds GPU 7; to change that while it keeps its files → docker gpuctl scale m --gpus N";
        assert_eq!(said, whole);
        // run made only the newest, compose both.
        let both = [("db", 5), ("web", 0)];
        assert!(line("run", &["gpus"], &both).unwrap().starts_with("web holds GPU 0,3; "));
        let said = line("compose up", &[], &both).unwrap();
        assert_eq!(
            said,
            "web holds GPU 0,3, and another container holds GPUs too → docker gpuctl ps"
        );
    }

    #[test]
    fn only_what_runs_for_seconds_was_started_just_now() {
        assert_eq!(age("Up Less than a second"), Some(0));
        assert_eq!(age("Up 1 second"), Some(1));
        assert_eq!(age("Up 19 seconds"), Some(19));
        for old in [
            "Up 20 seconds",
            "Up 2 minutes",
            "Up About a minute",
            "Exited (0) 1 second ago",
            "Created",
        ] {
            assert_eq!(age(old), None, "{old}");
        }
    }

    #[test]
    fn what_the_docker_cli_sends_is_read() {
        let sent = r#"{"RootCmd":"run","Flags":null,"CommandError":""}"#;
        assert!(serde_json::from_str::<Ended>(sent).unwrap().flags.is_none());
        assert!(serde_json::from_str::<Ended>("{}").is_err());
    }
}
