//! The program as the Docker CLI and a shell see it: words, exit codes, signals, the cancel socket.
//! No Engine is needed; the service is one that says nothing.
#![allow(clippy::unwrap_used, reason = "the helpers of tests too")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The program with a config of its own in `dir`, asking the service there.
fn program(dir: &Path, words: &str) -> Command {
    let config = dir.join("config.toml");
    let text = format!(
        "[paths]\nsocket = \"{0}/s.sock\"\n[docker]\nhost = \"unix://{0}/d.sock\"\n",
        dir.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_docker-gpuctl"));
    command
        .args(words.split_whitespace())
        .env("GPUCTL_CONFIG", config)
        .env("GPUCTL_VIA", "service")
        .env("DOCKER_CONFIG", dir)
        .stdin(Stdio::null());
    for other in ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CLI_PLUGIN_SOCKET", "GPUCTL_SOCKET"] {
        command.env_remove(other);
    }
    command
}

fn run(words: &str) -> (i32, String, String) {
    let dir = tempfile::tempdir().unwrap();
    shown(&program(dir.path(), words).output().unwrap())
}

fn shown(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

#[test]
fn metadata_is_answered_without_a_config() {
    let output = Command::new(env!("CARGO_BIN_EXE_docker-gpuctl"))
        .arg("docker-cli-plugin-metadata")
        .env("GPUCTL_CONFIG", "/nowhere/config.toml")
        .output()
        .unwrap();
    let (code, out, err) = shown(&output);
    let metadata: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(metadata["SchemaVersion"], "0.1.0");
}

#[test]
fn help_is_data_and_wrong_usage_is_not() {
    for words in
        ["gpuctl --help", "help gpuctl", "gpuctl", "help gpuctl scale", "gpuctl run --help"]
    {
        let (code, out, err) = run(words);
        assert_eq!((code, err.as_str()), (0, ""), "{words}");
        assert!(out.contains("Usage:") && out.contains("docker gpuctl"), "{words}: {out}");
    }
    for (words, code) in [
        ("gpuctl nope", 1),
        ("gpuctl scale x", 1),
        ("gpuctl stop", 1),
        ("gpuctl stop --nope x", 125),
        ("gpuctl ps --filter name", 125),
    ] {
        let (got, out, err) = run(words);
        assert_eq!((got, out.as_str()), (code, ""), "{words}");
        assert!(err.starts_with("error: ") && err.contains("hint: "), "{words}: {err}");
    }
}

#[test]
fn completion_proposes_commands_and_never_fails() {
    let (code, out, _) = run("__complete gpuctl sca");
    assert_eq!(code, 0);
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("scale\t"), "{out}");
    assert_eq!(lines.last(), Some(&":4"));
    // No service to ask for names.
    assert_eq!(run("__complete gpuctl stop x"), (0, ":4\n".into(), String::new()));
}

#[test]
fn without_a_service_or_on_another_engine_the_error_says_what_to_type() {
    let (code, out, err) = run("gpuctl ps");
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("no gpuctl service answers") && err.contains("hint: sudo"), "{err}");
    let (code, _, err) = run("-H unix:///far/e.sock gpuctl ps");
    assert_eq!(code, 1);
    assert!(err.contains("unix:///far/e.sock") && err.contains("d.sock"), "{err}");
}

/// A service that takes the request and says nothing.
fn silent(dir: &Path) -> UnixListener {
    UnixListener::bind(dir.join("s.sock")).unwrap()
}

/// The connection of the program, its request read.
fn asked(listener: &UnixListener) -> UnixStream {
    let (stream, _) = listener.accept().unwrap();
    let mut line = String::new();
    BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with(r#"{"protocol":8,"request":"#), "{line}");
    stream
}

fn ends_with(mut child: std::process::Child, code: i32) {
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(child.wait().unwrap().code(), Some(code));
}

#[test]
fn the_docker_cli_giving_up_is_an_interrupt() {
    let dir = tempfile::tempdir().unwrap();
    let service = silent(dir.path());
    let name = format!("gpuctl_test_{}", std::process::id());
    let cancel = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let child = program(dir.path(), "gpuctl stop x")
        .env("DOCKER_CLI_PLUGIN_SOCKET", format!("@{name}"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (held, _) = cancel.accept().unwrap();
    let mut stream = asked(&service);
    drop(held);
    // Nothing more is said, so that the service undoes; when it has, that is the end.
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    drop(stream);
    ends_with(child, 130);
}

#[test]
fn a_signal_is_an_interrupt_of_what_looks_and_of_what_changes() {
    for words in ["gpuctl ps", "gpuctl scale x --gpus 1"] {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let dir = tempfile::tempdir().unwrap();
            let service = silent(dir.path());
            let child = program(dir.path(), words).stderr(Stdio::null()).spawn().unwrap();
            let mut stream = asked(&service);
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
            drop(stream);
            ends_with(child, 130);
        }
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let service = silent(dir.path());
    let mut child = program(dir.path(), "gpuctl gpus")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stream = asked(&service);
    let row = serde_json::json!({
        "index": 0, "uuid": "GPU-1", "model": "x".repeat(100_000), "memory_total": 1,
        "memory_used": null, "utilisation": null, "holder": null, "owner": null, "since": null,
        "state": null, "processes": [], "health": "ok",
    });
    let answer = serde_json::json!({"ok": {"answer": "gpus", "data": [row]}});
    writeln!(stream, "{answer}").unwrap();
    let (code, _, err) = shown(&child.wait_with_output().unwrap());
    assert_eq!((code, err.as_str()), (141, ""));
}

#[test]
fn what_cannot_be_written_is_said() {
    for words in
        ["gpuctl --help", "gpuctl run --help", "gpuctl version", "docker-cli-plugin-metadata"]
    {
        let dir = tempfile::tempdir().unwrap();
        let full = std::fs::File::create("/dev/full").unwrap();
        let output = program(dir.path(), words).stdout(full).output().unwrap();
        let (code, _, err) = shown(&output);
        assert_eq!(code, 1, "{words}: {err}");
        let why = "error: the output could not be written: No space left on device\n";
        assert!(err.ends_with(why), "{words}: {err}");
    }
}
