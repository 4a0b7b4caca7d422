//! What a user has in the hand: completion of what there is, filters and templates, colours and widths of a
//! real terminal, and hints of a real Docker CLI.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use gpuctl_sim::command;
use gpuctl_tests::newer::composes;
use gpuctl_tests::node::LIMIT;
use gpuctl_tests::{Node, Options, Output, engine_runs_here, skip};

const LONG: [&str; 3] = ["busybox", "sleep", "100000"];

fn managed(node: &Node, name: &str, gpus: &str) {
    let run = ["run", "-d", "--stop-timeout", "0", "--name", name, "--gpus", gpus];
    node.gpuctl_ok(&[&run[..], &LONG].concat());
}

/// What the plugin proposes to a shell, with the directive as the last.
fn completed(node: &Node, words: &[&str]) -> Vec<String> {
    let mut plugin = Command::new(node.site().plugin());
    for (name, value) in node.site().engine().environment() {
        plugin.env(name, value);
    }
    plugin.arg("__completeNoDesc").arg("gpuctl").args(words);
    let got = command::run(&mut plugin, LIMIT).expect("the plugin starts");
    assert!(got.code == 0 && got.stderr.is_empty(), "{got}");
    got.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn completion_knows_what_there_is_and_is_silent_when_nobody_answers() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    managed(&node, "train", "2");
    managed(&node, "tool", "1");
    node.gpuctl_ok(&["stop", "tool"]);
    node.docker_ok(&[&["run", "-d", "--name", "bare", "--gpus", "1"], &LONG[..]].concat());
    node.gpuctl_ok(&["scale", "train", "--gpus", "3"]);
    assert_eq!(completed(&node, &["stop", ""]), ["train", ":4"]);
    assert_eq!(completed(&node, &["start", "t"]), ["tool", ":4"]);
    assert_eq!(completed(&node, &["rm", "t"]), ["tool", "train", ":4"]);
    assert_eq!(completed(&node, &["rm", "tool", "t"]), ["train", ":4"], "it is named already");
    assert_eq!(completed(&node, &["unpause", ""]), [":4"]);
    node.gpuctl_ok(&["pause", "train"]);
    assert_eq!(completed(&node, &["unpause", ""]), ["train", ":4"]);
    assert_eq!(completed(&node, &["stop", ""]), [":4"]);
    node.gpuctl_ok(&["unpause", "train"]);
    assert_eq!(completed(&node, &["rollback", "train", ""]), ["1", "0", ":4"]);
    assert_eq!(completed(&node, &["adopt", ""]), ["bare", ":4"]);
    assert_eq!(completed(&node, &["exec", ""]), ["train", ":4"]);
    assert_eq!(completed(&node, &["exec", "-it", "train", ""]), [":4"]);
    assert_eq!(completed(&node, &["run", "--gpus", "2", "busy"])[0], "busybox:latest");
    assert!(completed(&node, &["run", "--gp"]).contains(&"--gpus".to_owned()));
    // What Docker's own flags take.
    node.docker_ok(&["network", "create", "lab"]);
    let run = |words: &[&str]| completed(&node, &[&["run"], words].concat());
    assert_eq!(run(&["--network", "l"]), ["lab", ":4"]);
    assert_eq!(run(&["--network=ho"]), ["host", ":4"]);
    assert_eq!(run(&["--pull", "n"]), ["never", ":4"]);
    assert_eq!(run(&["--volumes-from", "b"]), ["bare", ":4"]);
    assert_eq!(run(&["--env-file", "x"]), [":0"], "a file");
    assert_eq!(run(&["--from", "train@"]), ["train@1", "train@0", ":4"]);
    node.docker_ok(&["volume", "create", "plain"]);
    assert_eq!(completed(&node, &["volume", "adopt", ""]), ["plain", ":4"]);
    assert_eq!(completed(&node, &["volume", "create", "--backend", ""]), ["size", "image", ":4"]);
    // Of eight GPUs train has three and bare one: a scale keeps what it has, a clone takes more.
    let counts = completed(&node, &["scale", "train", "--gpus", ""]);
    assert_eq!(counts[..8], ["1", "2", "3", "4", "5", "6", "7", "all"]);
    let counts = completed(&node, &["clone", "train", "twin", "--gpus", ""]);
    assert_eq!(counts[..5], ["1", "2", "3", "4", "all"]);
    let held: Vec<String> = node
        .gpuctl_ok(&["gpus", "-f", "free=false", "--format", "{{.GPU}}"])
        .lines()
        .map(str::to_owned)
        .collect();
    let free = completed(&node, &["run", "--gpus", "device="]);
    assert_eq!((held.len(), free.len()), (4, 2 * 4 + 1), "{free:?}");
    assert!(held.iter().all(|index| !free.contains(&format!("device={index}"))), "{free:?}");
    assert!(completed(&node, &["ps", "-f", "ow"]).contains(&"owner=".to_owned()));
    assert!(
        completed(&node, &["events", "-f", "decision=ref"])
            .contains(&"decision=refused".to_owned())
    );

    node.kill_engine();
    let began = Instant::now();
    assert_eq!(completed(&node, &["stop", ""]), [":4"]);
    assert_eq!(completed(&node, &["run", "busy"]), [":4"]);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(completed(&node, &["sca"]), ["scale", ":4"]);
}

