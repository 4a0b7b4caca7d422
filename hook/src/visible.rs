//! CUDA_VISIBLE_DEVICES: which of a container's GPUs its programs use, and in which order. Pure.
//!
//! CUDA counts the GPUs that it finds in the container, from 0: an index of the host means another GPU
//! there, or none. So an order is written in UUIDs, and a user's own word is never changed; where it
//! names what the container did not get, a hint says so.

use gpuctl_ledger::model::{GpuRef, GpuRequest, Piece};

use crate::request::shown;

/// The environment variable that CUDA obeys.
pub const CUDA: &str = "CUDA_VISIBLE_DEVICES";

/// What the variable is to be, so that programs see GPUs in the order in which they were named;
/// `None` where nobody named an order, or where the container says something of its own.
pub fn order(request: &GpuRequest, own: Option<&str>, held: &[Piece<'_>]) -> Option<String> {
    let GpuRequest::Named(list) = request else { return None };
    // Nodes and rules are numbers without an order.
    let nodes = list.iter().any(|one| matches!(one, GpuRef::Minor(_)));
    if own.is_some() || nodes || held.len() < 2 {
        return None;
    }
    let uuids: Vec<&str> = held.iter().map(|piece| piece.uuid().as_str()).collect();
    Some(uuids.join(","))
}

/// What to tell whoever set the variable to GPUs that the container did not get; `None` where all is
/// well.
pub fn hint(own: Option<&str>, held: &[Piece<'_>]) -> Option<String> {
    let own = own?;
    // What stands behind -1 CUDA does not read.
    let names = own.split(',').map(str::trim).take_while(|name| *name != "-1");
    let missing: Vec<&str> = names.filter(|name| is_missing(name, held)).collect();
    let first = missing.first()?;
    let got = match held {
        [] => "has no GPU".to_owned(),
        [_] => format!("has 1 GPU, which CUDA counts as 0{}", on_host(held)),
        many => {
            format!(
                "has {} GPUs, which CUDA counts as 0 to {}{}",
                many.len(),
                many.len() - 1,
                on_host(held)
            )
        }
    };
    let numbers = missing.iter().all(|name| name.parse::<u32>().is_ok());
    let list = missing.join(",");
    let ask = if numbers && shown(&list) == list {
        format!("leave it out, or ask for GPUs by the host's index: --gpus '\"device={list}\"'")
    } else if numbers {
        "leave it out, or ask for GPUs by the host's index: --gpus '\"device=0,1\"'".to_owned()
    } else {
        "leave it out: the GPUs that it has are all visible".into()
    };
    Some(format!("{CUDA}={} names {}, and this container {got}; {ask}", shown(own), shown(first)))
}

/// Whether a name is one that CUDA will not find. What CUDA may know and we do not, is not.
fn is_missing(name: &str, held: &[Piece<'_>]) -> bool {
    if let Ok(index) = name.parse::<usize>() {
        return index >= held.len();
    }
    let upper = name.to_ascii_uppercase();
    let is_uuid = upper.starts_with("GPU-") || upper.starts_with("MIG-");
    // CUDA takes the beginning of a UUID for it; MIG-GPU-.../7/0 is the older form of one.
    let is = |piece: &Piece<'_>| {
        let (part, gpu) = (piece.uuid().as_str().to_ascii_uppercase(), &piece.gpu.unit);
        let old = format!("MIG-{}/", gpu.as_str().to_ascii_uppercase());
        part.starts_with(&upper) || (piece.mig().is_some() && upper.starts_with(&old))
    };
    is_uuid && !held.iter().any(is)
}

fn on_host(held: &[Piece<'_>]) -> String {
    let places: Vec<String> = held.iter().map(|piece| piece.place().to_string()).collect();
    format!(" (on the host {})", places.join(", "))
}

#[cfg(test)]
mod tests {
    use gpuctl_ledger::model::{Inventory, Unit};

    use super::*;

    fn inventory() -> Inventory {
        serde_json::from_str(
            r#"{"schema":1,"at":"2026-01-01T00:00:00Z","driver":"1","gpus":[
            {"index":2,"unit":"GPU-aa1","minor":4,"model":"m","pci":"0","memory":1},
            {"index":3,"unit":"GPU-bb1","minor":0,"model":"m","pci":"1","memory":1},
            {"index":4,"unit":"GPU-cc1","minor":1,"model":"m","pci":"2","memory":1,"mig":[
              {"index":0,"unit":"MIG-m1","memory":1,"caps":[21,22]}]}]}"#,
        )
        .unwrap()
    }

    fn pieces<'a>(inventory: &'a Inventory, units: &[&str]) -> Vec<Piece<'a>> {
        units.iter().map(|u| inventory.piece(&Unit::new(*u).unwrap()).unwrap()).collect()
    }

    #[test]
    fn an_order_that_was_named_is_kept_by_uuid_and_never_over_the_users_own() {
        let inventory = inventory();
        let two = pieces(&inventory, &["GPU-bb1", "GPU-aa1"]);
        let named: GpuRequest = "device=3,2".parse().unwrap();
        assert_eq!(order(&named, None, &two).as_deref(), Some("GPU-bb1,GPU-aa1"));
        assert_eq!(order(&named, Some("0"), &two), None);
        assert_eq!(order(&named, Some(""), &two), None, "no GPU is a word too");
        assert_eq!(order(&GpuRequest::Count(2), None, &two), None);
        assert_eq!(order(&named, None, &two[..1]), None);
        let nodes = GpuRequest::Named(vec![GpuRef::Minor(0), GpuRef::Minor(4)]);
        assert_eq!(order(&nodes, None, &two), None);
        let slot = pieces(&inventory, &["GPU-bb1/3", "MIG-m1"]);
        assert_eq!(order(&named, None, &slot).as_deref(), Some("GPU-bb1,MIG-m1"));
    }

    #[test]
    fn who_names_what_the_container_did_not_get_is_told() {
        let inventory = inventory();
        let two = pieces(&inventory, &["GPU-aa1", "GPU-bb1"]);
        let one = pieces(&inventory, &["MIG-m1"]);
        let told = hint(Some("2,3"), &two).unwrap();
        for part in ["CUDA_VISIBLE_DEVICES=2,3 names 2", "0 to 1", "on the host 2, 3", "device=2,3"]
        {
            assert!(told.contains(part), "{part}: {told}");
        }
        for fine in ["0", "1,0", "", "GPU-aa", "gpu-bb1,0", "0,-1,7", "NoDevFiles", "-1"] {
            assert_eq!(hint(Some(fine), &two), None, "{fine}");
        }
        assert_eq!(hint(None, &two), None);
        for wrong in ["0,2", "GPU-zz", "MIG-m1", "GPU-aa1x"] {
            assert!(hint(Some(wrong), &two).is_some(), "{wrong}");
        }
        assert_eq!(hint(Some("MIG-GPU-cc1/7/0"), &one), None);
        assert!(hint(Some("1"), &one).unwrap().contains("1 GPU, which CUDA counts as 0"));
        assert!(hint(Some("4"), &[]).unwrap().contains("has no GPU"));
        let odd = hint(Some("9\u{1b}[2J\nx"), &two);
        assert!(odd.is_none_or(|t| !t.contains(char::is_control)));
        let long = hint(Some(&"9,".repeat(5000)), &two).unwrap();
        assert!(long.len() < 600, "{}", long.len());
        assert!(
            long.contains("\"device=0,1\"") && !long.contains("device=9"),
            "no cut list to type: {long}"
        );
    }
}
