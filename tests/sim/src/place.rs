//! Which file is where in a node's folder.

use std::path::{Path, PathBuf};

use crate::{Doing as _, Result, processes};

/// The longest path of a place, in bytes: a Unix socket's path has 107, and containerd's lie deep.
const LONGEST: usize = 60;

/// The folder of one node.
#[derive(Debug, Clone)]
pub struct Place {
    root: PathBuf,
}

impl Place {
    /// The place at a folder, which need not exist yet.
    ///
    /// # Errors
    /// When the path is relative, too long for sockets below it, or holds characters that would
    /// need quoting in the files that name it.
    pub fn new(root: &Path) -> Result<Self> {
        let text = root.to_str().ok_or("the folder's name is not UTF-8")?;
        if !root.is_absolute() || text == "/" {
            return Err(format!("{text} is not an absolute path to a folder of its own"));
        }
        if text.len() > LONGEST {
            return Err(format!(
                "{text} is longer than {LONGEST} bytes: sockets below it need room"
            ));
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b)) {
            return Err(format!("{text} has characters other than letters, digits and /._-"));
        }
        Ok(Self { root: root.to_owned() })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// Something in it.
    pub fn at(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
    /// The device nodes; the Engine's `/dev`.
    pub fn dev(&self) -> PathBuf {
        self.at("dev")
    }
    /// The folder of CDI specs.
    pub fn cdi(&self) -> PathBuf {
        self.at("cdi")
    }
    /// What stands for `/proc/driver/nvidia`.
    pub fn proc(&self) -> PathBuf {
        self.at("proc/driver/nvidia")
    }
    /// What stands for `/proc/devices`.
    pub fn majors(&self) -> PathBuf {
        self.at("proc/devices")
    }
    /// The simulated driver's library; its profile lies beside it.
    pub fn nvml(&self) -> PathBuf {
        self.at("lib/libnvidia-ml.so.1")
    }
    /// The profile that the simulated driver reads, also while it runs.
    pub fn profile(&self) -> PathBuf {
        self.at("lib/fake-nvml.json")
    }
    /// `gpuctl-hook` and `gpuctl-runtime`.
    pub fn libexec(&self) -> PathBuf {
        self.at("libexec")
    }
    /// The folder that is last on the Engine's PATH, with the stub that lets `--gpus` through.
    pub fn stub(&self) -> PathBuf {
        self.at("stub")
    }
    /// The folder that is first on a strict Engine's PATH, with a `runc` that is ours.
    pub fn strict(&self) -> PathBuf {
        self.at("strict")
    }
    /// The product's config.
    pub fn config(&self) -> PathBuf {
        self.at("config.toml")
    }
    /// What outlasts a reboot of the node.
    pub fn state(&self) -> PathBuf {
        self.at("state")
    }
    /// What does not.
    pub fn run(&self) -> PathBuf {
        self.at("run")
    }
    /// The service's socket.
    pub fn socket(&self) -> PathBuf {
        self.at("gpuctl.sock")
    }
    /// The embedded ledger.
    pub fn sqlite(&self) -> PathBuf {
        self.at("state/ledger.db")
    }
    /// The node's boot id; another content is another boot.
    pub fn boot_id(&self) -> PathBuf {
        self.at("boot_id")
    }
    /// Where the system's journal would listen; a test that wants to hear it binds here.
    pub fn journal(&self) -> PathBuf {
        self.at("run/journal")
    }
    /// The node's machine id.
    pub fn machine_id(&self) -> PathBuf {
        self.at("machine_id")
    }
    /// Docker's data root.
    pub fn data(&self) -> PathBuf {
        self.at("docker")
    }
    /// Docker's exec root.
    pub fn exec(&self) -> PathBuf {
        self.at("x")
    }
    /// Where containerd keeps the bundles of running containers.
    pub fn bundles(&self) -> PathBuf {
        self.at("x/containerd/daemon/io.containerd.runtime.v2.task/moby")
    }
    /// Docker's socket.
    pub fn docker_socket(&self) -> PathBuf {
        self.at("docker.sock")
    }
    /// Docker's socket as the CLI wants it.
    pub fn docker_host(&self) -> String {
        format!("unix://{}", self.docker_socket().display())
    }
    /// The Engine's pid file.
    pub fn pidfile(&self) -> PathBuf {
        self.at("docker.pid")
    }
    /// What the Engine prints.
    pub fn docker_log(&self) -> PathBuf {
        self.at("docker.log")
    }
    /// The CLI's own folder, with the plugin below it.
    pub fn docker_config(&self) -> PathBuf {
        self.at("dockercfg")
    }
    /// The images of volumes, and where they are mounted.
    pub fn volumes(&self) -> PathBuf {
        self.at("volumes")
    }
    /// Makes [`Place::volumes`], from which mounts get into the namespaces that are made of ours: an Engine
    /// that is started from here sees them, as it does on a host where it has the host's. Done once.
    ///
    /// # Errors
    /// When it cannot be made or mounted.
    pub fn share_volumes(&self) -> Result<()> {
        use nix::mount::{MsFlags, mount};
        let folder = self.volumes();
        if processes::mounts(self).contains(&folder) {
            return Ok(());
        }
        let none: Option<&str> = None;
        let failed = || format!("share {}", folder.display());
        std::fs::create_dir_all(&folder).doing(format!("make {}", folder.display()))?;
        mount(Some(&folder), &folder, none, MsFlags::MS_BIND, none).doing(failed())?;
        mount(none, &folder, none, MsFlags::MS_SHARED, none).doing(failed())
    }
    /// The config's part that keeps volumes there.
    pub fn volumes_config(&self) -> String {
        format!("[volumes]\nimages = \"{}\"\n", self.volumes().display())
    }
    /// Who made this place: `pid start-time`. A place whose maker is gone may be swept away.
    pub fn owner(&self) -> PathBuf {
        self.at("owner")
    }

    /// The name of the cgroup under which all its containers lie; unlike every other place's.
    pub fn cgroup(&self) -> String {
        let hash = self
            .root
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
                (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("gpuctl-{:08x}", hash >> 32 ^ hash & 0xffff_ffff)
    }

    /// Makes the folder; everything below is root's and readable for others.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self) -> Result<()> {
        for name in
            ["", "dev", "cdi", "lib", "libexec", "stub", "strict", "state", "run", "docker", "x"]
        {
            let path = self.at(name);
            std::fs::create_dir_all(&path).doing(format!("make {}", path.display()))?;
        }
        std::fs::create_dir_all(self.proc()).doing("make the driver's folder")?;
        std::fs::create_dir_all(self.docker_config().join("cli-plugins"))
            .doing("make the plugin's folder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_short_absolute_and_needs_no_quotes() {
        assert!(Place::new(Path::new("/var/tmp/x-1.y_z")).is_ok());
        for bad in ["/", "x", "/a b", "/a\"b", "/a'b", "/a\nb"] {
            assert!(Place::new(Path::new(bad)).is_err(), "{bad:?}");
        }
        assert!(Place::new(Path::new(&format!("/{}", "x".repeat(LONGEST)))).is_err());
    }

    #[test]
    fn two_places_have_two_cgroups() {
        let of = |p| Place::new(Path::new(p)).unwrap().cgroup();
        assert_ne!(of("/var/tmp/a"), of("/var/tmp/b"));
        assert_eq!(of("/var/tmp/a"), of("/var/tmp/a"));
    }
}
