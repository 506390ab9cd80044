//! Durations as Go writes them, plus the unit `d`.

use std::borrow::Cow;
use std::fmt;

use serde_json::json;

use super::{Cursor, Field};
use crate::ConfigError;
use crate::json::Value;
use crate::json_schema::SchemaBuilder;

/// A signed number of nanoseconds, written `"1d2h3m"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub i64);

const UNITS: [(&str, u64); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// One past the greatest magnitude; a negative duration may reach it.
const LIMIT: u64 = 1 << 63;

impl Duration {
    /// Whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000))
    }

    /// Milliseconds.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// As the standard library's type; a negative duration is zero.
    #[must_use]
    pub fn get(self) -> std::time::Duration {
        std::time::Duration::from_nanos(u64::try_from(self.0).unwrap_or(0))
    }

    /// Whether it is not set.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// This duration, or the default where it is zero or negative.
    #[must_use]
    pub fn or(self, default: std::time::Duration) -> std::time::Duration {
        if self.0 > 0 { self.get() } else { default }
    }

    /// Parses Go's notation.
    ///
    /// # Errors
    /// Go's message, e.g. `time: unknown unit "x" in duration "5x"`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let invalid = || format!("time: invalid duration {}", quote(text));
        let (negative, mut rest) = match text.as_bytes().first() {
            Some(b'-') => (true, text.get(1..).unwrap_or_default()),
            Some(b'+') => (false, text.get(1..).unwrap_or_default()),
            _ => (false, text),
        };
        if rest == "0" {
            return Ok(Self(0));
        }
        if rest.is_empty() {
            return Err(invalid());
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let digits = leading(rest, |b| b.is_ascii_digit());
            let whole = number(digits).ok_or_else(invalid)?;
            rest = rest.get(digits.len()..).unwrap_or_default();
            let mut fraction = "";
            if let Some(after) = rest.strip_prefix('.') {
                fraction = leading(after, |b| b.is_ascii_digit());
                rest = after.get(fraction.len()..).unwrap_or_default();
            }
            if digits.is_empty() && fraction.is_empty() {
                return Err(invalid());
            }
            let unit = leading(rest, |b| b != b'.' && !b.is_ascii_digit());
            if unit.is_empty() {
                return Err(format!("time: missing unit in duration {}", quote(text)));
            }
            rest = rest.get(unit.len()..).unwrap_or_default();
            let Some(nanos) = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, nanos)| *nanos)
            else {
                return Err(format!(
                    "time: unknown unit {} in duration {}",
                    quote(unit),
                    quote(text)
                ));
            };
            let part = whole.checked_mul(nanos).filter(|n| *n <= LIMIT).ok_or_else(invalid)?;
            let part = part.checked_add(scale(fraction, nanos)).ok_or_else(invalid)?;
            total = total.checked_add(part).filter(|n| *n <= LIMIT).ok_or_else(invalid)?;
        }
        let magnitude = i128::from(total);
        i64::try_from(if negative { -magnitude } else { magnitude })
            .map(Self)
            .map_err(|_| invalid())
    }
}

fn leading(text: &str, accept: impl Fn(u8) -> bool) -> &str {
    let end = text.bytes().position(|b| !accept(b)).unwrap_or(text.len());
    // Only ASCII bytes end a run, so this is a character boundary.
    text.get(..end).unwrap_or_default()
}

fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() { Some(0) } else { digits.parse().ok().filter(|n| *n <= LIMIT) }
}

/// `0.FRACTION` of a unit; digits beyond what a `u64` holds do not matter.
fn scale(fraction: &str, unit: u64) -> u64 {
    let digits: &str = fraction.get(..fraction.len().min(18)).unwrap_or_default();
    let value: u128 = digits.parse().unwrap_or(0);
    let scale = 10u128.pow(u32::try_from(digits.len()).unwrap_or(0));
    u64::try_from(value * u128::from(unit) / scale).unwrap_or(u64::MAX)
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='\u{7f}' => out.push(c),
            c => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    out.push_str(&format!("\\x{byte:02x}"));
                }
            }
        }
    }
    out.push('"');
    out
}

impl fmt::Display for Duration {
    /// Go's form: `1h0m0s`, `26h3m0s`, `1.5s`, `300ms`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            f.write_str("-")?;
        }
        let (unit, size) = match nanos {
            0 => return f.write_str("0s"),
            1..1_000 => ("ns", 1),
            1_000..1_000_000 => ("\u{b5}s", 1_000),
            1_000_000..1_000_000_000 => ("ms", 1_000_000),
            _ => {
                let seconds = nanos / 1_000_000_000;
                let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
                if hours > 0 {
                    write!(f, "{hours}h")?;
                }
                if hours > 0 || minutes > 0 {
                    write!(f, "{minutes}m")?;
                }
                return decimal(f, nanos % 60_000_000_000, 1_000_000_000, "s");
            }
        };
        decimal(f, nanos, size, unit)
    }
}

fn decimal(f: &mut fmt::Formatter<'_>, nanos: u64, size: u64, unit: &str) -> fmt::Result {
    write!(f, "{}", nanos / size)?;
    let rest = nanos % size;
    if rest > 0 {
        // `size` is a power of ten: as many digits as it has zeros.
        let width = usize::try_from(size.ilog10()).unwrap_or(0);
        let digits = format!("{rest:0width$}");
        write!(f, ".{}", digits.trim_end_matches('0'))?;
    }
    f.write_str(unit)
}

impl Field for Duration {
    fn absent() -> Self {
        Self(0)
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        Self::parse(cursor.string()?).map_err(|message| cursor.error(message))
    }

    fn to_json(&self) -> serde_json::Value {
        self.to_string().into()
    }

    fn go_type() -> Cow<'static, str> {
        "badoption.Duration".into()
    }

    fn schema(_: &mut SchemaBuilder) -> serde_json::Value {
        json!({"type": "string", "examples": ["300ms", "5m", "1d2h"]})
    }
}

/// The `udp_timeout` of inbounds: a duration, or an integer number of seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpTimeout(pub Duration);

impl Field for UdpTimeout {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        if let Value::Number(text) = &cursor.node().value
            && let Ok(seconds) = text.parse()
        {
            return Ok(Self(Duration::from_secs(seconds)));
        }
        Duration::decode(cursor).map(Self)
    }

    fn to_json(&self) -> serde_json::Value {
        self.0.to_json()
    }

    fn go_type() -> Cow<'static, str> {
        "option.UDPTimeoutCompat".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        json!({"anyOf": [Duration::schema(builder), {"type": "integer", "description": "seconds"}]})
    }
}
