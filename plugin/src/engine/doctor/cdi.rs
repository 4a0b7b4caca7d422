//! How GPUs get into containers: the CDI spec, whether it is there, and whether it is this driver's.
//! A spec names the driver's libraries by version; after an update of the driver it names files that are
//! gone, and no container starts with it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use container_device_interface::spec::parse_spec;
use gpuctl_ledger::config::{Config, Inject};
use gpuctl_ledger::model::{Gpu, Inventory};
use gpuctl_ledger::node::files;
use serde_json::Value;

use super::Checks;
use crate::gpu;

const NAME: &str = "injection";
/// Longest spec, in bytes.
const LONGEST: u64 = 16 << 20;
/// Most files of a folder.
const MOST: usize = 256;
/// How long files are looked at: one may lie on a filesystem that hangs.
const LIMIT: Duration = Duration::from_secs(5);
/// How many of several names are told.
const SHOWN: usize = 3;

/// One spec of our kind.
#[derive(Debug, Clone, PartialEq, Default)]
struct Spec {
    path: PathBuf,
    /// Its devices: the name, and the GPUs' nodes of it, as `nvidia3`.
    devices: BTreeMap<String, BTreeSet<String>>,
    /// Device nodes on the host.
    nodes: BTreeSet<PathBuf>,
    /// Files that are mounted from the host.
    mounts: BTreeSet<PathBuf>,
}

/// All that was seen.
#[derive(Debug, Clone, PartialEq, Default)]
struct Seen {
    specs: Vec<Spec>,
    /// Files that are no spec.
    broken: Vec<PathBuf>,
    /// Of what the specs name, what is not there.
    missing: BTreeSet<PathBuf>,
}

pub(super) fn checks(config: &Config, checks: &mut Checks) {
    if config.gpu.inject == Inject::Env {
        return checks.ok(NAME, "GPUs are named to NVIDIA's runtime by its environment");
    }
    let asked = config.clone();
    let inventory = gpu::read_inventory(config).ok().flatten();
    match gpu::within(LIMIT, move || Ok(look(&asked))) {
        Ok(seen) => judge(&seen, inventory.as_ref(), config, checks),
        Err(_) => {
            let text = format!("the CDI spec was not read within {} s", LIMIT.as_secs());
            checks.problem(NAME, text, Some("see what the disk of the spec's folder does".into()));
        }
    }
}

fn look(config: &Config) -> Seen {
    let mut seen = Seen::default();
    for folder in &config.gpu.cdi_dirs {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(MOST);
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            match read(&path) {
                Some(Ok(value)) if value["kind"] == config.gpu.cdi_kind => {
                    seen.specs.push(spec(path, &value));
                }
                Some(Err(())) => seen.broken.push(path),
                _ => {}
            }
        }
    }
    let dev = |path: &Path| {
        path.strip_prefix("/dev").map_or(path.to_owned(), |rest| config.gpu.dev.join(rest))
    };
    let is_device = |path: &Path| {
        std::fs::metadata(path)
            .is_ok_and(|m| m.file_type().is_char_device() || m.file_type().is_block_device())
    };
    for spec in &seen.specs {
        let nodes = spec.nodes.iter().filter(|path| !is_device(&dev(path)));
        let mounts = spec.mounts.iter().filter(|path| !path.exists());
        seen.missing.extend(nodes.chain(mounts).cloned());
    }
    seen
}

/// A file as a CDI spec: `None` of what is none by its name.
fn read(path: &Path) -> Option<Result<Value, ()>> {
    match path.extension()?.to_str()? {
        "json" => {
            let bytes = files::read_bounded(path, LONGEST).map_err(drop);
            Some(bytes.and_then(|bytes| serde_json::from_slice(&bytes).map_err(drop)))
        }
        "yaml" if std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.len() <= LONGEST) => {
            let spec = parse_spec(&path.to_owned()).map_err(drop);
            Some(spec.and_then(|spec| serde_json::to_value(spec).map_err(drop)))
        }
        "yaml" => Some(Err(())),
        _ => None,
    }
}

