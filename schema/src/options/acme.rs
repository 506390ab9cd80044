//! Certificates from an ACME authority.

use std::borrow::Cow;

use serde_json::json;

use crate::decode::{Cursor, Field, Listable, Map, ObjectCursor, Options, Secret};
use crate::json_schema::{ObjectSchema, SchemaBuilder};
use crate::{ConfigError, options};

options! {
    /// Certificates from an ACME authority; in use when a domain is set.
    pub struct AcmeOptions ("option.InboundACMEOptions") {
        /// Domains of the certificate.
        pub domain: Listable<String> = "domain",
        /// Directory for keys and certificates.
        pub data_directory: String = "data_directory",
        /// Name that a client without one is answered with.
        pub default_server_name: String = "default_server_name",
        /// Address of the account.
        pub email: String = "email",
        /// `letsencrypt` (default), `zerossl` or the address of a directory.
        pub provider: String = "provider",
        /// Do not answer HTTP challenges.
        pub disable_http_challenge: bool = "disable_http_challenge",
        /// Do not answer TLS-ALPN challenges.
        pub disable_tls_alpn_challenge: bool = "disable_tls_alpn_challenge",
        /// Port for HTTP challenges instead of 80.
        pub alternative_http_port: u16 = "alternative_http_port",
        /// Port for TLS-ALPN challenges instead of 443.
        pub alternative_tls_port: u16 = "alternative_tls_port",
        /// An account that the authority gave out.
        pub external_account: Option<AcmeExternalAccount> = "external_account",
        /// Answer DNS challenges.
        pub dns01_challenge: Option<AcmeDns01> = "dns01_challenge",
    }
}

options! {
    /// An account that the authority gave out.
    pub struct AcmeExternalAccount ("option.ACMEExternalAccountOptions") {
        /// Identifier of the key.
        pub key_id: String = "key_id",
        /// The key, base64url.
        pub mac_key: Secret = "mac_key",
    }
}

options! {
    /// Alibaba Cloud DNS.
    pub struct AcmeAliDns ("option.ACMEDNS01AliDNSOptions") {
        /// Identifier of the key.
        pub access_key_id: String = "access_key_id",
        /// The key.
        pub access_key_secret: Secret = "access_key_secret",
        /// Region of the service.
        pub region_id: String = "region_id",
    }
}

options! {
    /// Cloudflare DNS.
    pub struct AcmeCloudflare ("option.ACMEDNS01CloudflareOptions") {
        /// Token of the API.
        pub api_token: Secret = "api_token",
    }
}

/// The DNS provider that publishes answers to challenges.
#[derive(Clone, Debug, PartialEq)]
pub enum AcmeDns01 {
    /// `alidns`
    AliDns(AcmeAliDns),
    /// `cloudflare`
    Cloudflare(AcmeCloudflare),
}

impl Field for AcmeDns01 {
    fn absent() -> Self {
        Self::Cloudflare(AcmeCloudflare::default())
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        let mut object = ObjectCursor::new(cursor, "option._ACMEDNS01ChallengeOptions")?;
        object.splitting(true);
        let provider: String = object.field("provider");
        object.end_pass()?;
        object.splitting(false);
        let value = match provider.as_str() {
            "alidns" => Self::AliDns(AcmeAliDns::decode_fields(&mut object)),
            "cloudflare" => Self::Cloudflare(AcmeCloudflare::decode_fields(&mut object)),
            other => return Err(cursor.error(format!("unknown provider type: {other}"))),
        };
        object.finish(false)?;
        Ok(value)
    }

    fn to_json(&self) -> serde_json::Value {
        let mut out = Map::new();
        match self {
            Self::AliDns(options) => {
                out.insert("provider".to_owned(), "alidns".into());
                options.encode_fields(&mut out);
            }
            Self::Cloudflare(options) => {
                out.insert("provider".to_owned(), "cloudflare".into());
                options.encode_fields(&mut out);
            }
        }
        out.into()
    }

    fn go_type() -> Cow<'static, str> {
        "option.ACMEDNS01ChallengeOptions".into()
    }

    fn schema(builder: &mut SchemaBuilder) -> serde_json::Value {
        let mut ali = ObjectSchema::new(builder);
        ali.constant("provider", "alidns");
        ali.flatten::<AcmeAliDns>();
        let ali = ali.build(false);
        let mut cloudflare = ObjectSchema::new(builder);
        cloudflare.constant("provider", "cloudflare");
        cloudflare.flatten::<AcmeCloudflare>();
        json!({"oneOf": [ali, cloudflare.build(false)]})
    }
}
