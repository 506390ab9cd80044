//! A plain request on its way through the router: what looks like a stream of the client to everybody else.
//!
//! The other side reads the request as the origin shall see it and writes the origin's response, which goes to the
//! client as a proxy passes it on. So a request is routed, sniffed, accounted and relayed like any connection, in the
//! connection's own task and without a pipe in between. A second request for the same origin takes the same way; any
//! other one ends the exchange and gives the client back.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crosspoint_kernel::addr::Target;
use crosspoint_kernel::error::DialError;
use crosspoint_kernel::flow::{BoxStream, Stream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::wire::{
    self, Answer, Body, Incoming, Kind, MAX_HEAD, Status, find_head, read_request, read_response,
};
use crate::answer::status_for;
use crate::read::read_some;
use crate::users::SharedUsers;

/// A client between two requests.
pub(crate) struct Client {
    /// Its connection.
    pub(crate) stream: BoxStream,
    /// What was read of it and belongs to the next request.
    pub(crate) held: Vec<u8>,
}

/// A request that is ready to go to its origin.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) target: Target,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) source: Option<IpAddr>,
    head: Vec<u8>,
    body: Body,
    exchange: wire::Exchange,
    /// Without side effects and without a body: may share a connection, and be sent twice.
    light: bool,
}

impl Prepared {
    /// From what [`read_request`] found; `None` for CONNECT.
    pub(crate) fn new(incoming: Incoming<'_>, head: Vec<u8>) -> Option<Self> {
        let Kind::Forward { body, head_only, idempotent, upgrade } = incoming.kind else {
            return None;
        };
        let light = idempotent && !upgrade && body.is_done();
        let exchange = wire::Exchange {
            minor: incoming.minor,
            keep_alive: incoming.keep_alive,
            head_only,
            upgrade,
        };
        Some(Self {
            target: incoming.target.into(),
            user: incoming.user,
            source: incoming.source,
            head,
            body,
            exchange,
            light,
        })
    }
}

/// What is to become of the client when the exchange has ended.
pub(crate) enum After {
    /// It may send another request.
    Next(Client),
    /// The origin's connection had died before it could see this request: send it on a new one.
    Again(Client, Box<Prepared>),
    /// The relay ended without a response: tell the client, then close or go on.
    Unanswered(Client, bool),
    /// Close.
    Close,
}

/// Where the exchange leaves the client.
pub(crate) type Back = Arc<Mutex<Option<After>>>;

#[derive(Debug)]
enum Reply {
    /// The head of the response is not complete.
    Head { buffer: Vec<u8> },
    /// The body of the response.
    Body { body: Body, dechunk: bool, keep: bool },
    /// 101: everything is payload.
    Tunnel,
    /// The response is complete, but for what `out` still holds. `keep`: the client may send another request.
    Complete { keep: bool },
}

/// See the module.
pub(crate) struct Exchange {
    client: Option<Client>,
    back: Back,
    users: SharedUsers,
    /// The request that is under way; its head is kept for [`After::Again`] while `spare`.
    request: Box<Prepared>,
    sent: usize,
    /// The request runs on a connection that has served another one, and nothing came back yet.
    spare: bool,
    reply: Reply,
    /// The dial has succeeded.
    dialled: bool,
    /// The dial has failed and the client was told, or the client is gone.
    over: bool,
    /// The origin takes another request.
    origin: bool,
    /// The client sends no more.
    eof: bool,
    /// Runs between two requests.
    idle: Option<Pin<Box<Sleep>>>,
    /// For the client: heads, and bodies that came with them.
    out: Vec<u8>,
    written: usize,
}

/// How long a client may keep its connection open before it has sent the next request.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Bodies up to this many bytes are written together with their head.
const TOGETHER: usize = 16 * 1024;

impl Exchange {
    pub(crate) fn new(
        client: Client,
        request: Box<Prepared>,
        users: SharedUsers,
        back: Back,
    ) -> Self {
        Self {
            client: Some(client),
            back,
            users,
            request,
            sent: 0,
            spare: false,
            reply: Reply::Head { buffer: Vec::new() },
            dialled: false,
            over: false,
            origin: true,
            eof: false,
            idle: None,
            out: Vec::new(),
            written: 0,
        }
    }

