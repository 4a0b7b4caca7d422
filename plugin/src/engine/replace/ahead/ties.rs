//! What a spec says of other containers by a name or an id that may have passed to another one: each change
//! of a managed container gives it another name in Docker, and a new container another id.

use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{ContainerRecord, DockerName};
use serde_json::{Value, json};

use crate::engine::api::Failure;
use crate::engine::context::Context;
use crate::engine::kept;

/// The namespaces that a container may have of another one.
const SHARED: [&str; 3] = ["NetworkMode", "IpcMode", "PidMode"];

/// The spec with those containers as they are called now. Read only.
///
/// # Errors
/// When one is gone, before Docker says so, and the Engine's and the ledger's.
pub(super) fn followed(ctx: &Context, spec: &Value) -> Result<Value, Failure> {
    let mut spec = spec.clone();
    let Some(host) = spec.get_mut("HostConfig").and_then(Value::as_object_mut) else {
        return Ok(spec);
    };
    if let Some(from) = host.get_mut("VolumesFrom").and_then(Value::as_array_mut) {
        for entry in from {
            let Some(text) = entry.as_str() else { continue };
            let (of, options) = text.split_once(':').unwrap_or((text, ""));
            if ctx.docker()?.inspect(of)?.is_some() {
                continue;
            }
            let now = now(ctx, of)?.ok_or_else(|| gone("takes volumes from", of))?;
            let options = if options.is_empty() { String::new() } else { format!(":{options}") };
            *entry = json!(format!("{now}{options}"));
        }
    }
    for key in SHARED {
        let mode = host.get(key).and_then(Value::as_str).unwrap_or_default();
        let Some(of) = mode.strip_prefix("container:") else { continue };
        let shown = ctx.docker()?.inspect(of)?;
        if shown.as_ref().is_some_and(|shown| shown.running()) {
            continue;
        }
        match now(ctx, of)? {
            Some(now) => drop(host.insert(key.to_owned(), json!(format!("container:{now}")))),
            None if shown.is_none() => return Err(gone("shares the namespace of", of)),
            None => {}
        }
    }
    Ok(spec)
}

fn gone(how: &str, of: &str) -> Failure {
    Failure::new(format!("it {how} {of}, and Docker has no such container any more"))
        .hint("run it anew without that")
}

/// The id of the managed container that had this name in Docker, or this id, at some version.
fn now(ctx: &Context, of: &str) -> Result<Option<String>, Failure> {
    let id = |at: At<ContainerRecord>| at.record.container.map(|id| id.to_string());
    if let Some((name, _)) = DockerName::split(of)
        && let Some(at) = ctx.ledger.container(&name)?
    {
        return Ok(id(at));
    }
    let all: Vec<At<ContainerRecord>> = ctx.ledger.list(&ctx.ledger.keys().containers())?;
    for at in all {
        let versions = kept::versions(ctx, &at.record.name)?;
        if versions.iter().any(|version| version.container.as_str() == of) {
            return Ok(id(at));
        }
    }
    Ok(None)
}
