//! What ports shows.

use gpuctl_ledger::model::Timestamp;
use serde_json::json;

use super::{Format, Table, ago};
use crate::engine::api::PortRow;

/// ports.
pub fn ports(rows: &[PortRow], format: Format, quiet: bool, now: Timestamp) -> String {
    if quiet {
        return rows.iter().map(|r| format!("{}\n", r.port)).collect();
    }
    if format == Format::Json {
        let object = |r: &PortRow| {
            let PortRow { port, inside, name, since, listening } = r;
            json!({
                "port": port, "inside": inside, "name": name, "since": since, "listening": listening,
            })
        };
        return rows.iter().map(|r| object(r).to_string() + "\n").collect();
    }
    let mut table = Table::new(&["PORT", "INSIDE", "NAME", "SINCE", "STATUS"]);
    for r in rows {
        table.row(vec![
            r.port.to_string(),
            r.inside.clone(),
            r.name.to_string(),
            ago(r.since, now),
            if r.listening { "listening" } else { "-" }.to_owned(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpuctl_ledger::model::ContainerName;

    #[test]
    fn ports_read_as_a_table_as_objects_and_as_numbers() {
        let row = |port, listening| PortRow {
            port,
            inside: "22/tcp".into(),
            name: ContainerName::new("train").unwrap(),
            since: Timestamp::from_millis(0),
            listening,
        };
        let rows = [row(20001, true), row(20002, false)];
        let now = Timestamp::from_millis(120_000);
        assert_eq!(
            ports(&rows, Format::Table, false, now),
            "PORT    INSIDE   NAME    SINCE           STATUS\n\
             20001   22/tcp   train   2 minutes ago   listening\n\
             20002   22/tcp   train   2 minutes ago   -\n"
        );
        assert_eq!(ports(&rows, Format::Json, true, now), "20001\n20002\n");
        let json = ports(&rows, Format::Json, false, now);
        let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!((&first["port"], &first["listening"]), (&json!(20001), &json!(true)));
    }
}
