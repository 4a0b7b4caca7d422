//! Ports of the host that are kept for managed containers: `-p auto:22`.
//!
//! A port is claimed in the ledger, in one commit with a step of the journal, before Docker hears of
//! it, and stands until its container is removed. The container's spec has the number, so it stays
//! through every change. See docs/ports.md.

mod choose;
pub(super) mod free;
mod host;
pub(super) mod spec;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use gpuctl_ledger::ledger::{At, Batch};
use gpuctl_ledger::model::{ContainerName, Operation, PortRecord, SCHEMA, Timestamp};
use serde::Serialize;
use serde_json::Value;

use super::api::{Answer, AutoPort, Failure, MoreAnswer, PortRow};
use super::context::Context;
use super::journal::{self, Journal};
use choose::choose;

/// Most ports that one change claims: they go into one commit.
const MOST: usize = 64;
/// How long others may be quicker, again and again.
const CONTENTION: Duration = Duration::from_secs(20);

/// A port that was claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claimed {
    /// Its number on the host.
    pub(super) port: u16,
    /// What it was claimed for.
    pub(super) auto: AutoPort,
}

impl Claimed {
    /// As the Docker CLI takes it: `127.0.0.1:20001:22/tcp`.
    pub(super) fn published(&self) -> String {
        self.auto.published(self.port)
    }

    /// For the user: `port 22/tcp is 20001 on this host`.
    pub(super) fn told(&self) -> String {
        format!("port {} is {} on this host", self.auto.inside, self.port)
    }
}

/// Claims a port for each of `wanted` in the name of the journal's container, in one commit with the
/// journal's step to `step`. `data` makes the journal's data of what is about to be claimed, so that
/// undoing knows it. In the order wanted.
///
/// # Errors
/// When the range has no port left, or it cannot be seen what is free; then nothing is claimed.
pub(super) fn claim<T: Serialize>(
    ctx: &Context,
    journal: &mut Journal,
    wanted: &[AutoPort],
    step: &str,
    data: impl Fn(&[Claimed]) -> T,
) -> Result<Vec<Claimed>, Failure> {
    if wanted.len() > MOST {
        return Err(Failure::new(format!(
            "{} ports are to be chosen, and one change takes {MOST}",
            wanted.len()
        ))
        .hint("name some of them: -p 2222:22"));
    }
    let name = journal.operation.name.clone();
    let keys = ctx.ledger.keys();
    let published = host::published(ctx)?;
    let until = Instant::now() + CONTENTION;
    loop {
        let kept: Vec<At<PortRecord>> = ctx.ledger.list(&keys.ports())?;
        let others: BTreeSet<u16> =
            published.keys().copied().chain(host::sockets()?.bound).collect();
        let mut taken: BTreeSet<u16> = kept.iter().map(|at| at.record.port).collect();
        taken.extend(&others);
        let mut batch = Batch::new();
        let mut claimed = Vec::new();
        for auto in wanted {
            let port =
                choose(ctx.config.ports.range, &taken, name.as_str(), &auto.inside, auto.wish)
                    .ok_or_else(|| exhausted(ctx, &kept, &others))?;
            taken.insert(port);
            let record = PortRecord {
                schema: SCHEMA,
                port,
                name: name.clone(),
                inside: auto.inside.clone(),
                since: Timestamp::now(),
            };
            batch.absent(keys.port(port)).put(keys.port(port), &record);
            claimed.push(Claimed { port, auto: auto.clone() });
        }
        if journal.try_step(ctx, step, &data(&claimed), batch)? {
            return Ok(claimed);
        }
        if Instant::now() >= until {
            return Err(Failure::new("others take the ports that are free, again and again")
                .hint("try again"));
        }
    }
}

fn exhausted(ctx: &Context, kept: &[At<PortRecord>], others: &BTreeSet<u16>) -> Failure {
    let range = ctx.config.ports.range;
    let within = |port: &u16| (range.first..=range.last).contains(port);
    let kept: BTreeSet<u16> = kept.iter().map(|at| at.record.port).filter(within).collect();
    let others = others.iter().filter(|port| within(port) && !kept.contains(port)).count();
    Failure::new(format!(
        "no port of {range} is free on {}: {} are kept for containers, {others} are in use by others",
        ctx.ledger.node(),
        kept.len()
    ))
    .hint(format!(
        "docker gpuctl ports lists the kept ones, docker gpuctl rm gives a container's back; \
         ports.range in {} can be wider",
        ctx.config_path.display()
    ))
}

