//! A connection of VMess: heads and bodies in both directions.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{SystemTime, UNIX_EPOCH},
};

use crosspoint_kernel::flow::BoxStream;
use tokio::time::{Sleep, sleep};

use super::{
    body::{self, BodyError, Direction, Opened, Opener, Sealer},
    crypto::{Cfb, Forged},
    header::{self, HeaderError, Request},
    keys::ClientKey,
    users::legacy_hash,
};
use crate::{
    input::{Input, Output},
    lead::ALONE_AFTER,
    uuid::Uuid,
};

/// Seconds since 1970.
#[must_use]
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Most payload of the first chunk of a client. Servers of mihomo look at the first 4,096 bytes of a stream, and lose
/// what else is in their chunk.
const FIRST: usize = 4096;

/// Who a client is.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) key: ClientKey,
    /// The id, if requests are those of the legacy protocol.
    pub(super) legacy: Option<Uuid>,
}

impl Asker {
    fn seal(&self, request: &Request) -> Result<Vec<u8>, Forged> {
        let now = now();
        match &self.legacy {
            None => request.seal(&self.key, now),
            Some(id) => request.seal_legacy(&self.key.command, &legacy_hash(id, now), now),
        }
    }
}

/// What is wrong with the other side's bytes.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error(transparent)]
    Body(#[from] BodyError),
}

impl From<Forged> for Broken {
    fn from(error: Forged) -> Self {
        Self::Body(error.into())
    }
}

impl From<Broken> for io::Error {
    fn from(error: Broken) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// What comes next on the way in.
enum Read {
    /// The head of the response; with the legacy protocol its cipher, and how many bytes of it that has passed.
    Answer(Box<Request>, Option<(Box<Cfb>, usize)>),
    Body(Direction<Opener>),
    Ended,
}

/// What comes next on the way out.
enum Write {
    Request(Box<Request>, Arc<Asker>, Option<Pin<Box<Sleep>>>),
    /// The head of the response; whether it is one of the legacy protocol.
    Answer(Box<Request>, bool),
    Body(Direction<Sealer>),
    Ended,
}

/// What was found at the front of the bytes at hand.
pub(super) enum Step {
    /// This many bytes are needed at least.
    Need(usize),
    /// So many bytes were opened straight into the buffer that was given.
    Direct(usize),
    /// Opened bytes are [held](Link::held), up to the end of a chunk.
    Held,
    /// Nothing more comes.
    End,
    /// A head: go on.
    Again,
}

/// See the module.
pub(super) struct Link {
    pub(super) inner: BoxStream,
    read: Read,
    write: Write,
    /// Received: first what is opened and not yet read, then what is still sealed.
    input: Input,
    /// Opened bytes at the front of the input.
    plain: usize,
    /// Bytes behind them that are used up: tag, padding.
    spent: usize,
    output: Output,
}

impl Link {
    /// The client's end. The request goes out with the first bytes that are written.
    pub(super) fn client(
        inner: BoxStream,
        asker: Arc<Asker>,
        request: Request,
    ) -> Result<Self, Forged> {
        let legacy = match asker.legacy {
            None => None,
            Some(_) => {
                let keys = request.answer_keys(true);
                Some((Box::new(Cfb::decrypt(&keys.key, &keys.nonce)?), 0))
            }
        };
        let read = Read::Answer(Box::new(request.clone()), legacy);
        let write = Write::Request(Box::new(request), asker, None);
        Ok(Self::new(inner, read, write, Input::default()))
    }

    /// The server's end, after the head of the request was read: `rest` is what came behind it.
    pub(super) fn server(
        inner: BoxStream,
        request: Request,
        legacy: bool,
        rest: &[u8],
    ) -> Result<Self, Forged> {
        let body = body::reader(request.security, request.options, &request.keys(), None)?;
        let write = Write::Answer(Box::new(request), legacy);
        let mut this = Self::new(inner, Read::Body(body), write, Input::with(rest));
        this.decrypt(rest.len())?;
        Ok(this)
    }

    fn new(inner: BoxStream, read: Read, write: Write, input: Input) -> Self {
        Self { inner, read, write, input, plain: 0, spent: 0, output: Output::default() }
    }