#[test]
fn lists_are_filtered_and_printed_as_asked() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    managed(&node, "train", "2");
    managed(&node, "tool", "1");
    managed(&node, "none", "0");
    node.gpuctl_ok(&["stop", "tool"]);
    let ps = |words: &[&str]| node.gpuctl_ok(&[&["ps"], words].concat());
    let names = ["--format", "{{.Name}}"];
    let of = |filters: &[&str]| ps(&[filters, &names[..]].concat());
    assert_eq!(of(&[]), "none\ntrain");
    assert_eq!(of(&["-f", "managed=false"]), "");
    assert_eq!(of(&["-f", "status=exited"]), "tool", "without -a, as docker");
    assert_eq!(of(&["-f", "name=tra", "-f", "name=non"]), "none\ntrain");
    assert_eq!(of(&["-f", "name=tra", "-f", "status=exited"]), "");
    assert_eq!(of(&["-f", "ancestor=busybox", "-f", "gpu=1"]), "train");
    assert_eq!(of(&["-a", "-f", "owner=root"]), "none\ntool\ntrain");
    assert_eq!(of(&["-f", "name=^trai$"]), "");
    assert_eq!(of(&["-f", "name=^train$"]), "train");
    assert_eq!(of(&["-f", "name="]), "none\ntrain");
    assert_eq!(of(&["--all=true", "-f", "name=o"]), "none\ntool");
    assert_eq!(of(&["-a", "--all=false", "-f", "name=o"]), "none");
    // One that is not there keeps nothing of the others back.
    let got = node.gpuctl(&["inspect", "-f", "{{.Name}}", "tool", "nobody", "train"]);
    assert_eq!((got.code, got.stdout.as_str()), (1, "tool\ntrain\n"), "{got}");
    assert!(got.stderr.contains("no container nobody"), "{got}");
    // By force it is told, and is no failure.
    for words in
        [&["rm", "-f", "nobody"][..], &["rm", "-f=true", "nobody"], &["volume", "rm", "-f", "no"]]
    {
        let got = node.gpuctl(words);
        assert!(got.code == 0 && got.stdout.is_empty(), "{got}");
        assert!(got.stderr.starts_with("error: no "), "{got}");
    }
    // Docker's own are there, whatever the force.
    node.docker_ok(&["create", "--name", "plain", "busybox"]);
    node.docker_ok(&["volume", "create", "plain"]);
    for words in [&["rm", "-f", "plain"][..], &["volume", "rm", "-f", "plain"]] {
        let got = node.gpuctl(words);
        assert!(got.code == 1 && got.stderr.contains("it is docker's own\nhint: docker "), "{got}");
    }
    node.docker_ok(&["rm", "plain"]);
    let table = ps(&["--format", "table {{.Name}}\\t{{upper .State}}\\t{{.Version}}"]);
    assert_eq!(table, "NAME    STATE     VERSION\nnone    RUNNING   0\ntrain   RUNNING   0");
    assert_eq!(ps(&["-f", "name=train", "--format", "{{json .Held}} {{.Asked}}"]), "[0,1] 2");
    assert_eq!(ps(&["-q", "--no-trunc", "-f", "name=train"]), node.id("train-0"));
    let gpus = node.gpuctl_ok(&["gpus", "-f", "holder=train", "--format", "{{.GPU}}={{.Holder}}"]);
    assert_eq!(gpus, "0=train-0\n1=train-0");
    assert_eq!(node.gpuctl_ok(&["gpus", "-q", "-f", "free=true"]).lines().count(), 6);
    let history = ["history", "train", "--format", "{{.Version}}: {{.Image}}"];
    assert_eq!(node.gpuctl_ok(&history), "0 *: busybox");
    let inspect = ["inspect", "-f", "{{.Name}} {{.Docker.State.Running}}", "train"];
    assert_eq!(node.gpuctl_ok(&inspect), "train true");
    let events = ["events", "--until", "0s", "-n", "all", "-f", "decision=granted"];
    let granted = node.gpuctl_ok(&[&events[..], &["--format", "{{.Name}} {{.GPUs}}"]].concat());
    assert!(granted.lines().any(|line| line == "train-0 0,1"), "{granted}");
    assert_eq!(node.gpuctl_ok(&["version", "--format", "{{.node}}"]), "node1");
    // What is wrong is on stderr, and says what there is; the exit codes are Docker's.
    for (words, code, said) in [
        (&["ps", "--format", "{{.Nope}}"][..], 1, "only .Name, .Version, .GPUs"),
        (&["ps", "--format", "xml"], 1, "neither table nor json"),
        (&["ps", "--format", "{{if .Name}}x{{end}}"], 1, "docs/json.md"),
        (&["gpus", "-f", "colour=red"], 1, "only gpu, model, holder"),
        (&["ports", "-f", "name"], 125, "is not KEY=VALUE"),
        (&["stop", "-t", "x", "train"], 125, "--timeout"),
        (&["stop", "--frob", "train"], 125, "unknown flag: --frob"),
        (&["exec", "--frob", "train", "true"], 125, "unknown flag: --frob"),
        (&["logs", "--frob", "train"], 125, "unknown flag: --frob"),
        (&["create", "--frob", "busybox"], 125, "unknown flag: --frob"),
        (&["create", "--memory", "x", "busybox"], 125, "--memory"),
        (&["run", "-d", "--memory", "x", "busybox"], 125, "--memory"),
        (&["create", "--name", "a/b", "busybox"], 1, "a/b"),
        (&["run", "-d", "--name", "a/b", "busybox"], 125, "a/b"),
        (&["create", "no-such-image:x"], 1, "no-such-image"),
        (&["run", "-d", "no-such-image:x"], 125, "no-such-image"),
        (&["stop"], 1, "requires"),
        (&["exec", "train"], 1, "requires COMMAND"),
        (&["exec", "nobody", "true"], 1, "no container nobody"),
        (&["logs"], 1, "requires CONTAINER"),
        (&["run", "--rm"], 1, "an image is missing"),
        (&["create"], 1, "an image is missing"),
        (&["rename", "train"], 1, "requires"),
        (&["volume", "frob"], 1, "has no command"),
    ] {
        let got = node.gpuctl(words);
        assert_eq!((got.code, got.stdout.as_str()), (code, ""), "{words:?}: {got}");
        assert!(got.stderr.contains(said), "no {said:?} in\n{got}");
    }
    // Slips are put right; the flags of run are Docker's.
    let got = node.gpuctl(&["run", "--gpu", "2", "busybox"]);
    assert!(got.code == 125 && got.stderr.contains("did you mean --gpus?"), "{got}");
    let got = node.gpuctl(&["sacle", "train"]);
    assert!(got.code == 1 && got.stderr.contains("did you mean docker gpuctl scale?"), "{got}");
    // By their old names.
    assert_eq!(node.gpuctl_ok(&["execute", "train", "echo", "yes"]), "yes");
    node.gpuctl_ok(&["pause", "train"]);
    assert_eq!(node.gpuctl_ok(&["continue", "train"]), "train");
    node.gpuctl_ok(&["patch", "train", "--gpus", "3"]);
    assert_eq!(ps(&["-f", "name=train", "--format", "{{.Asked}}"]), "3");
    node.check();
}

