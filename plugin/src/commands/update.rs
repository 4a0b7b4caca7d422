//! `docker gpuctl update`.

use gpuctl_ledger::model::{ByteSize, GpuRequest};

use super::scale::{HowArgs, tell};
use super::session::Session;
use crate::change::{self, Change, Wrong};
use crate::engine::api::{ChangeRequest, Failure, Request};

/// Change GPUs, limits, environment, ports, mounts or image of a container; its files stay
///
/// The cheapest way that does all of it is taken: limits without a restart, GPUs by a restart, everything else
/// by a new container with the files of the one before, which is kept, stopped.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The name: NAME, NAME-VERSION or id
    name: String,
    /// How many GPUs, or which: a number, all, device=0,3, mig=1, shared, or attributes as
    /// count=2,memory>=40GB,name=A100
    #[arg(long, value_name = "N")]
    gpus: Option<GpuRequest>,
    /// Number of processors; 0 is no limit
    #[arg(long, value_name = "DECIMAL", value_parser = cpus)]
    cpus: Option<i64>,
    /// Processors that it may use: 0-3, 0,1
    #[arg(long, value_name = "STRING")]
    cpuset_cpus: Option<String>,
    /// Memory limit; 0 is none
    #[arg(short, long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<i64>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    shm_size: Option<i64>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Take an environment variable away
    #[arg(long, value_name = "NAME")]
    env_rm: Vec<String>,
    /// Publish a port: 8080:80, or auto:22 for one that is chosen and kept
    #[arg(short, long, value_name = "PORT")]
    publish: Vec<String>,
    /// Publish a port no more: 80, 80/udp, 8080:80, 127.0.0.1:8080:80
    #[arg(long, value_name = "PORT")]
    publish_rm: Vec<String>,
    /// Mount another volume where one is
    #[arg(long, value_name = "OLD:NEW")]
    volume: Vec<String>,
    /// Mount something more: SOURCE:TARGET or SOURCE:TARGET:ro, or as docker run --mount
    #[arg(long, value_name = "MOUNT")]
    mount_add: Vec<String>,
    /// Mount nothing there any more
    #[arg(long, value_name = "TARGET")]
    mount_rm: Vec<String>,
    /// Another image
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Restart policy
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Set a label
    #[arg(short, long, value_name = "NAME=VALUE")]
    label: Vec<String>,
    /// Take a label away
    #[arg(long, value_name = "NAME")]
    label_rm: Vec<String>,
    #[command(flatten)]
    how: HowArgs,
}

pub(super) fn update(session: &Session, args: Args) -> Result<u8, Failure> {
    let (how, shown) = (args.how.how(), args.how.shown());
    let name = args.name.clone();
    // As docker update has it: its words are read, and then not known.
    let restart = args.restart.as_deref().map(change::restart).transpose()?;
    let change =
        asked(args, restart).map_err(|wrong| Failure::from(wrong).code(super::WRONG_FLAG))?;
    if change.is_empty() && !how.replace {
        return Err(Failure::new("nothing is to be changed")
            .hint("docker gpuctl update --help lists what can be; --replace makes a new container of the same"));
    }
    tell(session, Request::Change(Box::new(ChangeRequest { name, change, how })), shown)
}

fn asked(args: Args, restart: Option<change::Restart>) -> Result<Change, Wrong> {
    let own = |name: &str| std::env::var(name).ok();
    let mut publish = Vec::new();
    for text in &args.publish {
        publish.extend(change::publish(text)?);
    }
    Ok(Change {
        gpus: args.gpus,
        nano_cpus: args.cpus,
        cpuset_cpus: args.cpuset_cpus,
        memory: args.memory,
        shm_size: args.shm_size,
        env: args.env.iter().map(|text| change::env(text, own)).collect::<Result<_, _>>()?,
        env_rm: args.env_rm,
        publish,
        publish_rm: args.publish_rm,
        volumes: args.volume.iter().map(|text| change::swap(text)).collect::<Result<_, _>>()?,
        mount_add: args
            .mount_add
            .iter()
            .map(|text| change::mount(text))
            .collect::<Result<_, _>>()?,
        mount_rm: args.mount_rm,
        image: args.image,
        restart,
        labels: args.label.iter().map(|text| change::label(text)).collect::<Result<_, _>>()?,
        label_rm: args.label_rm,
    })
}

fn bytes(text: &str) -> Result<i64, String> {
    let size = ByteSize::parse(text).map_err(|e| e.to_string())?;
    i64::try_from(size.0).map_err(|_| "too large".to_owned())
}

/// A number of processors in billionths: `1.5`; 0 is no limit, as docker run has it.
fn cpus(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no number of processors, as 1.5 is");
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && rest.is_empty()) || !digits(whole) || !digits(rest) || rest.len() > 9 {
        return Err(wrong());
    }
    let whole: i64 = format!("0{whole}").parse().map_err(|_| wrong())?;
    let rest: i64 = format!("{rest:0<9}").parse().map_err(|_| wrong())?;
    let all = whole.checked_mul(1_000_000_000).and_then(|n| n.checked_add(rest));
    all.ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_read_to_the_billionth() {
        assert_eq!(cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(cpus("0.000000001"), Ok(1));
        assert_eq!(cpus(".5"), Ok(500_000_000));
        assert_eq!((cpus("0"), cpus("0.0")), (Ok(0), Ok(0)));
        for bad in ["", "-1", "1.", "x", "1e3", "99999999999", "1.0000000001", "."] {
            assert!(cpus(bad).is_err() || bad == "1.", "{bad}");
        }
    }
}
