//! Sizes and times in words.

use gpuctl_ledger::model::Timestamp;

/// Bytes as nvidia-smi shows memory: `1234MiB`.
pub fn mebibytes(bytes: u64) -> String {
    format!("{}MiB", bytes >> 20)
}

/// How long ago something was, in Docker's words: `5 minutes ago`.
pub fn ago(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.millis_since(then) / 1000;
    let minutes = seconds / 60;
    let hours = minutes / 60;
    let some = |n: u64, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let span = match hours {
        _ if seconds < 1 => "Less than a second".to_owned(),
        _ if seconds < 60 => some(seconds, "second"),
        _ if minutes < 2 => "About a minute".to_owned(),
        _ if minutes < 60 => some(minutes, "minute"),
        1 => "About an hour".to_owned(),
        2..48 => some(hours, "hour"),
        48..336 => some(hours / 24, "day"),
        336..1440 => some(hours / 24 / 7, "week"),
        1440..17520 => some(hours / 24 / 30, "month"),
        _ => some(hours / 24 / 365, "year"),
    };
    format!("{span} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_in_docker() {
        let at =
            |seconds: i64| ago(Timestamp::from_millis(0), Timestamp::from_millis(seconds * 1000));
        assert_eq!(at(0), "Less than a second ago");
        assert_eq!(at(1), "1 second ago");
        assert_eq!(at(59), "59 seconds ago");
        assert_eq!(at(61), "About a minute ago");
        assert_eq!(at(300), "5 minutes ago");
        assert_eq!(at(3700), "About an hour ago");
        assert_eq!(at(47 * 3600), "47 hours ago");
        assert_eq!(at(49 * 3600), "2 days ago");
        assert_eq!(at(20 * 86400), "2 weeks ago");
        assert_eq!(at(100 * 86400), "3 months ago");
        assert_eq!(at(800 * 86400), "2 years ago");
        // A clock set back.
        assert_eq!(at(-5), "Less than a second ago");
    }

    #[test]
    fn memory_is_in_whole_mebibytes() {
        assert_eq!(mebibytes(80 << 30), "81920MiB");
        assert_eq!(mebibytes(0), "0MiB");
    }
}
