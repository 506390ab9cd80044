//! The messages of the gRPC service `GunService`, in which V2Ray carries streams.
//!
//! A message is a flag (0: not compressed), its length as 4 bytes, big endian, and that many bytes of Protocol Buffers
//! (gRPC over HTTP/2, `Length-Prefixed-Message`): `Hunk` with bytes in field 1, or `MultiHunk` with several of them. The
//! payload of all such fields in their order is the stream. It is handed on while it arrives, so that no length of the peer
//! makes us keep anything.

use std::io;

use bytes::BufMut;

/// Bytes of the flag and the length of a message.
const PREFIX: usize = 5;

/// The key of field 1 with bytes in it.
const DATA: u8 = 1 << 3 | 2;

/// Bytes in the longest number of Protocol Buffers.
const VARINT: u8 = 10;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GunError {
    /// We announced no compression.
    #[error("gRPC message with compression flag {0}")]
    Compressed(u8),
    /// A number of more than 64 bits.
    #[error("gRPC message with a number that is too long")]
    Number,
    /// A field longer than its message.
    #[error("gRPC message that ends within a field")]
    Length,
    /// A field number or type that there is not.
    #[error("gRPC message with field key {0:#x}")]
    Key(u64),
}

impl From<GunError> for io::Error {
    fn from(error: GunError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// What the input starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// So many bytes that are none of the stream, to be dropped.
    pub framing: usize,
    /// So many bytes of the stream, which follow those. How many of them were used is told by [`Reader::taken`].
    pub payload: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the prefix, with so many bytes of it read.
    Prefix(u8),
    /// In a key: the number so far, and its bytes.
    Key(u64, u8),
    /// In the length of a field, which is payload or not.
    Length { number: u64, bytes: u8, payload: bool },
    /// In a number that nobody wants, with so many bytes of it read.
    Number(u8),
    /// In something that nobody wants, with so many bytes to come.
    Skip(u32),
    /// In payload, with so many bytes to come.
    Payload(u32),
}

/// Finds the payload in messages.
#[derive(Clone, Debug)]
pub struct Reader {
    state: State,
    /// Bytes of the message that are to come.
    left: u32,
}

impl Default for Reader {
    fn default() -> Self {
        Self { state: State::Prefix(0), left: 0 }
    }
}

impl Reader {
    /// Looks at what has arrived. For any input but an empty one, at least one of the two numbers is not 0.
    ///
    /// # Errors
    /// The input is no such message.
    pub fn step(&mut self, input: &[u8]) -> Result<Step, GunError> {
        let mut at = 0;
        while at < input.len() {
            match self.state {
                State::Payload(left) => {
                    let there = input.len() - at;
                    let payload = there.min(left as usize);
                    return Ok(Step { framing: at, payload });
                }
                State::Skip(left) => {
                    let n = (input.len() - at).min(left as usize);
                    at += n;
                    // At most `left`, which is a u32.
                    let n = n as u32;
                    self.left -= n;
                    self.state =
                        if n == left { self.between_fields() } else { State::Skip(left - n) };
                }
                _ => {
                    self.byte(input[at])?;
                    at += 1;
                }
            }
        }
        Ok(Step { framing: at, payload: 0 })
    }

    /// So many bytes of the payload were used, at most as many as [`step`](Self::step) found.
    pub fn taken(&mut self, n: usize) {
        let State::Payload(left) = self.state else { return };
        let n = u32::try_from(n).unwrap_or(left).min(left);
        self.left -= n;
        self.state = if n == left { self.between_fields() } else { State::Payload(left - n) };
    }

    /// Whether a stream may end here.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.state == State::Prefix(0)
    }

    fn between_fields(&self) -> State {
        if self.left == 0 { State::Prefix(0) } else { State::Key(0, 0) }
    }

