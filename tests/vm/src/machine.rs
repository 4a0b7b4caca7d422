//! A machine that runs: qemu, on a copy of the disk, and a serial port to the agent in it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use gpuctl_sim::command::{self, Output, TIMED_OUT};
use gpuctl_sim::processes;
use nix::fcntl::{Flock, FlockArg};

use crate::frame::{self, Frame, Kind, PIECE, Run};
use crate::{Doing as _, Result, System, initramfs, system};

/// How long a boot may take until the agent answers. Everything in the machine is emulated, and the
/// host may be busy.
const BOOT: Duration = Duration::from_secs(600);
/// How long a shutdown may take.
const OFF: Duration = Duration::from_secs(300);
/// How long the host waits beyond a program's own limit.
const GRACE: Duration = Duration::from_secs(60);
/// The second disk, as the machine sees it: ext4.
pub const BESIDE: &str = "/dev/vdb";
/// Its memory, in MiB.
const MEMORY: &str = "3072";
/// What the kernel is told.
const KERNEL_LINE: &str = "console=ttyS0 quiet panic=-1 systemd.show_status=false loglevel=4";

/// See the module. Dropped, it is gone with its disk; `GPUCTL_KEEP=1` leaves disk and console's log.
pub struct Machine {
    system: System,
    agent: PathBuf,
    folder: PathBuf,
    running: Option<Running>,
    runs: u32,
    lossy: bool,
    _turn: Flock<File>,
}

/// What there is while it has power.
struct Running {
    qemu: Child,
    port: UnixStream,
    frames: Receiver<Frame>,
}

impl Machine {
    /// Boots one, with a program as agent that knows `agent PORT`: `gpuctl-vm`. Waits for its turn first.
    ///
    /// # Errors
    /// When it does not come up; with the end of what its console says.
    pub fn boot(system: &System, agent: &Path) -> Result<Self> {
        Self::boot_with(system, agent, None, false)
    }

    /// As [`Machine::boot`], with a disk that takes "sync" for an answer at once: quicker, and a power cut
    /// leaves whatever it leaves. What is in the folder `beside` is on a second disk, [`BESIDE`].
    ///
    /// # Errors
    /// As [`Machine::boot`], and when the second disk cannot be made.
    pub fn boot_lossy(system: &System, agent: &Path, beside: Option<&Path>) -> Result<Self> {
        Self::boot_with(system, agent, beside, true)
    }

