//! A bundle's config.json: read tolerantly, edited in place, so that what is unknown to us is kept.

use serde_json::{Map, Value};

use crate::devices::{Node, Rule};

/// Longest config.json that is read, in bytes.
pub const LONGEST: usize = 16 * 1024 * 1024;

/// Most objects in a config.json. Each takes some 700 bytes once it is read, so 16 MiB of nothing but
/// empty ones would take 2 GB. A container can have 100 000 mounts (fs.mount-max).
pub const MOST_OBJECTS: usize = 1 << 18;

/// The stages of `hooks`, in the order in which a runtime runs them.
pub const STAGES: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// Why a text is no spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// It is longer than [`LONGEST`].
    #[error("config.json is longer than 16 MiB")]
    TooLong,
    /// It holds more objects than [`MOST_OBJECTS`].
    #[error("config.json lists more than {MOST_OBJECTS} mounts, devices and the like")]
    TooMany,
    /// It is no JSON, or nested too deeply; line and column of the fault.
    #[error("config.json is no valid JSON (line {0}, column {1})")]
    NotJson(usize, usize),
    /// It is JSON, but no object.
    #[error("config.json is no JSON object")]
    NotAnObject,
    /// It is an object, but not one that a runtime takes.
    #[error("config.json is not as the OCI runtime specification has it")]
    NotOci,
}

/// A config.json.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec(Value);

impl Spec {
    /// Reads a config.json of at most [`LONGEST`] bytes. JSON nested deeper than 128 is refused.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, SpecError> {
        if bytes.len() > LONGEST {
            return Err(SpecError::TooLong);
        }
        if objects(bytes) > MOST_OBJECTS {
            return Err(SpecError::TooMany);
        }
        let value: Value =
            serde_json::from_slice(bytes).map_err(|e| SpecError::NotJson(e.line(), e.column()))?;
        Self::from_value(value)
    }

    /// Takes a value that was read already.
    ///
    /// # Errors
    /// [`SpecError::NotAnObject`].
    pub fn from_value(value: Value) -> Result<Self, SpecError> {
        if value.is_object() { Ok(Self(value)) } else { Err(SpecError::NotAnObject) }
    }

    /// The whole document.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// The document as bytes, to be written.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.to_string().into_bytes()
    }

    /// The document through oci-spec's types.
    ///
    /// # Errors
    /// [`SpecError::NotOci`].
    pub fn to_oci(&self) -> Result<oci_spec::runtime::Spec, SpecError> {
        serde_json::from_value(self.0.clone()).map_err(|_| SpecError::NotOci)
    }

    fn text(&self, pointer: &str) -> Option<&str> {
        self.0.pointer(pointer).and_then(Value::as_str)
    }

    fn list(&self, pointer: &str) -> &[Value] {
        self.0.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// `ociVersion`; empty where there is none.
    pub fn oci_version(&self) -> &str {
        self.text("/ociVersion").unwrap_or_default()
    }

    /// `root.path`, absolute or relative to the bundle.
    pub fn root_path(&self) -> Option<&str> {
        self.text("/root/path")
    }

    /// `linux.cgroupsPath`.
    pub fn cgroups_path(&self) -> Option<&str> {
        self.text("/linux/cgroupsPath")
    }

    /// All annotations that are text.
    pub fn annotations(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.0.get("annotations").and_then(Value::as_object);
        all.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    /// Takes parts out of lists, as `a,b`, in annotations whose name begins with `prefix`; one of which
    /// nothing is left goes.
    pub fn remove_annotated(&mut self, prefix: &str, goes: impl Fn(&str) -> bool) {
        let Some(all) = self.0.get_mut("annotations").and_then(Value::as_object_mut) else {
            return;
        };
        all.retain(|key, value| {
            let text = value.as_str().filter(|_| key.starts_with(prefix)).map(str::to_owned);
            let Some(text) = text else { return true };
            let left: Vec<&str> = text.split(',').filter(|part| !goes(part)).collect();
            if left.len() != text.split(',').count() {
                *value = Value::String(left.join(","));
            }
            !left.is_empty()
        });
    }

    /// One annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.0.get("annotations")?.get(key)?.as_str()
    }

    /// The user and group that the process starts as; 0 where nothing is said.
    pub fn user(&self) -> (u32, u32) {
        let id = |pointer: &str| {
            self.0.pointer(pointer).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok())
        };
        (id("/process/user/uid").unwrap_or(0), id("/process/user/gid").unwrap_or(0))
    }

    /// The value of an environment variable; of duplicates, the last.
    pub fn env(&self, name: &str) -> Option<&str> {
        let value = |e: &'_ Value| -> Option<()> { env_value(e, name).map(drop) };
        let last = self.list("/process/env").iter().rev().find(|e| value(e).is_some())?;
        env_value(last, name)
    }

    /// The nodes of `linux.devices` that have numbers.
    pub fn nodes(&self) -> Vec<Node> {
        self.list("/linux/devices").iter().filter_map(Node::read).collect()
    }

    /// The rules of `linux.resources.devices`.
    pub fn rules(&self) -> Vec<Rule> {
        self.list("/linux/resources/devices").iter().map(Rule::read).collect()
    }

    /// The hooks of one of [`STAGES`].
    pub fn hooks(&self, stage: &str) -> &[Value] {
        match self.0.get("hooks").and_then(|h| h.get(stage)) {
            Some(Value::Array(list)) => list,
            _ => &[],
        }
    }

    /// Every mount.
    pub fn mounts(&self) -> impl Iterator<Item = &Value> {
        self.list("/mounts").iter()
    }

    /// Sets an environment variable, once, where its last duplicate stood or at the end.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let list = self.list_mut(&["process", "env"]);
        let line = Value::String(format!("{name}={value}"));
        let Some(last) = list.iter().rposition(|e| env_value(e, name).is_some()) else {
            return list.push(line);
        };
        let mut at = 0;
        list.retain(|e| {
            at += 1;
            at == last + 1 || env_value(e, name).is_none()
        });
        if let Some(entry) = list.iter_mut().find(|e| env_value(e, name).is_some()) {
            *entry = line;
        }
    }

    /// The list at a path of keys, made where it is not there. What is in the way and is no object
    /// or list - null, mostly - is replaced: no runtime would take it.
    pub(crate) fn list_mut(&mut self, path: &[&str]) -> &mut Vec<Value> {
        list_of(self.make(path))
    }

    /// Takes a variable out of the process's environment, as often as it is there.
    pub(crate) fn remove_env(&mut self, name: &str) {
        self.retain(&["process", "env"], |entry| env_value(entry, name).is_none());
    }

    /// The object at a path of keys, likewise.
    pub(crate) fn object_mut(&mut self, path: &[&str]) -> &mut Map<String, Value> {
        object_of(self.make(path))
    }

    fn make(&mut self, path: &[&str]) -> &mut Value {
        path.iter().fold(&mut self.0, |here, key| {
            object_of(here).entry((*key).to_owned()).or_insert(Value::Null)
        })
    }

    /// Keeps those entries of a list that `keep` wants; a list that is not there is not made.
    pub(crate) fn retain(&mut self, path: &[&str], keep: impl FnMut(&Value) -> bool) {
        let mut here = &mut self.0;
        for key in path {
            match here.get_mut(*key) {
                Some(next) => here = next,
                None => return,
            }
        }
        if let Value::Array(list) = here {
            list.retain(keep);
        }
    }
}

