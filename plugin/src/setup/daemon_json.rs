//! daemon.json: read, and changed in what is ours. Pure.

use std::path::Path;

use serde::Serialize as _;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Value, json};

use super::ordered::{Ordered, indentation};

const DEFAULT: &str = "default-runtime";
const RUNTIMES: &str = "runtimes";
/// dockerd's own default runtime, which needs no entry.
pub(super) const STOCK: &str = "runc";

/// What an entry of `runtimes` may say that counts here.
const ENTRY: [&str; 4] = ["path", "runtimeArgs", "runtimeType", "options"];
/// And its options.
const OPTIONS: [&str; 1] = ["BinaryName"];

/// One entry of `runtimes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Runtime {
    /// Its name.
    pub(super) name: String,
    /// Its program: `path`, or BinaryName of its options; none for a shim of its own.
    pub(super) program: Option<String>,
    /// The shim, where it is another than runc's.
    pub(super) shim: Option<String>,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct DaemonJson {
    original: String,
    indent: String,
    top: Ordered,
    runtimes: Ordered,
    changed: bool,
}

impl DaemonJson {
    /// Reads the file's text; an absent file is an empty text.
    ///
    /// # Errors
    /// Where it is wrong, with the line.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let body = text.strip_prefix('\u{feff}').unwrap_or(text);
        let top = Ordered::parse(body)?;
        let runtimes = match top.text(RUNTIMES) {
            None => Ordered::parse("")?,
            Some(inner) => {
                Ordered::parse(inner).map_err(|e| format!("in \"runtimes\", its {e}"))?
            }
        };
        if !matches!(top.value(DEFAULT), None | Some(Value::String(_))) {
            return Err("\"default-runtime\" is no text".into());
        }
        for name in runtimes.keys() {
            let value = runtimes.value(name);
            let Some(map) = value.as_ref().and_then(Value::as_object) else {
                return Err(format!("the runtime {name:?} is no object"));
            };
            let options = map.get("options").and_then(Value::as_object);
            let keys = map.keys().map(|k| (k, &ENTRY[..]));
            let keys =
                keys.chain(options.into_iter().flat_map(|o| o.keys()).map(|k| (k, &OPTIONS[..])));
            for (key, known) in keys {
                // dockerd reads them in any case, and what is read here must be what it reads.
                if let Some(usual) = known.iter().find(|k| key != *k && key.eq_ignore_ascii_case(k))
                {
                    return Err(format!("the runtime {name:?} has {key:?}: write it {usual:?}"));
                }
            }
        }
        Ok(Self {
            original: text.to_owned(),
            indent: indentation(body),
            top,
            runtimes,
            changed: false,
        })
    }

    /// The default runtime, where one is named.
    pub(super) fn default_runtime(&self) -> Option<String> {
        self.top.value(DEFAULT)?.as_str().map(str::to_owned)
    }

    /// The runtimes that it names, in order.
    pub(super) fn runtimes(&self) -> Vec<Runtime> {
        let read = |name: &str| {
            let value = self.runtimes.value(name).unwrap_or_default();
            let text = |pointer: &str| {
                let text = value.pointer(pointer).and_then(Value::as_str);
                text.filter(|t| !t.is_empty()).map(str::to_owned)
            };
            let shim = text("/runtimeType").filter(|t| t != "io.containerd.runc.v2");
            let program = text("/path").or_else(|| text("/options/BinaryName"));
            Runtime { name: name.to_owned(), program, shim }
        };
        self.runtimes.keys().map(read).collect()
    }

    /// One of them.
    pub(super) fn runtime(&self, name: &str) -> Option<Runtime> {
        self.runtimes().into_iter().find(|r| r.name == name)
    }

    /// Names the default runtime.
    pub(super) fn set_default(&mut self, name: &str) {
        if self.default_runtime().as_deref() != Some(name) {
            self.top.set(DEFAULT, Value::from(name).to_string());
            self.changed = true;
        }
    }

    /// Has a runtime be this program; what else stands in its entry stays.
    pub(super) fn set_program(&mut self, name: &str, program: &Path) {
        let program = program.to_string_lossy();
        let had = self.runtime(name);
        if had.as_ref().is_some_and(|r| r.program.as_deref() == Some(&*program)) {
            return;
        }
        // Where its word stands once, only that is changed, and the text around it stays.
        let old = had.and_then(|r| r.program).map(|old| Value::from(old).to_string());
        let text = self.runtimes.text(name).unwrap_or_default();
        if let Some(old) = old.filter(|old| text.matches(old.as_str()).count() == 1) {
            let text = text.replace(&old, &Value::from(&*program).to_string());
            self.runtimes.set(name, text);
            return self.write_runtimes();
        }
        let mut value = self.runtimes.value(name).unwrap_or_else(|| json!({}));
        let by_option =
            value.pointer("/options/BinaryName").is_some() && value.get("path").is_none();
        let place = if by_option { value.pointer_mut("/options") } else { Some(&mut value) };
        if let Some(map) = place.and_then(Value::as_object_mut) {
            map.insert(if by_option { "BinaryName" } else { "path" }.into(), (*program).into());
        }
        self.runtimes.set(name, self.pretty(&value));
        self.write_runtimes();
    }

    /// An entry of `runtimes` as text. A line's end within a string is written as `\n` in JSON.
    fn pretty(&self, value: &Value) -> String {
        let mut bytes = Vec::new();
        let formatter = PrettyFormatter::with_indent(self.indent.as_bytes());
        let mut out = Serializer::with_formatter(&mut bytes, formatter);
        if value.serialize(&mut out).is_err() {
            return value.to_string();
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        text.replace('\n', &format!("\n{}", self.indent.repeat(2)))
    }

    /// Takes a runtime out.
    pub(super) fn remove_runtime(&mut self, name: &str) {
        if self.runtimes.keys().any(|key| key == name) {
            self.runtimes.remove(name);
            self.write_runtimes();
        }
    }

    fn write_runtimes(&mut self) {
        // Left in place when it is empty: without the key a reload changes no runtime.
        self.top.set(RUNTIMES, self.runtimes.render(&self.indent, 1));
        self.changed = true;
    }

    /// The file's text; the very same where nothing was changed.
    pub(super) fn render(&self) -> String {
        if !self.changed {
            return self.original.clone();
        }
        format!("{}\n", self.top.render(&self.indent, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREIGN: &str = "{\n  \"data-root\": \"/srv/docker\",\n  \"x-number\": 1.50e3,\n  \
        \"log-opts\": {\"max-size\": \"10m\",\n               \"max-file\": \"3\"},\n  \
        \"runtimes\": {\n    \"crun\": {\"path\": \"/usr/bin/crun\", \"runtimeArgs\": [\"--debug\"]}\n  },\n  \
        \"ünknown\": [true,null]\n}\n";

    #[test]
    fn what_is_not_ours_keeps_order_and_text() {
        let mut json = DaemonJson::parse(FOREIGN).unwrap();
        assert_eq!(json.render(), FOREIGN);
        json.set_program("gpuctl-gate", Path::new("/l/gpuctl-gate"));
        json.set_default("gpuctl-gate");
        let text = json.render();
        for kept in [
            "1.50e3",
            "\"max-size\": \"10m\",\n               \"max-file\"",
            "[true,null]",
            "\"runtimeArgs\": [\"--debug\"]",
        ] {
            assert!(text.contains(kept), "{kept}\n{text}");
        }
        let order = |t: &str| text.find(t).unwrap_or_else(|| panic!("{t}\n{text}"));
        assert!(
            order("data-root") < order("x-number") && order("ünknown") < order("default-runtime")
        );
        // Ours gone again, all is as it was but for the default, which is named.
        let mut back = DaemonJson::parse(&text).unwrap();
        assert_eq!(back.runtimes().len(), 2);
        back.remove_runtime("gpuctl-gate");
        back.set_default("runc");
        let text = back.render().replace(",\n  \"default-runtime\": \"runc\"", "");
        assert_eq!(text, FOREIGN);
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let mut json = DaemonJson::parse("").unwrap();
        json.set_program("gpuctl", Path::new("/l/gpuctl-runtime"));
        json.set_default("gpuctl-gate");
        let text = json.render();
        assert_eq!(
            text,
            "{\n    \"runtimes\": {\n        \"gpuctl\": {\n            \"path\": \"/l/gpuctl-runtime\"\n        }\n    },\n    \"default-runtime\": \"gpuctl-gate\"\n}\n"
        );
        let mut again = DaemonJson::parse(&text).unwrap();
        again.set_program("gpuctl", Path::new("/l/gpuctl-runtime"));
        again.set_default("gpuctl-gate");
        assert_eq!(again.render(), text);
    }

    #[test]
    fn what_is_broken_is_refused_with_its_line() {
        for (text, words) in [
            ("{\n  \"a\": 1,\n}", "line 3"),
            ("{\n  \"a\": 1\n  \"b\": 2}", "line 3"),
            ("[]", "line 1"),
            ("{\"a\": 1, \"a\": 2}", "twice"),
            ("{\"runtimes\": {\"x\": 3}}", "no object"),
            ("{\"runtimes\": []}", "runtimes"),
            ("{\"default-runtime\": 1}", "no text"),
            ("{\"runtimes\": {\"x\": {\"Path\": \"/r\"}}}", "write it \"path\""),
            ("{\"runtimes\": {\"x\": {\"options\": {\"binaryname\": \"/r\"}}}}", "\"BinaryName\""),
            ("{} x", "line 1"),
        ] {
            let why = DaemonJson::parse(text).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
    }

    #[test]
    fn a_program_is_found_and_changed_where_it_stands() {
        let text = r#"{"runtimes": {"a": {"runtimeType": "io.containerd.runc.v2", "options": {"BinaryName": "/usr/bin/runc", "Root": "/r"}},
            "kata": {"runtimeType": "io.containerd.kata.v2"}}}"#;
        let mut json = DaemonJson::parse(text).unwrap();
        let of = |json: &DaemonJson, name: &str| json.runtime(name).unwrap();
        assert_eq!(of(&json, "a").program.as_deref(), Some("/usr/bin/runc"));
        assert_eq!(of(&json, "a").shim, None);
        assert_eq!(of(&json, "kata").shim.as_deref(), Some("io.containerd.kata.v2"));
        json.set_program("a", Path::new("/l/strict/runc"));
        let again = DaemonJson::parse(&json.render()).unwrap();
        assert_eq!(of(&again, "a").program.as_deref(), Some("/l/strict/runc"));
        assert!(again.render().contains("\"Root\": \"/r\""));
        // And back again, it reads as before.
        let mut back = again;
        back.set_program("a", Path::new("/usr/bin/runc"));
        assert!(back.render().contains(r#"{"runtimeType": "io.containerd.runc.v2", "options": {"BinaryName": "/usr/bin/runc", "Root": "/r"}}"#));
        // A word that stands there twice is found by its place.
        let twice = r#"{"runtimes": {"b": {"path": "/r", "runtimeArgs": ["--root", "/r"]}}}"#;
        let mut twice = DaemonJson::parse(twice).unwrap();
        twice.set_program("b", Path::new("/s"));
        let again: Value = serde_json::from_str(&twice.render()).unwrap();
        assert_eq!(again["runtimes"]["b"], json!({"path": "/s", "runtimeArgs": ["--root", "/r"]}));
    }
}
