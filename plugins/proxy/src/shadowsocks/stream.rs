//! A stream with salts, headers and chunks around it.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::BorrowedFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use aws_lc_rs::rand;
use crosspoint_kernel::{
    addr::Target,
    flow::{BoxStream, Stream},
};
use crosspoint_layers::pool;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

use super::{
    cipher::TAG,
    legacy::{self, Way},
    method::{Family, MasterKey, Method},
    wire::{self, Opened, Opener, Sealer, WireError},
};
use crate::{
    address,
    input::{Input, Output},
    lead::ALONE_AFTER,
};

/// Payload of one sealed piece at most, where there is room for no more.
const SEAL: usize = 64 * 1024;

/// The same, where there is much room: what the relay has at once.
const SEAL_WIDE: usize = 256 * 1024;

/// The keys of a client: those of the servers on the way (identity headers), then its own.
#[derive(Debug)]
pub(super) struct ClientKeys {
    pub(super) method: Method,
    pub(super) servers: Vec<MasterKey>,
    pub(super) own: MasterKey,
}

impl ClientKeys {
    /// The identity headers of a stream with that salt.
    fn identify(&self, salt: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
        let next = self.servers.iter().skip(1).chain([&self.own]);
        for (server, next) in self.servers.iter().zip(next) {
            let mut header = next.identity();
            server.identity_block(salt)?.encrypt(&mut header);
            out.extend(header);
        }
        Ok(())
    }
}

/// What comes next on the way in.
enum Read {
    /// Bytes as they are.
    Plain,
    /// The salt of the response; then, with SIP022, its header, which repeats the salt of the request.
    Salt { key: MasterKey, request_salt: Vec<u8> },
    /// The header of the response.
    Header { opener: Opener, request_salt: Vec<u8> },
    /// Bytes of a stream cipher.
    Stream(legacy::Stream),
    /// Chunks.
    Chunks(Opener),
}

/// What comes next on the way out.
enum Write {
    /// Bytes as they are.
    Plain,
    /// The request of a client.
    Request { keys: Arc<ClientKeys>, target: Target, timer: Option<Pin<Box<Sleep>>> },
    /// The response of a server to the request with that salt.
    Response { key: MasterKey, request_salt: Vec<u8> },
    /// Bytes of a stream cipher.
    Stream(legacy::Stream),
    /// Chunks.
    Chunks(Sealer),
}

/// See the module.
pub(super) struct Shadow {
    inner: BoxStream,
    read: Read,
    write: Write,
    /// Received: first what is opened and not yet read, then what is still sealed.
    input: Input,
    /// Opened bytes at the front of the input.
    plain: usize,
    /// Bytes behind them that are used up (their tag).
    spent: usize,
    output: Output,
}

impl Shadow {
    /// The client's end. The request goes out with the first bytes that are written.
    pub(super) fn client(inner: BoxStream, keys: Arc<ClientKeys>, target: Target) -> Self {
        let read = match keys.method.family {
            Family::None => Read::Plain,
            _ => Read::Salt { key: keys.own.clone(), request_salt: Vec::new() },
        };
        Self::new(inner, read, Write::Request { keys, target, timer: None }, &[])
    }

    /// The server's end, after the head of the request was read: `rest` is what came behind it.
    pub(super) fn server(
        inner: BoxStream,
        key: MasterKey,
        opener: Opener,
        rest: &[u8],
        request_salt: Vec<u8>,
    ) -> Self {
        Self::new(inner, Read::Chunks(opener), Write::Response { key, request_salt }, rest)
    }

    fn new(inner: BoxStream, read: Read, write: Write, rest: &[u8]) -> Self {
        let input = Input::with(rest);
        Self { inner, read, write, input, plain: 0, spent: 0, output: Output::default() }
    }

    /// Hands out what is opened.
    fn give(&mut self, out: &mut ReadBuf<'_>) {
        let len = self.plain.min(out.remaining());
        out.put_slice(&self.input.bytes()[..len]);
        self.input.consume(len);
        self.plain -= len;
        if self.plain == 0 {
            self.input.consume(std::mem::take(&mut self.spent));
        }
    }

