//! What GPUs a container that is taken in is to get from now on. Pure.

use gpuctl_ledger::model::{GpuRef, GpuRequest, Inventory, Part, Unit};
use serde_json::Value;

/// What its spec asks for: `--gpus`, CDI devices, device nodes, and under NVIDIA's runtime the
/// environment.
///
/// # Errors
/// Why it is not known.
pub(super) fn asked(spec: &Value, cdi_kind: &str) -> Result<GpuRequest, String> {
    let mut named: Vec<GpuRef> = Vec::new();
    let mut count = 0u32;
    let mut all = false;
    let mut name = |text: &str| -> Result<(), String> {
        match text {
            "all" => all = true,
            _ => {
                let one = text.parse::<GpuRef>().map_err(|e| e.to_string())?;
                if !named.contains(&one) {
                    named.push(one);
                }
            }
        }
        Ok(())
    };
    for request in list(spec, "/HostConfig/DeviceRequests") {
        let driver = request.get("Driver").and_then(Value::as_str).unwrap_or_default();
        let sets = request.get("Capabilities").and_then(Value::as_array).into_iter().flatten();
        let gpu = sets.filter_map(Value::as_array).any(|set| set.iter().any(|c| c == "gpu"));
        let ids = request.get("DeviceIDs").and_then(Value::as_array).into_iter().flatten();
        let ids: Vec<&str> = ids.filter_map(Value::as_str).collect();
        if driver == "cdi" {
            for id in ids {
                if let Some((kind, id)) = id.split_once('=')
                    && kind == cdi_kind
                {
                    name(id)?;
                }
            }
        } else if gpu || driver == "nvidia" {
            for id in &ids {
                name(id)?;
            }
            match request.get("Count").and_then(Value::as_i64).unwrap_or_default() {
                -1 => name("all")?,
                n if ids.is_empty() => count += u32::try_from(n).unwrap_or_default(),
                _ => {}
            }
        }
    }
    if text(spec, "/HostConfig/Runtime").contains("nvidia") {
        let values = list(spec, "/Config/Env").filter_map(Value::as_str);
        let value = values.filter_map(|v| v.strip_prefix("NVIDIA_VISIBLE_DEVICES=")).last();
        for id in
            value.filter(|v| !matches!(*v, "" | "none" | "void")).unwrap_or_default().split(',')
        {
            if !id.is_empty() {
                name(id)?;
            }
        }
    }
    for device in list(spec, "/HostConfig/Devices") {
        let path = device.get("PathOnHost").and_then(Value::as_str).unwrap_or_default();
        if let Some(minor) = path.strip_prefix("/dev/nvidia").and_then(|n| n.parse().ok()) {
            named.push(GpuRef::Minor(minor));
        }
    }
    match (all, count, named.is_empty()) {
        (true, ..) => Ok(GpuRequest::All),
        (false, count, true) => Ok(GpuRequest::count(count)),
        (false, 0, false) => Ok(GpuRequest::Named(named)),
        _ => Err("it asks for a number of GPUs and names others besides".into()),
    }
}

fn list<'a>(spec: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    spec.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(spec: &'a Value, pointer: &str) -> &'a str {
    spec.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// What one that runs is to get: as many as it holds, or, where its spec named them or they are parts
