use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use gpuctl_ledger::model::ContainerName;

use super::*;
use crate::client::flags::Split;

/// A Docker CLI that writes down its words and does what the script says.
fn cli(dir: &std::path::Path, script: &str) -> DockerCli {
    let program = dir.join("docker");
    let text = format!("#!/bin/sh\necho \"$@\" >> {}/words\n{script}\n", dir.display());
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    DockerCli::of(program, "unix:///d.sock")
}

fn wanted() -> Wanted {
    let split = Split { operands: vec!["img".into()], ..Split::default() };
    Wanted::of(split, "gpuctl").unwrap()
}

fn ask() -> CreateAsk {
    CreateAsk {
        docker_name: DockerName::new("train-0").unwrap(),
        runtime: "gpuctl".into(),
        name: ContainerName::new("train").unwrap(),
        labels: vec![],
        publish: vec![],
    }
}

fn terminal(dir: &std::path::Path, script: &str) -> Terminal {
    Terminal::new(cli(dir, script)).creating(wanted())
}

#[test]
fn create_gives_the_id_that_docker_printed_last() {
    let dir = tempfile::tempdir().unwrap();
    let mut front = terminal(dir.path(), "echo pulled; echo abc123");
    assert_eq!(front.create(&ask()).unwrap().as_str(), "abc123");
    let words = std::fs::read_to_string(dir.path().join("words")).unwrap();
    assert_eq!(
        words,
        "--host unix:///d.sock create --name train-0 --runtime gpuctl --hostname train img\n"
    );
}

#[test]
fn a_refusal_of_docker_is_125_unless_it_says_more() {
    let dir = tempfile::tempdir().unwrap();
    for (script, code) in [("exit 1", 125), ("exit 125", 125), ("exit 127", 127)] {
        let refused = terminal(dir.path(), script).create(&ask()).unwrap_err();
        assert_eq!(refused, AskError::Refused { code }, "{script}");
    }
    let odd = terminal(dir.path(), "echo 'not an id'").create(&ask()).unwrap_err();
    assert_eq!(odd, AskError::Refused { code: 125 });
    let mut nothing = Terminal::new(cli(dir.path(), ""));
    assert_eq!(nothing.create(&ask()).unwrap_err(), AskError::Refused { code: 125 });
}

#[test]
fn an_attached_command_runs_on_and_its_code_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut front = terminal(dir.path(), "sleep 0.3; exit 7");
    front.attach(&DockerName::new("train-0").unwrap()).unwrap();
    assert_eq!(front.attach_ended().unwrap(), None);
    assert_eq!(front.wait(), Some(7));
    assert_eq!(front.attach_ended().unwrap(), Some(7));
    let begun = Instant::now();
    assert_eq!(front.wait(), Some(7));
    assert!(begun.elapsed() < Duration::from_millis(100));
}
