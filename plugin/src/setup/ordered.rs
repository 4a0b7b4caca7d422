//! A JSON object whose members keep their order and, unless they are changed, their very text: numbers
//! as they were written, nested objects with their line breaks. What is not ours is not touched.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Ordered(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Ordered;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut members: Vec<(String, Box<RawValue>)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if members.iter().any(|(k, _)| *k == key) {
                        let text = format!("{key:?} stands there twice");
                        return Err(serde::de::Error::custom(text));
                    }
                    members.push((key, value));
                }
                Ok(Ordered(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl Ordered {
    /// Reads an object; nothing but white space is an empty one, as dockerd has it.
    ///
    /// # Errors
    /// The parser's word, with line and column.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self(Vec::new()));
        }
        serde_json::from_str(text).map_err(|e| {
            // The parser ends its word with the place; it is said first here.
            let word = e.to_string();
            let word = word.split(" at line ").next().unwrap_or_default();
            format!("line {}, column {}: {word}", e.line(), e.column())
        })
    }

    /// The members' names, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }

    /// One member's text.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.get())
    }

    /// One member's value.
    pub(super) fn value(&self, key: &str) -> Option<Value> {
        serde_json::from_str(self.text(key)?).ok()
    }

    /// Sets a member where it stands, or at the end, to a text that is JSON.
    pub(super) fn set(&mut self, key: &str, text: String) {
        let Ok(raw) = RawValue::from_string(text) else { return };
        match self.0.iter_mut().find(|(k, _)| k == key) {
            Some((_, value)) => *value = raw,
            None => self.0.push((key.to_owned(), raw)),
        }
    }

    /// Takes a member out.
    pub(super) fn remove(&mut self, key: &str) {
        self.0.retain(|(k, _)| k != key);
    }

    /// As text, `depth` levels deep in a document of this indentation.
    pub(super) fn render(&self, indent: &str, depth: usize) -> String {
        if self.0.is_empty() {
            return "{}".to_owned();
        }
        let inner = indent.repeat(depth + 1);
        let line = |(key, value): &(String, Box<RawValue>)| {
            format!("{inner}{}: {}", Value::String(key.clone()), value.get())
        };
        let lines: Vec<String> = self.0.iter().map(line).collect();
        format!("{{\n{}\n{}}}", lines.join(",\n"), indent.repeat(depth))
    }
}

/// The indentation of a document: what stands before its first member.
pub(super) fn indentation(text: &str) -> String {
    let first = text.lines().find(|line| line.trim_start().starts_with('"'));
    let blank =
        first.map(|line| line.chars().take_while(|c| c.is_whitespace()).collect::<String>());
    blank.filter(|b| !b.is_empty()).unwrap_or_else(|| "    ".to_owned())
}
