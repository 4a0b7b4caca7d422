//! The service: without it only root can do anything, and nobody tries a refused restart again.

use std::time::Duration;

use gpuctl_ledger::config::Config;

use super::Checks;
use crate::engine::api::{Event, Failure, Front, Request};
use crate::service::client;
use crate::service::reach::Service;

const NAME: &str = "service";
/// How long it may take to say its version.
const LIMIT: Duration = Duration::from_secs(5);

/// Who only wants an answer.
struct Asking;

impl Front for Asking {
    fn event(&mut self, _: Event) {}
    fn user(&self) -> Option<String> {
        None
    }
}

pub(super) fn checks(config: &Config, checks: &mut Checks) {
    let socket = Service::Socket(config.paths.socket.clone());
    let asked = client::perform_within(&socket, Request::Version, &mut Asking, LIMIT);
    judge(&config.paths.socket.display().to_string(), asked.map(drop), checks);
}

fn judge(socket: &str, asked: Result<(), Failure>, checks: &mut Checks) {
    match asked {
        Ok(()) => checks.ok(NAME, format!("answers at {socket}")),
        Err(why) => checks.warning(
            NAME,
            format!(
                "{}: only root can do anything here, and refused restarts are not tried again",
                why.message
            ),
            Some("systemctl restart gpuctl.socket gpuctl.service".into()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::api::Verdict;

    #[test]
    fn a_service_that_is_not_there_is_told_with_what_starts_it() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("[paths]\nsocket = \"{}/s\"\n", folder.path().display());
        let mut said = Checks::default();
        checks(&Config::parse(&text).unwrap(), &mut said);
        let line = said.0.remove(0);
        assert_eq!(line.verdict, Verdict::Warning, "{line:?}");
        assert!(line.fix.unwrap().contains("gpuctl.socket"));
        judge("/s", Ok(()), &mut said);
        assert_eq!(said.0[0].verdict, Verdict::Ok);
    }
}
