//! The flags that every list has, as docker ps has them.

use crate::engine::api::Failure;
use crate::ui::{self, Format, List, View};

/// See the module.
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Filter output based on conditions provided: KEY=VALUE
    #[arg(short, long, value_name = "FILTER", value_parser = pair)]
    pub(super) filter: Vec<String>,
    /// Format output: table, json, or a template as '{{.Name}}' or 'table {{.Name}}\t{{.GPUs}}'
    #[arg(long, value_name = "FORMAT", value_parser = format, default_value = "table", hide_default_value = true)]
    pub(super) format: Format,
    /// Don't truncate output
    #[arg(long)]
    pub(super) no_trunc: bool,
    /// Only display names, ids or numbers
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// Reads `--format`.
pub(super) fn format(text: &str) -> Result<Format, String> {
    text.parse()
}

/// Reads `--filter`, as far as that is the same everywhere.
pub(super) fn pair(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(text.to_owned()),
        _ => Err("it is not KEY=VALUE".to_owned()),
    }
}

/// What is wrong with a filter or a template.
pub(super) fn wrong(command: &str, text: impl Into<String>) -> Failure {
    Failure::new(text).hint(format!("docker gpuctl {command} --help"))
}

impl ListArgs {
    /// Shows what `ask` gives. What is wrong with the flags is said before anybody is asked.
    ///
    /// # Errors
    /// Wrong usage, or what `ask` says.
    pub(super) fn show<R>(
        &self,
        command: &str,
        list: &List<R>,
        ask: impl FnOnce() -> Result<Vec<R>, Failure>,
    ) -> Result<u8, Failure> {
        let wrong = |text| wrong(command, text);
        let view = View::stdout(self.format, self.quiet, self.no_trunc);
        list.filter(Vec::new(), &self.filter)
            .and_then(|none| list.show(&none, &View { quiet: false, ..view }))
            .map_err(wrong)?;
        let rows = list.filter(ask()?, &self.filter).map_err(wrong)?;
        ui::table(&list.show(&rows, &view).map_err(wrong)?);
        Ok(0)
    }
}
