//! Small HTTP requests of our own (rule-sets, URL tests, verification), as actors see them. The client lives in
//! plugins/layers; the daemon hands it to whoever needs it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{BoxFuture, component::Outbound, error::DialError, slot::Slot};

/// What to do with a URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Headers and body.
    #[default]
    Get,
    /// Headers only.
    Head,
    /// Send a body.
    Post,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// An absolute `http` or `https` URL.
    pub url: Box<str>,
    /// What to do with it.
    pub method: Method,
    /// Header fields besides `Host` and `User-Agent`.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// The body of a POST.
    pub body: Bytes,
    /// The outbound to go through; `None` takes the default one.
    pub via: Option<Arc<Slot<dyn Outbound>>>,
    /// Limit of the whole request, redirects and body included.
    pub timeout: Duration,
    /// Longest body in bytes that is read.
    pub body_limit: usize,
}

impl Request {
    /// A GET with 30 s and 64 MiB as limits.
    pub fn get(url: &str) -> Self {
        Self {
            url: url.into(),
            method: Method::Get,
            headers: Vec::new(),
            body: Bytes::new(),
            via: None,
            timeout: Duration::from_secs(30),
            body_limit: 64 << 20,
        }
    }
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// The first field of that name (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| **key == *name).map(|(_, value)| &**value)
    }
}

/// A request without a response.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is none that we can ask.
    #[error("invalid URL: {0}")]
    Url(Box<str>),
    /// The server could not be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It took too long.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The body is longer than the request allows, in bytes.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// The server broke the protocol or the connection.
    #[error("{0}")]
    Failed(Box<str>),
}

/// An HTTP client.
pub trait Fetch: Send + Sync + 'static {
    /// Sends the request and reads the whole response. A status of 400 and more is a response.
    ///
    /// # Errors
    /// See [`FetchError`].
    fn fetch(&self, request: Request) -> BoxFuture<'static, Result<Response, FetchError>>;
}
