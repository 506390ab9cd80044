//! What is derived from a user's id.

use std::sync::LazyLock;

use aws_lc_rs::{
    cipher::{self, DecryptingKey, DecryptionContext, EncryptingKey, UnboundCipherKey},
    hmac,
};

use super::crypto::{Forged, KEY, md5};
use crate::uuid::Uuid;

const AUTH_ID: &[u8] = b"AES Auth ID Encryption";

/// Bytes of a block of SHA-256.
const BLOCK: usize = 64;

/// Longest message of [`kdf`] within its nested hashes: three padded keys and what is hashed.
const NESTED: usize = 4 * BLOCK;

/// The key of a user's requests.
#[must_use]
pub fn command_key(id: &Uuid) -> [u8; KEY] {
    md5(&[id, b"c48619fe-8f02-49e0-b9e9-edf763e17e21"])
}

/// The id that comes after `id` in the row of alternative ids of the legacy protocol.
#[must_use]
pub fn alter_id(id: &Uuid) -> Uuid {
    const FIRST: &[u8] = b"16167dc8-16b6-4e6d-b8bb-65dd68113a81";
    const AGAIN: &[u8] = b"533eff8a-4113-4b10-b5ce-0f5d76b98cd2";
    let next = md5(&[id, FIRST]);
    if next == *id { md5(&[id, FIRST, AGAIN]) } else { next }
}

/// The initialisation vector of a legacy request.
#[must_use]
pub fn time_iv(time: u64) -> [u8; KEY] {
    let time = time.to_be_bytes();
    md5(&[&time, &time, &time, &time])
}

/// The key derivation of VMess with AEAD: HMACs in each other, whose hash is the one before, with SHA-256 innermost
/// (v2fly `proxy/vmess/aead/kdf.go`). At most three parts of at most 64 bytes.
#[must_use]
pub fn kdf(key: &[u8], path: &[&[u8]]) -> [u8; 32] {
    static ROOT: LazyLock<hmac::Key> =
        LazyLock::new(|| hmac::Key::new(hmac::HMAC_SHA256, b"VMess AEAD KDF"));
    nested(&ROOT, path, key)
}

/// The first 16 bytes of [`kdf`].
#[must_use]
pub fn kdf16(key: &[u8], path: &[&[u8]]) -> [u8; KEY] {
    first(&kdf(key, path))
}

/// The first 12 bytes of [`kdf`].
#[must_use]
pub fn kdf12(key: &[u8], path: &[&[u8]]) -> [u8; 12] {
    first(&kdf(key, path))
}

/// The first bytes of a longer array.
pub(super) fn first<const N: usize>(from: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(from) {
        *to = *from;
    }
    out
}

fn nested(root: &hmac::Key, path: &[&[u8]], message: &[u8]) -> [u8; 32] {
    let Some((key, inner)) = path.split_last() else {
        return first(hmac::sign(root, message).as_ref());
    };
    let padded = |pad: u8, message: &[u8]| {
        let mut buffer = [0; NESTED];
        buffer[..BLOCK].fill(pad);
        for (to, from) in buffer.iter_mut().zip(*key) {
            *to ^= *from;
        }
        // Lengths are ours, and fit; the parts of a path are short.
        let end = (BLOCK + message.len()).min(NESTED);
        buffer[BLOCK..end].copy_from_slice(&message[..end - BLOCK]);
        nested(root, inner, &buffer[..end])
    };
    padded(0x5c, &padded(0x36, message))
}

/// The user's key as a client needs it.
pub struct ClientKey {
    /// See [`command_key`].
    pub command: [u8; KEY],
    auth: EncryptingKey,
}

impl std::fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientKey")
    }
}

impl ClientKey {
    /// That of an id.
    ///
    /// # Errors
    /// Never: the key has the right length.
    pub fn new(id: &Uuid) -> Result<Self, Forged> {
        let command = command_key(id);
        let key = UnboundCipherKey::new(&cipher::AES_128, &kdf16(&command, &[AUTH_ID]));
        let auth = EncryptingKey::ecb(key.map_err(|_| Forged)?).map_err(|_| Forged)?;
        Ok(Self { command, auth })
    }

    /// Encrypts the block in front of a request.
    pub fn hide(&self, block: &mut [u8; KEY]) {
        // Cannot fail: it is a whole block.
        let _ = self.auth.encrypt(block);
    }
}

/// The user's key as a server needs it.
pub struct ServerKey {
    /// See [`command_key`].
    pub command: [u8; KEY],
    auth: DecryptingKey,
}

impl std::fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerKey")
    }
}

impl ServerKey {
    /// That of an id.
    ///
    /// # Errors
    /// Never: the key has the right length.
    pub fn new(id: &Uuid) -> Result<Self, Forged> {
        let command = command_key(id);
        let key = UnboundCipherKey::new(&cipher::AES_128, &kdf16(&command, &[AUTH_ID]));
        let auth = DecryptingKey::ecb(key.map_err(|_| Forged)?).map_err(|_| Forged)?;
        Ok(Self { command, auth })
    }

    /// Decrypts the block in front of a request.
    #[must_use]
    pub fn show(&self, block: &[u8; KEY]) -> [u8; KEY] {
        let mut block = *block;
        let _ = self.auth.decrypt(&mut block, DecryptionContext::None);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uuid;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Values of `hmac` and `hashlib` of Python, nested as the format wants them:
    ///
    /// ```python
    /// def kdf(key, *path):
    ///     def h(level, message):
    ///         if level < 0: return hmac.digest(b"VMess AEAD KDF", message, "sha256")
    ///         k = path[level].ljust(64, b"\0")
    ///         i = h(level - 1, bytes(b ^ 0x36 for b in k) + message)
    ///         return h(level - 1, bytes(b ^ 0x5c for b in k) + i)
    ///     return h(len(path) - 1, key)
    /// ```
    #[test]
    fn derived_keys() {
        let id = uuid::id("b831381d-6324-4d53-ad4f-8cda48b30811");
        assert_eq!(hex(&command_key(&id)), "b50d916ac0cec067981af8e5f38a758f");
        assert_eq!(hex(&alter_id(&id)), "5a07183412d5980a72ac845d5568d17d");
        assert_eq!(hex(&time_iv(1_700_000_000)), "7a29d7bdc972aaefb1f54e5205589e78");
        assert_eq!(
            hex(&kdf(b"Demo Key for KDF", &[])),
            "9b7c777a29c4c0a15e2ca745e097c956d075684710981479b0dbe6ac383fafb9"
        );
        let path: [&[u8]; 3] = [b"Demo Path", b"0123456789abcdef", b"nonce678"];
        assert_eq!(
            hex(&kdf(b"Demo Key for KDF", &path)),
            "77da8f4ebf3e4db5a471b2a9fc7eaec1d258b367f094b3af469933438a71496a"
        );
    }
}
