//! Mounts that name GPUs to NVIDIA's runtime, if its config lets them: /dev/null at a path that begins
//! with [`ROOT`]. Its toolkit straightens both paths, and asks for no slash behind the beginning. Pure.

use serde_json::Value;

use crate::spec::str_of;

/// What the path of such a mount begins with.
const ROOT: &str = "/var/run/nvidia-container-devices";
/// Names below it that are CDI devices.
const CDI: &str = "cdi/";
/// Names below it that are IMEX channels, and no GPUs.
const CHANNELS: &str = "imex/";

/// What a mount names, to be read as a list: `0`, `cdi/nvidia.com/gpu/0`; `None` where it names no GPU.
pub(crate) fn name(mount: &Value) -> Option<String> {
    if straight(str_of(mount, "source")) != "/dev/null" {
        return None;
    }
    let at = straight(str_of(mount, "destination"));
    let name = at.strip_prefix(ROOT)?.trim_matches('/');
    (!name.is_empty() && !name.starts_with(CHANNELS)).then(|| name.to_owned())
}

/// The device that one name is of: of a CDI kind where it says so, by a slash or as ever
/// (`cdi/nvidia.com/gpu/0`, `cdi/nvidia.com/gpu=0`), else itself.
pub(crate) fn device(name: &str) -> &str {
    // No other slash divides anything: NVIDIA's tool takes `0:3b:0.0/none` for the GPU at that address.
    let Some(of) = name.strip_prefix(CDI) else { return name };
    match of.rsplit(['/', '=']).next() {
        // Its toolkit looks at no kind either, and hands `cdi/0:3b:0.0/x/none` on as `0:3b:0.0/x=none`: no
        // GPU is meant only where nothing stands before.
        Some(last) if last.len() < of.len() && means_none(last) => name,
        last => last.unwrap_or(of),
    }
}

/// Whether a device's name is read as no GPU.
fn means_none(name: &str) -> bool {
    ["none", "void", ""].iter().any(|none| name.trim().eq_ignore_ascii_case(none))
}

/// An absolute path without empty parts, `.` and `..`, as text.
fn straight(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_cdi_device_is_named_by_what_stands_last() {
        for (name, of) in [
            ("0", "0"),
            ("cdi/nvidia.com/gpu/0", "0"),
            ("cdi/nvidia.com/gpu=MIG-1", "MIG-1"),
            ("0:3b:0.0/none", "0:3b:0.0/none"),
            ("MIG-GPU-1/1/0", "MIG-GPU-1/1/0"),
            ("cdi/0:3b:0.0/x/none", "cdi/0:3b:0.0/x/none"),
            ("cdi/0:1/x=Void ", "cdi/0:1/x=Void "),
            ("cdi/0:1/x/\t", "cdi/0:1/x/\t"),
            ("cdi/none", "none"),
        ] {
            assert_eq!(device(name), of);
        }
    }

    #[test]
    fn a_mount_names_what_nvidias_toolkit_reads_out_of_it() {
        let of = |at: &str, source: &str| name(&json!({"destination": at, "source": source}));
        for (at, named) in [
            ("/var/run/nvidia-container-devices/0", "0"),
            ("/var/run/nvidia-container-devicesall", "all"),
            ("//var/./run/x/../nvidia-container-devices//GPU-1/", "GPU-1"),
            ("/var/run/nvidia-container-devices/cdi/nvidia.com/gpu/2", "cdi/nvidia.com/gpu/2"),
            ("/var/run/nvidia-container-devices/all,/none", "all,/none"),
        ] {
            assert_eq!(of(at, "/dev/null").as_deref(), Some(named), "{at}");
            assert_eq!(of(at, "/dev/../dev//null").as_deref(), Some(named), "{at}");
            assert_eq!(of(at, "/sys"), None, "{at}");
        }
        for none in [
            "/var/run/nvidia-container-devices",
            "/var/run/nvidia-container-devices/",
            "/var/run/nvidia-container-devices/imex/0",
            "/var/run/nvidia/0",
            "/run/nvidia-container-devices/0",
            "",
        ] {
            assert_eq!(of(none, "/dev/null"), None, "{none}");
        }
    }
}
