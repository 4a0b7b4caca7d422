//! The Debian that is booted: a kernel, the modules to find its disk, and the disk's image. Made once
//! and kept, since it takes two minutes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gpuctl_sim::command::Output;
use gpuctl_sim::{command, files};
use nix::fcntl::{Flock, FlockArg};

use crate::{Doing as _, Machine, Result, initramfs, probe};

/// Where it is kept, unless `GPUCTL_VM` names another folder.
const FOLDER: &str = "/var/tmp/gpuctl-vm";
/// What is installed, besides what any Debian has: systemd and what it takes to run an Engine, an etcd,
/// and the tests' own nodes.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,udev,kmod,procps,iproute2,iptables,busybox-static,\
                        apparmor,docker.io,containerd,runc,etcd-server,etcd-client,xfsprogs,bpftool";
/// What makes containers besides Docker, for the matrix. debootstrap cannot bring these in order.
const MORE: [&str; 2] = ["podman", "docker-compose"];
/// Debian's kernel for virtual machines: a third of the other's size, and whole where it matters.
const KERNEL: &str = "linux-image-cloud-amd64";
/// The folder of the modules that are loaded first.
const KEPT: &str = "modules";
/// Another number, and every image that was kept is made anew.
const EDITION: u32 = 4;
/// The longest that all packages may take.
const FETCH: Duration = Duration::from_secs(600);
/// The longest that one step after that may take.
const STEP: Duration = Duration::from_secs(600);
/// The disk's size. Only what is written of it takes room.
const SIZE: &str = "10G";

/// Installs packages into a root by its own apt, without starting what they bring.
const INSTALL: &str = r#"
set -eu
root=$1
shift
mount -t proc proc "$root/proc"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
chroot "$root" apt-get -q update
DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -q -y --no-install-recommends install "$@"
rm "$root/usr/sbin/policy-rc.d"
"#;

/// What makes the disk the machine's own, and a boot quick: nothing is checked, fetched or waited for
/// that the tests do not use.
const SETTLE: &str = r#"
set -eu
root=$1 kernel=$2
cp -a "$kernel/lib/modules" "$root/usr/lib/"
chroot "$root" depmod "$(ls "$kernel/lib/modules")"
echo '/dev/vda / ext4 defaults 0 0' >"$root/etc/fstab"
echo gpu1 >"$root/etc/hostname"
printf '127.0.0.1 localhost gpu1\n' >"$root/etc/hosts"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
rm -f "$root/etc/resolv.conf"
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=persistent\nRateLimitBurst=0\n' >"$root/etc/systemd/journald.conf.d/vm.conf"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer systemd-pstore.service getty@tty1.service \
    serial-getty@ttyS0.service podman.socket podman-restart.service podman-auto-update.timer; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
rm -f "$root"/etc/systemd/system/multi-user.target.wants/etcd*.service
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc \
    "$root"/usr/share/locale "$root"/usr/share/man
"#;

/// The images that all containers are of, with nodes to try what a container can open: see
/// [`crate::probe`]. With it, the first start of an Engine is done too.
const IMAGES: &str = r#"
set -eu
mkdir -p /tmp/image/bin /tmp/image/tmp /tmp/image/etc
cp /bin/busybox /tmp/image/bin/
/tmp/image/bin/busybox --install /tmp/image/bin
NODES
tar -C /tmp/image -cf - . | docker import -c 'CMD ["sh"]' - busybox:latest
tar -C /tmp/image -cf - . | docker import -c 'ENV NVIDIA_VISIBLE_DEVICES=all' - cuda-like:latest
rm -rf /tmp/image
"#;

/// See the module.
#[derive(Debug, Clone)]
pub struct System {
    folder: PathBuf,
}

/// Why there is no system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// It cannot be had on this machine: for a test the reason to be skipped.
    Here(String),
    /// It should be there, and does not work.
    Broken(String),
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Here(why) | Self::Broken(why)) = self;
        f.write_str(why)
    }
}

impl System {
    /// The one that is kept, made if it is not there: for that it is booted once, with `agent` as
    /// [`Machine::boot`] takes it.
    ///
    /// # Errors
    /// [`Missing`].
    pub fn get(agent: &Path) -> std::result::Result<Self, Missing> {
        can_be_had().map_err(Missing::Here)?;
        let folder = std::env::var_os("GPUCTL_VM").map_or_else(|| FOLDER.into(), PathBuf::from);
        let system = Self { folder };
        let _held = system.lock().map_err(Missing::Broken)?;
        let suite = suite().map_err(Missing::Here)?;
        let images = IMAGES.replace("NODES\n", &probe::nodes("/tmp/image"));
        let recipe = format!(
            "{EDITION} {suite} {SIZE} {PACKAGES} {MORE:?} {KERNEL}\n{INSTALL}{SETTLE}{images}"
        );
        if fs::read_to_string(system.file("recipe")).is_ok_and(|kept| kept == recipe) {
            return Ok(system);
        }
        let work = system.file("new");
        let made = system.anew(&suite, &work, agent, &images);
        let _ = fs::remove_dir_all(&work);
        made?;
        files::write(&system.file("recipe"), &recipe).map_err(Missing::Broken)?;
        Ok(system)
    }

