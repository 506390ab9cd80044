//! The ciphers: AEADs with a counter in front of the nonce, AES-CFB, and checksums.

use aws_lc_rs::{
    aead::{self, Aad, LessSafeKey, NONCE_LEN, UnboundKey},
    cipher::{
        self, DecryptionContext, EncryptionContext, StreamingDecryptingKey, StreamingEncryptingKey,
        UnboundCipherKey,
    },
    iv::FixedLength,
};
use md5::{Digest as _, Md5};

/// Length of an authentication tag in bytes.
pub const TAG: usize = 16;

/// Length of keys and nonces of the protocol in bytes.
pub const KEY: usize = 16;

/// Bytes that were not sealed with this key and nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message authentication failed")]
pub struct Forged;

/// MD5 of several parts.
pub fn md5(parts: &[&[u8]]) -> [u8; KEY] {
    let mut hash = Md5::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// A key of an AEAD.
pub struct Aead(LessSafeKey);

impl std::fmt::Debug for Aead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Aead")
    }
}

impl Aead {
    fn new(algorithm: &'static aead::Algorithm, key: &[u8]) -> Result<Self, Forged> {
        let key = UnboundKey::new(algorithm, key).map_err(|_| Forged)?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// AES-128-GCM.
    ///
    /// # Errors
    /// Never: the key has the right length.
    pub fn gcm(key: &[u8; KEY]) -> Result<Self, Forged> {
        Self::new(&aead::AES_128_GCM, key)
    }

    /// ChaCha20-Poly1305, whose key is made of two MD5 hashes.
    ///
    /// # Errors
    /// Never: the key has the right length.
    pub fn chacha20(key: &[u8; KEY]) -> Result<Self, Forged> {
        let first = md5(&[key]);
        let second = md5(&[&first]);
        Self::new(&aead::CHACHA20_POLY1305, &[first, second].concat())
    }

    /// Seals in place and returns the tag.
    ///
    /// # Errors
    /// The message is too long for the algorithm.
    pub fn seal(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        message: &mut [u8],
    ) -> Result<[u8; TAG], Forged> {
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(aad), message);
        tag.map_err(|_| Forged)?.as_ref().try_into().map_err(|_| Forged)
    }

    /// Opens in place a message with its tag behind it.
    ///
    /// # Errors
    /// [`Forged`]; the bytes are then undefined.
    pub fn open<'m>(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        message: &'m mut [u8],
    ) -> Result<&'m mut [u8], Forged> {
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        self.0.open_in_place(nonce, Aad::from(aad), message).map_err(|_| Forged)
    }

    /// Opens a message with its tag behind it into `plain`, which has the length of the message without tag.
    ///
    /// # Errors
    /// [`Forged`]; `plain` is then undefined.
    pub fn open_into(
        &self,
        nonce: [u8; NONCE_LEN],
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), Forged> {
        let (message, tag) = sealed.split_at_checked(plain.len()).ok_or(Forged)?;
        let nonce = aead::Nonce::assume_unique_for_key(nonce);
        let opened = self.0.open_separate_gather(nonce, Aad::empty(), message, tag, plain);
        opened.map_err(|_| Forged)
    }
}

/// Nonces of one direction: a counter of two bytes, which the protocol lets wrap, and ten bytes that stay.
#[derive(Debug)]
pub struct Nonces {
    count: u16,
    rest: [u8; KEY],
}

impl Nonces {
    /// A direction that begins.
    #[must_use]
    pub fn new(nonce: &[u8; KEY]) -> Self {
        Self { count: 0, rest: *nonce }
    }

    /// The nonce of this message; the next one gets the next.
    pub fn advance(&mut self) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        nonce.copy_from_slice(&self.rest[..NONCE_LEN]);
        nonce[..2].copy_from_slice(&self.count.to_be_bytes());
        self.count = self.count.wrapping_add(1);
        nonce
    }
}

