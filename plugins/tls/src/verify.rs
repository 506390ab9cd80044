//! Judging the certificate of a server.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{
        CryptoProvider, verify_tls12_signature, verify_tls13_signature,
        verify_tls13_signature_with_raw_key,
    },
    pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::ParsedCertificate,
};

use crate::{
    der,
    store::{Roots, Store},
};

/// Whom to trust.
#[derive(Clone, Debug)]
pub(crate) enum Trust {
    /// Everybody (`insecure`).
    All,
    /// Those authorities.
    Own(Arc<Roots>),
    /// Those of the store at the time of the handshake.
    Store(Arc<Store>),
}

/// Judges certificates by [`Trust`].
#[derive(Debug)]
pub(crate) struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(crate) fn new(trust: Trust, provider: Arc<CryptoProvider>) -> Self {
        Self { trust, provider }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = match &self.trust {
            Trust::All => return Ok(ServerCertVerified::assertion()),
            Trust::Own(roots) => roots.clone(),
            Trust::Store(store) => store.roots(),
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if roots.has(end_entity) {
            // Named by the options as it is: it needs no issuer, and may call itself an authority.
            let parts = der::parts(end_entity).ok_or(CertificateError::BadEncoding)?;
            if now > parts.until {
                let not_after = parts.until;
                return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
            }
            if now < parts.from {
                let not_before = parts.from;
                return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
            }
        } else {
            let judged = verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &roots.anchors,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            );
            judged.map_err(|error| match error {
                // An authority of the same name has another key: the one that signed is unknown.
                Error::InvalidCertificate(CertificateError::BadSignature) => {
                    CertificateError::UnknownIssuer.into()
                }
                error => error,
            })?;
        }
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        let key = match self.trust {
            // Whoever trusts everybody also takes certificates that are odd in other ways: the key counts.
            Trust::All => der::parts(certificate).map(|parts| parts.key),
            _ => None,
        };
        match key {
            Some(key) => {
                let key = SubjectPublicKeyInfoDer::from(key);
                verify_tls13_signature_with_raw_key(message, &key, signature, known)
            }
            None => verify_tls13_signature(message, certificate, signature, known),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
