//! The value of `--format`.

use super::template::Template;

/// How rows are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One object a line.
    Json,
    /// As the user says. Read once, and needed until the program ends.
    Template(&'static Template),
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "" | "table" => Self::Table,
            "json" => Self::Json,
            _ => Self::Template(Box::leak(Box::new(Template::parse(text)?))),
        })
    }
}

/// For the commands that print no list: these two only.
impl clap::ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Table, Self::Json]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        match self {
            Self::Table => Some(clap::builder::PossibleValue::new("table").help("For people")),
            Self::Json => Some(clap::builder::PossibleValue::new("json").help("One object a line")),
            Self::Template(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_a_word_or_a_template() {
        assert_eq!("table".parse(), Ok(Format::Table));
        assert_eq!("json".parse(), Ok(Format::Json));
        assert!(matches!("{{.Name}}".parse(), Ok(Format::Template(_))));
        assert!("xml".parse::<Format>().is_err());
    }
}
