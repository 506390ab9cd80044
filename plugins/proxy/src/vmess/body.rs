//! Bodies of VMess, without any I/O: chunks with a length in front, which may be masked, padded or sealed (sing-vmess
//! `protocol.go`, `chunk_*.go`).

use std::ops::Range;

use aws_lc_rs::rand;
use shake::{ExtendableOutput as _, Shake128, Shake128Reader, Update as _, XofReader as _};

use super::crypto::{Aead, Cfb, Forged, KEY, Nonces, TAG, fnv1a};
use super::keys::kdf16;

/// The length that stands in front of chunks.
const LENGTH: usize = 2;

/// Paddings are shorter than this.
const PADDING: u16 = 64;

/// Most data of a chunk of a stream, with tag or checksum: what a buffer of the reference holds (sing-vmess,
/// `ReadChunkSize`).
const CHUNK: usize = 16_384;

/// What a client says of the body in its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options(pub u8);

impl Options {
    /// The body is made of chunks.
    pub const CHUNKS: Self = Self(1);
    /// Their lengths are masked.
    pub const MASKED: Self = Self(4);
    /// They are padded.
    pub const PADDED: Self = Self(8);
    /// Their lengths are sealed.
    pub const SEALED_LENGTHS: Self = Self(16);

    /// Whether all of `other` are set.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and `other`, if `set`.
    #[must_use]
    pub fn with(self, other: Self, set: bool) -> Self {
        if set { Self(self.0 | other.0) } else { self }
    }
}

/// What protects the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// AES-128-CFB with checksums.
    Legacy = 1,
    /// AES-128-GCM.
    Aes128Gcm = 3,
    /// ChaCha20-Poly1305.
    ChaCha20Poly1305 = 4,
    /// Nothing.
    None = 5,
}

impl Security {
    /// That of a number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Legacy),
            3 => Some(Self::Aes128Gcm),
            4 => Some(Self::ChaCha20Poly1305),
            5 => Some(Self::None),
            _ => None,
        }
    }

    /// Whether a body with these options is made of chunks.
    #[must_use]
    pub fn is_chunked(self, options: Options) -> bool {
        options.has(Options::CHUNKS) || matches!(self, Self::Aes128Gcm | Self::ChaCha20Poly1305)
    }
}

/// The keys of one direction. Lengths are sealed with those of the request in both.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Key of the request.
    pub request_key: [u8; KEY],
    /// Nonce of the request.
    pub request_nonce: [u8; KEY],
    /// Key of this direction.
    pub key: [u8; KEY],
    /// Nonce of this direction.
    pub nonce: [u8; KEY],
}

/// What is wrong with the other side's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not sealed with our key.
    #[error(transparent)]
    Forged(#[from] Forged),
    /// A chunk that is shorter than its padding or its tag.
    #[error("bad length of a chunk")]
    Length,
    /// The checksum of a chunk is wrong.
    #[error("invalid chunk checksum")]
    Checksum,
}

/// What stands around the data of chunks.
struct Frame {
    hash: Option<Box<Shake128Reader>>,
    masked: bool,
    padded: bool,
    sealed: Option<Box<(Aead, Nonces)>>,
}

impl Frame {
    fn new(security: Security, options: Options, keys: &Keys) -> Result<Self, Forged> {
        let sealed = options.has(Options::SEALED_LENGTHS) && security != Security::Legacy;
        let padded = options.has(Options::PADDED);
        let masked = options.has(Options::MASKED) && !sealed;
        let hash = (masked || padded).then(|| {
            let mut hash = Shake128::default();
            hash.update(&keys.nonce);
            Box::new(hash.finalize_xof())
        });
        let sealed = if sealed {
            let key = kdf16(&keys.request_key, &[b"auth_len"]);
            let key = match security {
                Security::ChaCha20Poly1305 => Aead::chacha20(&key)?,
                _ => Aead::gcm(&key)?,
            };
            Some(Box::new((key, Nonces::new(&keys.request_nonce))))
        } else {
            None
        };
        Ok(Self { hash, masked, padded, sealed })
    }

    /// Length of a length.
    fn len(&self) -> usize {
        if self.sealed.is_some() { LENGTH + TAG } else { LENGTH }
    }

    fn number(&mut self) -> u16 {
        let mut bytes = [0; 2];
        if let Some(hash) = &mut self.hash {
            hash.read(&mut bytes);
        }
        u16::from_be_bytes(bytes)
    }

    fn padding(&mut self) -> u16 {
        if self.padded { self.number() % PADDING } else { 0 }
    }

