//! A booted Debian with the product, and what tests do with it. See docs/adr/0013.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use gpuctl_vm::probe::{self, Open};
use gpuctl_vm::{CgroupDriver, Machine, Missing, Product, System};
use serde_json::Value;

use crate::{Output, programs, skip};

/// The longest that one command in the machine may take: everything there is emulated.
const LIMIT: Duration = Duration::from_secs(300);
/// A machine with the product.
pub struct Host {
    /// It.
    pub machine: Machine,
}

impl Host {
    /// One with the product, set up. `None`, and the reason said, where it cannot be had or is not wanted.
    pub fn boot(driver: CgroupDriver, strict: bool) -> Option<Self> {
        let mut host = Self::bare()?;
        let product = product(driver, strict);
        product.install(&mut host.machine).expect("the product is installed");
        host.wait_for("the service", "test -S /run/gpuctl/gpuctl.sock && docker gpuctl gpus -q");
        Some(host)
    }

    /// One with the driver and what a package of ours brings, on which nothing is set up. As [`Host::boot`].
    pub fn boot_package() -> Option<Self> {
        let mut host = Self::bare()?;
        let product = product(CgroupDriver::Systemd, false);
        product.unpack(&mut host.machine).expect("the package is installed");
        Some(host)
    }

    /// One with the driver and without anything of ours. As [`Host::boot`].
    pub fn boot_driver() -> Option<Self> {
        let mut host = Self::bare()?;
        let product = product(CgroupDriver::Systemd, false);
        product.driver_only(&mut host.machine).expect("the driver is installed");
        Some(host)
    }

    fn bare() -> Option<Self> {
        if !crate::full() {
            skip("the booted Debian: ./tests/run --full");
            return None;
        }
        let agent = programs::vm();
        let system = match System::get(&agent) {
            Ok(system) => system,
            Err(Missing::Here(why)) => {
                skip(&format!("the booted Debian: {why}"));
                return None;
            }
            Err(Missing::Broken(why)) => panic!("the booted Debian is broken: {why}"),
        };
        let mut machine = Machine::boot(&system, &agent).expect("the machine boots");
        machine.settle().expect("systemd is done with the boot");
        Some(Self { machine })
    }

    /// Runs a script, and gives what came of it.
    pub fn try_sh(&mut self, script: &str) -> Output {
        self.machine.sh(script, LIMIT).expect("the machine answers")
    }

    /// Runs a script that must end with 0; what it printed.
    #[track_caller]
    pub fn sh(&mut self, script: &str) -> String {
        let got = self.try_sh(script);
        assert_eq!(got.code, 0, "{got}\n{}", self.last_words());
        got.stdout.trim().to_owned()
    }

    /// What the journal warns of.
    pub fn last_words(&mut self) -> String {
        self.try_sh("journalctl -b -p warning --no-pager | tail -30").stdout
    }

    /// Waits until a script ends with 0.
    #[track_caller]
    pub fn wait_for(&mut self, what: &str, script: &str) {
        let until = Instant::now() + LIMIT;
        loop {
            let got = self.try_sh(script);
            if got.code == 0 {
                return;
            }
            assert!(Instant::now() < until, "{what} does not come\n{got}\n{}", self.last_words());
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Starts a container that stays.
    #[track_caller]
    pub fn run(&mut self, name: &str, flags: &str) {
        self.sh(&format!(
            "docker run -d --network none --name {name} {flags} busybox sleep 1000000"
        ));
    }

    /// What a container can open.
    #[track_caller]
    pub fn open(&mut self, container: &str) -> Open {
        let words = ["docker", "exec", container, "sh", "-c", probe::SCRIPT];
        let got =
            self.machine.run(&words, &[], LIMIT, &mut |_, _| ()).expect("the machine answers");
        assert_eq!(got.code, 0, "{got}");
        Open::read(&got.stdout)
    }

    /// The GPUs' minors that the ledger shows as a container's, and in what state its leases are.
    #[track_caller]
    pub fn leased(&mut self, container: &str) -> (BTreeSet<u32>, BTreeSet<String>) {
        let table = self.sh("docker gpuctl gpus --format json");
        let rows = table.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
        let its: Vec<Value> = rows.filter(|r| r["holder"] == container).collect();
        // Index is not minor.
        let minor = |row: &Value| {
            let index = usize::try_from(row["index"].as_u64().expect("an index")).expect("small");
            let profile =
                gpuctl_sim::Profile::read(&programs::profile("a100x8")).expect("a profile");
            profile.gpus[index].minor
        };
        let state = |row: &Value| row["state"].as_str().unwrap_or_default().to_owned();
        (its.iter().map(minor).collect(), its.iter().map(state).collect())
    }

    /// Checks that a container can open just the GPUs that it holds leases on; which they are.
    #[track_caller]
    pub fn holds_what_it_opens(&mut self, container: &str) -> BTreeSet<u32> {
        let open = self.open(container);
        let (leased, states) = self.leased(container);
        assert_eq!(open.gpus, leased, "{container}: opens, and holds");
        assert!(leased.is_empty() || states == ["active".to_owned()].into(), "{states:?}");
        leased
    }

    /// systemd reads its units anew.
    #[track_caller]
    pub fn reload(&mut self) {
        self.sh("systemctl daemon-reload");
    }

    /// `docker update` of a container.
    #[track_caller]
    pub fn update(&mut self, container: &str) {
        self.sh(&format!("docker update --memory 200m --memory-swap 300m {container}"));
    }
}

fn product(driver: CgroupDriver, strict: bool) -> Product {
    Product {
        programs: programs::programs(),
        profile: programs::profile("a100x8"),
        driver,
        strict,
        config: String::new(),
    }
}
