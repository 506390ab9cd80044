//! Certificates, and handshakes over a pipe.

use crosspoint_kernel::{DialError, flow::BoxStream, resolve::NO_TRAIL};
use crosspoint_schema::decode::{Cursor, Options};
use crosspoint_schema::{decode::Context, json};
use crosspoint_tls::{Client, ClientDefaults, HandshakeError, Server, ServerDefaults, TlsStream};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// An authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "a test authority");
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn issue(&self, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: made.pem(), key: key.serialize_pem() }
    }

    pub(crate) fn issue_for(&self, name: &str) -> Pair {
        self.issue(CertificateParams::new(vec![name.to_owned()]).unwrap())
    }
}

/// A certificate that vouches for itself.
pub(crate) fn self_signed(name: &str, authority: bool) -> Pair {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    if authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    Pair { certificate: made.pem(), key: key.serialize_pem() }
}

/// Options from JSON.
pub(crate) fn options<T: Options>(value: &serde_json::Value) -> T {
    let loaded = json::Loaded::from_text("test", &value.to_string()).unwrap();
    let cx = Context::new(loaded.sources);
    T::decode_object(&Cursor::new(&loaded.root, "", &cx)).unwrap()
}

pub(crate) fn client(value: serde_json::Value) -> Client {
    try_client(&value).unwrap()
}

pub(crate) fn try_client(value: &serde_json::Value) -> Result<Client, String> {
    Client::new(&options(value), "", &ClientDefaults::default()).map_err(|e| e.to_string())
}

pub(crate) fn server(pair: &Pair, mut value: serde_json::Value) -> Server {
    value["certificate"] = pair.certificate.clone().into();
    value["key"] = pair.key.clone().into();
    try_server(&value).unwrap()
}

pub(crate) fn try_server(value: &serde_json::Value) -> Result<Server, String> {
    Server::new(&options(value), &ServerDefaults::default()).map_err(|e| e.to_string())
}

/// What both sides made of a handshake.
pub(crate) async fn shake(
    client: &Client,
    server: &Server,
) -> (Result<TlsStream, DialError>, Result<TlsStream, HandshakeError>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let (near, far): (BoxStream, BoxStream) = (Box::new(near), Box::new(far));
    tokio::join!(client.connect(near, &NO_TRAIL), server.accept(far))
}