    /// Appends the length of a chunk, and returns how much padding goes behind it.
    fn write(&mut self, data: usize, out: &mut Vec<u8>) -> Result<usize, Forged> {
        let padding = self.padding();
        let mut length = (data as u16).wrapping_add(padding);
        if self.masked {
            length ^= self.number();
        }
        match &mut self.sealed {
            None => out.extend(length.to_be_bytes()),
            Some(sealed) => {
                let (key, nonces) = &mut **sealed;
                let mut plain = length.wrapping_sub(TAG as u16).to_be_bytes();
                let tag = key.seal(nonces.advance(), &[], &mut plain)?;
                out.extend(plain);
                out.extend(tag);
            }
        }
        Ok(padding.into())
    }

    /// Reads the length of a chunk: how much data it has, and how much padding.
    fn read(&mut self, head: &mut [u8]) -> Result<(usize, usize), BodyError> {
        let length = match &mut self.sealed {
            None => head.first_chunk().map(|length| u16::from_be_bytes(*length)),
            Some(sealed) => {
                let (key, nonces) = &mut **sealed;
                let plain = key.open(nonces.advance(), &[], head)?;
                let length = plain.first_chunk().map(|length| u16::from_be_bytes(*length));
                length.map(|length| length.wrapping_add(TAG as u16))
            }
        };
        let mut length = length.ok_or(BodyError::Length)?;
        let padding = self.padding();
        if self.masked {
            length ^= self.number();
        }
        let data = length.checked_sub(padding).ok_or(BodyError::Length)?;
        Ok((data.into(), padding.into()))
    }
}

/// What protects the data of chunks.
enum Seal {
    Nothing,
    Checksum,
    Aead(Box<(Aead, Nonces)>),
}

impl Seal {
    fn new(security: Security, keys: &Keys) -> Result<Self, Forged> {
        let key = match security {
            Security::None => return Ok(Self::Nothing),
            Security::Legacy => return Ok(Self::Checksum),
            Security::Aes128Gcm => Aead::gcm(&keys.key)?,
            Security::ChaCha20Poly1305 => Aead::chacha20(&keys.key)?,
        };
        Ok(Self::Aead(Box::new((key, Nonces::new(&keys.nonce)))))
    }

    /// Bytes that it adds.
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Checksum => 4,
            Self::Aead(_) => TAG,
        }
    }
}

/// Makes the chunks of one direction.
pub struct Sealer {
    frame: Frame,
    seal: Seal,
}

impl Sealer {
    /// A direction that begins, of a body that [is made of chunks](Security::is_chunked).
    ///
    /// # Errors
    /// Never: keys have the right length.
    pub fn new(security: Security, options: Options, keys: &Keys) -> Result<Self, Forged> {
        let frame = Frame::new(security, options, keys)?;
        Ok(Self { frame, seal: Seal::new(security, keys)? })
    }

    /// Longest payload of one chunk.
    #[must_use]
    pub fn most(&self) -> usize {
        let padding = if self.frame.padded { PADDING - 1 } else { 0 };
        usize::from(u16::MAX - padding) - self.seal.len()
    }

    /// Appends one chunk with `payload`, which has at most [`most`](Self::most) bytes.
    ///
    /// # Errors
    /// Never with payloads from memory.
    pub fn chunk(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Forged> {
        let data = payload.len() + self.seal.len();
        let padding = self.frame.write(data, out)?;
        match &mut self.seal {
            Seal::Nothing => out.extend(payload),
            Seal::Checksum => {
                out.extend(fnv1a(payload).to_be_bytes());
                out.extend(payload);
            }
            Seal::Aead(aead) => {
                let (key, nonces) = &mut **aead;
                let at = out.len();
                out.extend(payload);
                let tag = key.seal(nonces.advance(), &[], &mut out[at..])?;
                out.extend(tag);
            }
        }
        if padding > 0 {
            let at = out.len();
            out.resize(at + padding, 0);
            // Random, so that nobody can tell it from what is sealed; zeroes would do no other harm.
            let _ = rand::fill(&mut out[at..]);
        }
        Ok(())
    }

    /// Appends chunks with the whole payload of a stream.
    ///
    /// # Errors
    /// Never with payloads from memory.
    pub fn chunks(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Forged> {
        let most = CHUNK - self.seal.len();
        payload.chunks(most).try_for_each(|part| self.chunk(part, out))
    }

    /// Whether an empty chunk can be told from the end.
    #[must_use]
    pub fn has_empty(&self) -> bool {
        !matches!(self.seal, Seal::Nothing)
    }
}

/// Reads the chunks of one direction.
pub struct Opener {
    frame: Frame,
    seal: Seal,
    /// Data and padding of the chunk whose length was read.
    chunk: Option<(usize, usize)>,
}

/// What an [`Opener`] makes of the bytes at hand.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// This many bytes are needed at least.
    Need(usize),
    /// A length was read; this many bytes are used.
    Length(usize),
    /// The payload of a chunk lies there; as many bytes as the second number says are used.
    Chunk(Range<usize>, usize),
    /// The end of the body.
    End,
}

impl Opener {
    /// A direction that begins, of a body that [is made of chunks](Security::is_chunked).
    ///
    /// # Errors
    /// Never: keys have the right length.
    pub fn new(security: Security, options: Options, keys: &Keys) -> Result<Self, Forged> {
        let frame = Frame::new(security, options, keys)?;
        Ok(Self { frame, seal: Seal::new(security, keys)?, chunk: None })
    }

