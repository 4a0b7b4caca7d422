//! What a clone is made from: the spec of the first one, less what only one container can have. Pure.

use serde_json::{Map, Value, json};

use crate::engine::ports;

/// Whether a port of the host that a spec names is one that both would want: all of them.
pub(super) fn every(_: u16) -> bool {
    true
}

/// The first one's spec under another name: its hostname and aliases are the new name's, fixed addresses
/// go, and it has these ports.
pub(super) fn of(spec: &Value, name: &str, new: &str, claimed: &[u16]) -> Value {
    let mut spec = ports::spec::renumbered(spec, every, claimed);
    if let Some(config) = spec.get_mut("Config").and_then(Value::as_object_mut) {
        config.remove("MacAddress");
        if config.get("Hostname").and_then(Value::as_str) == Some(name) {
            config.insert("Hostname".into(), json!(new));
        }
    }
    let old = spec
        .get("Name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .trim_start_matches('/')
        .to_owned();
    let networks = spec.pointer_mut("/NetworkSettings/Networks").and_then(Value::as_object_mut);
    for endpoint in networks.into_iter().flatten().filter_map(|(_, e)| e.as_object_mut()) {
        endpoint.remove("IPAMConfig");
        endpoint.remove("MacAddress");
        rename_alias(endpoint, &[name, &old], new);
    }
    spec
}

fn rename_alias(endpoint: &mut Map<String, Value>, old: &[&str], new: &str) {
    let Some(aliases) = endpoint.get("Aliases").and_then(Value::as_array) else { return };
    let mut kept: Vec<&str> = Vec::new();
    for alias in aliases.iter().filter_map(Value::as_str) {
        let alias = if old.contains(&alias) { new } else { alias };
        if !kept.contains(&alias) {
            kept.push(alias);
        }
    }
    let kept = json!(kept);
    endpoint.insert("Aliases".into(), kept);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_one_can_have_is_the_new_ones_own() {
        let spec = json!({
            "Id": "a".repeat(64), "Name": "/train-3",
            "Config": {"Hostname": "train", "MacAddress": "02:42:0a:00:00:05", "Env": ["A=b"]},
            "HostConfig": {"Binds": ["data:/data"], "PortBindings": {
                "22/tcp": [{"HostIp": "", "HostPort": "2222"}], "80/tcp": [{"HostIp": "", "HostPort": ""}]}},
            "NetworkSettings": {"Networks": {"lan": {
                "Aliases": ["train", "db", "train-3"], "IPAMConfig": {"IPv4Address": "10.0.0.5"}}}},
        });
        let clone = of(&spec, "train", "twin", &[20001]);
        assert_eq!(clone["Config"], json!({"Hostname": "twin", "Env": ["A=b"]}));
        assert_eq!(clone["HostConfig"]["Binds"], json!(["data:/data"]));
        assert_eq!(clone["HostConfig"]["PortBindings"]["22/tcp"][0]["HostPort"], "20001");
        assert_eq!(clone["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"], "");
        assert_eq!(clone["NetworkSettings"]["Networks"]["lan"], json!({"Aliases": ["twin", "db"]}));
        // A hostname that somebody chose is kept.
        let chosen = json!({"Name": "/train-0", "Config": {"Hostname": "node7"}});
        assert_eq!(of(&chosen, "train", "twin", &[])["Config"]["Hostname"], "node7");
    }
}
