//! How a call of gRPC ended (gRPC over HTTP/2, `Trailers`).

use std::io;

use http::{HeaderMap, HeaderName};

/// The header with the code.
pub(in crate::transport) const NAME: HeaderName = HeaderName::from_static("grpc-status");

const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Longest part of the peer's message that we repeat, in bytes.
const SHOWN: usize = 200;

/// An error unless the headers tell of success or nothing.
///
/// # Errors
/// The code is not 0.
pub(in crate::transport) fn check(headers: &HeaderMap) -> io::Result<()> {
    let Some(code) = headers.get(NAME).filter(|code| code.as_bytes() != b"0") else {
        return Ok(());
    };
    let code = String::from_utf8_lossy(code.as_bytes());
    let text = headers.get(MESSAGE).map_or(&b""[..], |message| message.as_bytes());
    let text = String::from_utf8_lossy(&text[..text.len().min(SHOWN)]);
    // 1: cancelled.
    let kind = if code == "1" { io::ErrorKind::ConnectionReset } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, format!("gRPC status {code}: {text}")))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_code_other_than_0_is_an_error() {
        let mut headers = HeaderMap::new();
        assert!(check(&headers).is_ok());
        headers.insert(NAME, HeaderValue::from_static("0"));
        assert!(check(&headers).is_ok());
        headers.insert(NAME, HeaderValue::from_static("12"));
        headers.insert(MESSAGE, HeaderValue::from_static("unknown service"));
        assert_eq!(check(&headers).unwrap_err().to_string(), "gRPC status 12: unknown service");
        headers.insert(NAME, HeaderValue::from_static("1"));
        assert_eq!(check(&headers).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
