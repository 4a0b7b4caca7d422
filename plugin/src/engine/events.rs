//! events: what was decided about GPUs, as the audit log has it, and what is decided from now on.

use std::collections::VecDeque;
use std::time::Duration;

use gpuctl_ledger::audit::Entry;
use gpuctl_ledger::config::plain_io_error;
use gpuctl_ledger::model::{DockerName, Inventory, Timestamp};

use super::api::{Answer, Event, EventsRequest, Failure, Front};
use super::context::Context;
use super::tail::Tail;
use crate::client::signals;

/// How often it is looked for more.
const LOOK: Duration = Duration::from_millis(250);
/// The most lines that are kept back to show the last of them.
const MOST_KEPT: usize = 100_000;

/// Shows what there is, then what comes, until the time that was asked for, or nobody looks on.
///
/// # Errors
/// When the log cannot be read, a GPU is meant that is not there, or the service ends.
pub(super) fn events(
    ctx: &Context,
    request: &EventsRequest,
    front: &mut dyn Front,
) -> Result<Answer, Failure> {
    let inventory = ctx.view().inventory().ok();
    let asked = Asked::of(request, inventory.as_ref())?;
    let unreadable = |e: std::io::Error| {
        Failure::new(format!("the audit log cannot be read: {}", plain_io_error(&e)))
            .hint("docker gpuctl doctor tells more of this node")
    };
    let mut tail = Tail::begin(&ctx.config.paths).map_err(unreadable)?;
    let show = |entry: Entry, front: &mut dyn Front| {
        let indexes = indexes(&entry, inventory.as_ref());
        front.event(Event::Decision { entry: Box::new(entry), indexes });
    };
    if let Some(most) = request.tail {
        let most = usize::try_from(most).unwrap_or(MOST_KEPT).min(MOST_KEPT);
        let mut last = VecDeque::new();
        let mut keep = |entry: Entry| {
            if asked.means(&entry) {
                last.push_back(entry);
                if last.len() > most {
                    last.pop_front();
                }
            }
            front.listens()
        };
        tail.read(&mut keep).map_err(unreadable)?;
        for entry in last {
            show(entry, front);
        }
    }
    loop {
        // The end is fixed before the log is read: what was written by then is shown.
        let now = Timestamp::now();
        let mut each = |entry: Entry| {
            if asked.means(&entry) {
                show(entry, front);
            }
            front.listens()
        };
        tail.read(&mut each).map_err(unreadable)?;
        if !front.listens() {
            break;
        }
        let Some(until) = request.until else {
            std::thread::sleep(LOOK);
            continue;
        };
        if now >= until {
            break;
        }
        std::thread::sleep(LOOK.min(Duration::from_millis(until.millis_since(now).max(1))));
    }
    if signals::interrupted() {
        return Err(Failure::new("the gpuctl service ends, and nothing more is shown")
            .hint("docker gpuctl events --since 1m goes on once it is there again"));
    }
    Ok(Answer::Events)
}

/// What is asked for, with the GPUs known.
struct Asked<'a> {
    request: &'a EventsRequest,
    /// UUIDs, or beginnings of them, in lower case.
    gpus: Vec<String>,
}

impl<'a> Asked<'a> {
    fn of(request: &'a EventsRequest, inventory: Option<&Inventory>) -> Result<Self, Failure> {
        let gpu = |text: &String| {
            let Ok(index) = text.parse::<u32>() else { return Ok(text.to_ascii_lowercase()) };
            let known = inventory.and_then(|i| i.gpus.iter().find(|gpu| gpu.index == index));
            known.map(|gpu| gpu.unit.as_str().to_ascii_lowercase()).ok_or_else(|| {
                Failure::new(format!("--filter gpu={text}: this node has no GPU {index}"))
                    .hint("docker gpuctl gpus shows all of them; a UUID names one that is gone")
            })
        };
        let gpus = request.gpus.iter().map(gpu).collect::<Result<_, _>>()?;
        Ok(Self { request, gpus })
    }

    /// Whether a decision is meant. As in Docker, values of one key are alternatives, and keys must
    /// all hold.
    fn means(&self, entry: &Entry) -> bool {
        let EventsRequest { since, until, containers, decisions, users, .. } = self.request;
        let any = |given: bool, holds: bool| !given || holds;
        since.is_none_or(|since| entry.time >= since)
            && until.is_none_or(|until| entry.time <= until)
            && any(!decisions.is_empty(), decisions.contains(&entry.decision))
            && any(
                !users.is_empty(),
                users.iter().any(|u| entry.user.as_ref().is_some_and(|e| e == u)),
            )
            && any(!containers.is_empty(), containers.iter().any(|c| is_container(entry, c)))
            && any(
                !self.gpus.is_empty(),
                entry.gpus.iter().any(|unit| {
                    let unit = unit.as_str().to_ascii_lowercase();
                    self.gpus.iter().any(|gpu| unit.starts_with(gpu.as_str()))
                }),
            )
    }
}

/// Whether a container is meant by its name in Docker, its managed name, its id or a beginning of it.
fn is_container(entry: &Entry, text: &str) -> bool {
    let managed = || DockerName::split(&entry.name).is_some_and(|(name, _)| name.as_str() == text);
    let by_id = !text.is_empty() && entry.container.starts_with(text);
    entry.name == text || by_id || managed()
}

fn indexes(entry: &Entry, inventory: Option<&Inventory>) -> Vec<u32> {
    let known = |unit| inventory?.by_unit(unit).map(|gpu| gpu.index);
    let mut indexes: Vec<u32> = entry.gpus.iter().filter_map(known).collect();
    indexes.sort_unstable();
    indexes
}

#[cfg(test)]
mod tests {
    use gpuctl_ledger::audit::Decision;
    use gpuctl_ledger::model::Unit;

    use super::*;

    #[test]
    fn filters_of_one_key_are_alternatives_and_keys_must_all_hold() {
        let units = [Unit::new("GPU-aa11").unwrap(), Unit::new("GPU-bb22").unwrap()];
        let entry = Entry::new(Decision::Granted, "4e530d075be1", "train-1")
            .user(Some("ann".into()))
            .gpus(&units);
        let means = |edit: &dyn Fn(&mut EventsRequest)| {
            let mut request = EventsRequest::default();
            edit(&mut request);
            Asked::of(&request, None).unwrap().means(&entry)
        };
        assert!(means(&|_| {}));
        for (name, there) in
            [("train", true), ("train-1", true), ("4e53", true), ("train-2", false), ("", false)]
        {
            assert_eq!(means(&|r| r.containers = vec![name.into()]), there, "{name}");
        }
        assert!(means(&|r| r.containers = vec!["x".into(), "train".into()]));
        assert!(means(&|r| r.gpus = vec!["gpu-AA11".into()]));
        assert!(!means(&|r| r.gpus = vec!["GPU-cc".into()]));
        assert!(!means(&|r| {
            r.gpus = vec!["GPU-aa".into()];
            r.decisions = vec![Decision::Refused];
        }));
        assert!(means(&|r| r.users = vec!["ann".into()]));
        assert!(!means(&|r| r.users = vec!["bob".into()]));
        assert!(!means(&|r| r.since = Some(Timestamp::from_millis(i64::MAX))));
        assert!(!means(&|r| r.until = Some(Timestamp::EPOCH)));
        let request = EventsRequest { gpus: vec!["17".into()], ..EventsRequest::default() };
        assert!(Asked::of(&request, None).is_err());
    }
}
