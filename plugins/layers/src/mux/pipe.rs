//! One stream of a session as both ends of it see it: what was received and not yet read, windows, and who waits.

use std::{collections::VecDeque, io, task::Waker};

use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;
use tokio::io::ReadBuf;

use super::frame::WINDOW;

/// Payload from this length on is kept in the buffer that it was received in. What is shorter is copied: a few bytes must
/// not hold a large buffer.
pub(super) const SHARED: usize = 16 * 1024;

/// Short pieces are put together up to this length.
const TOGETHER: usize = 16 * 1024;

/// Bytes that were received and not yet read.
#[derive(Debug, Default)]
pub(super) struct Queue {
    chunks: VecDeque<Chunk>,
    len: usize,
}

#[derive(Debug)]
enum Chunk {
    Shared(Bytes),
    Own { bytes: Vec<u8>, read: usize },
}

impl Queue {
    /// Bytes in it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        if piece.len() >= SHARED {
            self.chunks.push_back(Chunk::Shared(piece));
            return;
        }
        if let Some(Chunk::Own { bytes, .. }) = self.chunks.back_mut()
            && bytes.len() + piece.len() <= TOGETHER
        {
            bytes.extend_from_slice(&piece);
            return;
        }
        self.chunks.push_back(Chunk::Own { bytes: piece.to_vec(), read: 0 });
    }

    /// Moves bytes to `buf` and says how many.
    pub(super) fn read(&mut self, buf: &mut ReadBuf<'_>) -> usize {
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            let Some(chunk) = self.chunks.front_mut() else { break };
            let left = match chunk {
                Chunk::Shared(bytes) => {
                    let n = bytes.len().min(buf.remaining());
                    buf.put_slice(&bytes[..n]);
                    bytes.advance(n);
                    bytes.len()
                }
                Chunk::Own { bytes, read } => {
                    let n = (bytes.len() - *read).min(buf.remaining());
                    buf.put_slice(&bytes[*read..*read + n]);
                    *read += n;
                    bytes.len() - *read
                }
            };
            if left == 0 {
                self.chunks.pop_front();
            }
        }
        if self.chunks.is_empty() && self.chunks.capacity() > 0 {
            // An idle stream holds nothing.
            self.chunks = VecDeque::new();
        }
        let n = buf.filled().len() - before;
        self.len -= n;
        n
    }

    /// Forgets everything and says how many bytes it was.
    pub(super) fn clear(&mut self) -> usize {
        self.chunks = VecDeque::new();
        std::mem::take(&mut self.len)
    }
}

/// Why a stream has ended for both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The other side has reset it.
    Reset,
    /// It stood in the way of the others; see [`super::session`].
    Stalled,
    /// The session has ended.
    Session,
}

impl From<Broken> for io::Error {
    fn from(why: Broken) -> Self {
        let (kind, text) = match why {
            Broken::Reset => (io::ErrorKind::ConnectionReset, "stream reset by peer"),
            Broken::Stalled => {
                (io::ErrorKind::TimedOut, "stream reset: nobody read it, and others had to wait")
            }
            Broken::Session => (io::ErrorKind::ConnectionAborted, "multiplex session ended"),
        };
        Self::new(kind, text)
    }
}

/// A stream.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) id: u32,
    pub(super) state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) received: Queue,
    /// The other side sends no more.
    pub(super) ended: bool,
    pub(super) broken: Option<Broken>,
    /// The other side knows of the stream.
    pub(super) opened: bool,
    /// The other side has accepted it.
    pub(super) accepted: bool,
    /// We have said that we send no more.
    pub(super) finished: bool,
    /// Nobody holds the stream any more; what comes is thrown away.
    pub(super) gone: bool,
    /// Waits in the queue of writers.
    pub(super) queued: bool,
    /// Was taken from the queue of writers, and has not written yet.
    pub(super) turn: bool,
    /// Bytes that the other side lets us send (yamux).
    pub(super) may_send: u32,
    /// Bytes that we let the other side send (yamux).
    pub(super) may_receive: u32,
    /// The other side has ended its direction alone (smux, where an end is that of both otherwise).
    pub(super) half: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

impl Pipe {
    pub(super) fn new(id: u32, opened: bool) -> Self {
        let state = State {
            received: Queue::default(),
            ended: false,
            broken: None,
            opened,
            accepted: opened,
            finished: false,
            gone: false,
            queued: false,
            turn: false,
            may_send: WINDOW,
            may_receive: WINDOW,
            half: false,
            reader: None,
            writer: None,
        };
        Self { id, state: Mutex::new(state) }
    }

    /// Marks a stream of ours as accepted, or as one that never will be. False: it was already.
    pub(super) fn accept(&self) -> bool {
        let mut state = self.state.lock();
        state.opened && !std::mem::replace(&mut state.accepted, true)
    }

    /// Ends both directions and wakes whoever waits.
    pub(super) fn break_off(&self, why: Broken) {
        let (reader, writer) = {
            let mut state = self.state.lock();
            state.broken.get_or_insert(why);
            (state.reader.take(), state.writer.take())
        };
        reader.into_iter().chain(writer).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(sizes in proptest::collection::vec((0usize..40_000, 1usize..50_000), 0..12)) {
            let (mut queue, mut wanted, mut got) = (Queue::default(), Vec::new(), Vec::new());
            for (n, (size, read)) in sizes.into_iter().enumerate() {
                let piece = vec![n as u8; size];
                wanted.extend_from_slice(&piece);
                queue.push(piece.into());
                let mut room = vec![0; read];
                let mut buf = ReadBuf::new(&mut room);
                queue.read(&mut buf);
                got.extend_from_slice(buf.filled());
                prop_assert_eq!(queue.len(), wanted.len() - got.len());
            }
            let mut room = vec![0; queue.len()];
            let mut buf = ReadBuf::new(&mut room);
            queue.read(&mut buf);
            got.extend_from_slice(buf.filled());
            prop_assert_eq!(queue.len(), 0);
            prop_assert_eq!(got, wanted);
        }
    }

    #[test]
    fn short_pieces_share_a_buffer() {
        let mut queue = Queue::default();
        for _ in 0..TOGETHER {
            queue.push(Bytes::from_static(b"x"));
        }
        assert_eq!((queue.len(), queue.chunks.len()), (TOGETHER, 1));
        assert_eq!(queue.clear(), TOGETHER);
    }
}