    /// Writes what waits for the client.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            let Some(client) = &mut self.client else { return Poll::Ready(Err(gone())) };
            let rest = self.out.get(self.written..).unwrap_or_default();
            match ready!(Pin::new(&mut client.stream).poll_write(cx, rest)) {
                Ok(0) => return Poll::Ready(Err(self.lost(io::ErrorKind::WriteZero.into()))),
                Ok(n) => self.written += n,
                Err(error) => return Poll::Ready(Err(self.lost(error))),
            }
        }
        // Nothing is kept while nothing is under way.
        (self.out, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn lost(&mut self, error: io::Error) -> io::Error {
        self.over = true;
        self.reply = Reply::Complete { keep: false };
        error
    }

    /// Answers in the origin's place.
    fn refuse(&mut self, status: Status) {
        let keep = self.request.exchange.keep_alive && self.request.body.is_done() && !self.eof;
        status.emit(keep, &mut self.out);
        self.reply = Reply::Complete { keep };
        self.origin = false;
    }

    /// The body of the request, from what is held or from the client.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(client) = &mut self.client else { return Poll::Ready(Err(gone())) };
        let before = buf.filled().len();
        if client.held.is_empty() {
            ready!(Pin::new(&mut client.stream).poll_read(cx, buf))?;
        } else {
            let n = client.held.len().min(buf.remaining());
            buf.put_slice(client.held.get(..n).unwrap_or_default());
            client.held.drain(..n);
        }
        let came = buf.filled().get(before..).unwrap_or_default();
        if came.is_empty() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "request body ends early",
            )));
        }
        let taken = self.request.body.advance(came, |_| ());
        let taken = taken.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        // What lies behind the body belongs to the next request.
        if let Some(rest) = came.get(taken.used..).filter(|rest| !rest.is_empty()) {
            client.held.splice(..0, rest.iter().copied());
            buf.set_filled(before + taken.used);
        }
        Poll::Ready(Ok(()))
    }

    /// While the response is awaited: learns that the client is gone, takes in what it sends ahead.
    fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(client) = &mut self.client else { return Poll::Ready(Err(gone())) };
        while !self.eof && client.held.len() < MAX_HEAD {
            let Client { stream, held } = client;
            // An end is not the client's death: it may only have finished sending.
            self.eof = ready!(read_some(stream, cx, |bytes| held.extend_from_slice(bytes)))? == 0;
        }
        Poll::Pending
    }

    /// Between two requests. Ready when the next one is on its way (true) or must go another way (false).
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(KEEP_ALIVE)));
        if idle.as_mut().poll(cx).is_ready() {
            self.reply = Reply::Complete { keep: false };
            return Poll::Ready(Ok(false));
        }
        loop {
            let Some(client) = &mut self.client else { return Poll::Ready(Ok(false)) };
            match find_head(&client.held, 0) {
                Ok(Some(len)) => {
                    let next = prepare(client.held.get(..len).unwrap_or_default(), &self.users);
                    let Some(next) = next.filter(|next| next.light && next.same_way(&self.request))
                    else {
                        return Poll::Ready(Ok(false));
                    };
                    client.held.drain(..len);
                    if client.held.is_empty() {
                        client.held = Vec::new();
                    }
                    (self.request, self.sent, self.spare) = (next, 0, true);
                    self.reply = Reply::Head { buffer: Vec::new() };
                    self.idle = None;
                    return Poll::Ready(Ok(true));
                }
                Ok(None) if !self.eof => {}
                _ => return Poll::Ready(Ok(false)),
            }
            let Client { stream, held } = client;
            self.eof = ready!(read_some(stream, cx, |bytes| held.extend_from_slice(bytes)))? == 0;
        }
    }

    /// Takes response bytes; returns how many.
    fn poll_response(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.reply {
            Reply::Head { buffer } => {
                self.spare = false;
                let searched = buffer.len();
                let input = if searched == 0 {
                    data
                } else {
                    buffer.extend_from_slice(data);
                    buffer.as_slice()
                };
                let len = match find_head(input, searched) {
                    Ok(Some(len)) => len,
                    Ok(None) => {
                        if searched == 0 {
                            *buffer = data.to_vec();
                        }
                        return Poll::Ready(Ok(data.len()));
                    }
                    Err(_) => {
                        self.refuse(Status::BadGateway);
                        return Poll::Ready(Ok(data.len()));
                    }
                };
                // The head ends within `data`: earlier calls would have found it otherwise.
                let used = len.saturating_sub(searched).min(data.len());
                let answer = read_response(
                    input.get(..len).unwrap_or_default(),
                    &self.request.exchange,
                    &mut self.out,
                );
                self.reply = match answer {
                    Err(_) => {
                        self.refuse(Status::BadGateway);
                        return Poll::Ready(Ok(data.len()));
                    }
                    Ok(Answer::Interim) => Reply::Head { buffer: Vec::new() },
                    Ok(Answer::Switched) => Reply::Tunnel,
                    Ok(Answer::Final { body, dechunk, keep_client, keep_origin }) => {
                        self.origin &= keep_origin;
                        reply(body, dechunk, keep_client, &self.request.body)
                    }
                };
                Poll::Ready(Ok(used))
            }
            Reply::Body { body, dechunk, keep } => {
                let together = *dechunk || !self.out.is_empty();
                if together && self.out.len() >= TOGETHER {
                    ready!(self.poll_out(cx))?;
                    return self.poll_response(cx, data);
                }
                let (mut next, out, dechunk, keep) = (body.clone(), &mut self.out, *dechunk, *keep);
                let data = if together { data.get(..TOGETHER).unwrap_or(data) } else { data };
                let taken = next.advance(data, |payload| {
                    if dechunk {
                        out.extend_from_slice(payload);
                    }
                });
                let Ok(taken) = taken else {
                    return Poll::Ready(Err(
                        self.lost(io::Error::new(io::ErrorKind::InvalidData, "malformed chunk"))
                    ));
                };
                let bytes = data.get(..taken.used).unwrap_or_default();
                if together {
                    if !dechunk {
                        out.extend_from_slice(bytes);
                    }
                    self.advance(next, dechunk, keep);
                    return Poll::Ready(Ok(taken.used));
                }
                let Some(client) = &mut self.client else { return Poll::Ready(Err(gone())) };
                let n = match ready!(Pin::new(&mut client.stream).poll_write(cx, bytes)) {
                    Ok(n) => n,
                    Err(error) => return Poll::Ready(Err(self.lost(error))),
                };
                if n == taken.used {
                    self.advance(next, dechunk, keep);
                } else {
                    // Read again with what was really written.
                    let _ = body_of(&mut self.reply)
                        .map(|body| body.advance(bytes.get(..n).unwrap_or_default(), |_| ()));
                }
                Poll::Ready(Ok(n))
            }
            Reply::Tunnel => {
                ready!(self.poll_out(cx))?;
                let Some(client) = &mut self.client else { return Poll::Ready(Err(gone())) };
                Pin::new(&mut client.stream).poll_write(cx, data)
            }
            Reply::Complete { .. } => {
                // More than the response: nothing that anybody asked for.
                self.origin = false;
                Poll::Ready(Ok(data.len()))
            }
        }
    }

    fn advance(&mut self, body: Body, dechunk: bool, keep: bool) {
        self.reply = reply(body, dechunk, keep, &self.request.body);
    }
}

