//! ports.

use serde_json::json;

use super::{ago, is};
use crate::engine::api::PortRow;
use crate::ui::list::{Column, Filter, List, TRUTH, is_named};

/// ports.
pub static PORTS: List<PortRow> = List {
    columns: &[
        Column::new("Port", "PORT", "port", |r, _| r.port.to_string()),
        Column::new("Inside", "INSIDE", "inside", |r, _| r.inside.clone()),
        Column::new("Name", "NAME", "name", |r, _| r.name.to_string()),
        Column::new("Since", "SINCE", "since", |r, v| ago(r.since, v)),
        Column::new("Status", "STATUS", "listening", |r, _| {
            if r.listening { "listening" } else { "-" }.to_owned()
        }),
    ],
    filters: &[
        Filter::new("port", "Its number", |r, v| v.parse() == Ok(r.port)),
        Filter::new("name", "Part of the container's name, or ^NAME$", |r, v| {
            is_named(r.name.as_str(), v)
        }),
        Filter::new("inside", "What is behind it: 22, 22/tcp", |r, v| {
            r.inside == v || r.inside.split('/').next() == Some(v)
        }),
        Filter::new("listening", "true, false", |r: &PortRow, v| is(r.listening, v)).only(TRUTH),
    ],
    name: |r, _| Some(r.port.to_string()),
    object: |r| {
        let PortRow { port, inside, name, since, listening } = r;
        json!({"port": port, "inside": inside, "name": name, "since": since, "listening": listening})
    },
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::list::View;
    use crate::ui::screen::Screen;
    use gpuctl_ledger::model::{ContainerName, Timestamp};

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
        let view = |format: &str| View {
            format: format.parse().unwrap(),
            quiet: false,
            whole: false,
            now: Timestamp::from_millis(120_000),
            screen: Screen::default(),
        };
        assert_eq!(
            PORTS.show(&rows, &view("table")).unwrap(),
            "PORT    INSIDE   NAME    SINCE           STATUS\n\
             20001   22/tcp   train   2 minutes ago   listening\n\
             20002   22/tcp   train   2 minutes ago   -\n"
        );
        let quiet = View { quiet: true, ..view("json") };
        assert_eq!(PORTS.show(&rows, &quiet).unwrap(), "20001\n20002\n");
        let json = PORTS.show(&rows, &view("json")).unwrap();
        let first: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
        assert_eq!((&first["port"], &first["listening"]), (&json!(20001), &json!(true)));
        let kept = PORTS.filter(rows.to_vec(), &["listening=false".into()]).unwrap();
        assert_eq!(kept[0].port, 20002);
    }
}
