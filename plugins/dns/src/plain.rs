//! A query to plain servers, one after another: UDP first, TCP for what does not fit.
//!
//! Every try has a socket of its own, as in C libraries, so that port and id are new each time. For servers that the
//! system or a lease names, which come and go; a configured server has sockets that it keeps (`client`).

use std::{
    future::poll_fn,
    hash::{BuildHasher as _, RandomState},
    io,
    net::SocketAddr,
    time::Duration,
};

use crosspoint_kernel::{
    BuildCx, BuildError,
    addr::Target,
    component::Dial,
    net::dial::{Dialer, Setup},
    relay::{give_batch, take_batch},
    resolve::{ExchangeError, Query, Trail},
};
use crosspoint_schema::options::DialOptions;
use hickory_proto::op::ResponseCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::{answer::Asked, client::wire};

/// The answer over UDP that we are ready for, in bytes: what passes unbroken everywhere, as in Go's resolver.
const UDP_SIZE: u16 = 1232;

/// Space for an answer of a server that takes no notice of sizes.
const SPACE: usize = 4096;

/// A root name, type OPT, our size, no flags, no options (RFC 6891 §6.1.2).
const OPT: [u8; 11] = {
    let [high, low] = UDP_SIZE.to_be_bytes();
    [0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]
};

/// The bit that asks whether an answer was validated (RFC 6840 §5.7), in the fourth byte of the header.
const AD: u8 = 0x20;

/// Where to ask, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan<'a> {
    /// The servers.
    pub(crate) servers: &'a [SocketAddr],
    /// The one to begin with, modulo their number.
    pub(crate) first: usize,
    /// How often each of them is tried.
    pub(crate) attempts: u32,
    /// How long one try may take.
    pub(crate) timeout: Duration,
    /// Not over UDP at all.
    pub(crate) tcp: bool,
    /// Ask for the AD bit.
    pub(crate) trust_ad: bool,
}

/// Opens sockets to any server.
pub(crate) struct Plain {
    dialer: Dialer,
    /// Sockets of our own lead there.
    direct: bool,
}

/// A query, ready to be sent.
struct Ready {
    message: Vec<u8>,
    asked: wire::Asked,
    space: usize,
}

impl Plain {
    /// With these dial fields.
    ///
    /// # Errors
    /// Those of [`Dialer::with`].
    pub(crate) fn new(
        dial: &DialOptions,
        setup: Setup<'_>,
        cx: &BuildCx,
    ) -> Result<Self, BuildError> {
        let direct = dial.detour.is_empty() && !setup.default_outbound;
        Ok(Self { dialer: Dialer::with(dial, cx, setup)?, direct })
    }

    /// Asks until a server answers. One that says that it cannot answer passes the query on to the next one, and
    /// what it said stands if no other one does better.
    ///
    /// # Errors
    /// What happened to the last try.
    pub(crate) async fn ask(
        &self,
        query: Query<'_>,
        asked: &Asked,
        plan: Plan<'_>,
    ) -> Result<Vec<u8>, ExchangeError> {
        let mut ready = Ready::new(query.message, asked, plan.trust_ad)?;
        let mut last = ExchangeError::failed("no servers");
        for _ in 0..plan.attempts {
            let mut unable = None;
            for at in 0..plan.servers.len() {
                let at = plan.first.wrapping_add(at) % plan.servers.len();
                let Some(&server) = plan.servers.get(at) else { continue };
                wire::set_id(&mut ready.message, random_id());
                let attempt = self.once(server, &ready, plan.tcp, query.trail);
                match timeout(plan.timeout, attempt).await {
                    Ok(Ok(mut answer)) => {
                        wire::set_id(&mut answer, wire::id(query.message));
                        if !is_unable(&answer) {
                            return Ok(answer);
                        }
                        unable.get_or_insert(answer);
                    }
                    Ok(Err(error @ ExchangeError::Loop(_))) => return Err(error),
                    Ok(Err(error)) => last = error,
                    Err(_) => {
                        last = ExchangeError::failed(format_args!(
                            "no answer from {server} within {:?}",
                            plan.timeout
                        ));
                    }
                }
            }
            if let Some(answer) = unable {
                return Ok(answer);
            }
        }
        Err(last)
    }

    async fn once(
        &self,
        server: SocketAddr,
        ready: &Ready,
        tcp: bool,
        trail: &Trail,
    ) -> Result<Vec<u8>, ExchangeError> {
        if tcp {
            return self.stream(server, ready, trail).await;
        }
        let answer = match self.direct {
            true => self.datagram(server, ready).await?,
            false => self.association(server, ready, trail).await?,
        };
        match answer {
            Some(answer) => Ok(answer),
            None => self.stream(server, ready, trail).await,
        }
    }

