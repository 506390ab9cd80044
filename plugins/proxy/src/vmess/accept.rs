//! The head of a request at the server: who asks, and for what.

use std::sync::Arc;

use crosspoint_kernel::flow::BoxStream;
use crosspoint_layers::inbound::Refused;
use tokio::io::AsyncReadExt as _;

use super::{
    crypto::{Cfb, KEY},
    header::{self, CLOCK_SKEW, FRONT, HeaderError, LEAST, LEAST_LEGACY, Request},
    keys::{first, time_iv},
    link::{Link, now},
    replay::Seen,
    users::{Found, Users},
};

/// Bytes that are asked for at once.
const HEAD: usize = 2048;

/// A request that is good.
pub(super) struct Accepted {
    pub(super) user: Arc<str>,
    pub(super) request: Request,
    pub(super) link: Link,
}

/// Reads the head of a request. Whatever is wrong with it, the connection ends, as in the reference, when the fewest bytes
/// that a request can have are there; with fewer, when the time of handshakes is over.
pub(super) async fn accept(
    mut stream: BoxStream,
    users: &Users,
    seen: &Seen,
) -> Result<Accepted, Refused> {
    let mut held = Vec::new();
    let least = if users.has_legacy() { LEAST_LEGACY } else { LEAST };
    want(&mut stream, &mut held, least).await?;
    let user: [u8; KEY] = first(&held);
    let now = now();
    let found = users.find(&user, now).ok_or_else(|| Refused::client("bad request"))?;
    let (request, used) = if found.legacy {
        read_legacy(&mut stream, &mut held, &found, seen).await?
    } else {
        if found.time.abs_diff(now) > CLOCK_SKEW {
            let ahead = i128::from(found.time) - i128::from(now);
            return Err(Refused::client(format!(
                "bad timestamp: the clock of user {} is {ahead:+} s off ours",
                found.name
            )));
        }
        if !seen.is_new(&user) {
            return Err(Refused::client("replayed request"));
        }
        read_sealed(&mut stream, &mut held, &found).await?
    };
    let rest = held.get(used..).unwrap_or_default();
    let link = Link::server(stream, request.clone(), found.legacy, rest);
    let link = link.map_err(Refused::client)?;
    Ok(Accepted { user: found.name, request, link })
}

async fn read_sealed(
    stream: &mut BoxStream,
    held: &mut Vec<u8>,
    found: &Found,
) -> Result<(Request, usize), Refused> {
    want(stream, held, FRONT).await?;
    let front: [u8; FRONT] = first(held);
    let len = header::open_length(&found.command_key, &front).map_err(Refused::client)?;
    want(stream, held, FRONT + len).await?;
    let sealed = held.get_mut(FRONT..FRONT + len).unwrap_or_default();
    let request = header::open(&found.command_key, &front, sealed);
    Ok((request.map_err(Refused::client)?, FRONT + len))
}

async fn read_legacy(
    stream: &mut BoxStream,
    held: &mut Vec<u8>,
    found: &Found,
    seen: &Seen,
) -> Result<(Request, usize), Refused> {
    loop {
        // What is behind the head has another key, and stays as it is.
        let mut head: Vec<u8> = held.iter().skip(KEY).take(header::MOST).copied().collect();
        let mut cfb = Cfb::decrypt(&found.command_key, &time_iv(found.time));
        cfb.as_mut()
            .map_err(|error| Refused::client(*error))?
            .apply(&mut head)
            .map_err(Refused::client)?;
        match Request::parse(&head, true) {
            Ok((request, len)) => {
                // Many clients may send the same hash of the time; the key is random.
                if !seen.is_new(&request.key) {
                    return Err(Refused::client("replayed request"));
                }
                return Ok((request, KEY + len));
            }
            Err(HeaderError::Incomplete(len)) if len <= header::MOST => {
                want(stream, held, KEY + len).await?;
            }
            Err(error) => return Err(Refused::client(error)),
        }
    }
}

/// Reads until `len` bytes are there.
async fn want(stream: &mut BoxStream, held: &mut Vec<u8>, len: usize) -> std::io::Result<()> {
    while held.len() < len {
        held.reserve(len.max(HEAD) - held.len());
        if stream.read_buf(held).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}
