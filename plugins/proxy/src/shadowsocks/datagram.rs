//! Datagrams: SIP004 (salt and one message) and SIP022 (session, number and one message).

use std::ops::Range;

use aws_lc_rs::rand;
use crosspoint_kernel::{addr::Target, flow::Batch};

use super::{
    cipher::{BLOCK, Block, FullNonce, Key, TAG},
    legacy::Way,
    method::{Family, MasterKey},
    wire::{self, WireError},
};
use crate::address;

/// Length of a nonce of XChaCha20-Poly1305 in bytes.
const NONCE: usize = 24;

/// Port whose queries are padded, because their lengths tell names.
const DNS: u16 = 53;

/// Which end a header of SIP022 comes from, and what it repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// A client.
    Client,
    /// A server, to the client's session of that id.
    Server {
        /// The client's session.
        client: u64,
    },
}

/// Where a datagram belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The session.
    pub session: u64,
    /// The number of the datagram in it.
    pub number: u64,
}

impl Place {
    fn bytes(self) -> [u8; BLOCK] {
        let mut bytes = [0; BLOCK];
        bytes[..8].copy_from_slice(&self.session.to_be_bytes());
        bytes[8..].copy_from_slice(&self.number.to_be_bytes());
        bytes
    }

    fn read(bytes: &[u8; BLOCK]) -> Self {
        let number = u128::from_be_bytes(*bytes);
        Self { session: (number >> 64) as u64, number: number as u64 }
    }
}

/// A nonce whose first 12 bytes are those of a datagram's header.
fn header_nonce(header: &[u8; BLOCK]) -> FullNonce {
    let mut nonce = FullNonce::default();
    nonce[..12].copy_from_slice(&header[4..]);
    nonce
}

/// Puts `clear` and `inside` in front of datagram `index`, seals `inside` with what follows, and appends the tag. False: it
/// does not fit.
fn seal(
    batch: &mut Batch,
    index: usize,
    clear: &[u8],
    inside: &[u8],
    key: &Key,
    nonce: &FullNonce,
) -> bool {
    let Some(room) = batch.grow_front(index, clear.len() + inside.len()) else { return false };
    let (front, rest) = room.split_at_mut(clear.len());
    front.copy_from_slice(clear);
    rest.copy_from_slice(inside);
    let Ok(tag) = key.seal(nonce, &mut batch.payload_mut(index)[clear.len()..]) else {
        return false;
    };
    let Some(room) = batch.grow_back(index, TAG) else { return false };
    room.copy_from_slice(&tag);
    true
}

/// Seals a datagram of SIP004 to or from `peer`.
pub fn seal_aead(batch: &mut Batch, index: usize, key: &MasterKey, peer: &Target) -> bool {
    let mut salt = vec![0; key.method.key_len()];
    if rand::fill(&mut salt).is_err() {
        return false;
    }
    let Ok(session) = key.session(&salt) else { return false };
    let mut inside = Vec::with_capacity(address::MAX);
    address::emit(peer, &mut inside);
    seal(batch, index, &salt, &inside, &session, &FullNonce::default())
}

/// Opens a datagram of SIP004: where its payload lies, and its peer.
///
/// # Errors
/// [`WireError`].
pub fn open_aead(key: &MasterKey, packet: &mut [u8]) -> Result<(Range<usize>, Target), WireError> {
    let len = key.method.key_len();
    let (salt, sealed) = packet.split_at_mut_checked(len).ok_or(WireError::Header("short"))?;
    let plain = key.session(salt)?.open(&FullNonce::default(), sealed)?;
    let (peer, at) = address::parse(plain)?;
    Ok((len + at..len + plain.len(), peer))
}

/// Encrypts a datagram to `peer` with a stream cipher.
pub fn seal_stream(batch: &mut Batch, index: usize, key: &MasterKey, peer: &Target) -> bool {
    let salt = super::stream::salt(key.method.salt_len());
    let Ok(mut cipher) = key.stream(&salt, Way::Out) else { return false };
    let mut head = Vec::with_capacity(salt.len() + address::MAX);
    head.extend(&salt);
    address::emit(peer, &mut head);
    let Some(room) = batch.grow_front(index, head.len()) else { return false };
    room.copy_from_slice(&head);
    cipher.apply(&mut batch.payload_mut(index)[salt.len()..]).is_ok()
}