    /// Whether a chunk is complete or has not begun: where a stream may end.
    #[must_use]
    pub fn between(&self) -> bool {
        self.chunk.is_none()
    }

    /// Goes one step on with the bytes at hand, which are opened in place.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn advance(&mut self, bytes: &mut [u8]) -> Result<Opened, BodyError> {
        let Some((data, padding)) = self.chunk else {
            let len = self.frame.len();
            let Some(head) = bytes.get_mut(..len) else { return Ok(Opened::Need(len)) };
            let (data, padding) = self.frame.read(head)?;
            if data == 0 {
                return Ok(Opened::End);
            }
            if data < self.seal.len() {
                return Err(BodyError::Length);
            }
            self.chunk = Some((data, padding));
            return Ok(Opened::Length(len));
        };
        let used = data + padding;
        let Some(chunk) = bytes.get_mut(..used).and_then(|chunk| chunk.get_mut(..data)) else {
            return Ok(Opened::Need(used));
        };
        self.chunk = None;
        let payload = match &mut self.seal {
            Seal::Nothing => 0..data,
            Seal::Checksum => {
                let (sum, payload) = chunk.split_first_chunk().ok_or(BodyError::Length)?;
                if fnv1a(payload) != u32::from_be_bytes(*sum) {
                    return Err(BodyError::Checksum);
                }
                4..data
            }
            Seal::Aead(aead) => {
                let (key, nonces) = &mut **aead;
                key.open(nonces.advance(), &[], chunk)?;
                0..data - TAG
            }
        };
        Ok(Opened::Chunk(payload, used))
    }

    /// Opens the next chunk straight into `plain`, if it is there, sealed, and fits; returns the payload's length and how
    /// much of `bytes` is used.
    ///
    /// # Errors
    /// [`BodyError`].
    pub fn open_into(
        &mut self,
        bytes: &[u8],
        plain: &mut [u8],
    ) -> Result<Option<(usize, usize)>, BodyError> {
        let (Some((data, padding)), Seal::Aead(aead)) = (self.chunk, &mut self.seal) else {
            return Ok(None);
        };
        // The length was checked when it was read.
        let len = data.saturating_sub(TAG);
        let whole = bytes.get(..data + padding).and_then(|chunk| chunk.get(..data));
        let (Some(sealed), Some(plain)) = (whole, plain.get_mut(..len)) else { return Ok(None) };
        let (key, nonces) = &mut **aead;
        key.open_into(nonces.advance(), sealed, plain)?;
        self.chunk = None;
        Ok(Some((len, data + padding)))
    }
}

/// How the bytes of a direction come to be, once its head has passed.
pub struct Direction<C> {
    /// A cipher around everything (legacy security).
    pub cfb: Option<Box<Cfb>>,
    /// Its chunks, or nothing: bytes as they are.
    pub chunks: Option<Box<C>>,
}

/// The reader's side of a direction. `cfb` goes on where the head ended, or begins with the direction's keys.
///
/// # Errors
/// Never: keys have the right length.
pub fn reader(
    security: Security,
    options: Options,
    keys: &Keys,
    cfb: Option<Box<Cfb>>,
) -> Result<Direction<Opener>, Forged> {
    let cfb = match (security, cfb) {
        (Security::Legacy, None) => Some(Box::new(Cfb::decrypt(&keys.key, &keys.nonce)?)),
        (Security::Legacy, cfb) => cfb,
        _ => None,
    };
    let chunks = security.is_chunked(options);
    let chunks = chunks.then(|| Opener::new(security, options, keys).map(Box::new)).transpose()?;
    Ok(Direction { cfb, chunks })
}

