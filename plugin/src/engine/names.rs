//! Which container does a user mean?

use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{ContainerId, ContainerName, ContainerRecord, DockerName, Version};

use super::api::Failure;
use super::context::Context;

/// A managed container that exists in Docker.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// Its record.
    pub(super) record: At<ContainerRecord>,
    /// Its id in Docker.
    pub(super) id: ContainerId,
    /// Its name in Docker, by its record.
    pub(super) docker_name: DockerName,
}

fn unknown(text: &str) -> Failure {
    let shown: String = text.chars().filter(|c| !c.is_control()).take(80).collect();
    Failure::new(format!("no container {shown} in the ledger of this node"))
        .hint("docker gpuctl ps -a lists them; containers that docker run made are docker's")
}

/// The record that `foo` or `foo-N` names.
///
/// # Errors
/// When there is none, or N is not the current version.
pub(super) fn record(ctx: &Context, text: &str) -> Result<At<ContainerRecord>, Failure> {
    if let Ok(name) = ContainerName::new(text)
        && let Some(record) = ctx.ledger.container(&name)?
    {
        return Ok(record);
    }
    let Some((name, version)) = DockerName::split(text) else { return Err(unknown(text)) };
    let Some(record) = ctx.ledger.container(&name)? else { return Err(unknown(text)) };
    let current = record.record.version;
    if version != current {
        return Err(not_current(&name, version, current));
    }
    Ok(record)
}

fn not_current(name: &ContainerName, version: Version, current: Version) -> Failure {
    if version > current {
        return Failure::new(format!("{name} has no version {version}, it is at {current}"))
            .hint(format!("docker gpuctl history {name} shows its versions"));
    }
    Failure::new(format!("{name}-{version} is an older version: {name} is at {current}"))
        .hint(format!("say {name}, or {}", DockerName::of(name, current)))
}

/// The container that `foo` or `foo-N` names, which Docker still has by the record.
///
/// # Errors
/// As [`record`], and when only its history is left.
pub(super) fn existing(ctx: &Context, text: &str) -> Result<Found, Failure> {
    let record = record(ctx, text)?;
    let name = &record.record.name;
    let Some(id) = record.record.container.clone() else {
        return Err(Failure::new(format!("container {name} was removed; its history is left"))
            .hint(format!("docker gpuctl run --from {name} ... builds it again")));
    };
    let docker_name = DockerName::of(name, record.record.version);
    Ok(Found { record, id, docker_name })
}

/// Refuses a new name that would be mistaken for a version of another, or the other way round.
///
/// # Errors
/// When it would.
pub(super) fn check_new(ctx: &Context, name: &ContainerName) -> Result<(), Failure> {
    if let Some((base, _)) = DockerName::split(name.as_str())
        && ctx.ledger.container(&base)?.is_some()
    {
        return Err(Failure::new(format!(
            "the name {name} is that of a version of container {base}"
        ))
        .hint("take another name"));
    }
    let records: Vec<At<ContainerRecord>> = ctx.ledger.list(&ctx.ledger.keys().containers())?;
    for other in records {
        let other = other.record.name;
        if DockerName::split(other.as_str()).is_some_and(|(base, _)| base == *name) {
            return Err(Failure::new(format!(
                "versions of {name} would be mistaken for container {other}"
            ))
            .hint("take another name"));
        }
    }
    Ok(())
}

/// A name for a container that was given none, in Docker's manner: two words.
pub(super) fn made_up(random: u64) -> String {
    const FIRST: [&str; 16] = [
        "bold", "brave", "calm", "clever", "eager", "fair", "gentle", "happy", "keen", "kind",
        "lively", "merry", "quick", "quiet", "swift", "witty",
    ];
    const SECOND: [&str; 16] = [
        "babbage", "curie", "darwin", "euler", "fermi", "gauss", "hopper", "kepler", "lovelace",
        "maxwell", "newton", "noether", "pascal", "shannon", "tesla", "turing",
    ];
    let pick = |list: &[&'static str; 16], bits: u64| {
        list.get(usize::try_from(bits % 16).unwrap_or(0)).copied().unwrap_or("gpu")
    };
    format!("{}_{}_{:03x}", pick(&FIRST, random), pick(&SECOND, random >> 4), (random >> 8) & 0xfff)
}