    /// Held while it is looked at or made.
    fn lock(&self) -> Result<Flock<File>> {
        fs::create_dir_all(&self.folder).doing(format!("make {}", self.folder.display()))?;
        let lock = File::create(self.file("lock")).doing("open the system's lock")?;
        Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| format!("cannot lock: {e}"))
    }

    fn anew(
        &self,
        suite: &str,
        work: &Path,
        agent: &Path,
        images: &str,
    ) -> std::result::Result<(), Missing> {
        let _ = fs::remove_file(self.file("recipe"));
        let _ = fs::remove_dir_all(work);
        let folder = fs::create_dir_all(work).doing("make a folder to work in");
        folder.map_err(Missing::Broken)?;
        let (root, kernel) = (work.join("root"), work.join("kernel"));
        fetch(suite, &root).and_then(|()| fetch_kernel(work, &kernel)).map_err(Missing::Here)?;
        self.make(work, &root, &kernel)
            .and_then(|()| self.import_images(agent, images))
            .map_err(Missing::Broken)
    }

    fn make(&self, work: &Path, root: &Path, kernel: &Path) -> Result<()> {
        let mut settle = Command::new("sh");
        settle.args(["-c", SETTLE, "sh"]).arg(root).arg(kernel);
        command::run(&mut settle, STEP)?.ok()?;
        fs::copy(root.join("bin/busybox"), self.busybox()).doing("keep busybox")?;
        let version = only(&kernel.join("lib/modules"))?;
        fs::copy(kernel.join("boot").join(format!("vmlinuz-{version}")), self.kernel())
            .doing("keep the kernel")?;
        self.keep_modules(&root.join("usr/lib/modules").join(&version))?;
        let image = work.join("disk");
        make_disk(root, &image)?;
        fs::rename(&image, self.disk()).doing("keep the disk")
    }

    /// Keeps what [`initramfs::modules`] names of a kernel's modules, numbered in its order.
    fn keep_modules(&self, from: &Path) -> Result<()> {
        let dep = fs::read_to_string(from.join("modules.dep")).doing("read modules.dep")?;
        let folder = self.file(KEPT);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).doing("make a folder for modules")?;
        for (at, module) in initramfs::modules(&dep)?.iter().enumerate() {
            let to = folder.join(format!("{at:02}.ko"));
            fs::copy(from.join(module), to).doing(format!("keep {module}"))?;
        }
        Ok(())
    }

    fn import_images(&self, agent: &Path, script: &str) -> Result<()> {
        let mut machine = Machine::boot(self, agent)?;
        machine.settle()?;
        machine.sh(script, STEP)?.ok()?;
        machine.power_off()?;
        fs::rename(machine.disk(), self.disk()).doing("keep the disk")
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The kernel.
    pub fn kernel(&self) -> PathBuf {
        self.file("vmlinuz")
    }

    /// The disk, never to be written to.
    pub fn disk(&self) -> PathBuf {
        self.file("disk")
    }

    /// A busybox that needs no other file.
    pub fn busybox(&self) -> PathBuf {
        self.file("busybox")
    }

    /// The modules that find its disk, in the order in which they are loaded.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn modules(&self) -> Result<Vec<Vec<u8>>> {
        let entries = fs::read_dir(self.file(KEPT)).doing("list the modules")?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        files.iter().map(|f| fs::read(f).doing(format!("read {}", f.display()))).collect()
    }
}

/// Whether this machine can have one; why not.
fn can_be_had() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err("it needs root".to_owned());
    }
    if std::env::consts::ARCH != "x86_64" {
        return Err(format!("it is an amd64, this machine {}", std::env::consts::ARCH));
    }
    for program in ["qemu-system-x86_64", "setpriv", "debootstrap", "mkfs.ext4", "apt-get", "wget"]
    {
        command::find(&[program])?;
    }
    Ok(())
}

/// This machine's own Debian: programs built here run there.
fn suite() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").doing("read /etc/os-release")?;
    suite_of(&text).ok_or_else(|| "this machine is no Debian".to_owned())
}