/// The writer's side of a direction.
///
/// # Errors
/// Never: keys have the right length.
pub fn writer(
    security: Security,
    options: Options,
    keys: &Keys,
    cfb: Option<Box<Cfb>>,
) -> Result<Direction<Sealer>, Forged> {
    let cfb = match (security, cfb) {
        (Security::Legacy, None) => Some(Box::new(Cfb::encrypt(&keys.key, &keys.nonce)?)),
        (Security::Legacy, cfb) => cfb,
        _ => None,
    };
    let chunks = security.is_chunked(options);
    let chunks = chunks.then(|| Sealer::new(security, options, keys).map(Box::new)).transpose()?;
    Ok(Direction { cfb, chunks })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> Keys {
        Keys { request_key: [1; 16], request_nonce: [2; 16], key: [3; 16], nonce: [4; 16] }
    }

    fn securities() -> impl Strategy<Value = Security> {
        (1u8..6).prop_filter_map("a hole", Security::of)
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        let open = |security, options, bytes: &[u8]| {
            let mut opener = Opener::new(security, options, &keys()).unwrap();
            let mut bytes = bytes.to_vec();
            match opener.advance(&mut bytes) {
                Ok(Opened::Length(used)) => opener.advance(&mut bytes[used..]),
                other => other,
            }
        };
        let plain = Options::CHUNKS;
        assert_eq!(open(Security::None, plain, &[0, 0]), Ok(Opened::End));
        assert_eq!(open(Security::None, plain, &[0, 3, 1]), Ok(Opened::Need(3)));
        assert_eq!(open(Security::None, plain, &[0, 1, 1]), Ok(Opened::Chunk(0..1, 1)));
        assert_eq!(open(Security::Legacy, plain, &[0, 3, 1, 2, 3]), Err(BodyError::Length));
        assert_eq!(open(Security::Legacy, plain, &[0, 4, 1, 2, 3, 4]), Err(BodyError::Checksum));
        assert_eq!(open(Security::Aes128Gcm, plain, &[0, 15]), Err(BodyError::Length));
        let mut forged = vec![0, 20];
        forged.extend([0; 20]);
        assert_eq!(open(Security::Aes128Gcm, plain, &forged), Err(BodyError::Forged(Forged)));
        let sealed = plain.with(Options::SEALED_LENGTHS, true);
        assert_eq!(open(Security::Aes128Gcm, sealed, &[0; 18]), Err(BodyError::Forged(Forged)));
        // Less than the padding: the first number of the hash for this nonce is not 0.
        let padded = plain.with(Options::PADDED, true);
        assert_eq!(open(Security::None, padded, &[0, 0]), Err(BodyError::Length));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn opening_undoes_sealing(
            security in securities(), options in 0u8..32, into: bool,
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..3000), 1..5),
        ) {
            let options = Options(options | Options::CHUNKS.0);
            let mut sealer = Sealer::new(security, options, &keys()).unwrap();
            let mut opener = Opener::new(security, options, &keys()).unwrap();
            let mut bytes = Vec::new();
            for payload in &payloads {
                sealer.chunk(payload, &mut bytes).unwrap();
            }
            let (mut at, mut found) = (0, Vec::new());
            while at < bytes.len() {
                let mut plain = [0; 3000];
                if into && let Some((len, used)) = opener.open_into(&bytes[at..], &mut plain).unwrap() {
                    found.push(plain[..len].to_vec());
                    at += used;
                    continue;
                }
                // Only what is needed is there.
                let need = match opener.advance(&mut []).unwrap() {
                    Opened::Need(need) => need,
                    other => panic!("{other:?} of nothing"),
                };
                match opener.advance(&mut bytes[at..][..need]).unwrap() {
                    Opened::Length(used) => at += used,
                    Opened::Chunk(payload, used) => {
                        found.push(bytes[at..][payload].to_vec());
                        at += used;
                    }
                    other => panic!("{other:?}"),
                }
            }
            prop_assert_eq!(found, payloads);
            prop_assert!(opener.between());
        }

        #[test]
        fn no_bytes_panic(security in securities(), options: u8, mut bytes: Vec<u8>) {
            let mut opener = Opener::new(security, Options(options), &keys()).unwrap();
            let mut at = 0;
            while let Ok(Opened::Length(used) | Opened::Chunk(_, used)) = opener.advance(&mut bytes[at..]) {
                at += used;
            }
        }
    }
}
