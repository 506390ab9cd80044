//! Methods by name, and keys from passwords.

use aws_lc_rs::{
    digest,
    hkdf::{self, KeyType},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use md5::Digest as _;

use super::{
    cipher::{Algorithm, BLOCK, Block, Forged, Key},
    legacy::{self, Legacy, Way},
};

/// What goes around the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Nothing: no secrecy at all.
    None,
    /// A stream cipher without authentication.
    Stream(Legacy),
    /// SIP004.
    Aead(Algorithm),
    /// SIP022.
    Aead2022(Algorithm),
}

/// A method of Shadowsocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Its name in configurations.
    pub name: &'static str,
    /// What it does.
    pub family: Family,
}

const METHODS: [Method; 18] = {
    use Algorithm::{Aes128Gcm, Aes192Gcm, Aes256Gcm, ChaCha20Poly1305, XChaCha20Poly1305};
    use Family::{Aead, Aead2022, None, Stream};
    use Legacy::{AesCfb, AesCtr, ChaCha20, Rc4Md5, XChaCha20};
    [
        Method { name: "none", family: None },
        Method { name: "aes-128-ctr", family: Stream(AesCtr(16)) },
        Method { name: "aes-192-ctr", family: Stream(AesCtr(24)) },
        Method { name: "aes-256-ctr", family: Stream(AesCtr(32)) },
        Method { name: "aes-128-cfb", family: Stream(AesCfb(16)) },
        Method { name: "aes-192-cfb", family: Stream(AesCfb(24)) },
        Method { name: "aes-256-cfb", family: Stream(AesCfb(32)) },
        Method { name: "rc4-md5", family: Stream(Rc4Md5) },
        Method { name: "chacha20-ietf", family: Stream(ChaCha20) },
        Method { name: "xchacha20", family: Stream(XChaCha20) },
        Method { name: "aes-128-gcm", family: Aead(Aes128Gcm) },
        Method { name: "aes-192-gcm", family: Aead(Aes192Gcm) },
        Method { name: "aes-256-gcm", family: Aead(Aes256Gcm) },
        Method { name: "chacha20-ietf-poly1305", family: Aead(ChaCha20Poly1305) },
        Method { name: "xchacha20-ietf-poly1305", family: Aead(XChaCha20Poly1305) },
        Method { name: "2022-blake3-aes-128-gcm", family: Aead2022(Aes128Gcm) },
        Method { name: "2022-blake3-aes-256-gcm", family: Aead2022(Aes256Gcm) },
        Method { name: "2022-blake3-chacha20-poly1305", family: Aead2022(ChaCha20Poly1305) },
    ]
};

/// A password that a method cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no such method.
    #[error("unsupported method: {0}")]
    Method(String),
    /// The password is empty.
    #[error("missing password")]
    MissingPassword,
    /// The key of a 2022 method is empty.
    #[error("missing psk")]
    MissingKey,
    /// The key is no base64.
    #[error("{context}: {error}")]
    Base64 {
        /// Which key.
        context: &'static str,
        /// What is wrong with it.
        error: String,
    },
    /// The key is shorter than the method needs.
    #[error("bad key")]
    Short,
    /// The method has no identity headers.
    #[error("invalid argument")]
    NoIdentity,
}

impl Method {
    /// The method of that name.
    ///
    /// # Errors
    /// [`KeyError::Method`].
    pub fn named(name: &str) -> Result<Self, KeyError> {
        let found = METHODS.iter().find(|method| method.name == name);
        found.copied().ok_or_else(|| KeyError::Method(name.to_owned()))
    }

