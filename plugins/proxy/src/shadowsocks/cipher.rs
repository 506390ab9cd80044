//! The ciphers: AEADs with a counter as nonce, and single AES blocks.

use aws_lc_rs::{
    aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    cipher::{self, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey},
};

/// Length of an authentication tag in bytes.
pub const TAG: usize = 16;

/// Length of an AES block in bytes.
pub const BLOCK: usize = 16;

/// Bytes that were not sealed with this key and nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message authentication failed")]
pub struct Forged;

/// An AEAD algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-192-GCM.
    Aes192Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305 with a nonce of 12 bytes (RFC 8439).
    ChaCha20Poly1305,
    /// ChaCha20-Poly1305 with a nonce of 24 bytes (draft-irtf-cfrg-xchacha).
    XChaCha20Poly1305,
}

impl Algorithm {
    /// Length of a key in bytes.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes192Gcm => 24,
            _ => 32,
        }
    }

    fn implementation(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::Aes192Gcm => &aead::AES_192_GCM,
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 | Self::XChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

/// A key of an AEAD.
pub struct Key(Inner);

enum Inner {
    Short(LessSafeKey),
    Extended([u8; 32]),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// A nonce; algorithms with a short one use its first 12 bytes.
pub type FullNonce = [u8; 24];

impl Key {
    /// A key.
    ///
    /// # Errors
    /// The length of `key` is not that of the algorithm.
    pub fn new(algorithm: Algorithm, key: &[u8]) -> Result<Self, Forged> {
        if algorithm == Algorithm::XChaCha20Poly1305 {
            return Ok(Self(Inner::Extended(key.try_into().map_err(|_| Forged)?)));
        }
        let key = UnboundKey::new(algorithm.implementation(), key).map_err(|_| Forged)?;
        Ok(Self(Inner::Short(LessSafeKey::new(key))))
    }

    /// Calls `work` with the key and nonce that the backend takes.
    fn with<T>(
        &self,
        nonce: &FullNonce,
        work: impl FnOnce(&LessSafeKey, Nonce) -> T,
    ) -> Result<T, Forged> {
        let mut short = [0; NONCE_LEN];
        match &self.0 {
            Inner::Short(key) => {
                short.copy_from_slice(&nonce[..NONCE_LEN]);
                Ok(work(key, Nonce::assume_unique_for_key(short)))
            }
            Inner::Extended(key) => {
                let mut head = [0; 16];
                head.copy_from_slice(&nonce[..16]);
                short[4..].copy_from_slice(&nonce[16..]);
                let key = hchacha20(key, &head);
                let key = UnboundKey::new(&aead::CHACHA20_POLY1305, &key).map_err(|_| Forged)?;
                Ok(work(&LessSafeKey::new(key), Nonce::assume_unique_for_key(short)))
            }
        }
    }

    /// Seals in place and returns the tag.
    ///
    /// # Errors
    /// The message is too long for the algorithm.
    pub fn seal(&self, nonce: &FullNonce, message: &mut [u8]) -> Result<[u8; TAG], Forged> {
        let tag = self.with(nonce, |key, nonce| {
            key.seal_in_place_separate_tag(nonce, Aad::empty(), message)
        })?;
        let tag = tag.map_err(|_| Forged)?;
        tag.as_ref().try_into().map_err(|_| Forged)
    }

    /// Opens in place a message with its tag behind it.
    ///
    /// # Errors
    /// [`Forged`]; the bytes are then undefined.
    pub fn open<'m>(
        &self,
        nonce: &FullNonce,
        message: &'m mut [u8],
    ) -> Result<&'m mut [u8], Forged> {
        self.with(nonce, |key, nonce| key.open_in_place(nonce, Aad::empty(), message))?
            .map_err(|_| Forged)
    }

    /// Opens a message with its tag behind it into `plain`, which has the length of the message without tag.
    ///
    /// # Errors
    /// [`Forged`]; `plain` is then undefined.
    pub fn open_into(
        &self,
        nonce: &FullNonce,
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Result<(), Forged> {
        let (message, tag) = sealed.split_at_checked(plain.len()).ok_or(Forged)?;
        self.with(nonce, |key, nonce| {
            key.open_separate_gather(nonce, Aad::empty(), message, tag, plain)
        })?
        .map_err(|_| Forged)
    }
}

/// A nonce that counts messages from zero, least significant byte first (SIP004, SIP022).
#[derive(Clone, Debug, Default)]
pub struct Counter(FullNonce);

impl Counter {
    /// The nonce of this message; the next one gets the next.
    pub fn advance(&mut self) -> FullNonce {
        let now = self.0;
        for byte in &mut self.0 {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
        now
    }
}

/// AES on single blocks, for the headers of SIP022.
pub struct Block {
    encrypt: EncryptingKey,
    decrypt: DecryptingKey,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Block")
    }
}

impl Block {
    /// AES-128 or AES-256, by the length of the key.
    ///
    /// # Errors
    /// The key has another length.
    pub fn new(key: &[u8]) -> Result<Self, Forged> {
        let algorithm = match key.len() {
            16 => &cipher::AES_128,
            32 => &cipher::AES_256,
            _ => return Err(Forged),
        };
        let key = || UnboundCipherKey::new(algorithm, key).map_err(|_| Forged);
        Ok(Self {
            encrypt: EncryptingKey::ecb(key()?).map_err(|_| Forged)?,
            decrypt: DecryptingKey::ecb(key()?).map_err(|_| Forged)?,
        })
    }

    /// Encrypts a block in place.
    pub fn encrypt(&self, block: &mut [u8; BLOCK]) {
        // Cannot fail: the length is a whole block.
        let _ = self.encrypt.encrypt(block);
    }

    /// Decrypts a block in place.
    pub fn decrypt(&self, block: &mut [u8; BLOCK]) {
        let _ = self.decrypt.decrypt(block, DecryptionContext::None);
    }
}

/// The key that extends the nonce of ChaCha20 (draft-irtf-cfrg-xchacha-03 §2.2).
fn hchacha20(key: &[u8; 32], nonce: &[u8; 16]) -> [u8; 32] {
    let word = |bytes: &[u8], at: usize| {
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    let mut state =
        [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for n in 0..8 {
        state[4 + n] = word(key, 4 * n);
    }
    for n in 0..4 {
        state[12 + n] = word(nonce, 4 * n);
    }
    let quarter = |s: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize| {
        s[a] = s[a].wrapping_add(s[b]);
        s[d] = (s[d] ^ s[a]).rotate_left(16);
        s[c] = s[c].wrapping_add(s[d]);
        s[b] = (s[b] ^ s[c]).rotate_left(12);
        s[a] = s[a].wrapping_add(s[b]);
        s[d] = (s[d] ^ s[a]).rotate_left(8);
        s[c] = s[c].wrapping_add(s[d]);
        s[b] = (s[b] ^ s[c]).rotate_left(7);
    };
    for _ in 0..10 {
        for n in 0..4 {
            quarter(&mut state, n, 4 + n, 8 + n, 12 + n);
        }
        for n in 0..4 {
            quarter(&mut state, n, 4 + (n + 1) % 4, 8 + (n + 2) % 4, 12 + (n + 3) % 4);
        }
    }
    let mut out = [0; 32];
    let words = state[..4].iter().chain(&state[12..]);
    for (bytes, word) in out.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text
            .bytes()
            .filter(u8::is_ascii_hexdigit)
            .map(|c| (c as char).to_digit(16).unwrap() as u8)
            .collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    #[test]
    fn hchacha20_has_the_vector_of_its_draft() {
        let key: Vec<u8> = (0..32).collect();
        let nonce = hex("000000090000004a0000000031415927");
        let out = hchacha20(&key.try_into().unwrap(), &nonce.try_into().unwrap());
        let expected = hex("82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc");
        assert_eq!(out.as_slice(), expected);
    }

    #[test]
    fn xchacha20_poly1305_has_the_vector_of_its_draft() {
        // draft-irtf-cfrg-xchacha-03 §A.3.1 has additional data; this is its key and nonce with our own check
        // that both ways of opening agree.
        let key: Vec<u8> = (0x80..0xa0).collect();
        let nonce: FullNonce =
            hex("404142434445464748494a4b4c4d4e4f5051525354555657").try_into().unwrap();
        let key = Key::new(Algorithm::XChaCha20Poly1305, &key).unwrap();
        let mut message = b"Ladies and Gentlemen of the class of '99".to_vec();
        let tag = key.seal(&nonce, &mut message).unwrap();
        assert_eq!(message[..16], hex("bd6d179d3e83d43b9576579493c0e939")[..]);
        message.extend(tag);
        let mut plain = vec![0; message.len() - TAG];
        key.open_into(&nonce, &message, &mut plain).unwrap();
        assert_eq!(plain, key.open(&nonce, &mut message).unwrap());
        assert_eq!(plain, b"Ladies and Gentlemen of the class of '99");
    }

    #[test]
    fn every_algorithm_seals_and_finds_forgeries() {
        use Algorithm::{Aes128Gcm, Aes192Gcm, Aes256Gcm, ChaCha20Poly1305, XChaCha20Poly1305};
        for algorithm in [Aes128Gcm, Aes192Gcm, Aes256Gcm, ChaCha20Poly1305, XChaCha20Poly1305] {
            let key = Key::new(algorithm, &vec![7; algorithm.key_len()]).unwrap();
            assert!(Key::new(algorithm, &[7; 5]).is_err());
            let mut counter = Counter::default();
            let (first, second) = (counter.advance(), counter.advance());
            assert_ne!(first, second);
            let mut message = b"hello".to_vec();
            let tag = key.seal(&first, &mut message).unwrap();
            message.extend(tag);
            assert_eq!(key.open(&second, &mut message.clone()), Err(Forged));
            let mut broken = message.clone();
            broken[0] ^= 1;
            assert_eq!(key.open(&first, &mut broken), Err(Forged));
            assert_eq!(key.open(&first, &mut message).unwrap(), b"hello");
        }
    }

    #[test]
    fn counters_carry() {
        let mut counter = Counter::default();
        for _ in 0..256 {
            counter.advance();
        }
        assert_eq!(counter.advance()[..3], [0, 1, 0]);
    }

    #[test]
    fn blocks_come_back() {
        // FIPS 197, appendix C.1.
        let key: Vec<u8> = (0..16).collect();
        let block = Block::new(&key).unwrap();
        let mut bytes: [u8; 16] = hex("00112233445566778899aabbccddeeff").try_into().unwrap();
        block.encrypt(&mut bytes);
        assert_eq!(bytes.as_slice(), hex("69c4e0d86a7b0430d8cdb78070b4c55a"));
        block.decrypt(&mut bytes);
        assert_eq!(bytes.as_slice(), hex("00112233445566778899aabbccddeeff"));
        assert!(Block::new(&[0; 24]).is_err());
    }
}
