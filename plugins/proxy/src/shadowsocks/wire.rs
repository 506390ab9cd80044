//! Chunks and headers: SIP004 and SIP022, without any I/O.
//!
//! A stream is a salt and then chunks. A plain chunk is a sealed length (2 bytes) and a sealed payload; a SIP022
//! stream begins with two chunks of known length, which hold its header. Sources: SIP004, SIP022, and
//! sing-shadowsocks `shadowaead_2022/protocol.go` for the order of identity headers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crosspoint_kernel::addr::Target;

use super::{
    cipher::{Counter, Forged, Key, TAG},
    method::Family,
};
use crate::address::{self, AddressError};

/// Longest payload of a chunk of SIP004.
const CHUNK_AEAD: usize = 0x3fff;

/// Longest payload of a chunk of SIP022.
const CHUNK_2022: usize = 0xffff;

/// Payload of the chunks of a long piece: it divides what is read and sealed at once.
const PART: usize = 0x8000;

/// How far a clock may be off (SIP022 §3.1.3).
pub const CLOCK_SKEW: Duration = Duration::from_secs(30);

/// Longest padding that is made (SIP022 §3.1.3).
pub const PADDING: usize = 900;

/// Length of the first header of a request without tag: type, time, length.
pub const REQUEST: usize = 1 + 8 + 2;

/// Types of headers.
pub const CLIENT: u8 = 0;
/// See [`CLIENT`].
pub const SERVER: u8 = 1;

/// What is wrong with the other side's bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not sealed with our key.
    #[error(transparent)]
    Forged(#[from] Forged),
    /// A header of another type.
    #[error("bad header type: {0}")]
    Type(u8),
    /// The clocks differ by this many seconds.
    #[error("bad timestamp: clocks differ by {0} s")]
    Time(u64),
    /// The answer is to another request.
    #[error("bad request salt")]
    Salt,
    /// A salt that was used before.
    #[error("salt not unique")]
    Replay,
    /// A datagram that came before.
    #[error("packet id not unique")]
    PacketReplay,
    /// Nobody has this identity.
    #[error("unknown user")]
    User,
    /// The destination.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A header that promises more than there is, or has neither padding nor payload.
    #[error("bad request: {0}")]
    Header(&'static str),
}

/// Seals one direction.
#[derive(Debug)]
pub struct Sealer {
    key: Key,
    nonce: Counter,
    most: usize,
}

/// Longest payload of a chunk.
#[must_use]
pub fn chunk_most(family: Family) -> usize {
    if matches!(family, Family::Aead2022(_)) { CHUNK_2022 } else { CHUNK_AEAD }
}

impl Sealer {
    /// A direction that begins.
    #[must_use]
    pub fn new(key: Key, family: Family) -> Self {
        Self { key, nonce: Counter::default(), most: chunk_most(family) }
    }

    /// Longest payload that one chunk takes.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// Seals what lies in `out` from `from` on as one message.
    ///
    /// # Errors
    /// The message is too long.
    pub fn seal(&mut self, out: &mut Vec<u8>, from: usize) -> Result<(), Forged> {
        let message = out.get_mut(from..).ok_or(Forged)?;
        let tag = self.key.seal(&self.nonce.advance(), message)?;
        out.extend(tag);
        Ok(())
    }

    /// Appends chunks with the whole payload.
    ///
    /// # Errors
    /// Never with payloads from memory.
    pub fn chunks(&mut self, out: &mut Vec<u8>, payload: &[u8]) -> Result<(), Forged> {
        // Of equal length: readers with buffers of a power of two then fill them with whole chunks.
        let count = payload.len().div_ceil(self.most.min(PART)).max(1);
        for part in payload.chunks(payload.len().div_ceil(count).max(1)) {
            let at = out.len();
            out.extend((part.len() as u16).to_be_bytes());
            self.seal(out, at)?;
            let at = out.len();
            out.extend(part);
            self.seal(out, at)?;
        }
        Ok(())
    }
}

/// Opens one direction, chunk by chunk.
#[derive(Debug)]
pub struct Opener {
    key: Key,
    nonce: Counter,
    most: usize,
    /// Payload of the chunk whose length is known.
    payload: Option<usize>,
    /// Length of the last payload.
    last: usize,
}

/// What an [`Opener`] makes of the bytes at hand.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// This many bytes are needed at least.
    Need(usize),
    /// A length was read; this many bytes are used.
    Length(usize),
    /// The payload lies in the bytes from 0 to the first number; the second is what is used.
    Payload(usize, usize),
}

impl Opener {
    /// A direction that begins.
    #[must_use]
    pub fn new(key: Key, family: Family) -> Self {
        Self { key, nonce: Counter::default(), most: chunk_most(family), payload: None, last: 0 }
    }

    /// Whether a chunk is complete or has not begun: where a stream may end.
    #[must_use]
    pub fn between(&self) -> bool {
        self.payload.is_none()
    }

