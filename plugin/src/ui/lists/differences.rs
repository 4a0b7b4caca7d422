//! diff.

use super::{object, or_dash};
use crate::change::Difference;
use crate::ui::list::{Column, List};

/// diff.
pub static DIFFERENCES: List<Difference> = List {
    columns: &[
        Column::new("Field", "FIELD", "field", |r, _| r.field.clone()),
        Column::new("Before", "BEFORE", "before", |r, _| or_dash(r.before.as_deref())),
        Column::new("After", "AFTER", "after", |r, _| or_dash(r.after.as_deref())),
    ],
    filters: &[],
    name: |r, _| Some(r.field.clone()),
    object,
};
