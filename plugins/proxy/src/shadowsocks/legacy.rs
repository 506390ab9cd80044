//! Stream ciphers of the time before AEAD, which clients of old servers still need. Nothing is authenticated: whoever
//! sits on the way can change bytes unseen. Only outbounds offer them, as in the reference.
//!
//! Source of names, key and salt lengths: sing-shadowsocks2 `shadowstream/method.go`.

use aws_lc_rs::{
    cipher::{
        AES_128, AES_192, AES_256, DecryptionContext, EncryptionContext, StreamingDecryptingKey,
        StreamingEncryptingKey, UnboundCipherKey,
    },
    iv::FixedLength,
};
use chacha20::{
    ChaCha20, XChaCha20,
    cipher::{KeyIvInit as _, StreamCipher as _},
};
use md5::Digest as _;

use super::cipher::Forged;

/// Bytes that are encrypted at a time where the backend wants another buffer for its output.
const PIECE: usize = 4096;

/// Longest block of a cipher.
const BLOCK: usize = 16;

/// A stream cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legacy {
    /// AES in counter mode, with a key of this many bytes.
    AesCtr(usize),
    /// AES in cipher feedback mode over whole blocks, with a key of this many bytes.
    AesCfb(usize),
    /// RC4 with the MD5 hash of key and salt as its key.
    Rc4Md5,
    /// ChaCha20 with a nonce of 12 bytes (RFC 8439 §2.4, counter from 0).
    ChaCha20,
    /// ChaCha20 with a nonce of 24 bytes (draft-irtf-cfrg-xchacha, counter from 0).
    XChaCha20,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They are encrypted.
    Out,
    /// They are decrypted.
    In,
}

impl Legacy {
    /// Length of keys in bytes.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Self::AesCtr(len) | Self::AesCfb(len) => len,
            Self::Rc4Md5 => 16,
            Self::ChaCha20 | Self::XChaCha20 => 32,
        }
    }

    /// Length of salts in bytes.
    #[must_use]
    pub fn salt_len(self) -> usize {
        match self {
            Self::AesCtr(_) | Self::AesCfb(_) | Self::Rc4Md5 => 16,
            Self::ChaCha20 => 12,
            Self::XChaCha20 => 24,
        }
    }

    /// The cipher of a stream or datagram with that salt.
    ///
    /// # Errors
    /// A length is wrong.
    pub fn stream(self, key: &[u8], salt: &[u8], way: Way) -> Result<Stream, Forged> {
        let aes = || {
            let algorithm = match key.len() {
                16 => &AES_128,
                24 => &AES_192,
                32 => &AES_256,
                _ => return Err(Forged),
            };
            let iv: [u8; BLOCK] = salt.try_into().map_err(|_| Forged)?;
            let key = UnboundCipherKey::new(algorithm, key).map_err(|_| Forged)?;
            Ok((key, FixedLength::from(iv)))
        };
        Ok(Stream(match (self, way) {
            // Counter mode is its own inverse.
            (Self::AesCtr(_), _) => {
                let (key, iv) = aes()?;
                let context = EncryptionContext::Iv128(iv);
                let key = StreamingEncryptingKey::less_safe_ctr(key, context);
                Inner::Encrypt(key.map_err(|_| Forged)?)
            }
            (Self::AesCfb(_), Way::Out) => {
                let (key, iv) = aes()?;
                let context = EncryptionContext::Iv128(iv);
                let key = StreamingEncryptingKey::less_safe_cfb128(key, context);
                Inner::Encrypt(key.map_err(|_| Forged)?)
            }
            (Self::AesCfb(_), Way::In) => {
                let (key, iv) = aes()?;
                let context = DecryptionContext::Iv128(iv);
                let key = StreamingDecryptingKey::cfb128(key, context);
                Inner::Decrypt(key.map_err(|_| Forged)?)
            }
            (Self::Rc4Md5, _) => {
                let mut hash = md5::Md5::new();
                hash.update(key);
                hash.update(salt);
                Inner::Rc4(Box::new(Rc4::new(&hash.finalize())))
            }
            (Self::ChaCha20, _) => {
                let cipher = ChaCha20::new_from_slices(key, salt).map_err(|_| Forged)?;
                Inner::ChaCha20(Box::new(cipher))
            }
            (Self::XChaCha20, _) => {
                let cipher = XChaCha20::new_from_slices(key, salt).map_err(|_| Forged)?;
                Inner::XChaCha20(Box::new(cipher))
            }
        }))
    }
}

/// One direction of a stream, or a datagram.
pub struct Stream(Inner);

