//! The body of a create from what inspect once showed of a container.

use gpuctl_ledger::model::ContainerId;
use serde_json::{Map, Value, json};

use super::inspect::ASKED_OF_ENDPOINT;
use super::transport::ApiVersion;

/// What differs from the recorded container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Another image.
    pub image: Option<String>,
    /// The runtime's name in daemon.json.
    pub runtime: Option<String>,
    /// Labels to set.
    pub labels: Vec<(String, String)>,
    /// `--rm`.
    pub auto_remove: Option<bool>,
}

/// What to send to create a container like the recorded one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Body {
    /// For `POST /containers/create`.
    pub(super) create: Value,
    /// Networks to connect after that, with their endpoint settings: Engines before API 1.44 take
    /// only one in a create.
    pub(super) connect: Vec<(String, Value)>,
}

/// The first API version whose create takes several networks, and addresses of the MAC kind only
/// per network.
const MANY_NETWORKS: ApiVersion = (1, 44);

/// `None` when the recorded value is no container's inspect.
pub(super) fn body(recorded: &Value, changes: &Changes, version: ApiVersion) -> Option<Body> {
    let mut create = recorded.get("Config")?.as_object()?.clone();
    let mut host = recorded.get("HostConfig")?.as_object()?.clone();
    let id = recorded.get("Id").and_then(Value::as_str).unwrap_or_default();
    let short = id.get(..12).unwrap_or(id);
    let mode = host.get("NetworkMode").and_then(Value::as_str).unwrap_or("default").to_owned();

    // A hostname that Docker made from the id belongs to the old container.
    let made = create.get("Hostname").and_then(Value::as_str) == Some(short);
    let shared = mode.starts_with("container:");
    // One that has the host's own shows that, and Docker takes none for it.
    let of_host = host.get("UTSMode").and_then(Value::as_str) == Some("host");
    if made || shared || of_host {
        create.remove("Hostname");
    }
    if shared {
        // Docker refuses these together with another container's network, though inspect shows
        // those that come from the image.
        create.remove("Domainname");
        create.remove("ExposedPorts");
    }
    if let Some(image) = &changes.image {
        create.insert("Image".to_owned(), json!(image));
    }
    if let Some(runtime) = &changes.runtime {
        host.insert("Runtime".to_owned(), json!(runtime));
    }
    if let Some(auto_remove) = changes.auto_remove {
        host.insert("AutoRemove".to_owned(), json!(auto_remove));
    }
    // The id file is written by the client that creates.
    host.remove("ContainerIDFile");
    if !changes.labels.is_empty() {
        let labels = create.entry("Labels").or_insert_with(|| json!({}));
        if !labels.is_object() {
            *labels = json!({});
        }
        for (key, value) in &changes.labels {
            if let Some(labels) = labels.as_object_mut() {
                labels.insert(key.clone(), json!(value));
            }
        }
    }
    let mut connect = Vec::new();
    if !shared && !matches!(mode.as_str(), "host" | "none") {
        let mac = match version >= MANY_NETWORKS {
            true => create.remove("MacAddress"),
            false => None,
        };
        let mut endpoints = Map::new();
        let networks = recorded.pointer("/NetworkSettings/Networks").and_then(Value::as_object);
        for (name, shown) in networks.into_iter().flatten() {
            let own = is_own(name, &mode);
            let mut settings = endpoint(shown, (id, short), version);
            if own && let Some(mac) = mac.as_ref().filter(|m| m.as_str() != Some("")) {
                settings.insert("MacAddress".to_owned(), mac.clone());
            }
            if own || version >= MANY_NETWORKS {
                endpoints.insert(name.clone(), Value::Object(settings));
            } else {
                connect.push((name.clone(), Value::Object(settings)));
            }
        }
        if !endpoints.is_empty() {
            let config = json!({ "EndpointsConfig": endpoints });
            create.insert("NetworkingConfig".to_owned(), config);
        }
    }
    create.insert("HostConfig".to_owned(), Value::Object(host));
    Some(Body { create: Value::Object(create), connect })
}

/// Whether this network is the one that the network mode names.
fn is_own(network: &str, mode: &str) -> bool {
    network == mode || (network == "bridge" && matches!(mode, "default" | "bridge" | ""))
}

/// What was asked for of an endpoint, without what the Engine found out while it ran.
fn endpoint(shown: &Value, (id, short): (&str, &str), version: ApiVersion) -> Map<String, Value> {
    let mut kept = Map::new();
    for key in ASKED_OF_ENDPOINT {
        if let Some(value) = shown.get(key).filter(|v| !v.is_null()) {
            kept.insert(key.to_owned(), value.clone());
        }
    }
    // A record has it only where it was asked for.
    if version >= MANY_NETWORKS
        && let Some(mac) = shown.get("MacAddress")
    {
        kept.insert("MacAddress".to_owned(), mac.clone());
    }
    let aliases = shown.get("Aliases").and_then(Value::as_array);
    let aliases: Vec<&Value> = aliases
        .into_iter()
        .flatten()
        .filter(|a| a.as_str().is_some_and(|a| a != short && a != id))
        .collect();
    if !aliases.is_empty() {
        kept.insert("Aliases".to_owned(), json!(aliases));
    }
    kept
}

