//! Every list that a command prints: its columns, its filters, its JSON.

mod checks;
mod containers;
mod decisions;
mod differences;
mod gpus;
mod ports;
mod versions;
mod volumes;

pub use checks::CHECKS;
pub use containers::CONTAINERS;
pub use decisions::{DECISIONS, Told};
pub use differences::DIFFERENCES;
pub use gpus::GPUS;
pub use ports::PORTS;
pub use versions::VERSIONS;
pub use volumes::{BACKENDS, VOLUME_VERSIONS, VOLUMES};

use gpuctl_ledger::model::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::list::View;

const NOTHING: &str = "-";

fn or_dash(text: Option<&str>) -> String {
    text.filter(|t| !t.is_empty()).unwrap_or(NOTHING).to_owned()
}

fn joined<T: ToString>(list: &[T]) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

fn ago(then: Timestamp, view: &View) -> String {
    super::ago(then, view.now)
}

fn object<T: Serialize>(row: &T) -> Value {
    serde_json::to_value(row).unwrap_or_default()
}

/// `true` and `false` of a filter; anything else means nothing.
fn is(so: bool, value: &str) -> bool {
    matches!((so, value), (true, "true" | "1") | (false, "false" | "0"))
}

/// Whether a text has another in it, in any case.
fn has(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}
