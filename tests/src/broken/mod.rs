//! A change is broken off wherever it can be, and what comes next brings it to its end: exactly the old
//! state, or exactly the new one, and it is said which.
//!
//! Where it can be broken off is found by letting it run once: the points that the program itself names
//! (`engine/faults.rs`), and the requests that it makes of the Engine. Tests write no list of them.

mod look;
mod proxy;

use std::collections::{BTreeSet, VecDeque};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use gpuctl_sim::command;

pub use look::{Look, difference, look};
pub use proxy::{Cut, Proxy, What, When};

use crate::{Node, Output};

/// The longest that one command may take.
const LIMIT: Duration = Duration::from_secs(120);
/// The exit code that is shown of what kill -9 ended, and of what Ctrl-C did.
const KILLED: i32 = 137;
const INTERRUPTED: i32 = 130;
/// How long the Engine may go on with what nobody waits for any more.
const SETTLES: Duration = Duration::from_secs(20);

/// A change.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// What it is called.
    pub name: &'static str,
    /// Brings an empty node to the old state.
    pub before: fn(&Node),
    /// The change itself, after `docker gpuctl`.
    pub command: &'static [&'static str],
    /// It fails, and leaves the old state.
    pub fails: bool,
    /// A command that changes nothing, and ends what was broken off first.
    pub next: &'static [&'static str],
}

/// One way to break it off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Break {
    /// kill -9 at a point.
    Kill(String),
    /// Ctrl-C at a point.
    Interrupt(String),
    /// The connection to the Engine breaks, or the program is killed, at a request.
    Cut(Cut),
}

/// Who brings it to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mender {
    /// [`Change::next`].
    Next,
    /// `doctor --fix`.
    Doctor,
}

/// What came of it all.
#[derive(Debug, Default)]
pub struct Tally {
    /// How often something was broken off.
    pub tried: usize,
    /// How often it was the old state then.
    pub old: usize,
    /// How often the new one.
    pub new: usize,
    /// The steps that the program knows.
    pub steps: BTreeSet<String>,
    /// The points that it passed.
    pub points: BTreeSet<String>,
    /// What was wrong.
    pub wrong: Vec<String>,
}

impl Tally {
    /// Takes another one in.
    pub fn add(&mut self, other: Self) {
        self.tried += other.tried;
        self.old += other.old;
        self.new += other.new;
        self.steps.extend(other.steps);
        self.points.extend(other.points);
        self.wrong.extend(other.wrong);
    }
}

/// A command's end, and what it did on its way.
struct Ran {
    output: Output,
    points: Vec<String>,
    steps: Vec<String>,
    requests: Vec<String>,
}

/// The plugin by itself, without the Docker CLI around it, the first of a process group; through a
/// [`Proxy`].
fn run(node: &Node, words: &[&str], broken: Option<&Break>) -> Ran {
    let place = node.place();
    let (socket, points) = (place.at("proxy.sock"), place.at("points"));
    let _ = std::fs::remove_file(&points);
    let cut = match broken {
        Some(Break::Cut(cut)) => Some(*cut),
        _ => None,
    };
    let proxy = Proxy::start(&socket, &place.docker_socket(), cut);
    let host = format!("unix://{}", socket.display());
    let config = proxied(node, &host);
    let engine = node.site().engine();
    let mut plugin = std::process::Command::new(node.site().plugin());
    plugin.arg("gpuctl").args(words).envs(engine.environment());
    plugin.env("DOCKER_HOST", &host).env("GPUCTL_CONFIG", config).env("GPUCTL_POINTS_TO", &points);
    plugin.env("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", engine.docker().get_program());
    match broken {
        Some(Break::Kill(point)) => drop(plugin.env("GPUCTL_KILL_AT", point)),
        Some(Break::Interrupt(point)) => drop(plugin.env("GPUCTL_INTERRUPT_AT", point)),
        _ => {}
    }
    let output = command::run(&mut plugin, LIMIT).expect("the plugin starts");
    let text = std::fs::read_to_string(&points).unwrap_or_default();
    let of = |kind: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix(kind)).map(str::to_owned).collect()
    };
    Ran { output, points: of("point "), steps: of("step "), requests: proxy.requests() }
}

/// The node's config, with another way to the Engine.
fn proxied(node: &Node, host: &str) -> PathBuf {
    let path = node.place().at("proxied.toml");
    let text = std::fs::read_to_string(node.place().config()).expect("a config");
    let text = text.replace(&node.place().docker_host(), host);
    gpuctl_sim::files::write(&path, &text).expect("written");
    path
}

