//! doctor, for templates and JSON. Its table has lines of its own: see [`crate::ui::doctor`].

use super::{object, or_dash};
use crate::engine::api::Check;
use crate::ui::doctor::word;
use crate::ui::list::{Column, List};

/// doctor.
pub static CHECKS: List<Check> = List {
    columns: &[
        Column::new("Name", "CHECK", "name", |r, _| r.name.clone()),
        Column::new("Verdict", "VERDICT", "verdict", |r, _| word(r.verdict).to_owned()),
        Column::new("Detail", "DETAIL", "detail", |r, _| r.detail.clone()),
        Column::new("Fix", "FIX", "fix", |r, _| or_dash(r.fix.as_deref())),
    ],
    filters: &[],
    name: |r, _| Some(r.name.clone()),
    object,
};
