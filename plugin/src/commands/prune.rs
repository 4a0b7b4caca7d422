//! `docker gpuctl prune`.

use std::io::IsTerminal as _;

use gpuctl_ledger::model::Timestamp;

use super::session::{Session, odd};
use crate::client::when;
use crate::engine::api::{
    Answer, Failure, MoreAnswer, MoreRequest, PruneRequest, PruneRow, Request,
};
use crate::ui;

/// Remove what is kept of older versions: their containers and the layers that snapshots kept
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Containers: NAME, NAME-VERSION or id; all when none is given
    names: Vec<String>,
    /// Keep the newest N of each container's older versions
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep: usize,
    /// Only what has not been current for so long: 30d, 12h, 90m
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<u64>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only show what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// An age in milliseconds.
fn age(text: &str) -> Result<u64, String> {
    when::age(text).ok_or_else(|| "is no age: 30d, 2w, 12h, 1h30m".to_owned())
}

pub(super) fn prune(session: &Session, args: Args) -> Result<u8, Failure> {
    let now = Timestamp::now();
    let millis = |age: u64| now.millis().saturating_sub(i64::try_from(age).unwrap_or(i64::MAX));
    let request = PruneRequest {
        names: args.names,
        keep: args.keep,
        before: args.older_than.map(|age| Timestamp::from_millis(millis(age))),
        only: None,
    };
    let found = rows(session.look(Request::More(MoreRequest::Prune(request.clone())))?)?;
    if found.is_empty() {
        ui::tell("nothing is kept that would be removed");
        return Ok(0);
    }
    if args.dry_run || !args.force {
        let table = ui::prune(&found, now);
        // Else it is what is asked about, not data.
        if args.dry_run { ui::table(&table) } else { table.lines().for_each(ui::tell) }
    }
    if args.dry_run {
        return Ok(0);
    }
    if !args.force && !agreed()? {
        return Err(Failure::new("nothing was removed").code(1));
    }
    let request = PruneRequest { only: Some(found), ..request };
    let gone =
        rows(session.change(Request::More(MoreRequest::Prune(request)), &mut session.terminal())?)?;
    for row in &gone {
        ui::lines([format!("{}-{}", row.name, row.version)]);
    }
    let bytes = gone.iter().map(|row| row.bytes.0).sum();
    ui::tell(&format!("freed: {}", gpuctl_ledger::model::ByteSize(bytes)));
    Ok(0)
}

fn rows(answer: Answer) -> Result<Vec<PruneRow>, Failure> {
    match answer {
        Answer::More(MoreAnswer::Pruned(rows)) => Ok(rows),
        _ => Err(odd()),
    }
}

/// Asks. Where nobody can answer it is an error.
fn agreed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new("this would be removed, and there is no terminal to ask")
            .hint("docker gpuctl prune -f does not ask; --dry-run only shows"));
    }
    ui::ask("Remove these? [y/N] ");
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
    Ok(matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
