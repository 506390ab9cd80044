//! TLS at the client.

use crate::decode::{Duration, Listable};
use crate::{Notices, notice, options};

options! {
    /// TLS at the client.
    pub struct TlsOutOptions ("option.OutboundTLSOptions") {
        /// Use TLS.
        pub enabled: bool = "enabled",
        /// Send no server name.
        pub disable_sni: bool = "disable_sni",
        /// Name that the server's certificate must have; the server's address by default.
        pub server_name: String = "server_name",
        /// Accept any certificate.
        pub insecure: bool = "insecure",
        /// Application protocols to offer.
        pub alpn: Listable<String> = "alpn",
        /// Lowest TLS version: 1.0, 1.1, 1.2 or 1.3.
        pub min_version: String = "min_version",
        /// Highest TLS version.
        pub max_version: String = "max_version",
        /// Cipher suites of TLS 1.0 to 1.2, by their IANA names.
        pub cipher_suites: Listable<String> = "cipher_suites",
        /// Certificate authorities in PEM, line by line.
        pub certificate: Listable<String> = "certificate",
        /// File of certificate authorities in PEM.
        pub certificate_path: String = "certificate_path",
        /// Split the handshake into TCP segments.
        pub fragment: bool = "fragment",
        /// Time between the segments where the kernel cannot tell that one arrived; 500 ms by default.
        pub fragment_fallback_delay: Duration = "fragment_fallback_delay",
        /// Split the handshake into TLS records.
        pub record_fragment: bool = "record_fragment",
        /// Encrypted Client Hello.
        pub ech: Option<EchOutOptions> = "ech",
        /// A handshake that looks like a browser's.
        pub utls: Option<UtlsOptions> = "utls",
        /// REALITY.
        pub reality: Option<RealityOutOptions> = "reality",
    }
}

options! {
    /// Encrypted Client Hello at the client.
    pub struct EchOutOptions ("option.OutboundECHOptions") {
        /// Use it.
        pub enabled: bool = "enabled",
        /// Configuration in PEM, line by line; from the DNS by default.
        pub config: Listable<String> = "config",
        /// File with the configuration in PEM.
        pub config_path: String = "config_path",
        /// Without effect (deprecated).
        pub pq_signature_schemes_enabled: bool = "pq_signature_schemes_enabled",
        /// Without effect (deprecated).
        pub dynamic_record_sizing_disabled: bool = "dynamic_record_sizing_disabled",
    }
}

options! {
    /// A handshake that looks like a browser's.
    pub struct UtlsOptions ("option.OutboundUTLSOptions") {
        /// Use it.
        pub enabled: bool = "enabled",
        /// chrome (default), firefox, edge, safari, 360, qq, ios, android, random or randomized.
        pub fingerprint: String = "fingerprint",
    }
}

options! {
    /// REALITY at the client.
    pub struct RealityOutOptions ("option.OutboundRealityOptions") {
        /// Use it.
        pub enabled: bool = "enabled",
        /// The server's public key, base64url.
        pub public_key: String = "public_key",
        /// Up to 8 bytes in hexadecimal.
        pub short_id: String = "short_id",
    }
}

impl TlsOutOptions {
    /// Notes deprecated options, if TLS is in use; the reference does so when it makes the client.
    pub fn note_deprecated(&self, notices: &Notices) {
        let old = |ech: &EchOutOptions| {
            ech.enabled && (ech.pq_signature_schemes_enabled || ech.dynamic_record_sizing_disabled)
        };
        if self.enabled && self.ech.as_ref().is_some_and(old) {
            notices.push(&notice::LEGACY_ECH_OPTIONS);
        }
    }
}
