//! A client's connection at the server, one task for both directions.

use std::{
    collections::HashSet,
    fmt,
    future::Future,
    hash::{BuildHasher as _, RandomState},
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};

use crosspoint_kernel::{
    flow::BoxStream,
    ledger::{Cut, Registered},
};
use crosspoint_layers::input::Input;
use tokio::time::Instant;

use crate::{
    actor::Message,
    frame::{FrameError, FromClient, FromServer, Gone, Step, is_disco},
    hub::Membership,
    key::Key,
    limit::Bucket,
    mailbox::Limit,
    pump::{Alarm, Pump, TURN, earliest},
    table::{Peer, Route},
};

/// How often a server shows that it is there; a client that hears nothing for twice as long comes again.
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Keep-alives of many clients that came at once should not go out at once.
const JITTER_MILLIS: u64 = 5000;

/// How long a client may take no byte of what is sent to it. Upstream gives it two seconds; here a client that is slow
/// costs no more than what its queues hold, so it may be on the train.
const PATIENCE: Duration = Duration::from_secs(15);

/// The same for another server.
const PATIENCE_TRUSTED: Duration = Duration::from_secs(30);

/// Answers that a destination is not here: so many at once, and one a second.
const NOT_HERE_BURST: u32 = 3;

/// Pairs of other servers' clients and ours that are remembered.
const HEARD: usize = 1 << 16;

/// Why a connection has ended.
#[derive(Debug)]
pub enum End {
    /// The client has closed it.
    Eof,
    /// It failed.
    Io(io::Error),
    /// The client broke the protocol.
    Frame(FrameError),
    /// The client asked for what only other servers may.
    Forbidden,
    /// The client took nothing for too long.
    Stalled,
    /// Another server, or this one, ended it.
    Closed,
    /// Somebody ended it from outside.
    Cut(Cut),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eof => f.write_str("closed by the client"),
            Self::Io(error) => error.fmt(f),
            Self::Frame(error) => error.fmt(f),
            Self::Forbidden => {
                f.write_str("the client asked for what only servers of the region may")
            }
            Self::Stalled => f.write_str("the client takes nothing"),
            Self::Closed => f.write_str("closed by the server"),
            Self::Cut(cut) => f.write_str(cut.as_str()),
        }
    }
}

/// The connection: a future that ends with it.
pub(crate) struct Connection {
    pump: Pump,
    guest: Guest,
    entry: Option<Registered>,
    /// Bytes of a frame of no interest that are still to come.
    skip: usize,
    bucket: Option<Bucket>,
    /// Until when nothing more is read.
    paused: Option<Instant>,
    keep_alive: Instant,
    alarm: Alarm,
}

/// What frames are handled with.
struct Guest {
    member: Membership,
    /// Where the last packet went.
    last: Option<Arc<Peer>>,
    /// Whom clients of another server have sent to, through it.
    heard: HashSet<(Key, Key)>,
    /// [`Table::left`](crate::table::Table) when that was begun.
    heard_at: u64,
    not_here: u32,
    not_here_at: Instant,
}

impl Connection {
    pub(crate) fn new(
        stream: BoxStream,
        input: Input,
        member: Membership,
        entry: Option<Registered>,
    ) -> Self {
        let peer = member.peer.clone();
        let now = Instant::now();
        let jitter = RandomState::new().hash_one(peer.key) % JITTER_MILLIS;
        let keep_alive = now + KEEP_ALIVE + Duration::from_millis(jitter);
        let patience = if peer.trusted { PATIENCE_TRUSTED } else { PATIENCE };
        Self {
            pump: Pump::new(stream, input, peer.mailbox.clone(), patience),
            guest: Guest {
                member,
                last: None,
                heard: HashSet::new(),
                heard_at: 0,
                not_here: NOT_HERE_BURST,
                not_here_at: now,
            },
            entry,
            skip: 0,
            bucket: None,
            paused: None,
            keep_alive,
            alarm: Alarm::new(keep_alive),
        }
    }

