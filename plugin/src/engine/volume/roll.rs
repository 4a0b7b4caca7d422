//! --roll: the managed containers that mount a volume get its new version, each by a new container in
//! its place. The volume's journal is that of the whole: the containers' are parts of it, opened after
//! it and ended before it. Up to its step `record` all of it is undone, from there on finished.
//!
//! Locks are taken in one order, the volume's first. Whoever has a container's and comes upon a part
//! does not wait for the volume's.

use std::collections::BTreeSet;

use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{
    ContainerName, ContainerRecord, DockerName, GpuRequest, OperationKind, Token, VolumeName,
    VolumeVersionRecord,
};

use super::super::api::{Event, Failure, Front, How};
use super::super::change::{self, Subject, Target};
use super::super::context::Context;
use super::super::journal::{self as containers, Journal, Locked};
use super::super::replace::{self, Data, Part, PartOf, Prepared};
use super::super::{names, undo_replace};
use super::observe;
use crate::change::{Change, apply};
use crate::docker::User;

/// Containers that are to move, locked and looked at.
pub(super) struct Roll {
    subjects: Vec<Subject>,
    /// What they mount, by its name in Docker.
    from: String,
    volume: VolumeName,
}

/// Of those that mount a volume, the names of the managed ones at their current version.
///
/// # Errors
/// The ledger's.
pub(super) fn managed(
    ctx: &Context,
    users: &[User],
) -> Result<Vec<(ContainerName, String)>, Failure> {
    let records: Vec<At<ContainerRecord>> = ctx.ledger.list(&ctx.ledger.keys().containers())?;
    let ids: BTreeSet<&str> = users.iter().map(|user| user.id.as_str()).collect();
    let current = records.into_iter().filter_map(|at| {
        let id = at.record.container?;
        ids.contains(id.as_str()).then(|| (at.record.name, id.to_string()))
    });
    Ok(current.collect())
}

/// Looks whether all managed containers that mount this version can be moved to one of this name.
///
/// # Errors
/// [`Failure`], when one cannot be.
pub(super) fn look(
    ctx: &Context,
    version: &VolumeVersionRecord,
    new: &str,
    users: &[User],
    front: &mut dyn Front,
) -> Result<Roll, Failure> {
    let mut roll = Roll {
        subjects: Vec::new(),
        from: version.docker_name.clone(),
        volume: version.name.clone(),
    };
    // In the order of their names, as everybody who takes several locks.
    for (name, _) in managed(ctx, users)? {
        roll.subjects.push(change::subject(ctx, name.as_str(), front)?);
    }
    for subject in &roll.subjects {
        let Subject { found, shown, .. } = subject;
        if shown.running() {
            change::check_stops(found, shown, None)?;
        }
        let name = &found.record.record.name;
        let next = DockerName::of(name, found.record.record.version.next());
        let hint = format!("docker rename {next} to something else, or remove it");
        names::check_docker_name(ctx, &next, hint)?;
        roll.prepare(ctx, subject, new, front)?;
    }
    Ok(roll)
}

impl Roll {
    /// Whether nothing moves.
    pub(super) fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// Who moves.
    pub(super) fn names(&self) -> Vec<ContainerName> {
        self.subjects.iter().map(|s| s.found.record.record.name.clone()).collect()
    }

    /// Whether this one moves.
    pub(super) fn has(&self, user: &User) -> bool {
        self.subjects.iter().any(|s| s.found.id.as_str() == user.id)
    }

    /// Their names in Docker now and then.
    fn docker_names(&self) -> Vec<(DockerName, DockerName)> {
        let of = |s: &Subject| {
            let record = &s.found.record.record;
            (s.found.docker_name.clone(), DockerName::of(&record.name, record.version.next()))
        };
        self.subjects.iter().map(of).collect()
    }

    /// What stopping, and what moving them to `new` is, in words; of those whose users are given the
    /// first are stopped for the copy.
    pub(super) fn steps(&self, writers: &[User], new: &str) -> (Option<String>, Vec<String>) {
        let stopped: Vec<String> = self
            .subjects
            .iter()
            .filter(|s| {
                writers.iter().any(|u| u.running && u.writes && u.id == s.found.id.as_str())
            })
            .map(|s| s.found.docker_name.to_string())
            .collect();
        let stop = (!stopped.is_empty())
            .then(|| format!("stop {}: down from here on", stopped.join(", ")));
        let mut steps = Vec::new();
        for (subject, (old, next)) in self.subjects.iter().zip(self.docker_names()) {
            let runs = subject.shown.running();
            let stop = match runs && !stopped.contains(&old.to_string()) {
                true => format!("stop {old}, "),
                false => String::new(),
            };
            steps.push(format!(
                "{stop}create {next} with {new} in place of {}, and carry the files of {old}",
                self.from
            ));
        }
        let starts: Vec<String> = self
            .subjects
            .iter()
            .zip(self.docker_names())
            .filter(|(subject, _)| subject.shown.running())
            .map(|(_, (_, next))| next.to_string())
            .collect();
        if !starts.is_empty() {
            steps.push(format!("start {}", starts.join(", ")));
        }
        if !self.subjects.is_empty() {
            let old: Vec<String> =
                self.docker_names().into_iter().map(|(old, _)| old.to_string()).collect();
            steps.push(format!("record the versions; stopped, {} stay", old.join(", ")));
        }
        (stop, steps)
    }

