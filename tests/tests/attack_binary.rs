//! The adversary below Docker: wrapper, gate and release are entered by hand with bundles, arguments,
//! descriptors and limits that no engine makes. Nothing crashes, hangs, or lets a GPU through.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gpuctl_sim::command::{self, Output};
use gpuctl_tests::programs;
use gpuctl_tests::siege::short;
use serde_json::{Value, json};

/// The longest that one call may take, on a machine with other things to do.
const BOUND: Duration = Duration::from_secs(20);
/// A wrapper that has nothing to decide takes no more than this for a spec of 16 MiB, in KiB of address
/// space.
const MEMORY: u32 = 768 << 10;

/// The programs and a config, without an Engine. The real runtime is `true`: that it was become is
/// exit 0, and what it would have run is the bundle's config.json.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            gpuctl_tests::skip("the hook is root's");
            return None;
        }
        let folder =
            tempfile::Builder::new().prefix("gpuctl-attack-").tempdir_in("/var/tmp").unwrap();
        let bench = Self { folder };
        for name in ["runc", "gpuctl-runtime", "gpuctl-hook", "nvidia-container-runtime-hook"] {
            gpuctl_sim::files::install(&programs::programs().hook, &bench.at(name)).unwrap();
        }
        let at = |name: &str| bench.at(name).display().to_string();
        let config = format!(
            "node = \"n\"\n[ledger]\nurl = \"sqlite://{}\"\n[paths]\nstate = \"{}\"\nrun = \"{}\"\n\
             [docker]\nroot = \"{}\"\n[runtime]\nreal = \"/bin/true\"\nhook = \"{}\"\n",
            at("state/ledger.db"),
            at("state"),
            at("run"),
            at("docker"),
            at("gpuctl-hook"),
        );
        gpuctl_sim::files::write(&bench.at("config.toml"), &config).unwrap();
        for name in ["state", "run", "canary"] {
            fs::create_dir(bench.at(name)).unwrap();
        }
        Some(bench)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A bundle with this config.json.
    fn bundle(&self, name: &str, config: &[u8]) -> PathBuf {
        let bundle = self.at(name);
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("config.json"), config).unwrap();
        bundle
    }

    /// `sh -c BEFORE; exec PROGRAM ...`: limits and descriptors are the shell's to set.
    fn enter(&self, before: &str, program: &str, arguments: &[&str]) -> Output {
        let mut sh = Command::new("sh");
        sh.args(["-c", &format!("{before}\nexec \"$0\" \"$@\"")])
            .arg(self.at(program))
            .args(arguments);
        sh.env("GPUCTL_CONFIG", self.at("config.toml"));
        let got = command::run(&mut sh, BOUND + Duration::from_secs(10)).unwrap();
        self.borne(&got);
        got
    }

    fn create(&self, bundle: &Path) -> Output {
        let log = self.at("log.json").display().to_string();
        let bundle = bundle.display().to_string();
        self.enter(
            "",
            "runc",
            &["--log", &log, "--log-format", "json", "create", "--bundle", &bundle, "c1"],
        )
    }

    /// No signal, no panic, in time, and no raw control character in anything that was said.
    #[track_caller]
    fn borne(&self, got: &Output) {
        let shown = short(&got.to_string());
        assert!(got.code == 0 || got.code == 1, "{shown}");
        assert!(got.took < BOUND, "{shown}");
        let said = format!("{}{}", got.stdout, got.stderr);
        assert!(!said.contains("panicked"), "{shown}");
        assert!(!said.contains(|c: char| c.is_control() && c != '\n'), "{:?}", short(&said));
        let left = fs::read_dir(self.at("canary")).unwrap().count();
        assert_eq!(left, 0, "it wrote where nothing of ours is");
    }

    /// What the wrapper refused, by its own log.
    #[track_caller]
    fn refusal(&self, got: &Output) -> String {
        let log = fs::read_to_string(self.at("log.json")).unwrap_or_default();
        let _ = fs::remove_file(self.at("log.json"));
        let line = log
            .lines()
            .last()
            .unwrap_or_else(|| panic!("nothing logged\n{}", short(&got.to_string())));
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        let text = line["msg"].as_str().expect("a message").to_owned();
        assert!(text.starts_with("gpuctl: ") && text.len() < 8000, "{}", short(&text));
        assert!(!text.contains(|c: char| c.is_control()), "{text:?}");
        text
    }
}

