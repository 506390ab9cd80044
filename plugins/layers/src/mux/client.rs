//! The client: an outbound whose streams share connections of another one.

use std::{io, sync::Arc, time::Duration};

use crosspoint_kernel::{
    BoxFuture, BuildError, DialError,
    addr::{Host, Target},
    component::{BuildCx, Dial, Incarnation, Outbound},
    error::{DialClass, Side},
    flow::{BoxPacketIo, BoxStream},
    session::Network,
    snapshot::Plane,
};
use crosspoint_schema::options::MultiplexOutOptions;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    brutal::{self, Brutal},
    carrier::Carrier,
    driver,
    frame::Dialect,
    h2::{H2Client, Opening},
    session::Session,
    talk::ClientStream,
    wire::{self, Carries, DESTINATION, HeadError, Protocol, Request, StreamRequest},
};
use crate::{address, framed::Framed, uot::wire::Datagrams};

/// How long a session may take to be dialled, and to agree on Brutal.
const DIAL: Duration = Duration::from_secs(5);

/// What the options say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    request: Request,
    policy: Policy,
    brutal: Option<Brutal>,
}

/// Which session a stream goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    max_connections: usize,
    min_streams: usize,
    max_streams: usize,
    /// All streams share one connection.
    single: bool,
}

impl Settings {
    /// Reads the options.
    ///
    /// # Errors
    /// They are wrong.
    pub(crate) fn new(options: &MultiplexOutOptions) -> Result<Self, BuildError> {
        let brutal = Brutal::new(options.brutal.as_ref())?;
        let protocol = Protocol::named(&options.protocol).ok_or_else(|| {
            BuildError::options(format_args!("unknown protocol: {}", options.protocol))
        })?;
        // Numbers below zero say as little as zero.
        let number = |n: i64| usize::try_from(n).unwrap_or(0);
        let policy = Policy {
            max_connections: number(options.max_connections),
            min_streams: number(options.min_streams),
            max_streams: number(options.max_streams),
            single: brutal.is_some(),
        };
        Ok(Self { request: Request { protocol, padding: options.padding }, policy, brutal })
    }
}

impl Policy {
    /// Which of the sessions takes a stream; for each, the streams it has and whether it takes more. `None`: a new one.
    fn choose(&self, sessions: &[(usize, bool)]) -> Option<usize> {
        if self.single {
            return (!sessions.is_empty()).then_some(0);
        }
        let willing = sessions.iter().enumerate().filter(|(_, (_, takes))| *takes);
        let (at, (streams, _)) = willing.min_by_key(|(_, (streams, _))| *streams)?;
        let enough = if *streams == 0 {
            true
        } else if self.max_connections > 0 {
            sessions.len() >= self.max_connections || *streams < self.min_streams
        } else {
            // Without any limit every stream gets an unused connection, as in the reference.
            *streams < self.max_streams
        };
        enough.then_some(at)
    }
}

/// A session.
#[derive(Clone)]
enum Link {
    Framed(Arc<Session>),
    H2(Arc<H2Client>),
}

/// A stream that has its place in a session.
enum Place {
    Open(BoxStream),
    H2(Opening),
}

impl Link {
    fn is_closed(&self) -> bool {
        match self {
            Self::Framed(session) => session.is_closed(),
            Self::H2(session) => session.is_closed(),
        }
    }

    fn state(&self) -> (usize, bool) {
        match self {
            Self::Framed(session) => (session.live(), session.takes_more()),
            Self::H2(session) => (session.live(), session.takes_more()),
        }
    }

    fn place(&self) -> io::Result<Place> {
        match self {
            Self::Framed(session) => Ok(Place::Open(Box::new(session.open()?))),
            Self::H2(session) => Ok(Place::H2(session.open()?)),
        }
    }

    fn drain(&self) {
        match self {
            Self::Framed(session) => session.drain(),
            Self::H2(session) => session.drain(),
        }
    }
}

impl Place {
    async fn open(self) -> io::Result<BoxStream> {
        match self {
            Self::Open(stream) => Ok(stream),
            Self::H2(opening) => opening.open().await,
        }
    }
}

