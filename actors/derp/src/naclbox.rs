//! NaCl's `crypto_box`: X25519, HSalsa20, XSalsa20 and Poly1305 (<https://nacl.cr.yp.to/box.html>; Go
//! `golang.org/x/crypto/nacl/box`). DERP seals the two messages of its handshake with it, Tailscale its disco messages.

use aws_lc_rs::{constant_time::verify_slices_are_equal, rand};
use poly1305::{Poly1305, universal_hash::KeyInit as _};
use salsa20::{
    XSalsa20,
    cipher::{KeyIvInit as _, StreamCipher as _, consts::U10},
    hsalsa,
};

use crate::key::{Key, PrivateKey};

/// Bytes of a nonce.
pub const NONCE_LEN: usize = 24;

/// Bytes of an authenticator.
const TAG_LEN: usize = 16;

/// Bytes that sealing adds.
pub const OVERHEAD: usize = NONCE_LEN + TAG_LEN;

/// A key of two parties. Computing it costs far more than using it.
pub struct Sealer([u8; 32]);

impl Sealer {
    /// The key of `own` and `peer`; the same for the other side. `None`: `peer` is no key.
    #[must_use]
    pub fn new(own: &PrivateKey, peer: &Key) -> Option<Self> {
        own.agree(peer, |secret| Self(hsalsa::<U10>(secret.into(), &[0; 16].into()).into()))
    }

    /// Nonce, authenticator and what `message` became, one behind the other. `None`: the system gives no random
    /// numbers.
    #[must_use]
    pub fn seal(&self, message: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        Some(self.seal_with(nonce, message))
    }

    fn seal_with(&self, nonce: [u8; NONCE_LEN], message: &[u8]) -> Vec<u8> {
        let (mut stream, authenticator) = self.begin(&nonce);
        let mut out = Vec::with_capacity(OVERHEAD + message.len());
        out.extend(nonce);
        out.extend([0; TAG_LEN]);
        out.extend(message);
        if let Some((head, body)) = out.split_at_mut_checked(OVERHEAD) {
            stream.apply_keystream(body);
            let tag = authenticator.compute_unpadded(body);
            head[NONCE_LEN..].copy_from_slice(&tag);
        }
        out
    }

    /// The message in `sealed`. `None`: somebody else sealed it, or it was changed.
    #[must_use]
    pub fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let (tag, body) = rest.split_at_checked(TAG_LEN)?;
        let (mut stream, authenticator) = self.begin(nonce);
        verify_slices_are_equal(&authenticator.compute_unpadded(body), tag).ok()?;
        let mut message = body.to_vec();
        stream.apply_keystream(&mut message);
        Some(message)
    }

    /// The key stream behind its first 32 bytes, which are the key of the authenticator.
    fn begin(&self, nonce: &[u8; NONCE_LEN]) -> (XSalsa20, Poly1305) {
        let mut stream = XSalsa20::new((&self.0).into(), nonce.into());
        let mut key = [0; 32];
        stream.apply_keystream(&mut key);
        (stream, Poly1305::new((&key).into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let mut out = [0; N];
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap();
        }
        out
    }

    /// The example of NaCl itself (`tests/box.c`, `tests/box.out`).
    #[test]
    fn the_example_of_nacl() {
        // What the two keys of the example come to (`tests/core1.c`).
        let first = bytes("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = bytes("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37");
        let message: [u8; 131] = bytes(concat!(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc",
            "e5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb31",
            "0e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde",
            "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f93776384864",
            "5e0705"
        ));
        let tag: [u8; 16] = bytes("f3ffc7703f9400e52a7dfb4b3d3305d9");
        let sealer = Sealer(first);
        let sealed = sealer.seal_with(nonce, &message);
        assert_eq!(sealed[24..40], tag);
        assert_eq!(sealed[40..44], [0x8e, 0x99, 0x3b, 0x9f]);
        assert_eq!(sealer.open(&sealed).unwrap(), message);
    }

    #[test]
    fn only_the_two_can_open() {
        let key = || PrivateKey::generate().unwrap();
        let (one, two, other) = (key(), key(), key());
        let sealed = Sealer::new(&one, &two.public()).unwrap().seal(b"hello").unwrap();
        assert_eq!(sealed.len(), OVERHEAD + 5);
        assert_eq!(Sealer::new(&two, &one.public()).unwrap().open(&sealed).unwrap(), b"hello");
        assert!(Sealer::new(&other, &one.public()).unwrap().open(&sealed).is_none());
        assert!(Sealer::new(&one, &Key([0; 32])).is_none());
    }

    proptest! {
        #[test]
        fn opening_undoes_sealing(key: [u8; 32], message: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let sealer = Sealer(key);
            let mut sealed = sealer.seal(&message).unwrap();
            prop_assert_eq!(sealer.open(&sealed), Some(message));
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(sealer.open(&sealed), None);
            prop_assert_eq!(sealer.open(&sealed[..at]), None);
        }
    }
}
