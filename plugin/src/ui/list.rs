//! Lists: one way for every command that prints one to filter it, and to show it as a table, as
//! objects, by a template, or as names only.

use gpuctl_ledger::model::Timestamp;
use serde_json::Value;

use super::Format;
use super::screen::{Screen, Tint};
use super::table::{Table, visible};
use super::template::{Fields, Template};

/// How a list is to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// `--format`.
    pub format: Format,
    /// `-q`: names only.
    pub quiet: bool,
    /// `--no-trunc`.
    pub whole: bool,
    /// Now, for what was a while ago.
    pub now: Timestamp,
    /// Where to.
    pub screen: Screen,
}

impl View {
    /// On stdout, now.
    pub fn stdout(format: Format, quiet: bool, whole: bool) -> Self {
        Self { format, quiet, whole, now: Timestamp::now(), screen: Screen::stdout() }
    }
}

/// A column of a list of `R`.
pub struct Column<R: 'static> {
    /// Its name in templates: `Name`.
    pub field: &'static str,
    /// Its name in tables: `NAME`.
    pub header: &'static str,
    /// The key of the same in JSON; empty where there is none.
    pub key: &'static str,
    /// Its text.
    pub cell: fn(&R, &View) -> String,
    /// Its colour.
    pub tint: fn(&R) -> Option<Tint>,
    /// Whether it stands in the table where no template says otherwise.
    pub shown: bool,
    /// Whether a screen that is too narrow cuts it.
    pub cut: Cut,
    /// Its text there, where that is shorter.
    pub short: Option<fn(&R) -> String>,
}

/// Whether a screen that is too narrow cuts a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// What is to be typed must be whole.
    Never,
    /// Before others.
    First,
    /// When cutting others is not enough.
    Last,
    /// It leaves the table: another column says the same.
    Goes,
}

impl<R> Column<R> {
    /// One of the table's.
    pub const fn new(
        field: &'static str,
        header: &'static str,
        key: &'static str,
        cell: fn(&R, &View) -> String,
    ) -> Self {
        Self { field, header, key, cell, tint: |_| None, shown: true, cut: Cut::Never, short: None }
    }

    /// Only in templates.
    #[must_use]
    pub const fn hidden(mut self) -> Self {
        self.shown = false;
        self
    }

    /// May be cut.
    #[must_use]
    pub const fn may_cut(mut self) -> Self {
        self.cut = Cut::First;
        self
    }

    /// May be cut when nothing else can.
    #[must_use]
    pub const fn may_cut_last(mut self) -> Self {
        self.cut = Cut::Last;
        self
    }

    /// Leaves the table of a screen that is too narrow.
    #[must_use]
    pub const fn may_go(mut self) -> Self {
        self.cut = Cut::Goes;
        self
    }

    /// Its text on a screen that is too narrow.
    #[must_use]
    pub const fn shorter(mut self, short: fn(&R) -> String) -> Self {
        self.short = Some(short);
        self
    }

    /// In colour.
    #[must_use]
    pub const fn tinted(mut self, tint: fn(&R) -> Option<Tint>) -> Self {
        self.tint = tint;
        self
    }
}

/// A filter of a list of `R`.
pub struct Filter<R: 'static> {
    /// `name` of `name=train`.
    pub key: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Whether a row is meant by a value.
    pub matches: fn(&R, &str) -> bool,
    /// What values there are; empty: any.
    pub values: &'static [&'static str],
}

/// Whether a name is meant by a filter, as Docker's reads it in what is mostly typed: part of it, or with `^`
/// and `$` its beginning, its end, or all of it.
pub(super) fn is_named(name: &str, wanted: &str) -> bool {
    let (begins, wanted) = match wanted.strip_prefix('^') {
        // The Engine's names begin so.
        Some(rest) => (true, rest.strip_prefix('/').unwrap_or(rest)),
        None => (false, wanted),
    };
    let (ends, wanted) = match wanted.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, wanted),
    };
    match (begins, ends) {
        (false, false) => name.contains(wanted),
        (true, false) => name.starts_with(wanted),
        (false, true) => name.ends_with(wanted),
        (true, true) => name == wanted,
    }
}

