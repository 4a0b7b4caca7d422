//! Decisions about containers of which little is known: the config is broken, the bundle, Docker's files
//! or the hook's state cannot be read, the id is none, the runtime is another one. Each is a line in the
//! audit log as any other. Entered by hand, without an Engine; the log at the default place is one of a
//! mount namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gpuctl_sim::command::{self, Output};
use gpuctl_tests::programs;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(30);
const BROKEN: &str = "node = [\n";

/// Runs what follows with nothing at the default places, and prints the log that it leaves there.
const AWAY: &str =
    "mount -t tmpfs t /var/lib && mount -t tmpfs t /run && mkdir /var/lib/gpuctl || exit 99
mount --bind /bin/true /usr/bin/runc || exit 99
\"$0\" \"$@\" <\"$STATE\" >&2
code=$?
cat /var/lib/gpuctl/audit.log 2>/dev/null
exit $code";

/// The programs, a config and a bundle. The real runtime is `true`.
struct Bench {
    folder: tempfile::TempDir,
}

/// What came of it: the exit status, and the lines of both logs.
#[derive(Debug)]
struct Came {
    got: Output,
    lines: Vec<Value>,
}

impl Bench {
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            gpuctl_tests::skip("the hook is root's");
            return None;
        }
        if !Path::new("/usr/bin/runc").is_file() {
            gpuctl_tests::skip("no /usr/bin/runc, which a broken config leaves as the real one");
            return None;
        }
        let folder =
            tempfile::Builder::new().prefix("gpuctl-unknown-").tempdir_in("/var/tmp").unwrap();
        let bench = Self { folder };
        for name in ["runc", "gpuctl-runtime", "gpuctl-hook", "nvidia-container-runtime-hook"] {
            gpuctl_sim::files::install(&programs::programs().hook, &bench.at(name)).unwrap();
        }
        fs::create_dir(bench.at("state")).unwrap();
        bench.config(None);
        bench.state("");
        Some(bench)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the config, a good one where no other is given.
    fn config(&self, text: Option<&str>) {
        let at = |name: &str| self.at(name).display().to_string();
        let good = format!(
            "node = \"n\"\n[ledger]\nurl = \"sqlite://{}\"\n[paths]\nstate = \"{}\"\nrun = \"{}\"\n\
             journal = \"{}\"\n[docker]\nroot = \"{}\"\n[runtime]\nreal = \"/bin/true\"\n",
            at("state/ledger.db"),
            at("state"),
            at("run"),
            at("journal"),
            at("docker"),
        );
        gpuctl_sim::files::write(&self.at("config.toml"), text.unwrap_or(&good)).unwrap();
    }

    /// What a hook reads.
    fn state(&self, text: &str) {
        fs::write(self.at("stdin"), text).unwrap();
    }

    /// A bundle with a recorded config.json.
    fn bundle(&self, recorded: &str) -> PathBuf {
        let fixtures =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../hook/tests/fixtures/engine-29");
        let bundle = self.at("bundle");
        fs::create_dir_all(&bundle).unwrap();
        let from = fixtures.join(format!("{recorded}.config.json"));
        fs::copy(from, bundle.join("config.json")).unwrap();
        bundle
    }

    fn enter(&self, program: &str, arguments: &[&str]) -> Came {
        let log = self.at("state/audit.log");
        let _ = fs::remove_file(&log);
        let mut away = Command::new("unshare");
        away.args(["--mount", "sh", "-c", AWAY]).arg(self.at(program)).args(arguments);
        away.env("GPUCTL_CONFIG", self.at("config.toml")).env("STATE", self.at("stdin"));
        let got = command::run(&mut away, LIMIT).unwrap();
        assert!(got.code == 0 || got.code == 1, "{got}");
        let text = format!("{}{}", got.stdout, fs::read_to_string(log).unwrap_or_default());
        let lines = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        Came { got, lines }
    }

    fn create(&self, program: &str, recorded: &str, id: &str) -> Came {
        let bundle = self.bundle(recorded).display().to_string();
        self.enter(program, &["create", "--bundle", &bundle, id])
    }
}

impl Came {
    /// It ended so, and one line tells of it: the decision, the container, and the words of the reason.
    #[track_caller]
    fn told(&self, code: i32, decision: &str, id: &str, reason: &str) {
        assert_eq!(self.got.code, code, "{}", self.got);
        let [line] = self.lines.as_slice() else { panic!("not one line: {self:#?}") };
        assert_eq!((&line["decision"], &line["container"]), (&decision.into(), &id.into()));
        let told = line["reason"].as_str().unwrap_or_default();
        assert!(told.contains(reason), "no {reason:?} in {told:?}");
    }

    #[track_caller]
    fn silent(&self, code: i32) {
        assert_eq!((self.got.code, self.lines.len()), (code, 0), "{self:#?}");
    }
}

#[test]
fn a_broken_config_hides_no_decision() {
    let Some(bench) = Bench::new() else { return };
    bench.config(Some(BROKEN));
    bench.create("runc", "plain", "c1").silent(0);
    bench.create("runc", "privileged", "c1").told(0, "stripped", "c1", "config");
    bench.create("runc", "gpus-2", "c1").told(1, "refused", "c1", "config");
    bench.create("gpuctl-runtime", "plain", "c1").told(1, "refused", "c1", "config");
    bench.state(r#"{"id":"c1"}"#);
    bench.enter("gpuctl-hook", &["gate"]).told(1, "refused", "c1", "config");
}

#[test]
fn nor_does_an_id_that_is_none_nor_what_cannot_be_read() {
    let Some(bench) = Bench::new() else { return };
    bench.create("runc", "plain", "no+id").silent(0);
    bench.create("runc", "privileged", "no+id").told(0, "stripped", "no+id", "id is not one");
    bench.create("runc", "gpus-2", "no+id").told(1, "refused", "no+id", "id is not one");
    let none = bench.at("none").display().to_string();
    bench.enter("runc", &["create", "--bundle", &none, "c1"]).told(1, "refused", "c1", "bundle");
    bench.enter("runc", &["state", "c1"]).silent(0);
    let id = "ab".repeat(32);
    let files = bench.at("docker/containers").join(&id);
    fs::create_dir_all(&files).unwrap();
    fs::write(files.join("config.v2.json"), "{").unwrap();
    bench.create("runc", "plain", &id).silent(0);
    bench.create("runc", "privileged", &id).told(0, "stripped", &id, "Docker's files");
    bench.create("runc", "gpus-2", &id).told(1, "refused", &id, "Docker's files");
    bench.create("gpuctl-runtime", "plain", &id).told(1, "refused", &id, "Docker's files");
}

#[test]
fn a_gate_without_a_state_and_the_stub_tell_whom_they_keep_out() {
    let Some(bench) = Bench::new() else { return };
    bench.state("{");
    bench.enter("gpuctl-hook", &["gate"]).told(1, "refused", "", "state");
    bench.state(r#"{"id":"c1","bundle":"/none"}"#);
    bench.enter("gpuctl-hook", &["gate"]).told(1, "refused", "c1", "bundle");
    bench.enter("nvidia-container-runtime-hook", &["prestart"]).told(1, "refused", "c1", "runtime");
    // Who only asks what it is starts nothing.
    bench.enter("nvidia-container-runtime-hook", &["--version"]).silent(1);
    bench.config(Some(BROKEN));
    bench.enter("nvidia-container-runtime-hook", &["prestart"]).told(1, "refused", "c1", "runtime");
}