/// An outbound whose streams share connections.
pub(crate) struct Multiplexed {
    inner: Arc<dyn Outbound>,
    settings: Settings,
    target: Target,
    links: Mutex<Vec<Link>>,
    /// Held while a connection is dialled: who finds no room meanwhile waits for it, instead of dialling one as well.
    dialling: tokio::sync::Mutex<()>,
    me: Arc<Incarnation>,
    plane: Arc<Plane>,
    cancel: CancellationToken,
}

impl Drop for Multiplexed {
    fn drop(&mut self) {
        self.links.get_mut().iter().for_each(Link::drain);
    }
}

impl Multiplexed {
    pub(crate) fn new(inner: Arc<dyn Outbound>, settings: Settings, cx: &BuildCx) -> Self {
        Self {
            inner,
            settings,
            target: Target { host: Host::Name(DESTINATION.0.into()), port: DESTINATION.1 },
            links: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
            me: cx.me.clone(),
            plane: cx.plane.clone(),
            cancel: cx.cancel.clone(),
        }
    }

    /// A place in one of the sessions there are; `None` when a new one is wanted.
    fn place(&self) -> Option<io::Result<Place>> {
        let mut links = self.links.lock();
        links.retain(|link| !link.is_closed());
        let states: Vec<_> = links.iter().map(Link::state).collect();
        let at = self.settings.policy.choose(&states)?;
        links.get(at).map(Link::place)
    }