/// Decrypts a datagram of a stream cipher: where its payload lies, and its peer. Nothing proves that it is genuine.
///
/// # Errors
/// [`WireError`].
pub fn open_stream(
    key: &MasterKey,
    packet: &mut [u8],
) -> Result<(Range<usize>, Target), WireError> {
    let len = key.method.salt_len();
    let (salt, bytes) = packet.split_at_mut_checked(len).ok_or(WireError::Header("short"))?;
    key.stream(salt, Way::In)?.apply(bytes)?;
    let (peer, at) = address::parse(bytes)?;
    Ok((len + at..packet.len(), peer))
}

/// How one end of a session seals: made once for a session.
#[derive(Debug)]
pub enum SessionSealer {
    /// AES: a key of the session, the block cipher of headers, and the identity headers with their ciphers.
    Aes(Box<AesSealer>),
    /// XChaCha20-Poly1305: one key for all.
    ChaCha(Key),
}

/// See [`SessionSealer::Aes`].
#[derive(Debug)]
pub struct AesSealer {
    /// Seals messages.
    key: Key,
    /// Encrypts headers.
    block: Block,
    /// What identity headers say, with the key of who reads it.
    identities: Vec<(Block, [u8; BLOCK])>,
}

impl SessionSealer {
    /// For sessions of `own`. `servers` are the keys of the servers on the way, for a client's identity headers.
    ///
    /// # Errors
    /// The method has no such datagrams.
    pub fn new(own: &MasterKey, servers: &[MasterKey], session: u64) -> Result<Self, WireError> {
        if is_chacha(own) {
            return Ok(Self::ChaCha(own.datagrams()?));
        }
        let next = servers.iter().skip(1).chain([own]);
        let identities = servers
            .iter()
            .zip(next)
            .map(|(server, next)| Ok((server.block()?, next.identity())))
            .collect::<Result<_, WireError>>()?;
        let block = servers.first().unwrap_or(own).block()?;
        let key = own.session(&session.to_be_bytes())?;
        Ok(Self::Aes(Box::new(AesSealer { key, block, identities })))
    }

    /// Seals a datagram of SIP022 to or from `peer`. False: it does not fit.
    pub fn seal(
        &self,
        batch: &mut Batch,
        index: usize,
        place: Place,
        from: From,
        peer: &Target,
    ) -> bool {
        let mut inside = Vec::with_capacity(64 + address::MAX);
        if matches!(self, Self::ChaCha(_)) {
            inside.extend(place.bytes());
        }
        let payload = batch.payload(index).len();
        let padding = match from {
            From::Client if peer.port == DNS && payload < wire::PADDING => {
                // The headroom of a batch is for headers: what does not fit there is no padding.
                super::stream::below(wire::PADDING - payload).min(128)
            }
            _ => 0,
        };
        match from {
            From::Client => {
                inside.push(wire::CLIENT);
                inside.extend(wire::now().to_be_bytes());
            }
            From::Server { client } => {
                inside.push(wire::SERVER);
                inside.extend(wire::now().to_be_bytes());
                inside.extend(client.to_be_bytes());
            }
        }
        inside.extend((padding as u16).to_be_bytes());
        inside.resize(inside.len() + padding, 0);
        address::emit(peer, &mut inside);
        match self {
            Self::ChaCha(key) => {
                let mut nonce = FullNonce::default();
                rand::fill(&mut nonce).is_ok() && seal(batch, index, &nonce, &inside, key, &nonce)
            }
            Self::Aes(aes) => {
                let AesSealer { key, block, identities } = &**aes;
                let header = place.bytes();
                let mut clear = Vec::with_capacity(BLOCK * (1 + identities.len()));
                let mut first = header;
                block.encrypt(&mut first);
                clear.extend(first);
                for (block, identity) in identities {
                    let mut identity = *identity;
                    identity.iter_mut().zip(header).for_each(|(byte, mask)| *byte ^= mask);
                    block.encrypt(&mut identity);
                    clear.extend(identity);
                }
                seal(batch, index, &clear, &inside, key, &header_nonce(&header))
            }
        }
    }
}