    fn boot_with(
        system: &System,
        agent: &Path,
        beside: Option<&Path>,
        lossy: bool,
    ) -> Result<Self> {
        let turn = turn(system.folder(), allowed())?;
        sweep(system.folder());
        let me = i32::try_from(std::process::id()).doing("know my pid")?;
        let start = processes::start_time(me).ok_or("cannot read my own start time")?;
        let folder = system.folder().join(format!("run-{me}-{start}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).doing(format!("make {}", folder.display()))?;
        let mut machine = Self {
            system: system.clone(),
            agent: agent.to_owned(),
            folder,
            running: None,
            runs: 0,
            lossy,
            _turn: turn,
        };
        let mut copy = Command::new("cp");
        copy.args(["--sparse=auto", "--reflink=auto"]).arg(system.disk()).arg(machine.file("disk"));
        command::run(&mut copy, OFF)?.ok()?;
        if let Some(folder) = beside {
            system::make_disk(folder, &machine.file("beside"))?;
        }
        machine.power_on()?;
        Ok(machine)
    }

    /// The folder of its files, on the host.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its disk, on the host.
    pub fn disk(&self) -> PathBuf {
        self.file("disk")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Gives it power, and waits until the agent answers. The rest of the boot may still be under way:
    /// see [`Machine::settle`].
    ///
    /// # Errors
    /// When it does not come up; with the end of what its console says.
    pub fn power_on(&mut self) -> Result<()> {
        let read = |path: &Path| fs::read(path).doing(format!("read {}", path.display()));
        let modules = self.system.modules()?;
        let archive =
            initramfs::archive(&read(&self.system.busybox())?, &modules, &read(&self.agent)?);
        fs::write(self.file("initramfs"), archive).doing("write the initramfs")?;
        let socket = self.file("port");
        let _ = fs::remove_file(&socket);
        let mut qemu = self.qemu(&socket)?;
        let said = File::create(self.file("qemu.log")).doing("open qemu's log")?;
        qemu.stdin(Stdio::null()).stdout(said.try_clone().doing("share qemu's log")?).stderr(said);
        let mut child = qemu.spawn().doing("start qemu")?;
        let until = Instant::now() + BOOT;
        let port = loop {
            match UnixStream::connect(&socket) {
                Ok(port) => break port,
                Err(e) => {
                    let ended = child.try_wait().is_ok_and(|s| s.is_some());
                    if ended || Instant::now() > until {
                        let _ = child.kill();
                        let _ = child.wait();
                        let said = fs::read_to_string(self.file("qemu.log")).unwrap_or_default();
                        return Err(format!("qemu does not start: {e}\n{said}"));
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        };
        let mut from = port.try_clone().doing("share the port")?;
        let (tell, frames) = channel();
        std::thread::spawn(move || {
            while let Ok(frame) = frame::receive(&mut from) {
                if tell.send(frame).is_err() {
                    return;
                }
            }
        });
        let running = self.running.insert(Running { qemu: child, port, frames });
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match running.frames.recv_timeout(left) {
                Ok(frame) if frame.kind == Kind::Hello => return Ok(()),
                Ok(_) => {}
                Err(_) => {
                    let said = self.console();
                    self.power_cut();
                    return Err(format!("the machine does not come up\n{said}"));
                }
            }
        }
    }

    fn qemu(&self, socket: &Path) -> Result<Command> {
        let mut qemu = Command::new("setpriv");
        // Ends with the thread that started it, however that ends.
        qemu.args(["--pdeathsig", "KILL"]).arg(command::find(&["qemu-system-x86_64"])?);
        qemu.args([
            "-accel",
            "tcg,thread=multi",
            "-smp",
            "2",
            "-m",
            MEMORY,
            "-nodefaults",
            "-display",
            "none",
        ]);
        qemu.args(["-no-reboot", "-kernel"])
            .arg(self.system.kernel())
            .arg("-initrd")
            .arg(self.file("initramfs"));
        qemu.args(["-append", KERNEL_LINE]);
        // What the guest has synced is in the host's file, so that a power cut takes only what was not.
        let cache = if self.lossy { "unsafe" } else { "writethrough" };
        for disk in ["disk", "beside"].map(|name| self.file(name)).iter().filter(|d| d.exists()) {
            let disk = disk.display();
            qemu.arg("-drive").arg(format!("file={disk},if=virtio,format=raw,cache={cache}"));
        }
        qemu.arg("-chardev")
            .arg(format!("file,id=console,append=on,path={}", self.file("console.log").display()));
        qemu.args(["-serial", "chardev:console"]);
        qemu.arg("-chardev")
            .arg(format!("socket,id=port,server=on,wait=on,path={}", socket.display()));
        qemu.args([
            "-device",
            "virtio-serial-pci",
            "-device",
            "virtserialport,chardev=port,name=gpuctl",
        ]);
        qemu.args(["-device", "virtio-rng-pci"]);
        Ok(qemu)
    }

    /// The last that its console said.
    pub fn console(&self) -> String {
        let text = fs::read(self.file("console.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n")
    }

    /// Runs a script of sh in it, as root, and gives what came of it.
    ///
    /// # Errors
    /// When the machine does not answer. A script that fails is no error, nor is one that ran past its
    /// limit: it has [`TIMED_OUT`].
    pub fn sh(&mut self, script: &str, limit: Duration) -> Result<Output> {
        self.run(&["sh", "-c", script], &[], limit, &mut |_, _| ())
    }

    /// Runs a program in it, with something on its standard input. `heard` is given each piece of its
    /// output at once: whether it is standard error, and the bytes.
    ///
    /// # Errors
    /// As [`Machine::sh`].
    pub fn run(
        &mut self,
        words: &[&str],
        input: &[u8],
        limit: Duration,
        heard: &mut dyn FnMut(bool, &[u8]),
    ) -> Result<Output> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let started = Instant::now();
        let code = self.exchange(words, input, limit, &mut |is_err, piece| {
            if is_err { &mut err } else { &mut out }.extend_from_slice(piece);
            heard(is_err, piece);
        })?;
        let shown = match words {
            ["sh", "-c", script] => format!("(in the machine) {script}"),
            words => format!("(in the machine) {}", words.join(" ")),
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Output { shown, code, stdout: text(out), stderr: text(err), took: started.elapsed() })
    }

    /// Runs a program and hands out what it says.
    fn exchange(
        &mut self,
        words: &[&str],
        input: &[u8],
        limit: Duration,
        heard: &mut dyn FnMut(bool, &[u8]),
    ) -> Result<i32> {
        self.runs += 1;
        let number = self.runs;
        let running = self.running.as_mut().ok_or("the machine has no power")?;
        let run = Run {
            words: words.iter().map(|w| (*w).to_owned()).collect(),
            limit: limit.as_secs().max(1),
            input: u64::try_from(input.len()).doing("count the input")?,
        };
        let run = serde_json::to_vec(&run).doing("write down what to run")?;
        running.port.set_write_timeout(Some(GRACE)).doing("bound what is sent")?;
        let mut tell = |kind, bytes: &[u8]| {
            frame::send(&mut running.port, kind, number, bytes).doing("reach the machine")
        };
        tell(Kind::Run, &run)?;
        for piece in input.chunks(PIECE) {
            tell(Kind::Input, piece)?;
        }
        let until = Instant::now() + limit + GRACE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let frame = match running.frames.recv_timeout(left) {
                Ok(frame) if frame.run == number => frame,
                Ok(_) => continue,
                Err(RecvTimeoutError::Timeout) => return Ok(TIMED_OUT),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the machine is gone\n{}", self.console()));
                }
            };
            match frame.kind {
                Kind::Out => heard(false, &frame.payload),
                Kind::Err => heard(true, &frame.payload),
                Kind::End => {
                    let code = String::from_utf8_lossy(&frame.payload).parse();
                    return code.doing("read the exit code");
                }
                _ => {}
            }
        }
    }

    /// Unpacks an archive of tar in it, at `/`.
    ///
    /// # Errors
    /// When tar fails there.
    pub fn unpack(&mut self, tar: &[u8]) -> Result<()> {
        let words = ["tar", "-xf", "-", "-C", "/", "--no-same-owner"];
        self.run(&words, tar, OFF, &mut |_, _| ())?.ok().map(drop)
    }

    /// Puts files and folders of the host into it: from, to, which may be new names. Owner is root.
    ///
    /// # Errors
    /// When one cannot be read or written.
    pub fn put(&mut self, files: &[(&Path, &str)]) -> Result<()> {
        const FILE: &str = "mkdir -p \"${1%/*}\" && cat >\"$1.new\" && chmod $2 \"$1.new\" && mv \"$1.new\" \"$1\"";
        const FOLDER: &str = "mkdir -p \"$1\" && tar -xf - -C \"$1\" --no-same-owner";
        for (from, to) in files {
            if from.is_dir() {
                let tar = archive(from, &self.file("put.tar"))?;
                self.run(&["sh", "-c", FOLDER, "sh", to], &tar, OFF, &mut |_, _| ())?.ok()?;
                continue;
            }
            let content = fs::read(from).doing(format!("read {}", from.display()))?;
            let mode = if is_program(from) { "755" } else { "644" };
            self.run(&["sh", "-c", FILE, "sh", to, mode], &content, OFF, &mut |_, _| ())?.ok()?;
        }
        Ok(())
    }

    /// What a file in it holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = self.exchange(&["cat", "--", path], &[], OFF, &mut |is_err, piece| {
            if is_err { &mut err } else { &mut out }.extend_from_slice(piece);
        })?;
        if code == 0 { Ok(out) } else { Err(String::from_utf8_lossy(&err).into_owned()) }
    }

