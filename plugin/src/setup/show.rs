//! Plans and steps in words. Pure.

use super::diff::diff;
use super::plan::{Note, Plan, Step};

impl Step {
    /// What it will have done, on a line.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Symlink { path, target } => {
                format!("linked {} to {}", path.display(), target.display())
            }
            Self::Unlink(path) | Self::File { path, after: None, .. } => {
                format!("removed {}", path.display())
            }
            Self::File { path, before: None, .. } => format!("made {}", path.display()),
            Self::File { path, .. } => format!("changed {}", path.display()),
            Self::CharLinks(nodes) => {
                format!("made the links in /dev/char of {}", nodes.join(", "))
            }
            Self::Cdi { tool, output } => {
                format!("made {} with {}", output.display(), tool.display())
            }
            Self::Inventory(count) => format!("wrote the inventory: {count} GPUs"),
            Self::Seeds(seeds) => {
                let one = |seed: &super::seed::Seed| {
                    let gpus: Vec<String> =
                        seed.gpus.iter().map(|(index, _)| index.to_string()).collect();
                    format!("GPU {} to {}", gpus.join(","), seed.name)
                };
                format!(
                    "leased to what runs: {}",
                    seeds.iter().map(one).collect::<Vec<_>>().join("; ")
                )
            }
            Self::Reload { default_runtime, .. } => {
                format!("had dockerd read it (SIGHUP): the default runtime is {default_runtime}")
            }
            Self::Keep(kept) => {
                let names: Vec<&str> = kept.iter().map(|k| k.name.as_str()).collect();
                format!(
                    "told systemd of the GPUs of {}, so that they stay open (systemctl set-property --runtime)",
                    names.join(", ")
                )
            }
            Self::DaemonReload => "had systemd read its units (systemctl daemon-reload)".into(),
            Self::Service => "restarted gpuctl.service, if it ran, for the new settings".into(),
        }
    }

    /// What it will do: a line, and of a file how its text changes.
    fn planned(&self) -> Vec<String> {
        let line = match self {
            Self::Symlink { path, target } => {
                format!("link {} to {}", path.display(), target.display())
            }
            Self::Unlink(path) | Self::File { path, after: None, .. } => {
                format!("remove {}", path.display())
            }
            Self::File { path, before: None, mode, .. } => {
                format!("make {} (mode {mode:04o})", path.display())
            }
            Self::File { path, backup, .. } => {
                let kept = if *backup { ", the old one kept beside it" } else { "" };
                format!("change {}{kept}", path.display())
            }
            Self::CharLinks(nodes) => {
                format!("make the links in /dev/char of {}", nodes.join(", "))
            }
            Self::Cdi { tool, output } => {
                format!("make {} with {} cdi generate", output.display(), tool.display())
            }
            Self::Inventory(count) => format!("write the inventory: {count} GPUs"),
            Self::Seeds(_) => self.told().replacen("leased", "lease", 1),
            Self::Reload { pid, default_runtime } => {
                format!(
                    "send SIGHUP to dockerd (pid {pid}), and see that its default runtime is {default_runtime}"
                )
            }
            Self::Keep(_) => self.told().replacen("told", "tell", 1),
            Self::DaemonReload => "systemctl daemon-reload".into(),
            Self::Service => "systemctl try-restart gpuctl.service".into(),
        };
        let change = match self {
            Self::File { before, after: Some(after), .. } => {
                diff(before.as_deref().unwrap_or_default(), after)
            }
            _ => Vec::new(),
        };
        std::iter::once(line).chain(change.into_iter().map(|l| format!("    {l}"))).collect()
    }
}

/// The lines of --dry-run.
pub(super) fn dry_run(plan: &Plan) -> Vec<String> {
    plan.steps.iter().flat_map(Step::planned).collect()
}

/// What a person is to know, a line each.
pub(super) fn notes(plan: &Plan) -> Vec<String> {
    let line = |note: &Note| match note {
        Note::Hole(text) => format!("hole: {text}"),
        Note::Restart(text) => format!("to do: {text}"),
        Note::Say(text) => format!("note: {text}"),
    };
    plan.notes.iter().map(line).collect()
}
