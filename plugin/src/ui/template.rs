//! Templates of `--format`: the part of Go's templates that lists need. See docs/json.md and
//! docs/adr/0018.
//!
//! ```text
//! {{.Name}}   {{.A.B}}   {{json .}}   {{json .GPUs}}   {{upper .Name}}   {{.Name | upper}}   {{"\t"}}
//! {{join .Held ","}}   {{truncate .ID 12}}   {{println .Name}}
//! ```

use serde_json::Value;

/// A template, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// It began with `table`: columns with a header.
    pub table: bool,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Value { of: Operand, through: Vec<Function> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operand {
    /// `.A.B`; none: `.`.
    Path(Vec<String>),
    Text(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Function {
    Json,
    Upper,
    Lower,
    Join(String),
    Truncate(usize),
    Line,
}

/// Where a template's fields come from.
pub trait Fields {
    /// The value of a path; `None` where there is no such field.
    fn value(&self, path: &[String]) -> Option<Value>;
    /// The same as JSON has it.
    fn object(&self, path: &[String]) -> Option<Value>;
}

/// Of an object: its own keys.
impl Fields for Value {
    fn value(&self, path: &[String]) -> Option<Value> {
        path.iter()
            .try_fold(self, |value, key| value.get(key).or_else(|| small(value, key)))
            .cloned()
    }
    fn object(&self, path: &[String]) -> Option<Value> {
        self.value(path)
    }
}

/// A field by its name with a capital, as Docker's templates have them, where the object's own has none.
fn small<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    let mut letters = key.chars();
    let first = letters.next()?.to_lowercase();
    value.get(first.chain(letters).collect::<String>())
}

/// A word of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Word {
    Path(Vec<String>),
    Text(String),
    Number(usize),
    Name(String),
    Pipe,
}

impl Template {
    /// Reads one.
    ///
    /// # Errors
    /// What of it is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (table, text) = match text.strip_prefix("table") {
            Some(rest) if rest.starts_with([' ', '{']) => (true, rest.trim_start_matches(' ')),
            _ => (false, text),
        };
        let plain = |text: &str| Part::Text(text.replace("\\t", "\t").replace("\\n", "\n"));
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            if !before.is_empty() {
                parts.push(plain(before));
            }
            let end = end_of(after).ok_or_else(|| "a {{ has no }}".to_owned())?;
            let (inner, tail) = after.split_at(end);
            parts.push(action(inner)?);
            rest = tail.strip_prefix("}}").unwrap_or(tail);
        }
        if !rest.is_empty() {
            parts.push(plain(rest));
        }
        if !parts.iter().any(|part| matches!(part, Part::Value { .. })) {
            return Err(
                "it is neither table nor json, nor a template with a field as {{.Name}}".into()
            );
        }
        Ok(Self { table, parts })
    }

    /// The fields that it names, in order.
    pub fn fields(&self) -> impl Iterator<Item = &[String]> {
        self.parts.iter().filter_map(|part| match part {
            Part::Value { of: Operand::Path(path), .. } => Some(path.as_slice()),
            _ => None,
        })
    }

    /// The text for one row.
    ///
    /// # Errors
    /// Where a field is not there.
    pub fn render(&self, row: &dyn Fields) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Value { of: Operand::Text(plain), through } => {
                    text.push_str(&applied(Value::String(plain.clone()), None, through));
                }
                Part::Value { of: Operand::Path(path), through } => {
                    let missing = || format!("there is no field .{}", path.join("."));
                    let value = row.value(path).ok_or_else(missing)?;
                    text.push_str(&applied(value, row.object(path), through));
                }
            }
        }
        Ok(text)
    }

    /// The header of a table: each field by what it is called there.
    pub fn header(&self, called: impl Fn(&[String]) -> String) -> String {
        let part = |part: &Part| match part {
            Part::Text(plain) => plain.clone(),
            Part::Value { of: Operand::Text(plain), .. } => plain.clone(),
            Part::Value { of: Operand::Path(path), .. } => called(path),
        };
        self.parts.iter().map(part).collect()
    }
}

/// Where the action ends: `}}` outside of quotes.
fn end_of(text: &str) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if std::mem::take(&mut escaped) => {}
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted && text.get(at..).is_some_and(|t| t.starts_with("}}")) => {
                return Some(at);
            }
            _ => {}
        }
    }
    None
}

/// `.Name`, `json .Name`, `.Name | upper | json`.
fn action(text: &str) -> Result<Part, String> {
    let words = words(text)?;
    let mut steps = words.split(|word| *word == Word::Pipe);
    let not = || format!("{{{{{text}}}}} is not understood here; docs/json.md lists what is");
    let first = steps.next().unwrap_or_default();
    let (of, mut through) = match first {
        [Word::Path(path)] => (Operand::Path(path.clone()), Vec::new()),
        [Word::Text(plain)] => (Operand::Text(plain.clone()), Vec::new()),
        [Word::Name(name), rest @ ..] => {
            // Docker writes `join .X ","` and `truncate .X 12`.
            let (operand, arguments): (Vec<&Word>, Vec<&Word>) =
                rest.iter().partition(|word| matches!(word, Word::Path(_)));
            let of = match (operand.as_slice(), rest.first()) {
                ([Word::Path(path)], _) => Operand::Path(path.clone()),
                ([], Some(Word::Text(plain))) if arguments.len() == 1 => {
                    return Ok(Part::Value {
                        of: Operand::Text(plain.clone()),
                        through: vec![function(name, &[]).ok_or_else(not)?],
                    });
                }
                _ => return Err(not()),
            };
            (of, vec![function(name, &arguments).ok_or_else(not)?])
        }
        _ => return Err(not()),
    };
    for step in steps {
        let [Word::Name(name), arguments @ ..] = step else { return Err(not()) };
        let arguments: Vec<&Word> = arguments.iter().collect();
        through.push(function(name, &arguments).ok_or_else(not)?);
    }
    Ok(Part::Value { of, through })
}

