//! What a client of a proxy inbound says first, in SOCKS or HTTP, up to a complete request.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use crosspoint_kernel::addr::Target;
use crosspoint_kernel::flow::BoxStream;
use thiserror::Error;
use tokio::io::AsyncWriteExt as _;

use crate::answer::{Dialect, Short};
use crate::http::exchange::Prepared;
use crate::http::wire::{HeadError, Kind, Refusal, find_head, plausible_request, read_request};
use crate::read::read_some;
use crate::socks::wire::{Command, Handshake, ServerError, Step};
use crate::users::{SharedUsers, Users};

/// Which protocols an inbound speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// SOCKS alone.
    Socks,
    /// HTTP alone.
    Http,
    /// Both: SOCKS when the first octet is 4 or 5.
    Mixed,
}

/// A request that waits for its reply.
pub(crate) enum Opened {
    /// A stream to somewhere.
    Tunnel {
        target: Target,
        user: Option<Arc<str>>,
        /// What the client says is its address.
        source: Option<IpAddr>,
        dialect: Dialect,
        /// Goes in front of the reply.
        lead: Short,
        /// Payload that came with the request.
        rest: Bytes,
    },
    /// A UDP relay.
    Associate {
        user: Option<Arc<str>>,
        /// Where the client says that its datagrams will come from.
        from: Target,
        lead: Short,
    },
    /// A plain HTTP request; `held` came behind its head.
    Forward { request: Box<Prepared>, held: Vec<u8> },
}

/// Why there is no request.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    /// The client closed before it said anything (or anything more, between requests).
    #[error("closed")]
    Quiet,
    /// The client closed in the middle.
    #[error("closed within its request")]
    Closed,
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// SOCKS went wrong; the last word goes out before closing.
    #[error("socks: {0}")]
    Socks(ServerError, Short),
    /// HTTP went wrong.
    #[error("http: {0}")]
    Http(Refusal),
}

impl OpenError {
    /// The last word to the client.
    pub(crate) fn answer(&self) -> &[u8] {
        match self {
            Self::Socks(_, word) => word.get(),
            Self::Http(refusal) => refusal.answer(),
            _ => &[],
        }
    }
}

enum Machine {
    Unknown(Speaks),
    Socks(Handshake),
    /// `searched` bytes hold no end of the head.
    Http {
        searched: usize,
    },
}

enum Progress {
    /// So many bytes are done with; more are needed.
    More(usize),
    Opened(Opened),
}

impl Machine {
    fn advance(&mut self, input: &[u8], users: Option<&Users>) -> Result<Progress, OpenError> {
        if let (Self::Unknown(speaks), Some(first)) = (&self, input.first()) {
            *self = match (speaks, first) {
                (Speaks::Socks, _) | (Speaks::Mixed, 4 | 5) => Self::Socks(Handshake::new()),
                _ => Self::Http { searched: 0 },
            };
        }
        match self {
            Self::Unknown(_) => Ok(Progress::More(0)),
            Self::Socks(handshake) => match handshake.advance(input, users) {
                Ok(Step::More { used }) => Ok(Progress::More(used)),
                Ok(Step::Done { used, request }) => {
                    let (user, lead) = (request.user, Short::new(handshake.pending()));
                    let target = request.target.into();
                    Ok(Progress::Opened(match request.command {
                        Command::Connect => Opened::Tunnel {
                            target,
                            user,
                            source: None,
                            dialect: Dialect::Socks(request.version),
                            lead,
                            rest: rest(input, used),
                        },
                        Command::Associate => Opened::Associate { user, from: target, lead },
                    }))
                }
                Err(error) => Err(OpenError::Socks(error, Short::new(handshake.pending()))),
            },
            Self::Http { searched } => {
                let refused = |error: HeadError| OpenError::Http(error.into());
                let Some(len) = find_head(input, *searched).map_err(refused)? else {
                    if *searched == 0 && !plausible_request(input) {
                        return Err(refused(HeadError::Malformed("not an HTTP message")));
                    }
                    *searched = input.len();
                    return Ok(Progress::More(0));
                };
                let head = input.get(..len).unwrap_or_default();
                let mut out = Vec::new();
                let incoming = read_request(head, users, &mut out).map_err(OpenError::Http)?;
                if incoming.kind == Kind::Connect {
                    return Ok(Progress::Opened(Opened::Tunnel {
                        target: incoming.target.into(),
                        user: incoming.user,
                        source: incoming.source,
                        dialect: Dialect::Connect(incoming.minor),
                        lead: Short::default(),
                        rest: rest(input, len),
                    }));
                }
                let request =
                    Prepared::new(incoming, out).ok_or(OpenError::Http(Refusal::Target))?;
                let held = input.get(len..).unwrap_or_default().to_vec();
                Ok(Progress::Opened(Opened::Forward { request: Box::new(request), held }))
            }
        }
    }

    fn pending(&self) -> &[u8] {
        if let Self::Socks(handshake) = self { handshake.pending() } else { &[] }
    }
}

fn rest(input: &[u8], used: usize) -> Bytes {
    match input.get(used..) {
        Some(rest) if !rest.is_empty() => Bytes::copy_from_slice(rest),
        _ => Bytes::new(),
    }
}

/// Talks with the client until its request is complete. `held` was read before.
///
/// # Errors
/// There is no request: say [`OpenError::answer`] and close.
pub(crate) async fn open(
    stream: &mut BoxStream,
    mut held: Vec<u8>,
    speaks: Speaks,
    users: &SharedUsers,
) -> Result<Opened, OpenError> {
    let mut machine = Machine::Unknown(speaks);
    let mut quiet = held.is_empty();
    let mut progress = Progress::More(0);
    if !quiet {
        progress = machine.advance(&held, users.load().as_deref())?;
    }
    loop {
        match progress {
            Progress::Opened(opened) => return Ok(opened),
            Progress::More(used) => drop(held.drain(..used.min(held.len()))),
        }
        if !machine.pending().is_empty() {
            stream.write_all(machine.pending()).await?;
            if let Machine::Socks(handshake) = &mut machine {
                handshake.written();
            }
        }
        progress = poll_fn(|cx| {
            let mut outcome = Err(if quiet { OpenError::Quiet } else { OpenError::Closed });
            let n = ready!(read_some(stream, cx, |bytes| {
                let users = users.load();
                if held.is_empty() {
                    // Mostly all that came is used at once and needs no buffer of its own.
                    outcome = machine.advance(bytes, users.as_deref());
                    if let Ok(Progress::More(used)) = &mut outcome {
                        held = bytes.get(*used..).unwrap_or_default().to_vec();
                        *used = 0;
                    }
                } else {
                    held.extend_from_slice(bytes);
                    outcome = machine.advance(&held, users.as_deref());
                }
            }))?;
            quiet &= n == 0;
            Poll::Ready(outcome)
        })
        .await?;
    }
}
