//! What DNS over HTTPS (RFC 8484) sends and takes, whatever HTTP carries it.

use crosspoint_kernel::BuildError;
use crosspoint_schema::{decode::HeaderMap as Fields, options};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};

use super::{RemoteTlsOptions, sessions::Failed};

/// The only type of body.
const MIME: HeaderValue = HeaderValue::from_static("application/dns-message");

/// Where the path is not given.
const PATH: &str = "/dns-query";

/// Longest answer, in bytes.
const LONGEST: usize = 65_535;

options! {
    /// A DNS server that is asked over HTTPS.
    pub struct RemoteHttpsOptions ("option.RemoteHTTPSDNSServerOptions") {
        /// How to dial, the server, and TLS.
        pub remote: RemoteTlsOptions = flatten,
        /// Path of the requests; /dns-query by default.
        pub path: String = "path",
        /// Read and not used, as in the reference: requests are POST.
        pub method: String = "method",
        /// More header fields; `Host` replaces the host of the URL.
        pub headers: Fields = "headers",
    }
}

/// A request without its body.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// With scheme and authority.
    uri: Uri,
    headers: HeaderMap,
}

impl Template {
    /// # Errors
    /// A path, host or header field that no request can have.
    pub(crate) fn new(options: &RemoteHttpsOptions) -> Result<Self, BuildError> {
        let mut headers = HeaderMap::new();
        let mut host = None;
        for (name, value) in options.headers.iter() {
            let wrong = || BuildError::options(format_args!("invalid header field: {name}"));
            let name = HeaderName::try_from(name).map_err(|_| wrong())?;
            let value = HeaderValue::try_from(value).map_err(|_| wrong())?;
            if name == header::HOST {
                let text = value.to_str().map_err(|_| wrong())?;
                host.get_or_insert_with(|| text.to_owned());
            } else {
                headers.append(name, value);
            }
        }
        headers.insert(header::CONTENT_TYPE, MIME);
        headers.insert(header::ACCEPT, MIME);
        let address = &options.remote.remote.address;
        let host = host.filter(|host| !host.is_empty());
        let host = host.as_deref().unwrap_or(options.remote.server_name());
        // A zone is for the one who dials, and nobody else.
        let (bare, _) = host.split_once('%').unwrap_or((host, ""));
        let mut authority = match bare.parse::<std::net::Ipv6Addr>() {
            Ok(_) => format!("[{bare}]"),
            Err(_) => host.to_owned(),
        };
        if !matches!(address.server_port, 0 | 443) {
            authority = format!("{authority}:{}", address.server_port);
        }
        let path = if options.path.is_empty() { PATH } else { &options.path };
        let uri = Uri::builder()
            .scheme("https")
            .authority(authority.as_str())
            .path_and_query(escaped(path)?)
            .build()
            .map_err(|error| BuildError::options(format_args!("invalid URL: {error}")))?;
        Ok(Self { uri, headers })
    }

    /// A POST with a query of `length` bytes; `absolute`: with scheme and authority, as HTTP/2 and 3 want it.
    pub(crate) fn request<B>(&self, absolute: bool, length: usize, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        let headers = request.headers_mut();
        headers.clone_from(&self.headers);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        if absolute {
            *request.uri_mut() = self.uri.clone();
        } else {
            let authority = self.uri.authority().map_or("", |authority| authority.as_str());
            if let Ok(host) = HeaderValue::try_from(authority) {
                headers.insert(header::HOST, host);
            }
            let path = self.uri.path_and_query().cloned().map(Uri::from);
            *request.uri_mut() = path.unwrap_or_default();
        }
        request
    }
}

/// A path as a URL has it: what is escaped already stays so, the rest is escaped as Go does.
fn escaped(path: &str) -> Result<String, BuildError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@".contains(&b);
    let allowed = |b: u8| plain(b) || b"!'()*[]%".contains(&b);
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits = rest.first_chunk::<2>().and_then(|d| std::str::from_utf8(d).ok());
        let digits = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(value) => decoded.push(value),
            None => {
                let end = rest.len().min(2);
                let shown = String::from_utf8_lossy(&rest[..end]);
                let why = format_args!("invalid URL escape \"%{shown}\"");
                return Err(BuildError::options(why));
            }
        }
        rest = &rest[2..];
    }
    let mut out = String::new();
    if !path.starts_with('/') {
        out.push('/');
    }
    if path.bytes().all(allowed) {
        out.push_str(path);
        return Ok(out);
    }
    for byte in decoded {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Ok(out)
}

/// Whether the head of a response promises an answer.
pub(crate) fn check_status(status: StatusCode) -> Result<(), Failed> {
    if status == StatusCode::OK {
        return Ok(());
    }
    Err(Failed::finally(format_args!("unexpected status: {status}")))
}

/// Takes a part of a body in.
pub(crate) fn append(body: &mut Vec<u8>, part: &[u8]) -> Result<(), Failed> {
    if body.len() + part.len() > LONGEST {
        return Err(Failed::finally("the answer is longer than 65535 bytes"));
    }
    body.extend_from_slice(part);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_as_in_go() {
        for (path, url) in [
            ("/dns-query", "/dns-query"),
            ("dns", "/dns"),
            ("/a?b=1", "/a%3Fb=1"),
            ("/a%3Fb", "/a%3Fb"),
            ("/a b/é", "/a%20b/%C3%A9"),
            ("/a!'()*", "/a!'()*"),
            ("/a!#", "/a%21%23"),
        ] {
            assert_eq!(escaped(path).unwrap(), url, "{path}");
        }
        for bad in ["%zz", "/%", "/%4", "/%4g"] {
            assert!(
                escaped(bad).unwrap_err().to_string().starts_with("invalid URL escape"),
                "{bad}"
            );
        }
    }

    #[test]
    fn requests_name_the_host() {
        let template = |text: &str| {
            let options: RemoteHttpsOptions = crate::client::server::tests::options(text);
            Template::new(&options)
        };
        let uri = |text: &str| template(text).unwrap().uri.to_string();
        assert_eq!(uri(r#"{"server": "1.1.1.1"}"#), "https://1.1.1.1/dns-query");
        assert_eq!(
            uri(r#"{"server": "::1", "server_port": 8443, "path": "/q"}"#),
            "https://[::1]:8443/q"
        );
        assert_eq!(
            uri(r#"{"server": "1.1.1.1", "tls": {"server_name": "a.test"}}"#),
            "https://a.test/dns-query"
        );
        assert_eq!(
            uri(r#"{"server": "a.test", "server_port": 443, "headers": {"host": "b.test"}}"#),
            "https://b.test/dns-query"
        );
        let other =
            template(r#"{"server": "a.test", "headers": {"X-A": ["1", "2"], "Accept": "x"}}"#);
        let request = other.unwrap().request(false, 17, ());
        assert_eq!(request.uri(), "/dns-query");
        assert_eq!(request.headers()[header::HOST], "a.test");
        assert_eq!(request.headers()[header::ACCEPT], "application/dns-message");
        assert_eq!(request.headers().get_all("x-a").iter().count(), 2);
        assert!(template(r#"{"server": "a.test", "headers": {"a b": "x"}}"#).is_err());
        assert!(template(r#"{"server": "a.test", "headers": {"host": "a b"}}"#).is_err());
    }
}