    /// `None`: query or answer do not fit into a datagram.
    async fn datagram(
        &self,
        server: SocketAddr,
        ready: &Ready,
    ) -> Result<Option<Vec<u8>>, ExchangeError> {
        let socket = self.dialer.udp_connect(server).await?;
        match socket.send(&ready.message).await {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(None),
            Err(error) => return Err(broken("write", "udp", server, &error)),
        }
        let mut space = vec![0; ready.space];
        loop {
            let length =
                socket.recv(&mut space).await.map_err(|e| broken("read", "udp", server, &e))?;
            let answer = &space[..length];
            if ready.is_answered_by(answer) {
                return Ok((!wire::is_truncated(answer)).then(|| answer.to_vec()));
            }
        }
    }

    /// As [`Self::datagram`], through a detour.
    async fn association(
        &self,
        server: SocketAddr,
        ready: &Ready,
        trail: &Trail,
    ) -> Result<Option<Vec<u8>>, ExchangeError> {
        let target = Target::from(server);
        let dial = Dial { trail, ..Dial::internal(&target) };
        let mut io = self.dialer.associate_connected(dial).await?;
        let mut sent = false;
        poll_fn(|cx| {
            let mut batch = take_batch();
            let mut step = || {
                if !sent {
                    if !batch.push(&ready.message, target.clone()) {
                        return Ok(Some(None));
                    }
                    // What is not taken now is lost, as on a full socket.
                    let _ = io.poll_send(cx, &mut batch)?;
                    (sent, _) = (true, batch.clear());
                }
                while io.poll_recv(cx, &mut batch)?.is_ready() {
                    let mut answers = (0..batch.len()).map(|index| batch.payload(index));
                    if let Some(answer) = answers.find(|answer| ready.is_answered_by(answer)) {
                        return Ok(Some((!wire::is_truncated(answer)).then(|| answer.to_vec())));
                    }
                    batch.clear();
                }
                Ok(None)
            };
            let outcome: io::Result<Option<Option<Vec<u8>>>> = step();
            give_batch(batch);
            match outcome {
                Ok(Some(answer)) => std::task::Poll::Ready(Ok(answer)),
                Ok(None) => std::task::Poll::Pending,
                Err(error) => std::task::Poll::Ready(Err(broken("read", "udp", server, &error))),
            }
        })
        .await
    }

    async fn stream(
        &self,
        server: SocketAddr,
        ready: &Ready,
        trail: &Trail,
    ) -> Result<Vec<u8>, ExchangeError> {
        let target = Target::from(server);
        let dial = Dial { trail, ..Dial::internal(&target) };
        let mut stream = self.dialer.connect(dial).await?;
        let failed = |what, error: io::Error| broken(what, "tcp", server, &error);
        let length = u16::try_from(ready.message.len())
            .map_err(|_| ExchangeError::failed("the query is too long"))?;
        let framed = [&length.to_be_bytes(), &*ready.message].concat();
        stream.write_all(&framed).await.map_err(|e| failed("write", e))?;
        stream.flush().await.map_err(|e| failed("write", e))?;
        loop {
            let length = stream.read_u16().await.map_err(|e| failed("read", e))?;
            // Grows with the bytes that come.
            let mut answer = Vec::new();
            let mut body = (&mut stream).take(length.into());
            body.read_to_end(&mut answer).await.map_err(|e| failed("read", e))?;
            if answer.len() != usize::from(length) {
                return Err(failed("read", io::ErrorKind::UnexpectedEof.into()));
            }
            if ready.is_answered_by(&answer) {
                return Ok(answer);
            }
        }
    }
}

impl Ready {
    /// The query with our size of answers, unless it says one, and perhaps with the AD bit.
    fn new(query: &[u8], asked: &Asked, trust_ad: bool) -> Result<Self, ExchangeError> {
        let mut note = wire::Asked::default();
        let mut message = query.to_vec();
        let additional = query.get(10..12).is_some_and(|count| count != [0, 0]);
        let fits = note.note(query) && message.len() >= wire::HEADER;
        if !fits {
            return Err(ExchangeError::failed("malformed query"));
        }
        if !additional {
            message[11] = 1;
            message.extend(OPT);
        }
        if trust_ad {
            message[3] |= AD;
        }
        let space = usize::from(asked.message.max_payload()).max(SPACE);
        Ok(Self { message, asked: note, space })
    }

    fn is_answered_by(&self, answer: &[u8]) -> bool {
        wire::id(answer) == wire::id(&self.message) && self.asked.is_answered_by(answer)
    }
}

/// Whether a server says that it cannot answer, so that another one may: SERVFAIL, NOTIMP or REFUSED.
fn is_unable(answer: &[u8]) -> bool {
    let code = answer.get(3).map_or(0, |byte| u16::from(byte & 0x0f));
    [ResponseCode::ServFail, ResponseCode::NotImp, ResponseCode::Refused]
        .map(u16::from)
        .contains(&code)
}

fn broken(what: &str, network: &str, server: SocketAddr, error: &io::Error) -> ExchangeError {
    let text = error.to_string();
    let bare = text.split(" (os error ").next().unwrap_or(&text);
    ExchangeError::failed(format_args!("{what} {network} {server}: {}", bare.to_lowercase()))
}

/// An id that nobody outside can foresee: a hash with fresh keys.
fn random_id() -> u16 {
    RandomState::new().hash_one(0u8) as u16
}
