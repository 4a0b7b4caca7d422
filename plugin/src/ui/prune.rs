//! What prune shows before it asks.

use gpuctl_ledger::model::{ByteSize, Timestamp};

use super::{Table, ago};
use crate::engine::api::PruneRow;

/// prune.
pub fn prune(rows: &[PruneRow], now: Timestamp) -> String {
    let mut table = Table::new(&["NAME", "VERSION", "REPLACED", "CONTAINER", "LAYER", "SIZE"]);
    for r in rows {
        table.row(vec![
            r.name.to_string(),
            r.version.to_string(),
            ago(r.since, now),
            r.docker_name.clone().unwrap_or_else(|| "-".to_owned()),
            if r.layer { "kept" } else { "-" }.to_owned(),
            r.bytes.to_string(),
        ]);
    }
    let all = ByteSize(rows.iter().map(|r| r.bytes.0).sum());
    format!("{table}in all: {all}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuctl_ledger::model::{ContainerName, Version};

    #[test]
    fn what_would_go_is_shown_with_its_size() {
        let row = |version, docker_name: Option<&str>, layer, bytes| PruneRow {
            name: ContainerName::new("train").unwrap(),
            version: Version(version),
            since: Timestamp::from_millis(0),
            container: None,
            docker_name: docker_name.map(str::to_owned),
            layer,
            bytes: ByteSize(bytes),
        };
        let rows = [row(0, Some("train-0"), false, 1 << 20), row(1, None, true, 1 << 20)];
        assert_eq!(
            prune(&rows, Timestamp::from_millis(120_000)),
            "NAME    VERSION   REPLACED        CONTAINER   LAYER   SIZE\n\
             train   0         2 minutes ago   train-0     -       1MB\n\
             train   1         2 minutes ago   -           kept    1MB\n\
             in all: 2MB\n"
        );
    }
}
