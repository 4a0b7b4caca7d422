//! The adversary writes images: a root full of links, a library to be preloaded, and configs that no
//! Dockerfile can write. Strict mode, only the PATH keeps him out.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use gpuctl_sim::command;
use gpuctl_tests::siege::{BOUND, End, Siege, Strict};
use gpuctl_tests::{engine_runs_here, skip};
use serde_json::{Value, json};

fn sh(script: &str, arguments: &[&Path]) {
    let mut sh = Command::new("sh");
    command::run(sh.args(["-euc", script, "sh"]).args(arguments), BOUND).unwrap().ok().unwrap();
}

/// Where the test works, inside the node's folder.
fn work(siege: &Siege) -> PathBuf {
    let work = siege.node.place().at("docker/attack");
    fs::create_dir_all(&work).unwrap();
    work
}

/// A root with busybox in it, to be made odd.
fn root(siege: &Siege, name: &str) -> PathBuf {
    let root = work(siege).join(name);
    for folder in ["bin", "etc", "tmp", "usr/libexec", "var/lib", "run"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    gpuctl_sim::files::install(&command::find(&["busybox"]).unwrap(), &root.join("bin/busybox"))
        .unwrap();
    for applet in ["sh", "rm", "mknod", "echo", "sleep", "true", "cat"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    root
}

fn import(siege: &Siege, root: &Path, name: &str, changes: &[&str]) {
    let tar = work(siege).join(format!("{name}.tar"));
    sh(r#"tar -C "$1" -cf "$2" ."#, &[root, &tar]);
    let mut line = vec!["import"];
    line.extend(changes.iter().flat_map(|c| ["--change", c]));
    let tar = tar.display().to_string();
    line.extend([tar.as_str(), name]);
    siege.node.docker_ok(&line);
}

/// Gains at most what is its own: `gpus` where it runs.
#[track_caller]
fn at_most(end: &End, gpus: usize) {
    assert!(!matches!(end, End::Opens(open) if open.len() != gpus), "{end:?}");
}

#[test]
fn a_root_full_of_links_leads_nobody_out() {
    if !engine_runs_here() {
        return;
    }
    let siege = Siege::begin(Strict::PathAlone);
    let canary = siege.canary();
    let place = siege.node.place();
    let (file, folder) = (canary.join("file"), canary.join("folder"));
    let links: [(&str, &Path); 10] = [
        ("etc/ld.so.preload", &file),
        ("etc/gpuctl", &folder),
        ("run/gpuctl", &folder),
        ("var/run", Path::new("../run")),
        ("usr/libexec/gpuctl", &folder),
        ("var/lib/gpuctl", &folder),
        ("config.json", &file),
        ("run/nvidia-container-devices", &folder),
        ("etc/cdi", &folder),
        ("etc/nvidia-container-runtime", &folder),
    ];
    let name = |n: &str| format!("links-{n}");
    for (at, dev) in [
        ("plain", None),
        ("dev", Some(folder.as_path())),
        ("devhost", Some(Path::new("/proc/1/root/dev"))),
    ] {
        let root = root(&siege, at);
        for (link, target) in links {
            symlink(target, root.join(link)).unwrap();
        }
        // The node's own folder by its path on the host, should anybody look for it in here.
        let inside = root.join(place.root().strip_prefix("/").unwrap());
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        symlink(&folder, &inside).unwrap();
        match dev {
            Some(target) => symlink(target, root.join("dev")).unwrap(),
            None => {
                fs::create_dir(root.join("dev")).unwrap();
                for node in ["nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm"] {
                    symlink("/etc/shadow", root.join("dev").join(node)).unwrap();
                }
                symlink(&folder, root.join("dev/char")).unwrap();
            }
        }
        import(&siege, &root, &name(at), &["ENV NVIDIA_VISIBLE_DEVICES=all"]);
        at_most(&siege.run(&[], &name(at)), 0);
        at_most(&siege.run(&["--gpus", "1"], &name(at)), 1);
        at_most(&siege.run(&["--privileged"], &name(at)), 0);
        let bind = format!("{}:/run/gpuctl/grants", folder.display());
        at_most(&siege.run(&["--gpus", "1", "-v", &bind], &name(at)), 1);
    }
    siege.end();
}

/// Writes a file wherever it is loaded.
const EVIL: &str = r#"
#include <fcntl.h>
#include <unistd.h>
__attribute__((constructor)) static void loaded(void) {
    int file = open(CANARY, O_CREAT | O_WRONLY, 0600);
    if (file >= 0) { write(file, "loaded\n", 7); close(file); }
}
"#;

#[test]
fn a_library_that_the_image_preloads_is_never_loaded_on_the_host() {
    if !engine_runs_here() {
        return;
    }
    let Ok(cc) = command::find(&["cc", "gcc"]) else { return skip("no C compiler") };
    let siege = Siege::begin(Strict::PathAlone);
    let root = root(&siege, "evil");
    fs::create_dir(root.join("dev")).unwrap();
    let (source, library) = (work(&siege).join("evil.c"), root.join("evil.so"));
    fs::write(&source, EVIL).unwrap();
    let written = siege.canary().join("written");
    let mut compile = Command::new(cc);
    compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
    compile.arg(format!("-DCANARY=\"{}\"", written.display()));
    command::run(&mut compile, BOUND).unwrap().ok().unwrap();
    // It does what it is for, on the host, wherever a program that is linked dynamically runs with it.
    let mut control = Command::new("/bin/true");
    command::run(control.env("LD_PRELOAD", &library), BOUND).unwrap().ok().unwrap();
    assert!(written.exists(), "the library itself works");
    fs::remove_file(&written).unwrap();

    // By every path by which a hook could come to it: its folder may be the container's root, and the
    // host's own path of a volume is known to whoever made it.
    siege.node.docker_ok(&[
        "run", "-d", "--name", "carrier", "-v", "evil:/v", "busybox", "sleep", "100000",
    ]);
    let volume = siege.node.place().data().join("volumes/evil/_data/evil.so");
    fs::copy(&library, &volume).unwrap();
    let volume = volume.display().to_string();
    for (name, preload) in [
        ("evil-a", "/evil.so"),
        ("evil-b", "evil.so"),
        ("evil-c", "/proc/self/cwd/evil.so"),
        ("evil-d", volume.as_str()),
        ("evil-e", "/proc/1/root/evil.so"),
    ] {
        let changes = [
            format!(
                "ENV LD_PRELOAD={preload} LD_AUDIT={preload} LD_LIBRARY_PATH=/:. NVIDIA_VISIBLE_DEVICES=all"
            ),
            "ENV GCONV_PATH=/ BASH_ENV=/evil ENV=/evil PYTHONPATH=/ PATH=/bin".to_owned(),
        ];
        let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
        import(&siege, &root, name, &changes);
        at_most(&siege.run(&["--gpus", "1"], name), 1);
        at_most(&siege.run(&[], name), 0);
        at_most(&siege.run(&["--privileged", "--pid", "host"], name), 0);
        let got = siege.docker(&["run", "--rm", "--gpus", "1", name, "false"]);
        assert_ne!(got.code, 0, "{got}");
    }
    // What our hooks see of an environment is fixed, and stands in the spec of whoever holds a GPU.
    let id = siege.node.id(gpuctl_tests::siege::VICTIM);
    let spec = fs::read(siege.node.place().bundles().join(&id).join("config.json")).unwrap();
    let spec: Value = serde_json::from_slice(&spec).unwrap();
    for stage in ["createRuntime", "poststop"] {
        let hooks = spec["hooks"][stage].as_array().unwrap();
        let ours = hooks
            .iter()
            .find(|h| h["path"].as_str().is_some_and(|p| p.ends_with("/gpuctl-hook")))
            .unwrap();
        let env = ours["env"].as_array().unwrap();
        assert!(env.len() == 1 && env[0].as_str().unwrap().starts_with("PATH=/usr/"), "{env:?}");
        assert!(ours["timeout"].as_u64().unwrap() > 0);
    }
    assert!(!written.exists(), "the library was loaded on the host");
    siege.end();
}

#[test]
fn an_image_config_that_no_dockerfile_writes_gives_nothing() {
    if !engine_runs_here() {
        return;
    }
    let siege = Siege::begin(Strict::PathAlone);
    let work = work(&siege);
    let saved = work.join("saved.tar");
    siege.node.docker_ok(&["save", "-o", &saved.display().to_string(), "busybox"]);
    let many = |n: usize, of: fn(usize) -> String| (0..n).map(of).collect::<Vec<String>>();
    let volumes: serde_json::Map<String, Value> = (0..300)
        .map(|n| (format!("/m/{n}"), json!({})))
        .chain(
            [
                "/dev",
                "/dev/nvidia0",
                "/run/gpuctl",
                "/var/run/nvidia-container-devices/all",
                "\u{1b}[2J",
                "../x",
            ]
            .map(|v| (v.to_owned(), json!({}))),
        )
        .collect();
    let configs: [(&str, Value); 8] = [
        (
            "env-odd",
            json!({"Env": ["", "=", "=NVIDIA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "\u{1b}[2J=\u{7}", "A\nB=C\nNVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=all\n"]}),
        ),
        ("env-10mb", json!({"Env": many(100, |n| format!("A{n}={}", "x".repeat(100_000)))})),
        ("env-100k", json!({"Env": many(100_000, |n| format!("NVIDIA_VISIBLE_DEVICES={n}"))})),
        (
            "labels",
            json!({"Labels": many(10_000, |n| format!("gpuctl.{n}")).into_iter().map(|l| (l, json!("\u{1b}[2J"))).collect::<serde_json::Map<_, _>>()}),
        ),
        ("volumes", json!({"Volumes": volumes})),
        ("user", json!({"User": "\u{1b}[2J", "WorkingDir": "/proc/self/cwd/../../dev"})),
        ("entry", json!({"Entrypoint": ["/no such file or directory\u{1b}[2J"]})),
        (
            "runtime",
            json!({"Runtime": "gpuctl", "HostConfig": {"Privileged": true, "Runtime": "runc"}, "DeviceRequests": [{"Count": -1}], "Hooks": {"prestart": [{"path": "/evil"}]}}),
        ),
    ];
    for (name, config) in configs {
        let folder = work.join(name);
        fs::create_dir(&folder).unwrap();
        sh(r#"tar -C "$1" -xf "$2""#, &[&folder, &saved]);
        let manifest: Value =
            serde_json::from_slice(&fs::read(folder.join("manifest.json")).unwrap()).unwrap();
        let path = folder.join(manifest[0]["Config"].as_str().unwrap());
        let mut image: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        for (key, value) in config.as_object().unwrap() {
            image["config"][key] = value.clone();
        }
        fs::write(&path, image.to_string()).unwrap();
        let manifest = json!([{"Config": manifest[0]["Config"], "Layers": manifest[0]["Layers"], "RepoTags": [format!("{name}:latest")]}]);
        fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
        let _ = fs::remove_file(folder.join("repositories"));
        let tar = work.join(format!("{name}.tar"));
        sh(r#"tar -C "$1" -cf "$2" ."#, &[&folder, &tar]);
        let got = siege.docker(&["load", "-i", &tar.display().to_string()]);
        assert_eq!(got.code, 0, "{name}: {got}");
        at_most(&siege.run(&[], name), 0);
        at_most(&siege.run(&["--gpus", "1"], name), 1);
    }
    siege.end();
}
