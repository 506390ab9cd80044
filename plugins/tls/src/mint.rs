//! Certificates that an `insecure` server without a certificate makes up, one for each name that clients ask for.
//!
//! The reference makes an RSA key for every handshake. Here two keys live as long as the server, made when first
//! needed, and certificates are kept: most clients get one with an ECDSA key, which costs them and us least; those
//! that offer nothing that goes with it get RSA.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SanType,
};
use rustls::{
    SignatureAlgorithm, SignatureScheme, crypto::CryptoProvider, pki_types::PrivateKeyDer,
    server::ClientHello, sign::CertifiedKey,
};
use tracing::warn;

/// Certificates are valid from that long ago until that long ahead, as the reference's.
const VALIDITY: Duration = Duration::from_secs(3600);

/// A certificate is shown for half of its time.
const SHOWN: Duration = Duration::from_secs(1800);

/// Names whose certificates are kept.
const KEPT: usize = 256;

/// Longest name that gets a certificate of its own, in bytes.
const MAX_NAME: usize = 255;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Algorithm {
    Ecdsa,
    Rsa,
}

/// A key, as the makers of certificates and the signers of handshakes each want it.
struct Key {
    pair: KeyPair,
    /// Signs handshakes.
    signing: Arc<dyn rustls::sign::SigningKey>,
}

/// Certificates and when they were made, by name and algorithm.
type Made = HashMap<(Box<str>, Algorithm), (Instant, Arc<CertifiedKey>)>;

/// Makes certificates up.
pub(crate) struct Mint {
    provider: Arc<CryptoProvider>,
    ecdsa: OnceLock<Option<Key>>,
    rsa: OnceLock<Option<Key>>,
    made: Mutex<Made>,
}

impl std::fmt::Debug for Mint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mint").finish_non_exhaustive()
    }
}

impl Mint {
    pub(crate) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self {
            provider,
            ecdsa: OnceLock::new(),
            rsa: OnceLock::new(),
            made: Mutex::new(HashMap::new()),
        }
    }

    /// A certificate for that client.
    pub(crate) fn certificate(&self, hello: &ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or_default();
        let ecdsa = hello.signature_schemes().contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            && hello.cipher_suites().iter().any(|suite| {
                self.provider.cipher_suites.iter().any(|own| {
                    own.suite() == *suite
                        && own.usable_for_signature_algorithm(SignatureAlgorithm::ECDSA)
                })
            });
        self.make(name, if ecdsa { Algorithm::Ecdsa } else { Algorithm::Rsa })
    }

    fn make(&self, name: &str, algorithm: Algorithm) -> Option<Arc<CertifiedKey>> {
        let name = if name.len() > MAX_NAME { "" } else { name };
        let id = (name.into(), algorithm);
        if let Some((since, made)) = self.made.lock().get(&id)
            && since.elapsed() < SHOWN
        {
            return Some(made.clone());
        }
        let key = self.key(algorithm)?;
        let certificate = match certificate(name, &key.pair) {
            Ok(certificate) => certificate,
            Err(error) => {
                warn!("TLS: no certificate for {name:?}: {error}");
                return None;
            }
        };
        let made = Arc::new(CertifiedKey::new(vec![certificate], key.signing.clone()));
        let mut all = self.made.lock();
        if all.len() >= KEPT {
            all.retain(|_, (since, _)| since.elapsed() < SHOWN);
            if all.len() >= KEPT {
                all.clear();
            }
        }
        all.insert(id, (Instant::now(), made.clone()));
        Some(made)
    }

    fn key(&self, algorithm: Algorithm) -> Option<&Key> {
        let make = |kind: &'static rcgen::SignatureAlgorithm| {
            let made = || {
                let pair = KeyPair::generate_for(kind).map_err(|error| error.to_string())?;
                let der = PrivateKeyDer::Pkcs8(pair.serialize_der().into());
                let loaded = self.provider.key_provider.load_private_key(der);
                let signing = loaded.map_err(|error| error.to_string())?;
                Ok(Key { pair, signing })
            };
            made().inspect_err(|error: &String| warn!("TLS: no key: {error}")).ok()
        };
        match algorithm {
            Algorithm::Ecdsa => self.ecdsa.get_or_init(|| make(&PKCS_ECDSA_P256_SHA256)),
            Algorithm::Rsa => self.rsa.get_or_init(|| make(&PKCS_RSA_SHA256)),
        }
        .as_ref()
    }
}

fn certificate(
    name: &str,
    key: &KeyPair,
) -> Result<rustls::pki_types::CertificateDer<'static>, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![match name.parse() {
            Ok(ip) => SanType::IpAddress(ip),
            Err(_) => SanType::DnsName(name.try_into()?),
        }];
    }
    let now = SystemTime::now();
    params.not_before = (now - VALIDITY).into();
    params.not_after = (now + VALIDITY).into();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params.self_signed(key)?.der().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_for_each_name_and_no_more() {
        let mint = Mint::new(crate::suites::provider().clone());
        let first = mint.make("a.test", Algorithm::Ecdsa).unwrap();
        assert!(Arc::ptr_eq(&first, &mint.make("a.test", Algorithm::Ecdsa).unwrap()));
        assert!(!Arc::ptr_eq(&first, &mint.make("b.test", Algorithm::Ecdsa).unwrap()));
        assert!(first.keys_match().is_ok());
        for at in 0..2 * KEPT {
            mint.make(&format!("{at}.test"), Algorithm::Ecdsa).unwrap();
        }
        assert!(mint.made.lock().len() <= KEPT);
        assert!(mint.make(&"x".repeat(300), Algorithm::Ecdsa).is_some());
        assert!(mint.make("", Algorithm::Ecdsa).is_some());
        assert!(mint.key(Algorithm::Rsa).is_some());
    }
}
