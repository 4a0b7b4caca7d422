//! A number of bytes, as a user writes it and as it is shown.

use serde::{Deserialize, Serialize};

use super::Invalid;

/// A number of bytes. KB is 1024 bytes, as in Docker's own options.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

/// The forms that are taken, for messages.
pub const SIZE_FORMS: &str = "20GB, 1.5TB, 500MiB, 1073741824";

/// Units and how often 1024 each is.
const UNITS: [(&str, u32); 14] = [
    ("", 0),
    ("b", 0),
    ("k", 1),
    ("kb", 1),
    ("kib", 1),
    ("m", 2),
    ("mb", 2),
    ("mib", 2),
    ("g", 3),
    ("gb", 3),
    ("gib", 3),
    ("t", 4),
    ("tb", 4),
    ("tib", 4),
];

/// Most digits of a number and of its fraction: more than any disk needs, few enough for 128 bits.
const MOST_DIGITS: usize = 18;

impl ByteSize {
    /// Reads `20GB`, `1.5 TiB`, `500m`, `1073741824`; a fraction of a byte is dropped.
    ///
    /// # Errors
    /// [`Invalid`], with the forms.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let wrong = |why: &str| Invalid::new("size", text, format!("{why}: {SIZE_FORMS}"));
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(end);
        let unit = unit.trim().to_ascii_lowercase();
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(fraction) || (number.contains('.') && fraction.is_empty()) {
            return Err(wrong("is no size; write it as one of these"));
        }
        let Some((_, power)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(wrong("has a unit that is not known; write it as one of these"));
        };
        if whole.len() > MOST_DIGITS || fraction.len() > MOST_DIGITS {
            return Err(wrong("is too large or too exact; write it as one of these"));
        }
        let factor = 1u128 << (10 * power);
        let number = |part: &str| part.parse::<u128>().unwrap_or_default();
        let divisor = 10u128.pow(u32::try_from(fraction.len()).unwrap_or_default());
        let bytes = number(whole) * factor + number(fraction) * factor / divisor;
        u64::try_from(bytes)
            .ok()
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .map(Self)
            .ok_or_else(|| wrong("is too large; write it as one of these"))
    }
}

impl std::str::FromStr for ByteSize {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        Self::parse(text)
    }
}

impl std::fmt::Display for ByteSize {
    /// `20GB`, `1.5GB`, `512MB`, `100B`: at most two digits behind the point, cut.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (unit, power) = match self.0 {
            0..=0x3ff => ("B", 0),
            0x400..=0xf_ffff => ("KB", 1),
            0x10_0000..=0x3fff_ffff => ("MB", 2),
            0x4000_0000..=0xff_ffff_ffff => ("GB", 3),
            _ => ("TB", 4),
        };
        let factor = 1u128 << (10 * power);
        let hundredths = u128::from(self.0) * 100 / factor;
        let (whole, rest) = (hundredths / 100, hundredths % 100);
        let text = match (rest, rest % 10) {
            (0, _) => format!("{whole}{unit}"),
            (_, 0) => format!("{whole}.{}{unit}", rest / 10),
            _ => format!("{whole}.{rest:02}{unit}"),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_in_any_case() {
        for (text, bytes) in [
            ("0", 0),
            ("1073741824", 1 << 30),
            ("1b", 1),
            ("20GB", 20 << 30),
            ("20gb", 20 << 30),
            ("20 GiB", 20 << 30),
            ("1.5Kb", 1536),
            ("0.5g", 1 << 29),
            ("512MiB", 512 << 20),
            ("1TB", 1 << 40),
            ("2t", 2 << 40),
            (" 1k ", 1024),
        ] {
            assert_eq!(ByteSize::parse(text), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_forms() {
        for text in [
            "",
            "G",
            "-1GB",
            "1.GB",
            ".5GB",
            "1.2.3GB",
            "1GBB",
            "1e3",
            "0x10",
            "1,5GB",
            "NaN",
            "99999999999999999999",
            "99999999999TB",
            "8388608TB",
            "1 G B",
            "\u{661}GB",
        ] {
            let why = ByteSize::parse(text).expect_err(text).to_string();
            assert!(why.contains("20GB"), "{why}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back_as_no_more() {
        for bytes in [0, 1, 1023, 1024, 1536, (1 << 20) - 1, 1 << 30, 3 << 29, (5 << 40) + 7] {
            let size = ByteSize(bytes);
            let back = ByteSize::parse(&size.to_string()).unwrap();
            assert!(back <= size && back.0 + bytes / 100 + 1 >= bytes, "{size}");
        }
        assert_eq!(ByteSize(1536).to_string(), "1.5KB");
        assert_eq!(ByteSize(20 << 30).to_string(), "20GB");
    }
}
