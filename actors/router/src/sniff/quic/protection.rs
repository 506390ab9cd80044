//! Packet protection of Initial packets (RFC 9001 §5): keys from the connection id, header protection, AES-128-GCM.

use std::fmt;

use aws_lc_rs::aead::quic::{AES_128, HeaderProtectionKey};
use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

use super::packet::{Initial, Version};

/// draft-ietf-quic-tls-29 §5.2.
const SALT_DRAFT29: [u8; 20] = [
    0xaf, 0xbf, 0xec, 0x28, 0x99, 0x93, 0xd2, 0x4c, 0x9e, 0x97, 0x86, 0xf1, 0x9c, 0x61, 0x11, 0xe0,
    0x43, 0x90, 0xa8, 0x99,
];
/// RFC 9001 §5.2.
const SALT_V1: [u8; 20] = [
    0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad,
    0xcc, 0xbb, 0x7f, 0x0a,
];
/// RFC 9369 §3.3.1.
const SALT_V2: [u8; 20] = [
    0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb,
    0xf9, 0xbd, 0x2e, 0xd9,
];

const KEY_LEN: usize = 16;
const NONCE_LEN: usize = 12;
const SECRET_LEN: usize = 32;
/// The sample for header protection starts as if the packet number were of the longest kind.
const MAX_NUMBER_LEN: usize = 4;
const SAMPLE_LEN: usize = 16;

/// The client's Initial keys of one connection.
pub(super) struct InitialKeys {
    version: Version,
    dcid: [u8; 20],
    dcid_len: usize,
    header: HeaderProtectionKey,
    payload: LessSafeKey,
    iv: [u8; NONCE_LEN],
}

impl fmt::Debug for InitialKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InitialKeys").field("version", &self.version).finish_non_exhaustive()
    }
}

impl InitialKeys {
    /// The keys for a destination connection id of at most 20 bytes; `None` if it is longer.
    pub(super) fn derive(version: Version, dcid: &[u8]) -> Option<Self> {
        let mut stored = [0; 20];
        stored.get_mut(..dcid.len())?.copy_from_slice(dcid);
        let (salt, labels) = match version {
            Version::Draft29 => (&SALT_DRAFT29, &LABELS_V1),
            Version::V1 => (&SALT_V1, &LABELS_V1),
            Version::V2 => (&SALT_V2, &LABELS_V2),
        };
        let initial = Salt::new(HKDF_SHA256, salt).extract(dcid);
        let mut secret = [0; SECRET_LEN];
        expand(&initial, "client in", &mut secret)?;
        let secret = Prk::new_less_safe(HKDF_SHA256, &secret);
        let (mut key, mut header) = ([0; KEY_LEN], [0; KEY_LEN]);
        let mut iv = [0; NONCE_LEN];
        expand(&secret, labels.key, &mut key)?;
        expand(&secret, labels.iv, &mut iv)?;
        expand(&secret, labels.header, &mut header)?;
        Some(Self {
            version,
            dcid: stored,
            dcid_len: dcid.len(),
            header: HeaderProtectionKey::new(&AES_128, &header).ok()?,
            payload: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).ok()?),
            iv,
        })
    }

    /// Whether these keys are derived from this packet's version and connection id.
    pub(super) fn are_for(&self, initial: &Initial<'_>) -> bool {
        self.version == initial.version && self.dcid.get(..self.dcid_len) == Some(initial.dcid)
    }

    /// Removes the protection; the payload, or `None` if the packet is not authentic.
    pub(super) fn open(&self, initial: &Initial<'_>) -> Option<Vec<u8>> {
        let number_at = initial.number_at;
        let sample_at = number_at + MAX_NUMBER_LEN;
        let sample = initial.bytes.get(sample_at..sample_at + SAMPLE_LEN)?;
        let mask = self.header.new_mask(sample).ok()?;
        let [first_mask, number_mask @ ..] = mask;
        let mut bytes = initial.bytes.to_vec();
        let first = bytes.first_mut()?;
        *first ^= first_mask & 0x0f; // long header: only the low four bits are protected
        let number_len = usize::from(*first & 3) + 1;
        let payload_at = number_at + number_len;
        let mut number = 0u32;
        for (byte, mask) in bytes.get_mut(number_at..payload_at)?.iter_mut().zip(number_mask) {
            *byte ^= mask;
            number = number << 8 | u32::from(*byte);
        }
        let mut nonce = self.iv;
        for (byte, number) in nonce.iter_mut().rev().zip(number.to_le_bytes()) {
            *byte ^= number;
        }
        let (head, payload) = bytes.split_at_mut_checked(payload_at)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let len = self.payload.open_in_place(nonce, Aad::from(&*head), payload).ok()?.len();
        bytes.truncate(payload_at + len);
        bytes.drain(..payload_at);
        Some(bytes)
    }
}

struct Labels {
    key: &'static str,
    iv: &'static str,
    header: &'static str,
}

const LABELS_V1: Labels = Labels { key: "quic key", iv: "quic iv", header: "quic hp" };
const LABELS_V2: Labels = Labels { key: "quicv2 key", iv: "quicv2 iv", header: "quicv2 hp" };

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 §7.1).
fn expand(secret: &Prk, label: &str, out: &mut [u8]) -> Option<()> {
    const PREFIX: &str = "tls13 ";
    let len = u16::try_from(out.len()).ok()?.to_be_bytes();
    let label_len = [u8::try_from(PREFIX.len() + label.len()).ok()?];
    let info: [&[u8]; 5] = [&len, &label_len, PREFIX.as_bytes(), label.as_bytes(), &[0]];
    secret.expand(&info, Len(out.len())).ok()?.fill(out).ok()
}
