//! The wording of the reference's language where messages are compared.

use std::io;

/// The system's reason without decoration: `no such file or directory`.
pub(crate) fn os(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Bytes as people read them: `3.1 MB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let unit = UNITS.get(unit).copied().unwrap_or_default();
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

/// Milliseconds as people read them: `5ms`, `12s`, `3m7s`, `4h5m`, `9d3h`.
pub(crate) fn age(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        0 => format!("{millis}ms"),
        1..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_well() {
        let error = io::Error::from_raw_os_error(2);
        assert_eq!(os(&error), "no such file or directory");
        assert_eq!([bytes(0), bytes(999), bytes(3_140_000)], ["0 B", "999 B", "3.1 MB"]);
        assert_eq!([age(5), age(61_000), age(90_061_000)], ["5ms", "1m1s", "1d1h"]);
    }
}