enum Inner {
    Encrypt(StreamingEncryptingKey),
    Decrypt(StreamingDecryptingKey),
    Rc4(Box<Rc4>),
    ChaCha20(Box<ChaCha20>),
    XChaCha20(Box<XChaCha20>),
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl Stream {
    /// Encrypts or decrypts the next bytes in place.
    ///
    /// # Errors
    /// More bytes than the cipher is good for (256 GiB with ChaCha20).
    pub fn apply(&mut self, bytes: &mut [u8]) -> Result<(), Forged> {
        match &mut self.0 {
            Inner::Encrypt(key) => by_pieces(bytes, |input, output| {
                key.update(input, output).map(|done| done.written().len())
            }),
            Inner::Decrypt(key) => by_pieces(bytes, |input, output| {
                key.update(input, output).map(|done| done.written().len())
            }),
            Inner::Rc4(rc4) => {
                rc4.apply(bytes);
                Ok(())
            }
            Inner::ChaCha20(cipher) => cipher.try_apply_keystream(bytes).map_err(|_| Forged),
            Inner::XChaCha20(cipher) => cipher.try_apply_keystream(bytes).map_err(|_| Forged),
        }
    }
}

/// For a backend that writes elsewhere, and wants room for a block more than it writes.
fn by_pieces<E>(
    bytes: &mut [u8],
    mut update: impl FnMut(&[u8], &mut [u8]) -> Result<usize, E>,
) -> Result<(), Forged> {
    let mut output = [0; PIECE + BLOCK];
    for piece in bytes.chunks_mut(PIECE) {
        match update(piece, &mut output) {
            // Modes without padding hold nothing back.
            Ok(len) if len == piece.len() => piece.copy_from_slice(&output[..len]),
            _ => return Err(Forged),
        }
    }
    Ok(())
}

/// RC4, which no backend of ours has: broken since 2001, and still the cipher of some old servers.
struct Rc4 {
    state: [u8; 256],
    i: u8,
    j: u8,
}

impl Rc4 {
    fn new(key: &[u8]) -> Self {
        let mut state = std::array::from_fn(|n| n as u8);
        let mut j = 0u8;
        for (i, byte) in (0..256).zip(key.iter().cycle()) {
            j = j.wrapping_add(state[i]).wrapping_add(*byte);
            state.swap(i, usize::from(j));
        }
        Self { state, i: 0, j: 0 }
    }

    fn apply(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.i = self.i.wrapping_add(1);
            self.j = self.j.wrapping_add(self.state[usize::from(self.i)]);
            self.state.swap(usize::from(self.i), usize::from(self.j));
            let (a, b) = (self.state[usize::from(self.i)], self.state[usize::from(self.j)]);
            *byte ^= self.state[usize::from(a.wrapping_add(b))];
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"shadowsocks legacy stream ciphers";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn key(len: usize) -> Vec<u8> {
        (0..len as u8).collect()
    }

    fn salt(len: usize) -> Vec<u8> {
        (0xf0..=0xff).chain(0..8).take(len).collect()
    }

    const ALL: [Legacy; 9] = [
        Legacy::AesCtr(16),
        Legacy::AesCtr(24),
        Legacy::AesCtr(32),
        Legacy::AesCfb(16),
        Legacy::AesCfb(24),
        Legacy::AesCfb(32),
        Legacy::Rc4Md5,
        Legacy::ChaCha20,
        Legacy::XChaCha20,
    ];

    /// What `openssl enc` makes of the text with key 00 01 02… and IV f0 f1 f2….
    #[test]
    fn openssl_agrees() {
        for (cipher, expected) in [
            (
                Legacy::AesCtr(16),
                "15cfa68c5b254227f43aad275f73caccd1f8f773c3ec59ccc98d10d21ef47a98a1",
            ),
            (
                Legacy::AesCtr(24),
                "58ea29363b851affd0b245229c80cf92b8710bf0bde69250ea4febad5ba9cc76ac",
            ),
            (
                Legacy::AesCtr(32),
                "e168ace94ce1f3a4390295742c570475a9265b33855851a0038736483a1fe3fcea",
            ),
            (
                Legacy::AesCfb(16),
                "15cfa68c5b254227f43aad275f73cacca18874768d8faa4606010032f62a888a28",
            ),
            (
                Legacy::AesCfb(24),
                "58ea29363b851affd0b245229c80cf92602a1000ee550386f83cad535e5db7dbd0",
            ),
            (
                Legacy::AesCfb(32),
                "e168ace94ce1f3a4390295742c5704753ff698d6fc8cc89e82092c70855377b0b0",
            ),
            (
                Legacy::ChaCha20,
                "637d09380cc04137c50c0ea28a3b70f0fdf226a9114305a552510ec759ac528a18",
            ),
            (Legacy::Rc4Md5, "d4858a2d2a5611e96d71cbe9c837a40c42c742869d5a2cea2d7437c86b1cf6a6d9"),
        ] {
            let (key, salt) = (key(cipher.key_len()), salt(cipher.salt_len()));
            let mut bytes = TEXT.to_vec();
            cipher.stream(&key, &salt, Way::Out).unwrap().apply(&mut bytes).unwrap();
            assert_eq!(hex(&bytes), expected, "{cipher:?}");
        }
    }

    #[test]
    fn lengths_are_checked() {
        for cipher in ALL.into_iter().filter(|cipher| *cipher != Legacy::Rc4Md5) {
            let (key, salt) = (key(cipher.key_len()), salt(cipher.salt_len()));
            assert!(cipher.stream(&key, &salt[1..], Way::In).is_err(), "{cipher:?}");
            assert!(cipher.stream(&key[1..], &salt, Way::In).is_err(), "{cipher:?}");
        }
    }

    proptest! {
        #[test]
        fn decrypting_undoes_encrypting_whatever_the_pieces(
            bytes in proptest::collection::vec(any::<u8>(), 0..9000),
            cuts in proptest::collection::vec(0usize..9000, 0..6),
        ) {
            for cipher in ALL {
                let (key, salt) = (key(cipher.key_len()), salt(cipher.salt_len()));
                let mut out = cipher.stream(&key, &salt, Way::Out).unwrap();
                let mut back = cipher.stream(&key, &salt, Way::In).unwrap();
                let mut text = bytes.clone();
                let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
                cuts.sort_unstable();
                let mut from = 0;
                for cut in cuts.into_iter().chain([text.len()]) {
                    out.apply(&mut text[from..cut]).unwrap();
                    from = cut;
                }
                back.apply(&mut text).unwrap();
                prop_assert_eq!(&text, &bytes);
            }
        }
    }
}