/// The values of a filter that asks whether something is so.
pub(super) const TRUTH: &[&str] = &["true", "false", "1", "0"];

impl<R> Filter<R> {
    /// One that takes any text.
    pub const fn new(
        key: &'static str,
        about: &'static str,
        matches: fn(&R, &str) -> bool,
    ) -> Self {
        Self { key, about, matches, values: &[] }
    }

    /// Only these.
    #[must_use]
    pub const fn only(mut self, values: &'static [&'static str]) -> Self {
        self.values = values;
        self
    }
}

/// A list of `R`.
pub struct List<R: 'static> {
    /// Its columns, in order.
    pub columns: &'static [Column<R>],
    /// Its filters.
    pub filters: &'static [Filter<R>],
    /// What `-q` shows of a row; `None`: nothing of this one.
    pub name: fn(&R, &View) -> Option<String>,
    /// A row in JSON.
    pub object: fn(&R) -> Value,
}

/// A row behind a template.
struct Row<'a, R: 'static> {
    list: &'a List<R>,
    row: &'a R,
    view: &'a View,
}

impl<R> Fields for Row<'_, R> {
    fn value(&self, path: &[String]) -> Option<Value> {
        let [first, rest @ ..] = path else { return Some((self.list.object)(self.row)) };
        let column = self.list.column(first)?;
        match rest {
            [] => Some(Value::String((column.cell)(self.row, self.view))),
            _ => rest.iter().try_fold(self.object(std::slice::from_ref(first))?, |value, key| {
                value.get(key).cloned()
            }),
        }
    }

    fn object(&self, path: &[String]) -> Option<Value> {
        let [first, ..] = path else { return Some((self.list.object)(self.row)) };
        let column = self.list.column(first)?;
        let object = (self.list.object)(self.row);
        let own = object.get(column.key).cloned();
        own.or_else(|| Some(Value::String((column.cell)(self.row, self.view))))
    }
}

impl<R> List<R> {
    fn column(&self, field: &str) -> Option<&Column<R>> {
        self.columns.iter().find(|column| column.field == field)
    }

    /// Keeps the rows that are meant: by every key, and by any of the values of a key.
    ///
    /// # Errors
    /// Which filter is not known, or has no value, or one that there is not.
    pub fn filter(&self, rows: Vec<R>, wanted: &[String]) -> Result<Vec<R>, String> {
        let mut asked: Vec<(&Filter<R>, Vec<&str>)> = Vec::new();
        for filter in wanted {
            let (key, value) = filter.split_once('=').unwrap_or((filter, ""));
            let found = self.filters.iter().find(|f| f.key == key).ok_or_else(|| {
                let known: Vec<&str> = self.filters.iter().map(|f| f.key).collect();
                format!("--filter knows no {key:?}, only {}", known.join(", "))
            })?;
            if !found.values.is_empty() && !found.values.contains(&value) {
                let known = found.values.join(", ");
                return Err(format!("--filter {key} knows no {value:?}, only {known}"));
            }
            match asked.iter_mut().find(|(filter, _)| filter.key == key) {
                Some((_, values)) => values.push(value),
                None => asked.push((found, vec![value])),
            }
        }
        let meant = |row: &R| {
            asked.iter().all(|(filter, values)| values.iter().any(|v| (filter.matches)(row, v)))
        };
        Ok(rows.into_iter().filter(|row| meant(row)).collect())
    }

    /// The text of a list.
    ///
    /// # Errors
    /// Which field of a template there is not, and which there are.
    pub fn show(&self, rows: &[R], view: &View) -> Result<String, String> {
        if view.quiet {
            let names = rows.iter().filter_map(|row| (self.name)(row, view));
            return Ok(names.map(|name| visible(&name) + "\n").collect());
        }
        match view.format {
            Format::Json => Ok(rows.iter().map(|r| (self.object)(r).to_string() + "\n").collect()),
            Format::Table => Ok(self.table(rows, view)),
            Format::Template(template) => self.by_template(rows, view, template),
        }
    }

