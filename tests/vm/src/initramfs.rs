//! What the kernel starts first: it mounts the disk, puts the agent where systemd finds it, and makes
//! room for systemd. The disk itself knows nothing of the agent, so that it can be kept for long.

use std::collections::BTreeMap;

use crate::Result;
use crate::cpio::Archive;

/// The kernel's modules that it takes to find a disk and the serial port. What these need is found in the
/// kernel's own list.
const MODULES: [&str; 4] = [
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
    "drivers/char/virtio_console.ko",
    "drivers/char/hw_random/virtio-rng.ko",
];

/// Those modules and all that they need, each behind what it needs itself, as `modules.dep` names them. Pure.
pub fn modules(dep: &str) -> Result<Vec<String>> {
    let needs: BTreeMap<&str, Vec<&str>> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needs)| (module.trim(), needs.split_whitespace().collect()))
        .collect();
    let mut ordered = Vec::new();
    for module in MODULES {
        let wanted = format!("kernel/{module}");
        let (module, needed) =
            needs.get_key_value(wanted.as_str()).ok_or(format!("the kernel has no {wanted}"))?;
        // depmod names all that a module needs, what is to be loaded first last.
        for one in needed.iter().rev().chain([module]) {
            if !ordered.iter().any(|there| there == one) {
                ordered.push((*one).to_owned());
            }
        }
    }
    Ok(ordered)
}

/// The port, before udev gives it its name.
pub const PORT: &str = "/dev/vport0p1";

const INIT: &str = r#"#!/busybox sh
b=/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for m in /modules/*.ko; do $b insmod "$m"; done
n=0
while [ ! -b /dev/vda ] && [ $n -lt 300 ]; do $b sleep 0.1; n=$((n+1)); done
if ! $b mount -t ext4 -o rw /dev/vda /root; then
    echo "gpuctl-vm: the disk cannot be mounted"
    $b poweroff -f
fi
$b mount -t tmpfs -o mode=755 run /run
$b mkdir -p /run/gpuctl-vm /run/systemd/system/sysinit.target.wants
$b cp /agent /run/gpuctl-vm/agent
$b cp /agent.service /run/systemd/system/gpuctl-vm.service
$b ln -s ../gpuctl-vm.service /run/systemd/system/sysinit.target.wants/
for f in run dev proc sys; do $b mount -o move /$f /root/$f; done
exec $b switch_root /root /sbin/init
"#;

/// Early, so that a boot can be watched; what it starts is not ended with it.
const UNIT: &str = "[Unit]
Description=Runs what the test tells it to
DefaultDependencies=no
After=systemd-tmpfiles-setup-dev.service systemd-tmpfiles-setup.service local-fs.target
[Service]
ExecStart=/run/gpuctl-vm/agent agent /dev/vport0p1
Environment=HOME=/root
KillMode=process
TasksMax=infinity
LimitNOFILE=1048576
";

/// The archive, with busybox, the modules in their order and the agent's program.
pub fn archive(busybox: &[u8], modules: &[Vec<u8>], agent: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    for name in ["dev", "proc", "sys", "run", "root", "modules"] {
        archive = archive.folder(name);
    }
    archive = archive.program("init", INIT.as_bytes()).program("busybox", busybox);
    for (at, module) in modules.iter().enumerate() {
        archive = archive.file(&format!("modules/{at:02}.ko"), module);
    }
    archive.file("agent.service", UNIT.as_bytes()).program("agent", agent).end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_names_the_port() {
        assert!(UNIT.contains(PORT));
    }

    #[test]
    fn what_a_module_needs_is_loaded_before_it_and_once() {
        let dep = "kernel/drivers/virtio/virtio.ko:\n\
            kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko\n\
            kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n\
            kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko\n\
            kernel/drivers/char/virtio_console.ko:\n\
            kernel/drivers/char/hw_random/virtio-rng.ko: kernel/lib/new.ko\n";
        let got = modules(dep).unwrap();
        let names: Vec<&str> = got.iter().map(|m| m.rsplit('/').next().unwrap()).collect();
        let first = ["virtio.ko", "virtio_ring.ko", "virtio_pci.ko", "virtio_blk.ko"];
        assert_eq!(names, [&first[..], &["virtio_console.ko", "new.ko", "virtio-rng.ko"]].concat());
        assert!(modules("kernel/a.ko:\n").unwrap_err().contains("virtio_pci"));
    }

    #[test]
    fn the_modules_are_loaded_in_their_order() {
        let made = archive(b"b", &[b"<1st>".to_vec(), b"<2nd>".to_vec()], b"a");
        let text = String::from_utf8_lossy(&made);
        let at = |what: &str| text.find(what).unwrap();
        assert!(at("modules/00.ko") < at("<1st>") && at("<1st>") < at("modules/01.ko"));
        assert!(text.contains("TRAILER!!!"));
    }
}
