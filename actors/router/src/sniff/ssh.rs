//! SSH: the client's identification string (RFC 4253 §4.2), `SSH-2.0-softwareversion SP comments CR LF`.

use super::{Outcome, Sniffed, Sniffer};

const PREFIX: &[u8] = b"SSH-2.0-";
/// Longest identification string, line end included.
const MAX_LINE: usize = 255;

/// Looks for an identification string; the client is what follows `SSH-2.0-`.
pub(super) fn sniff(buf: &[u8]) -> Outcome {
    let Some(rest) = buf.strip_prefix(PREFIX) else {
        return if PREFIX.starts_with(buf) { Outcome::NeedMore } else { Outcome::NoMatch };
    };
    let limit = rest.len().min(MAX_LINE - PREFIX.len());
    let window = rest.get(..limit).unwrap_or(rest);
    let line = match window.iter().position(|byte| *byte == b'\n') {
        Some(end) => window.get(..end).unwrap_or(window),
        None if buf.len() < MAX_LINE => return Outcome::NeedMore,
        None => window, // longer than allowed: an SSH client all the same
    };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Outcome::Match(Sniffed {
        client: Some(String::from_utf8_lossy(line).into()),
        ..Sniffed::bare(Sniffer::Ssh)
    })
}
