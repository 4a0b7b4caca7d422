//! A bridge of the Engine's own, so that it is as others are: on an Engine without a bridge network
//! some things behave differently (20.10 cannot rename a container that was restarted). No iptables
//! rule and no kernel setting is touched: containers reach each other and the host, and no further.

use std::process::Command;
use std::time::Duration;

use crate::{Place, Result, command};

const LIMIT: Duration = Duration::from_secs(10);

/// The bridge's name, unlike every other place's.
pub fn name(place: &Place) -> String {
    format!("gq{}", place.cgroup().trim_start_matches("gpuctl-"))
}

fn ip(arguments: &[&str]) -> Result<command::Output> {
    command::run(Command::new(command::find(&["ip"])?).args(arguments), LIMIT)
}

/// Makes it, unless it is there, with the first free network of 10.213.0.0/16.
///
/// # Errors
/// When it cannot be made.
pub fn make(place: &Place) -> Result<()> {
    let name = name(place);
    if ip(&["link", "show", &name])?.code == 0 {
        return Ok(());
    }
    let from = name.bytes().fold(0u8, |sum, b| sum.wrapping_mul(31).wrapping_add(b));
    for step in 0..=u8::MAX {
        let third = from.wrapping_add(step);
        if !ip(&["-4", "route", "show", &format!("10.213.{third}.0/24")])?.ok()?.is_empty() {
            continue;
        }
        ip(&["link", "add", &name, "type", "bridge"])?.ok()?;
        ip(&["addr", "add", &format!("10.213.{third}.1/24"), "dev", &name])?.ok()?;
        ip(&["link", "set", &name, "up"])?.ok()?;
        return Ok(());
    }
    Err("every network of 10.213.0.0/16 is taken".into())
}

/// Removes it, if it is there.
///
/// # Errors
/// When it stays.
pub fn remove(place: &Place) -> Result<()> {
    let name = name(place);
    let there = || std::path::Path::new("/sys/class/net").join(&name).exists();
    if there() {
        let got = ip(&["link", "delete", &name])?;
        // Two sweeps at once: the other one was quicker.
        if there() {
            got.ok()?;
        }
    }
    Ok(())
}