    /// One step on with the bytes at hand; the number of bytes needed when they do not suffice.
    fn open(&mut self, out: &mut ReadBuf<'_>) -> Result<Option<usize>, WireError> {
        let bytes = self.input.bytes_mut();
        let have = bytes.len();
        match &mut self.read {
            Read::Plain => {
                self.plain = have;
                Ok((have == 0).then_some(1))
            }
            Read::Salt { key, request_salt } => {
                let len = key.method.salt_len();
                let Some(salt) = bytes.get(..len) else { return Ok(Some(len)) };
                if matches!(key.method.family, Family::Stream(_)) {
                    self.read = Read::Stream(key.stream(salt, Way::In)?);
                    self.input.consume(len);
                    return Ok(None);
                }
                let opener = Opener::new(key.session(salt)?, key.method.family);
                self.read = match key.method.family {
                    Family::Aead2022(_) => {
                        Read::Header { opener, request_salt: std::mem::take(request_salt) }
                    }
                    _ => Read::Chunks(opener),
                };
                self.input.consume(len);
                Ok(None)
            }
            Read::Stream(cipher) => {
                cipher.apply(bytes)?;
                self.plain = have;
                Ok((have == 0).then_some(1))
            }
            Read::Header { opener, request_salt } => {
                let len = wire::response_len(request_salt.len()) + TAG;
                let Some(header) = bytes.get_mut(..len) else { return Ok(Some(len)) };
                let payload = wire::parse_response(opener.open(header)?, request_salt)?;
                opener.expect(payload);
                let Read::Header { opener, .. } = std::mem::replace(&mut self.read, Read::Plain)
                else {
                    return Ok(None);
                };
                self.read = Read::Chunks(opener);
                self.input.consume(len);
                Ok(None)
            }
            Read::Chunks(opener) => {
                // Straight into the reader's buffer, where that is large enough.
                if opener.sealed().is_some_and(|len| len <= have)
                    && let Some((len, used)) = opener.open_into(bytes, out.initialize_unfilled())?
                {
                    out.advance(len);
                    self.input.consume(used);
                    return Ok(None);
                }
                match opener.advance(bytes)? {
                    Opened::Need(len) => return Ok(Some(len)),
                    Opened::Length(used) => self.input.consume(used),
                    Opened::Payload(0, used) => self.input.consume(used),
                    Opened::Payload(len, used) => (self.plain, self.spent) = (len, used - len),
                }
                Ok(None)
            }
        }
    }

    /// Seals payload behind what is to be sent, with the head of the stream in front of it.
    fn seal(&mut self, mut payload: &[u8]) -> Result<(), WireError> {
        let out = self.output.buffer();
        match &mut self.write {
            Write::Plain => out.extend(payload),
            Write::Chunks(sealer) => sealer.chunks(out, payload)?,
            Write::Stream(cipher) => {
                let at = out.len();
                out.extend(payload);
                cipher.apply(&mut out[at..])?;
            }
            Write::Request { keys, target, .. } => {
                let salt = salt(keys.method.salt_len());
                out.extend(&salt);
                self.write = match keys.method.family {
                    Family::None => {
                        address::emit(target, out);
                        out.extend(payload);
                        Write::Plain
                    }
                    Family::Stream(_) => {
                        let mut cipher = keys.own.stream(&salt, Way::Out)?;
                        let at = out.len();
                        address::emit(target, out);
                        out.extend(payload);
                        cipher.apply(&mut out[at..])?;
                        Write::Stream(cipher)
                    }
                    family @ Family::Aead(_) => {
                        let mut sealer = Sealer::new(keys.own.session(&salt)?, family);
                        let mut first = Vec::with_capacity(address::MAX + payload.len());
                        address::emit(target, &mut first);
                        first.extend(payload);
                        sealer.chunks(out, &first)?;
                        Write::Chunks(sealer)
                    }
                    family @ Family::Aead2022(_) => {
                        keys.identify(&salt, out)?;
                        let mut sealer = Sealer::new(keys.own.session(&salt)?, family);
                        let padding = if payload.len() < wire::PADDING {
                            1 + below(wire::PADDING)
                        } else {
                            0
                        };
                        let most = sealer.most() - address::len(target) - 2 - padding;
                        let (first, rest) = payload.split_at(payload.len().min(most));
                        payload = rest;
                        let len = address::len(target) + 2 + padding + first.len();
                        let at = out.len();
                        out.push(wire::CLIENT);
                        out.extend(wire::now().to_be_bytes());
                        out.extend((len as u16).to_be_bytes());
                        sealer.seal(out, at)?;
                        let at = out.len();
                        address::emit(target, out);
                        out.extend((padding as u16).to_be_bytes());
                        out.resize(out.len() + padding, 0);
                        out.extend(first);
                        sealer.seal(out, at)?;
                        sealer.chunks(out, payload)?;
                        if let Read::Salt { request_salt, .. } = &mut self.read {
                            *request_salt = salt;
                        }
                        Write::Chunks(sealer)
                    }
                };
            }
            Write::Response { key, request_salt } => {
                let family = key.method.family;
                let salt = salt(key.method.key_len());
                out.extend(&salt);
                let mut sealer = Sealer::new(key.session(&salt)?, family);
                if matches!(family, Family::Aead2022(_)) {
                    let (first, rest) = payload.split_at(payload.len().min(sealer.most()));
                    payload = rest;
                    let at = out.len();
                    out.push(wire::SERVER);
                    out.extend(wire::now().to_be_bytes());
                    out.extend(request_salt.iter());
                    out.extend((first.len() as u16).to_be_bytes());
                    sealer.seal(out, at)?;
                    let at = out.len();
                    out.extend(first);
                    sealer.seal(out, at)?;
                }
                sealer.chunks(out, payload)?;
                self.write = Write::Chunks(sealer);
            }
        }
        Ok(())
    }

