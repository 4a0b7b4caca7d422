//! What the output goes to: how wide it is, and whether it shows colours.

use std::io::IsTerminal as _;

/// Narrower than this nothing can be read; wider lines break there.
const NARROWEST: usize = 40;

/// See the module. Of a file or a pipe: as wide as need be, and without colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Screen {
    /// In columns; `None` where it is no terminal.
    pub width: Option<usize>,
    /// Whether it shows colours.
    pub colour: bool,
}

impl Screen {
    /// Of stdout.
    pub fn stdout() -> Self {
        let out = std::io::stdout();
        if !out.is_terminal() {
            return Self::default();
        }
        let width = rustix::termios::tcgetwinsize(&out).ok().map(|size| usize::from(size.ws_col));
        let width = width.filter(|width| *width > 0).unwrap_or(80).max(NARROWEST);
        Self { width: Some(width), colour: colour() }
    }

    /// Whether stderr shows colours.
    pub fn stderr_colour() -> bool {
        std::io::stderr().is_terminal() && colour()
    }
}

/// Whether the user wants colours: <https://no-color.org>.
fn colour() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    wants_colour(set("NO_COLOR").is_some(), is_dumb())
}

/// Whether the terminal knows no more than lines: `TERM=dumb`.
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

fn wants_colour(no_color: bool, dumb: bool) -> bool {
    !no_color && !dumb
}

/// A colour that stands for something; the text says it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tint {
    /// As it should be.
    Good,
    /// Works, but.
    Doubtful,
    /// Does not work.
    Bad,
    /// Of less weight.
    Faint,
}

impl Tint {
    /// The text in this colour, where colours are shown.
    pub fn paint(self, text: &str, colour: bool) -> String {
        let code = match self {
            Self::Good => "32",
            Self::Doubtful => "33",
            Self::Bad => "31",
            Self::Faint => "2",
        };
        if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_those_who_want_them() {
        assert!(wants_colour(false, false));
        assert!(!wants_colour(true, false) && !wants_colour(false, true));
        assert_eq!(Tint::Bad.paint("x", false), "x");
        assert_eq!(Tint::Bad.paint("x", true), "\u{1b}[31mx\u{1b}[0m");
        // What tests print to is no terminal.
        if !std::io::stdout().is_terminal() {
            assert_eq!(Screen::stdout(), Screen::default());
        }
    }
}
