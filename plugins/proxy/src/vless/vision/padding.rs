//! Padded blocks, without any I/O: the id (16 bytes, in front of the first block), command, length of the content (2
//! bytes), length of the padding (2), content, padding (Xray `proxy/proxy.go`, sing-vmess `vless/vision.go`).

use aws_lc_rs::rand;

use super::Filter;
use crate::uuid::Uuid;

/// Most data that is padded as one packet: what a buffer of Xray holds.
const PACKET: usize = 8192;

/// A packet as long as this is cut in two, so that its second half begins with a record of application data.
const LONG: usize = PACKET - 21;

/// Header of a record of application data.
const APPLICATION: [u8; 3] = [0x17, 3, 3];

/// Length of a block's head.
const HEAD: usize = 5;

/// What comes after a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Another block.
    Continue = 0,
    /// The rest of the stream, not padded.
    End = 1,
    /// The rest of the stream, not padded and not encrypted.
    Direct = 2,
}

/// Pads the beginning of a direction.
#[derive(Clone, Debug)]
pub struct Padder {
    id: Option<Uuid>,
}

impl Padder {
    /// A direction that has not begun.
    #[must_use]
    pub fn new(id: Uuid) -> Self {
        Self { id: Some(id) }
    }

    /// Appends the beginning of `data`, a packet at most, in blocks. Returns how many bytes were taken, and the command of
    /// the last block. Unless that is [`Command::Continue`], the rest is not to be padded.
    pub fn pad(&mut self, filter: &mut Filter, data: &[u8], out: &mut Vec<u8>) -> (usize, Command) {
        let packet = &data[..data.len().min(PACKET)];
        filter.look(packet);
        let (first, second) = packet.split_at(cut(packet));
        let mut taken = 0;
        for piece in [first, second] {
            if piece.is_empty() {
                break;
            }
            let command = if filter.is_tls() && piece.len() > 6 && piece.starts_with(&APPLICATION) {
                if filter.is_direct() { Command::Direct } else { Command::End }
            } else if filter.is_plain() {
                Command::End
            } else {
                Command::Continue
            };
            self.block(command, piece, padding(piece.len(), filter.is_tls()), out);
            taken += piece.len();
            if command != Command::Continue {
                return (taken, command);
            }
        }
        (taken, Command::Continue)
    }

    /// Appends a block without content and with a long padding, which goes with a request that has no data yet.
    pub fn pad_nothing(&mut self, out: &mut Vec<u8>) {
        self.block(Command::Continue, &[], padding(0, true), out);
    }

    /// Appends a block. `content` has at most 65,535 bytes; more are cut off.
    pub fn block(&mut self, command: Command, content: &[u8], padding: u16, out: &mut Vec<u8>) {
        if let Some(id) = self.id.take() {
            out.extend(id);
        }
        let content = &content[..content.len().min(usize::from(u16::MAX))];
        out.push(command as u8);
        out.extend((content.len() as u16).to_be_bytes());
        out.extend(padding.to_be_bytes());
        out.extend(content);
        out.resize(out.len() + usize::from(padding), 0);
    }
}

/// Where a packet is cut: at its end, unless it is long.
fn cut(packet: &[u8]) -> usize {
    if packet.len() < LONG {
        return packet.len();
    }
    let records = packet.windows(APPLICATION.len()).rposition(|window| window == APPLICATION);
    records.filter(|at| *at > 0).unwrap_or(PACKET / 2)
}

/// Length of a padding: what is short in a handshake becomes as long as what is not.
fn padding(content: usize, long: bool) -> u16 {
    let mut random = [0; 2];
    // Without randomness paddings are as short as they may be.
    let _ = rand::fill(&mut random);
    let random = u16::from_ne_bytes(random);
    match u16::try_from(content) {
        Ok(content @ ..900) if long => random % 500 + 900 - content,
        _ => random % 256,
    }
}

/// A command that nobody knows, or an id that is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PaddingError {
    /// The command of a block.
    #[error("unknown command {0}")]
    Command(u8),
    /// The stream begins like a padded one, and is none.
    #[error("padding begins with another id")]
    Id,
}

