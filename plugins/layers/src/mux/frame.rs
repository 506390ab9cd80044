//! Frames of smux (version 1) and yamux, brought to one shape. Without I/O.

use bytes::BufMut as _;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// xtaci's smux, version 1: no windows, and a stream's end is the end of both directions.
    Smux,
    /// hashicorp's yamux.
    Yamux,
}

/// Bytes that a stream may be sent before it says that it has read some (yamux, spec.md).
pub const WINDOW: u32 = 256 * 1024;

/// Length of the longest frame header.
pub const LONGEST: usize = 12;

const SMUX: usize = 8;
const SMUX_VERSION: u8 = 1;
const YAMUX: usize = 12;

const SYN: u16 = 1;
const ACK: u16 = 2;
const FIN: u16 = 4;
const RST: u16 = 8;

/// Why the other side wants no more streams.
pub const AWAY_NORMAL: u32 = 0;
/// We broke the protocol, they say.
pub const AWAY_PROTOCOL: u32 = 1;

/// A frame without its payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The stream; 0 for the session.
    pub id: u32,
    /// The stream begins.
    pub syn: bool,
    /// The stream is accepted.
    pub ack: bool,
    /// The sender sends no more.
    pub fin: bool,
    /// The stream has ended.
    pub rst: bool,
    /// The sender will end its direction and still reads the other one; see [`Dialect::half`].
    pub half: bool,
    /// So many more bytes may be sent.
    pub window: u32,
    /// So many bytes of the stream follow.
    pub payload: u32,
    /// So many bytes follow that are of no interest.
    pub skip: u32,
    /// A sign of life: `false` asks for one, `true` is the answer; with its number.
    pub ping: Option<(bool, u32)>,
    /// The sender takes no more streams, with its reason.
    pub away: Option<u32>,
}

/// Bytes that are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Another version, or another protocol.
    #[error("invalid protocol: version {0}")]
    Version(u8),
    /// A kind of frame that nobody knows.
    #[error("invalid protocol: frame {0}")]
    Kind(u8),
}

impl Dialect {
    /// Reads the header at the front and returns the frame with the header's length; `None` when it is not all there.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub fn parse(self, bytes: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
        match self {
            Self::Smux => parse_smux(bytes),
            Self::Yamux => parse_yamux(bytes),
        }
    }

    /// Length of a frame header in bytes.
    #[must_use]
    pub fn header(self) -> usize {
        match self {
            Self::Smux => SMUX,
            Self::Yamux => YAMUX,
        }
    }

    /// Appends the frame that begins a stream.
    pub fn open(self, id: u32, out: &mut Vec<u8>) {
        match self {
            Self::Smux => smux(0, id, 0, out),
            Self::Yamux => yamux(1, SYN, id, 0, out),
        }
    }

    /// Appends the frame that accepts a stream; smux has none.
    pub fn accept(self, id: u32, out: &mut Vec<u8>) {
        if self == Self::Yamux {
            yamux(1, ACK, id, 0, out);
        }
    }

    /// Appends the header of a frame with `len` bytes of a stream, at most 65,535.
    pub fn data(self, id: u32, len: u16, out: &mut Vec<u8>) {
        match self {
            Self::Smux => smux(2, id, len, out),
            Self::Yamux => yamux(0, 0, id, len.into(), out),
        }
    }

    /// Appends the frame that says that no more is sent.
    pub fn end(self, id: u32, out: &mut Vec<u8>) {
        match self {
            Self::Smux => smux(1, id, 0, out),
            Self::Yamux => yamux(1, FIN, id, 0, out),
        }
    }

    /// Appends the frame in front of an [`end`](Self::end) that is the end of one direction. smux knows no such end, and its
    /// peers take every one for that of both. This frame, an empty one that names a stream, is a word among ourselves: all
    /// others read over it.
    pub fn half(self, id: u32, out: &mut Vec<u8>) {
        if self == Self::Smux {
            smux(3, id, 0, out);
        }
    }

    /// Appends the frame that ends a stream at once. smux knows none but the one of [`Dialect::end`].
    pub fn reset(self, id: u32, out: &mut Vec<u8>) {
        match self {
            Self::Smux => smux(1, id, 0, out),
            Self::Yamux => yamux(1, RST, id, 0, out),
        }
    }

    /// Appends the frame that lets `more` bytes be sent; smux has none.
    pub fn window(self, id: u32, more: u32, out: &mut Vec<u8>) {
        if self == Self::Yamux {
            yamux(1, 0, id, more, out);
        }
    }

    /// Appends a sign of life.
    pub fn ping(self, answer: bool, number: u32, out: &mut Vec<u8>) {
        match self {
            Self::Smux => smux(3, 0, 0, out),
            Self::Yamux => yamux(2, if answer { ACK } else { SYN }, 0, number, out),
        }
    }

    /// Appends the frame that says that no more streams are taken; smux has none.
    pub fn away(self, reason: u32, out: &mut Vec<u8>) {
        if self == Self::Yamux {
            yamux(3, 0, 0, reason, out);
        }
    }
}

