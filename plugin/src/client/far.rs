//! Another host's service: what is started to reach it, and what it means when that fails.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::dockercli::{DockerCli, NoOutput, captured};
use super::endpoint::{Far, SshHost, Way};
use super::signals;
use crate::engine::api::Failure;
use crate::service::reach::{Dialling, Service};

/// How long ssh tries to connect.
const CONNECT: &str = "ConnectTimeout=30";
/// How long the far Engine has for one question.
const LIMIT: Duration = Duration::from_secs(60);
/// The image that the container on the far host is made of; the number goes up when what is in it changes.
const IMAGE: &str = "gpuctl-dial:1";
/// All that is in it: links to where the host's own files are mounted, so that the host's own
/// docker-gpuctl runs with the host's own libraries.
const LINKS: [(&str, &str); 3] =
    [("usr", "host/usr"), ("lib", "host/lib"), ("lib64", "host/lib64")];
/// Where the host's files are in it.
const ROOT: &str = "/host";
/// Where Docker's plugins are on a host.
const PLUGINS: &str = "PATH=/usr/local/lib/docker/cli-plugins:/usr/local/libexec/docker/cli-plugins:\
    /usr/lib/docker/cli-plugins:/usr/libexec/docker/cli-plugins";

/// The service of that host; `cli` is the Docker CLI that talks to its Engine.
pub fn service(far: Far, cli: &DockerCli) -> Service {
    let cli = cli.clone();
    Service::Far(Box::new(move || match &far.way {
        Way::Ssh(host) => Ok(by_ssh(host)),
        Way::Engine => by_engine(&far, &cli),
    }))
}

fn by_ssh(host: &SshHost) -> Dialling {
    let mut command = Command::new("ssh");
    if let Some(user) = &host.user {
        command.args(["-l", user]);
    }
    if let Some(port) = host.port {
        command.args(["-p", &port.to_string()]);
    }
    // No questions: there may be nobody to answer, and the terminal may be another's.
    command.args(["-o", "BatchMode=yes", "-o", CONNECT, "-T", "--", &host.host]);
    command.args(["docker", "gpuctl", "dial"]);
    if let Some(path) = &host.path {
        command.args(["--engine", &quoted(&format!("unix://{path}"))]);
    }
    Dialling { command, why: ssh_failed, host: host.shown() }
}

/// For the shell at the other end.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What it means that ssh ended without an answer of the service.
fn ssh_failed(host: &str, code: i32, said: &str) -> Failure {
    let last = said.lines().rev().map(str::trim).find(|l| !l.is_empty()).unwrap_or_default();
    let lines = || said.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect();
    if not_installed(said) {
        return missing(host).hint(format!(
            "install docker-gpuctl there, then: ssh {host} sudo docker gpuctl setup"
        ));
    }
    match code {
        // Its own failures.
        255 => Failure::new(format!("ssh does not get to {host}: {last}"))
            .hint(format!("ssh {host} true has to work without a question: see ssh-add and known_hosts")),
        127 => Failure::new(format!("{host} has no docker on the path of commands by ssh"))
            .details(lines())
            .hint("install Docker and docker-gpuctl there, or put docker on that path"),
        _ => Failure::new(format!("{host} went away before it had answered"))
            .details(lines())
            .hint("docker gpuctl ps shows what is so; the next command finishes or undoes what is left"),
    }
}

/// A container on the far host that runs the docker-gpuctl which is installed there.
fn by_engine(far: &Far, cli: &DockerCli) -> Result<Dialling, Failure> {
    let there = cli.command(["image", "inspect", "--format", "{{.Id}}", IMAGE]);
    let (code, _) = asked(there, None, far)?;
    if code != 0 {
        let (code, said) = asked(cli.command(["import", "-", IMAGE]), Some(&image()), far)?;
        if code != 0 {
            return Err(Failure::new(format!("the Engine at {} cannot be used", far.host))
                .details(said.lines().map(str::to_owned).collect())
                .hint(format!("{} names it; docker version shows whether it answers", far.by)));
        }
    }
    let mount = format!("type=bind,src=/,dst={ROOT},readonly,bind-propagation=rslave");
    let command = cli.command([
        "run",
        "--rm",
        "-i",
        "--pull",
        "never",
        "--network",
        "none",
        "--userns",
        "host",
        "--read-only",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "label=disable",
        "--log-driver",
        "none",
        "--label",
        "gpuctl.dial=1",
        "--env",
        PLUGINS,
        "--mount",
        &mount,
        "--entrypoint",
        "docker-gpuctl",
        IMAGE,
        "dial",
        "--root",
        ROOT,
    ]);
    Ok(Dialling { command, why: engine_failed, host: far.host.clone() })
}

