//! Heads of requests and responses, without any I/O (sing-vmess `client.go`, `service.go`; v2fly `proxy/vmess/encoding`).
//!
//! A request: version, nonce, key, the byte that the response repeats, options, padding and security, a reserved byte,
//! command, destination, padding, checksum. It is sealed with AEAD behind a block that tells user and time, or, in the
//! legacy protocol, encrypted with AES-CFB behind a hash of both.

use aws_lc_rs::{digest, rand};
use crosspoint_kernel::addr::Target;
use crosspoint_layers::packets::address::{self, AddressError};

use super::body::{Keys, Options, Security};
use super::crypto::{Aead, Cfb, Forged, KEY, TAG, crc32, fnv1a, md5};
use super::keys::{ClientKey, first, kdf12, kdf16, time_iv};

const VERSION: u8 = 1;

/// Bytes of a request in front of the destination.
const FIXED: usize = 1 + 16 + 16 + 1 + 1 + 1 + 1 + 1;

/// Longest padding.
const PADDING: usize = 15;

const CHECKSUM: usize = 4;

/// Longest request without what seals it.
pub const MOST: usize = FIXED + address::MAX + PADDING + CHECKSUM;

/// Longest sealed request that is read: what other clients may put in it one day.
const MOST_SEALED: usize = 2048;

/// Bytes in front of a sealed request: user and time, length, nonce.
pub const FRONT: usize = KEY + 2 + TAG + NONCE;

const NONCE: usize = 8;

/// Bytes that a client sends at least (sing-vmess, `aeadMinHeaderLen`). With fewer nothing is looked at, so that when the
/// server gives up tells nobody how far it got.
pub const LEAST: usize = FRONT + TAG + FIXED + CHECKSUM;

/// The same for servers with legacy users.
pub const LEAST_LEGACY: usize = KEY + FIXED;

/// Length of the head of a sealed response: its length, and four bytes.
const ANSWER: usize = 4;

/// Longest command in a response; it is passed over.
const MOST_ANSWER: usize = ANSWER + 255;

/// How far a clock may be off, in seconds.
pub const CLOCK_SKEW: u64 = 120;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A stream.
    Tcp = 1,
    /// Datagrams, one a chunk.
    Udp = 2,
    /// A stream with others inside (mux.cool).
    Mux = 3,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Nonce of the body.
    pub nonce: [u8; KEY],
    /// Key of the body.
    pub key: [u8; KEY],
    /// What the response begins with.
    pub answer: u8,
    /// How the body is made.
    pub options: Options,
    /// What protects it.
    pub security: Security,
    /// What the client wants.
    pub command: Command,
    /// Where to; nothing with [`Command::Mux`].
    pub target: Option<Target>,
}

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not sealed with a key that we know.
    #[error(transparent)]
    Forged(#[from] Forged),
    /// More bytes are needed: this many in all, as far as can be told.
    #[error("bad header: too short")]
    Incomplete(usize),
    /// Longer than any request.
    #[error("bad header: {0} bytes")]
    Length(usize),
    /// Another version of the protocol.
    #[error("bad version: {0}")]
    Version(u8),
    /// There is no such security.
    #[error("unsupported security type: {0}")]
    Security(u8),
    /// There is no such command.
    #[error("unknown command: {0}")]
    Command(u8),
    /// Datagrams need chunks.
    #[error("bad packet connection")]
    Unframed,
    /// The destination.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The checksum is wrong.
    #[error("bad header checksum")]
    Checksum,
    /// The response is to another request.
    #[error("bad response header")]
    Answer,
}

/// Random bytes.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The system's generator does not fail once it has started, which it has before any plugin.
    let _ = rand::fill(&mut bytes);
    bytes
}

impl Request {
    /// A request with keys of its own.
    #[must_use]
    pub fn new(
        options: Options,
        security: Security,
        command: Command,
        target: Option<Target>,
    ) -> Self {
        let [answer] = random();
        Self { nonce: random(), key: random(), answer, options, security, command, target }
    }

    /// The keys of the body from client to server.
    #[must_use]
    pub fn keys(&self) -> Keys {
        self.keys_with(self.key, self.nonce)
    }

    /// The keys of the body from server to client.
    #[must_use]
    pub fn answer_keys(&self, legacy: bool) -> Keys {
        let hash = |bytes: &[u8; KEY]| {
            if legacy {
                md5(&[bytes])
            } else {
                first(digest::digest(&digest::SHA256, bytes).as_ref())
            }
        };
        self.keys_with(hash(&self.key), hash(&self.nonce))
    }

    fn keys_with(&self, key: [u8; KEY], nonce: [u8; KEY]) -> Keys {
        Keys { request_key: self.key, request_nonce: self.nonce, key, nonce }
    }

    /// Appends the request.
    fn emit(&self, out: &mut Vec<u8>) {
        let from = out.len();
        let [padding] = random::<1>().map(|byte| byte & PADDING as u8);
        out.push(VERSION);
        out.extend(self.nonce);
        out.extend(self.key);
        out.extend([
            self.answer,
            self.options.0,
            padding << 4 | self.security as u8,
            0,
            self.command as u8,
        ]);
        if let Some(target) = &self.target {
            address::emit(target, out);
        }
        let at = out.len();
        out.resize(at + usize::from(padding), 0);
        let _ = rand::fill(&mut out[at..]);
        let sum = fnv1a(&out[from..]);
        out.extend(sum.to_be_bytes());
    }

