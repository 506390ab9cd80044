//! The URL that is fetched, and the request for it.

use std::future::poll_fn;
use std::task::{Poll, ready};

use crosspoint_kernel::addr::Target;
use crosspoint_kernel::component::Dial;
use crosspoint_kernel::error::{DialClass, DialError, Side};
use crosspoint_kernel::resolve::NO_TRAIL;
use crosspoint_kernel::slot::Slot;
use crosspoint_kernel::{BuildError, component::Outbound};
use crosspoint_schema::options::TlsOutOptions;
use crosspoint_tls::{Client, ClientDefaults};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use crate::host;
use crate::http::wire::find_head;
use crate::read::read_some;

/// What the reference fetches.
const DEFAULT: &str = "https://www.gstatic.com/generate_204";

/// A URL, ready to be fetched.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    target: Target,
    request: Box<[u8]>,
    /// The name in the server's certificate, where TLS is spoken.
    secure: Option<Box<str>>,
}

impl Url {
    /// Reads option `url`.
    ///
    /// # Errors
    /// The URL is none, or has another scheme than `http` and `https`.
    pub(super) fn parse(text: &str) -> Result<Self, BuildError> {
        let bad = || BuildError::options(format_args!("url: {text:?} is no http or https URL"));
        let text = if text.is_empty() { DEFAULT } else { text };
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        let secure = scheme.eq_ignore_ascii_case("https");
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).ok_or_else(bad)?;
        let authority = authority.rsplit_once('@').map_or(authority, |(_, authority)| authority);
        let path = path.split_once('#').map_or(path, |(path, _)| path);
        let plain = |text: &str| text.bytes().all(|b| b > b' ' && b != 0x7f);
        let target = host::Target::parse_authority(authority, if secure { 443 } else { 80 })
            .ok_or_else(bad)?;
        if !(secure || scheme.eq_ignore_ascii_case("http")) || !plain(path) || !plain(authority) {
            return Err(bad());
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        let request = format!(
            "HEAD {slash}{path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: Go-http-client/1.1\r\nConnection: close\r\n\r\n"
        );
        let secure = secure.then(|| target.host.to_string().into());
        Ok(Self { target: target.into(), request: request.into_bytes().into(), secure })
    }

    /// Fetches the URL through an outbound. The milliseconds that dial and response took together.
    ///
    /// # Errors
    /// The dial failed, or the answer is no HTTP.
    pub(super) async fn fetch(&self, through: &Slot<dyn Outbound>) -> Result<u16, DialError> {
        let start = Instant::now();
        let mut stream = through.connect(Dial::internal(&self.target)).await?;
        if let Some(name) = &self.secure {
            // As in the reference: HTTP/1.1, and the certificates of the store.
            let client = Client::new(&TlsOutOptions::default(), name, &ClientDefaults::default())
                .map_err(|error| DialError::new(DialClass::Other, Side::Local, error))?;
            stream = Box::new(client.connect(stream, &NO_TRAIL).await?);
        }
        let failed = |error: std::io::Error| DialError::from_io(&error, Side::Target);
        stream.write_all(&self.request).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        let mut head = Vec::new();
        loop {
            let searched = head.len();
            let read = poll_fn(|cx| {
                let n = ready!(read_some(&mut stream, cx, |bytes| head.extend_from_slice(bytes)))?;
                Poll::Ready(Ok(n))
            });
            if read.await.map_err(failed)? == 0 {
                return Err(DialError::protocol("connection closed before the response"));
            }
            if !head.starts_with(b"HTTP/1.".get(..head.len().min(7)).unwrap_or_default()) {
                return Err(DialError::protocol("malformed HTTP response"));
            }
            if find_head(&head, searched).map_err(DialError::protocol)?.is_some() {
                return Ok(u16::try_from(start.elapsed().as_millis()).unwrap_or(u16::MAX));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let url = Url::parse("http://a.test:8080/generate_204?x#y").unwrap();
        assert_eq!(url.target.to_string(), "a.test:8080");
        assert!(url.request.starts_with(b"HEAD /generate_204?x HTTP/1.1\r\nHost: a.test:8080\r\n"));
        assert!(
            Url::parse("http://[::1]")
                .unwrap()
                .request
                .starts_with(b"HEAD / HTTP/1.1\r\nHost: [::1]\r\n")
        );
        let url = Url::parse("").unwrap();
        assert_eq!(url.target.to_string(), "www.gstatic.com:443");
        assert_eq!(url.secure.as_deref(), Some("www.gstatic.com"));
        assert_eq!(Url::parse("https://[::1]:1").unwrap().secure.as_deref(), Some("::1"));
        for bad in ["x", "ftp://a", "http://", "http://a b/", "http://a/\r\nX: y", "http://:80/"] {
            assert!(matches!(Url::parse(bad), Err(BuildError::Options(_))), "{bad}");
        }
    }
}
