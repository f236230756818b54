//! Times, sizes and rates as people write them: `10s`, `500ms`, `256MiB`, `100MiB/s`.

use std::time::Duration;

const TIME_UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZE_UNITS: [(&str, u64); 10] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("kB", 1_000),
];

/// A time such as `500ms`, `10s`, `5min`. Whole numbers only; `0` needs no unit.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let expected = "expected a time such as \"500ms\", \"10s\", \"5min\" or \"1h\"";
    let milliseconds = parse_scaled(text, &TIME_UNITS).ok_or(expected)?;
    Ok(Duration::from_millis(milliseconds))
}

/// A number of bytes such as `4096`, `256MiB`, `1TiB`. `M` is `MiB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    if let Ok(bytes) = text.trim().parse::<u64>() {
        return Ok(bytes);
    }
    parse_scaled(text, &SIZE_UNITS).ok_or_else(|| "expected a size such as \"4096\", \"256MiB\" or \"1TiB\"".into())
}

/// Bytes per second such as `100MiB/s`; `none` is 0, which means no limit.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text == "none" {
        return Ok(0);
    }
    parse_size(text.strip_suffix("/s").unwrap_or(text))
        .map_err(|_| "expected a rate such as \"100MiB/s\", or \"none\"".into())
}

/// A size for people: three digits and a unit, such as `1.50 GiB`.
pub fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match (unit, value) {
        (0, _) => 0,
        (_, v) if v < 9.995 => 2,
        (_, v) if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A time for people: `0.25 s`, `2 s`, `12 s`, `3 min 05 s`, `2 h 10 min`.
pub fn show_time(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..10 if span.subsec_nanos() > 0 => format!("{:.2} s", span.as_secs_f64()),
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A time as [`parse_time`] reads it, in the largest unit that keeps it exact to the millisecond.
pub fn write_time(span: Duration) -> String {
    let milliseconds = span.as_millis();
    let unit = TIME_UNITS.iter().rev().find(|(_, factor)| milliseconds.is_multiple_of(u128::from(*factor)));
    let (name, factor) = unit.filter(|_| milliseconds > 0).unwrap_or(&("", 1));
    format!("{}{name}", milliseconds / u128::from(*factor))
}

/// A size as [`parse_size`] reads it, in the largest binary unit that keeps it exact.
pub fn write_size(bytes: u64) -> String {
    let unit = SIZE_UNITS[1..5].iter().rev().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    unit.map_or(bytes.to_string(), |(name, factor)| format!("{}{name}", bytes / factor))
}

fn parse_scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start();
    if number == 0 && unit.is_empty() {
        return Some(0);
    }
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(parse_time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_time(" 2 min"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_time("0"), Ok(Duration::ZERO));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("256MiB"), Ok(256 << 20));
        assert_eq!(parse_size("1T"), Ok(1 << 40));
        assert_eq!(parse_rate("100MiB/s"), Ok(100 << 20));
        assert_eq!(parse_rate("none"), Ok(0));
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "10", "s", "-1s", "1.5s", "10 parsecs", "99999999999999999999s", "20000000000000000000d"] {
            assert!(parse_time(text).is_err(), "{text:?}");
        }
        for text in ["", "MiB", "-1", "1.5GiB", "1 XiB", "18446744073709551615TiB"] {
            assert!(parse_size(text).is_err(), "{text:?}");
            assert!(parse_rate(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (text, written) in [("0", "0"), ("1000ms", "1s"), ("90s", "90s"), ("120s", "2min"), ("48h", "2d")] {
            let span = parse_time(text).unwrap();
            assert_eq!(write_time(span), written);
            assert_eq!(parse_time(written), Ok(span));
        }
        for (text, written) in [("0", "0"), ("4096", "4KiB"), ("1025", "1025"), ("2048MiB", "2GiB")] {
            let bytes = parse_size(text).unwrap();
            assert_eq!(write_size(bytes), written);
            assert_eq!(parse_size(written), Ok(bytes));
        }
    }

    #[test]
    fn shows_three_digits() {
        assert_eq!(show_size(0), "0 B");
        assert_eq!(show_size(1023), "1023 B");
        assert_eq!(show_size(1536), "1.50 KiB");
        assert_eq!(show_size(64 << 20), "64.0 MiB");
        assert_eq!(show_size(999 << 30), "999 GiB");
        assert_eq!(show_time(Duration::from_millis(250)), "0.25 s");
        assert_eq!(show_time(Duration::from_secs(2)), "2 s");
        assert_eq!(show_time(Duration::from_secs(185)), "3 min 05 s");
        assert_eq!(show_time(Duration::from_secs(7800)), "2 h 10 min");
    }
}
