//! Frames (RFC 6455 §5), sans-IO. Binary messages are a stream of bytes here: where one ends means nothing.

use super::mask::{self, Key};

/// Longest head of a frame, in bytes.
pub const MAX_HEAD: usize = 14;

/// Longest payload of a frame that controls, in bytes.
pub const MAX_CONTROL: usize = 125;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// More of the message before.
    Continuation = 0,
    /// A message of text.
    Text = 1,
    /// A message of bytes.
    Binary = 2,
    /// No further frames follow.
    Close = 8,
    /// Wants its payload back.
    Ping = 9,
    /// Gives the payload of a ping back.
    Pong = 10,
}

/// What breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Extensions were not agreed on.
    #[error("websocket: reserved bits of a frame are used")]
    Reserved,
    /// No frame of this protocol.
    #[error("websocket: unknown kind of frame {0}")]
    Opcode(u8),
    /// A continuation of nothing.
    #[error("websocket: continuation without a message")]
    Continuation,
    /// Too long, or in several frames.
    #[error("websocket: bad control frame")]
    Control,
    /// More than 2⁶³ bytes.
    #[error("websocket: bad length of a frame")]
    Length,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Head {
    bytes: [u8; MAX_HEAD],
    len: u8,
}

impl Head {
    /// The head of a whole message, or of a frame that controls.
    #[must_use]
    pub fn new(opcode: Opcode, len: u64, key: Option<Key>) -> Self {
        let mut head = Self::default();
        head.push(&[0x80 | opcode as u8]);
        let masked = if key.is_some() { 0x80 } else { 0 };
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(len @ ..126), _) => head.push(&[masked | len]),
            (_, Ok(len)) => {
                head.push(&[masked | 126]);
                head.push(&len.to_be_bytes());
            }
            _ => {
                head.push(&[masked | 127]);
                head.push(&len.to_be_bytes());
            }
        }
        if let Some(key) = key {
            head.push(&key);
        }
        head
    }

    fn push(&mut self, bytes: &[u8]) {
        let at = usize::from(self.len);
        if let Some(space) = self.bytes.get_mut(at..at + bytes.len()) {
            space.copy_from_slice(bytes);
            self.len += bytes.len() as u8;
        }
    }

    /// As it is sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Drops the first `n` bytes, which were sent.
    pub fn advance(&mut self, n: usize) {
        let n = n.min(usize::from(self.len));
        self.bytes.copy_within(n.., 0);
        self.len -= n as u8;
    }
}

/// The payload of a frame that controls.
#[derive(Clone, Debug)]
pub struct Control {
    opcode: Opcode,
    bytes: [u8; MAX_CONTROL],
    len: u8,
}

impl Control {
    fn new(opcode: Opcode) -> Self {
        Self { opcode, bytes: [0; MAX_CONTROL], len: 0 }
    }

    fn push(&mut self, bytes: &[u8]) -> &mut [u8] {
        let at = usize::from(self.len);
        let Some(space) = self.bytes.get_mut(at..at + bytes.len()) else { return &mut [] };
        space.copy_from_slice(bytes);
        self.len += bytes.len() as u8;
        space
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Appends a frame that gives the payload back, or closes.
    pub fn emit(opcode: Opcode, payload: &[u8], key: Option<Key>, out: &mut Vec<u8>) {
        let payload = payload.get(..MAX_CONTROL).unwrap_or(payload);
        out.extend(Head::new(opcode, payload.len() as u64, key).bytes());
        let at = out.len();
        out.extend(payload);
        if let (Some(key), Some(payload)) = (key, out.get_mut(at..)) {
            mask::apply(key, payload);
        }
    }
}

/// What was found among the bytes beside payload.
#[derive(Debug, Default)]
pub struct Found {
    /// The last ping.
    pub ping: Option<Box<Control>>,
    /// The peer closes, with that code.
    pub close: Option<Option<u16>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Data,
    Skip,
    Control,
}

/// Takes frames apart, however they are cut.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The head that is being read.
    head: Head,
    /// Bytes of payload still to come.
    left: u64,
    /// For the next byte of payload; zero where it is not masked.
    key: Key,
    kind: Kind,
    /// What continuation frames continue.
    message: Option<Kind>,
    control: Option<Box<Control>>,
    /// The peer has closed: what it sends behind that is dropped.
    ended: bool,
    /// Frames behind one that closes are read.
    through: bool,
}

impl Decoder {
    /// Reads on behind a frame that closes: a peer may answer ours at once and still have data to send.
    pub fn through(&mut self) {
        self.through = true;
    }