    /// Length of keys in bytes; 0 without encryption.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self.family {
            Family::None => 0,
            Family::Stream(cipher) => cipher.key_len(),
            Family::Aead(algorithm) | Family::Aead2022(algorithm) => algorithm.key_len(),
        }
    }

    /// Length of salts in bytes; 0 without encryption.
    #[must_use]
    pub fn salt_len(self) -> usize {
        match self.family {
            Family::Stream(cipher) => cipher.salt_len(),
            _ => self.key_len(),
        }
    }

    /// The master key of a password.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn key(self, password: &str, context: &'static str) -> Result<MasterKey, KeyError> {
        let key = match self.family {
            Family::None => Vec::new(),
            Family::Aead(_) | Family::Stream(_) if password.is_empty() => {
                return Err(KeyError::MissingPassword);
            }
            Family::Aead(_) | Family::Stream(_) => {
                bytes_to_key(password.as_bytes(), self.key_len())
            }
            Family::Aead2022(_) if password.is_empty() => return Err(KeyError::MissingKey),
            Family::Aead2022(_) => {
                let mut key = STANDARD.decode(password).map_err(|error| KeyError::Base64 {
                    context,
                    error: go_base64_error(&error, password),
                })?;
                if key.len() < self.key_len() {
                    return Err(KeyError::Short);
                }
                // A longer key is hashed, as the reference does (sing-shadowsocks shadowaead_2022 Key).
                if key.len() > self.key_len() {
                    key = digest::digest(&digest::SHA256, &key).as_ref()[..self.key_len()].to_vec();
                }
                key
            }
        };
        Ok(MasterKey { method: self, key: key.into() })
    }
}

/// The words of Go's decoder.
fn go_base64_error(error: &base64::DecodeError, input: &str) -> String {
    let at = match error {
        base64::DecodeError::InvalidByte(at, _) => *at,
        base64::DecodeError::InvalidLastSymbol { offset, .. } => *offset,
        _ => input.len() / 4 * 4,
    };
    format!("illegal base64 data at input byte {at}")
}

/// A key that sessions are derived from.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    /// The method it is for.
    pub method: Method,
    key: Box<[u8]>,
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MasterKey").field("method", &self.method.name).finish_non_exhaustive()
    }
}

impl MasterKey {
    /// The key of a session with that salt (or, for datagrams of SIP022, session id).
    ///
    /// # Errors
    /// The method has no keys.
    pub fn session(&self, salt: &[u8]) -> Result<Key, Forged> {
        match self.method.family {
            Family::None | Family::Stream(_) => Err(Forged),
            Family::Aead(algorithm) => Key::new(algorithm, &self.hkdf(salt)?),
            Family::Aead2022(algorithm) => {
                Key::new(algorithm, &self.blake3("shadowsocks 2022 session subkey", salt))
            }
        }
    }

    /// The stream cipher with that salt.
    ///
    /// # Errors
    /// The method has none, or the salt another length.
    pub fn stream(&self, salt: &[u8], way: Way) -> Result<legacy::Stream, Forged> {
        match self.method.family {
            Family::Stream(cipher) => cipher.stream(&self.key, salt, way),
            _ => Err(Forged),
        }
    }

    /// Whether a server with this key can tell users apart: SIP022 has identity headers with AES only.
    #[must_use]
    pub fn has_users(&self) -> bool {
        match self.method.family {
            Family::None | Family::Stream(_) => false,
            Family::Aead(_) => true,
            Family::Aead2022(algorithm) => algorithm != Algorithm::ChaCha20Poly1305,
        }
    }

    /// The key itself, for datagrams of `2022-blake3-chacha20-poly1305`.
    ///
    /// # Errors
    /// The method has no such datagrams.
    pub fn datagrams(&self) -> Result<Key, Forged> {
        Key::new(Algorithm::XChaCha20Poly1305, &self.key)
    }

    /// The block cipher of datagram headers (SIP022 §3.2).
    ///
    /// # Errors
    /// The method has none.
    pub fn block(&self) -> Result<Block, Forged> {
        Block::new(&self.key)
    }

    /// The block cipher of identity headers in a stream with that salt (SIP022 §3.1.2, SIP023).
    ///
    /// # Errors
    /// The method has none.
    pub fn identity_block(&self, salt: &[u8]) -> Result<Block, Forged> {
        Block::new(&self.blake3("shadowsocks 2022 identity subkey", salt))
    }

