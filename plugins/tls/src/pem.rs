//! Certificates and keys in PEM, inline or in files.

use std::path::Path;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::TlsError;

/// Longest file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// The text of an option that may stand in the configuration, line by line, or in a file. `None` when it is in
/// neither.
pub(crate) fn text(
    what: &str,
    lines: &[impl AsRef<str>],
    path: &str,
) -> Result<Option<Vec<u8>>, TlsError> {
    if !lines.is_empty() {
        let lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
        return Ok(Some(lines.join("\n").into_bytes()));
    }
    if path.is_empty() {
        return Ok(None);
    }
    file(what, Path::new(path)).map(Some)
}

/// Reads a file of bounded length.
pub(crate) fn file(what: &str, path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read as _;
    let read = || {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| TlsError::file(what, path, error))?;
    if bytes.len() as u64 > MAX_FILE {
        let error = std::io::Error::other("longer than 16 MiB");
        return Err(TlsError::file(what, path, error));
    }
    Ok(bytes)
}

/// Every certificate that can be read; what lies between is skipped.
pub(crate) fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect()
}

/// The chain of a server, its own certificate first.
pub(crate) fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |why: String| TlsError::options(format_args!("parse x509 key pair: {why}"));
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.map_err(|error| bad(format!("certificate input: {error}")))?;
    if chain.is_empty() {
        let why = match PrivateKeyDer::from_pem_slice(pem) {
            Ok(_) => "the certificate input holds a private key",
            Err(_) => "failed to find any PEM data in certificate input",
        };
        return Err(bad(why.to_owned()));
    }
    Ok(chain)
}

/// The first private key: PKCS#8, PKCS#1 or SEC1, not encrypted.
pub(crate) fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let text = String::from_utf8_lossy(pem);
        let why = if text.contains("ENCRYPTED") {
            "the private key is encrypted".to_owned()
        } else if !certificates(pem).is_empty() {
            "found a certificate rather than a key in the PEM for the private key".to_owned()
        } else if matches!(error, rustls::pki_types::pem::Error::NoItemsFound) {
            "failed to find any PEM data in key input".to_owned()
        } else {
            format!("key input: {error}")
        };
        TlsError::options(format_args!("parse x509 key pair: {why}"))
    })
}

/// The contents of the one block with that label, which must be all there is (ECH configurations and keys).
pub(crate) fn block(pem: &[u8], label: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(pem).ok()?;
    let begin = format!("-----BEGIN {label}-----");
    let end = format!("-----END {label}-----");
    let (_, rest) = text.split_once(&begin)?;
    let (body, after) = rest.split_once(&end)?;
    if !after.trim().is_empty() {
        return None;
    }
    let body: String = body.split_whitespace().collect();
    // The decoder of PEM knows no foreign labels; any known one does for a body of base64.
    let known = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    CertificateDer::from_pem_slice(known.as_bytes()).ok().map(|der| der.as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks() {
        let pem = "-----BEGIN ECH CONFIGS-----\nAAEC\nAwQ=\n-----END ECH CONFIGS-----\n";
        assert_eq!(block(pem.as_bytes(), "ECH CONFIGS"), Some(vec![0, 1, 2, 3, 4]));
        assert_eq!(block(pem.as_bytes(), "ECH KEYS"), None);
        assert_eq!(block(format!("{pem}x").as_bytes(), "ECH CONFIGS"), None);
        assert_eq!(block(b"abc", "ECH CONFIGS"), None);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let says = |result: Result<(), TlsError>, text: &str| {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        };
        says(chain(b"x").map(drop), "failed to find any PEM data in certificate input");
        says(key(b"x").map(drop), "failed to find any PEM data in key input");
        let made = rcgen::generate_simple_self_signed(vec!["a.test".into()]).unwrap();
        says(key(made.cert.pem().as_bytes()).map(drop), "found a certificate rather than a key");
        says(chain(made.signing_key.serialize_pem().as_bytes()).map(drop), "holds a private key");
        assert!(text("read key", &[] as &[&str], "/nowhere/x").is_err());
    }
}