/// Runs a line of shell on a terminal of so many columns, with the Docker CLI given as `$DOCKER`.
fn on_terminal(node: &Node, cli: &PathBuf, columns: u32, line: &str) -> Output {
    let mut script = Command::new("script");
    let line = format!("stty cols {columns} rows 40; {line}");
    script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm").env("DOCKER", cli);
    for (name, value) in node.site().engine().environment() {
        script.env(name, value);
    }
    script.env_remove("NO_COLOR").env_remove("DOCKER_CLI_HOOKS");
    command::run(&mut script, LIMIT).expect("script starts")
}

/// How many columns a line takes, colours left out.
fn columns(line: &str) -> usize {
    let mut count = 0;
    let mut escaped = false;
    for c in line.trim_end_matches('\r').chars() {
        match c {
            '\u{1b}' => escaped = true,
            'm' if escaped => escaped = false,
            _ if !escaped => count += 1,
            _ => {}
        }
    }
    count
}

#[test]
fn a_terminal_has_colours_and_lines_that_fit() {
    if !engine_runs_here() {
        return;
    }
    let node = Node::start(Options::default());
    managed(&node, "train-of-a-long-name", "2");
    let cli = node.site().engine().cli().to_owned();
    for list in ["ps", "gpus", "history train-of-a-long-name", "doctor"] {
        for width in [80, 100] {
            let got = on_terminal(&node, &cli, width, &format!("$DOCKER gpuctl {list}"));
            assert!(got.code == 0 && got.stdout.lines().count() > 1, "{got}");
            let long = got.stdout.lines().find(|line| columns(line) > width as usize);
            assert_eq!(long, None, "{list} at {width}\n{got}");
        }
    }
    let model = "NVIDIA A100-SXM4-80GB";
    let got = on_terminal(&node, &cli, 80, "$DOCKER gpuctl gpus");
    assert!(!got.stdout.contains(model) && got.stdout.contains('…'), "{got}");
    let got = on_terminal(&node, &cli, 80, "$DOCKER gpuctl gpus --no-trunc");
    assert!(got.stdout.contains(model) && !got.stdout.contains('…'), "{got}");
    assert!(node.gpuctl_ok(&["gpus"]).contains(model), "what is read by a program is whole");
    let got = on_terminal(&node, &cli, 80, "$DOCKER gpuctl doctor");
    assert!(got.stdout.contains("\u{1b}[32mok") && got.stdout.contains("0 problems, "), "{got}");
    for off in ["NO_COLOR=1", "TERM=dumb"] {
        let got = on_terminal(&node, &cli, 80, &format!("{off} $DOCKER gpuctl doctor"));
        assert!(!got.stdout.contains('\u{1b}'), "{off}\n{got}");
    }
    let got = on_terminal(&node, &cli, 80, "$DOCKER gpuctl stop nobody");
    assert!(got.stdout.contains("\u{1b}[31merror:\u{1b}[0m "), "{got}");
    for width in [80, 110] {
        let got = on_terminal(&node, &cli, width, "$DOCKER gpuctl");
        let over = |line: &&str| columns(line) > width as usize && !line.starts_with("  docker");
        assert_eq!(got.stdout.lines().find(over), None, "{got}");
    }
}