    /// The length of the next payload, which no length chunk announces (SIP022 headers).
    pub fn expect(&mut self, payload: usize) {
        self.payload = Some(payload);
    }

    /// Opens one message of known length in place.
    ///
    /// # Errors
    /// [`Forged`].
    pub fn open<'m>(&mut self, message: &'m mut [u8]) -> Result<&'m mut [u8], Forged> {
        self.key.open(&self.nonce.advance(), message)
    }

    /// How many of `room` bytes to fill: as many whole chunks as fit, if they go on as long as the last one was. What lies
    /// behind the last whole one would have to be moved.
    #[must_use]
    pub fn worth(&self, room: usize) -> usize {
        let begun = self.sealed().unwrap_or(0);
        let chunk = 2 + TAG + self.last + TAG;
        begun + room.saturating_sub(begun) / chunk * chunk
    }

    /// Sealed bytes of the next payload, if its length is known.
    #[must_use]
    pub fn sealed(&self) -> Option<usize> {
        self.payload.map(|payload| payload + TAG)
    }

    /// Opens the next payload straight into `plain`, if its length is known and fits; returns the payload's length and how
    /// much of `bytes` is used.
    ///
    /// # Errors
    /// [`Forged`].
    pub fn open_into(
        &mut self,
        bytes: &[u8],
        plain: &mut [u8],
    ) -> Result<Option<(usize, usize)>, Forged> {
        let Some(len) = self.payload else { return Ok(None) };
        let (Some(sealed), Some(plain)) = (bytes.get(..len + TAG), plain.get_mut(..len)) else {
            return Ok(None);
        };
        self.key.open_into(&self.nonce.advance(), sealed, plain)?;
        self.payload = None;
        Ok(Some((len, len + TAG)))
    }

    /// Goes one step on with the bytes at hand, which are opened in place.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn advance(&mut self, bytes: &mut [u8]) -> Result<Opened, WireError> {
        let Some(len) = self.payload else {
            let Some(head) = bytes.get_mut(..2 + TAG) else { return Ok(Opened::Need(2 + TAG)) };
            let plain = self.open(head)?;
            let len = usize::from(u16::from_be_bytes([plain[0], plain[1]]));
            // SIP004 reserves the upper two bits; a reader of it must not take more.
            let len = len & self.most;
            (self.payload, self.last) = (Some(len), len);
            return Ok(Opened::Length(2 + TAG));
        };
        let Some(sealed) = bytes.get_mut(..len + TAG) else { return Ok(Opened::Need(len + TAG)) };
        self.open(sealed)?;
        self.payload = None;
        Ok(Opened::Payload(len, len + TAG))
    }
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Checks the time in a header.
///
/// # Errors
/// [`WireError::Time`].
pub fn check_time(said: [u8; 8]) -> Result<(), WireError> {
    let difference = now().abs_diff(u64::from_be_bytes(said));
    if difference > CLOCK_SKEW.as_secs() { Err(WireError::Time(difference)) } else { Ok(()) }
}

/// The first header of a request: returns the length of the second one.
///
/// # Errors
/// [`WireError`].
pub fn parse_request(header: &[u8]) -> Result<usize, WireError> {
    let header: &[u8; REQUEST] =
        header.try_into().map_err(|_| WireError::Header("short header"))?;
    let [kind, t0, t1, t2, t3, t4, t5, t6, t7, high, low] = *header;
    if kind != CLIENT {
        return Err(WireError::Type(kind));
    }
    check_time([t0, t1, t2, t3, t4, t5, t6, t7])?;
    Ok(usize::from(u16::from_be_bytes([high, low])))
}

/// The second header of a request: destination, padding, first payload. Returns the destination and where the payload
/// begins.
///
/// # Errors
/// [`WireError`].
pub fn parse_request_rest(header: &[u8]) -> Result<(Target, usize), WireError> {
    let (target, at) = address::parse(header)?;
    let padding = header.get(at..at + 2).ok_or(WireError::Header("short header"))?;
    let padding = usize::from(u16::from_be_bytes([padding[0], padding[1]]));
    let payload = at + 2 + padding;
    if payload > header.len() {
        return Err(WireError::Header("damaged padding"));
    }
    if padding == 0 && payload == header.len() {
        return Err(WireError::Header("missing payload or padding"));
    }
    Ok((target, payload))
}

/// Length of the first header of a response without tag: type, time, salt of the request, length.
#[must_use]
pub fn response_len(salt: usize) -> usize {
    1 + 8 + salt + 2
}

