//! `-p auto:22`: a port of the host that is chosen, kept through every change, and given back by rm.

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};

use gpuctl_tests::state;
use gpuctl_tests::{Node, Options, engine_runs_here};
use serde_json::Value;

/// A node whose range is this, with 20 ports for those that need more.
fn node(range: &str) -> Node {
    Node::start(Options { config: format!("[ports]\nrange = \"{range}\"\n"), ..Options::default() })
}

fn rows(node: &Node) -> Vec<Value> {
    let text = node.gpuctl_ok(&["ports", "--format", "json"]);
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The ports that are kept for a name.
fn kept(node: &Node, name: &str) -> BTreeSet<u64> {
    let mine = rows(node).into_iter().filter(|row| row["name"] == name);
    mine.map(|row| row["port"].as_u64().expect("a port")).collect()
}

/// The ports of the host in what Docker was asked for.
fn asked(node: &Node, docker_name: &str) -> BTreeSet<u64> {
    let format = "{{range .HostConfig.PortBindings}}{{range .}}{{.HostPort}} {{end}}{{end}}";
    let text = node.docker_ok(&["inspect", "--format", format, docker_name]);
    text.split_whitespace().map(|port| port.parse().expect("a port")).collect()
}

fn run<'a>(name: &'a str, publish: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["run", "-d", "--name", name, "--gpus", "1", "--stop-signal", "KILL"];
    words.extend(publish.iter().flat_map(|value| ["-p", value]));
    words.extend(["busybox", "busybox", "nc", "-ll", "-p", "22", "-e", "hostname"]);
    words
}

