//! In what two specs differ, by the words of docker run's flags where there are such.

use std::collections::BTreeMap;

use gpuctl_ledger::model::{ByteSize, GpuRequest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mounts::{bind_parts, list};

/// One thing that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What: `gpus`, `memory`, `env A`, `port 80/tcp`, `mount /data`, or a path in Docker's inspect.
    pub field: String,
    /// Before; absent where there was none.
    pub before: Option<String>,
    /// After; absent where there is none.
    pub after: Option<String>,
}

impl Difference {
    /// In words: `memory 1GB -> 2GB`. Of the environment no values: they may be secret.
    pub fn words(&self) -> String {
        let secret = self.field.starts_with("env ");
        match (&self.before, &self.after) {
            (None, Some(_)) if secret => format!("{} set", self.field),
            (Some(_), Some(_)) if secret => format!("{} changed", self.field),
            (Some(_), None) => format!("{} removed", self.field),
            (None, Some(after)) => format!("{} {after}", self.field),
            (Some(before), Some(after)) => format!("{} {before} -> {after}", self.field),
            (None, None) => self.field.clone(),
        }
    }
}

/// Fields of HostConfig that have a flag's name, and whether they are bytes.
const NAMED: [(&str, &str, Unit); 12] = [
    ("Memory", "memory", Unit::Bytes),
    ("MemorySwap", "memory-swap", Unit::Bytes),
    ("MemoryReservation", "memory-reservation", Unit::Bytes),
    ("ShmSize", "shm-size", Unit::Bytes),
    ("NanoCpus", "cpus", Unit::Billionths),
    ("CpuShares", "cpu-shares", Unit::Plain),
    ("CpuPeriod", "cpu-period", Unit::Plain),
    ("CpuQuota", "cpu-quota", Unit::Plain),
    ("CpusetCpus", "cpuset-cpus", Unit::Plain),
    ("CpusetMems", "cpuset-mems", Unit::Plain),
    ("PidsLimit", "pids-limit", Unit::Plain),
    ("BlkioWeight", "blkio-weight", Unit::Plain),
];
/// What says nothing of the container itself, or is shown otherwise.
const PASSED: [&str; 8] = [
    "Config.Env",
    "Config.Labels",
    "Config.Volumes",
    "HostConfig.Binds",
    "HostConfig.Mounts",
    "HostConfig.Tmpfs",
    "HostConfig.PortBindings",
    "HostConfig.ContainerIDFile",
];

#[derive(Debug, Clone, Copy)]
enum Unit {
    Plain,
    Bytes,
    Billionths,
}

/// In what `after` differs from `before`, in a fixed order.
pub fn differences(before: (&Value, &GpuRequest), after: (&Value, &GpuRequest)) -> Vec<Difference> {
    let mut found = Vec::new();
    let gpus = |gpus: &GpuRequest| if gpus.is_none() { None } else { Some(gpus.to_string()) };
    let (was, is) = (gpus(before.1), gpus(after.1));
    if before.1 != after.1 {
        let zero = |shown: Option<String>| shown.or_else(|| Some("0".to_owned()));
        found.push(Difference { field: "gpus".into(), before: zero(was), after: zero(is) });
    }
    if let Some(found_image) = retagged(before.0, after.0) {
        found.push(found_image);
    }
    let (was, is) = (fields(before.0), fields(after.0));
    let names: std::collections::BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    for name in names {
        let (was, is) = (was.get(name), is.get(name));
        if was != is {
            found.push(Difference {
                field: name.clone(),
                before: was.cloned(),
                after: is.cloned(),
            });
        }
    }
    found
}

/// One name may have meant two images.
fn retagged(before: &Value, after: &Value) -> Option<Difference> {
    let name = |spec: &Value| spec.pointer("/Config/Image").cloned();
    let id = |spec: &Value| Some(spec.get("Image")?.as_str()?.to_owned());
    let (was, is) = (id(before)?, id(after)?);
    let short = |id: &str| {
        let digits = id.strip_prefix("sha256:").unwrap_or(id);
        digits.get(..12).unwrap_or(digits).to_owned()
    };
    (was != is && name(before) == name(after)).then(|| Difference {
        field: "image".into(),
        before: Some(short(&was)),
        after: Some(short(&is)),
    })
}

