//! The module against `tests/fake-nvml`: a real library, loaded and called as the driver's is.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use gpuctl_ledger::config::Config;
use gpuctl_ledger::model::{Gpu, GpuRef, Health, Inventory, Path as Way, Peer};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The fake library, built once a test run.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let exe = std::env::current_exe().unwrap();
        let profile = exe.parent().unwrap().parent().unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--package", "fake-nvml", "--target-dir"]);
        build.arg(profile.parent().unwrap()).current_dir(REPOSITORY);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "fake-nvml does not build");
        profile.join("libfake_nvml.so")
    })
}

/// A node with its own copy of the library, so that nodes in one process share nothing.
struct Node {
    dir: TempDir,
    config: Config,
}

impl Node {
    fn new(profile: &str) -> Self {
        Self::from_json(&Self::profile(profile))
    }

    fn from_json(profile: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let lib = dir.path().join("libnvidia-ml.so.1");
        std::fs::copy(library(), &lib).unwrap();
        let mut config = Config::default();
        config.gpu.nvml = lib.to_str().unwrap().into();
        config.gpu.proc = dir.path().join("proc");
        config.paths.state = dir.path().join("state");
        config.paths.run = dir.path().join("run");
        let node = Self { dir, config };
        node.show(profile);
        node
    }