    /// What is said at the end.
    pub(super) fn summary(&self) -> String {
        let moved: Vec<String> =
            self.docker_names().into_iter().map(|(_, new)| new.to_string()).collect();
        match moved.as_slice() {
            [] => "no managed container mounts it".to_owned(),
            _ => format!("now mounted by {}", moved.join(", ")),
        }
    }

    fn prepare(
        &self,
        ctx: &Context,
        subject: &Subject,
        new: &str,
        front: &mut dyn Front,
    ) -> Result<Prepared, Failure> {
        let volumes = vec![(self.from.clone(), new.to_owned())];
        let gpus: GpuRequest = subject.binding.record.gpus.clone();
        let target = Target {
            spec: apply(&subject.is, &Change { volumes, ..Change::default() })?,
            gpus,
            ports: Vec::new(),
            new_image: false,
            asked_gpus: false,
            called: None,
            files: None,
        };
        let why = format!("volume {}: {} -> {new}", self.volume, self.from);
        replace::prepare(ctx, subject, &target, &How::default(), why, front)
    }

    /// Opens the parts, and stops those that write to what is copied.
    ///
    /// # Errors
    /// [`Failure`]; then the whole is undone.
    pub(super) fn stop_writers(
        &self,
        ctx: &Context,
        token: &Token,
        (source, new): (&str, &str),
        front: &mut dyn Front,
    ) -> Result<Vec<Part>, Failure> {
        let mut parts = Vec::new();
        for subject in &self.subjects {
            let whole = PartOf { volume: self.volume.clone(), token: token.clone() };
            let prepared = self.prepare(ctx, subject, new, front)?;
            parts.push(prepared.begin(ctx, whole)?);
        }
        let users = observe::users(ctx, source)?;
        let writes = |id: &str| users.iter().any(|u| u.running && u.writes && u.id == id);
        for part in parts.iter_mut().filter(|part| writes(part.old().as_str())) {
            part.stop(ctx, front)?;
        }
        Ok(parts)
    }
}

/// Makes the new containers and then starts them: until all are made, none has written to the new
/// version.
///
/// # Errors
/// As [`Roll::stop_writers`].
pub(super) fn advance(
    ctx: &Context,
    mut parts: Vec<Part>,
    front: &mut dyn Front,
) -> Result<(), Failure> {
    for part in &mut parts {
        part.stop(ctx, front)?;
        part.build(ctx, front)?;
    }
    for part in &mut parts {
        part.launch(ctx, front)?;
    }
    Ok(())
}

/// The open parts of a change among these containers.
fn open(ctx: &Context, names: &[ContainerName], token: &Token) -> Result<Vec<Journal>, Failure> {
    let mut found = Vec::new();
    for name in names {
        let Some(operation) = ctx.ledger.operation(name)? else { continue };
        if operation.record.kind != OperationKind::Replace {
            continue;
        }
        let journal = Journal::found(&operation);
        let data: Data = journal.data()?;
        if data.part_of.is_some_and(|whole| whole.token == *token) {
            found.push(journal);
        }
    }
    Ok(found)
}

/// The locks of the containers with an open part, whose author is dead; `held` is locked already.
///
/// # Errors
/// When somebody has one of them.
pub(super) fn lock(
    ctx: &Context,
    names: &[ContainerName],
    token: &Token,
    held: Option<&ContainerName>,
) -> Result<Vec<Locked>, Failure> {
    let mut locks = Vec::new();
    for journal in open(ctx, names, token)? {
        let name = &journal.operation.name;
        if held == Some(name) {
            continue;
        }
        locks.push(containers::take(ctx, name)?);
    }
    Ok(locks)
}

/// Undoes the parts; what the containers are now, in words.
///
/// # Errors
/// The first; the others are undone nevertheless.
pub(super) fn undo(
    ctx: &Context,
    names: &[ContainerName],
    token: &Token,
) -> Result<Vec<String>, Failure> {
    let (mut said, mut failed) = (Vec::new(), None);
    for journal in open(ctx, names, token)? {
        match undo_replace::undo(ctx, journal) {
            Ok(how) => said.push(how),
            Err(why) => failed = failed.or(Some(why)),
        }
    }
    failed.map_or(Ok(said), Err)
}

/// Finishes the parts: the new containers are the current ones.
///
/// # Errors
/// The first; the others are finished nevertheless.
pub(super) fn finish(ctx: &Context, names: &[ContainerName], token: &Token) -> Result<(), Failure> {
    let mut failed = None;
    for journal in open(ctx, names, token)? {
        failed = failed.or(replace::finish(ctx, journal).err());
    }
    failed.map_or(Ok(()), Err)
}

/// Tells of those that stay with what they mount.
pub(super) fn tell_left(
    left: &[User],
    new: &str,
    managed: &[(ContainerName, String)],
    front: &mut dyn Front,
) {
    let mut told = BTreeSet::new();
    for user in left.iter().filter(|user| told.insert(user.id.clone())) {
        let User { name, volume, .. } = user;
        let how = match managed.iter().find(|(_, id)| *id == user.id) {
            Some((managed, _)) => {
                format!("docker gpuctl update {managed} --volume {volume}:{new} moves it")
            }
            None => format!("it sees {new} once it is made anew with it"),
        };
        front.event(Event::Note { text: format!("{name} still mounts {volume}: {how}") });
    }
}
