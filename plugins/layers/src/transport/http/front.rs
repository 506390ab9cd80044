//! The server's side of a connection before it is a stream: HTTP/2, or requests of HTTP/1.1.

use std::{io, net::SocketAddr};

use bytes::{Bytes, BytesMut};
use crosspoint_kernel::{
    flow::{BoxStream, Prefixed},
    serve::{HANDSHAKE_TIMEOUT, handshake},
};
use http::HeaderMap;
use tokio::io::AsyncReadExt as _;

use super::service::{Asked, Refusal, Service};
use crate::transport::{
    AdmitError, Arrived, Carried, Guests,
    h2::{PREFACE, serve},
    head::{self, Decision, parse::Request},
};

/// Bytes that are read at a time.
const READ: usize = 1 << 10;

/// Lets a client in that speaks HTTP/2 or HTTP/1.1. TLS may have agreed on neither.
///
/// # Errors
/// The client speaks something else, or asks for what `service` does not offer.
pub(in crate::transport) async fn admit(
    service: &dyn Service,
    carried: Carried,
    guests: &Guests,
) -> Result<Option<Arrived>, AdmitError> {
    let Carried { mut stream, alpn } = carried;
    let mut http2 = alpn.as_deref() == Some(b"h2");
    if !http2 {
        let mut read = BytesMut::new();
        http2 = handshake(HANDSHAKE_TIMEOUT, is_http2(&mut stream, &mut read)).await?;
        stream = behind(read.freeze(), stream);
    }
    if http2 {
        serve::serve(stream, alpn, service, guests).await?;
        return Ok(None);
    }
    let decide = |request: &Request<'_>| decide(request, service, guests.peer());
    let (source, rest) = head::serve(&mut stream, decide).await?;
    Ok(Some(Arrived { stream: behind(rest, stream), alpn, source }))
}

fn behind(read: Bytes, stream: BoxStream) -> BoxStream {
    if read.is_empty() { stream } else { Box::new(Prefixed::new(read, stream)) }
}

/// Whether a connection begins as one of HTTP/2.
async fn is_http2(stream: &mut BoxStream, read: &mut BytesMut) -> io::Result<bool> {
    loop {
        if read.starts_with(PREFACE) {
            return Ok(true);
        }
        if !PREFACE.starts_with(read) {
            return Ok(false);
        }
        read.reserve(READ);
        if stream.read_buf(read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn decide(
    request: &Request<'_>,
    service: &dyn Service,
    peer: SocketAddr,
) -> Decision<Option<SocketAddr>> {
    let asked = Asked {
        method: request.method,
        host: &request.host,
        path: request.uri.path.plain(),
        content_type: request.fields.get("content-type"),
        source: head::source(&request.fields, peer),
    };
    if request.method == "PRI" {
        // What is left of a preface that is none.
        return Decision::End { answer: Vec::new(), why: "bad preface of HTTP/2".to_owned() };
    }
    match service.judge(&asked) {
        Ok(welcome) if service.takes_http1() => {
            // The reference announces chunks and sends none: what follows belongs to the connection and not to HTTP any more.
            let end = if request.minor > 0 { "Transfer-Encoding: chunked\r\n" } else { "" };
            Decision::Accept {
                answer: answer(request.minor, &welcome.headers, end),
                with: asked.source,
            }
        }
        // The reference would take it, for chunks of messages that no client sends.
        Ok(welcome) => Decision::End {
            answer: answer(request.minor, &welcome.headers, "Content-Length: 0\r\n"),
            why: "bad version: HTTP/1".to_owned(),
        },
        Err(Refusal { status, why }) => Decision::Refuse { status: status.as_u16(), why },
    }
}

/// The head of a response that ends with `end`.
fn answer(minor: u8, headers: &HeaderMap, end: &str) -> Vec<u8> {
    let mut out = format!("HTTP/1.{minor} 200 OK\r\n").into_bytes();
    for (name, value) in headers {
        let name = head::name(name.as_str()).unwrap_or_default();
        head::emit_field(&mut out, &name, value.to_str().unwrap_or_default());
    }
    head::emit_field(&mut out, "Date", &head::date());
    out.extend(end.as_bytes());
    out.extend(b"\r\n");
    out
}
