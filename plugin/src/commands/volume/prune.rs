//! `docker gpuctl volume prune`.

use std::io::BufRead as _;

use gpuctl_ledger::model::ByteSize;

use super::{Session, change, look, odd};
use crate::engine::api::PrunedRow;
use crate::engine::api::{Failure, VolumeAnswer, VolumeRequest};
use crate::ui;

/// Remove older versions of volumes that no container mounts
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only print which
    #[arg(long, conflicts_with = "force")]
    dry_run: bool,
}

pub(super) fn prune(session: &Session, args: &Args) -> Result<u8, Failure> {
    if !args.force {
        let rows = rows(look(session, VolumeRequest::Prune { dry_run: true })?)?;
        if args.dry_run || rows.is_empty() {
            show(&rows, "would be freed");
            return Ok(0);
        }
        ui::tell("older versions that no container mounts, and all that is in them:");
        rows.iter().for_each(|row| ui::tell(&format!("  {}", line(row))));
        ui::tell("remove them? [y/N]");
        let mut said = String::new();
        let heard = std::io::stdin().lock().read_line(&mut said).is_ok();
        if !heard || !matches!(said.trim(), "y" | "Y" | "yes") {
            return Ok(0);
        }
    }
    let rows = rows(change(session, VolumeRequest::Prune { dry_run: false })?)?;
    let (failed, done): (Vec<PrunedRow>, Vec<PrunedRow>) =
        rows.into_iter().partition(|row| row.failed.is_some());
    show(&done, "freed");
    for row in &failed {
        let why = row.failed.as_deref().unwrap_or_default();
        ui::failure(&Failure::new(format!("{} was not removed: {why}", row.docker_name)));
    }
    Ok(u8::from(!failed.is_empty()))
}

fn rows(answer: VolumeAnswer) -> Result<Vec<PrunedRow>, Failure> {
    match answer {
        VolumeAnswer::Pruned(rows) => Ok(rows),
        _ => Err(odd()),
    }
}

fn show(rows: &[PrunedRow], word: &str) {
    ui::lines(rows.iter().map(|row| row.docker_name.as_str()));
    let sum = rows.iter().filter_map(|row| row.on_disk).map(|size| size.0).sum();
    ui::tell(&format!("{} {word}", ByteSize(sum)));
}

fn line(row: &PrunedRow) -> String {
    match row.on_disk {
        Some(size) => format!("{}  {size}", row.docker_name),
        None => row.docker_name.clone(),
    }
}
