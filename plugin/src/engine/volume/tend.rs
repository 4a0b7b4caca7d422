//! What keeps volumes as they should be: changes that died are brought to their end, images that are
//! not mounted are mounted. By the service every few seconds, and by doctor --fix.

use gpuctl_ledger::ledger::At;
use gpuctl_ledger::model::{Backend, Timestamp, VolumeName, VolumeOperation, VolumeVersionRecord};

use super::super::api::Failure;
use super::super::context::Context;
use super::super::reconcile::Finding;
use super::{find, journal, observe, recover};
use crate::volume::Spec;
use crate::volume::image::{Images, may_have_detached};

/// How long a dead change waits for the next command to end it, before the service does: milliseconds.
const PATIENCE_MS: u64 = 30_000;

/// What the service does by itself; what it did.
///
/// # Errors
/// When the ledger cannot be read.
pub(in crate::engine) fn tend(ctx: &Context) -> Result<Vec<String>, Failure> {
    let mut findings = Vec::new();
    let now = Timestamp::now();
    journals(ctx, true, |o| now.millis_since(o.since) > PATIENCE_MS, &mut findings)?;
    if may_have_detached(&ctx.config.volumes.images) {
        unmounted(ctx, true, &mut findings)?;
    }
    Ok(findings.into_iter().map(|f| f.text).collect())
}

/// What is amiss with volumes, mended where `fix` says so.
///
/// # Errors
/// When ledger or Engine cannot be asked.
pub(in crate::engine) fn findings(
    ctx: &Context,
    fix: bool,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    journals(ctx, fix, |_| true, findings)?;
    unmounted(ctx, fix, findings)?;
    gone(ctx, fix, findings)
}

/// Changes whose author is dead.
fn journals(
    ctx: &Context,
    fix: bool,
    is_due: impl Fn(&VolumeOperation) -> bool,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    let open: Vec<At<VolumeOperation>> = ctx.ledger.list(&ctx.ledger.keys().volume_operations())?;
    for operation in open.into_iter().filter(|at| is_due(&at.record)) {
        let name = operation.record.name;
        // Whoever has the lock is at work on it.
        let Some(_lock) = journal::try_lock(ctx, &name)? else { continue };
        let Some(operation) = journal::open(ctx, &name)? else { continue };
        if !fix {
            let text = format!("a change to volume {name} was broken off");
            findings.push(Finding { text, mended: false, by_hand: None });
            continue;
        }
        findings.push(match recover::recover(ctx, &operation) {
            Ok(text) => Finding { text, mended: true, by_hand: None },
            Err(why) => Finding {
                text: why.message,
                mended: false,
                by_hand: why.hint.or_else(|| Some("docker gpuctl doctor --fix, later".into())),
            },
        });
    }
    Ok(())
}

/// Images that are not mounted: after a reboot without systemd, or when somebody unmounted one.
fn unmounted(ctx: &Context, fix: bool, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    for at in find::all(ctx)? {
        let name = at.record.name;
        for version in find::versions(ctx, &name)? {
            let version = version.record;
            let Some(spec) = Spec::of(&version).filter(|s| s.backend == Backend::Image) else {
                continue;
            };
            let images = Images { docker: ctx.docker()? };
            if !images.is_detached(&spec)? || ctx.docker()?.volume(&spec.docker_name)?.is_none() {
                continue;
            }
            if !fix {
                let text = format!("the image of volume {} is not mounted", spec.docker_name);
                findings.push(Finding { text, mended: false, by_hand: None });
                continue;
            }
            attach(ctx, &name, &images, &spec, findings)?;
        }
    }
    Ok(())
}

fn attach(
    ctx: &Context,
    name: &VolumeName,
    images: &Images<'_>,
    spec: &Spec,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    // Whoever has the lock may be just about to remove it.
    let Some(_lock) = journal::try_lock(ctx, name)? else { return Ok(()) };
    if journal::open(ctx, name)?.is_some() {
        return Ok(());
    }
    match images.attach(spec) {
        Ok(true) => {
            let text =
                format!("the image of volume {} was not mounted: it is now", spec.docker_name);
            findings.push(Finding { text, mended: true, by_hand: None });
        }
        Ok(false) => {}
        Err(why) => findings.push(Finding {
            text: why.message,
            mended: false,
            by_hand: why.hint.or_else(|| Some("docker gpuctl volume inspect tells more".into())),
        }),
    }
    Ok(())
}

/// Volumes that Docker no longer has.
fn gone(ctx: &Context, fix: bool, findings: &mut Vec<Finding>) -> Result<(), Failure> {
    let there = ctx.docker()?.volumes()?;
    for at in find::all(ctx)? {
        let name = at.record.name;
        let Some(docker_name) = at.record.docker_name else { continue };
        let version = find::version(ctx, &name, at.record.version)?.record;
        if let Some(shown) = there.iter().find(|v| v["Name"] == docker_name.as_str()) {
            if let Err(why) = observe::check_same(&version, shown) {
                findings.push(Finding { text: why.message, mended: false, by_hand: why.hint });
            }
            continue;
        }
        let has_image = version.backend == Backend::Image && observe::length(&version) > 0;
        if !has_image {
            let text = format!("volume {docker_name} was removed outside gpuctl");
            let by_hand =
                format!("docker gpuctl volume rm {name}, or docker gpuctl volume rollback {name}");
            findings.push(Finding { text, mended: false, by_hand: Some(by_hand) });
        } else if !fix {
            let text = format!(
                "volume {docker_name} was removed outside gpuctl; its image, with all that is in it, is still there"
            );
            findings.push(Finding { text, mended: false, by_hand: None });
        } else {
            restore(ctx, &name, &version, findings)?;
        }
    }
    Ok(())
}

/// Gives Docker a volume again whose image is there.
fn restore(
    ctx: &Context,
    name: &VolumeName,
    version: &VolumeVersionRecord,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    // Whoever has the lock may be just about to remove it.
    let Some(_lock) = journal::try_lock(ctx, name)? else { return Ok(()) };
    if journal::open(ctx, name)?.is_some() {
        return Ok(());
    }
    let docker_name = &version.docker_name;
    findings.push(match observe::restore(ctx, version) {
        Ok(_) => {
            let text = format!(
                "volume {docker_name} was removed outside gpuctl: Docker has it again, with all that was in it"
            );
            Finding { text, mended: true, by_hand: None }
        }
        Err(why) => Finding { text: why.message, mended: false, by_hand: why.hint },
    });
    Ok(())
}