/// Version, command, length, stream; numbers are little-endian (xtaci/smux, frame.go).
fn parse_smux(bytes: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    if let Some(version) = bytes.first().filter(|version| **version != SMUX_VERSION) {
        return Err(FrameError::Version(*version));
    }
    let Some(&[_, command, low, high, a, b, c, d]) = bytes.first_chunk::<SMUX>() else {
        return Ok(None);
    };
    let len = u32::from(u16::from_le_bytes([low, high]));
    let mut frame = Frame { id: u32::from_le_bytes([a, b, c, d]), ..Frame::default() };
    match command {
        0 => frame.syn = true,
        1 => frame.fin = true,
        2 => frame.payload = len,
        3 => frame.half = frame.id != 0,
        // A window of version 2, always eight bytes; the reference reads over it.
        4 => frame.skip = 8,
        other => return Err(FrameError::Kind(other)),
    }
    Ok(Some((frame, SMUX)))
}

fn smux(command: u8, id: u32, len: u16, out: &mut Vec<u8>) {
    out.put_slice(&[SMUX_VERSION, command]);
    out.put_u16_le(len);
    out.put_u32_le(id);
}

/// Version, type, flags, stream, length; numbers are big-endian (hashicorp/yamux, spec.md).
fn parse_yamux(bytes: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    if let Some(version) = bytes.first().filter(|version| **version != 0) {
        return Err(FrameError::Version(*version));
    }
    let Some(&[_, kind, f, g, a, b, c, d, w, x, y, z]) = bytes.first_chunk::<YAMUX>() else {
        return Ok(None);
    };
    let flags = u16::from_be_bytes([f, g]);
    let has = |flag| flags & flag != 0;
    let len = u32::from_be_bytes([w, x, y, z]);
    let mut frame = Frame { id: u32::from_be_bytes([a, b, c, d]), ..Frame::default() };
    match kind {
        0 | 1 => {
            (frame.syn, frame.ack, frame.fin, frame.rst) = (has(SYN), has(ACK), has(FIN), has(RST));
            if kind == 0 {
                frame.payload = len;
            } else {
                frame.window = len;
            }
        }
        2 => frame.ping = Some((!has(SYN), len)),
        3 => frame.away = Some(len),
        other => return Err(FrameError::Kind(other)),
    }
    Ok(Some((frame, YAMUX)))
}

fn yamux(kind: u8, flags: u16, id: u32, len: u32, out: &mut Vec<u8>) {
    out.put_slice(&[0, kind]);
    out.put_u16(flags);
    out.put_u32(id);
    out.put_u32(len);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Emits a frame of a stream with a length, a number and a truth value.
    type Emit = fn(Dialect, u32, u16, u32, bool, &mut Vec<u8>);

    #[test]
    fn frames_look_as_in_go() {
        let mut out = Vec::new();
        Dialect::Smux.open(3, &mut out);
        Dialect::Smux.data(3, 0x1234, &mut out);
        assert_eq!(out, [1, 0, 0, 0, 3, 0, 0, 0, 1, 2, 0x34, 0x12, 3, 0, 0, 0]);
        out.clear();
        Dialect::Yamux.open(1, &mut out);
        assert_eq!(out, [0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0]);
        out.clear();
        Dialect::Yamux.ping(true, 7, &mut out);
        assert_eq!(out, [0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7]);
    }

    #[test]
    fn what_is_no_frame_is_refused_at_once() {
        assert_eq!(Dialect::Smux.parse(b"G"), Err(FrameError::Version(b'G')));
        assert_eq!(Dialect::Yamux.parse(&[1]), Err(FrameError::Version(1)));
        assert_eq!(Dialect::Smux.parse(&[1, 9, 0, 0, 0, 0, 0, 0]), Err(FrameError::Kind(9)));
        assert_eq!(
            Dialect::Yamux.parse(&[0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            Err(FrameError::Kind(4))
        );
    }

    proptest! {
        #[test]
        fn parsing_undoes_emitting(yamux: bool, id: u32, len: u16, number: u32, answer: bool) {
            let dialect = if yamux { Dialect::Yamux } else { Dialect::Smux };
            let plain = Frame { id, ..Frame::default() };
            let cases: [(Frame, Emit); 9] = [
                (Frame { half: id != 0, ..plain }, |d, id, _, _, _, out| d.half(id, out)),
                (Frame { syn: true, ..plain }, |d, id, _, _, _, out| d.open(id, out)),
                (Frame { ack: true, ..plain }, |d, id, _, _, _, out| d.accept(id, out)),
                (Frame { payload: len.into(), ..plain }, |d, id, len, _, _, out| d.data(id, len, out)),
                (Frame { fin: true, ..plain }, |d, id, _, _, _, out| d.end(id, out)),
                (Frame { rst: yamux, fin: !yamux, ..plain }, |d, id, _, _, _, out| d.reset(id, out)),
                (Frame { window: number, ..plain }, |d, id, _, number, _, out| d.window(id, number, out)),
                (
                    Frame { ping: yamux.then_some((answer, number)), ..Frame::default() },
                    |d, _, _, number, answer, out| d.ping(answer, number, out),
                ),
                (Frame { away: Some(number), ..Frame::default() }, |d, _, _, number, _, out| d.away(number, out)),
            ];
            for (frame, emit) in cases {
                let mut out = Vec::new();
                emit(dialect, id, len, number, answer, &mut out);
                if out.is_empty() {
                    continue;
                }
                prop_assert_eq!(out.len(), dialect.header());
                for cut in 0..out.len() {
                    prop_assert_eq!(dialect.parse(&out[..cut]), Ok(None));
                }
                prop_assert_eq!(dialect.parse(&out), Ok(Some((frame, out.len()))));
            }
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Dialect::Smux.parse(&bytes);
            let _ = Dialect::Yamux.parse(&bytes);
        }
    }
}