/// Adds to a commit that these ports, of those that are kept for a name, are kept no more.
///
/// # Errors
/// The ledger's.
pub(super) fn release(
    ctx: &Context,
    name: &ContainerName,
    ports: &[u16],
    batch: &mut Batch,
) -> Result<(), Failure> {
    for port in ports {
        let key = ctx.ledger.keys().port(*port);
        if let Some(At { record, revision }) = ctx.ledger.get::<PortRecord>(&key)?
            && record.name == *name
        {
            batch.at(key.clone(), revision).delete(key);
        }
    }
    Ok(())
}

/// The ports that are kept for a name.
///
/// # Errors
/// The ledger's.
pub(super) fn of(ctx: &Context, name: &ContainerName) -> Result<Vec<At<PortRecord>>, Failure> {
    let all: Vec<At<PortRecord>> = ctx.ledger.list(&ctx.ledger.keys().ports())?;
    Ok(all.into_iter().filter(|at| at.record.name == *name).collect())
}

/// Gives back, in commits of its own, all ports of a name whose container is no more; how many they
/// were. The caller has the name's lock.
///
/// # Errors
/// The ledger's.
pub(super) fn release_all(ctx: &Context, name: &ContainerName) -> Result<usize, Failure> {
    let kept = of(ctx, name)?;
    for some in kept.chunks(MOST) {
        let mut batch = Batch::new();
        for At { record, revision } in some {
            let key = ctx.ledger.keys().port(record.port);
            batch.at(key.clone(), *revision).delete(key);
        }
        // Somebody else's by now: then it is not ours to give back.
        let _ = ctx.ledger.commit(&batch)?;
    }
    Ok(kept.len())
}

/// Refuses a container that names a port of the host which is kept for another.
///
/// # Errors
/// As said, and the ledger's.
pub(super) fn check_named(
    ctx: &Context,
    name: &ContainerName,
    spec: &Value,
) -> Result<(), Failure> {
    host::bindings(spec).into_iter().try_for_each(|port| kept_for_another(ctx, name, port))
}

fn kept_for_another(ctx: &Context, name: &ContainerName, port: u16) -> Result<(), Failure> {
    if let Some(at) = ctx.ledger.get::<PortRecord>(&ctx.ledger.keys().port(port))?
        && at.record.name != *name
    {
        let other = at.record.name;
        return Err(Failure::new(format!("port {port} of this host is kept for {other}")).hint(
            format!("-p auto:PORT takes a free one; docker gpuctl rm {other} gives it back"),
        ));
    }
    Ok(())
}

/// Names that ports are kept for and that have no container: what a removal outside gpuctl leaves.
/// Each is given back where `fix` says so. The names, with how many ports.
///
/// # Errors
/// The ledger's.
pub(super) fn strays(ctx: &Context, fix: bool) -> Result<Vec<(ContainerName, usize)>, Failure> {
    let keys = ctx.ledger.keys();
    let all: Vec<At<PortRecord>> = ctx.ledger.list(&keys.ports())?;
    let names: BTreeSet<ContainerName> = all.into_iter().map(|at| at.record.name).collect();
    let mut found = Vec::new();
    for name in names {
        if has_container(ctx, &name)? {
            continue;
        }
        // Somebody is just making it one.
        let Some(lock) = journal::try_lock(ctx, &name)? else { continue };
        let open = ctx.ledger.get::<Operation>(&keys.operation(&name))?.is_some();
        if open || has_container(ctx, &name)? {
            continue;
        }
        let count = if fix { release_all(ctx, &name)? } else { of(ctx, &name)?.len() };
        found.push((name, count));
        lock.forget();
    }
    Ok(found)
}

fn has_container(ctx: &Context, name: &ContainerName) -> Result<bool, Failure> {
    Ok(ctx.ledger.container(name)?.is_some_and(|at| at.record.container.is_some()))
}

/// ports.
///
/// # Errors
/// The ledger's, and when the host's sockets cannot be seen.
pub(super) fn list(ctx: &Context) -> Result<Answer, Failure> {
    let kept: Vec<At<PortRecord>> = ctx.ledger.list(&ctx.ledger.keys().ports())?;
    let listening = host::sockets()?.listening();
    let row = |record: PortRecord| {
        let on = |protocol: &&str| record.inside.ends_with(&format!("/{protocol}"));
        let protocol = ["tcp", "udp"].into_iter().find(on).unwrap_or_default();
        PortRow {
            listening: listening.contains(&(record.port, protocol)),
            port: record.port,
            inside: record.inside,
            name: record.name,
            since: record.since,
        }
    };
    let rows = kept.into_iter().map(|at| row(at.record)).collect();
    Ok(Answer::More(MoreAnswer::Ports(rows)))
}
