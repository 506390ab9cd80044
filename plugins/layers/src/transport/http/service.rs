//! What the servers of `http` and `grpc` decide, and what both have in common.

use std::{net::SocketAddr, time::Duration};

use http::{HeaderMap, StatusCode};

use crate::transport::h2::stream::Wire;

/// What a client asks for.
#[derive(Clone, Copy, Debug)]
pub(in crate::transport) struct Asked<'a> {
    pub(in crate::transport) method: &'a str,
    /// The host, with the port if there is one in the request.
    pub(in crate::transport) host: &'a [u8],
    /// The path, decoded and without the query.
    pub(in crate::transport) path: &'a [u8],
    /// The type of the body.
    pub(in crate::transport) content_type: &'a [u8],
    /// The client that a reverse proxy names.
    pub(in crate::transport) source: Option<SocketAddr>,
}

/// What a request is given.
pub(in crate::transport) struct Welcome {
    /// Headers of the response.
    pub(in crate::transport) headers: HeaderMap,
    /// What the bodies are made of.
    pub(in crate::transport) wire: Wire,
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::transport) struct Refusal {
    /// What the client is told.
    pub(in crate::transport) status: StatusCode,
    /// What the log is told.
    pub(in crate::transport) why: String,
}

impl Refusal {
    pub(in crate::transport) fn new(status: StatusCode, what: &str, asked: &[u8]) -> Self {
        Self { status, why: format!("bad {what}: {}", asked.escape_ascii()) }
    }
}

/// Decides on requests.
pub(in crate::transport) trait Service: Send + Sync {
    /// Looks at the head of a request.
    fn judge(&self, asked: &Asked<'_>) -> Result<Welcome, Refusal>;

    /// Most requests at a time that are announced to a client of HTTP/2.
    fn most_streams(&self) -> u32;

    /// How long a connection of HTTP/2 without requests may live.
    fn idle(&self) -> Option<Duration>;

    /// Whether a connection of HTTP/1 can become a stream.
    fn takes_http1(&self) -> bool;
}
