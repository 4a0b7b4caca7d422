//! Which filters each command knows, for completion and help.

use crate::ui::{self, List};

/// Those of events, which the engine applies.
const EVENTS: [(&str, &str); 4] = [
    ("container", "Managed name, name in Docker or id"),
    ("gpu", "Index or UUID"),
    ("decision", "What was decided"),
    ("user", "Who asked"),
];

fn of<R>(list: &List<R>) -> Vec<(&'static str, &'static str)> {
    list.filters.iter().map(|filter| (filter.key, filter.about)).collect()
}

/// What values a key of a command's list has; empty where it takes any.
pub(super) fn values_of(path: &[&str], key: &str) -> &'static [&'static str] {
    fn of<R>(list: &'static List<R>, key: &str) -> &'static [&'static str] {
        let mut filters = list.filters.iter();
        filters.find(|filter| filter.key == key).map_or(&[], |filter| filter.values)
    }
    match path {
        ["ps"] => of(&ui::CONTAINERS, key),
        ["gpus"] => of(&ui::GPUS, key),
        ["history"] => of(&ui::VERSIONS, key),
        ["ports"] => of(&ui::PORTS, key),
        ["volume", "ls"] => of(&ui::VOLUMES, key),
        ["volume", "history"] => of(&ui::VOLUME_VERSIONS, key),
        _ => &[],
    }
}

/// Key and meaning, by the words of the command.
pub(super) fn of_command(path: &[&str]) -> Vec<(&'static str, &'static str)> {
    match path {
        ["ps"] => of(&ui::CONTAINERS),
        ["gpus"] => of(&ui::GPUS),
        ["history"] => of(&ui::VERSIONS),
        ["ports"] => of(&ui::PORTS),
        ["events"] => EVENTS.to_vec(),
        ["volume", "ls"] => of(&ui::VOLUMES),
        ["volume", "history"] => of(&ui::VOLUME_VERSIONS),
        _ => Vec::new(),
    }
}