/// The id in the answer to a create.
pub(super) fn created_id(answer: &Value) -> Option<ContainerId> {
    ContainerId::new(answer.get("Id")?.as_str()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Value {
        json!({
            "Id": "0123456789abcdef", "Name": "/train-0",
            "Config": {"Hostname": "train", "Image": "busybox", "Env": ["A=1"], "Labels": null,
                       "MacAddress": "02:42:ac:11:00:05", "Unknown": {"kept": true}},
            "HostConfig": {"NetworkMode": "lan", "Binds": ["/a:/b"], "Runtime": "runc",
                           "ShmSize": 67_108_864, "ContainerIDFile": "/tmp/x"},
            "NetworkSettings": {"Networks": {
                "lan": {"IPAMConfig": {"IPv4Address": "10.0.0.5"}, "IPAddress": "10.0.0.5",
                        "Aliases": ["train", "0123456789ab"], "NetworkID": "n1"},
                "wan": {"IPAMConfig": null, "Aliases": ["train"], "Gateway": "10.1.0.1"},
            }},
        })
    }

    #[test]
    fn everything_asked_for_is_kept_and_what_the_old_one_found_out_is_not() {
        let changes = Changes {
            runtime: Some("gpuctl".into()),
            labels: vec![("t".into(), "1".into())],
            ..Changes::default()
        };
        let body = body(&recorded(), &changes, (1, 53)).unwrap();
        let c = &body.create;
        assert_eq!(c["Hostname"], "train");
        assert_eq!(c["Unknown"]["kept"], true);
        assert_eq!(c["Labels"]["t"], "1");
        assert_eq!(c["HostConfig"]["Runtime"], "gpuctl");
        assert_eq!(c["HostConfig"]["Binds"], json!(["/a:/b"]));
        assert!(c["HostConfig"].get("ContainerIDFile").is_none());
        let lan = &c["NetworkingConfig"]["EndpointsConfig"]["lan"];
        assert_eq!(lan["Aliases"], json!(["train"]));
        assert_eq!(lan["IPAMConfig"]["IPv4Address"], "10.0.0.5");
        assert_eq!(lan["MacAddress"], "02:42:ac:11:00:05");
        assert!(lan.get("IPAddress").is_none() && c.get("MacAddress").is_none());
        assert!(c["NetworkingConfig"]["EndpointsConfig"]["wan"].get("Gateway").is_none());
        assert!(body.connect.is_empty());
    }

    #[test]
    fn an_old_engine_gets_its_other_networks_afterwards() {
        let body = body(&recorded(), &Changes::default(), (1, 41)).unwrap();
        assert_eq!(body.create["MacAddress"], "02:42:ac:11:00:05");
        let endpoints = &body.create["NetworkingConfig"]["EndpointsConfig"];
        assert!(endpoints.get("lan").is_some() && endpoints.get("wan").is_none());
        assert_eq!(body.connect.len(), 1);
        assert_eq!(body.connect[0].0, "wan");
    }

    #[test]
    fn a_hostname_made_from_the_id_and_what_a_shared_network_forbids_are_dropped() {
        let mut r = recorded();
        r["Config"]["Hostname"] = json!("0123456789ab");
        let made = body(&r, &Changes::default(), (1, 53)).unwrap();
        assert!(made.create.get("Hostname").is_none());
        r["Config"]["Hostname"] = json!("x");
        r["HostConfig"]["UTSMode"] = json!("host");
        let of_host = body(&r, &Changes::default(), (1, 53)).unwrap();
        assert!(of_host.create.get("Hostname").is_none());
        r["HostConfig"]["UTSMode"] = json!("");
        r["Config"]["ExposedPorts"] = json!({"80/tcp": {}});
        r["HostConfig"]["NetworkMode"] = json!("container:abc");
        let shared = body(&r, &Changes::default(), (1, 53)).unwrap();
        assert!(shared.create.get("Hostname").is_none());
        assert!(shared.create.get("ExposedPorts").is_none());
        assert!(shared.create.get("NetworkingConfig").is_none());
    }

    #[test]
    fn what_is_no_inspect_is_refused() {
        for bad in [json!(null), json!({}), json!({"Config": {}}), json!({"Config": 1})] {
            assert!(body(&bad, &Changes::default(), (1, 53)).is_none(), "{bad}");
        }
    }
}
