//! Where a message body ends (RFC 9112 §6).

use thiserror::Error;

/// Longest chunk-size line or trailer section in bytes.
const MAX_LINE: u32 = 16 * 1024;

/// A chunked body that is none.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error("malformed chunked body")]
pub struct BodyError;

/// What is left of a message body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Nothing.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks up to one of size zero, and trailers.
    Chunked(Chunks),
    /// All that comes.
    UntilClose,
}

/// How much of the input belongs to the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of the input, framing included.
    pub used: usize,
    /// Whether the body ended there.
    pub done: bool,
}

impl Body {
    /// Whether nothing is left.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Empty | Self::Length(0) => true,
            Self::Chunked(chunks) => chunks.is_done(),
            Self::Length(_) | Self::UntilClose => false,
        }
    }

    /// Takes what belongs to the body from the front of `input` and shows the payload in it, without framing.
    ///
    /// # Errors
    /// The chunks are malformed.
    pub fn advance(
        &mut self,
        input: &[u8],
        mut payload: impl FnMut(&[u8]),
    ) -> Result<Taken, BodyError> {
        match self {
            Self::Empty => Ok(Taken { used: 0, done: true }),
            Self::UntilClose => {
                payload(input);
                Ok(Taken { used: input.len(), done: false })
            }
            Self::Length(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= used as u64;
                payload(input.get(..used).unwrap_or_default());
                Ok(Taken { used, done: *left == 0 })
            }
            Self::Chunked(chunks) => chunks.advance(input, payload),
        }
    }
}

/// Reads the chunked coding (RFC 9112 §7.1), strictly: what a lenient reader behind us could see differently is an
/// error, because chunks are passed on as they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    /// Bytes left in the chunk, or its size as far as it is read.
    left: u64,
    /// Length of the current line or of the trailer section so far.
    line: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before the first digit of a size.
    #[default]
    Size,
    Digits,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    /// At the start of a trailer line.
    Trailer,
    TrailerLine,
    TrailerLf,
    LastLf,
    Done,
}

impl Chunks {
    fn is_done(&self) -> bool {
        self.at == At::Done
    }

    fn advance(
        &mut self,
        input: &[u8],
        mut payload: impl FnMut(&[u8]),
    ) -> Result<Taken, BodyError> {
        let mut used = 0;
        while self.at != At::Done {
            let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) else {
                return Ok(Taken { used, done: false });
            };
            if self.at == At::Data {
                let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
                payload(rest.get(..n).unwrap_or_default());
                self.left -= n as u64;
                used += n;
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            let byte = rest.first().copied().unwrap_or_default();
            used += 1;
            self.line += 1;
            if self.line > MAX_LINE {
                return Err(BodyError);
            }
            self.step(byte)?;
        }
        Ok(Taken { used, done: true })
    }

    fn step(&mut self, byte: u8) -> Result<(), BodyError> {
        self.at = match (self.at, byte) {
            (At::Size | At::Digits, b) if b.is_ascii_hexdigit() => {
                if self.left >> 60 != 0 {
                    return Err(BodyError);
                }
                let digit = char::from(b).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
                At::Digits
            }
            (At::Digits | At::Extension, b'\r') => At::SizeEnd,
            (At::Digits, b';' | b' ' | b'\t') => At::Extension,
            (At::Extension, b) if b == b'\t' || !b.is_ascii_control() => At::Extension,
            (At::SizeEnd, b'\n') => {
                self.line = 0;
                if self.left == 0 { At::Trailer } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => {
                self.line = 0;
                At::Size
            }
            (At::Trailer, b'\r') => At::LastLf,
            (At::TrailerLine, b'\r') => At::TrailerLf,
            (At::Trailer | At::TrailerLine, b) if b == b'\t' || !b.is_ascii_control() => {
                At::TrailerLine
            }
            (At::TrailerLf, b'\n') => At::Trailer,
            (At::LastLf, b'\n') => At::Done,
            _ => return Err(BodyError),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn chunked() -> Body {
        Body::Chunked(Chunks::default())
    }

    fn read(body: &mut Body, input: &[u8]) -> Result<(Taken, Vec<u8>), BodyError> {
        let mut payload = Vec::new();
        body.advance(input, |bytes| payload.extend_from_slice(bytes)).map(|taken| (taken, payload))
    }

    proptest! {
        #[test]
        fn chunks_round_trip(chunks in vec(vec(any::<u8>(), 1..40), 0..6), cut in 1usize..50, trailer in any::<bool>()) {
            let mut bytes = Vec::new();
            for chunk in &chunks {
                bytes.extend(format!("{:X};x=\"y\"\r\n", chunk.len()).bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n");
            bytes.extend(if trailer { &b"A: b\r\nC: d\r\n\r\n"[..] } else { b"\r\n" });
            let len = bytes.len();
            bytes.extend(b"GET / HTTP/1.1\r\n");
            let (mut body, mut at, mut payload) = (chunked(), 0, Vec::new());
            let mut done = false;
            while !done {
                let piece = &bytes[at..(at + cut).min(bytes.len())];
                let (taken, part) = read(&mut body, piece).unwrap();
                prop_assert_eq!(taken.done, body.is_done());
                prop_assert!(taken.done || taken.used == piece.len());
                payload.extend(part);
                at += taken.used;
                done = taken.done;
            }
            prop_assert_eq!(at, len);
            prop_assert_eq!(payload, chunks.concat());
        }

        #[test]
        fn garbage_never_panics(input in vec(prop_oneof![any::<u8>(), prop::sample::select(&b"0aF\r\n; "[..])], 0..200)) {
            if let Ok((taken, payload)) = read(&mut chunked(), &input) {
                prop_assert!(payload.len() <= taken.used && taken.used <= input.len());
            }
        }

        #[test]
        fn lengths(length in 0u64..100, input in vec(any::<u8>(), 0..100)) {
            let mut body = Body::Length(length);
            let (taken, payload) = read(&mut body, &input).unwrap();
            prop_assert_eq!(taken.used as u64, length.min(input.len() as u64));
            prop_assert_eq!(taken.done, length <= input.len() as u64);
            prop_assert_eq!(&payload[..], &input[..taken.used]);
        }
    }

    #[test]
    fn strictness() {
        for bad in [
            "\r\n",
            "g\r\n",
            "1\na\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "0\r\n\n",
            "11111111111111111\r\n",
            "1 \n",
            "0\r\nA\n\r\n",
            "0x1\r\n",
            "-1\r\n",
        ] {
            assert_eq!(read(&mut chunked(), bad.as_bytes()), Err(BodyError), "{bad:?}");
        }
        let endless = format!("1;{}", "a".repeat(20_000));
        assert_eq!(read(&mut chunked(), endless.as_bytes()), Err(BodyError));
        let largest = read(&mut chunked(), b"FFFFFFFFFFFFFFFF\r\nabc").unwrap();
        assert_eq!(largest, (Taken { used: 21, done: false }, b"abc".to_vec()));
    }
}
