//! What a package of ours would install, and what a driver would: programs, settings, units, and GPUs
//! made of files. All at the places that they have on a real host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gpuctl_sim::site::Programs;
use gpuctl_sim::{Profile, command, files};

use crate::machine::{self, is_program};
use crate::{Doing as _, Machine, Result};

/// Where the tree that stands for `/proc/driver/nvidia` is.
pub const PROC: &str = "/var/lib/fake-driver/proc";
/// How long one step may take.
const STEP: Duration = Duration::from_secs(600);

const SERVICE: &str = "[Unit]
Description=GPU leases for Docker
[Service]
ExecStart=/usr/libexec/docker/cli-plugins/docker-gpuctl serve
RuntimeDirectory=gpuctl
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
";

/// Other names of the hook; then systemd, containerd and the Engine take up what is there.
const SET_UP: &str = r#"
set -eu
cd /usr/libexec/gpuctl
mkdir -p stub strict
for name in gpuctl-runtime gpuctl-gate stub/nvidia-container-runtime-hook strict/runc; do
    ln -f gpuctl-hook "$name"
done
systemd-tmpfiles --create /etc/tmpfiles.d/fake-driver.conf
systemctl daemon-reload
systemctl restart containerd docker
systemctl enable -q --now gpuctl
"#;

/// The Engine's cgroup driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// systemd makes the cgroups and writes their rules; what the Engine takes by itself on a host
    /// with systemd and cgroup v2.
    Systemd,
    /// The runtime makes and writes them itself.
    Cgroupfs,
}

/// What is to be installed.
#[derive(Debug, Clone)]
pub struct Product {
    /// The programs.
    pub programs: Programs,
    /// The profile of the GPUs.
    pub profile: PathBuf,
    /// Who has the containers' cgroups.
    pub driver: CgroupDriver,
    /// Our `runc` stands first on the PATH of dockerd and containerd.
    pub strict: bool,
    /// The config, but for `gpu.proc`: TOML.
    pub config: String,
}

impl Product {
    /// Installs it, sets it up, restarts the Engine and starts the service.
    ///
    /// # Errors
    /// When something cannot be put there or does not start.
    pub fn install(&self, machine: &mut Machine) -> Result<()> {
        let stage = self.package(machine)?;
        stage.text("etc/docker/daemon.json", &self.daemon_json())?;
        for unit in ["docker", "containerd"] {
            let file = format!("etc/systemd/system/{unit}.service.d/gpuctl.conf");
            stage.text(&file, &format!("[Service]\nEnvironment=PATH={}\n", self.path()))?;
        }
        machine.unpack(&stage.tar()?)?;
        machine.sh(SET_UP, STEP)?.ok().map(drop)
    }

    /// Installs what a package brings, and a driver, and starts nothing but the driver: no setup.
    ///
    /// # Errors
    /// When something cannot be put there.
    pub fn unpack(&self, machine: &mut Machine) -> Result<()> {
        machine.unpack(&self.package(machine)?.tar()?)?;
        machine
            .sh("systemd-tmpfiles --create /etc/tmpfiles.d/fake-driver.conf", STEP)?
            .ok()
            .map(drop)
    }

    /// Installs the driver alone, for a package that brings all else. [`PROC`] has to be `gpu.proc` then.
    ///
    /// # Errors
    /// When something cannot be put there.
    pub fn driver_only(&self, machine: &mut Machine) -> Result<()> {
        let stage = Stage::new(machine.folder().join("stage"))?;
        self.driver_files(&stage)?;
        machine.unpack(&stage.tar()?)?;
        machine
            .sh("systemd-tmpfiles --create /etc/tmpfiles.d/fake-driver.conf", STEP)?
            .ok()
            .map(drop)
    }

    /// The files of the package and of the driver.
    fn package(&self, machine: &Machine) -> Result<Stage> {
        let stage = Stage::new(machine.folder().join("stage"))?;
        stage.program(&self.programs.hook, "usr/libexec/gpuctl/gpuctl-hook")?;
        stage.program(&self.programs.plugin, "usr/libexec/docker/cli-plugins/docker-gpuctl")?;
        self.driver_files(&stage)?;
        let config = format!("{}\n[gpu]\nproc = \"{PROC}\"\n", self.config);
        stage.text("etc/gpuctl/config.toml", &config)?;
        stage.text("etc/systemd/system/gpuctl.service", SERVICE)?;
        Ok(stage)
    }

