//! Node keys: X25519 keys as DERP and Tailscale write them (tailscale `types/key/node.go`).

use std::{fmt, str::FromStr};

use aws_lc_rs::{
    agreement::{self, UnparsedPublicKey, X25519},
    rand,
};

/// Bytes of a key.
pub const KEY_LEN: usize = 32;

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It begins otherwise, or is not 64 hexadecimal digits behind that.
    #[error("want {0:?} and 64 hexadecimal digits")]
    Form(&'static str),
    /// The key is all zero, or the cryptography refuses it.
    #[error("no usable key")]
    Unusable,
}

/// The public key of a node or server: its address in a DERP region.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; KEY_LEN]);

impl Key {
    /// The key that the first bytes hold.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().map(|bytes| Self(*bytes))
    }

    /// 64 hexadecimal digits without a prefix.
    #[must_use]
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
}

/// As Tailscale shows it in full: `nodekey:` and 64 digits.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nodekey:{}", self.hex())
    }
}

/// Short: the first four bytes.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "[{a:02x}{b:02x}{c:02x}{d:02x}]")
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        parse(text, "nodekey:").map(Self)
    }
}

/// A private key. Neither shown nor compared.
pub struct PrivateKey {
    bytes: [u8; KEY_LEN],
    key: agreement::PrivateKey,
    public: Key,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey of {:?}", self.public)
    }
}

impl PrivateKey {
    /// A new key.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = [0; KEY_LEN];
        rand::fill(&mut bytes).map_err(|_| KeyError::Unusable)?;
        // Clamped, as in the files of the reference (RFC 7748 §5).
        bytes[0] &= 248;
        bytes[31] = bytes[31] & 127 | 64;
        Self::new(bytes)
    }

    /// The key of these bytes.
    ///
    /// # Errors
    /// All bytes are zero.
    pub fn new(bytes: [u8; KEY_LEN]) -> Result<Self, KeyError> {
        if bytes == [0; KEY_LEN] {
            return Err(KeyError::Unusable);
        }
        let key = agreement::PrivateKey::from_private_key(&X25519, &bytes);
        let key = key.map_err(|_| KeyError::Unusable)?;
        let public = key.compute_public_key().ok().and_then(|public| Key::read(public.as_ref()));
        Ok(Self { bytes, key, public: public.ok_or(KeyError::Unusable)? })
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> Key {
        self.public
    }

    /// `privkey:` and 64 digits, as files have it. A secret.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("privkey:{}", hex(&self.bytes))
    }

    /// Hands what both sides can compute (RFC 7748 §6.1) to `derive`. `None`: the peer's key is none.
    pub(crate) fn agree<T>(&self, peer: &Key, derive: impl FnOnce(&[u8; 32]) -> T) -> Option<T> {
        let peer = UnparsedPublicKey::new(&X25519, peer.0);
        agreement::agree(&self.key, peer, (), |secret| secret.first_chunk().map(derive).ok_or(()))
            .ok()
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(parse(text, "privkey:")?)
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse(text: &str, prefix: &'static str) -> Result<[u8; KEY_LEN], KeyError> {
    let wrong = KeyError::Form(prefix);
    unhex(text.strip_prefix(prefix).ok_or(wrong)?).ok_or(wrong)
}

/// The bytes of 64 hexadecimal digits.
fn unhex(digits: &str) -> Option<[u8; KEY_LEN]> {
    if digits.len() != 2 * KEY_LEN || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; KEY_LEN];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(bytes)
}

/// The key that the servers of a region share. Who has it may watch who is there, forward packets and end connections.
#[derive(Clone)]
pub struct MeshKey([u8; KEY_LEN]);

impl fmt::Debug for MeshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshKey(***)")
    }
}

impl MeshKey {
    /// The key of 64 hexadecimal digits in lower case. `None`: they are not.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        unhex(text).map(Self)
    }

    /// The digits. A secret.
    #[must_use]
    pub fn expose(&self) -> String {
        hex(&self.0)
    }

    /// Whether both are the same, in a time that does not depend on it.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7748 §6.1.
    #[test]
    fn two_sides_agree() {
        let secret = |text: &str| format!("privkey:{text}").parse::<PrivateKey>().unwrap();
        let alice = PrivateKey::generate().unwrap();
        let bob = secret("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        assert_eq!(
            bob.public().hex(),
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
        );
        let one = alice.agree(&bob.public(), |secret| *secret).unwrap();
        let two = bob.agree(&alice.public(), |secret| *secret).unwrap();
        assert_eq!(one, two);
        // A point of low order gives nothing.
        assert!(alice.agree(&Key([0; 32]), |_| ()).is_none());
    }

    #[test]
    fn texts_come_back() {
        let key = PrivateKey::generate().unwrap();
        let again: PrivateKey = key.expose().parse().unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(key.public().to_string().parse::<Key>(), Ok(key.public()));
        assert!(!format!("{key:?}").contains(&key.expose()[8..]));
        for bad in ["", "privkey:", "nodekey:00", &format!("privkey:{}", "0".repeat(64))] {
            assert!(bad.parse::<PrivateKey>().is_err(), "{bad}");
        }
        assert!(MeshKey::parse(&"a1".repeat(32)).is_some());
        assert!(MeshKey::parse(&"A1".repeat(32)).is_none());
        assert!(MeshKey::parse(&"a1".repeat(31)).is_none());
        let (one, two) = (MeshKey([1; 32]), MeshKey([2; 32]));
        assert!(one.matches(&one.clone()) && !one.matches(&two));
    }
}