/// Everything goes: containers, volumes, images but the latest, records.
pub fn clear(node: &Node) {
    let images =
        |node: &Node| node.docker_ok(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
    let ledger = crate::state::ledger(node);
    let ports: Vec<u16> =
        ledger.keys().filter_map(|key| key.strip_prefix("ports/")?.parse().ok()).collect();
    node.gpuctl(&["doctor", "--fix"]);
    for name in node.gpuctl(&["ps", "-a", "--format", "{{.Name}}"]).stdout.lines() {
        node.gpuctl(&["rm", "-f", "-v", "--history", name]);
    }
    // What was removed keeps a history where it was removed without.
    for key in crate::state::ledger(node).keys() {
        if let Some(name) = key.strip_prefix("containers/") {
            node.gpuctl(&["rm", "-f", "-v", "--history", name]);
        }
    }
    for key in crate::state::ledger(node).keys() {
        if let Some(name) = key.strip_prefix("volumes/") {
            node.gpuctl(&["volume", "rm", "--history", name]);
        }
    }
    for id in node.docker_ok(&["ps", "-aq"]).lines() {
        node.docker(&["rm", "-f", "-v", id]);
    }
    for volume in node.docker_ok(&["volume", "ls", "-q"]).lines() {
        node.docker(&["volume", "rm", volume]);
    }
    for image in images(node).lines().filter(|image| !image.ends_with(":latest")) {
        node.docker_ok(&["rmi", "-f", image]);
    }
    // Docker's proxy may have one a moment longer, and the next container would get another.
    let until = Instant::now() + Duration::from_secs(10);
    for port in ports {
        while TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_err() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// One way: where it is broken off, who mends that, and where that one is killed in its turn.
#[derive(Debug, Clone)]
struct Way {
    how: Break,
    mender: Mender,
    again: Option<Break>,
}

/// Lets a change run once and breaks it off at those of its places that are chosen, by their number.
pub fn every_way(node: &Node, change: &Change, chosen: &dyn Fn(usize) -> bool) -> Tally {
    let mut tally = Tally::default();
    (change.before)(node);
    let old = look(node);
    let whole = run(node, change.command, None);
    let new = look(node);
    let differ = difference(&old, &new);
    if (whole.output.code != 0) != change.fails || differ.is_empty() != change.fails {
        tally.wrong.push(format!("{}, whole: {differ:#?}\n{}", change.name, whole.output));
        clear(node);
        return tally;
    }
    tally.steps.extend(whole.steps.iter().cloned());
    tally.points.extend(whole.points.iter().cloned());
    let mut all: VecDeque<Way> = breaks(&whole).into();
    let mut is_old = change.fails;
    let mut number = 0;
    while let Some(way) = all.pop_front() {
        number += 1;
        if !chosen(number - 1) {
            continue;
        }
        if !is_old {
            clear(node);
            (change.before)(node);
            let again = look(node);
            if old != again {
                let differ = difference(&old, &again);
                tally.wrong.push(format!("{}, made again: {differ:#?}", change.name));
                break;
            }
        }
        let began = Instant::now();
        let got = broken(node, change, &way, (&old, &new), &mut all);
        let shown = match &got {
            Ok(true) => "new",
            Ok(false) => "old",
            Err(_) => "WRONG",
        };
        let at = format!("{}: {way:?}", change.name);
        eprintln!("{at}: {shown} in {:.1} s", began.elapsed().as_secs_f64());
        tally.tried += 1;
        match &got {
            Ok(true) => tally.new += 1,
            Ok(false) => tally.old += 1,
            Err(why) => {
                eprintln!("{why}");
                tally.wrong.push(format!("{at}: {why}"));
            }
        }
        is_old = got == Ok(false);
    }
    clear(node);
    tally
}

/// Lets a change run once: what the program knew and passed on its way.
pub fn once(node: &Node, change: &Change) -> Tally {
    (change.before)(node);
    let whole = run(node, change.command, None);
    assert_eq!(whole.output.code != 0, change.fails, "{}: {}", change.name, whole.output);
    clear(node);
    let (steps, points) = (whole.steps.into_iter().collect(), whole.points.into_iter().collect());
    Tally { steps, points, ..Tally::default() }
}

/// All ways to break it off, found by how it went.
fn breaks(whole: &Ran) -> Vec<Way> {
    let mut all = Vec::new();
    for point in &whole.points {
        let kill = || Break::Kill(point.clone());
        all.push(Way { how: kill(), mender: Mender::Next, again: None });
        all.push(Way { how: kill(), mender: Mender::Doctor, again: None });
        let how = Break::Interrupt(point.clone());
        all.push(Way { how, mender: Mender::Next, again: None });
    }
    for at in 0..whole.requests.len() {
        for (number, (when, what)) in [
            (When::Before, What::Kill),
            (When::During, What::Kill),
            (When::After, What::Kill),
            (When::Before, What::Lose),
            (When::After, What::Lose),
            (When::Before, What::LoseAll),
            (When::After, What::LoseAll),
        ]
        .into_iter()
        .enumerate()
        {
            let mender = if (at + number) % 2 == 0 { Mender::Next } else { Mender::Doctor };
            all.push(Way { how: Break::Cut(Cut { at, when, what }), mender, again: None });
        }
    }
    all
}

/// The names of what stands open in the ledger.
fn open(node: &Node) -> Vec<String> {
    let records = crate::state::ledger(node);
    records.into_keys().filter(|key| key.contains("operations/")).collect()
}

/// The places where who mends can be killed, by how that went.
fn deaths(way: &Way, mended: &Ran) -> impl Iterator<Item = Way> {
    let points = mended.points.iter().map(|point| Break::Kill(point.clone()));
    let cuts = (0..mended.requests.len()).flat_map(|at| {
        let cut = move |when| Break::Cut(Cut { at, when, what: What::Kill });
        [cut(When::Before), cut(When::After)]
    });
    let way = way.clone();
    let again: Vec<Break> = points.chain(cuts).collect();
    again.into_iter().map(move |again| Way { again: Some(again), ..way.clone() })
}

/// Breaks it off once and has it brought to its end: whether that is the new state. Where who ends it
/// can be killed in turn is put on the list.
fn broken(
    node: &Node,
    change: &Change,
    way: &Way,
    (old, new): (&Look, &Look),
    all: &mut VecDeque<Way>,
) -> Result<bool, String> {
    let Ran { output: ran, points, .. } = run(node, change.command, Some(&way.how));
    node.check_exclusive();
    if ran.code == command::TIMED_OUT {
        return Err(format!("it does not end: {ran}"));
    }
    let killed = matches!(way.how, Break::Kill(_) | Break::Cut(Cut { what: What::Kill, .. }));
    if killed && ran.code != KILLED {
        return Err(format!("it was not killed: {ran}"));
    }
    let mut left = open(node);
    if matches!(way.how, Break::Interrupt(_)) && !left.is_empty() {
        return Err(format!("{left:?} is open after an interrupt: {ran}"));
    }
    let why = ["error: ", "interrupted"].iter().any(|word| ran.stderr.contains(word));
    if !killed && ran.code != 0 && !why {
        return Err(format!("it does not say why it failed: {ran}"));
    }
    if let Some(again) = &way.again {
        let dead = run(node, words(change, way.mender), Some(again)).output;
        node.check_exclusive();
        if dead.code != KILLED {
            return Err(format!("who ends it was not killed: {dead}"));
        }
        left = open(node);
    }
    let said = if killed || !left.is_empty() {
        let mended = run(node, words(change, way.mender), None);
        if matches!(way.how, Break::Kill(_)) && way.again.is_none() && !left.is_empty() {
            all.extend(deaths(way, &mended));
        }
        Some(mended.output)
    } else {
        None
    };
    // One request is all of it, and its answer was lost: that is said, and more is not known.
    let unknown = points.is_empty() && ran.stderr.contains("cannot be reached");
    let shown = format!("{ran}\n{}", said.as_ref().map(Output::to_string).unwrap_or_default());
    let is_new = settles(node, (old, new)).map_err(|why| format!("{why}\n{shown}"))?;
    if let Some(said) = &said {
        let text = format!("{}{}", said.stdout, said.stderr);
        let told: Vec<&str> = text.lines().filter(|line| line.contains("broken off")).collect();
        let word = if is_new { "it is done" } else { "it is undone" };
        if left.is_empty() && !told.is_empty() {
            return Err(format!("nothing was open, and it says {told:?}\n{shown}"));
        }
        if !left.is_empty() && !told.iter().any(|line| line.contains(word)) {
            return Err(format!("{word:?} is not said\n{shown}"));
        }
    } else if !change.fails && is_new != (ran.code == 0) && ran.code != INTERRUPTED && !unknown {
        return Err(format!("new: {is_new}\n{shown}"));
    }
    // What was stopped by hand is kept for some seconds.
    let until = Instant::now() + SETTLES;
    loop {
        let doctor = node.gpuctl(&["doctor"]);
        if doctor.stdout.contains("ledger, node and Docker agree") {
            break;
        }
        if Instant::now() > until {
            return Err(format!("there is more to mend\n{shown}\n{doctor}"));
        }
        std::thread::sleep(Duration::from_millis(300));
    }
    node.check();
    settles(node, (old, new)).map_err(|why| format!("after doctor: {why}\n{shown}"))
}

fn words(change: &Change, mender: Mender) -> &'static [&'static str] {
    match mender {
        Mender::Next => change.next,
        Mender::Doctor => &["doctor", "--fix"],
    }
}

/// Whether it is the new state; the Engine may be at work still, on what nobody waits for.
fn settles(node: &Node, (old, new): (&Look, &Look)) -> Result<bool, String> {
    let until = Instant::now() + SETTLES;
    loop {
        let now = look(node);
        if now == *old {
            return Ok(false);
        }
        if now == *new {
            return Ok(true);
        }
        if Instant::now() > until {
            let (from_old, from_new) = (difference(old, &now), difference(new, &now));
            return Err(format!(
                "neither old nor new\nfrom the old: {from_old:#?}\nfrom the new: {from_new:#?}"
            ));
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}
