//! The driver: whether it answers, how fast, and what it says of its GPUs.

use std::time::{Duration, Instant};

use gpuctl_ledger::config::Config;
use gpuctl_ledger::model::{Health, Inventory};

use super::{Checks, by_fix, check};
use crate::engine::api::Verdict;
use crate::engine::context::Context;
use crate::engine::node::{self, NVML_LIMIT};
use crate::engine::sharing;
use crate::gpu::{self, GpuError};

const NAME: &str = "driver";
const PERSISTENCE: &str = "persistence";
const INVENTORY: &str = "inventory";
/// What a driver that is warm never takes.
const COLD: Duration = Duration::from_secs(1);

/// What the driver said.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    inventory: Inventory,
    /// Persistence mode by index, of those that have it.
    persistent: Vec<(u32, bool)>,
    took: Duration,
}

/// Asks it; also writes down what it says, where `fix` says so or nothing is written down.
pub(super) fn with_ledger(ctx: &Context, fix: bool, checks: &mut Checks) {
    let Some(seen) = said(&ctx.config, checks) else { return };
    let known = gpu::read_inventory(&ctx.config).ok().flatten();
    match news(known.as_ref(), &seen.inventory) {
        None if !fix => {}
        None => drop(node::refresh(ctx)),
        // Without it no GPU container starts at all, so it is not waited for.
        Some(_) if fix || known.is_none() => match node::refresh(ctx) {
            Ok(_) => {
                let text = "the node's list of its GPUs was not the driver's, and is now";
                checks.0.push(check(INVENTORY, Verdict::Fixed, text, None));
            }
            Err(why) => checks.problem(INVENTORY, why.to_string(), Some(why.hint().into())),
        },
        Some(why) => checks.problem(INVENTORY, why, by_fix()),
    }
}

/// Asks it, and changes nothing.
pub(super) fn alone(config: &Config, checks: &mut Checks) {
    said(config, checks);
}

fn said(config: &Config, checks: &mut Checks) -> Option<Seen> {
    match ask(config) {
        Ok(seen) => {
            judge(&seen, checks);
            checks.0.extend(sharing::checks(&config.gpu.shared, &seen.inventory));
            Some(seen)
        }
        Err(why) => {
            checks.problem(NAME, why.to_string(), Some(why.hint().to_owned()));
            None
        }
    }
}

fn ask(config: &Config) -> Result<Seen, GpuError> {
    let config = config.clone();
    gpu::within(NVML_LIMIT, move || {
        let began = Instant::now();
        let previous = gpu::read_inventory(&config).ok().flatten();
        let driver = gpu::Driver::open(&config)?;
        let inventory = driver.inventory(&config, previous.as_ref())?;
        let took = began.elapsed();
        Ok(Seen { inventory, persistent: driver.persistence(), took })
    })
}

/// In what the file that starts of containers go by is not what the driver says.
fn news(file: Option<&Inventory>, driver: &Inventory) -> Option<String> {
    let Some(file) = file else {
        return Some("the node has no list of its GPUs: no GPU container starts".into());
    };
    if file.driver != driver.driver {
        return Some(format!(
            "the node's list of its GPUs is of driver {}, and {} runs",
            file.driver, driver.driver
        ));
    }
    let cards = |inventory: &Inventory| -> Vec<_> {
        let of = |g: &gpuctl_ledger::model::Gpu| (g.index, g.unit.clone(), g.minor, g.mig.clone());
        inventory.gpus.iter().map(of).collect()
    };
    (cards(file) != cards(driver)).then(|| "the node's GPUs are others than its list says".into())
}

fn judge(seen: &Seen, checks: &mut Checks) {
    let Seen { inventory, persistent, took } = seen;
    let count = inventory.gpus.len();
    let s = if count == 1 { "" } else { "s" };
    checks.ok(NAME, format!("driver {}, {count} GPU{s}", inventory.driver));
    for gpu in &inventory.gpus {
        if let Health::Bad(why) = &gpu.health {
            let text = format!("GPU {} ({}): {why}", gpu.index, gpu.unit);
            let fix = "nvidia-smi and dmesg say more";
            checks.problem("gpu", text, Some(fix.into()));
        }
    }
    let off: Vec<String> =
        persistent.iter().filter(|(_, on)| !on).map(|(index, _)| index.to_string()).collect();
    let seconds = took.as_secs_f64();
    if off.is_empty() {
        if *took > COLD {
            let text = format!("it took {seconds:.1} s to answer, and its GPUs are kept awake");
            checks.warning(NAME, text, Some("nvidia-smi and dmesg say more".into()));
        }
        if !persistent.is_empty() {
            checks.ok(PERSISTENCE, "on for every GPU");
        }
        return;
    }
    let slow =
        if *took > COLD { format!(": it took {seconds:.1} s to answer") } else { String::new() };
    let text = format!(
        "off for GPU {}: an idle driver lets go of them, and the next start waits seconds for it{slow}",
        off.join(", ")
    );
    let fix = "systemctl enable --now nvidia-persistenced, or nvidia-smi -pm 1";
    checks.warning(PERSISTENCE, text, Some(fix.into()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::doctor::two_gpus as inventory;

    fn judged(persistent: &[(u32, bool)], took: u64) -> Vec<(String, Verdict, String)> {
        let (persistent, took) = (persistent.to_vec(), Duration::from_millis(took));
        let seen = Seen { inventory: inventory(), persistent, took };
        let mut checks = Checks::default();
        judge(&seen, &mut checks);
        checks.0.into_iter().map(|c| (c.name, c.verdict, c.detail)).collect()
    }

    #[test]
    fn persistence_mode_that_is_off_and_a_slow_driver_are_told() {
        let good = judged(&[(0, true), (1, true)], 20);
        assert!(good.iter().all(|(_, verdict, _)| *verdict == Verdict::Ok), "{good:?}");
        let off = judged(&[(0, true), (1, false)], 20);
        assert_eq!((off[1].0.as_str(), off[1].1), ("persistence", Verdict::Warning));
        assert!(off[1].2.starts_with("off for GPU 1:") && !off[1].2.contains("took"), "{off:?}");
        let cold = judged(&[(0, false), (1, false)], 4200);
        assert!(cold[1].2.contains("GPU 0, 1") && cold[1].2.contains("took 4.2 s"), "{cold:?}");
        let slow = judged(&[(0, true)], 4200);
        assert_eq!((slow[1].0.as_str(), slow[1].1), ("driver", Verdict::Warning));
        // Cards that know no such mode are not blamed for it.
        assert_eq!(judged(&[], 20).len(), 1);
    }

    #[test]
    fn a_list_that_is_not_the_drivers_is_told() {
        assert_eq!(news(Some(&inventory()), &inventory()), None);
        assert!(news(None, &inventory()).unwrap().contains("no list"));
        let mut newer = inventory();
        newer.driver = "560.1".into();
        assert!(news(Some(&inventory()), &newer).unwrap().contains("550.54.14, and 560.1 runs"));
        let mut swapped = inventory();
        swapped.gpus[0].minor = 7;
        assert!(news(Some(&inventory()), &swapped).is_some());
        // Health is said of each, and comes and goes.
        let mut ill = inventory();
        ill.gpus[0].health = Health::Bad("it fell off the bus".into());
        assert_eq!(news(Some(&inventory()), &ill), None);
    }
}