    /// Waits until systemd is done with starting things. Says how that went: `running`, `degraded`.
    ///
    /// # Errors
    /// When it takes too long.
    pub fn settle(&mut self) -> Result<String> {
        let got = self.sh("systemctl is-system-running --wait", BOOT)?;
        if got.code == TIMED_OUT { Err(got.to_string()) } else { Ok(got.stdout.trim().to_owned()) }
    }

    /// Cuts its power: nothing is said to anybody, and what was not synced is gone.
    pub fn power_cut(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.qemu.kill();
            let _ = running.qemu.wait();
        }
    }

    /// Shuts it down as a person would.
    ///
    /// # Errors
    /// When it stays on; then its power is cut.
    pub fn power_off(&mut self) -> Result<()> {
        let asked = self.sh("systemctl --no-block poweroff", OFF);
        let Some(running) = self.running.as_mut() else { return asked.map(drop) };
        let until = Instant::now() + OFF;
        while running.qemu.try_wait().is_ok_and(|s| s.is_none()) {
            if Instant::now() > until {
                let said = self.console();
                self.power_cut();
                return Err(format!("the machine does not power off\n{said}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.running = None;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_cut();
        if std::env::var_os("GPUCTL_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// How many machines may run at once: one, unless `GPUCTL_VMS` says more. Each keeps a core busy, sometimes
/// two.
fn allowed() -> u32 {
    std::env::var("GPUCTL_VMS").ok().and_then(|n| n.parse().ok()).unwrap_or(1).max(1)
}

/// Waits until there is room for one more.
fn turn(folder: &Path, allowed: u32) -> Result<Flock<File>> {
    loop {
        for place in 0..allowed {
            let name = format!("turn-{place}");
            let file = OpenOptions::new().create(true).append(true).open(folder.join(name));
            let file = file.doing("open the lock of turns")?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(turn) => return Ok(turn),
                Err((_, nix::errno::Errno::EWOULDBLOCK)) => {}
                Err((_, e)) => return Err(format!("cannot wait for my turn: {e}")),
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What is in a folder, as tar writes it; by way of a file.
pub(crate) fn archive(folder: &Path, file: &Path) -> Result<Vec<u8>> {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(folder).args(["--owner=0", "--group=0", "-cf"]).arg(file).arg(".");
    command::run(&mut tar, OFF)?.ok()?;
    let bytes = fs::read(file).doing("read the archive")?;
    fs::remove_file(file).doing("remove the archive")?;
    Ok(bytes)
}

pub(crate) fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).is_ok_and(|m| m.permissions().mode() & 0o100 != 0)
}

/// Removes what machines have left whose makers are gone.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if maker(&name).is_some_and(|(pid, start)| processes::start_time(pid) != Some(start)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Pid and start time in a folder's name.
fn maker(name: &str) -> Option<(i32, u64)> {
    let (pid, start) = name.strip_prefix("run-")?.split_once('-')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_machines_than_are_allowed_have_their_turn_at_once() {
        let base = tempfile::tempdir().unwrap();
        let (first, second) = (turn(base.path(), 2).unwrap(), turn(base.path(), 2).unwrap());
        let (tell, told) = channel();
        let folder = base.path().to_owned();
        std::thread::spawn(move || tell.send(turn(&folder, 2).is_ok()));
        assert_eq!(told.recv_timeout(Duration::from_millis(500)), Err(RecvTimeoutError::Timeout));
        drop(first);
        assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(true));
        drop(second);
    }

    #[test]
    fn only_folders_of_machines_whose_makers_are_gone_are_swept() {
        let base = tempfile::tempdir().unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let mine = format!("run-{me}-{}", processes::start_time(me).unwrap());
        for name in [mine.as_str(), "run-1-999999999999", "disk"] {
            fs::create_dir(base.path().join(name)).unwrap();
        }
        sweep(base.path());
        let left = |name: &str| base.path().join(name).exists();
        assert!(left(&mine) && left("disk") && !left("run-1-999999999999"));
    }
}