    /// What an identity header says about this key: the first 16 bytes of its BLAKE3 hash.
    #[must_use]
    pub fn identity(&self) -> [u8; BLOCK] {
        let mut identity = [0; BLOCK];
        identity.copy_from_slice(&blake3::hash(&self.key).as_bytes()[..BLOCK]);
        identity
    }

    fn blake3(&self, context: &str, salt: &[u8]) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.key).update(salt);
        let mut out = vec![0; self.method.key_len()];
        hasher.finalize_xof().fill(&mut out);
        out
    }

    /// HKDF-SHA1 (SIP004).
    fn hkdf(&self, salt: &[u8]) -> Result<Vec<u8>, Forged> {
        struct Len(usize);
        impl KeyType for Len {
            fn len(&self) -> usize {
                self.0
            }
        }
        let mut out = vec![0; self.method.key_len()];
        hkdf::Salt::new(hkdf::HKDF_SHA1_FOR_LEGACY_USE_ONLY, salt)
            .extract(&self.key)
            .expand(&[b"ss-subkey"], Len(out.len()))
            .and_then(|key| key.fill(&mut out))
            .map_err(|_| Forged)?;
        Ok(out)
    }
}

/// OpenSSL's EVP_BytesToKey with MD5, one round and no salt.
fn bytes_to_key(password: &[u8], len: usize) -> Vec<u8> {
    let mut key: Vec<u8> = Vec::with_capacity(len + 16);
    let mut last: Option<[u8; 16]> = None;
    while key.len() < len {
        let mut input = last.map(Vec::from).unwrap_or_default();
        input.extend(password);
        let hash = md5(&input);
        key.extend(hash);
        last = Some(hash);
    }
    key.truncate(len);
    key
}

fn md5(input: &[u8]) -> [u8; 16] {
    md5::Md5::digest(input).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_become_keys_as_openssl_makes_them() {
        // `openssl enc -md md5 -nosalt -P -aes-256-cbc -k test`
        let key = bytes_to_key(b"test", 32);
        let expected = [
            0x09, 0x8f, 0x6b, 0xcd, 0x46, 0x21, 0xd3, 0x73, 0xca, 0xde, 0x4e, 0x83, 0x26, 0x27,
            0xb4, 0xf6, 0x0a, 0x91, 0x72, 0x71, 0x6a, 0xe6, 0x42, 0x84, 0x09, 0x88, 0x5b, 0x8b,
            0x82, 0x9c, 0xcb, 0x05,
        ];
        assert_eq!(key, expected);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let method = Method::named("2022-blake3-aes-128-gcm").unwrap();
        let error = |password| method.key(password, "decode psk").unwrap_err().to_string();
        assert_eq!(error(""), "missing psk");
        assert_eq!(error("!"), "decode psk: illegal base64 data at input byte 0");
        assert_eq!(error("AAAA"), "bad key");
        assert!(method.key(&STANDARD.encode([1; 40]), "decode psk").is_ok());
        assert_eq!(Method::named("foo").unwrap_err().to_string(), "unsupported method: foo");
        let old = Method::named("aes-128-gcm").unwrap();
        assert_eq!(old.key("", "").unwrap_err(), KeyError::MissingPassword);
    }

    #[test]
    fn sessions_differ_by_salt() {
        for method in METHODS
            .iter()
            .filter(|method| matches!(method.family, Family::Aead(_) | Family::Aead2022(_)))
        {
            let key = method.key(&STANDARD.encode([7; 32]), "").unwrap();
            let mut message = b"x".to_vec();
            let nonce = [0; 24];
            let tag = key.session(&[1; 32]).unwrap().seal(&nonce, &mut message).unwrap();
            message.extend(tag);
            assert!(key.session(&[2; 32]).unwrap().open(&nonce, &mut message.clone()).is_err());
            assert!(key.session(&[1; 32]).unwrap().open(&nonce, &mut message).is_ok());
        }
    }
}
