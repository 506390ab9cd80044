//! Bytes of a stream that were received and not yet used.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll},
};

use crosspoint_kernel::flow::BoxStream;
use tokio::io::{AsyncRead, ReadBuf};

use crate::pool;

/// Bytes that are kept in a buffer of their own size when nothing more comes.
const SMALL: usize = 4 * 1024;

/// A buffer that is large while bytes move and small otherwise.
#[derive(Default)]
pub struct Input {
    buffer: Box<[u8]>,
    range: Range<usize>,
}

impl Drop for Input {
    fn drop(&mut self) {
        pool::give_input(std::mem::take(&mut self.buffer));
    }
}

impl Input {
    /// With these bytes in it.
    pub fn with(bytes: &[u8]) -> Self {
        Self { range: 0..bytes.len(), buffer: bytes.into() }
    }

    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }

    /// What is there, to change in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.range.clone()]
    }

    /// Whether nothing is there.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Drops the first `n` bytes. They stay in the buffer until the next call of [`Input::poll_receive`].
    pub fn consume(&mut self, n: usize) {
        self.range.start = (self.range.start + n).min(self.range.end);
    }

    /// Receives more, up to a whole buffer; 0 is the end of the stream. `need` bytes will fit.
    ///
    /// # Errors
    /// Those of the stream; `need` is more than a buffer holds.
    pub fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut BoxStream,
        need: usize,
    ) -> Poll<io::Result<usize>> {
        self.poll_receive_up_to(cx, stream, need, pool::SIZE)
    }

    /// The same, but no more than that there are `most` bytes, which is `need` at least.
    ///
    /// # Errors
    /// As [`Input::poll_receive`].
    pub fn poll_receive_up_to(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut BoxStream,
        need: usize,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        if self.range.is_empty() {
            self.range = 0..0;
        }
        if self.buffer.len() < pool::SIZE {
            let old = std::mem::replace(&mut self.buffer, pool::input());
            self.buffer[..self.range.len()].copy_from_slice(&old[self.range.clone()]);
            self.range = 0..self.range.len();
        } else if self.range.start > 0 {
            // What is left is part of a message, and shorter than what a read into the space behind it would cost.
            self.buffer.copy_within(self.range.clone(), 0);
            self.range = 0..self.range.len();
        }
        let end = (self.range.start + most.max(need)).min(self.buffer.len());
        let mut space = ReadBuf::new(&mut self.buffer[self.range.end.min(end)..end]);
        if space.remaining() == 0 {
            return Poll::Ready(Err(io::Error::other("message too long")));
        }
        let polled = Pin::new(stream).poll_read(cx, &mut space);
        let got = space.filled().len();
        match polled {
            Poll::Ready(Ok(())) if got > 0 => {
                self.range.end += got;
                Poll::Ready(Ok(got))
            }
            // Nothing more comes, for now or at all; the other direction may go on for long.
            over => {
                self.shrink();
                over.map_ok(|()| 0)
            }
        }
    }

    /// A large buffer with little in it is given back.
    fn shrink(&mut self) {
        if self.buffer.len() == pool::SIZE && self.range.len() <= SMALL {
            let small: Box<[u8]> = self.buffer[self.range.clone()].into();
            self.range = 0..small.len();
            pool::give_input(std::mem::replace(&mut self.buffer, small));
        }
    }
}

/// Bytes that are to be sent, gathered in a buffer of the thread.
#[derive(Default)]
pub struct Output {
    buffer: Vec<u8>,
    sent: usize,
    /// The buffer is one of [`pool::wide`].
    wide: bool,
}

impl Drop for Output {
    fn drop(&mut self) {
        self.give();
    }
}

impl Output {
    /// What is to be sent.
    pub fn of(buffer: Vec<u8>) -> Self {
        Self { buffer, sent: 0, wide: false }
    }

    /// The buffer, to append to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.buffer.capacity() == 0 {
            self.buffer = pool::output();
        }
        &mut self.buffer
    }

    /// Takes a buffer for about `len` bytes, if that can be had; returns how many bytes fit without growing.
    pub fn make_room(&mut self, len: usize) -> usize {
        if self.buffer.capacity() == 0
            && len > pool::SIZE
            && let Some(buffer) = pool::wide()
        {
            (self.buffer, self.wide) = (buffer, true);
        }
        let room = if self.wide { pool::WIDE } else { pool::SIZE };
        room.saturating_sub(self.buffer.len())
    }

    fn give(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.sent = 0;
        if std::mem::take(&mut self.wide) {
            pool::give_wide(buffer);
        } else {
            pool::give_output(buffer);
        }
    }

    /// Whether nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Sends everything.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut BoxStream,
    ) -> Poll<io::Result<()>> {
        use tokio::io::AsyncWrite as _;
        while self.sent < self.buffer.len() {
            match Pin::new(&mut *stream).poll_write(cx, &self.buffer[self.sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.sent += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.give();
        Poll::Ready(Ok(()))
    }
}