/// Bytes that pass AES-CFB at a time.
const STRIDE: usize = 2048;

/// One direction of a stream under AES-128-CFB.
pub enum Cfb {
    /// The writer's end.
    Encrypt(StreamingEncryptingKey),
    /// The reader's end.
    Decrypt(StreamingDecryptingKey),
}

impl std::fmt::Debug for Cfb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cfb")
    }
}

impl Cfb {
    /// Encrypts from here on.
    ///
    /// # Errors
    /// There is no memory for the state.
    pub fn encrypt(key: &[u8; KEY], iv: &[u8; KEY]) -> Result<Self, Forged> {
        let key = UnboundCipherKey::new(&cipher::AES_128, key).map_err(|_| Forged)?;
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        let key = StreamingEncryptingKey::less_safe_cfb128(key, context);
        Ok(Self::Encrypt(key.map_err(|_| Forged)?))
    }

    /// Decrypts from here on.
    ///
    /// # Errors
    /// There is no memory for the state.
    pub fn decrypt(key: &[u8; KEY], iv: &[u8; KEY]) -> Result<Self, Forged> {
        let key = UnboundCipherKey::new(&cipher::AES_128, key).map_err(|_| Forged)?;
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        let key = StreamingDecryptingKey::cfb128(key, context);
        Ok(Self::Decrypt(key.map_err(|_| Forged)?))
    }

    /// Applies it to the next bytes, in place.
    ///
    /// # Errors
    /// Never: the mode takes any number of bytes.
    pub fn apply(&mut self, bytes: &mut [u8]) -> Result<(), Forged> {
        let mut out = [0; STRIDE + 16];
        for bytes in bytes.chunks_mut(STRIDE) {
            let update = match self {
                Self::Encrypt(key) => key.update(bytes, &mut out),
                Self::Decrypt(key) => key.update(bytes, &mut out),
            };
            let update = update.map_err(|_| Forged)?;
            if update.written().len() != bytes.len() {
                return Err(Forged);
            }
            bytes.copy_from_slice(update.written());
        }
        Ok(())
    }
}

/// FNV-1a of 32 bits.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// CRC-32 (IEEE 802.3).
#[must_use]
pub fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let mut value = at as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ 0xedb8_8320 } else { value >> 1 };
                bit += 1;
            }
            table[at] = value;
            at += 1;
        }
        table
    };
    !bytes.iter().fold(u32::MAX, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn cfb_has_the_vector_of_nist_and_takes_any_pieces() {
        // NIST SP 800-38A, F.3.13.
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
                .collect()
        };
        let key = hex("2b7e151628aed2a6abf7158809cf4f3c").try_into().unwrap();
        let iv = hex("000102030405060708090a0b0c0d0e0f").try_into().unwrap();
        let plain = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let sealed = hex("3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b");
        for split in 0..=32 {
            let mut bytes = plain.clone();
            let mut encrypt = Cfb::encrypt(&key, &iv).unwrap();
            let (first, rest) = bytes.split_at_mut(split);
            encrypt.apply(first).unwrap();
            encrypt.apply(rest).unwrap();
            assert_eq!(bytes, sealed);
            Cfb::decrypt(&key, &iv).unwrap().apply(&mut bytes).unwrap();
            assert_eq!(bytes, plain);
        }
        let mut long = vec![7; 3 * STRIDE + 5];
        Cfb::encrypt(&key, &iv).unwrap().apply(&mut long).unwrap();
        Cfb::decrypt(&key, &iv).unwrap().apply(&mut long).unwrap();
        assert_eq!(long, vec![7; 3 * STRIDE + 5]);
    }

    #[test]
    fn nonces_count_and_wrap() {
        let mut nonces = Nonces::new(&[9; 16]);
        assert_eq!(nonces.advance(), [0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
        for _ in 0..65_535 {
            nonces.advance();
        }
        assert_eq!(nonces.advance()[..3], [0, 0, 9]);
    }
}
