//! The frames an Initial packet may hold (RFC 9000 §12.4): PADDING, PING, ACK, CRYPTO, CONNECTION_CLOSE.

use crate::sniff::cursor::Cursor;
use crate::sniff::hello::{CLIENT_HELLO, HANDSHAKE_HEADER};

const PADDING: u8 = 0x00;
const PING: u8 = 0x01;
const ACK: u8 = 0x02;
const ACK_ECN: u8 = 0x03;
const CRYPTO: u8 = 0x06;
const CONNECTION_CLOSE: u8 = 0x1c;

/// How the frames of a packet lie, each byte of padding counting as a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) frames: usize,
    /// Frames that are not padding.
    pub(super) solid: usize,
    pub(super) crypto: usize,
    pub(super) ping: usize,
    pub(super) crypto_first: bool,
    pub(super) crypto_last: bool,
}

/// The checked payload of an Initial packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frames<'a> {
    payload: &'a [u8],
    layout: Layout,
    /// Offset and data of the first CRYPTO frame.
    first: Option<(u64, &'a [u8])>,
}

impl<'a> Frames<'a> {
    /// Checks all frames; `None` if one is cut short or not allowed here.
    pub(super) fn parse(payload: &'a [u8]) -> Option<Self> {
        let mut layout = Layout::default();
        let mut first = None;
        let mut cursor = Cursor(payload);
        while !cursor.0.is_empty() {
            let frame = Frame::next(&mut cursor)?;
            let is_crypto = matches!(frame, Frame::Crypto(..));
            if layout.frames == 0 {
                layout.crypto_first = is_crypto;
            }
            layout.crypto_last = is_crypto;
            layout.frames += match frame {
                Frame::Padding(run) => run,
                Frame::Ping | Frame::Crypto(..) | Frame::Skipped => {
                    layout.solid += 1;
                    1
                }
            };
            layout.crypto += usize::from(is_crypto);
            layout.ping += usize::from(matches!(frame, Frame::Ping));
            if let Frame::Crypto(offset, data) = frame {
                first.get_or_insert((offset, data));
            }
        }
        Some(Self { payload, layout, first })
    }

    pub(super) const fn layout(&self) -> Layout {
        self.layout
    }

    /// The ClientHello message with its header, if a single CRYPTO frame holds all of it.
    pub(super) fn whole_hello(&self) -> Option<&'a [u8]> {
        match (self.layout.crypto, self.first) {
            (1, Some((0, data))) => {
                let len = hello_len(data)??;
                data.get(..len)
            }
            _ => None,
        }
    }

    /// Offset and data of each CRYPTO frame.
    pub(super) fn crypto(&self) -> impl Iterator<Item = (u64, &'a [u8])> {
        let mut cursor = Cursor(self.payload);
        std::iter::from_fn(move || {
            while !cursor.0.is_empty() {
                if let Frame::Crypto(offset, data) = Frame::next(&mut cursor)? {
                    return Some((offset, data));
                }
            }
            None
        })
    }
}

/// Length of the ClientHello message at the start of a CRYPTO stream, header included: `None` if something else starts there,
/// `Some(None)` while its header is not whole.
pub(super) fn hello_len(stream: &[u8]) -> Option<Option<usize>> {
    match stream {
        [CLIENT_HELLO, a, b, c, ..] => Some(Some(
            HANDSHAKE_HEADER + (usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c)),
        )),
        [] | [CLIENT_HELLO, ..] => Some(None),
        _ => None,
    }
}

enum Frame<'a> {
    /// A run of that many PADDING frames, of one byte each.
    Padding(usize),
    Ping,
    Crypto(u64, &'a [u8]),
    /// ACK or CONNECTION_CLOSE, which say nothing here.
    Skipped,
}

impl<'a> Frame<'a> {
    fn next(cursor: &mut Cursor<'a>) -> Option<Self> {
        match cursor.u8()? {
            PADDING => {
                let rest = cursor.0;
                let more = rest.iter().position(|byte| *byte != PADDING);
                let more = more.unwrap_or(rest.len());
                cursor.take(more)?;
                Some(Self::Padding(1 + more))
            }
            PING => Some(Self::Ping),
            kind @ (ACK | ACK_ECN) => {
                let _largest = cursor.varint()?;
                let _delay = cursor.varint()?;
                let ranges = cursor.varint()?;
                let _first_range = cursor.varint()?;
                // A range is two numbers, so the payload's end bounds this loop.
                for _ in 0..ranges {
                    let _gap = cursor.varint()?;
                    let _range = cursor.varint()?;
                }
                if kind == ACK_ECN {
                    for _count in 0..3 {
                        cursor.varint()?;
                    }
                }
                Some(Self::Skipped)
            }
            CRYPTO => {
                let offset = cursor.varint()?;
                let len = cursor.varint_len()?;
                Some(Self::Crypto(offset, cursor.take(len)?))
            }
            CONNECTION_CLOSE => {
                let _error = cursor.varint()?;
                let _frame = cursor.varint()?;
                let reason = cursor.varint_len()?;
                cursor.take(reason)?;
                Some(Self::Skipped)
            }
            _ => None,
        }
    }
}