/// What a listener on a port of this host says.
fn said(port: u64) -> String {
    let address = format!("127.0.0.1:{port}");
    for _ in 0..50 {
        let mut text = String::new();
        if let Ok(mut stream) = std::net::TcpStream::connect(&address) {
            use std::io::Read as _;
            let _ = stream.set_read_timeout(Some(std::time::Duration::from_secs(5)));
            if stream.read_to_string(&mut text).is_ok() && !text.is_empty() {
                return text.trim().to_owned();
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("nothing answers at {address}");
}

#[test]
fn a_port_is_the_containers_until_it_is_removed() {
    if !engine_runs_here() {
        return;
    }
    let node = node("21000-21019");
    let got = node.gpuctl(&run("train", &["auto:22", "127.0.0.1:auto:53/udp"]));
    assert_eq!(got.code, 0, "{got}");
    let ports = kept(&node, "train");
    assert_eq!((ports.len(), &ports), (2, &asked(&node, "train-0")));
    for row in rows(&node) {
        let (port, inside) = (row["port"].as_u64().unwrap(), row["inside"].as_str().unwrap());
        assert!((21000..=21019).contains(&port));
        let told = format!("port {inside} is {port} on this host");
        assert!(got.stderr.contains(&told), "{told}\n{got}");
    }
    let ssh = rows(&node).into_iter().find(|row| row["inside"] == "22/tcp").unwrap();
    let ssh = ssh["port"].as_u64().unwrap();
    assert_eq!(said(ssh), "train");
    let table = node.gpuctl_ok(&["ports"]);
    let line = table.lines().find(|l| l.starts_with(&ssh.to_string())).unwrap_or_default();
    assert!(
        line.contains("22/tcp") && line.contains("train") && line.ends_with("listening"),
        "{table}"
    );
    assert_eq!(node.gpuctl_ok(&["ports", "-q"]).lines().count(), 2);

    node.gpuctl_ok(&["scale", "train", "--gpus", "2"]);
    assert_eq!((kept(&node, "train"), asked(&node, "train-1")), (ports.clone(), ports.clone()));
    assert_eq!(said(ssh), "train");
    node.gpuctl_ok(&["stop", "train"]);
    assert_eq!(kept(&node, "train"), ports);
    let listening = |row: &Value| row["port"] == ssh && row["listening"] == true;
    assert!(!rows(&node).iter().any(listening), "nothing listens any more");
    // What is stopped keeps its ports from everybody else.
    node.gpuctl_ok(&run("other", &["auto:22"]));
    assert!(kept(&node, "other").is_disjoint(&ports));
    node.gpuctl_ok(&["start", "train"]);
    assert_eq!(said(ssh), "train");
    assert_eq!(said(*kept(&node, "other").first().unwrap()), "other");

    node.gpuctl_ok(&["rm", "-f", "train"]);
    assert!(kept(&node, "train").is_empty());
    // Its record has the numbers: they are taken again where they are free.
    node.gpuctl_ok(&["run", "-d", "--from", "train"]);
    assert_eq!((kept(&node, "train"), asked(&node, "train-2")), (ports.clone(), ports.clone()));
    // And another made from it gets others.
    node.gpuctl_ok(&["run", "-d", "--from", "train", "--name", "twin"]);
    let twins = kept(&node, "twin");
    assert_eq!((twins.len(), &twins), (2, &asked(&node, "twin-0")));
    assert!(twins.is_disjoint(&ports));
    node.gpuctl_ok(&["rm", "-f", "--history", "train", "twin", "other"]);
    assert_eq!(state::difference(&state::Records::new(), &state::ledger(&node)), [""; 0]);
}

#[test]
fn what_is_in_use_is_not_given_and_a_full_range_is_said() {
    if !engine_runs_here() {
        return;
    }
    let node = node("21100-21105");
    // A listener, a socket of UDP, one of IPv6, and containers of docker's own, running and not.
    let _tcp = TcpListener::bind("127.0.0.1:21100").unwrap();
    let _udp = UdpSocket::bind("0.0.0.0:21101").unwrap();
    let v6 = TcpListener::bind("[::1]:21102");
    let create = ["create", "--name", "theirs", "-p", "21103:80", "busybox", "true"];
    node.docker_ok(&create);
    let mut free = BTreeSet::from([21104, 21105]);
    if v6.is_err() {
        free.insert(21102);
    }
    for (name, left) in [("aa", 1), ("bb", 0)] {
        node.gpuctl_ok(&run(name, &["auto:22"]));
        let port = *kept(&node, name).first().unwrap();
        assert!(free.remove(&port), "{name} got {port}");
        assert_eq!(free.len() - usize::from(v6.is_err()), left);
    }
    if v6.is_err() {
        node.gpuctl_ok(&run("cc", &["auto:22"]));
    }
    let ledger = state::ledger(&node);
    for publish in [&["auto:22"][..], &["auto:1", "auto:2", "auto:3"]] {
        let got = node.gpuctl(&run("full", publish));
        assert_eq!(got.code, 125, "{got}");
        assert!(got.stderr.contains("no port of 21100-21105 is free on node1"), "{got}");
        assert!(got.stderr.contains("hint: docker gpuctl ports"), "{got}");
        assert_eq!(state::difference(&ledger, &state::ledger(&node)), [""; 0], "{got}");
    }
    // A port that is named and kept for another is refused, and nothing is left of it.
    let port = kept(&node, "aa").first().unwrap().to_string();
    node.gpuctl_ok(&["stop", "aa"]);
    let ledger = state::ledger(&node);
    let named = format!("{port}:22");
    let got = node.gpuctl(&run("thief", &[&named]));
    assert_eq!(got.code, 125, "{got}");
    assert!(got.stderr.contains(&format!("port {port} of this host is kept for aa")), "{got}");
    assert_eq!(state::seen(&node, "thief"), None);
    assert_eq!(state::difference(&ledger, &state::ledger(&node)), [""; 0]);
    // One removed behind our back gives its port back by doctor, or by the next of its name.
    node.docker_ok(&["rm", "-f", "aa-0"]);
    let got = node.gpuctl_ok(&["doctor", "--fix"]);
    assert!(got.contains("1 port of this host is kept for aa, which is no more"), "{got}");
    assert!(kept(&node, "aa").is_empty());
    node.docker_ok(&["rm", "-f", "bb-0"]);
    node.gpuctl_ok(&run("bb", &["auto:22"]));
    assert_eq!(kept(&node, "bb").len(), 1);
}

#[test]
fn many_at_once_never_get_the_same() {
    if !engine_runs_here() {
        return;
    }
    let node = node("21200-21229");
    let names: Vec<String> = (0..12).map(|n| format!("job{n}")).collect();
    let mut children: Vec<_> = names
        .iter()
        .map(|name| {
            let publish = ["-p", "auto:22", "-p", "auto:80"];
            let create =
                [&["gpuctl", "create", "--name", name], &publish[..], &["busybox", "true"]];
            node.spawn(&create.concat())
        })
        .collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let all = rows(&node);
    let ports: BTreeSet<u64> = all.iter().map(|row| row["port"].as_u64().unwrap()).collect();
    assert_eq!((all.len(), ports.len()), (24, 24));
    for name in &names {
        assert_eq!(kept(&node, name), asked(&node, &format!("{name}-0")), "{name}");
    }
}

#[test]
fn a_run_that_dies_keeps_no_port() {
    if !engine_runs_here() {
        return;
    }
    let node = node("21300-21309");
    node.gpuctl_ok(&["ps"]);
    let nothing = state::ledger(&node);
    for mender in [&["start", "job"][..], &["doctor", "--fix"]] {
        for point in ["ports:begun", "ports:done", "create:begun", "create:done", "start:begun"] {
            node.gpuctl_killed_at(&format!("run:{point}"), &run("job", &["auto:22"]));
            let got = node.gpuctl(mender);
            assert!(got.to_string().contains("run of job was broken off"), "{point}\n{got}");
            assert_eq!(
                state::difference(&nothing, &state::ledger(&node)),
                [""; 0],
                "{point}\n{got}"
            );
            assert_eq!(state::seen(&node, "job"), None, "{point}");
        }
        node.gpuctl_killed_at("run:start:done", &run("job", &["auto:22"]));
        let got = node.gpuctl(mender);
        assert_eq!((got.code, kept(&node, "job")), (0, asked(&node, "job-0")), "{got}");
        node.gpuctl_ok(&["rm", "-f", "--history", "job"]);
    }
    // One that Docker does not start is undone likewise.
    let got = node.gpuctl(&["run", "--name", "job", "-p", "auto:22", "busybox", "/no/such"]);
    assert_eq!(got.code, 127, "{got}");
    assert_eq!(state::difference(&nothing, &state::ledger(&node)), [""; 0], "{got}");
    // One with --rm gives its port back when it ends.
    node.gpuctl_ok(&["run", "--rm", "--name", "job", "-p", "auto:22", "busybox", "true"]);
    assert_eq!(state::difference(&nothing, &state::ledger(&node)), [""; 0]);
    let one = ["run", "-d", "--rm", "--name", "job", "-p", "auto:22", "busybox", "true"];
    node.gpuctl_ok(&one);
    node.docker(&["wait", "job-0"]);
    node.gpuctl_ok(&["doctor", "--fix"]);
    assert_eq!(state::difference(&nothing, &state::ledger(&node)), [""; 0]);
}

#[test]
fn words_that_cannot_be_are_refused_before_anything() {
    if !engine_runs_here() {
        return;
    }
    let node = node("21400-21409");
    for (publish, more, why) in [
        ("auto:0", &[][..], "one number"),
        ("auto:22/icmp", &[], "tcp, udp and sctp"),
        ("x:auto:22", &[], "no IP address"),
        ("auto:22", &["--network", "host"], "no port is published"),
    ] {
        let words = [&["run", "-p", publish], more, &["busybox", "true"]].concat();
        let got = node.gpuctl(&words);
        assert_eq!(got.code, 125, "{got}");
        assert!(got.stderr.contains(why) && got.stderr.contains("hint: "), "{got}");
    }
}
