//! A shortage in words: which GPUs, who holds them, since when, what is free, what to type.

use crate::model::{GpuRequest, Kind, Lease, NodeName, Place, Timestamp};
use crate::rules::allocate::{Shortage, Taken};

/// A refusal in three parts: for a terminal on lines of their own, for a runtime's error on one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was asked and what is so.
    pub headline: String,
    /// A line for each GPU in the way.
    pub rows: Vec<String>,
    /// What to type next.
    pub hint: String,
}

impl Refusal {
    /// A refusal without a table.
    pub fn plain(headline: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { headline: headline.into(), rows: Vec::new(), hint: hint.into() }
    }

    /// All of it on one line, at most four rows long: what Docker shows of a runtime's error.
    pub fn one_line(&self) -> String {
        let mut line = self.headline.clone();
        for (i, row) in self.rows.iter().enumerate() {
            if i == 4 {
                line.push_str(&format!("; and {} more", self.rows.len() - 4));
                break;
            }
            line.push_str("; ");
            line.push_str(&row.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        if !self.hint.is_empty() {
            line.push_str("; hint: ");
            line.push_str(&self.hint);
        }
        line
    }
}

fn gpus(n: u32) -> String {
    if n == 1 { "1 GPU".into() } else { format!("{n} GPUs") }
}

fn holder(lease: &Lease, since: &dyn Fn(Timestamp) -> String) -> String {
    let holder = &lease.holder;
    let owner = match (&holder.owner, &holder.name) {
        (Some(owner), _) => owner.clone(),
        (None, None) => "- (docker run: owner unknown)".into(),
        (None, Some(_)) => "-".into(),
    };
    format!("{}  {owner}  since {}", holder.shown(), since(lease.since))
}

fn row(place: Place, taken: &Taken, since: &dyn Fn(Timestamp) -> String) -> String {
    match taken {
        Taken::Held(lease) => format!("GPU {place}  {}", holder(lease, since)),
        Taken::Overlap(other, lease) => {
            format!("GPU {place}  {}  (holds GPU {other})", holder(lease, since))
        }
        Taken::Unhealthy(why) => format!("GPU {place}  not healthy: {why}"),
        Taken::Busy(by) => format!("GPU {place}  in use without a lease: {by}"),
        Taken::Mig => format!("GPU {place}  is cut into MIG devices: device={place}:0 and so on"),
        Taken::Full => format!("GPU {place}  is shared by as many as may"),
    }
}

/// So many of what was asked for.
fn asked_for(request: &GpuRequest, n: u32) -> String {
    let GpuRequest::Matching(wanted) = request else { return gpus(n) };
    let (one, many) = match wanted.kind {
        Kind::Whole => ("GPU", "GPUs"),
        Kind::Mig => ("MIG device", "MIG devices"),
        Kind::Shared => ("slot of a shared GPU", "slots of shared GPUs"),
    };
    let word = if n == 1 { one } else { many };
    match wanted.attributes() {
        text if text.is_empty() => format!("{n} {word}"),
        text => format!("{n} {word} with {text}"),
    }
}

/// The shortage in words. `request` is what was asked, `since` turns a time into text for people.
pub fn refusal(
    shortage: &Shortage,
    request: &GpuRequest,
    node: &NodeName,
    since: &dyn Fn(Timestamp) -> String,
) -> Refusal {
    let rows = |taken: &[(Place, Taken)]| -> Vec<String> {
        taken.iter().map(|(place, why)| row(*place, why, since)).collect()
    };
    let show = "docker gpuctl gpus shows all of them";
    let or_fewer = |free: u32| match (free, request) {
        (0, _) | (_, GpuRequest::Matching(_)) => show.to_owned(),
        (n, _) => format!("{show}; --gpus {n} would start now"),
    };
    match shortage {
        Shortage::TooMany { asked, have } => {
            Refusal::plain(format!("{} asked for, {node} has {have}", gpus(*asked)), show)
        }
        Shortage::NotFree { asked, free, taken } => Refusal {
            headline: format!("{} asked for, {free} free on {node}", asked_for(request, *asked)),
            rows: rows(taken),
            hint: or_fewer(*free),
        },
        Shortage::NoneLike { wanted, have, kinds } => {
            let asked = asked_for(request, wanted.count);
            let (one, what) = match wanted.kind {
                Kind::Whole => ("whole GPU", "whole GPUs"),
                Kind::Mig => ("MIG device", "MIG devices"),
                Kind::Shared => ("slot of a shared GPU", "slots of shared GPUs"),
            };
            let has = match (*have, kinds.as_slice()) {
                (_, []) => format!("{node} has no {what}"),
                (0, _) => format!("no {one} of {node} is so"),
                (n, _) => format!("{node} has {n} of them"),
            };
            let hint = match (kinds.is_empty(), wanted.kind) {
                (true, Kind::Shared) => format!("{show}; [[gpu.shared]] in the config shares some"),
                _ => show.to_owned(),
            };
            Refusal {
                headline: format!("{asked} asked for, {has}"),
                rows: kinds.iter().map(|kind| format!("has {kind}")).collect(),
                hint,
            }
        }
        Shortage::NotAll { have: 0, .. } => Refusal::plain(
            format!("all GPUs asked for, {node} has none that is whole"),
            format!("{show}; docker gpuctl run --gpus mig=1 asks for a MIG device"),
        ),
        Shortage::NotAll { free, have, taken } => Refusal {
            headline: format!("all GPUs asked for, {free} of {have} free on {node}"),
            rows: rows(taken),
            hint: or_fewer(*free),
        },
        Shortage::NamedTaken { free, taken } => {
            let list: Vec<String> = taken.iter().map(|(i, _)| i.to_string()).collect();
            let verb = if list.len() == 1 { "is" } else { "are" };
            let whole = taken.iter().all(|(place, _)| matches!(place, Place::Whole(_)));
            let any = match request.number().unwrap_or(1) {
                n if whole && n <= *free => format!("; --gpus {n} takes any that are free"),
                _ => String::new(),
            };
            Refusal {
                headline: format!("GPU {} of {request} {verb} not free on {node}", list.join(", ")),
                rows: rows(taken),
                hint: format!("{show}{any}"),
            }
        }
        Shortage::NoSuch { named, have } => {
            let range = match have {
                0 => "no GPU".to_owned(),
                1 => "GPU 0 only".to_owned(),
                n => format!("GPUs 0 to {}", n - 1),
            };
            Refusal::plain(format!("{node} has no GPU {named}, it has {range}"), show)
        }
        Shortage::Twice { first, second } if first == second => {
            Refusal::plain(format!("GPU {first} is named twice in {request}"), "name it once")
        }
        Shortage::Twice { first, second } => Refusal::plain(
            format!("GPU {first} and GPU {second} of {request} are one and the same GPU"),
            "name one of them",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Wanted;

    #[test]
    fn any_that_are_free_are_offered_only_where_there_are_enough() {
        let node = NodeName::new("n1").unwrap();
        let request: GpuRequest = "device=0,1".parse().unwrap();
        let said = |free| {
            let taken = vec![(Place::Whole(0), Taken::Mig)];
            refusal(&Shortage::NamedTaken { free, taken }, &request, &node, &|_| String::new())
        };
        assert!(said(2).hint.ends_with("; --gpus 2 takes any that are free"));
        assert_eq!(said(1).hint, "docker gpuctl gpus shows all of them");
    }

    #[test]
    fn that_nothing_is_as_asked_is_said_in_the_singular_of_each_kind() {
        let node = NodeName::new("n1").unwrap();
        for (kind, headline) in [
            (Kind::Whole, "1 GPU with name=B200 asked for, no whole GPU of n1 is so"),
            (Kind::Mig, "1 MIG device with name=B200 asked for, no MIG device of n1 is so"),
            (
                Kind::Shared,
                "1 slot of a shared GPU with name=B200 asked for, no slot of a shared GPU of n1 is so",
            ),
        ] {
            let GpuRequest::Matching(wanted) = "count=1,name=B200".parse().unwrap() else {
                panic!()
            };
            let wanted = Wanted { kind, ..wanted };
            let kinds = vec!["2 x NVIDIA A100 (40960MiB)".to_owned()];
            let shortage = Shortage::NoneLike { wanted: wanted.clone(), have: 0, kinds };
            let said = refusal(&shortage, &GpuRequest::Matching(wanted), &node, &|_| String::new());
            assert_eq!(said.headline, headline);
        }
    }
}