/// Whether datagrams of this key have nonces instead of encrypted headers.
#[must_use]
pub fn is_chacha(key: &MasterKey) -> bool {
    matches!(key.method.family, Family::Aead2022(super::cipher::Algorithm::ChaCha20Poly1305))
}

/// Reads the header of a datagram with AES, which is decrypted in place.
///
/// # Errors
/// The datagram is too short.
pub fn open_header(block: &Block, packet: &mut [u8]) -> Result<Place, WireError> {
    let header = packet.first_chunk_mut::<BLOCK>().ok_or(WireError::Header("short"))?;
    block.decrypt(header);
    Ok(Place::read(header))
}

/// Reads the identity header behind a header that is open: the identity.
///
/// # Errors
/// The datagram is too short.
pub fn open_identity(block: &Block, packet: &[u8]) -> Result<[u8; BLOCK], WireError> {
    let header = packet.first_chunk::<BLOCK>().ok_or(WireError::Header("short"))?;
    let identity = packet.get(BLOCK..).and_then(<[u8]>::first_chunk::<BLOCK>);
    let mut identity = *identity.ok_or(WireError::Header("short"))?;
    block.decrypt(&mut identity);
    identity.iter_mut().zip(header).for_each(|(byte, mask)| *byte ^= mask);
    Ok(identity)
}

/// Opens the message of a datagram with AES whose header is open and whose message begins at `at`.
///
/// # Errors
/// [`WireError`].
pub fn open_message(
    key: &Key,
    packet: &mut [u8],
    at: usize,
    from: From,
) -> Result<(Range<usize>, Target), WireError> {
    let header = packet.first_chunk::<BLOCK>().ok_or(WireError::Header("short"))?;
    let nonce = header_nonce(header);
    let sealed = packet.get_mut(at..).ok_or(WireError::Header("short"))?;
    let plain = key.open(&nonce, sealed)?;
    let (payload, peer) = read_inside(plain, from)?;
    Ok((at + payload.start..at + payload.end, peer))
}

/// Opens a datagram with XChaCha20-Poly1305.
///
/// # Errors
/// [`WireError`].
pub fn open_chacha(
    key: &Key,
    packet: &mut [u8],
    from: From,
) -> Result<(Place, Range<usize>, Target), WireError> {
    let (nonce, sealed) =
        packet.split_first_chunk_mut::<NONCE>().ok_or(WireError::Header("short"))?;
    let plain = key.open(nonce, sealed)?;
    let (place, inside) = plain.split_first_chunk::<BLOCK>().ok_or(WireError::Header("short"))?;
    let place = Place::read(place);
    let (payload, peer) = read_inside(inside, from)?;
    let at = NONCE + BLOCK;
    Ok((place, at + payload.start..at + payload.end, peer))
}

