//! Streams over HTTP/2 (RFC 9113), for the transports `http` and `grpc`.
//!
//! | module | what it is |
//! |---|---|
//! | [`stream`] | one request and its response as a byte stream |
//! | [`pool`] | the client: connections that streams share |
//! | [`drive`] | the work of one connection at the client: frames and pings |
//! | [`serve`] | the server: requests of one connection become streams |
//! | [`shared`] | what is known of a connection outside of its task |
//!
//! Memory of a connection is bounded by flow control: what arrived and was not read by the windows below, what was
//! written and not sent by [`SEND_BUFFER`] for each stream, small frames and resets by limits of the `h2` crate.

mod drive;
pub(super) mod pool;
pub(super) mod serve;
mod shared;
pub(super) mod stream;
#[cfg(test)]
mod tests;

use std::{io, time::Duration};

use crosspoint_kernel::{DialError, error::DialClass};
use h2::Reason;

/// What starts a connection of HTTP/2 (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest payload of a frame that we take, in bytes; the default of 16 KiB costs more CPU.
const FRAME: u32 = 64 << 10;

/// Longest list of headers that we take, in bytes.
const HEADERS: u32 = 64 << 10;

/// Most bytes of one stream that were written and not sent.
const SEND_BUFFER: usize = 128 << 10;

/// Most bytes that one frame is made of.
const CHUNK: usize = 64 << 10;

/// How long a stream that we reset is remembered: what the peer sent before it learned of it is then no error.
const REMEMBERED: Duration = Duration::from_secs(30);

/// How many of them at a time.
const REMEMBERED_STREAMS: usize = 1024;

/// How the peer says that it is gone, as an error of a stream.
fn broken(error: &h2::Error) -> io::Error {
    let kind = match error.reason() {
        _ if error.is_io() => error.get_io().map_or(io::ErrorKind::Other, io::Error::kind),
        Some(Reason::CANCEL | Reason::NO_ERROR | Reason::REFUSED_STREAM) => {
            io::ErrorKind::ConnectionReset
        }
        Some(_) if error.is_go_away() => io::ErrorKind::ConnectionAborted,
        Some(_) => io::ErrorKind::ConnectionReset,
        None => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("HTTP/2: {error}"))
}

/// The same as an error of a dial.
fn failed(error: &h2::Error) -> DialError {
    let mut error = DialError::protocol(format_args!("HTTP/2: {error}"));
    error.class = DialClass::Other;
    error
}
