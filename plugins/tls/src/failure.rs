//! Why a handshake failed, in words that an operator can act on.

use std::{fmt, io};

use crosspoint_kernel::{
    DialError,
    error::{DialClass, Side},
};
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use crate::der::show;

/// A handshake that failed.
#[derive(Debug)]
pub struct HandshakeError {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tls(Error),
    Io(io::Error),
    Other(String),
}

impl HandshakeError {
    /// Something else than TLS went wrong.
    pub(crate) fn other(message: impl fmt::Display) -> Self {
        Self { kind: Kind::Other(message.to_string()) }
    }

    /// What TLS says, if it was TLS.
    pub(crate) fn tls(&self) -> Option<&Error> {
        if let Kind::Tls(error) = &self.kind { Some(error) } else { None }
    }

    /// Whether the peer went away or stayed silent, which is everyday life of a server.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        matches!(&self.kind, Kind::Io(error) if !matches!(error.kind(), io::ErrorKind::Other))
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(inner) => Self { kind: Kind::Tls(inner.clone()) },
            None => Self { kind: Kind::Io(error) },
        }
    }
}

impl From<Error> for HandshakeError {
    fn from(error: Error) -> Self {
        Self { kind: Kind::Tls(error) }
    }
}

impl std::error::Error for HandshakeError {}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TLS handshake: ")?;
        match &self.kind {
            Kind::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                f.write_str("the peer closed the connection")
            }
            Kind::Io(error) => error.fmt(f),
            Kind::Other(message) => f.write_str(message),
            Kind::Tls(error) => tls(f, error),
        }
    }
}

impl From<HandshakeError> for DialError {
    fn from(error: HandshakeError) -> Self {
        let class = match &error.kind {
            Kind::Io(inner) => match Self::from_io(inner, Side::Proxy).class {
                DialClass::Other => DialClass::Protocol,
                class => class,
            },
            Kind::Tls(_) | Kind::Other(_) => DialClass::Protocol,
        };
        Self::new(class, Side::Proxy, error)
    }
}

fn tls(f: &mut fmt::Formatter<'_>, error: &Error) -> fmt::Result {
    match error {
        Error::InvalidCertificate(why) => certificate(f, why),
        Error::AlertReceived(alert) => {
            write!(f, "the peer refused: {}", alert_text(*alert))
        }
        Error::InvalidMessage(why) => write!(f, "what the peer says is no TLS ({why:?})"),
        Error::NoCertificatesPresented => f.write_str("the server showed no certificate"),
        Error::NoApplicationProtocol => {
            f.write_str("no application protocol (ALPN) that both sides speak")
        }
        Error::PeerIncompatible(why) => match why {
            PeerIncompatible::ServerRejectedEncryptedClientHello(retry) => {
                f.write_str("the server rejected the Encrypted Client Hello")?;
                if retry.is_some() {
                    f.write_str(" and sent another configuration")?;
                }
                Ok(())
            }
            PeerIncompatible::NoCipherSuitesInCommon => {
                f.write_str("no cipher suite that both sides speak")
            }
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::ServerDoesNotSupportTls12Or13 => {
                write!(f, "no TLS version that both sides speak ({why:?})")
            }
            why => write!(f, "the peer is incompatible ({why:?})"),
        },
        Error::General(why) => f.write_str(why),
        error => write!(f, "{error}"),
    }
}

fn certificate(f: &mut fmt::Formatter<'_>, error: &CertificateError) -> fmt::Result {
    f.write_str("the server's certificate ")?;
    match error {
        CertificateError::ExpiredContext { not_after, .. } => {
            write!(f, "expired at {}", show(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            write!(f, "is not valid before {}", show(*not_before))
        }
        CertificateError::Expired => f.write_str("has expired"),
        CertificateError::NotValidYet => f.write_str("is not valid yet"),
        CertificateError::UnknownIssuer => f.write_str("is signed by an unknown authority"),
        CertificateError::NotValidForNameContext { expected, presented } => {
            write!(f, "is not valid for {}", expected.to_str())?;
            if presented.is_empty() {
                return f.write_str(", it names nobody");
            }
            f.write_str(", only for")?;
            // Names in a debug form of the library: `DnsName("a.test")`.
            for (at, name) in presented.iter().take(8).enumerate() {
                let inner = name.split('"').nth(1).unwrap_or(name);
                write!(f, "{}{inner}", if at == 0 { " " } else { ", " })?;
            }
            if presented.len() > 8 { f.write_str(", …") } else { Ok(()) }
        }
        CertificateError::NotValidForName => f.write_str("is not valid for that name"),
        CertificateError::BadEncoding => f.write_str("cannot be read"),
        CertificateError::BadSignature => {
            f.write_str("does not go with the signature of the handshake")
        }
        error => write!(f, "is not acceptable: {error}"),
    }
}

fn alert_text(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::HandshakeFailure => "handshake failure (no common parameters)",
        AlertDescription::ProtocolVersion => "no common TLS version",
        AlertDescription::NoApplicationProtocol => "no common application protocol (ALPN)",
        AlertDescription::UnrecognisedName => "unrecognized server name",
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::CertificateExpired => "certificate expired",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::CertificateUnknown => "certificate unknown",
        AlertDescription::CertificateRequired => "it wants a certificate of the client",
        AlertDescription::EncryptedClientHelloRequired => "Encrypted Client Hello required",
        AlertDescription::InternalError => "internal error",
        alert => return format!("{alert:?}"),
    };
    text.to_owned()
}
