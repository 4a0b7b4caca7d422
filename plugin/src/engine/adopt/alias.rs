//! The old name of a container that was renamed stays its alias on its networks.

use gpuctl_ledger::model::ContainerId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::api::Failure;
use super::super::context::Context;
use crate::docker::Inspect;

/// An endpoint whose aliases change, with its settings before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Endpoint {
    pub(super) network: String,
    before: Value,
    aliases: Vec<String>,
}

impl Endpoint {
    fn after(&self) -> Value {
        let mut after = self.before.clone();
        if let Some(fields) = after.as_object_mut() {
            fields.insert("Aliases".into(), json!(self.aliases));
        }
        after
    }
}

/// The endpoints that lack one of these names. Only networks that users make resolve aliases.
pub(super) fn lacking(shown: &Inspect, names: &[&str]) -> Vec<Endpoint> {
    let plain = |network: &str| matches!(network, "bridge" | "host" | "none" | "default" | "nat");
    let endpoints = shown.endpoints().into_iter().filter(|(network, _)| !plain(network));
    let of = |(network, before): (String, Value)| {
        let has = before.get("Aliases").and_then(Value::as_array).into_iter().flatten();
        let mut aliases: Vec<String> = has.filter_map(|a| a.as_str().map(str::to_owned)).collect();
        let had = aliases.len();
        for name in names {
            if !aliases.iter().any(|alias| alias == name) {
                aliases.push((*name).to_owned());
            }
        }
        (aliases.len() > had).then_some(Endpoint { network, before, aliases })
    };
    endpoints.filter_map(of).collect()
}

/// Gives the endpoints their new aliases, or, back, their old ones: each is disconnected and connected
/// anew, which is the only way that Docker has. What is so already is left.
///
/// # Errors
/// The Engine's.
pub(super) fn set(
    ctx: &Context,
    id: &ContainerId,
    endpoints: &[Endpoint],
    back: bool,
) -> Result<(), Failure> {
    let docker = ctx.docker()?;
    for endpoint in endpoints {
        let Some(shown) = docker.inspect(id.as_str())? else { return Ok(()) };
        let wanted = if back { endpoint.before.clone() } else { endpoint.after() };
        let now = shown.endpoints().into_iter().find(|(network, _)| *network == endpoint.network);
        match now {
            Some((_, now)) if now.get("Aliases") == wanted.get("Aliases") => continue,
            Some(_) => docker.disconnect_network(&endpoint.network, id)?,
            None => {}
        }
        match docker.connect_network(&endpoint.network, id, &wanted) {
            // Back: a network that is gone meanwhile cannot be had again.
            Err(e) if back && e.is_not_found() => {}
            connected => connected?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_the_name_gets_it_beside_what_it_has() {
        let shown = Inspect(json!({"Id": "a".repeat(64), "NetworkSettings": {"Networks": {
            "bridge": {"Aliases": null},
            "lan": {"IPAMConfig": {"IPv4Address": "10.0.0.5"}, "Aliases": ["db"]},
            "wan": {"Aliases": ["old", "new"]},
        }}}));
        let found = lacking(&shown, &["old", "new"]);
        let [lan] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(lan.network, "lan");
        let ip = json!({"IPv4Address": "10.0.0.5"});
        assert_eq!(lan.after(), json!({"IPAMConfig": ip, "Aliases": ["db", "old", "new"]}));
        assert_eq!(lan.before, json!({"IPAMConfig": ip, "Aliases": ["db"]}));
    }
}
