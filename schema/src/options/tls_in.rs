//! TLS at the server.

use crate::decode::{Duration, Listable, Secret};
use crate::options::{AcmeOptions, DialOptions, ServerOptions};
use crate::{Notices, notice, options};

options! {
    /// TLS at the server.
    pub struct TlsInOptions ("option.InboundTLSOptions") {
        /// Use TLS.
        pub enabled: bool = "enabled",
        /// Name of the server.
        pub server_name: String = "server_name",
        /// Without a certificate, make one for each name that clients ask for.
        pub insecure: bool = "insecure",
        /// Application protocols to accept.
        pub alpn: Listable<String> = "alpn",
        /// Lowest TLS version: 1.0, 1.1, 1.2 or 1.3.
        pub min_version: String = "min_version",
        /// Highest TLS version.
        pub max_version: String = "max_version",
        /// Cipher suites of TLS 1.0 to 1.2, by their IANA names.
        pub cipher_suites: Listable<String> = "cipher_suites",
        /// Certificate chain in PEM, line by line.
        pub certificate: Listable<String> = "certificate",
        /// File of the certificate chain in PEM; watched.
        pub certificate_path: String = "certificate_path",
        /// Private key in PEM, line by line.
        pub key: Listable<Secret> = "key",
        /// File of the private key in PEM; watched.
        pub key_path: String = "key_path",
        /// Certificates from an ACME authority.
        pub acme: Option<AcmeOptions> = "acme",
        /// Encrypted Client Hello.
        pub ech: Option<EchInOptions> = "ech",
        /// REALITY.
        pub reality: Option<RealityInOptions> = "reality",
    }
}

options! {
    /// Encrypted Client Hello at the server.
    pub struct EchInOptions ("option.InboundECHOptions") {
        /// Use it.
        pub enabled: bool = "enabled",
        /// Keys in PEM, line by line.
        pub key: Listable<Secret> = "key",
        /// File of the keys in PEM; watched.
        pub key_path: String = "key_path",
        /// Without effect (deprecated).
        pub pq_signature_schemes_enabled: bool = "pq_signature_schemes_enabled",
        /// Without effect (deprecated).
        pub dynamic_record_sizing_disabled: bool = "dynamic_record_sizing_disabled",
    }
}

options! {
    /// REALITY at the server.
    pub struct RealityInOptions ("option.InboundRealityOptions") {
        /// Use it.
        pub enabled: bool = "enabled",
        /// The server whose handshake is shown to strangers.
        pub handshake: RealityHandshakeOptions = "handshake",
        /// Private key, base64url.
        pub private_key: Secret = "private_key",
        /// Up to 8 bytes in hexadecimal each; no list accepts the all-zero one.
        pub short_id: Listable<String> = "short_id",
        /// Greatest difference of clocks; 0 does not check.
        pub max_time_difference: Duration = "max_time_difference",
    }
}

options! {
    /// The server whose handshake REALITY shows to strangers.
    pub struct RealityHandshakeOptions ("option.InboundRealityHandshakeOptions") {
        /// Where it is.
        pub server: ServerOptions = flatten,
        /// How it is reached.
        pub dial: DialOptions = flatten,
    }
}

impl TlsInOptions {
    /// Notes deprecated options, if TLS is in use; the reference does so when it makes the server.
    pub fn note_deprecated(&self, notices: &Notices) {
        let old = |ech: &EchInOptions| {
            ech.enabled && (ech.pq_signature_schemes_enabled || ech.dynamic_record_sizing_disabled)
        };
        if self.enabled && self.ech.as_ref().is_some_and(old) {
            notices.push(&notice::LEGACY_ECH_OPTIONS);
        }
    }
}
