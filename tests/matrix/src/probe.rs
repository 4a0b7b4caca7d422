//! What a process in a container can really open. There is no driver behind the simulated nodes:
//! opening one says "No such device or address" where the cgroup lets it through, "Operation not
//! permitted" where not. The probe makes the nodes itself, which is what malice would do; where it
//! may not, it takes those that it is shown.

use std::collections::BTreeSet;

use crate::cell::Device;

/// The first word of a line that the probe prints.
const MARK: &str = "probe";

/// A shell script that tries to open each of the devices and prints one line about each.
pub fn script(devices: &BTreeSet<Device>) -> String {
    let list: Vec<String> = devices.iter().map(|(a, b)| format!("{a}:{b}")).collect();
    format!(
        "for d in {}; do f=/tmp/probe-$d; n=/dev/nvidia${{d#195:}}; rm -f $f; \
         if said=$(mknod $f c ${{d%:*}} ${{d#*:}} 2>&1); then said=$( {{ : <$f; }} 2>&1 ); \
         elif [ -c $n ]; then said=$( {{ : <$n; }} 2>&1 ); fi; \
         rm -f $f; echo \"{MARK} $d $said\"; done",
        list.join(" ")
    )
}

/// A shell script that tries to open a path that is there already.
pub fn of_path(path: &str, device: Device) -> String {
    let (major, minor) = device;
    format!("echo \"{MARK} {major}:{minor} $( {{ : <{path}; }} 2>&1 )\"")
}

/// Which devices a probe's output says are open to it. Other lines are passed over.
///
/// # Errors
/// When not all of the devices are told of, or an answer is neither yes nor no.
pub fn read(text: &str, devices: &BTreeSet<Device>) -> Result<BTreeSet<Device>, String> {
    let mut seen = BTreeSet::new();
    let mut open = BTreeSet::new();
    for line in text.lines() {
        // A builder puts a number and a time before each line.
        let Some(at) = line.find(&format!("{MARK} ")) else { continue };
        let rest = line.get(at + MARK.len() + 1..).unwrap_or_default();
        let (device, said) = rest.split_once(' ').unwrap_or((rest, ""));
        let numbers = device.split_once(':');
        let Some(device) = numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)))
        else {
            continue;
        };
        let said = said.trim_end();
        // Nothing said: it was opened, and there is a driver.
        let yes = ["No such device or address", "nonexistent device or address", "No such device"];
        let no = ["Operation not permitted", "Permission denied", "nonexistent directory"];
        if said.is_empty() || yes.iter().any(|y| said.ends_with(y)) {
            open.insert(device);
        } else if !no.iter().any(|n| said.ends_with(n)) {
            return Err(format!("the probe met {line:?}"));
        }
        seen.insert(device);
    }
    if !devices.is_subset(&seen) {
        return Err(format!("the probe said only {text:?}"));
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_yes_or_no_and_silence_is_a_fault() {
        let devices = BTreeSet::from([(195, 0), (195, 1)]);
        let text = "#7 0.31 probe 195:0 sh: can't open /tmp/x: No such device or address\n\
                    noise\nprobe 195:1 sh: can't open /tmp/x: Operation not permitted\n";
        assert_eq!(read(text, &devices).unwrap(), BTreeSet::from([(195, 0)]));
        assert!(read("probe 195:0 x: Operation not permitted\n", &devices).is_err());
        assert!(read("probe 195:0 out of memory\nprobe 195:1 \n", &devices).is_err());
    }
}