fn spec(path: PathBuf, value: &Value) -> Spec {
    let mut spec = Spec { path, ..Spec::default() };
    let devices = value["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let on_host = |node: &Value| text(&node["hostPath"]).or_else(|| text(&node["path"]));
    for edits in devices.iter().chain([value]).map(|of| &of["containerEdits"]) {
        let list = |key: &str| edits[key].as_array().cloned().unwrap_or_default();
        spec.nodes.extend(list("deviceNodes").iter().filter_map(on_host).map(PathBuf::from));
        spec.mounts
            .extend(list("mounts").iter().filter_map(|m| text(&m["hostPath"])).map(PathBuf::from));
    }
    for device in devices {
        let Some(name) = text(&device["name"]) else { continue };
        let nodes = device["containerEdits"]["deviceNodes"].as_array();
        let nodes = nodes.map(Vec::as_slice).unwrap_or_default().iter().filter_map(on_host);
        let gpus = nodes.filter_map(|path| Some(path.rsplit('/').next()?.to_owned()));
        spec.devices.entry(name).or_default().extend(gpus.filter(|name| is_gpu_node(name)));
    }
    spec
}

/// The driver that a library's name is of: `libcuda.so.550.54.14`.
fn version_of(path: &Path) -> Option<&str> {
    let (name, version) = path.file_name()?.to_str()?.split_once(".so.")?;
    let is_version = version.split('.').count() >= 2
        && version
            .split('.')
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    ((name == "libcuda" || name == "libnvidia-ml") && is_version).then_some(version)
}

/// Whether a node is a GPU's: `nvidia3`.
fn is_gpu_node(name: &str) -> bool {
    let number = name.strip_prefix("nvidia").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

/// Whether any of the specs can give this GPU to a container, as the hook sees it: by a device whose only
/// GPU it is. `all` gives none by itself. A device without a node that tells counts by its name.
fn has(specs: &[Spec], gpu: &Gpu) -> bool {
    let names = [gpu.unit.to_string(), gpu.index.to_string(), format!("gpu{}", gpu.index)];
    let node = format!("nvidia{}", gpu.minor);
    specs.iter().any(|spec| {
        spec.devices.iter().any(|(device, nodes)| match nodes.len() {
            0 => names.iter().any(|name| device.eq_ignore_ascii_case(name)),
            _ => nodes.len() == 1 && nodes.contains(&node),
        })
    })
}

fn is_nvidias(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains("nvidia"))
}

fn some<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    let all: Vec<String> = all.into_iter().map(|one| one.to_string()).collect();
    let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match all.len().checked_sub(SHOWN) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}