    /// The driver's.
    fn driver_files(&self, stage: &Stage) -> Result<()> {
        let profile = Profile::read(&self.profile)?;
        let library = "usr/lib/x86_64-linux-gnu";
        stage.program(&self.programs.nvml, &format!("{library}/libnvidia-ml.so.1"))?;
        let text = fs::read_to_string(&self.profile).doing("read the profile")?;
        stage.text(&format!("{library}/fake-nvml.json"), &text)?;
        files::proc_tree(&stage.path(PROC.trim_start_matches('/'))?, &profile)?;
        let cdi = files::cdi(Path::new("/dev"), &profile);
        stage.text("etc/cdi/nvidia.json", &format!("{cdi:#}\n"))?;
        stage.text("etc/tmpfiles.d/fake-driver.conf", &nodes(&profile))
    }

    /// The PATH of dockerd and containerd.
    fn path(&self) -> String {
        let first = if self.strict { "/usr/libexec/gpuctl/strict:" } else { "" };
        format!(
            "{first}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/libexec/gpuctl/stub"
        )
    }

    fn daemon_json(&self) -> String {
        let driver = match self.driver {
            CgroupDriver::Systemd => "systemd",
            CgroupDriver::Cgroupfs => "cgroupfs",
        };
        let json = serde_json::json!({
            "runtimes": {
                "gpuctl": {"path": "/usr/libexec/gpuctl/gpuctl-runtime"},
                "gpuctl-gate": {"path": "/usr/libexec/gpuctl/gpuctl-gate"},
            },
            "default-runtime": "gpuctl-gate",
            "exec-opts": [format!("native.cgroupdriver={driver}")],
        });
        format!("{json:#}\n")
    }
}

impl Machine {
    /// Puts a folder of built programs, and what lies beside them, into it; without what only a debugger
    /// reads.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn put_programs(&mut self, from: &Path, to: &str) -> Result<()> {
        let stage = Stage::new(self.folder().join("stage"))?;
        let to = to.trim_start_matches('/');
        for entry in fs::read_dir(from).doing(format!("list {}", from.display()))? {
            let path = entry.doing("list the programs")?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                for below in fs::read_dir(&path).doing(format!("list {}", path.display()))? {
                    let below = below.doing("list a folder of the programs")?;
                    let inside = below.file_name().to_string_lossy().into_owned();
                    fs::copy(below.path(), stage.path(&format!("{to}/{name}/{inside}"))?)
                        .doing(format!("copy {inside}"))?;
                }
            } else if is_program(&path) {
                stage.program(&path, &format!("{to}/{name}"))?;
            } else {
                fs::copy(&path, stage.path(&format!("{to}/{name}"))?)
                    .doing(format!("copy {name}"))?;
            }
        }
        self.unpack(&stage.tar()?)
    }
}

/// Makes the driver's nodes at each boot, as the driver's own program does.
fn nodes(profile: &Profile) -> String {
    let line = |(name, major, minor): (String, u64, u64)| {
        format!("c /dev/{name} 0666 root root - {major}:{minor}\n")
    };
    let folder = "d /dev/nvidia-caps 0755 root root\n".to_owned();
    std::iter::once(folder).chain(files::driver_nodes(profile).into_iter().map(line)).collect()
}

/// A folder that is then unpacked at the machine's root.
struct Stage {
    folder: PathBuf,
}

impl Stage {
    fn new(folder: PathBuf) -> Result<Self> {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).doing(format!("make {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Something in it, its folder made.
    fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).doing(format!("make {}", folder.display()))?;
        Ok(path)
    }

    fn text(&self, name: &str, text: &str) -> Result<()> {
        files::write(&self.path(name)?, text)
    }

    /// A program, without what only a debugger reads: that is nine tenths of it.
    fn program(&self, from: &Path, name: &str) -> Result<()> {
        let to = self.path(name)?;
        files::install(from, &to)?;
        if let Ok(strip) = command::find(&["strip"]) {
            command::run(Command::new(strip).arg(&to), STEP)?.ok()?;
        }
        Ok(())
    }

    fn tar(self) -> Result<Vec<u8>> {
        machine::archive(&self.folder, &self.folder.with_extension("tar"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_are_those_of_the_driver() {
        let profile: Profile =
            serde_json::from_value(serde_json::json!({"driver": "550", "gpus": [
            {"uuid": "GPU-a", "minor": 3, "name": "X", "pci": "0000:3B:00.0", "memory_total": 1}]}))
            .unwrap();
        let text = nodes(&profile);
        assert!(text.contains("c /dev/nvidia3 0666 root root - 195:3\n"), "{text}");
        assert!(text.contains("c /dev/nvidiactl 0666 root root - 195:255\n"), "{text}");
    }
}
