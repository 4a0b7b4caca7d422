//! Ports of the host in the spec of a container that is to be made again. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::engine::api::AutoPort;

/// The ports of the host that a spec names and that are to be claimed anew: one for each number, however
/// many protocols and addresses it is published on. `wish`: those numbers, where they are free.
pub(in crate::engine) fn wanted(
    spec: &Value,
    keep: impl Fn(u16) -> bool,
    wish: bool,
) -> Vec<AutoPort> {
    let mut found: BTreeMap<u16, String> = BTreeMap::new();
    let ports = spec.pointer("/HostConfig/PortBindings").and_then(Value::as_object);
    for (inside, list) in ports.into_iter().flatten() {
        for port in list.as_array().into_iter().flatten().filter_map(number).filter(|p| keep(*p)) {
            found.entry(port).or_insert_with(|| inside.clone());
        }
    }
    let auto = |(port, inside): (u16, String)| AutoPort {
        ip: None,
        inside,
        wish: Some(port).filter(|_| wish),
    };
    found.into_iter().map(auto).collect()
}

fn number(binding: &Value) -> Option<u16> {
    binding.get("HostPort")?.as_str()?.parse().ok().filter(|port| *port > 0)
}

/// The spec with other numbers: what `wanted` gave, in its order, and the ports that were claimed for it.
pub(in crate::engine) fn renumbered(
    spec: &Value,
    keep: impl Fn(u16) -> bool,
    claimed: &[u16],
) -> Value {
    let mut spec = spec.clone();
    let old: Vec<u16> = wanted(&spec, &keep, true).iter().filter_map(|auto| auto.wish).collect();
    let new: BTreeMap<u16, u16> = old.into_iter().zip(claimed.iter().copied()).collect();
    let ports = spec.pointer_mut("/HostConfig/PortBindings").and_then(Value::as_object_mut);
    for list in ports.into_iter().flatten().filter_map(|(_, list)| list.as_array_mut()) {
        for binding in list {
            let port = number(binding).and_then(|port| new.get(&port));
            if let (Some(port), Some(binding)) = (port, binding.as_object_mut()) {
                binding.insert("HostPort".into(), json!(port.to_string()));
            }
        }
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_claimed_once_and_stands_for_itself_everywhere() {
        let spec = json!({"A": 1, "HostConfig": {"PortBindings": {
            "53/tcp": [{"HostIp": "127.0.0.1", "HostPort": "20001"}],
            "53/udp": [{"HostIp": "", "HostPort": "20001"}, {"HostIp": "", "HostPort": "80"}],
            "22/tcp": [{"HostIp": "", "HostPort": ""}, {"HostIp": "", "HostPort": "20000"}],
        }}});
        let ours = |port: u16| (20000..=29999).contains(&port);
        let found = wanted(&spec, ours, true);
        let text: Vec<(Option<u16>, &str)> =
            found.iter().map(|a| (a.wish, a.inside.as_str())).collect();
        assert_eq!(text, [(Some(20000), "22/tcp"), (Some(20001), "53/tcp")]);
        assert!(wanted(&spec, ours, false).iter().all(|a| a.wish.is_none()));
        assert_eq!(
            renumbered(&spec, ours, &[30000, 30001]),
            json!({"A": 1, "HostConfig": {"PortBindings": {
                "53/tcp": [{"HostIp": "127.0.0.1", "HostPort": "30001"}],
                "53/udp": [{"HostIp": "", "HostPort": "30001"}, {"HostIp": "", "HostPort": "80"}],
                "22/tcp": [{"HostIp": "", "HostPort": ""}, {"HostIp": "", "HostPort": "30000"}],
            }}})
        );
        let none = json!({"HostConfig": {"PortBindings": {}}});
        assert_eq!(renumbered(&none, ours, &[]), none);
    }
}