    /// Handles what has come. Pending when there is no more for now; ready to end, or (`None`) when others should get
    /// their turn.
    fn poll_read(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Option<End>> {
        let mut taken = 0;
        loop {
            if let Some(until) = self.paused {
                if now < until {
                    return Poll::Pending;
                }
                self.paused = None;
            }
            let need = match self.handle(now) {
                Ok(Some(need)) => need,
                Ok(None) => continue,
                Err(end) => return Poll::Ready(Some(end)),
            };
            if taken >= TURN {
                return Poll::Ready(None);
            }
            match self.pump.poll_receive(cx, need) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Some(End::Eof)),
                Poll::Ready(Ok(n)) => taken += n,
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Some(End::Eof));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Some(End::Io(error))),
            }
        }
    }

    /// Handles the frames that are there; returns how many bytes must be there to go on, or nothing when it stopped to
    /// wait.
    fn handle(&mut self, now: Instant) -> Result<Option<usize>, End> {
        let Self { pump, guest, skip, entry, bucket, paused, .. } = self;
        let rate = guest.member.hub.settings().rate.filter(|_| !guest.member.peer.trusted);
        if bucket.as_ref().map(Bucket::rate) != rate {
            *bucket = rate.map(|rate| Bucket::new(rate, now));
        }
        let (mut frames, mut packets, mut bytes) = (0, 0, 0);
        let result = loop {
            let used = if *skip > 0 {
                let n = (*skip).min(pump.input.bytes().len());
                *skip -= n;
                if n == 0 {
                    break Ok(Some(1));
                }
                n
            } else {
                match FromClient::next(pump.input.bytes()) {
                    Ok(Step::Need(need)) => break Ok(Some(need)),
                    Ok(Step::Skip(len)) => {
                        *skip = len;
                        continue;
                    }
                    Ok(Step::Frame(frame, used)) => {
                        frames += 1;
                        if let FromClient::Send { packet, .. }
                        | FromClient::Forward { packet, .. } = frame
                        {
                            packets += 1;
                            bytes += packet.len() as u64;
                        }
                        if let Err(end) = guest.on(frame, now) {
                            break Err(end);
                        }
                        used
                    }
                    Err(error) => break Err(End::Frame(error)),
                }
            };
            pump.input.consume(used);
            if let Some(wait) = bucket.as_mut().and_then(|bucket| bucket.take(used, now)) {
                *paused = Some(now + wait);
                break Ok(None);
            }
        };
        if frames > 0 {
            guest.spoke();
        }
        if packets > 0 {
            guest.member.hub.table().packets.fetch_add(packets, Ordering::Relaxed);
        }
        if let Some(entry) = entry.as_ref().filter(|_| packets > 0) {
            entry.up_packets.fetch_add(packets, Ordering::Relaxed);
            entry.up.fetch_add(bytes, Ordering::Relaxed);
        }
        result
    }
}

