//! Whether the GPUs that the config shares are there to be shared.

use gpuctl_ledger::model::Inventory;
use gpuctl_ledger::sharing::Shared;

use super::api::{Check, Verdict};

/// A check for each GPU that `gpu.shared` names and that gets no slots.
pub(super) fn checks(list: &[Shared], inventory: &Inventory) -> Vec<Check> {
    let named = list.iter().flat_map(|shared| &shared.gpus);
    named
        .filter_map(|wanted| {
            let detail = match inventory.find(wanted) {
                None => format!("gpu.shared names GPU {wanted}, which this node does not have"),
                Some(gpu) if !gpu.mig.is_empty() => format!(
                    "gpu.shared names GPU {wanted}, which is cut into MIG devices and so has no slots"
                ),
                Some(_) => return None,
            };
            let fix = Some("take it out of gpu.shared; docker gpuctl gpus shows all of them".into());
            Some(Check { name: "sharing".into(), verdict: Verdict::Warning, detail, fix })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuctl_ledger::config::Config;

    #[test]
    fn what_cannot_be_shared_is_named() {
        let inventory: Inventory = serde_json::from_str(
            r#"{"schema":1,"at":"2026-01-01T00:00:00Z","driver":"1","gpus":[
            {"index":0,"unit":"GPU-a","minor":1,"model":"m","pci":"00000000:01:00.0","memory":8},
            {"index":1,"unit":"GPU-c","minor":2,"model":"m","pci":"00000000:03:00.0","memory":8,
             "mig":[{"index":0,"unit":"MIG-a","memory":2,"caps":[3,4]}]}]}"#,
        )
        .unwrap();
        let text = "[[gpu.shared]]\ngpus = [0, 1, \"GPU-zz\"]\nslots = 4\n";
        let list = Config::parse(text).unwrap().gpu.shared;
        let told: Vec<String> = checks(&list, &inventory).into_iter().map(|c| c.detail).collect();
        assert_eq!(told.len(), 2);
        assert!(
            told[0].contains("GPU 1, which is cut") && told[1].contains("GPU-zz, which"),
            "{told:?}"
        );
    }
}
