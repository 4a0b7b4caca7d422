//! Where tests break changes off, and how. Compiled with the feature `faults` only: in no release.
//!
//! Before and after each step of a journal and after its end the program passes a point:
//! `replace:carry:begun`, `replace:carry:done`, `replace:end:done`; of several changes of one kind one is
//! meant by its name too, `replace:carry:done@train`. The environment tells what happens there:
//! `GPUCTL_KILL_AT` kills the program, `GPUCTL_INTERRUPT_AT` sends it what Ctrl-C sends,
//! `GPUCTL_POINTS_TO` is a file that gets a line for each point that is passed, after one for each step
//! that there is. A journal at a step that is not in the list below ends the program: so none can be
//! added that tests know nothing of.

use std::io::Write as _;
use std::sync::Once;
use std::time::Duration;

use nix::sys::signal::{Signal, kill, raise};
use nix::unistd::Pid;

/// The steps of all changes.
const STEPS: &[(&str, &[&str])] = &[
    ("run", &["ports", "create", "start"]),
    ("scale", &["claim", "restart", "rename", "undo"]),
    ("update", &["claim", "restart", "rename", "undo"]),
    ("replace", &["ports", "claim", "stop", "create", "carry", "start", "record", "undo"]),
    ("remove", &["remove", "forget"]),
    ("rename", &["copy", "names", "records", "forget"]),
    ("adopt", &["name", "alias", "records"]),
    ("snapshot", &["copy"]),
    ("prune", &["remove"]),
    ("clone", &["ports", "create", "carry", "start"]),
    ("volume-create", &["make"]),
    ("volume-resize", &["make", "stop", "copy", "move", "record"]),
    ("volume-in-place", &["offline", "grow", "swap"]),
    ("volume-rm", &["remove"]),
];

/// How long the thread that waits for signals may take to note one.
const NOTED: Duration = Duration::from_millis(100);

/// The program passes a point of a change to what is shown as `shown`.
pub(super) fn pass(change: &str, step: &str, when: &str, shown: &str) {
    let known = |(name, steps): &(&str, &[&str])| *name == change && steps.contains(&step);
    if step != "end" && !STEPS.iter().any(known) {
        crate::ui::tell(&format!("{change}:{step} is in no list of steps: see engine/faults.rs"));
        let _ = raise(Signal::SIGABRT);
    }
    let here = format!("{change}:{step}:{when}");
    let this = format!("{here}@{shown}");
    note(&this);
    crate::faults::point(&here);
    crate::faults::point(&this);
    if std::env::var("GPUCTL_INTERRUPT_AT").is_ok_and(|at| at == here || at == this) {
        let _ = kill(Pid::this(), Signal::SIGINT);
        std::thread::sleep(NOTED);
    }
}

/// Writes a point down, where that is asked for.
fn note(point: &str) {
    static FIRST: Once = Once::new();
    let Some(path) = std::env::var_os("GPUCTL_POINTS_TO") else { return };
    let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) else {
        return;
    };
    let mut text = String::new();
    FIRST.call_once(|| {
        for (change, steps) in STEPS {
            steps.iter().for_each(|step| text.push_str(&format!("step {change}:{step}\n")));
        }
    });
    text.push_str(&format!("point {point}\n"));
    let _ = file.write_all(text.as_bytes());
}