    /// Takes one byte that is no payload.
    fn byte(&mut self, byte: u8) -> Result<(), GunError> {
        if let State::Prefix(have) = self.state {
            if have == 0 {
                if byte != 0 {
                    return Err(GunError::Compressed(byte));
                }
                self.left = 0;
            } else {
                self.left = self.left << 8 | u32::from(byte);
            }
            self.state = match usize::from(have) + 1 {
                PREFIX => self.between_fields(),
                _ => State::Prefix(have + 1),
            };
            return Ok(());
        }
        // Between fields there is something left; within one the number must not exceed the message.
        self.left = self.left.checked_sub(1).ok_or(GunError::Length)?;
        let more = byte & 0x80 != 0;
        self.state = match self.state {
            State::Key(number, bytes) => {
                let number = digit(number, bytes, byte)?;
                if more { State::Key(number, bytes + 1) } else { self.field(number)? }
            }
            State::Length { number, bytes, payload } => {
                let number = digit(number, bytes, byte)?;
                if more {
                    State::Length { number, bytes: bytes + 1, payload }
                } else {
                    self.body(number, payload)?
                }
            }
            State::Number(bytes) => match (more, bytes + 1) {
                (true, VARINT) => return Err(GunError::Number),
                (true, bytes) => State::Number(bytes),
                (false, _) => self.between_fields(),
            },
            state => state,
        };
        if self.left == 0 && !matches!(self.state, State::Prefix(_)) {
            return Err(GunError::Length);
        }
        Ok(())
    }

    /// What follows a key.
    fn field(&self, key: u64) -> Result<State, GunError> {
        if key >> 3 == 0 || key > u64::from(u32::MAX) {
            return Err(GunError::Key(key));
        }
        match key & 7 {
            0 => Ok(State::Number(0)),
            1 => self.body(8, false),
            2 => Ok(State::Length { number: 0, bytes: 0, payload: key == u64::from(DATA) }),
            5 => self.body(4, false),
            _ => Err(GunError::Key(key)),
        }
    }

    /// A field of so many bytes.
    fn body(&self, length: u64, payload: bool) -> Result<State, GunError> {
        match u32::try_from(length) {
            Ok(length) if length <= self.left => Ok(match (length, payload) {
                (0, _) => self.between_fields(),
                (length, true) => State::Payload(length),
                (length, false) => State::Skip(length),
            }),
            _ => Err(GunError::Length),
        }
    }
}

/// One more byte of a number.
fn digit(number: u64, bytes: u8, byte: u8) -> Result<u64, GunError> {
    let bits = u64::from(byte & 0x7f);
    // The tenth byte holds the last bit.
    if bytes + 1 > VARINT || bytes + 1 == VARINT && byte > 1 {
        return Err(GunError::Number);
    }
    Ok(number | bits << (7 * u32::from(bytes)))
}

/// Bytes of the number `n`.
fn varint_len(n: usize) -> usize {
    (usize::BITS - n.leading_zeros()).div_ceil(7).max(1) as usize
}

/// Bytes in front of a payload of `n` bytes in a message of its own.
#[must_use]
pub fn head_len(n: usize) -> usize {
    PREFIX + 1 + varint_len(n)
}

