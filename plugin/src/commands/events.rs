//! `docker gpuctl events`.

use gpuctl_ledger::audit::Decision;
use gpuctl_ledger::model::Timestamp;

use super::list_args::{format, pair};
use super::session::{Session, odd};
use crate::client::when;
use crate::engine::api::{Answer, Event, EventsRequest, Failure, Front, Request};
use crate::ui::{self, Format, Told, View};

/// So many of the last decisions are shown where no time is given.
const LAST: u32 = 20;

/// Show decisions about GPUs, and follow them
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// From this time on: a point in time, or how long ago (10m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Up to this time, and no longer: 0s shows what there is
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only the last of those that there are: a number, or all
    #[arg(short = 'n', long, value_name = "NUMBER")]
    tail: Option<String>,
    /// Only these: container=NAME, gpu=INDEX or UUID, decision=WORD, user=NAME
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = pair)]
    filter: Vec<String>,
    /// Format output: table, json, or a template as '{{.Field}}'
    #[arg(long, value_name = "FORMAT", value_parser = format, default_value = "table", hide_default_value = true)]
    format: Format,
}

fn wrong(text: impl Into<String>) -> Failure {
    Failure::new(text).hint("docker gpuctl events --help")
}

fn request(args: &Args, now: Timestamp) -> Result<EventsRequest, Failure> {
    let time = |flag: &str, text: &Option<String>| {
        let read = text.as_deref().map(|text| when::read(text, now)).transpose();
        read.map_err(|why| wrong(format!("--{flag} {why}")))
    };
    let (since, until) = (time("since", &args.since)?, time("until", &args.until)?);
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(wrong("--since is after --until"));
    }
    let tail = match args.tail.as_deref() {
        Some("all") => None,
        Some(text) => {
            let number = text
                .parse()
                .map_err(|_| wrong(format!("--tail {text:?} is neither a number nor all")))?;
            Some(number)
        }
        None if since.is_some() || until.is_some() => None,
        None => Some(LAST),
    };
    let mut request = EventsRequest { since, until, tail, ..EventsRequest::default() };
    for filter in &args.filter {
        let (key, value) = filter.split_once('=').unwrap_or((filter, ""));
        match key {
            "container" => request.containers.push(value.to_owned()),
            "gpu" => request.gpus.push(value.to_owned()),
            "user" => request.users.push(value.to_owned()),
            "decision" => {
                let decision = Decision::of_word(value).ok_or_else(|| {
                    let all: Vec<&str> = Decision::ALL.iter().map(|d| d.word()).collect();
                    wrong(format!("there is no decision {value:?}, only {}", all.join(", ")))
                })?;
                request.decisions.push(decision);
            }
            _ => {
                return Err(wrong(format!(
                    "--filter knows no {key:?}, only container, gpu, decision and user"
                )));
            }
        }
    }
    Ok(request)
}

pub(super) fn events(session: &Session, args: &Args) -> Result<u8, Failure> {
    let request = request(args, Timestamp::now())?;
    let view = View::stdout(args.format, false, false);
    // What is wrong with a template is said before anybody is asked.
    ui::DECISIONS.show(&[], &view).map_err(wrong)?;
    let mut shown = Shown { view };
    match session.follow(Request::Events(request), &mut shown)? {
        Answer::Events => Ok(0),
        _ => Err(odd()),
    }
}

/// Prints decisions as they come.
struct Shown {
    view: View,
}

impl Front for Shown {
    fn event(&mut self, event: Event) {
        match event {
            Event::Decision { entry, indexes } => {
                let told = Told { entry: *entry, indexes };
                // Of a field inside a field it is known only here that there is none.
                match ui::decision(&told, &self.view) {
                    Ok(text) => ui::print(&text),
                    Err(why) => ui::tell(&format!("warning: {why}")),
                }
            }
            Event::Progress(_) | Event::View(_) => {}
            Event::Note { text } => ui::tell(&text),
            Event::Warning { text } => ui::tell(&format!("warning: {text}")),
        }
    }

    fn user(&self) -> Option<String> {
        None
    }

    fn listens(&mut self) -> bool {
        !ui::is_unwritten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Args {
        Args { since: None, until: None, tail: None, filter: Vec::new(), format: Format::Table }
    }

    #[test]
    fn what_is_asked_for_is_read_and_what_is_wrong_named() {
        let now = Timestamp::from_millis(10_000_000);
        let filter = |words: &[&str]| {
            let filter = words.iter().map(|w| (*w).to_owned()).collect();
            request(&Args { filter, ..args() }, now)
        };
        assert_eq!(request(&args(), now).unwrap().tail, Some(LAST));
        let since = request(&Args { since: Some("10m".into()), ..args() }, now).unwrap();
        assert_eq!((since.tail, since.since), (None, Some(Timestamp::from_millis(9_400_000))));
        let many =
            filter(&["container=a", "gpu=2", "decision=refused", "user=x", "gpu=3"]).unwrap();
        assert_eq!((many.gpus.len(), many.decisions[0]), (2, Decision::Refused));
        for bad in ["colour=red", "decision=maybe"] {
            assert!(filter(&[bad]).is_err(), "{bad}");
        }
        let bad = Args { since: Some("1m".into()), until: Some("2m".into()), ..args() };
        assert!(request(&bad, now).unwrap_err().message.contains("after"));
        let bad = Args { tail: Some("some".into()), ..args() };
        assert!(request(&bad, now).is_err());
    }
}
