//! Another host's GPUs: Docker contexts over ssh and TLS, resolved as Docker does, where that host's own
//! service does the work.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gpuctl_sim::command::{self, Output};
use gpuctl_tests::node::wait_for;
use gpuctl_tests::sshd::{self, HOST, Sshd};
use gpuctl_tests::story::Aside;
use gpuctl_tests::terminal::Terminal;
use gpuctl_tests::{Node, Options, programs, skip};

const LIMIT: Duration = Duration::from_secs(60);

#[track_caller]
fn ok(got: Output) -> String {
    assert_eq!(got.code, 0, "{got}");
    got.stdout.trim_end().to_owned()
}

/// A run that is not in the background: its output and its exit code come back.
#[track_caller]
fn attached_run(far: impl Fn(&[&str]) -> Output) {
    let once = "run --rm --gpus 1 --name once busybox sh -c";
    let words: Vec<&str> = once.split(' ').chain(["echo out; exit 7"]).collect();
    let once = far(&words);
    assert_eq!((once.code, once.stdout.as_str()), (7, "out\n"), "{once}");
}

#[track_caller]
fn refused(got: &Output, wanted: &[&str]) {
    assert_ne!(got.code, 0, "{got}");
    for text in wanted {
        assert!(got.stderr.contains(text), "{text:?}: {got}");
    }
}