/// How many objects a text of JSON begins.
fn objects(bytes: &[u8]) -> usize {
    let (mut objects, mut in_text, mut escaped) = (0, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'{' if !in_text => objects += 1,
            _ => {}
        }
    }
    objects
}

/// The list in a value, which becomes an empty one where it is none.
fn list_of(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    match value {
        Value::Array(list) => list,
        _ => unreachable!("it was made a list just above"),
    }
}

/// The object in a value, likewise.
fn object_of(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object just above"),
    }
}

/// A text field of an object; empty where there is none.
pub(crate) fn str_of<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The value where this entry of `process.env` sets `name`.
fn env_value<'a>(entry: &'a Value, name: &str) -> Option<&'a str> {
    entry.as_str()?.strip_prefix(name)?.strip_prefix('=')
}

/// The last part of a hook's program.
pub(crate) fn hook_program(hook: &Value) -> &str {
    str_of(hook, "path").rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: Value) -> Spec {
        Spec::from_value(value).unwrap()
    }

    #[test]
    fn what_is_no_spec_is_refused() {
        assert_eq!(Spec::parse(b"[]"), Err(SpecError::NotAnObject));
        assert!(matches!(Spec::parse(b"{\n "), Err(SpecError::NotJson(2, _))));
        assert!(matches!(Spec::parse("[".repeat(5000).as_bytes()), Err(SpecError::NotJson(..))));
        let long = vec![b' '; LONGEST + 1];
        assert_eq!(Spec::parse(&long), Err(SpecError::TooLong));
    }

    #[test]
    fn objects_without_end_are_refused_before_they_take_memory_and_text_is_not_counted() {
        let list = |one: &str, n: usize| format!(r#"{{"x":[{}]}}"#, vec![one; n].join(","));
        assert!(Spec::parse(list("{}", MOST_OBJECTS - 1).as_bytes()).is_ok());
        assert_eq!(Spec::parse(list("{}", MOST_OBJECTS).as_bytes()), Err(SpecError::TooMany));
        let text = list(r#""{\"{\\""#, MOST_OBJECTS);
        assert!(Spec::parse(text.as_bytes()).is_ok());
    }

    #[test]
    fn of_duplicate_variables_the_last_counts_and_setting_leaves_one() {
        let mut s = spec(json!({"process": {"env": ["A=1", "B=2", "A=3", 7, "AB=4", "A"]}}));
        assert_eq!(s.env("A"), Some("3"));
        assert_eq!(s.env("C"), None);
        s.set_env("A", "9");
        s.set_env("C", "5");
        assert_eq!(s.value()["process"]["env"], json!(["B=2", "A=9", 7, "AB=4", "A", "C=5"]));
    }

    #[test]
    fn odd_shapes_are_read_as_nothing() {
        for odd in [json!({}), json!({"process": 3, "linux": [], "hooks": "x", "mounts": {}})] {
            let mut s = spec(odd);
            assert_eq!((s.env("A"), s.user(), s.root_path()), (None, (0, 0), None));
            assert!(s.nodes().is_empty() && s.rules().is_empty() && s.hooks("prestart").is_empty());
            assert_eq!(s.mounts().count(), 0);
            s.set_env("A", "1");
            assert_eq!(s.env("A"), Some("1"));
        }
    }
}