    fn table(&self, rows: &[R], view: &View) -> String {
        let wide = self.laid_out(rows, view, false);
        let fits = view.whole || view.screen.width.is_none_or(|width| wide.width() <= width);
        let table = if fits { wide } else { self.laid_out(rows, view, true) };
        table.render(view.screen)
    }

    /// The table, or what it is where the screen is too narrow for that.
    fn laid_out(&self, rows: &[R], view: &View, narrow: bool) -> Table {
        let stays = |c: &&Column<R>| c.shown && !(narrow && c.cut == Cut::Goes);
        let columns: Vec<&Column<R>> = self.columns.iter().filter(stays).collect();
        let cell = |column: &Column<R>, row: &R| match column.short.filter(|_| narrow) {
            Some(short) => short(row),
            None => (column.cell)(row, view),
        };
        let header: Vec<&str> = columns.iter().map(|c| c.header).collect();
        let mut table = Table::new(&header);
        for (at, column) in columns.iter().enumerate() {
            match column.cut {
                _ if view.whole => {}
                Cut::Never | Cut::Goes => {}
                Cut::First => table.may_cut(at),
                Cut::Last => table.may_cut_last(at),
            }
        }
        for row in rows {
            table.row(columns.iter().map(|column| cell(column, row)).collect());
            for (at, column) in columns.iter().enumerate() {
                if let Some(tint) = (column.tint)(row) {
                    table.tint(at, tint);
                }
            }
        }
        table
    }

    fn by_template(&self, rows: &[R], view: &View, template: &Template) -> Result<String, String> {
        for path in template.fields() {
            if let Some(first) = path.first().filter(|first| self.column(first).is_none()) {
                let known: Vec<String> =
                    self.columns.iter().map(|c| format!(".{}", c.field)).collect();
                return Err(format!("there is no field .{first}, only {}", known.join(", ")));
            }
        }
        let rendered = rows.iter().map(|row| template.render(&Row { list: self, row, view }));
        let lines = rendered.collect::<Result<Vec<String>, String>>()?;
        if !template.table {
            return Ok(lines.iter().map(|line| text(line) + "\n").collect());
        }
        let called = |path: &[String]| {
            let column = path.first().and_then(|first| self.column(first));
            column.map(|column| column.header.to_owned()).unwrap_or_default()
        };
        let header = template.header(called);
        let mut table = Table::new(&header.split('\t').collect::<Vec<_>>());
        for line in &lines {
            table.row(line.split('\t').map(str::to_owned).collect());
        }
        Ok(table.render(view.screen))
    }
}

/// What the user's own template makes may have tabs and lines of its own; nothing else steers a terminal.
fn text(line: &str) -> String {
    let lines: Vec<String> = line
        .split('\n')
        .map(|line| line.split('\t').map(visible).collect::<Vec<_>>().join("\t"))
        .collect();
    lines.join("\n")
}