/// Takes the padding away at the other end of the direction.
#[derive(Clone, Debug)]
pub struct Unpadder {
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Id { id: Uuid, seen: u8 },
    Head { head: [u8; HEAD], seen: u8 },
    Body { command: Command, content: u16, padding: u16 },
    Over(Command),
}

impl Unpadder {
    /// A direction that has not begun.
    #[must_use]
    pub fn new(id: Uuid) -> Self {
        Self { state: State::Id { id, seen: 0 } }
    }

    /// What comes after the bytes that were seen.
    #[must_use]
    pub fn next(&self) -> Command {
        match self.state {
            State::Over(command) => command,
            _ => Command::Continue,
        }
    }

    /// Moves the content in `bytes` to their front; returns how much it is. What begins with another id is not padded.
    ///
    /// # Errors
    /// See [`PaddingError`].
    pub fn unpad(&mut self, bytes: &mut [u8]) -> Result<usize, PaddingError> {
        let (mut at, mut kept) = (0, 0);
        while at < bytes.len() {
            match &mut self.state {
                State::Id { id, seen } => {
                    let rest = &id[usize::from(*seen)..];
                    let n = rest.len().min(bytes.len() - at);
                    if bytes[at..at + n] != rest[..n] {
                        if *seen > 0 {
                            return Err(PaddingError::Id);
                        }
                        self.state = State::Over(Command::End);
                        continue;
                    }
                    at += n;
                    *seen += n as u8;
                    if n == rest.len() {
                        self.state = State::Head { head: [0; HEAD], seen: 0 };
                    }
                }
                State::Head { head, seen } => {
                    head[usize::from(*seen)] = bytes[at];
                    at += 1;
                    *seen += 1;
                    if usize::from(*seen) < HEAD {
                        continue;
                    }
                    let [command, content @ .., _, _] = *head;
                    let command = match command {
                        0 => Command::Continue,
                        1 => Command::End,
                        2 => Command::Direct,
                        other => return Err(PaddingError::Command(other)),
                    };
                    let padding = u16::from_be_bytes([head[3], head[4]]);
                    self.begin(command, u16::from_be_bytes(content), padding);
                }
                State::Body { command, content, padding } => {
                    let (command, mut content, mut padding) = (*command, *content, *padding);
                    let n = usize::from(content).min(bytes.len() - at);
                    bytes.copy_within(at..at + n, kept);
                    (at, kept, content) = (at + n, kept + n, content - n as u16);
                    let n = usize::from(padding).min(bytes.len() - at);
                    (at, padding) = (at + n, padding - n as u16);
                    self.begin(command, content, padding);
                }
                State::Over(_) => {
                    bytes.copy_within(at.., kept);
                    return Ok(kept + bytes.len() - at);
                }
            }
        }
        Ok(kept)
    }