    /// Opens a stream in the session that is best for it.
    async fn open(&self, dial: Dial<'_>) -> Result<BoxStream, DialError> {
        let mut last = DialError::new(DialClass::Other, Side::Proxy, "multiplex session ended");
        // Once more if the session ends just then, as in the reference.
        for _ in 0..2 {
            match self.try_open(dial).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn try_open(&self, dial: Dial<'_>) -> Result<BoxStream, DialError> {
        let place = match self.place() {
            Some(place) => place,
            None => {
                let _dialling = self.dialling.lock().await;
                match self.place() {
                    Some(place) => place,
                    None => {
                        let link = Box::pin(self.dial(dial)).await?;
                        let place = link.place();
                        self.links.lock().push(link);
                        place
                    }
                }
            }
        };
        let failed = |error: io::Error| {
            DialError::from_io(&error, Side::Proxy).context("open multiplex stream")
        };
        place.map_err(failed)?.open().await.map_err(failed)
    }

    /// Starts a session. It belongs to nobody in particular: the dial is our own.
    async fn dial(&self, dial: Dial<'_>) -> Result<Link, DialError> {
        let own = Dial { session: None, entry: None, ..dial.to(&self.target) };
        let stream = timeout(DIAL, self.inner.connect(own)).await.unwrap_or_else(|_| {
            let text = format!("multiplex session not established within {DIAL:?}");
            Err(DialError::new(DialClass::TimedOut, Side::Proxy, text))
        })?;
        let local = stream.local_addr();
        let socket = self.settings.brutal.and_then(|_| brutal::socket(&stream));
        let carrier = Carrier::client(stream, self.settings.request);
        let failed = |error: io::Error| DialError::from_io(&error, Side::Proxy);
        let link = match self.settings.request.protocol {
            Protocol::H2 => {
                let (session, work) = H2Client::start(carrier, local).await.map_err(failed)?;
                let link = Link::H2(session);
                self.spawn(link.clone(), work);
                link
            }
            protocol => {
                let dialect =
                    if protocol == Protocol::Smux { Dialect::Smux } else { Dialect::Yamux };
                let session = Session::new(dialect, true, local);
                // Streams of the other side are refused before they get here.
                let work = driver::run(session.clone(), carrier, drop);
                let link = Link::Framed(session);
                self.spawn(link.clone(), work);
                link
            }
        };
        if let Some(brutal) = self.settings.brutal {
            let agreed = timeout(DIAL, agree(&link, brutal)).await;
            let agreed = agreed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            match agreed {
                Ok(rate) => {
                    if let Err(error) = brutal::enable(socket.as_ref(), rate) {
                        debug!(component = %self.me, "failed to enable TCP Brutal at client: {error}");
                    }
                }
                Err(error) => {
                    link.drain();
                    return Err(failed(error).context("brutal exchange"));
                }
            }
        }
        Ok(link)
    }

    /// Runs a session. When the instance goes, or when another way leads to the internet, it ends with its last stream.
    fn spawn(&self, link: Link, work: impl Future<Output = io::Result<()>> + Send + 'static) {
        let (cancel, me) = (self.cancel.clone(), self.me.clone());
        let mut reroutes = self.plane.network.reroutes();
        tokio::spawn(async move {
            tokio::pin!(work);
            let end = tokio::select! {
                end = &mut work => end,
                () = async { tokio::select! {
                    () = cancel.cancelled() => {}
                    Ok(()) = reroutes.changed() => {}
                } } => {
                    link.drain();
                    work.await
                }
            };
            match end {
                Ok(()) => debug!(component = %me, "multiplex session ended"),
                Err(error) => debug!(component = %me, "multiplex session ended: {error}"),
            }
        });
    }

    /// A stream with its request in front.
    async fn stream(&self, dial: Dial<'_>, carries: Carries) -> Result<BoxStream, DialError> {
        let stream = self.open(dial).await?;
        let mut request = Vec::with_capacity(32);
        StreamRequest { carries, target: dial.target.clone() }.emit(&mut request);
        Ok(Box::new(ClientStream::new(stream, request)))
    }
}

/// Tells the server how fast it may send, and returns how fast we may.
async fn agree(link: &Link, brutal: Brutal) -> io::Result<u64> {
    let stream = link.place()?.open().await?;
    let mut request = Vec::new();
    let target = Target { host: Host::Name(wire::BRUTAL.into()), port: 0 };
    StreamRequest { carries: Carries::Stream, target }.emit(&mut request);
    let mut stream = ClientStream::new(stream, request);
    stream.write_all(&brutal.receive.to_be_bytes()).await?;
    stream.flush().await?;
    let mut bytes = Vec::new();
    loop {
        match wire::parse_brutal(&bytes) {
            Ok((Ok(rate), _)) => return Ok(rate.min(brutal.send)),
            Ok((Err(text), _)) => return Err(io::Error::other(format!("remote error: {text}"))),
            Err(HeadError::Incomplete(len)) => {
                let have = bytes.len();
                bytes.resize(len, 0);
                stream.read_exact(&mut bytes[have..]).await?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

impl Outbound for Multiplexed {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(self.stream(dial, Carries::Stream))
    }

    fn associate<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async move {
            let connect = dial.session.is_some_and(|session| session.udp.connect);
            let carries = if connect { Carries::Datagrams } else { Carries::Addressed };
            let stream = self.stream(dial, carries).await?;
            let peer = connect.then(|| dial.target.clone());
            Ok(Framed::boxed(stream, Datagrams { families: address::SOCKS, peer }, &[]))
        })
    }

    fn supports(&self, network: Network) -> bool {
        self.inner.supports(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(max_connections: usize, min_streams: usize, max_streams: usize) -> Policy {
        Policy { max_connections, min_streams, max_streams, single: false }
    }

    #[test]
    fn sessions_are_chosen_as_in_the_reference() {
        let busy = [(3, true), (2, true), (9, false)];
        // Nothing is set: only an unused connection is used again.
        assert_eq!(policy(0, 0, 0).choose(&busy), None);
        assert_eq!(policy(0, 0, 0).choose(&[(3, true), (0, true)]), Some(1));
        assert_eq!(policy(0, 0, 3).choose(&busy), Some(1));
        assert_eq!(policy(0, 0, 2).choose(&busy), None);
        assert_eq!(policy(4, 2, 0).choose(&busy), None);
        assert_eq!(policy(4, 3, 0).choose(&busy), Some(1));
        assert_eq!(policy(3, 0, 0).choose(&busy), Some(1));
        assert_eq!(policy(3, 0, 0).choose(&[(9, false)]), None);
        assert_eq!(policy(3, 0, 0).choose(&[]), None);
        let single = Policy { single: true, ..policy(0, 0, 0) };
        assert_eq!(single.choose(&busy), Some(0));
        assert_eq!(single.choose(&[]), None);
    }
}