/// A Docker CLI that knows hooks: of 27 or later.
fn newer_cli() -> Option<PathBuf> {
    let folders = ["/usr/local/bin", "/usr/bin"];
    folders.iter().map(|folder| PathBuf::from(folder).join("docker")).find(|cli| {
        let said = command::run(Command::new(cli).arg("--version"), LIMIT);
        let text = said.map(|got| got.stdout).unwrap_or_default();
        let major =
            text.split_once("version ").and_then(|(_, v)| v.split('.').next()?.parse().ok());
        major.is_some_and(|major: u32| major >= 27)
    })
}

#[test]
fn a_docker_cli_that_is_told_to_shows_our_hints() {
    if !engine_runs_here() {
        return;
    }
    let Some(cli) = newer_cli() else {
        return skip("no Docker CLI of 27 or later is installed, which is the first with hooks");
    };
    let node = Node::start(Options::default());
    let config = node.place().docker_config();
    let run = |line: &str| on_terminal(&node, &cli, 100, line);
    let quiet = run("$DOCKER run -d --name before --gpus 1 busybox sleep 100000");
    assert!(quiet.code == 0 && !quiet.stdout.contains("What's next"), "it is not on\n{quiet}");
    let page = include_str!("../../docs/hints.md");
    let (_, json) = page.split_once("```json\n").expect("the page says how");
    let json = json.split("```").next().expect("its end");
    fs::write(config.join("config.json"), json).expect("written");
    let got = run("$DOCKER run -d --name web --gpus 2 busybox sleep 100000");
    assert!(got.code == 0 && got.stdout.contains("What's next:"), "{got}");
    assert!(got.stdout.contains("web holds GPU 1,2; "), "{got}");
    let got = run("$DOCKER run --rm --gpus 8 busybox true");
    assert_eq!(got.code, 125, "{got}");
    assert!(
        got.stdout.contains("See who holds which GPU") && got.stdout.contains("docker gpuctl gpus"),
        "{got}"
    );
    let got = run("$DOCKER run --rm busybox true");
    assert!(got.code == 0 && !got.stdout.contains("What's next"), "{got}");
    // Who has run for longer is not named.
    node.docker_ok(&["stop", "-t", "0", "web"]);
    std::thread::sleep(Duration::from_secs(21));
    let got = run("$DOCKER start web");
    assert!(got.code == 0 && got.stdout.contains("web holds GPU "), "{got}");
    assert!(!got.stdout.contains("another"), "{got}");
    // Compose is a plugin, and the CLI says less of it: each that there is, by the guide's own file.
    let compose = config.join("cli-plugins/docker-compose");
    let guide = include_str!("../../docs/guide/compose.md");
    let (_, yaml) = guide.split_once("```yaml\n").expect("the guide's file");
    let yaml = yaml.split("```").next().expect("its end");
    let file = node.place().at("compose.yaml");
    fs::write(&file, yaml).expect("written");
    for real in composes() {
        gpuctl_sim::files::install(&real, &compose).expect("compose is put there");
        let folder = file.parent().expect("a folder").display();
        let line = format!("cd {folder}; COMPOSE_PROJECT_NAME=demo $DOCKER compose");
        let got = run(&format!("{line} up -d"));
        assert!(got.code == 0 && got.stdout.contains("What's next:"), "{}\n{got}", real.display());
        assert!(got.stdout.contains("demo-train-1 holds GPU "), "{got}");
        // What has just been started has nothing to do with this one.
        let got = run(&format!("{line} ps"));
        assert!(got.code == 0 && !got.stdout.contains("What's next"), "{got}");
        assert_eq!(run(&format!("{line} down -t 0")).code, 0);
    }
    // Where there is none, one that does what it would stands for it.
    let text = "#!/bin/sh\nif [ \"$1\" = docker-cli-plugin-metadata ]; then\n\
         echo '{\"SchemaVersion\":\"0.1.0\",\"Vendor\":\"x\",\"Version\":\"1\",\"ShortDescription\":\"x\"}'\n\
         exit\nfi\nexec \"$DOCKER\" run -d --name composed --gpus 1 busybox sleep 100000\n";
    fs::write(&compose, text).expect("written");
    fs::set_permissions(&compose, fs::Permissions::from_mode(0o755)).expect("its mode");
    let got = run("$DOCKER compose up -d");
    assert!(got.code == 0 && got.stdout.contains("What's next:"), "{got}");
    node.check();
}