/// Appends those to `out`. `n` is less than 4 GiB.
pub fn put_head(n: usize, out: &mut impl BufMut) {
    let message = 1 + varint_len(n) + n;
    out.put_u8(0);
    // A frame of HTTP/2 could not hold more.
    out.put_u32(message as u32);
    out.put_u8(DATA);
    let mut rest = n;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;

    /// Reads `pieces` to the end, `most` bytes of payload at a time.
    fn read(pieces: &[&[u8]], most: usize) -> Result<(Vec<u8>, bool), GunError> {
        let mut reader = Reader::default();
        let mut out = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let step = reader.step(rest)?;
                assert!(step.framing + step.payload > 0, "no progress");
                rest = &rest[step.framing..];
                let n = step.payload.min(most);
                out.extend_from_slice(&rest[..n]);
                reader.taken(n);
                rest = &rest[n..];
            }
        }
        Ok((out, reader.is_between()))
    }

    fn whole(input: &[u8]) -> Result<(Vec<u8>, bool), GunError> {
        read(&[input], usize::MAX)
    }

    fn message(body: &[u8]) -> Vec<u8> {
        let mut out = vec![0];
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn a_hunk_is_what_the_reference_writes() {
        let mut out = BytesMut::new();
        put_head(300, &mut out);
        assert_eq!(out[..], [0, 0, 0, 1, 47, 0x0a, 0xac, 0x02]);
        assert_eq!(out.len(), head_len(300));
    }

    #[test]
    fn numbers_are_as_long_as_they_must_be() {
        for (n, len) in [(0, 1), (1, 1), (127, 1), (128, 2), (16383, 2), (16384, 3), (65536, 3)] {
            assert_eq!(varint_len(n), len, "{n}");
        }
    }

    #[test]
    fn messages_without_payload_are_nothing() {
        // proto3 leaves an empty field out, others write it.
        assert_eq!(whole(&[0, 0, 0, 0, 0]), Ok((vec![], true)));
        assert_eq!(whole(&message(&[0x0a, 0])), Ok((vec![], true)));
        assert_eq!(whole(&[]), Ok((vec![], true)));
    }

    #[test]
    fn several_hunks_and_fields_of_others() {
        let body = [
            0x0a, 2, b'a', b'b', // data
            0x10, 0xff, 0x01, // field 2, a number
            0x19, 1, 2, 3, 4, 5, 6, 7, 8, // field 3, 64 bits
            0x0a, 1, b'c', // data
            0x22, 2, 9, 9, // field 4, bytes
            0x2d, 1, 2, 3, 4, // field 5, 32 bits
            0x0a, 0, // data, empty
            0x22, 0, // field 4, empty
        ];
        let mut input = message(&body);
        input.extend_from_slice(&message(&[0x0a, 1, b'd']));
        assert_eq!(whole(&input), Ok((b"abcd".to_vec(), true)));
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(read(&bytes, 1), Ok((b"abcd".to_vec(), true)));
    }

    #[test]
    fn lies_are_found() {
        assert_eq!(whole(&[1, 0, 0, 0, 0]), Err(GunError::Compressed(1)));
        // Fields that are longer than their message.
        assert_eq!(whole(&message(&[0x0a, 1])), Err(GunError::Length));
        assert_eq!(whole(&message(&[0x0a, 3, 1, 2])), Err(GunError::Length));
        assert_eq!(whole(&message(&[0x22, 3, 1, 2])), Err(GunError::Length));
        assert_eq!(whole(&message(&[0x0a])), Err(GunError::Length));
        assert_eq!(whole(&message(&[0x8a])), Err(GunError::Length));
        assert_eq!(whole(&message(&[0x10])), Err(GunError::Length));
        assert_eq!(whole(&message(&[0x19, 1])), Err(GunError::Length));
        // Numbers without end.
        let long = message(&[&[0x0a][..], &[0xff; 12]].concat());
        assert_eq!(whole(&long), Err(GunError::Number));
        let long = message(&[&[0x10][..], &[0xff; 12]].concat());
        assert_eq!(whole(&long), Err(GunError::Number));
        // A length of 2^63 and one of 2^32.
        let big = message(&[0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]);
        assert_eq!(whole(&[&big[..], &[0; 9]].concat()), Err(GunError::Length));
        // No field 0, no groups.
        assert_eq!(whole(&message(&[0x02, 0])), Err(GunError::Key(2)));
        assert_eq!(whole(&message(&[0x0b, 0])), Err(GunError::Key(0x0b)));
    }

    #[test]
    fn an_end_within_a_message_shows() {
        let input = message(&[0x0a, 3, 1, 2, 3]);
        for end in 1..input.len() {
            assert!(!whole(&input[..end]).unwrap().1, "{end}");
        }
    }

    proptest! {
        #[test]
        fn what_is_framed_is_read(
            hunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..600), 0..12),
            cuts in prop::collection::vec(1..97usize, 1..8),
            most in 1..700usize,
        ) {
            let mut wire = BytesMut::new();
            for hunk in &hunks {
                put_head(hunk.len(), &mut wire);
                wire.put_slice(hunk);
            }
            let mut pieces = Vec::new();
            let mut rest = &wire[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(read(&pieces, most), Ok((hunks.concat(), true)));
        }

        #[test]
        fn noise_ends(input in prop::collection::vec(any::<u8>(), 0..400), cut in 1..50usize) {
            let pieces: Vec<&[u8]> = input.chunks(cut).collect();
            let by_pieces = read(&pieces, 7);
            let at_once = whole(&input);
            prop_assert_eq!(by_pieces, at_once);
        }
    }
}