impl Future for Connection {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let this = self.get_mut();
        this.pump.mailbox.register(cx);
        loop {
            let now = Instant::now();
            if this.pump.mailbox.is_closed() {
                return Poll::Ready(End::Closed);
            }
            if let Some(entry) = &this.entry
                && let Poll::Ready(cut) = entry.poll_cut(cx)
            {
                return Poll::Ready(End::Cut(cut));
            }
            let again = match this.poll_read(cx, now) {
                Poll::Ready(Some(end)) => return Poll::Ready(end),
                Poll::Ready(None) => true,
                Poll::Pending => false,
            };
            if now >= this.keep_alive {
                this.keep_alive = now + KEEP_ALIVE;
                this.pump.mailbox.control(Limit::Hints, |out| FromServer::KeepAlive.emit(out));
            }
            let before = this.pump.sent;
            let sent = this.pump.poll_send(cx, now);
            if let Some(entry) = &this.entry {
                entry.down.fetch_add(this.pump.sent - before, Ordering::Relaxed);
            }
            if let Poll::Ready(error) = sent {
                return Poll::Ready(End::Io(error));
            }
            if this.pump.due.is_some_and(|due| now >= due) {
                return Poll::Ready(End::Stalled);
            }
            if again {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let next = earliest([Some(this.keep_alive), this.pump.due, this.paused]);
            if this.alarm.poll(cx, next.unwrap_or(this.keep_alive)).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Guest {
    fn on(&mut self, frame: FromClient<'_>, now: Instant) -> Result<(), End> {
        let peer = &self.member.peer;
        match frame {
            FromClient::Send { to, packet } => self.send(&to, packet, now),
            FromClient::Forward { .. } | FromClient::Watch | FromClient::ClosePeer(_)
                if !peer.trusted =>
            {
                return Err(End::Forbidden);
            }
            FromClient::Forward { from, to, packet } => self.forward(from, &to, packet, now),
            FromClient::Watch => self.member.hub.tell(Message::Watch(peer.clone())),
            FromClient::ClosePeer(key) => self.member.hub.tell(Message::Close(key)),
            FromClient::Ping(data) => {
                peer.mailbox.control(Limit::Hints, |out| FromServer::Pong(data).emit(out));
            }
            // Where a client is at home is for statistics; and we send no pings.
            FromClient::NotePreferred(_) | FromClient::Pong(_) => {}
        }
        Ok(())
    }

    /// A packet of this client.
    fn send(&mut self, to: &Key, packet: &[u8], now: Instant) {
        let from = self.member.peer.key;
        if let Some(last) = self.last.as_ref().filter(|last| last.key == *to && last.is_active()) {
            self.count(last.mailbox.receive(&from, packet));
            return;
        }
        match self.member.hub.table().get(to) {
            Some(Route::Local(peer)) => {
                self.count(peer.mailbox.receive(&from, packet));
                self.member.sent_to.insert(*to);
                self.last = Some(peer);
            }
            Some(Route::Via(link)) => self.count(link.forward(&from, to, packet)),
            None => self.nobody(to, packet, now),
        }
    }

    /// A packet of another server's client. It is never passed on once more.
    fn forward(&mut self, from: Key, to: &Key, packet: &[u8], now: Instant) {
        match self.member.hub.table().get(to) {
            Some(Route::Local(peer)) => {
                self.count(peer.mailbox.receive(&from, packet));
                let left = self.member.hub.table().left.load(Ordering::Acquire);
                if left != self.heard_at || self.heard.len() >= HEARD {
                    (self.heard, self.heard_at) = (HashSet::new(), left);
                }
                if self.heard.insert((from, *to)) {
                    self.member.hub.tell(Message::Heard { from, to: *to });
                }
            }
            Some(Route::Via(_)) | None => self.nobody(to, packet, now),
        }
    }

    fn count(&self, whole: bool) {
        if !whole {
            self.member.hub.table().dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Somebody looks for a way to who is not here: that is worth an answer now and then.
    fn nobody(&mut self, to: &Key, packet: &[u8], now: Instant) {
        self.count(false);
        if !is_disco(packet) {
            return;
        }
        let passed = now.saturating_duration_since(self.not_here_at).as_secs();
        if passed > 0 {
            let more = u32::try_from(passed).unwrap_or(u32::MAX);
            self.not_here = self.not_here.saturating_add(more).min(NOT_HERE_BURST);
            self.not_here_at = now;
        }
        if self.not_here > 0 {
            self.not_here -= 1;
            self.member.peer.mailbox.peer_gone(*to, Gone::NotHere);
        }
    }

    /// Of several connections of one key the one that speaks is the one to be spoken to.
    fn spoke(&self) {
        let peer = &self.member.peer;
        if !peer.is_active() && !peer.spoke.swap(true, Ordering::AcqRel) {
            self.member.hub.tell(Message::Spoke(peer.clone()));
        }
    }
}