/// Runs a command of the Docker CLI for its exit code and what it says on stderr.
fn asked(mut command: Command, input: Option<&[u8]>, far: &Far) -> Result<(u8, String), Failure> {
    let unasked = || Failure::new(format!("docker cannot be started to ask {}", far.host));
    let (mut ours, theirs) = UnixStream::pair().map_err(|_| unasked())?;
    command.stderr(OwnedFd::from(theirs)).stdin(Stdio::null());
    if let Some(input) = input {
        let (mut to, from) = UnixStream::pair().map_err(|_| unasked())?;
        // A few kilobytes: they fit into the socket.
        to.write_all(input).map_err(|_| unasked())?;
        command.stdin(OwnedFd::from(from));
    }
    let outcome = captured(command, LIMIT, signals::interrupted);
    let mut said = Vec::new();
    let _ = ours.set_nonblocking(true);
    let mut bytes = [0; 4096];
    while let Ok(n @ 1..) = ours.read(&mut bytes) {
        said.extend_from_slice(bytes.get(..n).unwrap_or_default());
    }
    match outcome {
        Ok((code, _)) => Ok((code, String::from_utf8_lossy(&said).trim().to_owned())),
        Err(NoOutput::NotStarted) => Err(unasked().hint("put docker on PATH")),
        Err(_) => Err(Failure::new(format!("the Engine at {} gave no answer in time", far.host))
            .hint(format!("{} names it; docker version shows whether it answers", far.by))),
    }
}

/// The image as a tar archive.
fn image() -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, to) in LINKS {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &[u8]| {
            header.iter_mut().skip(at).zip(text).for_each(|(byte, new)| *byte = *new);
        };
        put(0, name.as_bytes());
        put(100, b"0000777\0");
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, b"00000000000\0");
        put(136, b"00000000000\0");
        // A sum is made with spaces in its own place.
        put(148, b"        ");
        put(156, b"2");
        put(157, to.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().copied().map(u32::from).sum();
        let sum = format!("{sum:06o}\0 ");
        header.iter_mut().skip(148).zip(sum.bytes()).for_each(|(byte, new)| *byte = new);
        tar.extend_from_slice(&header);
    }
    // Two empty blocks are its end.
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// What it means that the container ended without an answer of the service.
fn engine_failed(host: &str, code: i32, said: &str) -> Failure {
    let lines = said.lines().map(|l| l.trim().to_owned()).filter(|l| !l.is_empty()).collect();
    match code {
        127 => missing(host).hint("install docker-gpuctl there, then on that host: sudo docker gpuctl setup"),
        125 => Failure::new(format!("the Engine at {host} did not start what joins us to its service"))
            .details(lines)
            .hint("an Engine in a machine of its own, as Docker Desktop's, has no such service"),
        _ => Failure::new(format!("the Engine at {host} went away before it had answered"))
            .details(lines)
            .hint("docker gpuctl ps shows what is so; the next command finishes or undoes what is left"),
    }
}

fn missing(host: &str) -> Failure {
    Failure::new(format!("{host} has no docker-gpuctl"))
}

/// Whether a Docker CLI said that it knows no such plugin.
fn not_installed(said: &str) -> bool {
    ["is not a docker command", "unknown command: docker gpuctl"].iter().any(|s| said.contains(s))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> Vec<String> {
        command.get_args().map(|w| w.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn ssh_is_asked_as_docker_asks_it_and_asks_nothing_itself() {
        let dialling = by_ssh(&SshHost::read("ssh://me@far:2222/run/o'd.sock").unwrap());
        assert_eq!(dialling.command.get_program(), "ssh");
        assert_eq!(
            words(&dialling.command).join(" "),
            r"-l me -p 2222 -o BatchMode=yes -o ConnectTimeout=30 -T -- far docker gpuctl dial --engine 'unix:///run/o'\''d.sock'"
        );
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_do() {
        let said = "docker: 'gpuctl' is not a docker command.\nSee 'docker --help'";
        let failure = ssh_failed("me@far", 1, said);
        assert_eq!(failure.message, "me@far has no docker-gpuctl");
        assert!(failure.hint.unwrap().contains("ssh me@far sudo docker gpuctl setup"));
        let failure = ssh_failed("far", 255, "Warning: x\nfar: Permission denied (publickey).\n");
        assert_eq!(failure.message, "ssh does not get to far: far: Permission denied (publickey).");
        let failure = ssh_failed("far", 127, "sh: docker: not found");
        assert!(failure.message.starts_with("far has no docker on"), "{failure}");
        assert!(ssh_failed("far", 1, "x").message.contains("went away"));
        assert!(engine_failed("tcp://far", 127, "x").message.contains("has no docker-gpuctl"));
        assert_eq!(engine_failed("tcp://far", 125, "a\n\nb").details, ["a", "b"]);
    }

    #[test]
    fn the_image_is_an_archive_of_links() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("image.tar");
        std::fs::write(&file, image()).unwrap();
        let out = folder.path().join("out");
        std::fs::create_dir(&out).unwrap();
        let status =
            Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(&out).status().unwrap();
        assert!(status.success());
        for (name, to) in LINKS {
            assert_eq!(std::fs::read_link(out.join(name)).unwrap().to_str(), Some(to));
        }
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), LINKS.len());
    }
}
