//! top: one look at the GPUs, with what goes on on them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{Binding, ContainerId, GpuRequest, Timestamp};
use gpuctl_ledger::node::busy;

use super::api::{Answer, Event, Failure, Front, OfWhom, TopProcess, TopRow, TopView};
use super::context::Context;
use super::list::{Looked, looked};
use super::look::On;
use crate::gpu::Usage;

/// The shortest and the longest time between two looks that are watched.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(3600);
/// How often it is seen whether somebody looks on.
const STEP: Duration = Duration::from_millis(100);

/// top.
///
/// # Errors
/// As gpus.
pub(super) fn top(ctx: &Context) -> Result<TopView, Failure> {
    let Looked { rows, seen, silent } = looked(ctx)?;
    let bindings: Vec<At<Binding>> = ctx.ledger.list(&ctx.ledger.keys().bindings())?;
    let wants: BTreeMap<ContainerId, GpuRequest> =
        bindings.into_iter().map(|at| (at.record.container, at.record.gpus)).collect();
    let rows = rows.into_iter().map(|(gpu, holder)| {
        let usage = seen.usage.iter().find(|u| u.unit.as_ref() == Some(&gpu.uuid));
        let on = seen.on.get(&gpu.uuid);
        TopRow {
            wants: holder.as_ref().and_then(|h| wants.get(&h.container).cloned()),
            managed: holder.and_then(|h| h.name),
            temperature: usage.and_then(|u| u.temperature),
            power: usage.and_then(|u| u.power),
            power_limit: usage.and_then(|u| u.power_limit),
            processes: usage.map(|usage| processes(usage, on)).unwrap_or_default(),
            gpu,
        }
    });
    Ok(TopView {
        rows: rows.collect(),
        node: ctx.ledger.node().to_string(),
        at: Timestamp::now(),
        silent: silent.map(|why| why.message),
    })
}

/// Shows one look after the other until nobody looks on.
///
/// # Errors
/// As top: who goes on looking asks again.
pub(super) fn watch(
    ctx: &Context,
    every: Duration,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let every = every.clamp(SHORTEST, LONGEST);
    loop {
        let next = Instant::now() + every;
        front.event(Event::View(Box::new(top(ctx)?)));
        while Instant::now() < next {
            if !front.listens() {
                return Ok(Answer::Watched);
            }
            std::thread::sleep(STEP.min(next.saturating_duration_since(Instant::now())));
        }
    }
}

fn processes(usage: &Usage, on: Option<&On>) -> Vec<TopProcess> {
    let list = usage.processes.iter().flatten();
    list.map(|one| {
        let named = i32::try_from(one.pid).map(busy::program).unwrap_or_default();
        let (of, program) = on.map_or((OfWhom::Other, None), |on| whose(one.pid, on));
        TopProcess {
            pid: one.pid,
            memory: one.memory,
            of,
            program: program.map_or(named, str::to_owned),
        }
    })
    .collect()
}

/// Whose a process is, and its program's name where that was kept.
fn whose(pid: u32, on: &On) -> (OfWhom, Option<&str>) {
    if on.inside.as_ref().is_some_and(|inside| inside.pids.contains(&pid)) {
        return (OfWhom::Holder, None);
    }
    if on.leftovers.iter().any(|left| left.pid == pid) {
        return (OfWhom::Leftover, None);
    }
    match on.strangers.iter().find(|(stranger, _)| *stranger == pid) {
        Some((_, name)) => (OfWhom::Stranger, Some(name)),
        None => (OfWhom::Other, None),
    }
}

#[cfg(test)]
mod tests {
    use gpuctl_ledger::node::busy::Inside;
    use gpuctl_ledger::rules::quarantine::Leftover;

    use super::*;

    #[test]
    fn a_process_is_its_holders_a_strangers_or_left_over() {
        let on = On {
            inside: Some(Inside { of: "train-0".into(), pids: [1].into() }),
            strangers: vec![(2, "python".into())],
            leftovers: vec![Leftover { pid: 3, name: "x".into(), of: None }],
        };
        assert_eq!(whose(1, &on), (OfWhom::Holder, None));
        assert_eq!(whose(2, &on), (OfWhom::Stranger, Some("python")));
        assert_eq!(whose(3, &on), (OfWhom::Leftover, None));
        assert_eq!(whose(4, &on), (OfWhom::Other, None));
    }
}