fn function(name: &str, arguments: &[&Word]) -> Option<Function> {
    Some(match (name, arguments) {
        ("json", []) => Function::Json,
        ("upper", []) => Function::Upper,
        ("lower", []) => Function::Lower,
        ("println", []) => Function::Line,
        ("join", [Word::Text(between)]) => Function::Join(between.clone()),
        ("truncate", [Word::Number(length)]) => Function::Truncate(*length),
        _ => return None,
    })
}

fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => quoted_end(rest)
                .ok_or_else(|| format!("a quote in {{{{{text}}}}} is not closed"))?,
            '|' => 1,
            _ => rest.find([' ', '|']).unwrap_or(rest.len()),
        };
        let (word, tail) = rest.split_at(end);
        words.push(match first {
            '|' => Word::Pipe,
            '"' => {
                Word::Text(serde_json::from_str(word).map_err(|_| format!("{word} is no text"))?)
            }
            '.' => {
                let path = word.get(1..).unwrap_or_default();
                let path: Vec<String> =
                    path.split('.').filter(|_| !path.is_empty()).map(str::to_owned).collect();
                if path.iter().any(String::is_empty) {
                    return Err(format!("{word} is no field"));
                }
                Word::Path(path)
            }
            '0'..='9' => Word::Number(word.parse().map_err(|_| format!("{word} is no number"))?),
            _ => Word::Name(word.to_owned()),
        });
        rest = tail.trim_start();
    }
    Ok(words)
}

fn quoted_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if std::mem::take(&mut escaped) => {}
            '\\' => escaped = true,
            '"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// As Go prints a value.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        Value::Array(list) => format!("[{}]", list.iter().map(plain).collect::<Vec<_>>().join(" ")),
        other => other.to_string(),
    }
}

fn applied(value: Value, object: Option<Value>, through: &[Function]) -> String {
    let (mut value, mut object) = (value, object);
    for function in through {
        let text = plain(&value);
        value = Value::String(match function {
            Function::Json => object.take().unwrap_or(value).to_string(),
            Function::Upper => text.to_uppercase(),
            Function::Lower => text.to_lowercase(),
            Function::Line => format!("{text}\n"),
            Function::Truncate(length) => text.chars().take(*length).collect(),
            Function::Join(between) => match object.take().unwrap_or(value) {
                Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(between),
                other => plain(&other),
            },
        });
        // What was made of it is no longer the object.
        object = None;
    }
    plain(&value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row() -> Value {
        json!({"Name": "train", "GPUs": [0, 3], "State": {"Running": true, "Pid": 7}, "Nothing": null})
    }

    fn shown(template: &str) -> String {
        Template::parse(template).expect(template).render(&row()).expect(template)
    }

    #[test]
    fn fields_functions_and_pipes_are_those_of_docker() {
        assert_eq!(shown("{{.Name}}"), "train");
        assert_eq!(shown("{{ .Name }}: {{.State.Running}}/{{.State.Pid}}"), "train: true/7");
        assert_eq!(shown("{{json .GPUs}} {{.GPUs}}"), "[0,3] [0 3]");
        assert_eq!(shown("{{json .State}}"), r#"{"Pid":7,"Running":true}"#);
        assert!(shown("{{json .}}").starts_with('{'));
        assert_eq!(shown("{{upper .Name}} {{.Name | upper | lower}}"), "TRAIN train");
        assert_eq!(shown(r#"{{join .GPUs ","}}"#), "0,3");
        assert_eq!(shown("{{truncate .Name 2}}|{{.Name | truncate 3}}"), "tr|tra");
        assert_eq!(shown(r#"{{.Name}}{{"\t"}}x\ty\n"#), "train\tx\ty\n");
        assert_eq!(shown(r#"{{"}}"}}{{.Name}}"#), "}}train");
        assert_eq!(shown("{{println .Name}}"), "train\n");
        assert_eq!(shown("{{.Nothing}}"), "<nil>");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for wrong in [
            "xml",
            "",
            "table",
            "{{.Name",
            "{{if .Name}}x{{end}}",
            "{{range .GPUs}}{{.}}{{end}}",
            "{{.Name | nothing}}",
            "{{json}}",
            "{{join .GPUs}}",
            "{{..Name}}",
            r#"{{"x}}"#,
            "{{}}",
        ] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
        let missing = Template::parse("{{.Nope}}").unwrap().render(&row()).unwrap_err();
        assert_eq!(missing, "there is no field .Nope");
        let render = |text: &str, value: Value| Template::parse(text).unwrap().render(&value);
        let small = serde_json::json!({"gpuctl": "0.1.0", "b": {"c": 1}});
        assert_eq!(render("{{.Gpuctl}} {{.gpuctl}} {{.B.C}}", small).unwrap(), "0.1.0 0.1.0 1");
    }

    #[test]
    fn a_table_has_a_header_of_its_fields() {
        let template = Template::parse(r"table {{.Name}}\t{{upper .GPUs}}").unwrap();
        assert!(template.table);
        assert_eq!(template.header(|path| path.join("/").to_uppercase()), "NAME\tGPUS");
        assert_eq!(template.fields().count(), 2);
        assert!(!Template::parse("tables {{.Name}}").unwrap().table);
    }
}
