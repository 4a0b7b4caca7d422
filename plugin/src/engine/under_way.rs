//! Changes under way: who is at work on a container, and for how long.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{ContainerName, DockerName, Operation, Timestamp};
use gpuctl_ledger::node::{busy, files, process};
use gpuctl_ledger::rules::liveness::Seen;
use nix::sys::stat::{major, minor};

use super::api::Failure;
use super::context::Context;
use super::journal;

/// Most of `/proc/locks` that is read, in bytes.
const LOCKS: u64 = 4 << 20;

/// A change that a living process is at work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UnderWay {
    /// The container's name.
    pub(super) name: ContainerName,
    /// The process that has the container's lock, and its program.
    pub(super) process: Option<(i32, String)>,
    /// What its journal says; none of start, stop and restart, which have no journal.
    pub(super) journal: Option<Operation>,
    /// For how long it has been under way.
    pub(super) age: Option<Duration>,
}

impl UnderWay {
    /// In one line: `another scale of od by ada (docker-gpuctl, pid 4711) is under way for 45 s`.
    pub(super) fn told(&self) -> String {
        let what = self.journal.as_ref().map_or("change to", |o| o.kind.word());
        let of = if self.journal.is_some() { " of" } else { "" };
        let by = self.journal.as_ref().and_then(|o| o.by.as_ref());
        let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
        let process = self.process.as_ref();
        let process = process.map(|(pid, p)| format!(" ({p}, pid {pid})")).unwrap_or_default();
        let age = self.age.map(|age| format!(" for {} s", age.as_secs())).unwrap_or_default();
        format!("another {what}{of} {}{by}{process} is under way{age}", self.name)
    }

    /// What to type where it is not to be waited for.
    pub(super) fn hint(&self, docker_name: Option<&DockerName>) -> String {
        // A stop waits for the container's processes: without these it has nothing to wait for.
        let stops = self.journal.as_ref().is_none_or(|o| o.step == "restart");
        match docker_name {
            Some(name) if stops => format!(
                "wait for it, then try again; docker kill {name} cuts short a stop that waits for its processes"
            ),
            _ => "wait for it, then try again".to_owned(),
        }
    }
}

/// Who is at work on a container whose lock could not be had.
pub(super) fn of(ctx: &Context, name: &ContainerName) -> UnderWay {
    let journal = ctx.ledger.operation(name).ok().flatten().map(|at| at.record);
    let alive = |o: &Operation| process::seen(o.actor) == Seen::There;
    // One whose author is dead is being brought to its end by whoever has the lock.
    let pid = holder(&ctx.config.paths.locks().join(name.as_str()))
        .or_else(|| journal.as_ref().filter(|o| alive(o)).map(|o| o.actor.pid));
    let now = Timestamp::now();
    UnderWay {
        name: name.clone(),
        process: pid.map(|pid| (pid, busy::program(pid))),
        age: journal.as_ref().map(|o| Duration::from_millis(now.millis_since(o.since))),
        journal,
    }
}

/// All changes with a journal that somebody is at work on.
///
/// # Errors
/// When ledger or locks cannot be read.
pub(super) fn all(ctx: &Context) -> Result<Vec<UnderWay>, Failure> {
    let open: Vec<At<Operation>> = ctx.ledger.list(&ctx.ledger.keys().operations())?;
    let mut found = Vec::new();
    for at in open {
        if journal::try_lock(ctx, &at.record.name)?.is_none() {
            found.push(of(ctx, &at.record.name));
        }
    }
    Ok(found)
}

/// The name in Docker of a container by its record, for a hint.
pub(super) fn docker_name(ctx: &Context, name: &ContainerName) -> Option<DockerName> {
    let record = ctx.ledger.container(name).ok().flatten()?.record;
    record.container.as_ref()?;
    Some(DockerName::of(name, record.version))
}

/// The process that has a flock on this file.
fn holder(path: &Path) -> Option<i32> {
    let file = std::fs::metadata(path).ok()?;
    let text = files::read_bounded(Path::new("/proc/locks"), LOCKS).ok()?;
    let place = format!("{:02x}:{:02x}:{}", major(file.dev()), minor(file.dev()), file.ino());
    holder_in(&String::from_utf8_lossy(&text), &place)
}

/// Of lines like `1: FLOCK  ADVISORY  WRITE 708 00:17:4711 0 EOF`; those with an arrow only wait.
fn holder_in(locks: &str, place: &str) -> Option<i32> {
    locks.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let flock = fields.next()? == "FLOCK";
        let pid = fields.nth(2)?.parse().ok().filter(|pid| *pid > 0)?;
        (flock && fields.next()? == place).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuctl_ledger::node::lock;

    #[test]
    fn the_holder_of_a_lock_is_found_and_not_who_waits_for_it() {
        let locks = "1: POSIX  ADVISORY  WRITE 5 00:17:4711 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 708 00:17:4711 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 709 00:17:4711 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 710 00:18:4711 0 EOF\n";
        assert_eq!(holder_in(locks, "00:17:4711"), Some(708));
        assert_eq!(holder_in(locks, "00:18:4711"), Some(710));
        assert_eq!(holder_in(locks, "00:19:4711"), None);

        let dir = tempfile::tempdir().unwrap();
        let held = lock::take(dir.path(), "a", Duration::ZERO).unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(holder(&dir.path().join("a")), Some(me));
        drop(held);
        assert_eq!(holder(&dir.path().join("a")), None);
    }

    #[test]
    fn it_is_told_who_does_what_and_for_how_long() {
        let name = ContainerName::new("od").unwrap();
        let journal: Operation = serde_json::from_value(serde_json::json!({
            "schema": 1, "name": "od", "kind": "scale", "token": "370cb69f785e3af40119d520fcf51a19",
            "actor": {"pid": 1, "start": 2}, "boot_id": "92511cd4-595e-4cc8-aaaf-fdf7c6c7324b",
            "since": "2026-11-22T00:52:04.100Z", "by": "ada", "step": "restart", "data": {}
        }))
        .unwrap();
        let process = Some((4711, "docker-gpuctl".to_owned()));
        let age = Some(Duration::from_secs(45));
        let scale = UnderWay { name: name.clone(), process, journal: Some(journal.clone()), age };
        assert_eq!(
            scale.told(),
            "another scale of od by ada (docker-gpuctl, pid 4711) is under way for 45 s"
        );
        let shown = DockerName::new("od-0").unwrap();
        assert!(scale.hint(Some(&shown)).contains("docker kill od-0"));
        let claims = Operation { step: "claim".into(), ..journal };
        let claims = UnderWay { journal: Some(claims), ..scale };
        assert!(!claims.hint(Some(&shown)).contains("docker kill"), "it would not help");
        let stop = UnderWay { name, process: None, journal: None, age: None };
        assert_eq!(stop.told(), "another change to od is under way");
    }
}
