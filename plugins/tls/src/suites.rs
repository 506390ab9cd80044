//! Versions and cipher suites, by the names that the options use.

use std::sync::{Arc, LazyLock};

use rustls::{
    CipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};
use tracing::warn;

use crate::TlsError;

/// The provider with every suite, shared by all whose options name none.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(in_our_order()));

/// The provider with its suites in the order of Go's: AES-128 first, whose hash (SHA-256) processors compute as well, which
/// cannot be said of that of AES-256 (SHA-384); where there are no instructions for AES, ChaCha20 first.
fn in_our_order() -> CryptoProvider {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let has_aes = std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    let has_aes = std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    let has_aes = false;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| {
        let name = suite.suite().as_str().unwrap_or_default();
        let cipher = match name {
            _ if name.contains("CHACHA20") => u8::from(has_aes) * 3,
            _ if name.contains("AES_128") => 1,
            _ => 2,
        };
        (suite.tls13().is_none(), cipher)
    });
    provider
}

/// The suites that the reference knows by name; `None` for those without forward secrecy of data (CBC), which
/// rustls does not have.
const NAMES: &[(&str, Option<CipherSuite>)] = &[
    ("TLS_AES_128_GCM_SHA256", Some(CipherSuite::TLS13_AES_128_GCM_SHA256)),
    ("TLS_AES_256_GCM_SHA384", Some(CipherSuite::TLS13_AES_256_GCM_SHA384)),
    ("TLS_CHACHA20_POLY1305_SHA256", Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256)),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", None),
    ("TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA", None),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        Some(CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ),
];

static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// What may be negotiated.
#[derive(Clone, Debug)]
pub(crate) struct Negotiable {
    /// The suites.
    pub(crate) provider: Arc<CryptoProvider>,
    /// The versions.
    pub(crate) versions: &'static [&'static SupportedProtocolVersion],
}

/// Versions as numbers that compare: 0 for 1.0 up to 3 for 1.3.
fn version(key: &str, text: &str, default: u8) -> Result<u8, TlsError> {
    match text {
        "" => Ok(default),
        "1.0" => Ok(0),
        "1.1" => Ok(1),
        "1.2" => Ok(2),
        "1.3" => Ok(3),
        // No blank: the reference's words.
        _ => Err(TlsError::options(format_args!("parse {key}: unknown tls version:{text}"))),
    }
}

/// Reads `min_version`, `max_version` and `cipher_suites`.
pub(crate) fn negotiable(min: &str, max: &str, suites: &[String]) -> Result<Negotiable, TlsError> {
    let lowest = version("min_version", min, 2)?;
    let highest = version("max_version", max, 3)?;
    let mut provider = PROVIDER.clone();
    let mut left_out = Vec::new();
    if !suites.is_empty() {
        let mut wanted = Vec::new();
        for name in suites {
            let known = NAMES.iter().find(|(known, _)| known == name);
            match known {
                Some((_, Some(suite))) => wanted.push(*suite),
                Some((_, None)) => left_out.push(name.as_str()),
                None => {
                    return Err(TlsError::options(format_args!("unknown cipher_suite: {name}")));
                }
            }
        }
        // As in the reference, the suites of TLS 1.3 are not chosen by this option.
        let mut chosen = CryptoProvider::clone(&PROVIDER);
        chosen
            .cipher_suites
            .retain(|suite| suite.tls13().is_some() || wanted.contains(&suite.suite()));
        provider = Arc::new(chosen);
    }
    if highest < 2 {
        return Err(TlsError::lacks("TLS 1.0 or 1.1 (max_version)"));
    }
    let old = provider.cipher_suites.iter().any(|suite| suite.tls13().is_none());
    let versions: &'static [&'static SupportedProtocolVersion] = match (lowest, highest) {
        (3, 2) => {
            return Err(TlsError::options("min_version is above max_version"));
        }
        (..=2, 2) if !old => {
            let why = "a cipher suite for TLS 1.2 with CBC, or none at all,";
            return Err(TlsError::lacks(why));
        }
        (..=2, 2) => &BOTH[1..],
        (..=2, 3) if old => &BOTH,
        _ => &BOTH[..1],
    };
    // A hello that says 1.2 and lists suites of 1.3 would mislead whoever chooses by them.
    let spoken = |suite: &rustls::SupportedCipherSuite| versions.contains(&suite.version());
    if !provider.cipher_suites.iter().all(spoken) {
        Arc::make_mut(&mut provider).cipher_suites.retain(spoken);
    }
    if !left_out.is_empty() {
        warn!("TLS: cipher suites with CBC are not spoken: {}", left_out.join(", "));
    }
    if lowest < 2 && !min.is_empty() {
        warn!("TLS: min_version {min} means 1.2: older versions are not spoken");
    }
    Ok(Negotiable { provider, versions })
}

/// The provider with every suite.
#[cfg(test)]
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&s| s.to_owned()).collect()
    }

    #[test]
    fn versions() {
        let count = |min, max| negotiable(min, max, &[]).map(|n| n.versions.len());
        assert_eq!(count("", "").unwrap(), 2);
        assert_eq!(count("1.0", "1.2").unwrap(), 1);
        assert_eq!(count("1.3", "").unwrap(), 1);
        for (min, max, text) in [
            ("2.0", "", "parse min_version: unknown tls version:2.0"),
            ("", "x", "parse max_version: unknown tls version:x"),
            ("", "1.1", "TLS 1.0 or 1.1 (max_version) is not in this build"),
            ("1.3", "1.2", "min_version is above max_version"),
        ] {
            assert_eq!(negotiable(min, max, &[]).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn aes_128_comes_first() {
        let order: Vec<u16> = provider().cipher_suites.iter().map(|s| s.suite().into()).collect();
        if order[0] != 0x1303 {
            assert_eq!(order[..3], [0x1301, 0x1302, 0x1303]);
        }
        assert_eq!(order.len(), aws_lc_rs::default_provider().cipher_suites.len());
    }

    #[test]
    fn suites() {
        let some = |list: &[&str]| negotiable("", "", &names(list));
        assert_eq!(some(&["X"]).unwrap_err().to_string(), "unknown cipher_suite: X");
        let one = some(&["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]).unwrap();
        assert_eq!(one.provider.cipher_suites.len(), 4);
        // The reference's list without a suite for 1.2 leaves 1.3 alone.
        assert_eq!(some(&["TLS_AES_128_GCM_SHA256"]).unwrap().versions.len(), 1);
        assert_eq!(some(&["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"]).unwrap().versions.len(), 1);
        let cbc = names(&["TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"]);
        assert!(matches!(negotiable("", "1.2", &cbc), Err(TlsError::NotInBuild(_))));
        assert!(some(&["TLS_RSA_WITH_AES_128_GCM_SHA256"]).is_err());
    }
}
