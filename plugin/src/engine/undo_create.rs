//! The end of a run or create that was broken off: undone, or done where its container has started.

use gpuctl_ledger::ledger::Batch;
use gpuctl_ledger::model::Token;
use gpuctl_ledger::node::notes;

use super::api::Failure;
use super::context::Context;
use super::create::{Data, OPERATION_LABEL};
use super::journal::Journal;
use super::{ending, ports};
use crate::docker::Inspect;

/// Whether a change has made this container. A name proves nothing: another may have got it, and
/// ours may have lost it. The journal's id does; where the change was broken off before that was
/// known, its token does, which is in no other container but one made from an image of ours: that
/// one has neither our runtime nor our name.
fn made_by(shown: &Inspect, data: &Data, token: &Token, managed: &str) -> bool {
    if shown.label(OPERATION_LABEL) != Some(token.as_str()) {
        return false;
    }
    match &data.id {
        Some(id) => shown.id().as_ref() == Some(id),
        None => {
            let named = shown.name() == data.docker_name.as_str();
            shown.never_started() && (named || shown.runtime() == managed)
        }
    }
}

/// What a change has made and Docker still has, whatever it is called by now.
fn made(ctx: &Context, data: &Data, token: &Token) -> Result<Vec<Inspect>, Failure> {
    let docker = ctx.docker()?;
    let asked: Vec<String> = match &data.id {
        Some(id) => vec![id.to_string()],
        None => {
            let all = docker.list(true)?.into_iter();
            let carries = |labels: &std::collections::HashMap<String, String>| {
                labels.get(OPERATION_LABEL).is_some_and(|label| label == token.as_str())
            };
            all.filter(|row| carries(&row.labels)).map(|row| row.id).collect()
        }
    };
    let managed = &ctx.config.runtime.managed_name;
    let mut found = Vec::new();
    for id in asked {
        found.extend(docker.inspect(&id)?.filter(|s| made_by(s, data, token, managed)));
    }
    Ok(found)
}

/// Removes what a change has made, with its anonymous volumes.
///
/// # Errors
/// The Engine's.
pub(super) fn remove_made(ctx: &Context, data: &Data, token: &Token) -> Result<(), Failure> {
    for shown in made(ctx, data, token)? {
        let id = shown.id().map(|id| id.to_string()).unwrap_or_default();
        match ctx.docker()?.remove(&id, true, true) {
            Err(e) if !e.is_not_found() => return Err(e.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Undoes a run: the container goes, and its records are as they were.
///
/// # Errors
/// When it cannot be undone now.
pub(super) fn undo(ctx: &Context, journal: Journal) -> Result<(), Failure> {
    let data: Data = journal.data()?;
    remove_made(ctx, &data, &journal.operation.token)?;
    let mut batch = Batch::new();
    ports::release(ctx, &journal.operation.name, &data.ports, &mut batch)?;
    if let Some(id) = &data.id {
        ending::release_dead(ctx, id, &[])?;
        let keys = ctx.ledger.keys();
        let name = &journal.operation.name;
        if let Some(at) = ctx.ledger.container(name)?
            && at.record.container.as_ref() == Some(id)
        {
            let key = keys.container(name);
            batch.at(key.clone(), at.revision);
            match &data.before {
                Some(before) => batch.put(key, before),
                None => batch.delete(key),
            };
            batch.delete(keys.version(name, at.record.version));
        }
        batch.delete(keys.binding(id));
        let _ = notes::remove_binding(&ctx.config.paths, id);
    }
    journal.finish(ctx, batch)?;
    if let Some(id) = &data.id {
        ending::settle(ctx, id);
    }
    Ok(())
}

/// Whether it is what a `docker create` has made that outlived the run which had asked for it: the
/// caller has the lock of its name, so nobody waits for it any more.
///
/// # Errors
/// The ledger's.
pub(super) fn left_over(ctx: &Context, there: &Inspect) -> Result<bool, Failure> {
    let ours = there.label(OPERATION_LABEL).is_some()
        && there.runtime() == ctx.config.runtime.managed_name;
    let Some(id) = there.id().filter(|_| ours && there.never_started()) else { return Ok(false) };
    Ok(ctx.ledger.binding(&id)?.is_none())
}

/// Tells what became of a run that was broken off.
///
/// # Errors
/// When it cannot be brought to an end now.
pub(super) fn recover(ctx: &Context, journal: Journal) -> Result<String, Failure> {
    let data: Data = journal.data()?;
    let name = journal.operation.name.clone();
    let token = journal.operation.token.clone();
    let shown = match &data.id {
        Some(id) => ctx.docker()?.inspect(id.as_str())?,
        None => None,
    };
    let started = shown
        .is_some_and(|s| !s.never_started() && s.label(OPERATION_LABEL) == Some(token.as_str()));
    if started {
        journal.finish(ctx, Batch::new())?;
        if let Some(id) = &data.id {
            ending::settle(ctx, id);
        }
        return Ok(format!("an earlier run of {name} was broken off after its start: it is done"));
    }
    undo(ctx, journal)?;
    Ok(format!("an earlier run of {name} was broken off before its start: it is undone"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuctl_ledger::model::{ContainerId, DockerName};
    use serde_json::json;

    fn shown(id: char, name: &str, label: &Token, runtime: &str, started: bool) -> Inspect {
        Inspect(json!({
            "Id": id.to_string().repeat(64), "Name": format!("/{name}"),
            "State": {"StartedAt": if started { "2024-01-01T00:00:00Z" } else { "0001-01-01T00:00:00Z" }},
            "Config": {"Labels": {OPERATION_LABEL: label.as_str()}},
            "HostConfig": {"Runtime": runtime},
        }))
    }

    #[test]
    fn the_id_says_which_container_it_is_and_no_name_does() {
        let (token, other) = (Token::random().unwrap(), Token::random().unwrap());
        let id = ContainerId::new("a".repeat(64)).unwrap();
        let data = Data {
            docker_name: DockerName::new("job-0").unwrap(),
            id: Some(id),
            before: None,
            ports: Vec::new(),
        };
        let is = |s: &Inspect| made_by(s, &data, &token, "gpuctl");
        assert!(is(&shown('a', "job-0", &token, "gpuctl", true)));
        assert!(is(&shown('a', "renamed", &token, "gpuctl", true)), "it was renamed");
        assert!(!is(&shown('b', "job-0", &token, "gpuctl", false)), "another of its name");
        assert!(!is(&shown('a', "job-0", &other, "gpuctl", false)), "not of this change");
    }

    #[test]
    fn before_the_id_is_known_the_token_says_it() {
        let (token, other) = (Token::random().unwrap(), Token::random().unwrap());
        let data = Data {
            docker_name: DockerName::new("job-0").unwrap(),
            id: None,
            before: None,
            ports: Vec::new(),
        };
        let is = |s: &Inspect| made_by(s, &data, &token, "gpuctl");
        assert!(is(&shown('a', "job-0", &token, "gpuctl", false)));
        assert!(is(&shown('a', "renamed", &token, "gpuctl", false)), "it was renamed");
        assert!(!is(&shown('b', "job-0", &other, "gpuctl", false)), "another of its name");
        // An image of ours gives its labels on to what is made from it.
        assert!(!is(&shown('b', "copy", &token, "runc", false)));
        assert!(!is(&shown('b', "copy", &token, "gpuctl", true)));
        assert!(!is(&shown('b', "job-0", &token, "gpuctl", true)));
    }
}