    fn profile(name: &str) -> Value {
        let path = format!("{REPOSITORY}/tests/profiles/{name}.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// Changes what the driver shows.
    fn show(&self, profile: &Value) {
        let draft = self.dir.path().join("draft");
        std::fs::write(&draft, profile.to_string()).unwrap();
        std::fs::rename(draft, self.dir.path().join("fake-nvml.json")).unwrap();
    }

    /// Lays out the driver's folder in /proc as the kernel would.
    fn lay_out_proc(&self, profile: &Value) {
        let proc = &self.config.gpu.proc;
        for gpu in profile["gpus"].as_array().unwrap() {
            let minor = gpu["minor"].as_u64().unwrap();
            let pci = gpu["pci"].as_str().unwrap()[4..].to_lowercase();
            let folder = proc.join("gpus").join(pci);
            std::fs::create_dir_all(&folder).unwrap();
            let text = format!(
                "Model: \t\t {}\nGPU UUID: \t {}\nDevice Minor: \t {minor}\n",
                gpu["name"].as_str().unwrap(),
                gpu["uuid"].as_str().unwrap()
            );
            std::fs::write(folder.join("information"), text).unwrap();
            for mig in gpu["mig"].as_array().into_iter().flatten() {
                let gi = proc.join(format!("capabilities/gpu{minor}/mig/gi{}", mig["gi"]));
                let ci = gi.join(format!("ci{}", mig["ci"]));
                std::fs::create_dir_all(&ci).unwrap();
                let access = |minor: &Value| {
                    format!("DeviceFileMinor: {minor}\nDeviceFileMode: 444\nDeviceFileModify: 1\n")
                };
                std::fs::write(gi.join("access"), access(&mig["caps"][0])).unwrap();
                std::fs::write(ci.join("access"), access(&mig["caps"][1])).unwrap();
            }
        }
    }

    fn driver(&self) -> Driver {
        Driver::open(&self.config).unwrap()
    }

    fn inventory(&self, previous: Option<&Inventory>) -> Inventory {
        self.driver().inventory(&self.config, previous).unwrap()
    }

    fn refresh(&self) -> Inventory {
        refresh(&self.config, Duration::from_secs(20)).unwrap()
    }
}

fn bad(gpu: &Gpu) -> Option<&str> {
    match &gpu.health {
        Health::Ok => None,
        Health::Bad(why) => Some(why),
    }
}

fn healthy(inventory: &Inventory) -> Vec<u32> {
    inventory.gpus.iter().filter(|g| bad(g).is_none()).map(|g| g.index).collect()
}

#[test]
fn eight_a100_are_told_as_the_profile_has_them() {
    let profile = Node::profile("a100x8");
    let node = Node::from_json(&profile);
    let inventory = node.inventory(None);
    assert_eq!(inventory.driver, "550.90.07");
    assert_eq!(inventory.gpus.len(), 8);
    for (i, (gpu, told)) in
        inventory.gpus.iter().zip(profile["gpus"].as_array().unwrap()).enumerate()
    {
        assert_eq!(gpu.index as usize, i);
        assert_eq!(gpu.unit.as_str(), told["uuid"]);
        assert_eq!(gpu.minor, told["minor"]);
        assert_eq!(gpu.pci, told["pci"]);
        assert_eq!(gpu.model, "NVIDIA A100-SXM4-80GB");
        assert_eq!(gpu.memory, 80 << 30);
        assert_eq!(gpu.numa, Some(if i < 4 { 0 } else { 1 }));
        assert_eq!(json!(gpu.links), told["links"]);
        assert_eq!(gpu.health, Health::Ok);
        assert!(gpu.mig.is_empty());
    }
    assert_ne!(inventory.gpus[0].minor, 0, "the profile must keep index and minor apart");
    assert_eq!(inventory.find(&GpuRef::Minor(0)).unwrap().index, 2);
}

#[test]
fn links_are_pairs_where_the_bridges_are() {
    let inventory = Node::new("a100x8-pairs").inventory(None);
    let links: Vec<_> = inventory.gpus.iter().map(|g| g.links.clone()).collect();
    let pairs = [[1], [0], [3], [2], [5], [4], [7], [6]];
    assert_eq!(links, pairs);
}

#[test]
fn how_cards_lie_to_each_other_is_told_by_links_and_switches() {
    let mut profile = Node::profile("a100x8-pairs");
    // Four NVLinks of one pair; a switch over two cards of one socket, and over two of both.
    profile["gpus"][0]["links"] = json!([1, 1, 1, 1]);
    profile["gpus"][1]["links"] = json!([0, 0, 0, 0]);
    for (card, switch) in [(1, 7), (2, 7), (3, 8), (4, 8)] {
        profile["gpus"][card]["switch"] = json!(switch);
    }
    let inventory = Node::from_json(&profile).inventory(None);
    let to = |a: usize, b: usize| {
        let peer = inventory.gpus[a].to(&inventory.gpus[b]);
        (peer.nvlinks, peer.path)
    };
    assert_eq!(to(0, 1), (4, Way::Socket));
    assert_eq!(to(1, 0), (4, Way::Socket));
    assert_eq!((to(1, 2), to(3, 4)), ((0, Way::Switch), (0, Way::Switch)));
    assert_eq!((to(0, 3), to(2, 3)), ((0, Way::Socket), (1, Way::Socket)));
    assert_eq!(to(0, 7), (0, Way::System));
    assert_eq!(inventory.gpus[0].links, [1], "each card once");
    assert!(inventory.gpus[0].peers.iter().all(|peer| peer.gpu < 4), "what is far is not written");
    // Through a switch of NVLinks the driver says only that there are some.
    let all = Node::new("a100x8").inventory(None);
    assert!(all.gpus.iter().all(|g| g.peers.len() == 7 && g.peers.iter().all(|p| p.nvlinks == 1)));
    // A driver that knows none of it: links and NUMA nodes are left.
    profile["missing"] = json!(["nvmlDeviceGetTopologyCommonAncestor", "nvmlDeviceGetNvLinkState"]);
    let old = Node::from_json(&profile).inventory(None);
    assert_eq!(old.gpus[0].to(&old.gpus[1]), Peer { gpu: 1, nvlinks: 1, path: Way::Socket });
    assert_eq!(old.gpus[1].to(&old.gpus[2]).path, Way::Socket);
    assert_eq!(old.gpus[3].to(&old.gpus[4]).path, Way::System);
}

#[test]
fn two_consumer_cards_have_no_links_and_a_desktop() {
    let node = Node::new("consumer2");
    let inventory = node.inventory(None);
    assert!(inventory.gpus.iter().all(|g| g.links.is_empty() && g.numa.is_none()));
    let usage = node.driver().usage(None).unwrap();
    assert_eq!(
        usage[0].processes,
        Some(vec![GpuProcess { pid: 1874, memory: Some(186 << 20) }]),
        "what draws counts too"
    );
    assert_eq!(usage[0].utilization, Some(3));
    assert_eq!(usage[0].temperature, Some(41));
    assert_eq!(usage[0].power, Some(27340));
    assert_eq!(usage[0].power_limit, Some(450_000));
    assert_eq!(usage[0].persistence, Some(false));
    assert_eq!(usage[1].memory_used, Some(18 << 20));
    assert_eq!(usage[1].memory_total, Some(24564 << 20));
    assert_eq!(usage[1].processes, Some(vec![]));
}

#[test]
fn mig_devices_have_the_nodes_that_the_kernel_says() {
    let profile = Node::profile("mig1");
    let node = Node::from_json(&profile);
    node.lay_out_proc(&profile);
    let inventory = node.inventory(None);
    let (card, whole) = (&inventory.gpus[0], &inventory.gpus[1]);
    assert_eq!((bad(card), bad(whole)), (None, None));
    assert_eq!(card.mig.len(), 3);
    let profiles: Vec<&str> = card.mig.iter().map(|mig| mig.profile.as_str()).collect();
    assert_eq!(profiles, ["2g.20gb", "1g.10gb", "1g.10gb"]);
    for (mig, told) in card.mig.iter().zip(profile["gpus"][0]["mig"].as_array().unwrap()) {
        assert_eq!(mig.index, told["index"]);
        assert_eq!(mig.unit.as_str(), told["uuid"]);
        assert_eq!(mig.memory, told["memory"]);
        assert_eq!(json!(mig.caps), told["caps"]);
    }
    assert!(whole.mig.is_empty());
}

#[test]
fn a_mig_card_whose_devices_cannot_be_opened_is_no_whole_gpu_instead() {
    let mut profile = Node::profile("mig1");
    let node = Node::from_json(&profile);
    let inventory = node.inventory(None);
    assert!(inventory.gpus[0].mig.is_empty());
    assert!(bad(&inventory.gpus[0]).unwrap().contains("capability files of its 3 MIG devices"));
    assert_eq!(healthy(&inventory), [1]);

    node.lay_out_proc(&profile);
    profile["gpus"][0]["mig"] = json!([]);
    node.show(&profile);
    let inventory = node.inventory(None);
    assert!(bad(&inventory.gpus[0]).unwrap().contains("no MIG devices"));
}

#[test]
fn usage_has_a_row_for_each_mig_device() {
    let mut profile = Node::profile("mig1");
    profile["gpus"][0]["mig"][1]["processes"] = json!([{"pid": 77, "memory": 5}]);
    let rows = Node::from_json(&profile).driver().usage(None).unwrap();
    let places: Vec<_> = rows.iter().map(|r| (r.index, r.mig)).collect();
    assert_eq!(places, [(0, Some(0)), (0, Some(1)), (0, Some(2)), (1, None)]);
    assert_eq!(rows[1].unit.as_ref().unwrap().as_str(), profile["gpus"][0]["mig"][1]["uuid"]);
    assert_eq!(rows[1].processes, Some(vec![GpuProcess { pid: 77, memory: Some(5) }]));
    assert_eq!((rows[0].processes.clone(), rows[0].utilization), (Some(vec![]), None));
    assert_eq!((rows[0].memory_used, rows[0].temperature), (Some(13 << 20), Some(30)));
    assert!(rows.iter().all(|r| r.fault.is_none()));
}

#[test]
fn a_card_that_falls_off_the_bus_keeps_its_name_and_its_row() {
    let node = Node::new("a100x8");
    let before = node.refresh();
    node.show(&Node::profile("lost-card"));
    let after = node.refresh();
    let lost = &after.gpus[5];
    assert_eq!(bad(lost), Some("it fell off the bus"));
    assert_eq!(healthy(&after), [0, 1, 2, 3, 4, 6, 7]);
    let kept = |g: &Gpu| (g.index, g.unit.clone(), g.minor, g.pci.clone(), g.memory);
    assert_eq!(kept(lost), kept(&before.gpus[5]));
    assert!(after.gpus.iter().all(|g| !g.links.contains(&5)), "no links to a lost card");

    let rows = node.driver().usage(Some(&after)).unwrap();
    assert_eq!(rows.len(), 8);
    assert_eq!(rows[5].unit.as_ref(), Some(&before.gpus[5].unit));
    assert_eq!(rows[5].fault.as_deref(), Some("it fell off the bus"));
    assert_eq!((rows[5].memory_used, rows[5].processes.as_ref()), (None, None));
    assert_eq!(rows[6].fault, None);

    node.show(&Node::profile("a100x8"));
    assert_eq!(healthy(&node.refresh()), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_card_lost_before_the_first_inventory_is_named_by_the_kernel_or_not_at_all() {
    let profile = Node::profile("lost-card");
    let node = Node::from_json(&profile);
    assert_eq!(node.inventory(None).gpus.len(), 7);
    assert_eq!(node.driver().usage(None).unwrap()[5].unit, None);
    node.lay_out_proc(&profile);
    let inventory = node.inventory(None);
    assert_eq!(inventory.gpus[5].unit.as_str(), profile["gpus"][5]["uuid"]);
    assert_eq!(inventory.gpus[5].minor, profile["gpus"][5]["minor"]);
    assert_eq!(inventory.gpus[5].pci, profile["gpus"][5]["pci"]);
    assert!(bad(&inventory.gpus[5]).is_some());
}

#[test]
fn a_card_that_has_a_handle_and_answers_nothing_is_bad() {
    let mut profile = Node::profile("a100x8");
    let node = Node::from_json(&profile);
    let before = node.inventory(None);
    profile["gpus"][1]["fault"] = json!("unknown");
    profile["gpus"][4]["fault"] = json!("reset");
    node.show(&profile);
    let after = node.inventory(Some(&before));
    assert_eq!(bad(&after.gpus[1]), Some("the driver reports an unknown error"));
    assert_eq!(bad(&after.gpus[4]), Some("it needs a reset"));
    assert_eq!(after.gpus[1].unit, before.gpus[1].unit);
    assert_eq!(healthy(&after), [0, 2, 3, 5, 6, 7]);
}

#[test]
fn an_xid_is_heard_once() {
    let node = Node::new("xid");
    let driver = node.driver();
    let quiet = driver.inventory(&node.config, None).unwrap();
    assert_eq!(healthy(&quiet).len(), 8, "an XID that nobody heard shows nowhere in NVML");

    let watch = driver.watch().unwrap();
    let wake = watch.wait(Duration::from_secs(5)).unwrap();
    let fault = Fault { unit: quiet.gpus[3].unit.clone(), xid: 79 };
    assert_eq!(wake, Wake::Fault(fault.clone()));
    assert_eq!(watch.wait(Duration::from_millis(30)).unwrap(), Wake::Quiet);
}

#[test]
fn a_programs_own_xid_is_passed_over_and_a_loss_wakes() {
    let mut profile = Node::profile("a100x8");
    profile["gpus"][0]["fault"] = json!("lost");
    let node = Node::from_json(&profile);
    let driver = node.driver();
    let watch = driver.watch().unwrap();
    assert_eq!(watch.wait(Duration::from_millis(30)).unwrap(), Wake::Quiet);
    profile["gpus"][2]["fault"] = json!({"xid": 31});
    node.show(&profile);
    assert_eq!(watch.wait(Duration::from_millis(30)).unwrap(), Wake::Quiet);
    profile["gpus"][6]["fault"] = json!("lost");
    node.show(&profile);
    assert_eq!(watch.wait(Duration::from_secs(5)).unwrap(), Wake::Changed);
}

#[test]
fn a_leftover_process_shows_while_it_is_there() {
    let node = Node::new("leftover-process");
    let driver = node.driver();
    let row = driver.usage(None).unwrap().remove(2);
    assert_eq!(row.processes, Some(vec![GpuProcess { pid: 31337, memory: Some(20 << 30) }]));
    assert_eq!((row.utilization, row.memory_used), (Some(97), Some((20 << 30) + (4 << 20))));
    node.show(&Node::profile("a100x8"));
    assert_eq!(driver.usage(None).unwrap()[2].processes, Some(vec![]));
}

#[test]
fn what_an_old_driver_does_not_know_is_left_out_and_nothing_else() {
    let node = Node::new("a100x8");
    // Functions that are not in the library at all: their names are spelt otherwise in its table.
    let lib = Path::new(&node.config.gpu.nvml);
    let mut bytes = std::fs::read(lib).unwrap();
    for name in ["nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetP2PStatus"]
    {
        let mut at = 0;
        while let Some(found) =
            bytes[at..].windows(name.len()).position(|w| w == name.as_bytes()).map(|p| p + at)
        {
            bytes[found] = b'x';
            at = found + 1;
        }
        assert!(at > 0, "{name} is not in the library");
    }
    std::fs::remove_file(lib).unwrap();
    std::fs::write(lib, bytes).unwrap();
    let inventory = node.inventory(None);
    assert_eq!(healthy(&inventory).len(), 8);
    assert!(inventory.gpus.iter().all(|g| g.memory == 0 && g.links.is_empty()));
    let rows = node.driver().usage(None).unwrap();
    for row in rows {
        assert_eq!((row.memory_used, row.memory_total, row.power), (None, None, None));
        assert_eq!(row.fault, None);
        assert!(row.temperature.is_some() && row.unit.is_some());
        assert_eq!(row.processes, Some(vec![]));
    }
}

#[test]
fn a_function_that_answers_not_found_is_left_out_too() {
    let mut profile = Node::profile("a100x8");
    profile["missing"] = json!(["nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetMigMode"]);
    let node = Node::from_json(&profile);
    assert_eq!(healthy(&node.inventory(None)).len(), 8);
    let row = node.driver().usage(None).unwrap().remove(0);
    assert_eq!((row.processes, row.fault), (None, None));
}

#[test]
fn without_a_library_the_error_says_which_and_what_to_do() {
    let mut config = Config::default();
    config.gpu.nvml = "/nowhere/libnvidia-ml.so.1".into();
    let error = Driver::open(&config).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the NVIDIA driver's library /nowhere/libnvidia-ml.so.1 cannot be loaded"
    );
    assert!(error.hint().contains("gpu.nvml"));

    let node = Node::new("a100x8");
    std::fs::write(node.dir.path().join("fake-nvml.json"), "{").unwrap();
    let error = Driver::open(&node.config).unwrap_err();
    assert_eq!(error, GpuError::NotLoaded);
    let shown = format!("{error} {}", error.hint());
    assert!(!shown.to_lowercase().contains("no such file"), "{shown}");

    config.gpu.nvml = "libc.so.6".into();
    assert_eq!(Driver::open(&config).unwrap_err(), GpuError::NotNvml("libc.so.6".into()));
}

#[test]
fn the_file_is_what_was_told_and_a_wrong_one_is_refused() {
    let node = Node::new("a100x8");
    assert_eq!(read_inventory(&node.config).unwrap(), None);
    let inventory = node.refresh();
    assert_eq!(read_inventory(&node.config).unwrap().as_ref(), Some(&inventory));
    let path = node.config.paths.inventory();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);

    let refused = |change: &dyn Fn(&mut Value)| {
        let mut value = serde_json::to_value(&inventory).unwrap();
        change(&mut value);
        std::fs::write(&path, value.to_string()).unwrap();
        read_inventory(&node.config).unwrap_err().to_string()
    };
    assert!(refused(&|v| v["schema"] = json!(99)).contains("later version"));
    assert!(refused(&|v| v["gpus"][1]["minor"] = v["gpus"][0]["minor"].clone()).contains("twice"));
    assert!(refused(&|v| v["gpus"][1]["unit"] = v["gpus"][0]["unit"].clone()).contains("twice"));
    assert!(refused(&|v| v["gpus"][1]["unit"] = json!("../x")).contains("no inventory"));
    assert!(refused(&|v| v["driver"] = json!("x".repeat(2 << 20))).contains("too long"));
    assert_eq!(node.refresh().gpus, inventory.gpus, "a wrong file does not stand in the way");
    assert!(read_inventory(&node.config).is_ok());
}

#[test]
fn a_driver_that_hangs_is_not_waited_for() {
    let begun = Instant::now();
    let limit = Duration::from_millis(50);
    let slow: Result<(), _> = within(limit, || {
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    });
    assert_eq!(slow, Err(GpuError::Slow(limit)));
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(within(Duration::from_secs(5), || Ok(7)), Ok(7));
}