    fn begin(&mut self, command: Command, content: u16, padding: u16) {
        self.state = match (content, padding, command) {
            (0, 0, Command::Continue) => State::Head { head: [0; HEAD], seen: 0 },
            (0, 0, command) => State::Over(command),
            _ => State::Body { command, content, padding },
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: Uuid = *b"0123456789abcdef";

    fn unpad(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, Command), PaddingError> {
        let (mut unpadder, mut out) = (Unpadder::new(ID), Vec::new());
        for piece in bytes.chunks(piece.max(1)) {
            let mut piece = piece.to_vec();
            let n = unpadder.unpad(&mut piece)?;
            out.extend(&piece[..n]);
        }
        Ok((out, unpadder.next()))
    }

    #[test]
    fn blocks_as_others_write_them() {
        let mut out = Vec::new();
        let mut padder = Padder::new(ID);
        padder.block(Command::Continue, b"ab", 3, &mut out);
        padder.block(Command::Direct, b"", 0, &mut out);
        let mut expected = ID.to_vec();
        expected.extend(b"\0\0\x02\0\x03ab\0\0\0\x02\0\0\0\0");
        assert_eq!(out, expected);
    }

    #[test]
    fn commands_follow_the_traffic() {
        let (mut padder, mut filter, mut out) = (Padder::new(ID), Filter::default(), Vec::new());
        let hello = [&[22, 3, 1, 2, 0, 1, 0, 1][..], &[0; 509]].concat();
        assert_eq!(padder.pad(&mut filter, &hello, &mut out), (517, Command::Continue));
        // The id, the head, and the padding makes it 900 bytes at least.
        assert!((16 + 5 + 900..16 + 5 + 1400).contains(&out.len()), "{}", out.len());
        // The other direction.
        let mut other = [&[22, 3, 3, 0, 122, 2, 0, 0, 118, 3, 3][..], &[0; 116]].concat();
        other[43] = 32;
        other[76..78].copy_from_slice(&[0x13, 1]);
        other[100..106].copy_from_slice(&[0, 0x2b, 0, 2, 3, 4]);
        filter.look(&other);
        assert!(filter.is_direct());
        let finished = [&[20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 53][..], &[0; 53]].concat();
        assert_eq!(padder.pad(&mut filter, &finished, &mut out), (64, Command::Continue));
        let data = [&[23, 3, 3, 0, 53][..], &[0; 53]].concat();
        assert_eq!(padder.pad(&mut filter, &data, &mut out), (58, Command::Direct));
        let (content, next) = unpad(&out, 1000).unwrap();
        assert_eq!((content, next), ([hello, finished, data].concat(), Command::Direct));
    }

    #[test]
    fn a_long_packet_is_cut_before_a_record() {
        let (mut padder, mut filter, mut out) = (Padder::new(ID), Filter::default(), Vec::new());
        filter.look(&[22, 3, 1, 2, 0, 1, 0, 1]);
        let mut long = vec![1; 20_000];
        long[8000..8003].copy_from_slice(&APPLICATION);
        // Not TLS 1.3 as far as is known: the padding ends, the encryption stays.
        assert_eq!(padder.pad(&mut filter, &long, &mut out), (8192, Command::End));
        long[8000] = 0;
        let mut padder = Padder::new(ID);
        assert_eq!(padder.pad(&mut filter, &long, &mut out), (8192, Command::Continue));
    }

    #[test]
    fn plain_traffic_is_padded_for_some_packets() {
        let (mut padder, mut filter, mut out) = (Padder::new(ID), Filter::default(), Vec::new());
        for _ in 0..6 {
            assert_eq!(padder.pad(&mut filter, b"hello", &mut out), (5, Command::Continue));
        }
        assert_eq!(padder.pad(&mut filter, b"hello", &mut out), (5, Command::End));
        assert_eq!(unpad(&out, 7), Ok((b"hello".repeat(7), Command::End)));
    }

    #[test]
    fn what_is_not_padded_passes() {
        assert_eq!(unpad(b"HTTP/1.1 200 OK", 100), Ok((b"HTTP/1.1 200 OK".to_vec(), Command::End)));
        assert_eq!(unpad(b"0123HTTP/1.1", 100).map(|(out, _)| out), Ok(b"0123HTTP/1.1".to_vec()));
        assert_eq!(unpad(b"0123HTTP/1.1", 2), Err(PaddingError::Id));
        let mut bad = ID.to_vec();
        bad.extend([3, 0, 0, 0, 0]);
        assert_eq!(unpad(&bad, 100), Err(PaddingError::Command(3)));
    }

    proptest! {
        #[test]
        fn unpadding_undoes_padding(
            blocks in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..300), 0u16..300), 0..6),
            last in 1u8..3, tail: Vec<u8>, piece in 1usize..600,
        ) {
            let last = if last == 1 { Command::End } else { Command::Direct };
            let (mut padder, mut bytes, mut expected) = (Padder::new(ID), Vec::new(), Vec::new());
            for (content, padding) in &blocks {
                padder.block(Command::Continue, content, *padding, &mut bytes);
                expected.extend(content);
            }
            padder.block(last, b"last", 9, &mut bytes);
            expected.extend(b"last");
            bytes.extend(&tail);
            expected.extend(&tail);
            prop_assert_eq!(unpad(&bytes, piece), Ok((expected, last)));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, padded: bool, piece in 1usize..50) {
            let mut all = if padded { ID.to_vec() } else { Vec::new() };
            all.extend(bytes);
            let _ = unpad(&all, piece);
        }
    }
}
