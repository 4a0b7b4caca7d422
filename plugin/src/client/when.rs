//! Points in time as `docker events --since` takes them: Unix time, RFC 3339 with or without a zone,
//! a date, or how long ago, as Go writes durations.

use gpuctl_ledger::model::Timestamp;

/// Reads a point in time; what has no zone is in ours.
///
/// # Errors
/// In words: what is wrong with it.
pub fn read(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let odd = || {
        format!(
            "{text:?} is no time: 10m and 1h30m are so long ago, 2026-11-22T10:00:00 and 1763805600 are \
             points in time"
        )
    };
    if let Some(millis) = seconds(text) {
        return Ok(Timestamp::from_millis(millis));
    }
    if let Some(ago) = duration(text) {
        return Ok(Timestamp::from_millis(now.millis().saturating_sub(ago)));
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let here = jiff::tz::TimeZone::system();
    let local = text
        .parse::<jiff::civil::DateTime>()
        .or_else(|_| text.parse::<jiff::civil::Date>().map(|date| date.at(0, 0, 0, 0)));
    let zoned = local.map_err(|_| odd())?.to_zoned(here).map_err(|_| odd())?;
    Ok(Timestamp::from_millis(zoned.timestamp().as_millisecond()))
}

/// Seconds since 1970, with a fraction or without, in milliseconds.
fn seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let thousandths: String = fraction.chars().chain("000".chars()).take(3).collect();
    whole.parse::<i64>().ok()?.checked_mul(1000)?.checked_add(thousandths.parse().ok()?)
}

/// How long: `30d`, `2w`, or as Go writes it; in milliseconds.
pub fn age(text: &str) -> Option<u64> {
    let days = |text: &str| text.parse::<u32>().ok().map(|n| u64::from(n) * 86_400_000);
    let whole = match (text.strip_suffix('d'), text.strip_suffix('w')) {
        (Some(number), _) => days(number),
        (_, Some(number)) => days(number).map(|millis| millis * 7),
        _ => None,
    };
    whole.or_else(|| u64::try_from(duration(text).filter(|_| !text.is_empty())?).ok())
}

/// `1h30m`, `10m`, `1.5s`, `500ms`: in milliseconds.
fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut millis = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().ok()?;
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        millis += number
            * match unit {
                "h" => 3_600_000.0,
                "m" => 60_000.0,
                "s" => 1000.0,
                "ms" => 1.0,
                "us" | "\u{b5}s" | "\u{3bc}s" => 0.001,
                "ns" => 0.000_001,
                _ => return None,
            };
        rest = after;
    }
    // Beyond what an f64 counts exactly there is no point in time that anybody means.
    let fits = !text.is_empty() && millis.is_finite() && millis < 9e15;
    #[allow(clippy::cast_possible_truncation, reason = "it was just seen to fit")]
    fits.then_some(millis as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_may_be_in_days_and_weeks() {
        for (text, millis) in [
            ("30d", 2_592_000_000),
            ("2w", 1_209_600_000),
            ("12h", 43_200_000),
            ("1h30m", 5_400_000),
            ("0d", 0),
        ] {
            assert_eq!(age(text), Some(millis), "{text}");
        }
        for wrong in ["", "d", "30", "-1d", "1.5d", "3x"] {
            assert_eq!(age(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_are_read_as_docker_reads_them() {
        let now = Timestamp::from_millis(10_000_000);
        let read = |text: &str| read(text, now).map(Timestamp::millis);
        assert_eq!(read("1763805600"), Ok(1_763_805_600_000));
        assert_eq!(read("1763805600.25"), Ok(1_763_805_600_250));
        assert_eq!(read("1763805600.123456789"), Ok(1_763_805_600_123));
        assert_eq!(read("0s"), Ok(10_000_000));
        assert_eq!(read("1h30m"), Ok(10_000_000 - 5_400_000));
        assert_eq!(read("1.5s"), Ok(9_998_500));
        assert_eq!(read("500ms"), Ok(9_999_500));
        assert_eq!(read("2026-11-22T00:51:52.294Z"), Ok(1_795_308_712_294));
        assert_eq!(read("2026-11-22T01:51:52.294+01:00"), Ok(1_795_308_712_294));
        let local = read("2026-11-22T00:51:52").unwrap() - read("2026-11-22").unwrap();
        assert_eq!(local, 3_112_000);
        for wrong in ["", "soon", "10", "10x", "m", "-5m", "2026-13-01", "1e3", "1..2", "1h2"] {
            let got = read(wrong);
            // A bare number is Unix time, as in Docker.
            assert!(got.is_err() || wrong == "10", "{wrong}: {got:?}");
        }
    }
}