    /// Bytes of payload still to come of the frame at hand.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Whether the stream may end here.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.ended || self.left == 0 && self.head.len == 0 && self.message.is_none()
    }

    /// Takes bytes from the wire apart and moves the payload among them to their front. Returns its length.
    ///
    /// # Errors
    /// The bytes are no frames.
    pub fn decode(&mut self, bytes: &mut [u8], found: &mut Found) -> Result<usize, FrameError> {
        let (mut at, mut kept) = (0, 0);
        while at < bytes.len() && !self.ended {
            if self.left == 0 {
                at += self.read_head(bytes.get(at..).unwrap_or_default(), found)?;
                continue;
            }
            let n = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
            let part = at..at + n;
            match self.kind {
                Kind::Skip => {}
                Kind::Data => {
                    if at != kept {
                        bytes.copy_within(part, kept);
                    }
                    if self.key != [0; 4] {
                        mask::apply(self.key, bytes.get_mut(kept..kept + n).unwrap_or_default());
                    }
                    kept += n;
                }
                Kind::Control => {
                    if let Some(control) = &mut self.control {
                        let copy = control.push(bytes.get(part).unwrap_or_default());
                        mask::apply(self.key, copy);
                    }
                }
            }
            self.key = mask::behind(self.key, n);
            self.left -= n as u64;
            at += n;
            if self.left == 0 {
                self.end(found)?;
            }
        }
        Ok(kept)
    }

    /// Reads more of a head; returns how many bytes that took.
    fn read_head(&mut self, bytes: &[u8], found: &mut Found) -> Result<usize, FrameError> {
        let mut taken = 0;
        loop {
            let need = match *self.head.bytes() {
                [_, second, ..] => {
                    let length = match second & 0x7f {
                        126 => 2,
                        127 => 8,
                        _ => 0,
                    };
                    2 + length + if second & 0x80 == 0 { 0 } else { 4 }
                }
                _ => 2,
            };
            let have = usize::from(self.head.len);
            if have == need {
                let head = std::mem::take(&mut self.head);
                self.begin(head.bytes())?;
                if self.left == 0 {
                    self.end(found)?;
                }
                return Ok(taken);
            }
            let more = bytes.get(taken..).unwrap_or_default();
            let more = more.get(..need - have).unwrap_or(more);
            if more.is_empty() {
                return Ok(taken);
            }
            self.head.push(more);
            taken += more.len();
        }
    }

    /// Begins with the payload behind a head.
    fn begin(&mut self, head: &[u8]) -> Result<(), FrameError> {
        let [first, second, rest @ ..] = head else { return Ok(()) };
        let (is_last, is_masked) = (first & 0x80 != 0, second & 0x80 != 0);
        if first & 0x70 != 0 {
            return Err(FrameError::Reserved);
        }
        let (length, key) = if is_masked {
            let (length, key) = rest.split_last_chunk::<4>().ok_or(FrameError::Length)?;
            (length, *key)
        } else {
            (rest, [0; 4])
        };
        // A frame counts whether it is masked or not, as in the reference.
        self.key = key;
        self.left = match *length {
            [] => u64::from(second & 0x7f),
            [a, b] => u16::from_be_bytes([a, b]).into(),
            [a, b, c, d, e, f, g, h] => u64::from_be_bytes([a, b, c, d, e, f, g, h]),
            _ => return Err(FrameError::Length),
        };
        if self.left > i64::MAX as u64 {
            return Err(FrameError::Length);
        }
        let opcode = first & 0x0f;
        self.kind = match opcode {
            0 => self.message.ok_or(FrameError::Continuation)?,
            // The reference drops text.
            1 => Kind::Skip,
            2 => Kind::Data,
            8..=10 => {
                if !is_last || self.left > MAX_CONTROL as u64 {
                    return Err(FrameError::Control);
                }
                let opcode = match opcode {
                    8 => Opcode::Close,
                    9 => Opcode::Ping,
                    _ => Opcode::Pong,
                };
                self.control = Some(Box::new(Control::new(opcode)));
                self.kind = Kind::Control;
                return Ok(());
            }
            other => return Err(FrameError::Opcode(other)),
        };
        self.message = (!is_last).then_some(self.kind);
        Ok(())
    }

    /// The payload is complete.
    fn end(&mut self, found: &mut Found) -> Result<(), FrameError> {
        let Some(control) = self.control.take() else { return Ok(()) };
        match control.opcode {
            Opcode::Ping => found.ping = Some(control),
            Opcode::Close => {
                found.close = Some(match *control.payload() {
                    [] => None,
                    [a, b, ..] => Some(u16::from_be_bytes([a, b])),
                    [_] => return Err(FrameError::Control),
                });
                self.ended = !self.through;
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn decode(bytes: &[u8], cut: usize) -> Result<(Vec<u8>, Found, Decoder), FrameError> {
        let (mut decoder, mut found) = (Decoder::default(), Found::default());
        let mut payload = Vec::new();
        for part in bytes.chunks(cut.max(1)) {
            let mut part = part.to_vec();
            let n = decoder.decode(&mut part, &mut found)?;
            payload.extend(&part[..n]);
        }
        Ok((payload, found, decoder))
    }

    fn emit(opcode: Opcode, payload: &[u8], key: Option<Key>) -> Vec<u8> {
        let mut bytes = Head::new(opcode, payload.len() as u64, key).bytes().to_vec();
        let mut payload = payload.to_vec();
        mask::apply(key.unwrap_or_default(), &mut payload);
        bytes.extend(payload);
        bytes
    }

    /// RFC 6455 §5.7.
    #[test]
    fn examples_of_the_specification() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let ping = [0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(emit(Opcode::Ping, b"Hello", Some(key)), ping);
        let (_, found, _) = decode(&ping, 100).unwrap();
        assert_eq!(found.ping.unwrap().payload(), b"Hello");
        let mut pong = Vec::new();
        Control::emit(Opcode::Pong, b"Hello", Some(key), &mut pong);
        assert_eq!(pong[1..], ping[1..]);
        assert_eq!(Head::new(Opcode::Binary, 256, None).bytes(), [0x82, 0x7e, 1, 0]);
        assert_eq!(
            Head::new(Opcode::Binary, 65536, None).bytes(),
            [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]
        );
        assert_eq!(Head::new(Opcode::Binary, 125, None).bytes(), [0x82, 125]);
        assert_eq!(Head::new(Opcode::Binary, 65535, None).bytes(), [0x82, 126, 255, 255]);
    }

    #[test]
    fn messages_in_pieces_with_a_ping_between() {
        let mut bytes = vec![0x02, 1, b'a', 0x89, 1, b'p', 0x00, 1, b'b', 0x80, 0, 0x01, 1, b'x'];
        bytes.extend([0x80, 1, b'y', 0x82, 1, b'c']);
        for cut in 1..bytes.len() {
            let (payload, found, decoder) = decode(&bytes, cut).unwrap();
            assert_eq!(payload, b"abc", "text is dropped");
            assert_eq!(found.ping.unwrap().payload(), b"p");
            assert!(decoder.is_between());
        }
        let (.., decoder) = decode(&bytes[..3], 9).unwrap();
        assert!(!decoder.is_between(), "within a message");
    }

    #[test]
    fn nothing_counts_behind_a_close() {
        let bytes = [0x82, 1, b'a', 0x88, 2, 3, 0xe8, 0x82, 1, b'b'];
        let (payload, found, decoder) = decode(&bytes, 3).unwrap();
        assert_eq!((payload.as_slice(), found.close), (&b"a"[..], Some(Some(1000))));
        assert!(decoder.is_between());
        let (mut decoder, mut found, mut bytes) = (Decoder::default(), Found::default(), bytes);
        decoder.through();
        let n = decoder.decode(&mut bytes, &mut found).unwrap();
        assert_eq!(&bytes[..n], b"ab", "unless that is wanted");
    }

    #[test]
    fn broken_frames() {
        for (bytes, error) in [
            (&[0xc2, 0][..], FrameError::Reserved),
            (&[0x83, 0], FrameError::Opcode(3)),
            (&[0x8b, 0], FrameError::Opcode(11)),
            (&[0x80, 0], FrameError::Continuation),
            (&[0x09, 0], FrameError::Control),
            (&[0x88, 1, 0], FrameError::Control),
            (&[0x89, 126, 0, 126], FrameError::Control),
            (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], FrameError::Length),
        ] {
            for cut in 1..=bytes.len() {
                assert_eq!(decode(bytes, cut).map(|_| ()).unwrap_err(), error, "{bytes:?}");
            }
        }
        // A length alone reserves nothing.
        let (.., decoder) =
            decode(&[0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255], 4).unwrap();
        assert_eq!(decoder.left(), i64::MAX as u64);
    }

    proptest! {
        #[test]
        fn what_is_sent_is_received(
            frames in vec((vec(any::<u8>(), 0..300), any::<Option<Key>>(), any::<bool>()), 0..8),
            cut in 1..400usize,
        ) {
            let (mut bytes, mut sent) = (Vec::new(), Vec::new());
            for (payload, key, is_data) in frames {
                if is_data {
                    bytes.extend(emit(Opcode::Binary, &payload, key));
                    sent.extend(payload);
                } else {
                    Control::emit(Opcode::Ping, &payload, key, &mut bytes);
                }
            }
            let (payload, _, decoder) = decode(&bytes, cut).unwrap();
            prop_assert_eq!(payload, sent);
            prop_assert!(decoder.is_between());
        }

        #[test]
        fn cuts_make_no_difference(bytes in vec(any::<u8>(), 0..200), cut in 1..50usize) {
            let whole = decode(&bytes, usize::MAX).map(|(payload, ..)| payload);
            let parts = decode(&bytes, cut).map(|(payload, ..)| payload);
            prop_assert_eq!(whole, parts);
        }
    }
}