/// For an object or a few that are no list: `{{.Field}}` of their own keys.
///
/// # Errors
/// Which field there is not.
pub(super) fn objects(values: &[Value], template: &Template) -> Result<String, String> {
    values.iter().map(|value| Ok(text(&template.render(value)?) + "\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct One(&'static str, u32);

    static LIST: List<One> = List {
        columns: &[
            Column::new("Name", "NAME", "name", |r, _| r.0.to_owned()),
            Column::new("Number", "NUMBER", "number", |r, _| format!("#{}", r.1)),
            Column::new("Secret", "SECRET", "", |_, _| "s".to_owned()).hidden(),
        ],
        filters: &[
            Filter::new("name", "", |r, v| r.0 == v),
            Filter::new("number", "", |r: &One, v| v.parse() == Ok(r.1)).only(&["1", "2"]),
        ],
        name: |r, _| Some(r.0.to_owned()),
        object: |r| json!({"name": r.0, "number": r.1}),
    };

    fn view(format: &str) -> View {
        let screen = Screen::default();
        let format = format.parse().unwrap();
        View { format, quiet: false, whole: false, now: Timestamp::EPOCH, screen }
    }

    fn rows() -> Vec<One> {
        vec![One("a", 1), One("b", 2), One("a", 2)]
    }

    fn shown(format: &str) -> String {
        LIST.show(&rows()[..2], &view(format)).unwrap()
    }

    #[test]
    fn a_list_is_a_table_objects_a_template_or_names() {
        assert_eq!(shown("table"), "NAME   NUMBER\na      #1\nb      #2\n");
        assert_eq!(shown("json"), "{\"name\":\"a\",\"number\":1}\n{\"name\":\"b\",\"number\":2}\n");
        assert_eq!(shown("{{.Name}}: {{.Secret}}"), "a: s\nb: s\n");
        assert_eq!(shown("{{json .Number}}{{json .Secret}}"), "1\"s\"\n2\"s\"\n");
        assert_eq!(
            shown("table {{.Number}}\\t{{.Name}}"),
            "NUMBER   NAME\n#1       a\n#2       b\n"
        );
        let quiet = View { quiet: true, ..view("json") };
        assert_eq!(LIST.show(&rows(), &quiet).unwrap(), "a\nb\na\n");
        // Wrong also where there are no rows.
        let wrong = LIST.show(&[], &view("{{.Nope}}")).unwrap_err();
        assert_eq!(wrong, "there is no field .Nope, only .Name, .Number, .Secret");
    }

    #[test]
    fn a_screen_that_is_too_narrow_has_shorter_texts_and_fewer_columns() {
        static NARROWS: List<One> = List {
            columns: &[
                Column::new("Name", "NAME", "", |r: &One, _| format!("MAKER {}", r.0))
                    .shorter(|r| r.0.to_owned()),
                Column::new("Id", "ID", "", |_, _| "0123456789".to_owned()).may_go(),
                Column::new("Number", "NUMBER", "", |r, _| r.1.to_string()),
            ],
            filters: &[],
            name: |_, _| None,
            object: |_| json!({}),
        };
        let at = |width, whole| {
            let screen = Screen { width, colour: false };
            NARROWS.show(&rows()[..1], &View { screen, whole, ..view("table") }).unwrap()
        };
        let all = "NAME      ID           NUMBER\nMAKER a   0123456789   1\n";
        assert_eq!(at(Some(29), false), all);
        assert_eq!(at(Some(28), false), "NAME   NUMBER\na      1\n");
        assert_eq!((at(None, false).as_str(), at(Some(20), true).as_str()), (all, all));
    }

    #[test]
    fn a_template_steers_no_terminal() {
        let text = LIST.show(&[One("x\u{1b}[2J", 1)], &view("{{.Name}}\\t{{.Number}}")).unwrap();
        assert_eq!(text, "x?[2J\t#1\n");
    }

    #[test]
    fn a_name_is_meant_by_a_part_or_by_where_it_begins_and_ends() {
        let meant = |wanted| ["train", "trainer", "retrain"].map(|name| is_named(name, wanted));
        assert_eq!(meant("train"), [true; 3]);
        assert_eq!(meant(""), [true; 3]);
        assert_eq!(meant("^train"), [true, true, false]);
        assert_eq!(meant("train$"), [true, false, true]);
        assert_eq!(meant("^train$"), [true, false, false]);
        assert_eq!(meant("^/train$"), [true, false, false]);
        assert_eq!(meant("/train"), [false; 3]);
    }

    #[test]
    fn filters_of_one_key_add_up_and_of_several_take_away() {
        let kept = |filters: &[&str]| {
            let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
            let kept = LIST.filter(rows(), &filters)?;
            Ok(kept.iter().map(|r| format!("{}{}", r.0, r.1)).collect::<Vec<_>>().join(" "))
        };
        let ok = |text: &str| Ok::<String, String>(text.into());
        assert_eq!(kept(&[]), ok("a1 b2 a2"));
        assert_eq!(kept(&["name=a"]), ok("a1 a2"));
        assert_eq!(kept(&["name=a", "name=b"]), ok("a1 b2 a2"));
        assert_eq!(kept(&["name=a", "number=2"]), ok("a2"));
        assert!(kept(&["colour=red"]).unwrap_err().contains("only name, number"));
        // A slip is no empty list.
        let wrong = kept(&["name=x", "number=two"]).unwrap_err();
        assert_eq!(wrong, "--filter number knows no \"two\", only 1, 2");
    }
}