    /// Whether bytes come in as they are, and none are left here.
    pub(super) fn reads_raw(&self) -> bool {
        matches!(self.read, Read::Body(Direction { cfb: None, chunks: None }))
            && self.input.is_empty()
    }

    /// Whether bytes go out as they are, and none are left here.
    pub(super) fn writes_raw(&self) -> bool {
        matches!(self.write, Write::Body(Direction { cfb: None, chunks: None }))
            && self.output.is_empty()
    }

    /// Opened bytes.
    pub(super) fn held(&self) -> &[u8] {
        self.input.bytes().get(..self.plain).unwrap_or_default()
    }

    /// Drops the first `len` of the opened bytes.
    pub(super) fn consume(&mut self, len: usize) {
        self.input.consume(len);
        self.plain -= len.min(self.plain);
        if self.plain == 0 {
            self.input.consume(std::mem::take(&mut self.spent));
        }
    }

    /// Applies the cipher around the body to the last `new` bytes that were received.
    fn decrypt(&mut self, new: usize) -> Result<(), Forged> {
        if let Read::Body(Direction { cfb: Some(cfb), .. }) = &mut self.read {
            let bytes = self.input.bytes_mut();
            let from = bytes.len() - new.min(bytes.len());
            cfb.apply(&mut bytes[from..])?;
        }
        Ok(())
    }

    /// One step on with the bytes at hand; `direct` takes what can be opened into it. Not while bytes are held.
    pub(super) fn step(&mut self, direct: &mut [u8]) -> Result<Step, Broken> {
        let bytes = self.input.bytes_mut();
        match &mut self.read {
            Read::Ended => Ok(Step::End),
            Read::Answer(request, legacy) => {
                let head = match legacy {
                    None => {
                        let keys = request.answer_keys(false);
                        header::open_answer(request, &keys, bytes)
                    }
                    Some((cfb, passed)) => read_legacy_answer(request, cfb, passed, bytes),
                };
                match head {
                    Ok(len) => {
                        self.input.consume(len);
                        self.begin_body()?;
                        Ok(Step::Again)
                    }
                    Err(HeaderError::Incomplete(len)) => Ok(Step::Need(len)),
                    Err(error) => Err(error.into()),
                }
            }
            Read::Body(Direction { chunks: None, .. }) => {
                self.plain = bytes.len();
                Ok(if bytes.is_empty() { Step::Need(1) } else { Step::Held })
            }
            Read::Body(Direction { chunks: Some(opener), .. }) => {
                if let Some((len, used)) = opener.open_into(bytes, direct)? {
                    self.input.consume(used);
                    return Ok(Step::Direct(len));
                }
                match opener.advance(bytes)? {
                    Opened::Need(len) => Ok(Step::Need(len)),
                    Opened::Length(used) => {
                        self.input.consume(used);
                        Ok(Step::Again)
                    }
                    Opened::Chunk(payload, used) => {
                        self.input.consume(payload.start);
                        (self.plain, self.spent) = (payload.len(), used - payload.end);
                        Ok(Step::Held)
                    }
                    Opened::End => {
                        self.read = Read::Ended;
                        Ok(Step::End)
                    }
                }
            }
        }
    }

    /// The head of the response has passed.
    fn begin_body(&mut self) -> Result<(), Forged> {
        let read = std::mem::replace(&mut self.read, Read::Ended);
        if let Read::Answer(request, legacy) = read {
            let keys = request.answer_keys(legacy.is_some());
            let cfb = legacy.map(|(cfb, _)| cfb);
            let body = body::reader(request.security, request.options, &keys, cfb)?;
            self.read = Read::Body(body);
            self.decrypt(usize::MAX)?;
        }
        Ok(())
    }

    /// Nothing more is read: what still comes is of no interest.
    pub(super) fn end_reading(&mut self) {
        self.read = Read::Ended;
    }

    /// Receives more, at least as long as `need` bytes are not there; 0 is the end of the stream, where it may end.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        need: usize,
    ) -> Poll<io::Result<usize>> {
        let received = std::task::ready!(self.input.poll_receive(cx, &mut self.inner, need))?;
        if received > 0 {
            self.decrypt(received).map_err(Broken::from)?;
            return Poll::Ready(Ok(received));
        }
        let clean = match &self.read {
            Read::Body(Direction { chunks: Some(opener), .. }) => opener.between(),
            // A server that closes without an answer: as if the target had closed.
            _ => true,
        };
        Poll::Ready(if clean && self.input.is_empty() {
            Ok(0)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        })
    }