    /// Reads a request; returns it and its length in bytes. The checksum is looked at where nothing else protects the head.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn parse(bytes: &[u8], legacy: bool) -> Result<(Self, usize), HeaderError> {
        let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else {
            return Err(HeaderError::Incomplete(FIXED));
        };
        let [answer, options, protection, _, command] = first(&fixed[33..]);
        if fixed[0] != VERSION {
            return Err(HeaderError::Version(fixed[0]));
        }
        let command = match command {
            1 => Command::Tcp,
            2 => Command::Udp,
            3 => Command::Mux,
            other => return Err(HeaderError::Command(other)),
        };
        let security = protection & 15;
        let security = Security::of(security).ok_or(HeaderError::Security(security))?;
        let options = Options(options);
        if command == Command::Udp && !security.is_chunked(options) {
            return Err(HeaderError::Unframed);
        }
        let (target, len) = match command {
            Command::Mux => (None, 0),
            _ => match address::parse(rest) {
                Ok((target, len)) => (Some(target), len),
                Err(AddressError::Incomplete(len)) => {
                    return Err(HeaderError::Incomplete(FIXED + len));
                }
                Err(error) => return Err(error.into()),
            },
        };
        let end = FIXED + len + usize::from(protection >> 4);
        let sum = bytes.get(end..).and_then(<[u8]>::first_chunk);
        let sum = u32::from_be_bytes(*sum.ok_or(HeaderError::Incomplete(end + CHECKSUM))?);
        if legacy && fnv1a(&bytes[..end]) != sum {
            return Err(HeaderError::Checksum);
        }
        let (nonce, key) = (first(&fixed[1..]), first(&fixed[17..]));
        let request = Self { nonce, key, answer, options, security, command, target };
        Ok((request, end + CHECKSUM))
    }

    /// The request, sealed for the user with that key.
    ///
    /// # Errors
    /// Never: keys have the right length.
    pub fn seal(&self, key: &ClientKey, now: u64) -> Result<Vec<u8>, Forged> {
        let mut out = Vec::with_capacity(FRONT + MOST + TAG);
        let mut user = [0; KEY];
        user[..8].copy_from_slice(&now.to_be_bytes());
        user[8..12].copy_from_slice(&random::<4>());
        let sum = crc32(&user[..12]);
        user[12..].copy_from_slice(&sum.to_be_bytes());
        key.hide(&mut user);
        let nonce = random::<NONCE>();
        let keys = SealKeys { command: &key.command, user: &user, nonce: &nonce };
        out.extend(user);
        out.extend([0; 2 + TAG]);
        out.extend(nonce);
        self.emit(&mut out);
        let mut len = ((out.len() - FRONT) as u16).to_be_bytes();
        let tag = keys.length()?.seal(keys.length_nonce(), &user, &mut len)?;
        out[KEY..][..2].copy_from_slice(&len);
        out[KEY + 2..][..TAG].copy_from_slice(&tag);
        let tag = keys.header()?.seal(keys.header_nonce(), &user, &mut out[FRONT..])?;
        out.extend(tag);
        Ok(out)
    }

    /// The request of the legacy protocol: `user` is the hash of user and time.
    ///
    /// # Errors
    /// There is no memory for the cipher.
    pub fn seal_legacy(
        &self,
        command_key: &[u8; KEY],
        user: &[u8; KEY],
        time: u64,
    ) -> Result<Vec<u8>, Forged> {
        let mut out = Vec::with_capacity(KEY + MOST);
        out.extend(user);
        self.emit(&mut out);
        Cfb::encrypt(command_key, &time_iv(time))?.apply(&mut out[KEY..])?;
        Ok(out)
    }
}

/// The time that a decrypted block in front of a request tells, if the block is one.
#[must_use]
pub fn time_of(block: &[u8; KEY]) -> Option<u64> {
    let (time, _) = block.split_first_chunk()?;
    let sum = block.last_chunk()?;
    (crc32(&block[..12]) == u32::from_be_bytes(*sum)).then(|| u64::from_be_bytes(*time))
}

/// The keys that seal a request.
struct SealKeys<'a> {
    command: &'a [u8; KEY],
    user: &'a [u8; KEY],
    nonce: &'a [u8; NONCE],
}

impl SealKeys<'_> {
    fn path<'a>(&'a self, what: &'a str) -> [&'a [u8]; 3] {
        [what.as_bytes(), self.user, self.nonce]
    }

    fn length(&self) -> Result<Aead, Forged> {
        Aead::gcm(&kdf16(self.command, &self.path("VMess Header AEAD Key_Length")))
    }

    fn length_nonce(&self) -> [u8; 12] {
        kdf12(self.command, &self.path("VMess Header AEAD Nonce_Length"))
    }

    fn header(&self) -> Result<Aead, Forged> {
        Aead::gcm(&kdf16(self.command, &self.path("VMess Header AEAD Key")))
    }

    fn header_nonce(&self) -> [u8; 12] {
        kdf12(self.command, &self.path("VMess Header AEAD Nonce"))
    }
}

