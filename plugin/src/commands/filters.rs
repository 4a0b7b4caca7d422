//! Which filters each command knows, for completion and help.

use crate::ui::{self, List};

/// A filter of a command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// `name` of `name=train`.
    pub(super) key: &'static str,
    /// What it is for.
    pub(super) about: &'static str,
    /// What values there are; empty: any.
    pub(super) values: &'static [&'static str],
}

/// Those of events, which the engine applies.
const EVENTS: [(&str, &str); 4] = [
    ("container", "Managed name, name in Docker or id"),
    ("gpu", "Index or UUID"),
    ("decision", "What was decided"),
    ("user", "Who asked"),
];

fn of<R>(list: &'static List<R>) -> Vec<Known> {
    let known = |f: &ui::Filter<R>| Known { key: f.key, about: f.about, values: f.values };
    list.filters.iter().map(known).collect()
}

/// Those of a command, by its words.
pub(super) fn of_command(path: &[&str]) -> Vec<Known> {
    match path {
        ["ps"] => of(&ui::CONTAINERS),
        ["gpus"] => of(&ui::GPUS),
        ["history"] => of(&ui::VERSIONS),
        ["ports"] => of(&ui::PORTS),
        ["events"] => EVENTS.map(|(key, about)| Known { key, about, values: &[] }).into(),
        ["volume", "ls"] => of(&ui::VOLUMES),
        ["volume", "history"] => of(&ui::VOLUME_VERSIONS),
        _ => Vec::new(),
    }
}
