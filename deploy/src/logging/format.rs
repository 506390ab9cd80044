//! One line of the log, as the reference prints it.
//!
//! ```text
//! INFO[0012] [4711 5ms] inbound/mixed[in]: inbound connection from 192.0.2.1:40000
//! +0200 2006-01-02 15:04:05 INFO [4711 5ms] inbound/mixed[in]: inbound connection from 192.0.2.1:40000
//! ```

use std::{
    cell::RefCell,
    io::Write,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jiff::tz::TimeZone;
use tracing::Level;

/// What a line begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stamp {
    /// Nothing: the reference's way for files.
    None = 0,
    /// Seconds since start.
    Seconds = 1,
    /// Time zone, date and time.
    Date = 2,
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) stamp: Stamp,
    pub(super) color: bool,
}

impl Style {
    pub(super) fn to_bits(self) -> u8 {
        self.stamp as u8 | (u8::from(self.color) << 2)
    }

    pub(super) fn from_bits(bits: u8) -> Self {
        let stamp = match bits & 3 {
            0 => Stamp::None,
            1 => Stamp::Seconds,
            _ => Stamp::Date,
        };
        Self { stamp, color: bits & 4 != 0 }
    }
}

/// How grave a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// An event of `tracing`.
    Event(Level),
    /// The process ends.
    Fatal,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Event(Level::TRACE) => "TRACE",
            Self::Event(Level::DEBUG) => "DEBUG",
            Self::Event(Level::INFO) => "INFO",
            Self::Event(Level::WARN) => "WARN",
            Self::Event(Level::ERROR) => "ERROR",
            Self::Fatal => "FATAL",
        }
    }

    /// SGR parameter.
    fn color(self) -> u8 {
        match self {
            Self::Event(Level::TRACE | Level::DEBUG) => 37,
            Self::Event(Level::INFO) => 36,
            Self::Event(Level::WARN) => 33,
            Self::Event(Level::ERROR) | Self::Fatal => 31,
        }
    }
}

/// The moment of a line.
pub(super) struct Now {
    since_start: Duration,
    since_epoch: Duration,
}

impl Now {
    pub(super) fn take() -> Self {
        Self {
            since_start: started().elapsed(),
            since_epoch: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }
}

/// When the process began, as far as this program knows.
pub(crate) fn started() -> Instant {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    *STARTED.get_or_init(Instant::now)
}

/// The connection that a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Conn {
    pub(super) id: u64,
    pub(super) age: Duration,
}

/// Appends one line. Writing into memory cannot fail, so the results of `write!` are dropped.
#[allow(clippy::too_many_arguments, reason = "the parts of one line")]
pub(super) fn line(
    out: &mut Vec<u8>,
    style: Style,
    now: &Now,
    severity: Severity,
    conn: Option<Conn>,
    component: &str,
    message: &str,
    rest: &str,
) {
    if style.stamp == Stamp::Date {
        date(out, now.since_epoch.as_secs());
        out.push(b' ');
    }
    if style.color {
        let _ = write!(out, "\x1b[{}m{}\x1b[0m", severity.color(), severity.word());
    } else {
        out.extend_from_slice(severity.word().as_bytes());
    }
    if style.stamp == Stamp::Seconds {
        let _ = write!(out, "[{:04}]", now.since_start.as_secs());
    }
    out.push(b' ');
    if let Some(Conn { id, age }) = conn {
        if style.color {
            let _ = write!(out, "[\x1b[38;5;{}m{id}\x1b[0m ", palette(id));
        } else {
            let _ = write!(out, "[{id} ");
        }
        elapsed(out, age);
        out.extend_from_slice(b"] ");
    }
    if !component.is_empty() {
        text(out, component);
        out.extend_from_slice(b": ");
    }
    text(out, message);
    text(out, rest);
    out.push(b'\n');
}

/// A colour of the 256-colour cube that is legible on black, from the number of a connection.
fn palette(id: u64) -> u8 {
    let color = (id % 215) as u8;
    let (row, column) = (color / 36, color % 36);
    let luma = 0.2126 * f32::from(row * 51)
        + 0.7152 * f32::from(column / 6 * 51)
        + 0.0722 * f32::from(column % 6 * 51);
    let color = if luma < 60.0 { (5 - row) * 36 + (35 - column) } else { color };
    color + 16
}