fn judge(seen: &Seen, inventory: Option<&Inventory>, config: &Config, checks: &mut Checks) {
    let kind = &config.gpu.cdi_kind;
    // Over the one that is there, torn or not; else into a folder that is read.
    let there = seen.specs.last().map(|spec| spec.path.clone());
    let torn = || seen.broken.iter().find(|path| is_nvidias(path)).cloned();
    let folder = || config.gpu.cdi_dirs.first().map(|folder| folder.join("nvidia.yaml"));
    let to = there.or_else(torn).or_else(folder).unwrap_or_else(|| "/etc/cdi/nvidia.yaml".into());
    let anew = format!("nvidia-ctk cdi generate --output={}", to.display());
    let broken = some(seen.broken.iter().map(|p| p.display()));
    if !seen.broken.is_empty() && !seen.specs.is_empty() {
        let text = format!("{broken} is no CDI spec; GPUs of {kind} do not need it");
        let first = seen.broken.first().map(|p| p.display().to_string()).unwrap_or_default();
        checks.warning(NAME, text, Some(format!("mv {first} {first}.broken")));
    }
    if seen.specs.is_empty() {
        let dirs = some(config.gpu.cdi_dirs.iter().map(|d| d.display()));
        let torn = match seen.broken.is_empty() {
            true => String::new(),
            false => format!(" ({broken} is torn or wrong)"),
        };
        let text = format!("no CDI spec of {kind} in {dirs}{torn}: no GPU container starts");
        let fix = format!("{anew}, or inject = \"env\" under [gpu] in the config");
        return checks.problem(NAME, text, Some(fix));
    }
    let files = some(seen.specs.iter().map(|spec| spec.path.display()));
    let mut stale = Vec::new();
    if let Some(inventory) = inventory {
        let mounts = seen.specs.iter().flat_map(|spec| &spec.mounts);
        let other = mounts.filter_map(|path| version_of(path)).find(|v| *v != inventory.driver);
        if let Some(version) = other {
            stale.push(format!("it is of driver {version}, and {} runs", inventory.driver));
        }
        let without = inventory.gpus.iter().filter(|gpu| !has(&seen.specs, gpu));
        let without: Vec<u32> = without.map(|gpu| gpu.index).collect();
        if !without.is_empty() {
            stale.push(format!("it has no GPU {}", some(without)));
        }
    }
    if !seen.missing.is_empty() {
        let missing = some(seen.missing.iter().map(|path| path.display()));
        stale.push(format!("it names {missing}, which the host does not have"));
    }
    if stale.is_empty() {
        return checks
            .ok(NAME, format!("CDI spec of {kind} in {files}, of this driver and its GPUs"));
    }
    checks.problem(
        NAME,
        format!("the CDI spec {files} is stale: {}", stale.join("; ")),
        Some(anew),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::api::{Check, Verdict};
    use crate::engine::doctor::two_gpus as inventory;
    use serde_json::json;

    fn value() -> Value {
        json!({
            "cdiVersion": "0.6.0", "kind": "nvidia.com/gpu",
            "containerEdits": {
                "deviceNodes": [{"path": "/dev/nvidiactl"}],
                "mounts": [{"hostPath": "/lib/libcuda.so.550.54.14", "containerPath": "/x"}],
            },
            "devices": [
                {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia1"}]}},
                {"name": "gpu-c", "containerEdits": {"deviceNodes": [{"path": "/d", "hostPath": "/dev/nvidia2"}]}},
            ],
        })
    }

    fn judged(seen: &Seen, inventory: &Inventory) -> Vec<Check> {
        let mut checks = Checks::default();
        judge(seen, Some(inventory), &Config::default(), &mut checks);
        checks.0
    }

    #[test]
    fn a_spec_of_this_driver_and_its_gpus_is_good() {
        let seen =
            Seen { specs: vec![spec("/etc/cdi/n.yaml".into(), &value())], ..Seen::default() };
        assert_eq!(seen.specs[0].nodes.len(), 3);
        let checks = judged(&seen, &inventory());
        assert_eq!((checks.len(), checks[0].verdict), (1, Verdict::Ok), "{checks:?}");
    }

    #[test]
    fn a_stale_spec_is_told_with_what_is_stale_and_what_makes_it_anew() {
        let good =
            Seen { specs: vec![spec("/etc/cdi/n.yaml".into(), &value())], ..Seen::default() };
        let mut newer = inventory();
        newer.driver = "560.28.03".into();
        let one = |seen: &Seen, inventory: &Inventory, word: &str| {
            let checks = judged(seen, inventory);
            assert_eq!((checks.len(), checks[0].verdict), (1, Verdict::Problem), "{checks:?}");
            assert!(checks[0].detail.contains(word), "{checks:?}");
            let fix = checks[0].fix.as_deref().unwrap();
            assert!(fix.starts_with("nvidia-ctk cdi generate --output="), "{fix}");
        };
        one(&good, &newer, "of driver 550.54.14, and 560.28.03 runs");
        // By whatever name, its node is it.
        let mut other = good.clone();
        let of = |node: &str| BTreeSet::from([node.to_owned()]);
        other.specs[0].devices = [("a".into(), of("nvidia1")), ("b".into(), of("nvidia2"))].into();
        assert_eq!(judged(&other, &inventory())[0].verdict, Verdict::Ok);
        // What gives all gives none by itself; a name with another's node is another's.
        let both = BTreeSet::from(["nvidia1".to_owned(), "nvidia2".to_owned()]);
        other.specs[0].devices = [("a".into(), of("nvidia1")), ("all".into(), both)].into();
        one(&other, &inventory(), "it has no GPU 1");
        other.specs[0].devices = [("0".into(), of("nvidia1")), ("1".into(), of("nvidia7"))].into();
        one(&other, &inventory(), "it has no GPU 1");
        let mut more = inventory();
        more.gpus[1].unit = gpuctl_ledger::model::Unit::new("GPU-d").unwrap();
        more.gpus[1].minor = 9;
        one(&good, &more, "it has no GPU 1");
        let missing = ["/lib/a", "/lib/b", "/lib/c", "/lib/d"].map(PathBuf::from).into();
        one(&Seen { missing, ..good.clone() }, &inventory(), "/lib/c and 1 more, which the host");
        one(&Seen::default(), &inventory(), "no CDI spec of nvidia.com/gpu");
        let broken = vec!["/etc/cdi/x.json".into()];
        let checks = judged(&Seen { broken, ..good }, &inventory());
        assert_eq!((checks[0].verdict, checks[1].verdict), (Verdict::Warning, Verdict::Ok));
        let fix = checks[0].fix.as_deref();
        assert_eq!(fix, Some("mv /etc/cdi/x.json /etc/cdi/x.json.broken"));
        // One fault is one line, and the torn one is made anew.
        let torn = Seen { broken: vec!["/run/cdi/nvidia.json".into()], ..Seen::default() };
        one(&torn, &inventory(), "/run/cdi/nvidia.json is torn or wrong");
        let fix = judged(&torn, &inventory()).remove(0).fix.unwrap();
        assert!(fix.starts_with("nvidia-ctk cdi generate --output=/run/cdi/nvidia.json,"), "{fix}");
        // Into a folder that is read.
        let config = Config::parse("[gpu]\ncdi_dirs = [\"/opt/cdi\"]\n").unwrap();
        let mut checks = Checks::default();
        judge(&Seen::default(), None, &config, &mut checks);
        let fix = checks.0.remove(0).fix.unwrap();
        assert!(fix.starts_with("nvidia-ctk cdi generate --output=/opt/cdi/nvidia.yaml,"), "{fix}");
    }

    #[test]
    fn files_are_read_as_json_and_as_yaml_and_only_those() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("a.json"), value().to_string()).unwrap();
        let yaml = "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia1\n";
        std::fs::write(at("b.yaml"), yaml).unwrap();
        std::fs::write(at("c.json"), "{").unwrap();
        std::fs::write(at("d.txt"), "{").unwrap();
        let text = format!("[gpu]\ncdi_dirs = [\"{0}\"]\ndev = \"{0}\"\n", folder.path().display());
        let seen = look(&Config::parse(&text).unwrap());
        assert_eq!((seen.specs.len(), seen.broken), (2, vec![at("c.json")]));
        let nvidia1 = BTreeSet::from(["nvidia1".to_owned()]);
        assert_eq!(seen.specs[1].devices, [("0".to_owned(), nvidia1)].into());
        assert!(seen.missing.contains(Path::new("/dev/nvidia1")), "{:?}", seen.missing);
        assert!(seen.missing.contains(Path::new("/lib/libcuda.so.550.54.14")));
    }

    #[test]
    fn only_the_drivers_own_libraries_tell_its_version() {
        let of = |path: &str| version_of(Path::new(path)).map(str::to_owned);
        assert_eq!(of("/usr/lib/libcuda.so.550.54.14").as_deref(), Some("550.54.14"));
        assert_eq!(of("/usr/lib/libcuda.so.1"), None);
        assert_eq!(of("/usr/lib/libnvidia-egl-gbm.so.1.1.1"), None);
    }
}
