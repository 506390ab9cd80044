//! Finding the server name in a ClientHello (RFC 8446 §4.1.2, RFC 6066 §3), and where to cut.

use std::ops::Range;

/// Length of the header of a record.
pub(super) const HEADER: usize = 5;

/// Longest payload of a record that is not encrypted.
const MAX_PAYLOAD: usize = 1 << 14;

/// What the first bytes of a stream are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// No TLS handshake: pass them on.
    Nothing,
    /// The beginning of a record that is so long, with its header.
    Record(usize),
}

impl Wanted {
    /// Looks at first bytes, of which there is at least one.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        // Handshake, and a legacy version of 3.0 to 3.4.
        let plausible = [Some(0x16..=0x16), Some(0x03..=0x03), Some(0x00..=0x04)];
        for (byte, range) in bytes.iter().zip(plausible) {
            if !range.is_some_and(|range| range.contains(byte)) {
                return Self::Nothing;
            }
        }
        match bytes {
            [_, _, _, high, low, ..] => {
                let len = usize::from(u16::from_be_bytes([*high, *low]));
                if (1..=MAX_PAYLOAD).contains(&len) {
                    Self::Record(HEADER + len)
                } else {
                    Self::Nothing
                }
            }
            _ => Self::Record(HEADER),
        }
    }
}

/// Where in a record the server name of a ClientHello stands, without the header of the record being counted off.
/// `None` when there is none. The hello may go on in another record, if the name is in this one.
#[must_use]
pub fn server_name(record: &[u8]) -> Option<Range<usize>> {
    let mut at = Reader { bytes: record, at: HEADER };
    if record.first() != Some(&0x16) || at.byte()? != 1 {
        return None;
    }
    // Length of the message; version; random.
    at.skip(3 + 2 + 32)?;
    let session = at.byte()?;
    at.skip(session.into())?;
    let suites = at.short()?;
    at.skip(suites)?;
    let compressions = at.byte()?;
    at.skip(compressions.into())?;
    let end = at.short()?.checked_add(at.at)?;
    while at.at < end {
        let (kind, len) = (at.short()?, at.short()?);
        if kind != 0 {
            at.skip(len)?;
            continue;
        }
        // Length of the list; kind of the first name, 0 for a host.
        at.skip(2)?;
        if at.byte()? != 0 {
            return None;
        }
        let len = at.short()?;
        let name = at.at..at.at.checked_add(len)?;
        return (len > 0 && name.end <= record.len()).then_some(name);
    }
    None
}

/// Where to cut a record: one place within each label of its server name but the last, chosen by `random` from a
/// number of places. Empty when there is nothing to cut.
pub fn cuts(record: &[u8], mut random: impl FnMut(usize) -> usize) -> Vec<usize> {
    let Some(place) = server_name(record) else { return Vec::new() };
    let Some(name) = record.get(place.clone()) else { return Vec::new() };
    let mut cuts = Vec::new();
    let mut start = place.start;
    let mut labels = name.split(|byte| *byte == b'.').peekable();
    while let Some(label) = labels.next() {
        let last = labels.peek().is_none();
        // A name of one label is cut as well.
        if (!last || cuts.is_empty()) && !label.is_empty() {
            cuts.push(start + random(label.len()).min(label.len() - 1));
        }
        start += label.len() + 1;
    }
    cuts
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn short(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_be_bytes([self.byte()?, self.byte()?])))
    }

    fn skip(&mut self, n: usize) -> Option<()> {
        self.at = self.at.checked_add(n).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }
}
