//! Two small images, made without a registry: `busybox`, and `cuda-like`, whose ENV asks for all
//! GPUs as that of nvidia/cuda does.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use crate::engine::Engine;
use crate::{Doing as _, Result, command, files};

/// The applets that the images have by name, all of busybox's own are behind `busybox NAME`.
const APPLETS: [&str; 44] = [
    "sh", "ash", "sleep", "cat", "ls", "touch", "dd", "env", "head", "tail", "id", "kill", "true",
    "false", "sync", "echo", "mkdir", "rm", "ln", "cp", "mv", "chmod", "chown", "stat", "test",
    "ps", "grep", "sed", "wc", "seq", "date", "hostname", "mknod", "mount", "umount", "df", "du",
    "find", "nc", "wget", "ip", "stty", "uname", "printf",
];

/// Makes both images, unless the Engine has them.
///
/// # Errors
/// When busybox is not installed or the import fails.
pub fn import(engine: &Engine) -> Result<()> {
    let limit = Duration::from_secs(60);
    let present =
        command::run(engine.docker().args(["image", "inspect", "busybox", "cuda-like"]), limit)?;
    if present.code == 0 {
        return Ok(());
    }
    let root = engine.place().at("image");
    let _ = fs::remove_dir_all(&root);
    for folder in ["bin", "etc", "tmp", "root", "proc", "sys", "dev", "var", "run"] {
        fs::create_dir_all(root.join(folder)).doing("make the image's folders")?;
    }
    files::install(&command::find(&["busybox"])?, &root.join("bin/busybox"))?;
    for name in APPLETS {
        symlink("busybox", root.join("bin").join(name)).doing("link an applet")?;
    }
    files::write(&root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    files::write(&root.join("etc/group"), "root:x:0:\n")?;
    let tar = engine.place().at("image.tar");
    let mut pack = Command::new("tar");
    pack.arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".");
    command::run(&mut pack, limit)?.ok()?;
    for (name, change) in [
        ("busybox:latest", "CMD [\"sh\"]"),
        (
            "cuda-like:latest",
            "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        ),
    ] {
        let mut import = engine.docker();
        import.args(["import", "--change", change]).arg(&tar).arg(name);
        command::run(&mut import, limit)?.ok()?;
    }
    fs::remove_dir_all(&root).doing("remove the image's folder")?;
    fs::remove_file(&tar).doing("remove the image's file")
}
