//! What a container was created with: what Docker shows of it, and what it only writes down.
//!
//! From Engine 25 on the MAC address that was asked for of an endpoint is in Docker's own record alone;
//! what inspect shows there is that of the running one, asked for or made up.

use std::collections::BTreeMap;

use gpuctl_ledger::model::ContainerId;
use gpuctl_ledger::node::docker::LONGEST;
use gpuctl_ledger::node::files;
use serde_json::{Value, json};

use super::context::Context;
use crate::docker::Inspect;

/// A container's creation, with the MAC addresses that were asked for.
pub(super) fn of(ctx: &Context, shown: &Inspect) -> Value {
    let mut creation = shown.creation();
    let networks = creation.pointer_mut("/NetworkSettings/Networks").and_then(Value::as_object_mut);
    let macs = asked_macs(ctx, shown);
    for (network, endpoint) in networks.into_iter().flatten() {
        if let (Some(mac), Some(fields)) = (macs.get(network), endpoint.as_object_mut()) {
            fields.insert("MacAddress".to_owned(), json!(mac));
        }
    }
    creation
}

/// The MAC addresses that were asked for, by network. An older Engine writes none down here: it knows one,
/// which inspect shows. Where the record cannot be read there are none either.
pub(super) fn asked_macs(ctx: &Context, shown: &Inspect) -> BTreeMap<String, String> {
    let record = || {
        let id = shown.id()?;
        let folder = ctx.config.docker.root.join("containers").join(id.as_str());
        let text = files::read_trusted(&folder.join("config.v2.json"), LONGEST as u64).ok()?;
        let record: Value = serde_json::from_slice(&text).ok()?;
        Some(macs(&record, &id))
    };
    record().unwrap_or_default()
}

fn macs(record: &Value, id: &ContainerId) -> BTreeMap<String, String> {
    if record.get("ID").and_then(Value::as_str) != Some(id.as_str()) {
        return BTreeMap::new();
    }
    let networks = record.pointer("/NetworkSettings/Networks").and_then(Value::as_object);
    let of = |(network, endpoint): (&String, &Value)| {
        let mac = endpoint.get("DesiredMacAddress")?.as_str()?;
        (!mac.is_empty()).then(|| (network.clone(), mac.to_owned()))
    };
    networks.into_iter().flatten().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_taken_from_dockers_own_record() {
        let folder = tempfile::tempdir().unwrap();
        let ctx = Context::of_test(folder.path());
        let id = "a".repeat(64);
        let own = ctx.config.docker.root.join("containers").join(&id);
        std::fs::create_dir_all(&own).unwrap();
        let shown = Inspect(json!({"Id": id, "NetworkSettings": {"Networks": {
            "lan": {"MacAddress": "02:42:0a:00:00:05", "Aliases": ["x"]},
            "wan": {"MacAddress": "02:42:0a:01:00:02"}}}}));
        let mac_of = |creation: &Value, network: &str| {
            creation["NetworkSettings"]["Networks"][network]["MacAddress"].clone()
        };
        assert_eq!(mac_of(&of(&ctx, &shown), "lan"), Value::Null, "no record, nothing asked");
        let record = |id: &str| {
            let text = json!({"ID": id, "NetworkSettings": {"Networks": {
                "lan": {"DesiredMacAddress": "02:42:0a:00:00:05"}, "wan": {"DesiredMacAddress": ""},
                "gone": {"DesiredMacAddress": "02:42:0a:00:00:06"}}}});
            std::fs::write(own.join("config.v2.json"), text.to_string()).unwrap();
        };
        record(&id);
        let creation = of(&ctx, &shown);
        assert_eq!(mac_of(&creation, "lan"), "02:42:0a:00:00:05");
        assert_eq!(mac_of(&creation, "wan"), Value::Null);
        assert_eq!(creation["NetworkSettings"]["Networks"].as_object().unwrap().len(), 2);
        record("another");
        assert_eq!(mac_of(&of(&ctx, &shown), "lan"), Value::Null);
    }
}
