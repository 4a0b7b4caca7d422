//! events: what was decided about GPUs, as the audit log has it, and what is decided from now on.

use std::collections::VecDeque;
use std::time::Duration;

use gpuctl_ledger::audit::Entry;
use gpuctl_ledger::config::plain_io_error;
use gpuctl_ledger::model::{DockerName, Inventory, Place, Timestamp, Unit};

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
        let indexes = places(&entry, inventory.as_ref());
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
    inventory: Option<&'a Inventory>,
    gpus: Vec<Meant>,
}

/// What `gpu=` means.
enum Meant {
    /// Where it stands; a GPU with all its parts.
    Place(Place),
    /// A UUID, or the beginning of one, in lower case.
    Uuid(String),
}

impl Meant {
    fn is(&self, unit: &Unit, inventory: Option<&Inventory>) -> bool {
        match self {
            Self::Place(meant) => {
                let piece = inventory.and_then(|inventory| inventory.piece(unit));
                piece.is_some_and(|piece| match meant {
                    Place::Whole(gpu) => piece.gpu.index == *gpu,
                    part => piece.place() == *part,
                })
            }
            Self::Uuid(beginning) => unit.as_str().to_ascii_lowercase().starts_with(beginning),
        }
    }
}

impl<'a> Asked<'a> {
    fn of(request: &'a EventsRequest, inventory: Option<&'a Inventory>) -> Result<Self, Failure> {
        let gpu = |text: &String| {
            let Some(place) = Place::read(text) else {
                return Ok(Meant::Uuid(text.to_ascii_lowercase()));
            };
            let gpus = inventory.map(|inventory| inventory.gpus.iter()).into_iter().flatten();
            let there = gpus.filter(|gpu| gpu.index == place.gpu()).any(|gpu| match place {
                Place::Mig(..) => gpu.pieces().any(|piece| piece.place() == place),
                // There may have been more slots.
                Place::Whole(_) | Place::Slot(..) => true,
            });
            if there {
                return Ok(Meant::Place(place));
            }
            Err(Failure::new(format!("--filter gpu={text}: this node has no GPU {place}"))
                .hint("docker gpuctl gpus shows all of them; a UUID names one that is gone"))
        };
        let gpus = request.gpus.iter().map(gpu).collect::<Result<_, _>>()?;
        Ok(Self { request, inventory, gpus })
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
                entry.gpus.iter().any(|unit| self.gpus.iter().any(|g| g.is(unit, self.inventory))),
            )
    }
}

/// Whether a container is meant by its name in Docker, its managed name, its id or a beginning of it.
fn is_container(entry: &Entry, text: &str) -> bool {
    let managed = || DockerName::split(&entry.name).is_some_and(|(name, _)| name.as_str() == text);
    let by_id = !text.is_empty() && entry.container.starts_with(text);
    entry.name == text || by_id || managed()
}

/// Where its GPUs and parts of GPUs stand, of those that the node has.
fn places(entry: &Entry, inventory: Option<&Inventory>) -> Vec<Place> {
    let known = |unit| inventory?.piece(unit).map(|piece| piece.place());
    let mut places: Vec<Place> = entry.gpus.iter().filter_map(known).collect();
    places.sort_unstable_by_key(|place| (place.gpu(), *place));
    places
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

    #[test]
    fn parts_of_gpus_are_shown_and_found_by_where_they_stand() {
        let inventory: Inventory = serde_json::from_str(
            r#"{"schema":1,"at":"2026-01-01T00:00:00Z","driver":"1","gpus":[
            {"index":5,"unit":"GPU-a","minor":1,"model":"m","pci":"0","memory":8,"mig":[
              {"index":0,"unit":"MIG-a","memory":2,"caps":[3,4]},{"index":2,"unit":"MIG-b","memory":2,"caps":[5,6]}]},
            {"index":6,"unit":"GPU-b","minor":0,"model":"m","pci":"1","memory":8}]}"#,
        )
        .unwrap();
        let entry = |units: &[&str]| {
            let units: Vec<Unit> = units.iter().map(|u| Unit::new(*u).unwrap()).collect();
            Entry::new(Decision::Granted, "4e530d075be1", "train-1").gpus(&units)
        };
        let both = entry(&["GPU-b/1", "MIG-b"]);
        let shown = places(&both, Some(&inventory));
        assert_eq!(shown, [Place::Mig(5, 2), Place::Slot(6, 1)]);
        assert_eq!(places(&entry(&["GPU-b"]), Some(&inventory)), [Place::Whole(6)]);
        let means = |gpu: &str, entry: &Entry| {
            let request = EventsRequest { gpus: vec![gpu.into()], ..EventsRequest::default() };
            Asked::of(&request, Some(&inventory)).map(|asked| asked.means(entry)).ok()
        };
        for (gpu, found) in [
            ("5", Some(true)),
            ("6", Some(true)),
            ("5:2", Some(true)),
            ("6/1", Some(true)),
            ("mig-b", Some(true)),
            ("5:0", Some(false)),
            ("6/0", Some(false)),
            ("GPU-a", Some(false)),
            ("5:1", None),
            ("7/0", None),
        ] {
            assert_eq!(means(gpu, &both), found, "{gpu}");
        }
        assert_eq!(means("6/1", &entry(&["GPU-b"])), Some(false));
        assert_eq!(means("6", &entry(&["GPU-b"])), Some(true));
    }
}