/// Every field of a spec by its name here, with its value as it is shown. What is empty is absent.
fn fields(spec: &Value) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    for part in ["Config", "HostConfig"] {
        let map = spec.get(part).and_then(Value::as_object);
        for (key, value) in map.into_iter().flatten() {
            flatten(format!("{part}.{key}"), value, &mut fields);
        }
    }
    let networks = spec.pointer("/NetworkSettings/Networks").and_then(Value::as_object);
    for (name, settings) in networks.into_iter().flatten() {
        let mut shown = BTreeMap::new();
        flatten("x".into(), &without_own_alias(settings, spec), &mut shown);
        let text = shown.into_iter().map(|(k, v)| format!("{}={v}", k.trim_start_matches("x.")));
        let text: Vec<String> = text.collect();
        let text = if text.is_empty() { "connected".to_owned() } else { text.join(" ") };
        fields.insert(format!("network {name}"), text);
    }
    for entry in list(spec, "/Config/Env").filter_map(Value::as_str) {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        fields.insert(format!("env {name}"), value.to_owned());
    }
    let labels = spec.pointer("/Config/Labels").and_then(Value::as_object);
    for (name, value) in
        labels.into_iter().flatten().filter(|(name, _)| !name.starts_with("gpuctl."))
    {
        fields.insert(format!("label {name}"), value.as_str().unwrap_or_default().to_owned());
    }
    ports(spec, &mut fields);
    mounts(spec, &mut fields);
    fields
}

/// Docker adds the container's short id to its aliases while it runs.
fn without_own_alias(settings: &Value, spec: &Value) -> Value {
    let mut settings = settings.clone();
    let id = spec.get("Id").and_then(Value::as_str).unwrap_or_default();
    if let Some(aliases) = settings.get_mut("Aliases").and_then(Value::as_array_mut) {
        aliases.retain(|alias| {
            alias.as_str().is_some_and(|a| id.is_empty() || a.is_empty() || !id.starts_with(a))
        });
    }
    settings
}

