//! Ports of the host in the spec of a container that is to be made again. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::change::{HostPort, Publish};
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

/// What of a spec's ports is to be claimed anew: those that were kept for it and are not any more. The
/// spec without them, and each number with all that it was published for.
pub(in crate::engine) fn lost(
    spec: &Value,
    keep: impl Fn(u16) -> bool,
) -> (Value, Vec<(AutoPort, Vec<Publish>)>) {
    let mut spec = spec.clone();
    let mut found: BTreeMap<u16, Vec<Publish>> = BTreeMap::new();
    let ports = spec.pointer_mut("/HostConfig/PortBindings").and_then(Value::as_object_mut);
    if let Some(ports) = ports {
        for (inside, list) in ports.iter_mut() {
            let Some((port, protocol)) = inside.split_once('/') else { continue };
            let (Ok(port), Some(list)) = (port.parse(), list.as_array_mut()) else { continue };
            list.retain(|binding| {
                let Some(host) = number(binding).filter(|host| keep(*host)) else { return true };
                let address = binding.get("HostIp").and_then(Value::as_str).unwrap_or_default();
                found.entry(host).or_default().push(Publish {
                    address: address.to_owned(),
                    host: HostPort::Auto,
                    inside: port,
                    protocol: protocol.to_owned(),
                });
                false
            });
        }
        ports.retain(|_, list| list.as_array().is_none_or(|list| !list.is_empty()));
    }
    let auto = |(host, publish): (u16, Vec<Publish>)| {
        let inside = publish.first().map(Publish::inside).unwrap_or_default();
        (AutoPort { ip: None, inside, wish: Some(host) }, publish)
    };
    (spec, found.into_iter().map(auto).collect())
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
        let (rest, lost) = lost(&spec, ours);
        assert_eq!(
            rest["HostConfig"]["PortBindings"],
            json!({
            "53/udp": [{"HostIp": "", "HostPort": "80"}], "22/tcp": [{"HostIp": "", "HostPort": ""}]})
        );
        let text: Vec<(Option<u16>, Vec<String>)> = lost
            .iter()
            .map(|(auto, publish)| {
                let of = |p: &Publish| format!("{}:{}", p.address, p.inside());
                (auto.wish, publish.iter().map(of).collect())
            })
            .collect();
        assert_eq!(
            text,
            [
                (Some(20000), vec![":22/tcp".to_owned()]),
                (Some(20001), vec!["127.0.0.1:53/tcp".to_owned(), ":53/udp".to_owned()])
            ]
        );
        let none = json!({"HostConfig": {"PortBindings": {}}});
        assert_eq!(renumbered(&none, ours, &[]), none);
    }
}