/// Where a response stands whose `body` is still to come.
fn reply(body: Body, dechunk: bool, keep: bool, request: &Body) -> Reply {
    if body.is_done() {
        // A response that overtakes its request leaves the rest of that in the way.
        Reply::Complete { keep: keep && request.is_done() }
    } else {
        Reply::Body { body, dechunk, keep }
    }
}

fn body_of(reply: &mut Reply) -> Option<&mut Body> {
    if let Reply::Body { body, .. } = reply { Some(body) } else { None }
}

impl Prepared {
    /// Whether it can follow `other` on the same connection.
    fn same_way(&self, other: &Self) -> bool {
        (&self.target, &self.user, self.source) == (&other.target, &other.user, other.source)
    }
}

/// Reads a request that may follow another one; `None` where it cannot.
fn prepare(head: &[u8], users: &SharedUsers) -> Option<Box<Prepared>> {
    let users = users.load();
    let mut out = Vec::new();
    let incoming = read_request(head, users.as_deref(), &mut out).ok()?;
    Prepared::new(incoming, out).map(Box::new)
}

/// Ends the relay, and with it the connection to the origin.
fn served() -> io::Error {
    io::Error::other("request served")
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

impl AsyncRead for Exchange {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.over {
                return Poll::Ready(Err(served()));
            }
            let head = this.request.head.get(this.sent..).unwrap_or_default();
            if !head.is_empty() && !matches!(this.reply, Reply::Complete { .. }) {
                let n = head.len().min(buf.remaining());
                buf.put_slice(head.get(..n).unwrap_or_default());
                this.sent += n;
                if this.sent == this.request.head.len() && !this.spare {
                    (this.request.head, this.sent) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(()));
            }
            match this.reply {
                Reply::Tunnel => {
                    let Some(client) = &mut this.client else { return Poll::Ready(Err(gone())) };
                    if client.held.is_empty() {
                        return Pin::new(&mut client.stream).poll_read(cx, buf);
                    }
                    let n = client.held.len().min(buf.remaining());
                    buf.put_slice(client.held.get(..n).unwrap_or_default());
                    client.held.drain(..n);
                    if client.held.is_empty() {
                        client.held = Vec::new();
                    }
                    return Poll::Ready(Ok(()));
                }
                Reply::Complete { keep } => {
                    ready!(this.poll_out(cx))?;
                    if keep && this.origin && !this.eof && ready!(this.poll_next(cx))? {
                        continue;
                    }
                    return Poll::Ready(Err(served()));
                }
                _ if !this.request.body.is_done() => return this.poll_body(cx, buf),
                _ => return this.poll_watch(cx),
            }
        }
    }
}

