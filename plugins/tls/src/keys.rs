//! The certificate of a server, which may change while it runs.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::{TlsError, mint::Mint, pem};

/// What a server shows.
#[derive(Debug)]
pub(crate) enum Certificates {
    /// One chain.
    Fixed(ArcSwap<CertifiedKey>),
    /// One made up for each name.
    Minted(Box<Mint>),
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self {
            Self::Fixed(key) => Some(key.load_full()),
            Self::Minted(mint) => mint.certificate(&hello),
        }
    }
}

/// A chain and its key, from PEM.
pub(crate) fn certified(
    certificate: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let chain = pem::chain(certificate)?;
    let key = pem::key(key)?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| {
        let why = match error {
            rustls::Error::InconsistentKeys(_) => {
                "tls: private key does not match public key".to_owned()
            }
            rustls::Error::General(why) => why,
            error => error.to_string(),
        };
        TlsError::options(format_args!("parse x509 key pair: {why}"))
    })
}
