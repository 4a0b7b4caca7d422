//! The cheapest way from what a container is to what it is to be.

use serde_json::{Map, Value, json};

use super::differences::Difference;

/// How a change is made.
#[derive(Debug, Clone, PartialEq)]
pub enum Way {
    /// It is so already.
    Nothing,
    /// The container itself is changed.
    InPlace {
        /// The body of Docker's update, and the one that takes back what can be taken back; none where only
        /// GPUs differ.
        update: Option<(Value, Value)>,
        /// Whether its GPUs differ: then it is restarted.
        gpus: bool,
    },
    /// A new container takes its place.
    Replace,
}

/// Fields of HostConfig that Docker's update takes, by the name of the difference.
const UPDATABLE: [(&str, &str); 11] = [
    ("memory", "Memory"),
    ("memory-swap", "MemorySwap"),
    ("memory-reservation", "MemoryReservation"),
    ("cpus", "NanoCpus"),
    ("cpu-shares", "CpuShares"),
    ("cpu-period", "CpuPeriod"),
    ("cpu-quota", "CpuQuota"),
    ("cpuset-cpus", "CpusetCpus"),
    ("cpuset-mems", "CpusetMems"),
    ("pids-limit", "PidsLimit"),
    ("blkio-weight", "BlkioWeight"),
];

/// The way for these differences between two specs; `replace` asks for a new container whatever differs.
pub fn way(differences: &[Difference], is: &Value, to_be: &Value, replace: bool) -> Way {
    if replace {
        return Way::Replace;
    }
    if differences.is_empty() {
        return Way::Nothing;
    }
    let gpus = differences.iter().any(|d| d.field == "gpus");
    let rest: Vec<&str> =
        differences.iter().map(|d| d.field.as_str()).filter(|field| *field != "gpus").collect();
    if rest.is_empty() {
        return Way::InPlace { update: None, gpus };
    }
    let (Some(update), Some(back)) = (body(&rest, to_be, true), body(&rest, is, false)) else {
        return Way::Replace;
    };
    Way::InPlace { update: Some((update, back)), gpus }
}

/// The body of an update to these fields of a spec. Docker cannot set all of them: 0 and empty are "as it
/// is" to it, and less than 6 MB of memory is refused. Then `None`, or, where that is not `strict`, a body
/// without.
fn body(fields: &[&str], spec: &Value, strict: bool) -> Option<Value> {
    let host = spec.get("HostConfig")?;
    let mut body = Map::new();
    for field in fields {
        if *field == "restart" {
            let policy = host.get("RestartPolicy").cloned().unwrap_or(Value::Null);
            let name = policy.get("Name").and_then(Value::as_str).unwrap_or_default();
            let tries = policy.get("MaximumRetryCount").and_then(Value::as_i64).unwrap_or_default();
            let name = if name.is_empty() { "no" } else { name };
            body.insert("RestartPolicy".into(), json!({"Name": name, "MaximumRetryCount": tries}));
            continue;
        }
        let (_, key) = UPDATABLE.iter().find(|(name, _)| name == field)?;
        let value = host.get(*key).cloned().unwrap_or(Value::Null);
        let none = matches!(&value, Value::Null)
            || value.as_i64() == Some(0)
            || value.as_str().is_some_and(str::is_empty);
        match none {
            false => drop(body.insert((*key).into(), value)),
            true if strict => return None,
            true if *key == "PidsLimit" => drop(body.insert((*key).into(), json!(-1))),
            true => {}
        }
    }
    // Docker compares the two with each other.
    if body.contains_key("Memory") && !body.contains_key("MemorySwap") {
        let swap = host.get("MemorySwap").cloned().filter(|v| v.as_i64().is_some_and(|n| n != 0));
        if let Some(swap) = swap {
            body.insert("MemorySwap".into(), swap);
        }
    }
    Some(Value::Object(body))
}

/// Whether an update can be taken back by this one: else it is made when nothing else can fail.
pub fn is_reversible((update, back): &(Value, Value)) -> bool {
    let fields = update.as_object().into_iter().flat_map(Map::keys);
    fields.into_iter().all(|field| back.get(field).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, Restart, apply, differences};
    use gpuctl_ledger::model::GpuRequest;

    fn spec() -> Value {
        json!({"Config": {"Env": ["A=1"]},
            "HostConfig": {"Memory": 1 << 30, "MemorySwap": 2_i64 << 30, "NanoCpus": 0}})
    }

    fn of(change: &Change, gpus: (u32, u32)) -> Way {
        let count = |n: u32| if n == 0 { GpuRequest::None } else { GpuRequest::Count(n) };
        let to_be = apply(&spec(), change).unwrap();
        let found = differences((&spec(), &count(gpus.0)), (&to_be, &count(gpus.1)));
        way(&found, &spec(), &to_be, false)
    }

    #[test]
    fn the_cheapest_way_that_does_all_is_taken() {
        assert_eq!(of(&Change::default(), (3, 3)), Way::Nothing);
        assert_eq!(of(&Change::default(), (3, 5)), Way::InPlace { update: None, gpus: true });
        let limits = Change {
            memory: Some(2 << 30),
            nano_cpus: Some(2_000_000_000),
            restart: Some(Restart { name: "on-failure".into(), tries: 3 }),
            ..Change::default()
        };
        let update = json!({"Memory": 2_i64 << 30, "MemorySwap": 4_i64 << 30, "NanoCpus": 2_000_000_000_i64,
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}});
        let back = json!({"Memory": 1_i64 << 30, "MemorySwap": 2_i64 << 30,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}});
        let update = (update, back);
        assert!(!is_reversible(&update), "processors without a limit cannot be set");
        assert_eq!(of(&limits, (1, 1)), Way::InPlace { update: Some(update), gpus: false });
        let memory = Change { memory: Some(2 << 30), ..Change::default() };
        let Way::InPlace { update: Some(update), .. } = of(&memory, (1, 1)) else { panic!() };
        assert!(is_reversible(&update));
        let env = Change {
            env: vec![("A".into(), "2".into())],
            memory: Some(2 << 30),
            ..Change::default()
        };
        assert_eq!(of(&env, (1, 2)), Way::Replace);
        assert_eq!(way(&[], &spec(), &spec(), true), Way::Replace);
    }

    #[test]
    fn what_docker_cannot_set_needs_a_new_container() {
        let none = Change { memory: Some(0), ..Change::default() };
        assert_eq!(of(&none, (1, 1)), Way::Replace);
        let shm = Change { shm_size: Some(1 << 30), ..Change::default() };
        assert_eq!(of(&shm, (1, 1)), Way::Replace);
    }
}