#[test]
fn a_config_json_that_is_no_spec_is_refused_on_one_line() {
    let Some(bench) = Bench::new() else { return };
    let nested = |open: &str, close: &str| {
        format!("{{\"a\":{}{}}}", open.repeat(100_000), close.repeat(100_000))
    };
    let huge = format!("{{\"x\":\"{}\"}}", "y".repeat(17 << 20));
    let objects = format!("{{\"x\":[{}]}}", vec![r#"{"":0}"#; 2_000_000].join(","));
    let texts: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("list", b"[]".to_vec()),
        ("torn", b"{\"process\":{\"env\":[\"A".to_vec()),
        ("deep lists", nested("[", "]").into_bytes()),
        ("deep objects", nested("{\"a\":", "}").into_bytes()),
        ("17 MiB", huge.into_bytes()),
        ("objects", objects.into_bytes()),
        ("no UTF-8", b"{\"\xff\xfe\":\"\x1b[2J\xc0\x80\"}".to_vec()),
        ("control", b"{\"a\":\"\x1b[2J\x07\"}".to_vec()),
        ("lone surrogate", br#"{"a":"\ud800"}"#.to_vec()),
        ("number", b"{\"a\":1e999999}".to_vec()),
        ("NUL", b"{\"a\":1}\0\0\0".to_vec()),
    ];
    for (name, text) in &texts {
        let bundle = bench.bundle("bundle", text);
        let got = bench.create(&bundle);
        assert_eq!(got.code, 1, "{name}: {}", short(&got.to_string()));
        assert!(bench.refusal(&got).contains("config.json"), "{name}");
        assert!(fs::read(bundle.join("config.json")).unwrap() == *text, "{name}: it was changed");
    }
}

#[test]
fn a_config_json_that_is_no_file_is_refused_and_not_waited_for() {
    let Some(bench) = Bench::new() else { return };
    let bundle = bench.bundle("bundle", b"{}");
    let path = bundle.join("config.json");
    let makers: [&dyn Fn(); 5] = [
        &|| nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        &|| symlink("/etc/shadow", &path).unwrap(),
        &|| fs::create_dir(&path).unwrap(),
        &|| symlink("/dev/zero", &path).unwrap(),
        &|| drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
    ];
    for (at, make) in makers.iter().enumerate() {
        let _ = fs::remove_dir(&path);
        let _ = fs::remove_file(&path);
        make();
        let got = bench.create(&bundle);
        assert_eq!(got.code, 1, "{at}: {got}");
        assert!(bench.refusal(&got).contains("config.json"), "{at}");
    }
    for odd in ["no\nsuch\u{1b}[2J", "/proc/self/fd", "/dev/null", "", &"x/".repeat(3000)] {
        let got = bench.create(Path::new(odd));
        assert_eq!(got.code, 1, "{odd:?}: {got}");
        bench.refusal(&got);
    }
}

#[test]
fn a_spec_of_whatever_shape_opens_no_gpu_behind_the_wrapper() {
    let Some(bench) = Bench::new() else { return };
    let rules =
        |list: Value| json!({"ociVersion": "1.0.2", "linux": {"resources": {"devices": list}}});
    let wild = json!({"allow": true, "type": "c", "major": 195, "minor": -1, "access": "rwm"});
    let all = json!({"allow": true, "access": "rwm"});
    let big: Vec<Value> = (0..40_000)
        .map(|n| json!({"path": format!("/dev/d{n}"), "type": "c", "major": 10, "minor": n}))
        .collect();
    let mounts: Vec<Value> = (0..40_000)
        .map(|n| json!({"destination": format!("/m/{n}"), "source": "/", "options": ["bind"]}))
        .collect();
    let env: Vec<String> = (0..40_000).map(|n| format!("A{n}={}", "x".repeat(250))).collect();
    // Whether it may start: what opens GPUs along with everything else loses them and starts.
    for (name, spec, starts) in [
        ("hooks are text", json!({"hooks": "x", "linux": {"resources": {"devices": [all]}}}), true),
        ("hooks are text too", json!({"hooks": {"prestart": "x", "poststop": 7}}), true),
        ("40 000 nodes", json!({"linux": {"devices": big}}), true),
        ("40 000 mounts", json!({"mounts": mounts}), true),
        ("10 MB of environment", json!({"process": {"env": env}}), true),
        ("wildcards", rules(json!(vec![wild.clone(); 40_000])), true),
        ("allow-alls", rules(json!(vec![all.clone(); 40_000])), true),
        (
            "a node",
            json!({"linux": {"devices": [{"path": "/x", "type": "c", "major": 195, "minor": 3}]}}),
            false,
        ),
        (
            "a node of type u",
            json!({"linux": {"devices": [{"path": "/x", "type": "u", "major": 195, "minor": 3}]}}),
            false,
        ),
        (
            "numbers beyond",
            rules(
                json!([{"allow": true, "type": "c", "major": 195, "minor": 18_446_744_073_709_551_615u64}]),
            ),
            true,
        ),
        (
            "a float",
            rules(json!([{"allow": true, "type": "c", "major": 195.0, "minor": 3.0}])),
            true,
        ),
        ("text", rules(json!([{"allow": "yes", "type": "c", "major": "195", "minor": "3"}])), true),
        (
            "a number too many",
            rules(json!(
                (0..40_000)
                    .map(|n| json!({"allow": true, "type": "c", "major": -1, "minor": n}))
                    .collect::<Vec<_>>()
            )),
            false,
        ),
        (
            "by name without end",
            json!({"hooks": {"prestart": [{"path": "/nvidia-container-runtime-hook"}]},
            "process": {"env": [format!("NVIDIA_VISIBLE_DEVICES={}", (0..1_000_000).map(|n| n.to_string()).collect::<Vec<_>>().join(","))]}}),
            false,
        ),
        (
            "by a name that is none",
            json!({"hooks": {"prestart": [{"path": "/nvidia-container-runtime-hook"}]},
            "process": {"env": ["NVIDIA_VISIBLE_DEVICES=\u{1b}[2J\u{202e}"]}}),
            false,
        ),
    ] {
        let bundle = bench.bundle("bundle", spec.to_string().as_bytes());
        let got = bench.create(&bundle);
        assert_eq!(got.code, i32::from(!starts), "{name}: {}", short(&got.to_string()));
        if starts {
            let after: Value =
                serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
            let left = after.pointer("/linux/resources/devices").and_then(Value::as_array).cloned();
            for rule in left.unwrap_or_default() {
                let shared = [json!(254), json!(255)].contains(&rule["minor"]);
                let gpu = rule["allow"] != false
                    && rule["type"] != "b"
                    && rule["access"] != "m"
                    && rule["major"].as_u64().is_none_or(|m| m == 195)
                    && !shared;
                assert!(!gpu, "{name}: {rule} is left");
            }
        } else {
            bench.refusal(&got);
        }
    }
}

#[test]
fn duplicate_keys_are_one_key_for_us_and_for_runc() {
    let Some(bench) = Bench::new() else { return };
    // Go's decoder and ours take the last; what is written leaves only one to take.
    let text = br#"{"linux":{"resources":{"devices":[]}},"linux":{"resources":{"devices":[{"allow":true,"access":"rwm"}]}}}"#;
    let bundle = bench.bundle("bundle", text);
    assert_eq!(bench.create(&bundle).code, 0);
    let after = fs::read_to_string(bundle.join("config.json")).unwrap();
    assert_eq!(after.matches("\"linux\"").count(), 1, "{}", short(&after));
    assert!(!after.contains(r#"{"access":"rwm","allow":true}"#), "{}", short(&after));
}

#[test]
fn limits_and_descriptors_of_the_caller_change_no_verdict() {
    let Some(bench) = Bench::new() else { return };
    let plain = bench.bundle("plain", br#"{"ociVersion":"1.0.2","process":{"args":["x"]}}"#);
    let node =
        json!({"linux": {"devices": [{"path": "/x", "type": "c", "major": 195, "minor": 3}]}});
    let node = bench.bundle("node", node.to_string().as_bytes());
    let call =
        |bundle: &Path| ["create", "--bundle", bundle.to_str().unwrap(), "c1"].map(str::to_owned);
    for before in [
        "exec <&-",
        "exec >&-",
        "exec 2>&-",
        "exec <&- >&- 2>&-",
        "ulimit -n 10",
        "ulimit -c 0 -s 256",
        "trap '' PIPE",
        "exec 2>/dev/full >/dev/full",
        "cd /proc/self/fd",
        "unset PATH HOME LANG",
        "export RUST_BACKTRACE=full LD_PRELOAD=/x.so LD_LIBRARY_PATH=.",
        "export GPUCTL_RUNTIME_DEPTH=-1",
        "export GPUCTL_RUNTIME_DEPTH=99999999999999",
        "umask 777",
    ] {
        for (bundle, code) in [(&plain, 0), (&node, 1)] {
            let line = call(bundle);
            let line: Vec<&str> = line.iter().map(String::as_str).collect();
            let got = bench.enter(before, "runc", &line);
            assert_eq!(got.code, code, "{before}: {got}");
        }
    }
    // So few descriptors that nothing can be read: a refusal, and no abort.
    let line = call(&plain);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    assert_eq!(bench.enter("ulimit -n 3", "runc", &line).code, 1);
    // 16 MiB of what Docker can make, in a bounded memory.
    let env: Vec<&str> = vec!["a"; 3_500_000];
    let full = bench.bundle("full", json!({"process": {"env": env}}).to_string().as_bytes());
    let line = call(&full);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    let got = bench.enter(&format!("ulimit -v {MEMORY}"), "runc", &line);
    assert_eq!(got.code, 0, "{}", short(&got.to_string()));
}

#[test]
fn the_log_is_appended_to_a_file_and_to_nothing_else() {
    let Some(bench) = Bench::new() else { return };
    let bundle = bench.bundle("bundle", b"[]");
    let theirs = bench.at("theirs");
    fs::write(&theirs, "as it was").unwrap();
    type Make<'a> = &'a dyn Fn(&Path);
    let makers: [(&str, Make<'_>); 4] = [
        ("link", &|p| symlink(&theirs, p).unwrap()),
        ("fifo", &|p| nix::unistd::mkfifo(p, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("folder", &|p| fs::create_dir(p).unwrap()),
        ("dangling", &|p| symlink(bench.at("canary/written"), p).unwrap()),
    ];
    for (name, make) in makers {
        let log = bench.at(name);
        make(&log);
        let (log, bundle) = (log.display().to_string(), bundle.display().to_string());
        let got = bench.enter("", "runc", &["--log", &log, "create", "--bundle", &bundle, "c1"]);
        assert_eq!(got.code, 1, "{name}: {got}");
        assert!(got.stderr.contains("config.json"), "{name}: {got}");
    }
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "as it was");
    for odd in ["a\n\u{1b}[2J/b", "", "/proc/self/mem", "/dev/full"] {
        assert_eq!(
            bench.enter("", "runc", &["--log", odd, "create", "--bundle", "/", "c1"]).code,
            1
        );
    }
}

#[test]
fn arguments_of_whatever_shape_are_passed_on_or_refused() {
    let Some(bench) = Bench::new() else { return };
    let long = "x".repeat(100_000);
    for line in [
        &["create"][..],
        &["--bundle"],
        &["create", "--bundle"],
        &["--", "create", "--", "x"],
        &["create", "--bundle", "\u{1b}[2J\n", "../../etc\u{7}"],
        &["create", "--bundle=/", &long],
        &["\u{1b}[2J"],
        &["delete", "../../x"],
        &["delete", "\n"],
        &["run", "-b", "/", "-"],
        &["restore", "--image-path", "/x", "c"],
        &[],
        &["", "", ""],
        &["state", &long],
    ] {
        bench.enter("", "runc", line);
        bench.enter("", "gpuctl-runtime", line);
    }
    for line in [
        &["gate", "--token", "../\u{1b}"][..],
        &["gate", "--config", "/dev/zero"],
        &["\u{1b}[2J"],
        &["release", "--tokn\n"],
        &["gate", "--config", "a\n\u{1b}[2J"],
        &["version", &long],
    ] {
        bench.enter("", "gpuctl-hook", line);
    }
    let got = bench.enter("", "nvidia-container-runtime-hook", &["\u{1b}[2J", "prestart"]);
    assert_eq!(got.code, 1);
}

/// A hook with a standard input that is written by `feed`.
fn hook(
    bench: &Bench,
    part: &str,
    feed: impl FnOnce(std::process::ChildStdin) + Send + 'static,
) -> (Option<i32>, String) {
    let mut child = Command::new(bench.at("gpuctl-hook"))
        .args([part, "--config"])
        .arg(bench.at("config.toml"))
        .args(["--token", "abc"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    let began = Instant::now();
    let feeder = std::thread::spawn(move || feed(stdin));
    let out = child.wait_with_output().unwrap();
    assert!(began.elapsed() < BOUND, "{part} took {:?}", began.elapsed());
    feeder.join().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn a_state_of_whatever_shape_opens_no_gate() {
    let Some(bench) = Bench::new() else { return };
    let gpu = json!({"linux": {"resources": {"devices": [{"allow": true, "access": "rwm"}]}}});
    let bundle = bench.bundle("bundle", gpu.to_string().as_bytes()).display().to_string();
    let states: Vec<Vec<u8>> = vec![
        Vec::new(), b"null".to_vec(), b"\xff\xfe".to_vec(), "[".repeat(200_000).into_bytes(),
        json!({"id": "c1", "pid": 1, "bundle": bundle}).to_string().into_bytes(),
        json!({"id": "../../x\u{1b}[2J", "pid": -1, "bundle": bundle}).to_string().into_bytes(),
        json!({"id": "c1", "pid": 1, "bundle": "/no\nsuch\u{1b}[2J"}).to_string().into_bytes(),
        json!({"id": "c1", "pid": 4_294_967_296u64, "bundle": bundle}).to_string().into_bytes(),
        json!({"id": "x".repeat(1 << 20), "annotations": {"a": "b".repeat(1 << 20)}, "bundle": bundle}).to_string().into_bytes(),
    ];
    for state in states {
        for part in ["gate", "release"] {
            let bytes = state.clone();
            let (code, said) = hook(&bench, part, move |mut stdin| drop(stdin.write_all(&bytes)));
            if part == "gate" {
                assert_eq!(code, Some(1), "{said}");
                assert!(said.starts_with("gpuctl: ") && said.lines().count() == 1, "{said:?}");
            }
            assert!(matches!(code, Some(0 | 1)), "{part}: {code:?} {said}");
            assert!(!said.trim_end().contains(|c: char| c.is_control()), "{said:?}");
        }
    }
    // One that never ends is read to its limit, and no further.
    let (code, _) =
        hook(&bench, "gate", |mut stdin| while stdin.write_all(&[b' '; 65536]).is_ok() {});
    assert_eq!(code, Some(1));
}

#[test]
fn what_others_can_write_is_not_the_real_runtime_and_no_config() {
    let Some(bench) = Bench::new() else { return };
    let bundle = bench.bundle("bundle", br#"{"ociVersion":"1.0.2"}"#);
    let evil = bench.at("evil");
    fs::write(&evil, format!("#!/bin/sh\necho x >{}\n", bench.at("canary/written").display()))
        .unwrap();
    fs::set_permissions(&evil, fs::Permissions::from_mode(0o777)).unwrap();
    let config = fs::read_to_string(bench.at("config.toml")).unwrap();
    let with = config.replace("/bin/true", &evil.display().to_string());
    gpuctl_sim::files::write(&bench.at("config.toml"), &with).unwrap();
    // The usual runc is taken, or none; the other never.
    bench.create(&bundle);
    gpuctl_sim::files::write(&bench.at("config.toml"), &config).unwrap();
    fs::set_permissions(bench.at("config.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    let node =
        json!({"linux": {"devices": [{"path": "/x", "type": "c", "major": 195, "minor": 3}]}});
    let bundle = bench.bundle("bundle", node.to_string().as_bytes());
    let got = bench.create(&bundle);
    assert_eq!(got.code, 1, "{got}");
    bench.refusal(&got);
}