    /// Sends what is sealed.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.poll_drain(cx, &mut self.inner)
    }

    /// A client that has nothing to say sends its request alone after a while.
    fn poll_alone(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Write::Request { timer, .. } = &mut self.write {
            let timer = timer.get_or_insert_with(|| Box::pin(sleep(ALONE_AFTER)));
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.seal(&[]).map_err(invalid)?;
        }
        if self.output.is_empty() {
            return Ok(());
        }
        match self.poll_drain(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }
}

fn invalid(error: WireError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Random bytes that no stream has used.
pub(super) fn salt(len: usize) -> Vec<u8> {
    let mut salt = vec![0; len];
    // The system's generator does not fail once it has started, which it has when TLS or a key was made; zeroes
    // would repeat, and the other side refuses repeated salts.
    let _ = rand::fill(&mut salt);
    salt
}

/// A random number below `end`, for padding.
pub(super) fn below(end: usize) -> usize {
    let mut bytes = [0; 4];
    let _ = rand::fill(&mut bytes);
    u32::from_le_bytes(bytes) as usize % end
}

impl AsyncRead for Shadow {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.poll_alone(cx)?;
        if matches!(this.read, Read::Plain) && this.input.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, out);
        }
        let before = out.filled().len();
        if let Read::Stream(cipher) = &mut this.read
            && this.input.is_empty()
        {
            ready!(Pin::new(&mut this.inner).poll_read(cx, out))?;
            let decrypted = cipher.apply(&mut out.filled_mut()[before..]);
            return Poll::Ready(decrypted.map_err(|error| invalid(error.into())));
        }
        loop {
            if this.plain > 0 {
                this.give(out);
            }
            if out.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let Some(need) = this.open(out).map_err(invalid)? else { continue };
            if out.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            let most = match &this.read {
                Read::Chunks(opener) => opener.worth(pool::SIZE),
                _ => pool::SIZE,
            };
            let input = &mut this.input;
            if ready!(input.poll_receive_up_to(cx, &mut this.inner, need, most))? == 0 {
                let clean = match &this.read {
                    Read::Chunks(opener) => opener.between(),
                    // Nobody has answered: as if the target had closed.
                    Read::Salt { .. } | Read::Plain | Read::Stream(_) => true,
                    Read::Header { .. } => false,
                };
                if clean && this.input.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl AsyncWrite for Shadow {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if matches!(this.write, Write::Plain) {
            return Pin::new(&mut this.inner).poll_write(cx, data);
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let wide = this.output.make_room(data.len()) > pool::SIZE;
        let data = &data[..data.len().min(if wide { SEAL_WIDE } else { SEAL })];
        this.seal(data).map_err(invalid)?;
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What the socket does not take now is sent by the next call; it is ours already.
            _ => Poll::Ready(Ok(data.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if matches!(this.write, Write::Request { .. }) {
            this.seal(&[]).map_err(invalid)?;
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

impl Stream for Shadow {
    fn raw_tcp(&mut self) -> Option<&mut TcpStream> {
        let plain = matches!((&self.read, &self.write), (Read::Plain, Write::Plain));
        let empty = self.input.is_empty() && self.output.is_empty();
        if plain && empty { self.inner.raw_tcp() } else { None }
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.inner.socket()
    }
}