/// of GPUs, just these.
pub(super) fn bound(
    asked: &GpuRequest,
    held: &[Unit],
    inventory: Option<&Inventory>,
) -> GpuRequest {
    let whole = |unit: &Unit| {
        let piece = inventory.and_then(|inventory| inventory.piece(unit));
        piece.map_or(unit.as_str().starts_with("GPU-"), |piece| matches!(piece.part, Part::Whole))
    };
    let these =
        || GpuRequest::Named(held.iter().map(|unit| GpuRef::Uuid(unit.to_string())).collect());
    match held {
        [] => GpuRequest::None,
        [one] if one.slot().is_some() => GpuRequest::shared(),
        held if matches!(asked, GpuRequest::Named(_)) || !held.iter().all(whole) => these(),
        held => GpuRequest::count(u32::try_from(held.len()).unwrap_or(u32::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(host: Value, env: &[&str]) -> Result<String, String> {
        asked(&json!({"HostConfig": host, "Config": {"Env": env}}), "nvidia.com/gpu")
            .map(|r| r.to_string())
    }

    #[test]
    fn every_way_of_asking_is_read() {
        let gpus = |count: i64, ids: Value| json!({"DeviceRequests": [{"Driver": "", "Count": count, "DeviceIDs": ids, "Capabilities": [["gpu"]]}]});
        let is = |got: Result<String, String>, text: &str| assert_eq!(got.as_deref(), Ok(text));
        let words = |request: GpuRequest| request.to_string();
        is(of(gpus(2, Value::Null), &[]), &words(GpuRequest::Count(2)));
        is(of(gpus(-1, Value::Null), &[]), &words(GpuRequest::All));
        let named = GpuRequest::Named(vec![GpuRef::Index(1), GpuRef::Uuid("GPU-ab".into())]);
        is(of(gpus(0, json!(["1", "GPU-ab"])), &[]), &words(named));
        let cdi = json!({"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=3", "x.org/nic=0"]}]});
        is(of(cdi, &[]), &words(GpuRequest::Named(vec![GpuRef::Index(3)])));
        let node =
            json!({"Devices": [{"PathOnHost": "/dev/nvidia4"}, {"PathOnHost": "/dev/nvidiactl"}]});
        is(of(node, &[]), &words(GpuRequest::Named(vec![GpuRef::Minor(4)])));
        // Only NVIDIA's runtime heeds it.
        let env = ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=0,2"];
        is(of(json!({"Runtime": "runc"}), &env), &words(GpuRequest::None));
        let both = GpuRequest::Named(vec![GpuRef::Index(0), GpuRef::Index(2)]);
        is(of(json!({"Runtime": "nvidia"}), &env), &words(both));
        is(
            of(json!({"Runtime": "nvidia"}), &["NVIDIA_VISIBLE_DEVICES=void"]),
            &words(GpuRequest::None),
        );
        is(of(json!({"Privileged": true}), &[]), &words(GpuRequest::None));
        let mixed = json!({"DeviceRequests": [{"Count": 1, "Capabilities": [["gpu"]]}],
                           "Devices": [{"PathOnHost": "/dev/nvidia4"}]});
        assert!(of(mixed, &[]).is_err() && of(gpus(0, json!(["x"])), &[]).is_err());
    }

    #[test]
    fn a_number_stays_a_number_and_names_stay_names() {
        let units =
            |list: &[&str]| -> Vec<Unit> { list.iter().map(|u| Unit::new(*u).unwrap()).collect() };
        let two = units(&["GPU-a", "GPU-b"]);
        let named =
            GpuRequest::Named(vec![GpuRef::Uuid("GPU-a".into()), GpuRef::Uuid("GPU-b".into())]);
        assert_eq!(bound(&GpuRequest::Count(2), &two, None), GpuRequest::Count(2));
        assert_eq!(bound(&GpuRequest::All, &two, None), GpuRequest::Count(2));
        let by_index = GpuRequest::Named(vec![GpuRef::Index(0), GpuRef::Index(1)]);
        assert_eq!(bound(&by_index, &two, None), named);
        assert_eq!(bound(&GpuRequest::Count(1), &[], None), GpuRequest::None);
        assert_eq!(bound(&GpuRequest::None, &units(&["GPU-a/1"]), None), GpuRequest::shared());
        let mig = GpuRequest::Named(vec![GpuRef::Uuid("MIG-a".into())]);
        assert_eq!(bound(&GpuRequest::Count(1), &units(&["MIG-a"]), None), mig);
    }
}