/// Type, time, the client's session (from a server), padding, address; then the payload.
fn read_inside(inside: &[u8], from: From) -> Result<(Range<usize>, Target), WireError> {
    let short = || WireError::Header("short");
    let (kind, rest) = inside.split_first().ok_or_else(short)?;
    let expected = if from == From::Client { wire::CLIENT } else { wire::SERVER };
    if *kind != expected {
        return Err(WireError::Type(*kind));
    }
    let (time, mut rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    wire::check_time(*time)?;
    if let From::Server { client } = from {
        let said;
        (said, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        if u64::from_be_bytes(*said) != client {
            return Err(WireError::Header("bad client session id"));
        }
    }
    let (padding, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
    let rest = rest.get(usize::from(u16::from_be_bytes(*padding))..).ok_or_else(short)?;
    let (peer, len) = address::parse(rest)?;
    Ok((inside.len() - rest.len() + len..inside.len(), peer))
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use proptest::prelude::*;

    use super::*;
    use crate::shadowsocks::method::Method;

    fn key(name: &str, fill: u8) -> MasterKey {
        Method::named(name).unwrap().key(&STANDARD.encode([fill; 32]), "").unwrap()
    }

    fn batch(payload: &[u8]) -> Batch {
        let mut batch = Batch::new();
        assert!(batch.push(payload, Target::unspecified()));
        batch
    }

    #[test]
    fn aead_datagrams_come_back() {
        let key = key("aes-192-gcm", 1);
        let peer = Target::new("name.test", 53);
        let mut batch = batch(b"payload");
        assert!(seal_aead(&mut batch, 0, &key, &peer));
        let mut packet = batch.payload(0).to_vec();
        let (range, from) = open_aead(&key, &mut packet).unwrap();
        assert_eq!((&packet[range], from), (&b"payload"[..], peer));
        let mut packet = batch.payload(0).to_vec();
        packet[40] ^= 1;
        assert!(open_aead(&key, &mut packet).is_err());
    }

    #[test]
    fn stream_datagrams_come_back() {
        for name in ["aes-256-cfb", "rc4-md5", "xchacha20"] {
            let key = key(name, 1);
            let peer = Target::new("name.test", 53);
            let mut batch = batch(b"payload");
            assert!(seal_stream(&mut batch, 0, &key, &peer));
            let mut packet = batch.payload(0).to_vec();
            let (range, from) = open_stream(&key, &mut packet).unwrap();
            assert_eq!((&packet[range], from), (&b"payload"[..], peer));
            assert!(open_stream(&key, &mut packet[..10]).is_err());
        }
    }

    #[test]
    fn aes_datagrams_name_their_user() {
        let (server, user) = (key("2022-blake3-aes-256-gcm", 1), key("2022-blake3-aes-256-gcm", 2));
        let place = Place { session: 77, number: 5 };
        let sealer = SessionSealer::new(&user, std::slice::from_ref(&server), 77).unwrap();
        let peer = Target::new("192.0.2.1", 9);
        let mut batch = batch(b"payload");
        assert!(sealer.seal(&mut batch, 0, place, From::Client, &peer));
        let mut packet = batch.payload(0).to_vec();
        let block = server.block().unwrap();
        assert_eq!(open_header(&block, &mut packet).unwrap(), place);
        assert_eq!(open_identity(&block, &packet).unwrap(), user.identity());
        let session = user.session(&77u64.to_be_bytes()).unwrap();
        let (range, from) = open_message(&session, &mut packet, 32, From::Client).unwrap();
        assert_eq!((&packet[range], from), (&b"payload"[..], peer));
    }

    #[test]
    fn chacha_datagrams_come_back_to_their_client() {
        let key = key("2022-blake3-chacha20-poly1305", 3);
        let place = Place { session: 1, number: 2 };
        let sealer = SessionSealer::new(&key, &[], 1).unwrap();
        let peer = Target::new("2001:db8::1", 9);
        let mut batch = batch(b"payload");
        let from = From::Server { client: 8 };
        assert!(sealer.seal(&mut batch, 0, place, from, &peer));
        let open =
            |from| open_chacha(&key.datagrams().unwrap(), &mut batch.payload(0).to_vec(), from);
        let (got, range, who) = open(from).unwrap();
        assert_eq!((got, range.len(), who), (place, 7, peer));
        assert!(open(From::Server { client: 9 }).is_err());
        assert_eq!(open(From::Client).unwrap_err(), WireError::Type(1));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes: Vec<u8>) {
            let aes = key("2022-blake3-aes-128-gcm", 1);
            let _ = open_header(&aes.block().unwrap(), &mut bytes);
            let _ = open_identity(&aes.block().unwrap(), &bytes);
            let _ = open_message(&aes.session(&[0; 8]).unwrap(), &mut bytes, 16, From::Client);
            let _ = open_aead(&key("aes-128-gcm", 1), &mut bytes);
            let _ = open_stream(&key("chacha20-ietf", 1), &mut bytes);
            let _ = open_chacha(&key("2022-blake3-chacha20-poly1305", 1).datagrams().unwrap(), &mut bytes, From::Client);
            let _ = read_inside(&bytes, From::Client);
        }
    }
}
