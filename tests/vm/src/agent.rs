//! The guest's side: runs what it is told to, one after another, and sends back what that says.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gpuctl_sim::command::TIMED_OUT;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::frame::{Kind, PIECE, Run, receive, send};
use crate::{Doing as _, Result};

/// How long output is still waited for once a program has ended: what it left running may hold its
/// pipes open.
const LINGER: Duration = Duration::from_secs(1);

/// The port, shared by all that write to it.
type Port = Arc<Mutex<File>>;

/// Serves the host until it is gone.
///
/// # Errors
/// When the port cannot be opened or the host says what is no frame.
pub fn serve(port: &Path) -> Result<()> {
    let doing = format!("open {}", port.display());
    let mut from = OpenOptions::new().read(true).write(true).open(port).doing(doing)?;
    let to: Port = Arc::new(Mutex::new(from.try_clone().doing("share the port")?));
    say(&to, Kind::Hello, 0, b"");
    loop {
        let frame = receive(&mut from).doing("hear the host")?;
        if frame.kind != Kind::Run {
            continue;
        }
        let code = match one(&mut from, &to, frame.run, &frame.payload) {
            Ok(code) => code,
            Err(why) => {
                say(&to, Kind::Err, frame.run, format!("{why}\n").as_bytes());
                127
            }
        };
        say(&to, Kind::End, frame.run, code.to_string().as_bytes());
    }
}

/// Sends a frame; a host that does not listen loses it.
fn say(port: &Port, kind: Kind, run: u32, payload: &[u8]) {
    if let Ok(mut port) = port.lock() {
        let _ = send(&mut *port, kind, run, payload);
    }
}

fn one(from: &mut File, to: &Port, number: u32, payload: &[u8]) -> Result<i32> {
    let run: Run = serde_json::from_slice(payload).doing("understand what is to be run")?;
    let input = input(from, run.input)?;
    let (program, arguments) = run.words.split_first().ok_or("nothing to run")?;
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .doing(format!("start {program}"))?;
    let readers = [
        child.stdout.take().map(|pipe| pass_on(pipe, to.clone(), Kind::Out, number)),
        child.stderr.take().map(|pipe| pass_on(pipe, to.clone(), Kind::Err, number)),
    ];
    let code = wait(&mut child, started + Duration::from_secs(run.limit));
    let until = Instant::now() + LINGER;
    while Instant::now() < until && readers.iter().flatten().any(|r| !r.is_finished()) {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(code)
}

/// Takes all of the standard input off the port into a file without a name.
fn input(from: &mut File, mut left: u64) -> Result<Stdio> {
    if left == 0 {
        return Ok(Stdio::null());
    }
    let path = format!("/var/tmp/.gpuctl-vm-input-{}", std::process::id());
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    let file = file.as_mut().map_err(|e| format!("cannot keep the input: {e}"))?;
    std::fs::remove_file(&path).doing("unlink the input")?;
    while left > 0 {
        let frame = receive(from).doing("hear the host")?;
        if frame.kind == Kind::Input {
            file.write_all(&frame.payload).doing("keep the input")?;
            left = left.saturating_sub(u64::try_from(frame.payload.len()).unwrap_or(u64::MAX));
        }
    }
    file.rewind().doing("go to the start of the input")?;
    Ok(Stdio::from(file.try_clone().doing("share the input")?))
}

fn pass_on(mut pipe: impl Read + Send + 'static, to: Port, kind: Kind, run: u32) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        while let Ok(n) = pipe.read(&mut buffer) {
            match buffer.get(..n) {
                Some(piece) if n > 0 => say(&to, kind, run, piece),
                _ => return,
            }
        }
    })
}

fn wait(child: &mut Child, until: Instant) -> i32 {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                return status
                    .code()
                    .or_else(|| status.signal().map(|n| 128 + n))
                    .unwrap_or(TIMED_OUT);
            }
            Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                if let Ok(pid) = i32::try_from(child.id()) {
                    let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
                }
                let _ = child.wait();
                return TIMED_OUT;
            }
        }
    }
}