/// Begins a command and gives up after two seconds, as by Ctrl-C: the whole process group gets it.
fn given_up(mut docker: Command) -> Output {
    let mut shell = Command::new("sh");
    let line: Vec<String> = std::iter::once(docker.get_program())
        .chain(docker.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    // dash ignores SIGINT for what it starts in the background, so the line is in the foreground.
    let script = format!("trap : INT; (sleep 2; kill -INT 0) & {}", line.join(" "));
    shell.args(["-c", &script]).env_clear();
    for (name, value) in docker.get_envs() {
        if let Some(value) = value {
            shell.env(name, value);
        }
    }
    docker = shell;
    command::run(&mut docker, LIMIT).expect("sh runs")
}

#[test]
fn top_shows_another_hosts_gpus_over_ssh() {
    if let Some(why) = sshd::missing() {
        return skip(why);
    }
    if command::find(&["tmux"]).is_err() {
        return skip("tmux is not installed");
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    let ssh = Sshd::start(&node, &[]);
    let url = format!("ssh://root@{HOST}");
    ok(ssh.client(&[
        "-H", &url, "gpuctl", "run", "-d", "--gpus", "2", "--name", "train", "busybox", "sleep",
        "1000",
    ]));
    let docker = command::find(&["docker"]).expect("docker");
    let screen = Terminal::with(&ssh.environment(), &docker, None, 80, 24);
    let before = screen.modes();
    screen.line(&format!("docker -H {url} gpuctl top -i 0.5; echo end''ed $?"));
    screen.wait_for("2 of 8 held");
    // Looks come over one line: some are seen, and nobody logs in for them.
    let logins = || ssh.log().matches("Accepted publickey").count();
    let before_looks = logins();
    node.docker_ok(&["run", "-d", "--name", "later", "--gpus", "1", "busybox", "sleep", "1000"]);
    screen.wait_for("3 of 8 held");
    node.docker_ok(&["rm", "-f", "later"]);
    screen.wait_for("2 of 8 held");
    assert_eq!(logins(), before_looks);
    // A line that breaks is made anew.
    node.kill_service();
    screen.wait_for("no gpuctl service answers");
    node.start_service();
    screen.wait_for("2 of 8 held");
    screen.type_text("s");
    screen.wait_for("Stop train-0 of root, which holds GPUs 0,1?");
    screen.type_text("y");
    screen.wait_for("train-0 stopped");
    screen.wait_for("0 of 8 held");
    screen.type_text("q");
    screen.wait_for("ended 0");
    assert_eq!(screen.modes(), before);
    node.check();
}

#[test]
fn a_context_over_ssh_is_served_by_that_hosts_service() {
    if let Some(why) = sshd::missing() {
        return skip(why);
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    let ssh = Sshd::start(&node, &[]);
    let url = format!("ssh://root@{HOST}");
    let far = |words: &[&str]| ssh.client(&[&["--context", "far", "gpuctl"], words].concat());
    ok(ssh.client(&["context", "create", "far", "--docker", &format!("host={url}")]));

    // By flag, by context, by either variable, and by the context that was chosen.
    let eight = |got: Output| assert_eq!(ok(got).lines().count(), 8);
    eight(far(&["gpus", "-q"]));
    eight(ssh.client(&["-H", &url, "gpuctl", "gpus", "-q"]));
    for (name, value) in [("DOCKER_HOST", url.as_str()), ("DOCKER_CONTEXT", "far")] {
        let mut docker = ssh.client_command(&["gpuctl", "gpus", "-q"]);
        eight(command::run(docker.env(name, value), LIMIT).expect("docker starts"));
    }
    // DOCKER_HOST counts before a context that was chosen.
    ok(ssh.client(&["context", "use", "far"]));
    eight(ssh.client(&["gpuctl", "gpus", "-q"]));
    let mut docker = ssh.client_command(&["gpuctl", "gpus", "-q"]);
    docker.env("DOCKER_HOST", "unix:///nowhere/docker.sock");
    let got = command::run(&mut docker, LIMIT).expect("docker starts");
    refused(&got, &["DOCKER_HOST names the Engine at unix:///nowhere/docker.sock"]);
    refused(&ssh.client(&["--context", "nope", "gpuctl", "ps"]), &["nope"]);

    // A whole life of a container, none of it on the client's host.
    let id =
        ok(far(&["run", "-d", "--gpus", "2", "--name", "train", "busybox", "sleep", "100000"]));
    assert_eq!(node.id("train-0"), id);
    let shown = ok(far(&["ps", "--format", "json"]));
    assert!(shown.contains("train") && shown.contains(r#""owner":"root""#), "{shown}");
    assert_eq!(ok(far(&["exec", "train", "echo", "inside"])), "inside");
    assert_eq!(ok(far(&["scale", "train", "--gpus", "3"])), "train-1");
    refused(&far(&["scale", "train", "--gpus", "9"]), &["9 GPUs asked for", "hint: "]);
    assert_eq!(node.gpuctl_ok(&["ps", "-q"]).lines().count(), 1);
    attached_run(far);
    ok(far(&["stop", "-t", "0", "train"]));
    ok(far(&["rm", "train"]));
    assert_eq!(node.docker_ok(&["ps", "-aq"]), "");

    // A user who gives up in the middle of a change: the far service undoes it or brings it to its end,
    // and its word comes through. (What ignores SIGTERM takes ten seconds to restart.)
    ok(far(&["run", "-d", "--gpus", "1", "--name", "slow", "busybox", "sleep", "100000"]));
    let said = given_up(ssh.client_command(&[
        "--context",
        "far",
        "gpuctl",
        "scale",
        "slow",
        "--gpus",
        "2",
    ]));
    assert!(said.stderr.contains("is being undone or finished"), "{said}");
    // Which of the two is told, and is so.
    let is = match said.code {
        0 => "slow-1",
        130 => "slow-0",
        _ => panic!("{said}"),
    };
    assert_eq!(node.docker_ok(&["ps", "--format", "{{.Names}}"]), is, "{said}");
    assert_eq!(said.code == 0, said.stdout == "slow-1\n", "{said}");
    ok(far(&["rm", "-f", "slow"]));
    // One who only looked on.
    let begun = std::time::Instant::now();
    given_up(ssh.client_command(&["--context", "far", "gpuctl", "events"]));
    assert!(begun.elapsed() < Duration::from_secs(12));
    wait_for("the end of dial", LIMIT, || {
        let mut ps = std::process::Command::new("ps");
        let got = command::run(ps.args(["-eo", "args="]), LIMIT).expect("ps runs");
        let socket = node.place().root().display().to_string();
        !got.stdout.lines().any(|line| line.contains("gpuctl dial") && line.contains(&socket))
    });
    node.check();
}

#[test]
fn a_user_over_ssh_is_who_logged_in_there_and_the_service_does_what_takes_root() {
    if let Some(why) = sshd::missing() {
        return skip(why);
    }
    let aside = Aside::new();
    let node = Node::start(Options { service: true, ..Options::default() });
    aside.members(&node);
    let ssh = Sshd::start(&node, &[]);
    let by = |user: &str, words: &[&str]| {
        let url = format!("ssh://{user}@{HOST}");
        ssh.client(&[&["-H", url.as_str(), "gpuctl"], words].concat())
    };
    let ann = |words: &[&str]| by("ann", words);
    assert_eq!(ok(ann(&["gpus", "-q"])).lines().count(), 8);
    let run = "run -d --gpus 2 --name train --stop-timeout 0 busybox sleep 100000";
    let id = ok(ann(&run.split(' ').collect::<Vec<_>>()));
    assert_eq!(node.id("train-0"), id);
    assert_eq!(ok(ann(&["exec", "train", "echo", "inside"])), "inside");
    assert_eq!(ok(ann(&["scale", "train", "--gpus", "3"])), "train-1");
    attached_run(ann);
    // Whose it is and who did it, as anybody there sees it.
    let row = ok(by("bob", &["ps", "--format", "{{.Name}} {{.Owner}}"]));
    assert_eq!(row, "train ann");
    let events = node.gpuctl_ok(&["events", "--since", "1h", "--until", "0s", "--format", "json"]);
    assert!(events.contains(r#""user":"ann""#) && !events.contains(r#""user":"root""#), "{events}");
    // Root's own things are not theirs by this way either.
    let setup = ann(&["setup", "--dry-run"]);
    refused(&setup, &["the host whose shell you are in", "ssh -t ann@gpuhost sudo docker gpuctl"]);
    assert_eq!(ok(ann(&["doctor", "--format", "{{.Name}}"])).lines().next(), Some("engine"));

    // Who is not in the group docker there: nothing is begun, and it is said who can change that.
    for words in [
        &["ps"][..],
        &["run", "-d", "--gpus", "1", "busybox", "true"],
        &["run", "--rm", "--gpus", "1", "busybox", "true"],
        &["exec", "train", "true"],
    ] {
        let got = by("eve", words);
        refused(&got, &["eve", "group docker", "hint: "]);
        assert!(got.stdout.is_empty(), "{got}");
    }
    ok(ann(&["rm", "-f", "train"]));
    assert_eq!(node.docker_ok(&["ps", "-aq"]), "");
    node.check();
}

#[test]
fn completion_asks_another_host_and_waits_for_none_that_is_slow() {
    if let Some(why) = sshd::missing() {
        return skip(why);
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    let ssh = Sshd::start(&node, &[]);
    node.gpuctl_ok(&["run", "-d", "--name", "train", "--gpus", "1", "busybox", "sleep", "1000"]);
    node.docker_ok(&["create", "--name", "theirs", "busybox"]);
    let within = |ms: u32, words: &[&str]| {
        let mut docker = ssh.client_command(&[&["__completeNoDesc", "gpuctl"], words].concat());
        docker.env("DOCKER_HOST", format!("ssh://root@{HOST}"));
        docker.env("GPUCTL_QUICK_MS", ms.to_string());
        ok(command::run(&mut docker, LIMIT).expect("docker starts"))
    };
    // A login on a busy machine takes longer than anybody waits. It is that host's Engine that is asked for
    // what docker made, and not this one's.
    for (words, wanted) in
        [(["stop", "t"], "train"), (["adopt", "t"], "theirs"), (["run", "busy"], "busybox")]
    {
        let got = within(30_000, &words);
        assert!(got.starts_with(wanted), "{words:?}: {got}");
    }
    let completed = |words: &[&str]| within(1000, words);
    ssh.pause(true);
    // adopt asks twice, and run asks Docker and the service.
    for words in [&["stop", "t"][..], &["adopt", ""], &["run", "--gpus", ""]] {
        // Of several tries one is not slowed down by what else this machine does.
        let in_time = (0..6).any(|_| {
            let begun = std::time::Instant::now();
            assert!(!completed(words).contains("train"));
            begun.elapsed() < Duration::from_millis(1800)
        });
        assert!(in_time, "{words:?}");
    }
    ssh.pause(false);
}

#[test]
fn what_a_far_host_lacks_is_named_with_what_to_do() {
    if let Some(why) = sshd::missing() {
        return skip(why);
    }
    let node = Node::start(Options { service: true, ..Options::default() });
    let ssh = Sshd::start(&node, &[]);
    let at = |host: &str| ssh.client(&["-H", &format!("ssh://root@{host}"), "gpuctl", "ps"]);
    assert_eq!(at(HOST).code, 0, "{}", at(HOST));
    // A host whose key is not known, and one that is not there: no question, and no hanging.
    refused(
        &at("stranger"),
        &["ssh does not get to root@stranger", "Host key verification failed", "known_hosts"],
    );
    refused(
        &ssh.client(&["-H", "ssh://root@127.0.0.1:1", "gpuctl", "ps"]),
        &["ssh does not get to -p 1"],
    );
    refused(&ssh.client(&["-H", "ssh://", "gpuctl", "ps"]), &["ssh://[USER@]HOST[:PORT]"]);
    // Another Engine of that host than its gpuctl serves.
    let path = ssh.client(&["-H", &format!("ssh://root@{HOST}/nowhere.sock"), "gpuctl", "ps"]);
    refused(&path, &["names the Engine at unix:///nowhere.sock"]);
    // The service is down; then it is not installed; then Docker is not.
    node.kill_service();
    refused(
        &at(HOST),
        &["on the other host, no gpuctl service answers", "systemctl start gpuctl.socket"],
    );
    let bare = tempfile::tempdir().expect("a folder");
    let ssh = Sshd::start(&node, &[("DOCKER_CONFIG", bare.path().to_str().expect("a path"))]);
    let got = ssh.client(&["-H", &format!("ssh://{HOST}"), "gpuctl", "ps"]);
    refused(&got, &["gpuhost has no docker-gpuctl", "install docker-gpuctl there"]);
}

/// Makes a CA, and certificates of the loopback's server and of a client, in a folder as Docker wants it.
fn certificates(folder: &Path) -> bool {
    let script = r#"
set -e
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca-key.pem -subj /CN=ca -days 2 -out ca.pem
for who in server client; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $who-key.pem -subj /CN=$who -out $who.csr
    printf 'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=%sAuth\n' $who >$who.ext
    openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile $who.ext -out $who.pem
done
"#;
    let mut shell = Command::new("sh");
    let got = command::run(shell.args(["-c", script]).current_dir(folder), LIMIT).expect("sh runs");
    assert_eq!(got.code, 0, "{got}");
    folder.join("client.pem").is_file()
}

/// Installs the product where packages have it, as the Engine sees it and nobody else: in its mount
/// namespace.
fn install(node: &Node) {
    let layer = |of: &str| {
        let name = of.replace('/', "-");
        for part in ["upper", "work"] {
            std::fs::create_dir_all(node.place().at(&format!("layer{name}/{part}")))
                .expect("a folder");
        }
        node.place().at(&format!("layer{name}"))
    };
    let (libexec, etc) = (layer("/usr/libexec"), layer("/etc"));
    let plugins = libexec.join("upper/docker/cli-plugins");
    std::fs::create_dir_all(&plugins).expect("a folder");
    let plugin = programs::programs().plugin;
    std::fs::copy(plugin, plugins.join("docker-gpuctl")).expect("a copy");
    std::fs::create_dir_all(etc.join("upper/gpuctl")).expect("a folder");
    std::fs::copy(node.place().config(), etc.join("upper/gpuctl/config.toml")).expect("a copy");
    for (of, layer) in [("/usr/libexec", libexec), ("/etc", etc)] {
        let layer = layer.display();
        let layers = format!("lowerdir={of},upperdir={layer}/upper,workdir={layer}/work");
        mount(node, &["-t", "overlay", "overlay", "-o", &layers, of]);
    }
}

/// Mounts as the Engine sees it.
fn mount(node: &Node, words: &[&str]) {
    let mut mount = Command::new("nsenter");
    let pid = node.site().engine().pid().expect("it runs").to_string();
    mount.args(["-t", &pid, "-m", "mount"]).args(words);
    let got = command::run(&mut mount, LIMIT).expect("nsenter runs");
    assert_eq!(got.code, 0, "{got}");
}

#[test]
fn a_context_over_tls_is_served_through_a_container_on_that_host() {
    if command::find(&["openssl"]).is_err() || command::find(&["nsenter"]).is_err() {
        return skip("openssl is not installed");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    assert!(certificates(folder.path()));
    let port = sshd::free_port();
    let mut options = Options { service: true, ..Options::default() };
    options.engine.more = vec![
        "--tlsverify".into(),
        format!("--tlscacert={}", at("ca.pem")),
        format!("--tlscert={}", at("server.pem")),
        format!("--tlskey={}", at("server-key.pem")),
        "-H".into(),
        format!("tcp://127.0.0.1:{port}"),
    ];
    let node = Node::start(options);
    std::fs::create_dir_all(folder.path().join("docker/cli-plugins")).expect("a folder");
    std::os::unix::fs::symlink(
        programs::programs().plugin,
        folder.path().join("docker/cli-plugins/docker-gpuctl"),
    )
    .expect("a link");
    let client = |words: &[&str]| {
        command::run(&mut sshd::client(folder.path(), words), LIMIT).expect("docker starts")
    };
    let url = format!("tcp://127.0.0.1:{port}");
    let endpoint = format!(
        "host={url},ca={},cert={},key={}",
        at("ca.pem"),
        at("client.pem"),
        at("client-key.pem")
    );
    ok(client(&["context", "create", "far", "--docker", &endpoint]));
    assert_eq!(ok(client(&["--context", "far", "ps", "-q"])), "");

    // As systemd has it on every host that it boots.
    mount(&node, &["--make-rshared", "/"]);
    // Nothing is installed there yet.
    let got = client(&["--context", "far", "gpuctl", "gpus", "-q"]);
    refused(&got, &["has no docker-gpuctl", "install docker-gpuctl there"]);
    install(&node);
    assert_eq!(ok(client(&["--context", "far", "gpuctl", "gpus", "-q"])).lines().count(), 8);
    // The same by flags, and without the key there is no entrance.
    let (ca, cert, key) = (at("ca.pem"), at("client.pem"), at("client-key.pem"));
    let flags =
        ["-H", &url, "--tlsverify", "--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key];
    let by_flags = |words: &[&str]| client(&[&flags, words].concat());
    assert_eq!(ok(by_flags(&["gpuctl", "gpus", "-q"])).lines().count(), 8);
    refused(&client(&["-H", &url, "gpuctl", "ps"]), &["cannot be used"]);
    // By the environment, with the files' names as Docker has them.
    for (from, to) in [("client.pem", "cert.pem"), ("client-key.pem", "key.pem")] {
        std::fs::copy(at(from), at(to)).expect("a copy");
    }
    let mut docker = sshd::client(folder.path(), &["gpuctl", "gpus", "-q"]);
    docker.env("DOCKER_HOST", &url).env("DOCKER_TLS_VERIFY", "1");
    docker.env("DOCKER_CERT_PATH", folder.path());
    let got = command::run(&mut docker, LIMIT).expect("docker starts");
    assert_eq!(ok(got).lines().count(), 8);

    let far = |words: &[&str]| client(&[&["--context", "far", "gpuctl"], words].concat());
    let id =
        ok(far(&["run", "-d", "--gpus", "2", "--name", "train", "busybox", "sleep", "100000"]));
    assert_eq!(node.id("train-0"), id);
    assert_eq!(ok(far(&["scale", "train", "--gpus", "1"])), "train-1");
    attached_run(far);
    node.kill_service();
    refused(&far(&["ps"]), &["on the other host, no gpuctl service answers"]);
    node.start_service();
    ok(far(&["rm", "-f", "train"]));
    // What joined us is gone with each command.
    wait_for("the end of them", LIMIT, || node.docker_ok(&["ps", "-aq"]).is_empty());
    node.check();
}
