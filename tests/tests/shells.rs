//! Completion in real shells: bash by docker's own completion, zsh and fish by what the packages bring for
//! one that knows no plugins. See docs/packages.md.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gpuctl_sim::command;
use gpuctl_tests::{programs, skip};

/// The longest that one shell may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Docker's own completion for bash.
const BASH: &str = "/usr/share/bash-completion/completions/docker";
/// The program's place in a package.
const PLUGIN: &str = "/usr/libexec/docker/cli-plugins/docker-gpuctl";

/// Types a line and the tab key in an interactive zsh, and says what is on its screen then.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty t zsh -f -i
read_until() {
    local wanted=$1 end=$(( SECONDS + 20 )) piece
    screen=
    while (( SECONDS < end )) && [[ $screen != *$~wanted* ]]; do
        zpty -r -t t piece && screen+=$piece || sleep 0.05
    done
}
zpty -w t "PS1='> '; fpath=($1 \$fpath); autoload -U compinit; compinit -D -u; bindkey '^I' complete-word; echo rea''dy"
read_until ready
zpty -w -n t "docker $2"$'\t'
read_until "$3"
print -r -- "$screen"
zpty -d t
"#;

/// A config of docker's with the plugin, and a folder for what a shell reads.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a folder");
    let plugins = place.path().join("cli-plugins");
    fs::create_dir(&plugins).expect("a folder");
    std::os::unix::fs::symlink(programs::programs().plugin, plugins.join("docker-gpuctl"))
        .expect("a link");
    place
}

/// A file of the package, which calls the program that was built.
fn brought(name: &str, place: &Path) {
    brought_with(name, place, &programs::programs().plugin);
}

/// A program that proposes what it was told: the host, the context, and its words.
fn teller(place: &Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let path = place.join("teller");
    let script = "#!/bin/sh\necho \"h-$DOCKER_HOST-c-$DOCKER_CONTEXT-$(echo \"$*\" | tr ' ' _)\"\n";
    fs::write(&path, script).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    path
}

/// A file of the package, which calls this program.
fn brought_with(name: &str, place: &Path, plugin: &Path) {
    let file = programs::repository().join("packaging/files").join(name);
    let text = fs::read_to_string(file).expect("a file of the package");
    assert!(text.contains(PLUGIN), "{text}");
    let text = text.replace(PLUGIN, &plugin.display().to_string());
    fs::create_dir_all(place.join("shell")).expect("a folder");
    fs::write(place.join("shell").join(name), text).expect("its copy");
}

fn said(program: &str, words: &[&str], place: &Path) -> String {
    let mut shell = Command::new(program);
    shell.args(words).env("DOCKER_CONFIG", place).env("LC_ALL", "C.UTF-8").env("TERM", "xterm");
    let got = command::run(&mut shell, LIMIT).expect("the shell runs");
    assert_eq!(got.code, 0, "{got}");
    got.stdout
}

fn has(name: &str) -> bool {
    let here = command::find(&[name]).is_ok() && command::find(&["docker"]).is_ok();
    if !here {
        skip(&format!("{name} or docker is not installed"));
    }
    here
}

#[test]
fn bash_completes_by_dockers_own_completion() {
    if !has("bash") {
        return;
    }
    if !fs::read_to_string(BASH).is_ok_and(|text| text.contains("plugin")) {
        return skip("docker's completion for bash is not installed, or knows no plugins");
    }
    let place = place();
    let line = |word: &str| {
        let script = format!(
            ". /usr/share/bash-completion/bash_completion; . {BASH}
             COMP_WORDS=(docker gpuctl '{word}') COMP_CWORD=2 COMP_LINE='docker gpuctl {word}'
             COMP_POINT=${{#COMP_LINE}}
             _docker; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        said("bash", &["-c", &script], place.path())
    };
    assert_eq!(line("sca"), "scale\n");
    // Words of the descriptions are none.
    let all = line("s");
    let mut words: Vec<&str> = all.lines().collect();
    words.sort_unstable();
    assert!(words.contains(&"start") && words.contains(&"stop"), "{all}");
    assert!(words.iter().all(|word| word.starts_with('s') && !word.contains(' ')), "{all}");
}

#[test]
fn fish_completes_by_what_the_package_brings() {
    if !has("fish") {
        return;
    }
    let place = place();
    brought("docker-gpuctl.fish", place.path());
    let line = |line: &str| {
        let file = place.path().join("shell/docker-gpuctl.fish");
        said(
            "fish",
            &["-c", &format!("source {}; complete -C '{line}'", file.display())],
            place.path(),
        )
    };
    assert!(line("docker gpuctl sca").starts_with("scale\t"), "{}", line("docker gpuctl sca"));
    assert!(line("docker gpuc").starts_with("gpuctl\t"), "{}", line("docker gpuc"));
    assert!(!line("docker ps ").contains("scale"), "{}", line("docker ps "));
    // Another command's word, and a value.
    for other in ["docker ps gpuctl ", "docker run --name gpuctl "] {
        assert!(!line(other).contains("scale"), "{other}: {}", line(other));
    }
    for (text, whole) in [
        ("docker gpuctl scale a --gpus=al", "--gpus=all"),
        ("docker gpuctl run --restart=unl", "--restart=unless-stopped"),
        ("docker gpuctl ps -f own", "owner="),
        ("docker gpuctl ps -f status=run", "status=running"),
        ("docker gpuctl ps --filter=status=run", "--filter=status=running"),
        ("docker -D gpuctl help volume resi", "resize"),
    ] {
        let said = line(text);
        assert!(said.split(['\t', '\n']).next() == Some(whole), "{text}: {said}");
    }
    brought_with("docker-gpuctl.fish", place.path(), &teller(place.path()));
    let said = line("docker -H tcp://a:1 gpuctl stop x");
    assert!(said.starts_with("h-tcp://a:1-c--__complete_gpuctl_stop_x"), "{said}");
    let said = line("docker --context=far gpuctl stop ");
    assert!(said.starts_with("h--c-far-__complete_gpuctl_stop_"), "{said}");
}

#[test]
fn zsh_completes_by_what_the_package_brings() {
    if !has("zsh") {
        return;
    }
    let place = place();
    brought("_docker-gpuctl", place.path());
    let folder = place.path().join("shell").display().to_string();
    let typed = |text: &str, wanted: &str| {
        said("zsh", &["-f", "-c", ZSH, "zsh", &folder, text, wanted], place.path())
    };
    for (text, wanted) in [
        ("gpuctl sca", "docker gpuctl scale"),
        ("-D gpuctl doct", "docker -D gpuctl doctor"),
        ("gpuctl st", "stop   -- Stop containers"),
        ("versi", "docker version"),
        ("gpuctl scale a --gpus=al", "docker gpuctl scale a --gpus=all"),
        ("gpuctl run --restart=unl", "docker gpuctl run --restart=unless-stopped"),
        ("gpuctl ps -f status=run", "docker gpuctl ps -f status=running"),
        ("gpuctl ps --filter=status=run", "docker gpuctl ps --filter=status=running"),
    ] {
        let screen = typed(text, wanted);
        assert!(screen.contains(wanted), "{text}: {screen}");
    }
    // What goes on has no space after it.
    assert!(!typed("gpuctl ps -f own", "owner=").contains("owner= "));
    brought_with("_docker-gpuctl", place.path(), &teller(place.path()));
    let wanted = "h-tcp://a:1-c--__complete_gpuctl_stop_h";
    let screen = typed("-H tcp://a:1 gpuctl stop h", wanted);
    assert!(screen.contains(wanted), "{screen}");
}