impl AsyncWrite for Exchange {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut used = 0;
        loop {
            let rest = buf.get(used..).unwrap_or_default();
            if rest.is_empty() {
                break;
            }
            match this.poll_response(cx, rest) {
                Poll::Ready(Ok(n)) => used += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if used > 0 => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        // A head waits for the body that came with it, and for no more. If the client does not take it now, the
        // relay's flush or the next write tries again.
        if let Poll::Ready(Err(error)) = this.poll_out(cx) {
            return Poll::Ready(Err(error));
        }
        if matches!(this.reply, Reply::Complete { .. }) {
            // The reading side of this stream has something to do now.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(used))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        match &mut this.client {
            Some(client) => Pin::new(&mut client.stream).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// The origin has ended, or the dial has failed and was answered.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.origin = false;
        match &mut this.reply {
            Reply::Tunnel => {
                ready!(this.poll_out(cx))?;
                let Some(client) = &mut this.client else { return Poll::Ready(Err(gone())) };
                return Pin::new(&mut client.stream).poll_shutdown(cx);
            }
            Reply::Head { .. } if this.spare => this.over = true,
            Reply::Head { .. } => this.refuse(Status::BadGateway),
            Reply::Body { body: Body::UntilClose, .. } => {
                this.reply = Reply::Complete { keep: false }
            }
            // A truncated body: the client can only learn it from the end of the connection.
            Reply::Body { .. } => this.reply = Reply::Complete { keep: false },
            Reply::Complete { .. } => {}
        }
        ready!(this.poll_out(cx))?;
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }
}

impl Stream for Exchange {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        let through = matches!(self.reply, Reply::Tunnel) && self.out.is_empty();
        self.client.as_mut().filter(|client| through && client.held.is_empty())?.stream.raw_tcp()
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Result<Option<SocketAddr>, &DialError>,
    ) -> Poll<io::Result<()>> {
        match outcome {
            Ok(_) => self.dialled = true,
            Err(error) if !self.over => {
                self.over = true;
                self.refuse(status_for(error));
            }
            Err(_) => {}
        }
        self.poll_out(cx)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.client.as_ref().and_then(|client| client.stream.local_addr())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some(client) = self.client.take() else { return };
        let flushed = self.written >= self.out.len();
        let after = match &self.reply {
            Reply::Complete { keep: true } if flushed && !self.eof => After::Next(client),
            Reply::Head { buffer } if buffer.is_empty() && self.spare => {
                After::Again(client, self.request.clone())
            }
            Reply::Head { .. } if self.dialled => After::Unanswered(
                client,
                self.request.exchange.keep_alive && self.request.body.is_done() && !self.eof,
            ),
            _ => After::Close,
        };
        *self.back.lock() = Some(after);
    }
}