/// `5ms`, `1.25s`, `3m7s`.
fn elapsed(out: &mut Vec<u8>, age: Duration) {
    let (seconds, millis) = (age.as_secs(), age.subsec_millis());
    let _ = match seconds {
        0 => write!(out, "{millis}ms"),
        1..60 => write!(out, "{seconds}.{:02}s", millis / 10),
        _ => write!(out, "{}m{}s", seconds / 60, seconds % 60),
    };
}

/// Text from outside may not forge lines or drive the terminal: control characters are escaped, and a line that was
/// meant to be several is indented from the second on.
fn text(out: &mut Vec<u8>, text: &str) {
    if !text.bytes().any(|byte| byte < 0x20 || byte == 0x7f) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    for byte in text.trim_end_matches('\n').bytes() {
        match byte {
            b'\n' => out.extend_from_slice(b"\n    "),
            b'\t' => out.push(b'\t'),
            0..0x20 | 0x7f => {
                let _ = write!(out, "\\x{byte:02x}");
            }
            byte => out.push(byte),
        }
    }
}

/// `+0200 2006-01-02 15:04:05` in local time. Formatted once a second by each thread that logs.
fn date(out: &mut Vec<u8>, second: u64) {
    thread_local! {
        static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    LAST.with_borrow_mut(|(last, text)| {
        if *last != second {
            *last = second;
            let time = jiff::Timestamp::from_second(i64::try_from(second).unwrap_or(0));
            let local = time.unwrap_or_default().to_zoned(TimeZone::system());
            *text = local.strftime("%z %Y-%m-%d %H:%M:%S").to_string();
        }
        out.extend_from_slice(text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(style: Style, conn: Option<Conn>, message: &str) -> String {
        let now = Now { since_start: Duration::from_secs(12), since_epoch: Duration::ZERO };
        let mut out = Vec::new();
        let severity = Severity::Event(Level::INFO);
        line(&mut out, style, &now, severity, conn, "inbound/mixed[in]", message, " up=1");
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn looks_like_the_reference() {
        let conn = Some(Conn { id: 4711, age: Duration::from_millis(5) });
        let plain = |stamp| Style { stamp, color: false };
        assert_eq!(
            show(plain(Stamp::Seconds), conn, "hello"),
            "INFO[0012] [4711 5ms] inbound/mixed[in]: hello up=1\n"
        );
        assert_eq!(show(plain(Stamp::None), None, "hello"), "INFO inbound/mixed[in]: hello up=1\n");
        let dated = show(plain(Stamp::Date), None, "hello");
        let (zone, rest) = dated.split_once(' ').unwrap();
        assert!(zone.len() == 5 && (rest.starts_with("1970-01-01 ") || rest.starts_with("1969-")));
        assert!(dated.ends_with(" INFO inbound/mixed[in]: hello up=1\n"));
        let color = show(Style { stamp: Stamp::Seconds, color: true }, conn, "hello");
        assert!(color.starts_with("\x1b[36mINFO\x1b[0m[0012] [\x1b[38;5;"), "{color:?}");
    }

    #[test]
    fn hostile_text_stays_on_its_line() {
        let style = Style { stamp: Stamp::None, color: false };
        let shown = show(style, None, "to a\nINFO b\x1b[2J");
        assert_eq!(shown, "INFO inbound/mixed[in]: to a\n    INFO b\\x1b[2J up=1\n");
    }

    #[test]
    fn ages() {
        let show = |millis| {
            let mut out = Vec::new();
            elapsed(&mut out, Duration::from_millis(millis));
            String::from_utf8(out).unwrap()
        };
        assert_eq!([show(999), show(1050), show(187_000)], ["999ms", "1.05s", "3m7s"]);
    }

    #[test]
    fn every_number_has_a_colour_of_the_cube() {
        for id in 0..1000 {
            assert!((16..=231).contains(&palette(id)), "{id}");
        }
    }

    #[test]
    fn style_fits_a_byte() {
        for stamp in [Stamp::None, Stamp::Seconds, Stamp::Date] {
            for color in [false, true] {
                let style = Style { stamp, color };
                assert_eq!(Style::from_bits(style.to_bits()), style);
            }
        }
    }
}
