// What every target checks; also included by hook/tests/corpora.rs.

use gpuctl_hook::hostconfig::{ContainerConfig, HostConfig};
use gpuctl_hook::request::{NodeFacts, detect};
use gpuctl_hook::spec::Spec;
use gpuctl_hook::{command, inject, refuse, strip, upper};

// Public to the end-to-end tests, which include it too.
#[allow(unreachable_pub)]
#[path = "traps.rs"]
mod traps;

/// What a message may hold: nothing that moves a cursor or that Docker takes for an exit code.
fn presentable(text: &str) {
    assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
    for trap in traps::TRAPS {
        assert!(!text.to_ascii_lowercase().contains(trap), "{text}");
    }
}

/// A config.json, with a hostconfig.json or without.
pub(crate) fn config(bytes: &[u8], host: Option<&HostConfig>) {
    let Ok(spec) = Spec::parse(bytes) else { return };
    let _ = spec.to_oci();
    let _ = (spec.cgroups_path(), spec.annotation("a"), spec.user());
    for nvidia_runtime in [false, true] {
        let facts = NodeFacts { nvidia_runtime, caps_major: Some(236), ..NodeFacts::default() };
        match detect(&spec, host, &facts) {
            Ok(asked) => drop(asked),
            Err(why) => presentable(&why.to_string()),
        }
    }
    let mut edited = spec.clone();
    if strip::whitelist(&mut edited, &[], Some(236)).is_ok() {
        let open = gpuctl_hook::gate::opened(&edited);
        assert!(open.is_some_and(|minors| minors.is_empty()), "a GPU is still open");
        let once = edited.clone();
        assert!(strip::whitelist(&mut edited, &[], Some(236)) == Ok(false) && edited == once);
        inject::clear(&mut edited);
        let asked =
            detect(&edited, None, &NodeFacts { nvidia_runtime: true, ..NodeFacts::default() });
        assert!(asked.is_ok_and(|a| a.request.is_none()), "a cleared spec asks for a GPU");
    }
    inject::inject_env(&mut edited, &["GPU-1"]);
    let hook = std::path::Path::new("/h");
    inject::add_hooks(&mut edited, hook, &["h"], &["h"]);
    assert!(inject::has_gate(&edited, hook));
    let once = edited.clone();
    inject::add_hooks(&mut edited, hook, &["h"], &["h"]);
    assert!(edited == once, "hooks twice are not hooks once");
    // Not as a whole: serde_json reads a float's last digit otherwise than it writes it.
    let back = Spec::parse(&edited.to_bytes());
    assert!(back.is_ok_and(|b| b.rules() == edited.rules() && b.nodes() == edited.nodes()));
}

/// hostconfig.json or config.v2.json.
pub(crate) fn docker_files(bytes: &[u8]) {
    if let Err(why) = ContainerConfig::parse(bytes) {
        presentable(&why.to_string());
    }
    match HostConfig::parse(bytes) {
        Ok(host) => {
            for spec in [
                &b"{}"[..],
                br#"{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195}]}}"#,
            ] {
                config(spec, Some(&host));
            }
        }
        Err(why) => presentable(&why.to_string()),
    }
}

/// A hook's state.
pub(crate) fn hook_state(bytes: &[u8]) {
    if let Err(why) = gpuctl_hook::gate::State::parse(bytes) {
        presentable(&why.to_string());
    }
}

/// Words that are no JSON. The first byte says what they are: a runtime's command line, the values of
/// the environment that name GPUs, or mountinfo.
pub(crate) fn words(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match kind % 3 {
        0 => {
            use std::os::unix::ffi::OsStringExt as _;
            let args: Vec<_> =
                rest.split(|b| *b == 0).map(|a| std::ffi::OsString::from_vec(a.to_vec())).collect();
            let read = command::parse(&args);
            // What it does not know of is passed on, and makes no container.
            assert!(read.verb.is_empty() == read.id.is_none() || read.id.is_none());
            assert!(!read.makes_container() || args.iter().any(|a| *a == *read.verb));
            presentable(&refuse::presentable(&text));
        }
        1 => {
            let mut lines = text.splitn(2, '\n');
            let (visible, second) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
            let spec = serde_json::json!({
                "process": {"env": [format!("NVIDIA_VISIBLE_DEVICES={visible}"), second]},
                "annotations": {"cdi.k8s.io/x": second},
                "mounts": [{
                    "source": "/dev/null",
                    "destination": format!("/var/run/nvidia-container-devices/{second}"),
                }],
                "hooks": {"prestart": [{"path": "/usr/bin/nvidia-container-runtime-hook"}]},
            });
            config(spec.to_string().as_bytes(), None);
        }
        _ => {
            if let Some(found) = upper::find(&text, "/r") {
                assert!(text.contains("upperdir="), "{found}");
            }
        }
    }
}
