//! `docker gpuctl top` in a real terminal: what it shows, what its keys do, and how it leaves.

use std::time::Duration;

use gpuctl_sim::command;
use gpuctl_tests::node::{run, wait_for};
use gpuctl_tests::served::{DAEMON, Served};
use gpuctl_tests::terminal::Terminal;
use gpuctl_tests::{Node, Options, skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

fn has_tmux() -> bool {
    let here = ["tmux", "stty", "ps", "dash"].iter().all(|name| command::find(&[name]).is_ok());
    if !here {
        skip("tmux is not installed");
    }
    here
}

/// Changes the driver's answers while all runs.
fn drive(node: &Node, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = node.place().profile();
    let text = std::fs::read_to_string(&path).expect("a profile");
    let mut profile: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    edit(&mut profile);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("profile.json");
    std::fs::write(&file, profile.to_string()).expect("written");
    node.set_profile_file(&file);
}

#[test]
fn top_shows_the_node_and_follows_it_at_any_size() {
    if !has_tmux() {
        return;
    }
    let node = Node::start(Options::default());
    node.gpuctl_ok(&["run", "-d", "--gpus", "2", "--name", "train", "busybox", "sleep", "100000"]);
    assert_eq!(run(&node, "bare", &["--gpus", "1"]).code, 0);
    let screen = Terminal::open(&node, None, 80, 24);
    let before = screen.modes();
    screen.line("docker gpuctl top --interval 0.3; echo end''ed $?");
    let text = screen.wait_for("3 of 8 held");
    for wanted in ["GPU   UTIL MEMORY", "TEMP", "train-0", "bare", "60/400W", "30C", "q leave"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(!text.contains("PID"), "there are no processes yet: {text}");

    // What the driver tells is followed: a process, heat, power, memory.
    let pid: u32 =
        node.docker_ok(&["inspect", "--format", "{{.State.Pid}}", "train-0"]).parse().unwrap();
    let has = |n: usize| {
        text.lines().any(|l| {
            l.split_whitespace().any(|w| w == "train-0") && l[1..].starts_with(&n.to_string())
        })
    };
    let gpu = (0..8).find(|n| has(*n)).expect("a GPU of train's");
    drive(&node, |profile| {
        let gpu = &mut profile["gpus"][gpu];
        gpu["utilization"] = json!(77);
        gpu["temperature"] = json!(81);
        gpu["power_mw"] = json!(399_600);
        gpu["memory_used"] = json!(12_u64 << 30);
        gpu["processes"] = json!([{"pid": pid, "memory": 5_u64 << 30}]);
    });
    let text = screen.wait_for("77%");
    for wanted in ["81C", "400/400W", "12/80GiB"] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let process = screen.wait_for("PROGRAM");
    let row = process.lines().find(|l| l.contains(&format!(" {pid} "))).expect("the process");
    assert!(row.contains("5120MiB") && row.contains("train-0") && row.ends_with("sleep"), "{row}");

    // Ordered by utilisation, the busiest is on top, and one that is busier yet takes its place.
    let first = |text: &str| text.lines().nth(2).unwrap_or_default()[1..].trim().to_owned();
    screen.type_text(">");
    screen.wait_until("the busiest on top", |text| first(text).starts_with(&format!("{gpu} ")));
    drive(&node, |profile| profile["gpus"][7]["utilization"] = json!(99));
    screen.wait_until("another on top", |text| first(text).starts_with("7 "));
    screen.press("Left");

    // A filter, and the end of it.
    screen.type_text("/bare");
    screen.press("Enter");
    let text = screen.wait_until("one row", |text| text.contains("(1)"));
    assert!(!text.contains("train-0") && text.contains("bare"), "{text}");
    screen.press("Escape");
    screen.wait_for("train-0");
    std::thread::sleep(Duration::from_millis(300));

    // Other sizes: less, more, almost nothing, and back.
    screen.resize(40, 12);
    let text = screen.wait_until("a narrow screen", |text| !text.contains("OWNER"));
    assert!(text.contains("train-0") && text.lines().all(|l| l.chars().count() <= 40), "{text}");
    screen.resize(20, 4);
    screen.wait_for("too small");
    screen.resize(160, 40);
    let text = screen.wait_for("MODEL");
    assert!(text.contains("NVIDIA A100-SXM4-80GB") && text.contains("q leave"), "{text}");
    screen.type_text("?");
    screen.wait_for("Any key goes back");
    screen.type_text("x");
    screen.wait_for("train-0");

    screen.resize(80, 24);
    screen.type_text("q");
    let text = screen.wait_for("ended 0");
    assert!(!text.contains("MEMORY"), "its screen is gone: {text}");
    assert_eq!(screen.modes(), before);
    node.check();
}

#[test]
fn a_user_stops_and_scales_with_keys_through_the_service() {
    if !has_tmux() {
        return;
    }
    let served = Served::start();
    let node = &served.node;
    served
        .ok(DAEMON, &["run", "-d", "--gpus", "1", "--name", "train", "busybox", "sleep", "100000"]);
    assert_eq!(run(node, "bare", &["--gpus", "1"]).code, 0);
    let screen = Terminal::open(node, Some((DAEMON, served.group)), 80, 24);
    let before = screen.modes();
    screen.line("docker gpuctl top -i 0.3; echo end''ed $?");
    screen.wait_for("2 of 8 held");
    screen.type_text("/train");
    screen.press("Enter");
    screen.wait_for("(1)");

    // Not without a yes.
    screen.type_text("sn");
    screen.wait_for("nothing was changed");
    assert!(node.gpuctl_ok(&["ps"]).contains("train"));
    // More than there are: the refusal is read on the screen, and top goes on.
    screen.type_text("c9");
    screen.press("Enter");
    screen.wait_for("Scale train from 1 to 9 GPUs?");
    screen.type_text("y");
    screen.wait_for("9 GPUs asked for");
    screen.press("Escape");
    screen.type_text("/train");
    screen.press("Enter");
    screen.type_text("c3");
    screen.press("Enter");
    screen.wait_for("Scale train from 1 to 3 GPUs?");
    screen.type_text("y");
    let text = screen.wait_for("4 of 8 held");
    assert!(text.contains("daemon"), "the owner: {text}");
    screen.wait_for("now train-1");
    let ps = node.gpuctl_ok(&["ps", "--format", "json"]);
    assert!(ps.contains(r#""gpus":"3""#) && ps.contains("train"), "{ps}");

    screen.type_text("s");
    screen.wait_for("Stop train-1 of daemon, which holds GPUs");
    screen.type_text("y");
    screen.wait_for("train-1 stopped");
    screen.wait_for("1 of 8 held");
    wait_for("the end of train", LIMIT, || !node.gpuctl_ok(&["ps"]).contains("train"));
    // One that docker run made is stopped by Docker, and cannot be scaled.
    screen.press("Escape");
    screen.type_text("/bare");
    screen.press("Enter");
    screen.wait_for("(1)");
    screen.type_text("c");
    screen.wait_for("docker gpuctl adopt bare");
    screen.type_text("sy");
    screen.wait_for("bare stopped");
    screen.wait_for("0 of 8 held");

    // The service goes away and comes back; top says so meanwhile.
    node.kill_service();
    screen.wait_for("no gpuctl service answers");
    node.start_service();
    screen.wait_until("an answer", |text| !text.contains("no gpuctl service answers"));
    screen.press("C-c");
    screen.wait_for("ended 0");
    assert_eq!(screen.modes(), before);
    node.check();
}

#[test]
fn the_terminal_is_as_it_was_however_top_ends() {
    if !has_tmux() {
        return;
    }
    let node = Node::start(Options::default());
    let screen = Terminal::open(&node, None, 80, 24);
    let before = screen.modes();
    assert!(before.contains("other screen: 0, cursor: 1"), "{before}");
    let mut turn = 0;
    let mut open = |environment: &str| {
        turn += 1;
        screen.line(&format!("{environment} docker gpuctl top -i 0.3; echo end''ed-{turn} $?"));
        turn
    };
    let up = || {
        screen.wait_for("0 of 8 held");
        let modes = screen.modes();
        assert!(
            modes.contains("other screen: 1, cursor: 0") && modes.contains("-icanon"),
            "{modes}"
        );
    };
    let ended = |turn: u32, codes: &[i32]| {
        let text = screen.wait_for(&format!("ended-{turn} "));
        let text = text.split(&format!("ended-{turn} ")).last().unwrap_or_default();
        let code: i32 = text.split_whitespace().next().unwrap_or_default().parse().expect("a code");
        assert!(codes.contains(&code), "{code} after turn {turn}: {text}");
        assert_eq!(screen.modes(), before, "after turn {turn}");
        screen.line("clear");
    };

    for (key, code) in [("q", 0), ("C-c", 0), ("C-d", 0)] {
        let turn = open("");
        up();
        screen.press(key);
        ended(turn, &[code]);
    }
    let signal = |words: &str, signal| {
        kill(Pid::from_raw(screen.process(words)), signal).expect("it is there");
    };
    for by in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let turn = open("");
        up();
        signal("docker-gpuctl gpuctl top", by);
        ended(turn, &[130]);
    }
    // The CLI that started it is killed: the shell goes on at once, and top leaves its terminal.
    open("");
    up();
    signal("docker gpuctl top", Signal::SIGKILL);
    wait_for("the terminal as it was", LIMIT, || screen.modes() == before);
    screen.line("clear");
    // Something fails: in the loop, and in the thread that looks.
    for point in ["top:key", "top:look"] {
        let turn = open(&format!("GPUCTL_KILL_AT={point}"));
        if point == "top:key" {
            up();
            screen.type_text("j");
        }
        ended(turn, &[101, 1]);
    }
    // Put aside by a key and by a signal, and called back.
    screen.line("docker gpuctl top -i 0.3");
    up();
    for resume in ["clear; fg", "clear; fg; echo end''ed-99 $?"] {
        if resume.ends_with("fg") {
            screen.press("C-z");
        } else {
            signal("docker-gpuctl gpuctl top", Signal::SIGTSTP);
        }
        screen.wait_for("Stopped");
        assert_eq!(screen.modes(), before, "while it is put aside");
        screen.line(resume);
        up();
    }
    // Stopped by force and called back: nothing could be put right before, all is drawn anew.
    signal("docker-gpuctl gpuctl top", Signal::SIGSTOP);
    std::thread::sleep(Duration::from_millis(200));
    signal("docker-gpuctl gpuctl top", Signal::SIGCONT);
    up();
    screen.type_text("q");
    ended(99, &[0]);
    node.check();
}

#[test]
fn nothing_of_it_is_left_where_the_window_grew_meanwhile() {
    if !has_tmux() {
        return;
    }
    let node = Node::start(Options::default());
    let screen = Terminal::open(&node, None, 80, 24);
    screen.line("clear; docker gpuctl top -i 0.3; echo end''ed $?");
    screen.wait_for("0 of 8 held");
    screen.resize(120, 30);
    screen.wait_for("MODEL");
    screen.type_text("q");
    let text = screen.wait_for("ended 0");
    let left: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(left.iter().all(|line| line.starts_with(['$', 'e'])), "{text}");
    node.check();
}

#[test]
fn without_a_terminal_it_says_what_prints_the_same() {
    let node = Node::start(Options::default());
    let got = node.gpuctl(&["top"]);
    assert_eq!((got.code, got.stdout.as_str()), (1, ""), "{got}");
    assert!(got.stderr.contains("top draws on a terminal"), "{got}");
    assert!(got.stderr.contains("docker gpuctl gpus") && got.stderr.contains("docker gpuctl ps"));
    if !has_tmux() {
        return;
    }
    // Nor on one that cannot, and when there is nothing to see no screen is made.
    let screen = Terminal::open(&node, None, 80, 24);
    screen.line("TERM=dumb docker gpuctl top");
    screen.wait_for("TERM=dumb");
    screen.line("docker gpuctl top | cat");
    screen.wait_for("output is none");
    screen.line("clear; GPUCTL_VIA=service docker gpuctl top; echo end''ed $?");
    screen.wait_for("ended 1");
    assert!(screen.screen().contains("no gpuctl service answers"), "{}", screen.screen());
}