fn suite_of(text: &str) -> Option<String> {
    let value = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='))?;
        Some(line.trim_matches('"').to_owned())
    };
    (value("ID")? == "debian").then(|| value("VERSION_CODENAME"))?
}

fn fetch(suite: &str, root: &Path) -> Result<()> {
    let debootstrap = command::find(&["debootstrap"])?;
    let mirror = gpuctl_sim::root::mirror()?;
    let release = format!("{mirror}/dists/{suite}/InRelease");
    let mut reach = Command::new(command::find(&["wget"])?);
    reach.args(["-q", "--spider", "--tries=2", "--timeout=10", &release]);
    if command::run(&mut reach, Duration::from_secs(30))?.code != 0 {
        return Err(format!("{release} cannot be reached"));
    }
    let mut fetch = by_itself();
    fetch.arg(debootstrap).args(["--variant=minbase"]);
    fetch.arg(format!("--include={PACKAGES}")).arg(suite).arg(root).arg(&mirror);
    fetched(&command::run(&mut fetch, FETCH)?, &format!("debootstrap of {suite}"))?;
    let mut more = by_itself();
    more.args(["sh", "-c", INSTALL, "sh"]).arg(root).args(MORE);
    fetched(&command::run(&mut more, FETCH)?, &format!("apt-get install {}", MORE.join(" ")))
}

/// What follows ends with the caller, however that ends; what it mounts ends with it.
fn by_itself() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]);
    command.arg("--mount-proc");
    command
}

fn fetched(got: &Output, what: &str) -> Result<()> {
    if got.code == 0 {
        return Ok(());
    }
    let both = format!("{}\n{}", got.stdout, got.stderr);
    let why = both.lines().rev().find(|l| l.starts_with("E:") || l.starts_with("W:"));
    Err(format!("{what}: {}", why.map_or_else(|| got.to_string(), str::to_owned)))
}

fn fetch_kernel(work: &Path, into: &Path) -> Result<()> {
    let mut depends = Command::new(command::find(&["apt-cache"])?);
    let got = command::run(depends.args(["depends", KERNEL]), STEP)?.ok()?;
    let package = depended_on(&got).ok_or(format!("apt knows no {KERNEL}: apt-get update"))?;
    let mut download = Command::new(command::find(&["apt-get"])?);
    // Else apt complains that its own user cannot write here.
    download.args(["-q", "-o", "APT::Sandbox::User=root", "download", &package]).current_dir(work);
    command::run(&mut download, FETCH)?.ok()?;
    let deb = fs::read_dir(work).doing("list what was fetched")?.flatten().map(|e| e.path());
    let deb = deb.filter(|p| p.extension().is_some_and(|e| e == "deb")).max();
    let deb = deb.ok_or(format!("apt-get download {package} left no package"))?;
    command::run(Command::new("dpkg-deb").arg("-x").arg(deb).arg(into), STEP)?.ok()?;
    Ok(())
}

/// The first package that `apt-cache depends` names.
fn depended_on(text: &str) -> Option<String> {
    text.lines().find_map(|l| l.trim().strip_prefix("Depends: ")).map(str::to_owned)
}

/// Makes a disk of what is in a folder.
pub(crate) fn make_disk(folder: &Path, image: &Path) -> Result<()> {
    let mut format = Command::new(command::find(&["mkfs.ext4"])?);
    format.args(["-q", "-F", "-m", "0", "-d"]).arg(folder).arg(image).arg(SIZE);
    command::run(&mut format, STEP)?.ok().map(drop)
}

/// The name of the only entry of a folder.
fn only(folder: &Path) -> Result<String> {
    let doing = format!("list {}", folder.display());
    let entry = fs::read_dir(folder).doing(&doing)?.next().ok_or("the kernel has no modules")?;
    Ok(entry.doing(&doing)?.file_name().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_is_this_machines_own_if_it_is_a_debian() {
        let debian =
            "PRETTY_NAME=\"Debian\"\nVERSION_ID=\"12\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(suite_of(debian).as_deref(), Some("bookworm"));
        assert_eq!(suite_of("ID=ubuntu\nVERSION_CODENAME=noble\nID_LIKE=debian\n"), None);
    }

    #[test]
    fn the_kernel_is_the_one_that_the_metapackage_names() {
        let text =
            "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-48-cloud-amd64\n  Depends: x\n";
        assert_eq!(depended_on(text).as_deref(), Some("linux-image-6.1.0-48-cloud-amd64"));
        assert_eq!(depended_on("W: no such package\n"), None);
    }
}