/// Opens the length in what stands in [front](FRONT) of a sealed request: how long the request is, with its tag.
///
/// # Errors
/// [`HeaderError`].
pub fn open_length(command_key: &[u8; KEY], front: &[u8; FRONT]) -> Result<usize, HeaderError> {
    let (user, nonce) = (first(front), first(&front[FRONT - NONCE..]));
    let keys = SealKeys { command: command_key, user: &user, nonce: &nonce };
    let mut sealed: [u8; 2 + TAG] = first(&front[KEY..]);
    let plain = keys.length()?.open(keys.length_nonce(), &user, &mut sealed)?;
    let len = usize::from(u16::from_be_bytes(first(plain)));
    if len > MOST_SEALED { Err(HeaderError::Length(len)) } else { Ok(len + TAG) }
}

/// Opens a request of the length that [`open_length`] has told.
///
/// # Errors
/// [`HeaderError`].
pub fn open(
    command_key: &[u8; KEY],
    front: &[u8; FRONT],
    sealed: &mut [u8],
) -> Result<Request, HeaderError> {
    let (user, nonce) = (first(front), first(&front[FRONT - NONCE..]));
    let keys = SealKeys { command: command_key, user: &user, nonce: &nonce };
    let plain = keys.header()?.open(keys.header_nonce(), &user, sealed)?;
    Ok(Request::parse(plain, false)?.0)
}

/// Appends the head of a sealed response; `keys` are those of the response.
///
/// # Errors
/// Never: keys have the right length.
pub fn seal_answer(request: &Request, keys: &Keys, out: &mut Vec<u8>) -> Result<(), Forged> {
    let mut len = (ANSWER as u16).to_be_bytes();
    let tag = answer_length_key(keys)?.seal(answer_length_nonce(keys), &[], &mut len)?;
    out.extend(len);
    out.extend(tag);
    let mut answer = [request.answer, request.options.0, 0, 0];
    let tag = answer_key(keys)?.seal(answer_nonce(keys), &[], &mut answer)?;
    out.extend(answer);
    out.extend(tag);
    Ok(())
}

/// Opens the head of a sealed response at the front of `bytes`; returns its length in bytes.
///
/// # Errors
/// [`HeaderError`]; `bytes` are not changed when more are needed.
pub fn open_answer(request: &Request, keys: &Keys, bytes: &mut [u8]) -> Result<usize, HeaderError> {
    const LENGTH: usize = 2 + TAG;
    let (length, rest) = bytes
        .split_first_chunk_mut::<LENGTH>()
        .ok_or(HeaderError::Incomplete(LENGTH + ANSWER + TAG))?;
    let mut length = *length;
    let plain = answer_length_key(keys)?.open(answer_length_nonce(keys), &[], &mut length)?;
    let len = usize::from(u16::from_be_bytes(first(plain)));
    if !(1..=MOST_ANSWER).contains(&len) {
        return Err(HeaderError::Length(len));
    }
    let sealed = rest.get_mut(..len + TAG).ok_or(HeaderError::Incomplete(LENGTH + len + TAG))?;
    let plain = answer_key(keys)?.open(answer_nonce(keys), &[], sealed)?;
    if plain.first() == Some(&request.answer) {
        Ok(LENGTH + len + TAG)
    } else {
        Err(HeaderError::Answer)
    }
}

fn answer_length_key(keys: &Keys) -> Result<Aead, Forged> {
    Aead::gcm(&kdf16(&keys.key, &[b"AEAD Resp Header Len Key"]))
}

fn answer_length_nonce(keys: &Keys) -> [u8; 12] {
    kdf12(&keys.nonce, &[b"AEAD Resp Header Len IV"])
}

fn answer_key(keys: &Keys) -> Result<Aead, Forged> {
    Aead::gcm(&kdf16(&keys.key, &[b"AEAD Resp Header Key"]))
}

fn answer_nonce(keys: &Keys) -> [u8; 12] {
    kdf12(&keys.nonce, &[b"AEAD Resp Header IV"])
}

/// The head of a response of the legacy protocol, before it is encrypted.
#[must_use]
pub fn legacy_answer(request: &Request) -> [u8; ANSWER] {
    [request.answer, request.options.0, 0, 0]
}

/// Reads the decrypted head of a response of the legacy protocol; returns its length in bytes.
///
/// # Errors
/// [`HeaderError`].
pub fn parse_legacy_answer(request: &Request, bytes: &[u8]) -> Result<usize, HeaderError> {
    let Some(&[answer, _, _, command]) = bytes.first_chunk() else {
        return Err(HeaderError::Incomplete(ANSWER));
    };
    if answer != request.answer {
        return Err(HeaderError::Answer);
    }
    let len = ANSWER + usize::from(command);
    if bytes.len() < len { Err(HeaderError::Incomplete(len)) } else { Ok(len) }
}

#[cfg(test)]
mod tests;
