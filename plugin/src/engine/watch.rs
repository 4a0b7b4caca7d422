//! What the service looks at every few seconds: processes on GPUs that belong to no lease, GPUs that
//! are not clean. The hook reads what was seen where it is fresh, and the quarantine at any time.

use std::time::Duration;

use gpuctl_ledger::audit::{Decision, Entry};
use gpuctl_ledger::config::{Config, plain_io_error};
use gpuctl_ledger::model::{BootId, Timestamp};
use gpuctl_ledger::node::{busy, files, process, quarantine};
use gpuctl_ledger::rules::quarantine::{Cause, Held, Turn, turn};

use super::api::Failure;
use super::context::Context;
use super::look::{self, Seen};
use crate::gpu::{self, GpuError, Wake};

/// Looks once, and writes down what was seen.
///
/// # Errors
/// When the driver does not answer, or a file cannot be written.
pub fn tick(ctx: &Context) -> Result<(), Failure> {
    seen(ctx).map(drop)
}

/// As [`tick`], with what was seen.
///
/// # Errors
/// As there.
pub(super) fn seen(ctx: &Context) -> Result<Seen, Failure> {
    let paths = &ctx.config.paths;
    let before = busy::last_watch(&paths.watch());
    let seen = look::look(ctx, before.as_ref())?;
    let unwritten = |what: &'static str| {
        move |e: std::io::Error| {
            Failure::new(format!("{what} cannot be written: {}", plain_io_error(&e)))
        }
    };
    let driver = quarantine::driver_loading(&ctx.config);
    let (began, over) = quarantine::update(paths, &ctx.boot_id, |before| {
        let Turn { now, began, over } =
            turn(before, &seen.looks(), &ctx.boot_id, &driver, Timestamp::now());
        (now, (began, over))
    })
    .map_err(unwritten("the quarantine"))?;
    for held in &began {
        tell_began(&ctx.config, held);
    }
    for (held, why) in &over {
        tell_over(&ctx.config, held, None, why);
    }
    files::make_open_dir(&paths.run)
        .and_then(|()| files::replace_json(&paths.watch(), &seen.watch(), false))
        .map_err(unwritten("the watch"))?;
    Ok(seen)
}

fn tell_began(config: &Config, held: &Held) {
    let of = match &held.cause {
        Cause::Process { of: Some(of), .. } => of.as_str(),
        _ => "",
    };
    let entry = Entry::new(Decision::Quarantined, "", of).gpus(std::slice::from_ref(&held.unit));
    entry.why(held.cause.words()).write(config);
}

/// Writes down that a quarantine is over.
pub(super) fn tell_over(config: &Config, held: &Held, user: Option<String>, why: &str) {
    let entry = Entry::new(Decision::Cleared, "", "").gpus(std::slice::from_ref(&held.unit));
    entry.user(user).why(format!("{why} ({})", held.cause.words())).write(config);
}

/// How long the driver is listened to at a time.
const LISTEN: Duration = Duration::from_millis(500);
/// How long a set of cards is listened to before those that came back are listened to as well.
const ANEW: Duration = Duration::from_secs(300);
/// How long a driver that does not answer is left alone.
const AGAIN: Duration = Duration::from_secs(5);

/// Listens for fatal XIDs until `stop` says so, and puts the card of each into quarantine. A call that
/// hangs in the driver keeps only this thread.
pub fn listen(config: &Config, stop: impl Fn() -> bool) {
    while !stop() {
        if listened(config, &stop).is_err() {
            let until = std::time::Instant::now() + AGAIN;
            while !stop() && std::time::Instant::now() < until {
                std::thread::sleep(LISTEN);
            }
        }
    }
}

fn listened(config: &Config, stop: &impl Fn() -> bool) -> Result<(), GpuError> {
    let driver = gpu::Driver::open(config)?;
    let watch = driver.watch()?;
    let until = std::time::Instant::now() + ANEW;
    while !stop() && std::time::Instant::now() < until {
        match watch.wait(LISTEN)? {
            Wake::Quiet => {}
            // A card was lost: it is left out of the next set, or the set would tell of it for ever.
            Wake::Changed => break,
            Wake::Fault(fault) => {
                let Ok(boot_id) = process::boot_id(&config.paths.boot_id) else { continue };
                note(config, &boot_id, &fault);
            }
        }
    }
    Ok(())
}

/// Puts the card of an XID into quarantine.
fn note(config: &Config, boot_id: &BootId, fault: &gpu::Fault) {
    let driver = quarantine::driver_loading(config);
    let began = quarantine::update(&config.paths, boot_id, |before| {
        // What another boot, or another loading of the driver, has left is over: the next look says so.
        let Turn { mut now, over, .. } = turn(before, &[], boot_id, &driver, Timestamp::now());
        let began = now.fault(&fault.unit, fault.xid, Timestamp::now());
        (now, (began, over))
    });
    let Ok((began, over)) = began else { return };
    for (held, why) in over {
        tell_over(config, &held, None, why);
    }
    if let Some(held) = began {
        tell_began(config, &held);
    }
}

/// Clears by hand what can be so cleared; each as it was.
///
/// # Errors
/// When the note cannot be written.
pub(super) fn pardon(ctx: &Context, user: Option<&str>) -> Result<Vec<Held>, Failure> {
    let cleared = quarantine::update(&ctx.config.paths, &ctx.boot_id, |mut now| {
        let cleared = now.pardon();
        (now, cleared)
    })
    .map_err(|e| {
        Failure::new(format!("the quarantine cannot be written: {}", plain_io_error(&e)))
    })?;
    for held in &cleared {
        tell_over(&ctx.config, held, user.map(str::to_owned), "by hand: doctor --fix");
    }
    Ok(cleared)
}
