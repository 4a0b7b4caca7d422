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
        .not_there()
}

/// The record that `foo`, `foo-N` or an id in Docker names: whole, or so much of its beginning that
/// no other of ours begins so. A name goes before an id.
///
/// # Errors
/// When there is none, N is not the current version, or several ids begin so.
pub(super) fn record(ctx: &Context, text: &str) -> Result<At<ContainerRecord>, Failure> {
    if let Ok(name) = ContainerName::new(text)
        && let Some(record) = ctx.ledger.container(&name)?
    {
        return Ok(record);
    }
    if may_be_id(text)
        && let Some(record) = by_id(ctx.ledger.list(&ctx.ledger.keys().containers())?, text)?
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

/// The length of an id in Docker.
const WHOLE_ID: usize = 64;

fn may_be_id(text: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (1..=WHOLE_ID).contains(&text.len()) && text.bytes().all(hex)
}

/// The record whose container's id begins so; none is no error.
fn by_id(
    records: Vec<At<ContainerRecord>>,
    text: &str,
) -> Result<Option<At<ContainerRecord>>, Failure> {
    let begins = |id: &ContainerId| id.as_str().starts_with(text);
    let mut found =
        records.into_iter().filter(|at| at.record.container.as_ref().is_some_and(begins));
    let Some(first) = found.next() else { return Ok(None) };
    let others: Vec<String> = found.map(|at| at.record.name.to_string()).collect();
    if others.is_empty() {
        return Ok(Some(first));
    }
    Err(Failure::new(format!(
        "the ids of several containers begin with {text}: {}, {}",
        first.record.name,
        others.join(", ")
    ))
    .hint("say its name, or more of its id"))
}

fn not_current(name: &ContainerName, version: Version, current: Version) -> Failure {
    if version > current {
        return Failure::new(format!("{name} has no version {version}, it is at {current}"))
            .hint(format!("docker gpuctl history {name} shows its versions"));
    }
    Failure::new(format!("{name}-{version} is an older version: {name} is at {current}"))
        .hint(format!("say {name}, or {}", DockerName::of(name, current)))
}

/// The container that `foo`, `foo-N` or an id names, which Docker still has by the record.
///
/// # Errors
/// As [`record`], and when only its history is left.
pub(super) fn existing(ctx: &Context, text: &str) -> Result<Found, Failure> {
    let record = record(ctx, text)?;
    let name = &record.record.name;
    let Some(id) = record.record.container.clone() else {
        return Err(Failure::new(format!("container {name} was removed; its history is left"))
            .hint(format!("docker gpuctl run --from {name} ... builds it again"))
            .not_there());
    };
    let docker_name = DockerName::of(name, record.record.version);
    Ok(Found { record, id, docker_name })
}

/// Refuses a name that Docker has a container of already.
///
/// # Errors
/// When it has, and the Engine's.
pub(super) fn check_docker_name(
    ctx: &Context,
    name: &DockerName,
    hint: impl Into<String>,
) -> Result<(), Failure> {
    match ctx.docker()?.inspect(name.as_str())? {
        Some(_) => Err(Failure::new(format!("Docker has a container {name} already")).hint(hint)),
        None => Ok(()),
    }
}

/// Refuses a new name that would be mistaken for a version of another, or the other way round.
///
/// # Errors
/// When it would.
pub(super) fn check_new(ctx: &Context, name: &ContainerName, hint: &str) -> Result<(), Failure> {
    if let Some((base, _)) = DockerName::split(name.as_str())
        && ctx.ledger.container(&base)?.is_some()
    {
        return Err(Failure::new(format!(
            "the name {name} is that of a version of container {base}"
        ))
        .hint(hint));
    }
    let records: Vec<At<ContainerRecord>> = ctx.ledger.list(&ctx.ledger.keys().containers())?;
    for other in records {
        let other = other.record.name;
        if DockerName::split(other.as_str()).is_some_and(|(base, _)| base == *name) {
            return Err(Failure::new(format!(
                "versions of {name} would be mistaken for container {other}"
            ))
            .hint(hint));
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

#[cfg(test)]
mod tests {
    use super::*;
    use gpuctl_ledger::ledger::Batch;

    fn node() -> (tempfile::TempDir, Context) {
        let folder = tempfile::tempdir().unwrap();
        let ctx = Context::of_test(folder.path());
        for (name, id) in [("train", "ab12"), ("eval", "ab34"), ("ab3", "ff00"), ("gone", "")] {
            let id = (!id.is_empty()).then(|| format!("{id:0<64}"));
            let record: ContainerRecord = serde_json::from_value(serde_json::json!({
                "schema": 1, "name": name, "version": 2, "container": id,
                "at": "2026-11-22T00:52:04.854Z",
            }))
            .unwrap();
            let mut batch = Batch::new();
            batch.put(ctx.ledger.keys().container(&record.name), &record);
            let _ = ctx.ledger.commit(&batch).unwrap();
        }
        (folder, ctx)
    }

    #[test]
    fn a_container_is_meant_by_its_name_its_version_or_its_id() {
        let (_folder, ctx) = node();
        let whole = format!("{:0<64}", "ab12");
        for (text, name) in [
            ("train", "train"),
            ("train-2", "train"),
            ("ab12", "train"),
            ("ab1", "train"),
            (&whole, "train"),
            ("ab34", "eval"),
            ("f", "ab3"),
            // A name goes before an id that begins so.
            ("ab3", "ab3"),
            ("gone", "gone"),
        ] {
            assert_eq!(record(&ctx, text).unwrap().record.name.as_str(), name, "{text}");
        }
    }

    #[test]
    fn what_means_none_or_several_is_refused() {
        let (_folder, ctx) = node();
        let several = record(&ctx, "ab").unwrap_err();
        assert!(several.message.contains("eval") && several.message.contains("train"));
        assert!(several.hint.is_some());
        let longer = format!("{:0<65}", "ab12");
        for text in ["abc", "AB12", "12", "", "ab12*", &longer, "ab12-2"] {
            let none = record(&ctx, text).unwrap_err();
            assert!(none.message.starts_with("no container"), "{text}: {none}");
        }
    }
}
