//! The fields of what `--format json` prints, from what it printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::Value;

/// A command's fields: the kinds of value that each was seen with.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Fields(BTreeMap<String, BTreeSet<&'static str>>);

impl Fields {
    /// Takes in an output: one object a line.
    ///
    /// # Errors
    /// With the line that is no JSON object.
    pub fn take(&mut self, lines: &str) -> Result<(), String> {
        for line in lines.lines() {
            match serde_json::from_str(line) {
                Ok(value @ Value::Object(_)) => self.value("", &value),
                _ => return Err(format!("no JSON object: {line}")),
            }
        }
        Ok(())
    }

    fn value(&mut self, path: &str, value: &Value) {
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "list",
            Value::Object(_) => "object",
        };
        if !path.is_empty() {
            self.0.entry(path.to_owned()).or_default().insert(kind);
        }
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let dot = if path.is_empty() { "" } else { "." };
                    self.value(&format!("{path}{dot}{name}"), value);
                }
            }
            Value::Array(values) => {
                values.iter().filter(|v| v.is_object()).for_each(|v| self.inner(path, v));
                let plain = values.iter().filter(|v| !v.is_object());
                plain.for_each(|v| self.value(&format!("{path}[]"), v));
            }
            _ => {}
        }
    }

    fn inner(&mut self, path: &str, value: &Value) {
        for (name, value) in value.as_object().into_iter().flatten() {
            self.value(&format!("{path}[].{name}"), value);
        }
    }

    /// The table of a page.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::from("| field | |\n|---|---|\n");
        for (name, kinds) in &self.0 {
            let kinds = kinds.iter().copied().collect::<Vec<_>>().join(", or ");
            let _ = writeln!(out, "| `{name}` | {kinds} |");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_gathered_over_lines_lists_and_objects() {
        let mut fields = Fields::default();
        fields
            .take("{\"a\":null,\"b\":[{\"c\":1}],\"d\":[\"x\"]}\n{\"a\":\"x\",\"e\":{\"f\":true}}")
            .unwrap();
        let rows: Vec<String> = fields.table().lines().skip(2).map(str::to_owned).collect();
        let expected = [
            "| `a` | null, or string |",
            "| `b` | list |",
            "| `b[].c` | number |",
            "| `d` | list |",
            "| `d[]` | string |",
            "| `e` | object |",
            "| `e.f` | true or false |",
        ];
        assert_eq!(rows, expected);
        assert!(fields.take("[1]").is_err() && fields.take("x").is_err());
    }
}