/// The first header of a response: returns the length of the first payload.
///
/// # Errors
/// [`WireError`].
pub fn parse_response(header: &[u8], request_salt: &[u8]) -> Result<usize, WireError> {
    let short = WireError::Header("short header");
    let (head, rest) = header.split_first_chunk::<9>().ok_or(short.clone())?;
    let (kind, time) = head.split_first().ok_or(short.clone())?;
    if *kind != SERVER {
        return Err(WireError::Type(*kind));
    }
    check_time(time.try_into().map_err(|_| short.clone())?)?;
    let (salt, length) = rest.split_last_chunk::<2>().ok_or(short)?;
    if salt != request_salt {
        return Err(WireError::Salt);
    }
    Ok(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::shadowsocks::{cipher::Algorithm, method::Method};

    fn keys(name: &str) -> (Sealer, Opener) {
        let method = Method::named(name).unwrap();
        let (Family::Aead(algorithm) | Family::Aead2022(algorithm)) = method.family else {
            panic!("no cipher")
        };
        let key = || Key::new(algorithm, &vec![3; algorithm.key_len()]).unwrap();
        (Sealer::new(key(), method.family), Opener::new(key(), method.family))
    }

    fn open_all(opener: &mut Opener, mut bytes: Vec<u8>) -> Result<Vec<u8>, WireError> {
        let (mut at, mut out) = (0, Vec::new());
        loop {
            match opener.advance(&mut bytes[at..])? {
                Opened::Need(_) => return Ok(out),
                Opened::Length(used) => at += used,
                Opened::Payload(len, used) => {
                    out.extend(&bytes[at..at + len]);
                    at += used;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn opening_undoes_sealing(payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40_000), 0..4), new: bool) {
            let name = if new { "2022-blake3-aes-128-gcm" } else { "chacha20-ietf-poly1305" };
            let (mut sealer, mut opener) = keys(name);
            let mut bytes = Vec::new();
            for payload in &payloads {
                sealer.chunks(&mut bytes, payload).unwrap();
            }
            prop_assert_eq!(open_all(&mut opener, bytes).unwrap(), payloads.concat());
            prop_assert!(opener.between());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let (_, mut opener) = keys("aes-128-gcm");
            let _ = open_all(&mut opener, bytes.clone());
            let _ = parse_request(&bytes);
            let _ = parse_request_rest(&bytes);
            let _ = parse_response(&bytes, &[0; 16]);
        }
    }

    #[test]
    fn chunks_are_of_equal_length_and_read_whole() {
        let (mut sealer, mut opener) = keys("2022-blake3-aes-128-gcm");
        assert!((1..=1000).contains(&opener.worth(1000)));
        let mut bytes = Vec::new();
        sealer.chunks(&mut bytes, &[0; 0x1_0000]).unwrap();
        let chunk = bytes.len() / 2;
        assert_eq!(opener.advance(&mut bytes).unwrap(), Opened::Length(2 + TAG));
        assert_eq!(opener.sealed(), Some(0x8000 + TAG));
        // The rest of this one, and one more.
        assert_eq!(opener.worth(80 * 1024), chunk - 2 - TAG + chunk);
        assert_eq!(
            opener.advance(&mut bytes[2 + TAG..]).unwrap(),
            Opened::Payload(0x8000, 0x8000 + TAG)
        );
        assert_eq!(opener.worth(80 * 1024), 2 * chunk);
        sealer.chunks(&mut bytes, &[]).unwrap();
        assert_eq!(bytes.len(), 2 * chunk);
    }

    #[test]
    fn a_changed_byte_is_found() {
        let (mut sealer, _) = keys("aes-256-gcm");
        let mut bytes = Vec::new();
        sealer.chunks(&mut bytes, b"payload").unwrap();
        for at in 0..bytes.len() {
            let (_, mut opener) = keys("aes-256-gcm");
            let mut changed = bytes.clone();
            changed[at] ^= 0x40;
            assert_eq!(open_all(&mut opener, changed), Err(WireError::Forged(Forged)), "byte {at}");
        }
        let _ = Algorithm::Aes128Gcm;
    }

    #[test]
    fn headers_are_checked() {
        let header = |kind: u8, time: u64| {
            let mut header = vec![kind];
            header.extend(time.to_be_bytes());
            header.extend([0, 9]);
            header
        };
        assert_eq!(parse_request(&header(0, now())), Ok(9));
        assert_eq!(parse_request(&header(1, now())), Err(WireError::Type(1)));
        assert!(matches!(parse_request(&header(0, now() - 40)), Err(WireError::Time(_))));
        assert!(matches!(parse_request(&header(0, now() + 40)), Err(WireError::Time(_))));
        let rest = |padding: u16, behind: usize| {
            let mut rest = vec![1, 127, 0, 0, 1, 0, 80];
            rest.extend(padding.to_be_bytes());
            rest.extend(vec![0; behind]);
            rest
        };
        assert_eq!(parse_request_rest(&rest(3, 5)).unwrap().1, 12);
        assert_eq!(parse_request_rest(&rest(0, 1)).unwrap().1, 9);
        assert_eq!(
            parse_request_rest(&rest(0, 0)),
            Err(WireError::Header("missing payload or padding"))
        );
        assert_eq!(parse_request_rest(&rest(4, 3)), Err(WireError::Header("damaged padding")));
    }
}