    /// Puts the head of this direction, if it has not gone yet, and `make`'s part of the body behind what is to be sent.
    pub(super) fn emit(
        &mut self,
        make: impl FnOnce(&mut Option<Box<Sealer>>, &mut Vec<u8>) -> Result<(), Forged>,
    ) -> Result<(), Forged> {
        let out = self.output.buffer();
        match &mut self.write {
            Write::Body(_) | Write::Ended => {}
            Write::Request(request, asker, _) => {
                out.extend(asker.seal(request)?);
                let keys = request.keys();
                let body = body::writer(request.security, request.options, &keys, None)?;
                self.write = Write::Body(body);
            }
            Write::Answer(request, legacy) => {
                let keys = request.answer_keys(*legacy);
                let cfb = if *legacy {
                    let mut head = header::legacy_answer(request);
                    let mut cfb = Cfb::encrypt(&keys.key, &keys.nonce)?;
                    cfb.apply(&mut head)?;
                    out.extend(head);
                    Some(Box::new(cfb))
                } else {
                    header::seal_answer(request, &keys, out)?;
                    None
                };
                let body = body::writer(request.security, request.options, &keys, cfb)?;
                self.write = Write::Body(body);
            }
        }
        if let Write::Body(Direction { cfb, chunks }) = &mut self.write {
            let from = out.len();
            make(chunks, out)?;
            if let Some(cfb) = cfb {
                cfb.apply(&mut out[from..])?;
            }
        }
        Ok(())
    }

    /// Seals bytes of a stream.
    pub(super) fn write(&mut self, payload: &[u8]) -> Result<(), Forged> {
        let first = if matches!(self.write, Write::Request(..)) { FIRST } else { 0 };
        self.emit(|chunks, out| match chunks {
            Some(sealer) => {
                let (first, rest) = payload.split_at(payload.len().min(first));
                sealer.chunks(first, out)?;
                sealer.chunks(rest, out)
            }
            None => {
                out.extend(payload);
                Ok(())
            }
        })
    }

    /// Says that nothing more comes, once: a chunk with nothing in it.
    pub(super) fn end_writing(&mut self) -> Result<(), Forged> {
        if matches!(self.write, Write::Ended) {
            return Ok(());
        }
        self.emit(|chunks, out| match chunks {
            Some(sealer) => sealer.chunk(&[], out),
            None => Ok(()),
        })?;
        // What is raw stays raw: the other direction may be spliced.
        if !matches!(self.write, Write::Body(Direction { chunks: None, .. })) {
            self.write = Write::Ended;
        }
        Ok(())
    }

    /// Whether nothing more may be written.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.write, Write::Ended)
    }

    /// Sends what is sealed.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.output.poll_drain(cx, &mut self.inner)
    }

    /// A client that has nothing to say sends its request alone after a while.
    pub(super) fn poll_alone(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Write::Request(_, _, timer) = &mut self.write {
            let timer = timer.get_or_insert_with(|| Box::pin(sleep(ALONE_AFTER)));
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.write(&[]).map_err(Broken::from)?;
        }
        if self.output.is_empty() {
            return Ok(());
        }
        match self.poll_drain(cx) {
            Poll::Ready(result) => {
                result?;
                // What lies above a wrapper that buffers must not wait for more.
                match tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.inner), cx) {
                    Poll::Ready(result) => result,
                    Poll::Pending => Ok(()),
                }
            }
            Poll::Pending => Ok(()),
        }
    }
}

/// Decrypts the head of a response of the legacy protocol, byte for byte as it is needed: what is behind it may have
/// another cipher.
fn read_legacy_answer(
    request: &Request,
    cfb: &mut Cfb,
    passed: &mut usize,
    bytes: &mut [u8],
) -> Result<usize, HeaderError> {
    loop {
        let have = bytes.get(..*passed).unwrap_or_default();
        match header::parse_legacy_answer(request, have) {
            Err(HeaderError::Incomplete(len)) if len <= bytes.len() && len > *passed => {
                cfb.apply(&mut bytes[*passed..len])?;
                *passed = len;
            }
            other => return other,
        }
    }
}