fn ports(spec: &Value, fields: &mut BTreeMap<String, String>) {
    let bindings = spec.pointer("/HostConfig/PortBindings").and_then(Value::as_object);
    for (inside, bindings) in bindings.into_iter().flatten() {
        let text = |binding: &Value, key: &str| {
            binding.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let shown: Vec<String> = bindings
            .as_array()
            .into_iter()
            .flatten()
            .map(|b| {
                let (address, port) = (text(b, "HostIp"), text(b, "HostPort"));
                let port = if port.is_empty() { "any".to_owned() } else { port };
                if address.is_empty() { port } else { format!("{address}:{port}") }
            })
            .collect();
        fields.insert(format!("port {inside}"), shown.join(", "));
    }
}

fn mounts(spec: &Value, fields: &mut BTreeMap<String, String>) {
    for bind in list(spec, "/HostConfig/Binds").filter_map(Value::as_str) {
        let (source, place, options) = bind_parts(bind);
        let options = if options.is_empty() { String::new() } else { format!(" ({options})") };
        fields.insert(format!("mount {place}"), format!("{source}{options}"));
    }
    for mount in list(spec, "/HostConfig/Mounts") {
        let place = mount.get("Target").and_then(Value::as_str).unwrap_or_default();
        let mut shown = BTreeMap::new();
        let mut rest = mount.clone();
        if let Some(map) = rest.as_object_mut() {
            map.remove("Target");
        }
        flatten("x".into(), &rest, &mut shown);
        let source = shown.remove("x.Source").unwrap_or_default();
        let kind = shown.remove("x.Type").unwrap_or_default();
        let mut text: Vec<String> = vec![kind, source];
        text.extend(shown.into_iter().map(|(k, v)| format!("{}={v}", k.trim_start_matches("x."))));
        text.retain(|part| !part.is_empty());
        fields.insert(format!("mount {place}"), text.join(" "));
    }
    let tmpfs = spec.pointer("/HostConfig/Tmpfs").and_then(Value::as_object);
    for (place, options) in tmpfs.into_iter().flatten() {
        let options = options.as_str().unwrap_or_default();
        fields.insert(format!("mount {place}"), format!("tmpfs {options}").trim_end().to_owned());
    }
    // Anonymous volumes that are asked for by their place alone.
    let volumes = spec.pointer("/Config/Volumes").and_then(Value::as_object);
    for place in volumes.into_iter().flat_map(|map| map.keys()) {
        fields.entry(format!("mount {place}")).or_insert_with(|| "anonymous volume".to_owned());
    }
}

/// Puts a value under its path; what is empty is left out, since Engines differ in how they show it.
fn flatten(path: String, value: &Value, fields: &mut BTreeMap<String, String>) {
    if PASSED.contains(&path.as_str()) {
        return;
    }
    if path == "HostConfig.VolumesFrom" {
        // How anonymous volumes came is no change of the container.
        let id = |entry: &str| {
            entry.len() >= 64 && entry.bytes().take(64).all(|b| b.is_ascii_hexdigit())
        };
        let others = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        let others: Vec<&str> = others.filter(|entry| !id(entry)).collect();
        if !others.is_empty() {
            fields.insert(path, others.join(", "));
        }
        return;
    }
    if path == "HostConfig.RestartPolicy" {
        let name = value.get("Name").and_then(Value::as_str).unwrap_or_default();
        let tries = value.get("MaximumRetryCount").and_then(Value::as_i64).unwrap_or_default();
        if !matches!(name, "" | "no") {
            let tries = if tries > 0 { format!(":{tries}") } else { String::new() };
            fields.insert("restart".to_owned(), format!("{name}{tries}"));
        }
        return;
    }
    if path == "Config.Image" {
        fields.insert("image".to_owned(), value.as_str().unwrap_or_default().to_owned());
        return;
    }
    let named = path.strip_prefix("HostConfig.");
    if let Some((_, flag, unit)) =
        named.and_then(|key| NAMED.iter().find(|(name, ..)| *name == key))
    {
        if let Some(shown) = shown(value, *unit) {
            fields.insert((*flag).to_owned(), shown);
        }
        return;
    }
    match value {
        Value::Null | Value::Bool(false) => {}
        Value::String(text) if text.is_empty() => {}
        Value::Number(number) if number.as_i64() == Some(0) => {}
        Value::Object(map) if map.is_empty() && path.split('.').count() > 2 => {
            // A set of names: `Config.ExposedPorts.80/tcp` is there or not.
            fields.insert(path, "set".to_owned());
        }
        Value::Object(map) => {
            for (key, value) in map {
                flatten(format!("{path}.{key}"), value, fields);
            }
        }
        Value::Array(list) => {
            let text: Vec<String> = list.iter().map(plain).collect();
            if !text.is_empty() {
                fields.insert(path, text.join(" "));
            }
        }
        value => drop(fields.insert(path, plain(value))),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn shown(value: &Value, unit: Unit) -> Option<String> {
    match (value.as_i64(), unit) {
        (Some(0), _) => None,
        (Some(number), Unit::Bytes) => Some(
            u64::try_from(number)
                .map_or_else(|_| "unlimited".to_owned(), |n| ByteSize(n).to_string()),
        ),
        (Some(number), Unit::Billionths) => {
            let (whole, rest) = (number / 1_000_000_000, number % 1_000_000_000);
            let text = format!("{whole}.{rest:09}");
            Some(text.trim_end_matches('0').trim_end_matches('.').to_owned())
        }
        (Some(number), Unit::Plain) => Some(number.to_string()),
        (None, _) => value.as_str().filter(|text| !text.is_empty()).map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(before: &Value, after: &Value) -> Vec<String> {
        let none = GpuRequest::None;
        differences((before, &none), (after, &none)).iter().map(Difference::words).collect()
    }

    #[test]
    fn what_differs_is_said_by_the_words_of_flags() {
        let before = json!({"Config": {"Env": ["A=1", "S=secret"], "Image": "a", "Labels": {"x": "1"}},
            "HostConfig": {"Memory": 1 << 30, "NanoCpus": 0, "Binds": ["data-0:/data"], "CapAdd": null,
                "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}}});
        let after = json!({"Config": {"Env": ["A=2", "B=3"], "Image": "b", "Labels": {"x": "1", "gpuctl.operation": "t"}},
            "HostConfig": {"Memory": 3_i64 << 29, "NanoCpus": 1_500_000_000, "Binds": ["data-1:/data:ro"],
                "CapAdd": ["SYS_ADMIN"], "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
                "PortBindings": {}}});
        assert_eq!(
            words(&before, &after),
            [
                "HostConfig.CapAdd SYS_ADMIN",
                "cpus 1.5",
                "env A changed",
                "env B set",
                "env S removed",
                "image a -> b",
                "memory 1GB -> 1.5GB",
                "mount /data data-0 -> data-1 (ro)",
                "port 80/tcp removed",
                "restart always"
            ]
        );
    }

    #[test]
    fn engines_that_show_nothing_in_other_ways_show_no_change() {
        let before = json!({"Config": {"Volumes": null, "Domainname": ""},
            "HostConfig": {"Binds": null, "PidsLimit": null, "VolumesFrom": null, "OomKillDisable": null,
                "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}}});
        let after = json!({"Config": {"Volumes": {}}, "HostConfig": {"Binds": [], "PidsLimit": 0,
            "VolumesFrom": ["a".repeat(64)], "OomKillDisable": false, "RestartPolicy": {"Name": ""}}});
        assert_eq!(words(&before, &after), [""; 0]);
    }

    #[test]
    fn gpus_and_networks_differ_too() {
        let spec = |net: Value| json!({"Id": "0123456789abcdef", "NetworkSettings": {"Networks": {"lan": net}}});
        let before = spec(json!({"Aliases": ["train", "0123456789ab"]}));
        let after = spec(json!({"Aliases": ["train"], "IPAMConfig": {"IPv4Address": "10.0.0.5"}}));
        let found = differences((&before, &GpuRequest::Count(3)), (&after, &GpuRequest::None));
        let words: Vec<String> = found.iter().map(Difference::words).collect();
        assert_eq!(
            words,
            [
                "gpus 3 -> 0",
                "network lan Aliases=train -> Aliases=train IPAMConfig.IPv4Address=10.0.0.5"
            ]
        );
    }
}
