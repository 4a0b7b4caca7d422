//! A shortage in words: which GPUs, who holds them, since when, what is free, what to type.

use crate::model::{GpuRequest, NodeName, Timestamp};
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

fn row(index: u32, taken: &Taken, since: &dyn Fn(Timestamp) -> String) -> String {
    match taken {
        Taken::Held(lease) => {
            let holder = &lease.holder;
            let owner = match (&holder.owner, &holder.name) {
                (Some(owner), _) => owner.clone(),
                (None, None) => "- (docker run: owner unknown)".into(),
                (None, Some(_)) => "-".into(),
            };
            format!("GPU {index}  {}  {owner}  since {}", holder.shown(), since(lease.since))
        }
        Taken::Unhealthy(why) => format!("GPU {index}  not healthy: {why}"),
        Taken::Busy(by) => format!("GPU {index}  in use without a lease: {by}"),
        Taken::Mig => format!("GPU {index}  is cut into MIG devices"),
    }
}

/// The shortage in words. `request` is what was asked, `since` turns a time into text for people.
pub fn refusal(
    shortage: &Shortage,
    request: &GpuRequest,
    node: &NodeName,
    since: &dyn Fn(Timestamp) -> String,
) -> Refusal {
    let rows = |taken: &[(u32, Taken)]| -> Vec<String> {
        taken.iter().map(|(index, why)| row(*index, why, since)).collect()
    };
    let show = "docker gpuctl gpus shows all of them";
    let or_fewer = |free: u32| match free {
        0 => show.to_owned(),
        n => format!("{show}; --gpus {n} would start now"),
    };
    match shortage {
        Shortage::TooMany { asked, have } => {
            Refusal::plain(format!("{} asked for, {node} has {have}", gpus(*asked)), show)
        }
        Shortage::NotFree { asked, free, taken } => Refusal {
            headline: format!("{} asked for, {free} free on {node}", gpus(*asked)),
            rows: rows(taken),
            hint: or_fewer(*free),
        },
        Shortage::NotAll { have: 0, .. } => {
            Refusal::plain(format!("all GPUs asked for, {node} has none"), show)
        }
        Shortage::NotAll { free, have, taken } => Refusal {
            headline: format!("all GPUs asked for, {free} of {have} free on {node}"),
            rows: rows(taken),
            hint: or_fewer(*free),
        },
        Shortage::NamedTaken { taken } => {
            let list: Vec<String> = taken.iter().map(|(i, _)| i.to_string()).collect();
            let verb = if list.len() == 1 { "is" } else { "are" };
            Refusal {
                headline: format!("GPU {} of {request} {verb} not free on {node}", list.join(", ")),
                rows: rows(taken),
                hint: format!(
                    "{show}; --gpus {} takes any that are free",
                    request.number().unwrap_or(1)
                ),
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
        Shortage::Twice { index } => {
            Refusal::plain(format!("GPU {index} is named twice in {request}"), "name it once")
        }
    }
}
