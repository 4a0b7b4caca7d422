//! A container's place on networks.

use gpuctl_ledger::model::ContainerId;
use serde_json::{Map, Value, json};

use super::inspect::ASKED_OF_ENDPOINT;
use super::{Docker, DockerError, Inspect, checked};

impl Docker {
    /// Connects a container to a network, with these settings of its endpoint.
    ///
    /// # Errors
    /// [`DockerError::NotFound`] when one of the two is not there.
    pub fn connect_network(
        &self,
        network: &str,
        id: &ContainerId,
        endpoint: &Value,
    ) -> Result<(), DockerError> {
        let network = checked(network)?;
        let body = json!({ "Container": id, "EndpointConfig": endpoint });
        let path = format!("/networks/{network}/connect");
        self.raw("POST", &path, Some(&body), self.limit).map(drop)
    }

    /// Disconnects a container from a network.
    ///
    /// # Errors
    /// As for connect.
    pub fn disconnect_network(&self, network: &str, id: &ContainerId) -> Result<(), DockerError> {
        let network = checked(network)?;
        let body = json!({ "Container": id, "Force": false });
        let path = format!("/networks/{network}/disconnect");
        self.raw("POST", &path, Some(&body), self.limit).map(drop)
    }
}

impl Inspect {
    /// Its endpoints by network, with what was asked of each: addresses, links, options, its MAC address
    /// where that was asked for (which Engines from 25 on neither tell nor take here), and aliases without the one that Docker makes of the id.
    pub fn endpoints(&self) -> Vec<(String, Value)> {
        let networks = self.0.pointer("/NetworkSettings/Networks").and_then(Value::as_object);
        let asked_mac = self.0.pointer("/Config/MacAddress").and_then(Value::as_str);
        let short = self.id().map(|id| id.short().to_owned()).unwrap_or_default();
        let of = |(name, shown): (&String, &Value)| {
            let mut kept = Map::new();
            for key in ASKED_OF_ENDPOINT {
                if let Some(value) = shown.get(key).filter(|value| !value.is_null()) {
                    kept.insert(key.to_owned(), value.clone());
                }
            }
            let mac = shown.get("MacAddress").and_then(Value::as_str);
            if let Some(mac) = mac.filter(|mac| !mac.is_empty() && Some(*mac) == asked_mac) {
                kept.insert("MacAddress".to_owned(), json!(mac));
            }
            let aliases = shown.get("Aliases").and_then(Value::as_array);
            let aliases = aliases.into_iter().flatten().filter_map(Value::as_str);
            let aliases: Vec<&str> = aliases.filter(|alias| *alias != short).collect();
            kept.insert("Aliases".to_owned(), json!(aliases));
            (name.clone(), Value::Object(kept))
        };
        networks.into_iter().flatten().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_what_was_asked_for_and_not_what_was_found() {
        let id = format!("{:0<64}", "0123456789ab");
        let shown = Inspect(json!({"Id": id, "Config": {"MacAddress": "02:42:0a:00:00:05"},
        "NetworkSettings": {"Networks": {
            "lan": {"IPAMConfig": {"IPv4Address": "10.0.0.5"}, "Links": null, "IPAddress": "10.0.0.5",
                    "Aliases": ["db", "0123456789ab"], "MacAddress": "02:42:0a:00:00:05"},
            "wan": {"Aliases": null, "MacAddress": "02:42:0a:01:00:02"},
        }}}));
        assert_eq!(
            shown.endpoints(),
            [
                (
                    "lan".to_owned(),
                    json!({"IPAMConfig": {"IPv4Address": "10.0.0.5"},
                    "MacAddress": "02:42:0a:00:00:05", "Aliases": ["db"]})
                ),
                ("wan".to_owned(), json!({"Aliases": []})),
            ]
        );
    }
}
