//! Receiving: many datagrams in one system call, coalesced ones (UDP_GRO) split again.

use std::{cell::Cell, io, io::IoSliceMut, ops::Range};

use quinn_udp::RecvMeta;
use tokio::{io::Interest, net::UdpSocket};

use super::offload::{Offload, count_coalesced};
use crate::flow::{BATCH, Batch};

/// Messages that one call asks for. More would cost more to prepare than calls cost.
const CALL: usize = 8;

/// Messages that one call asks for when they are coalesced ones.
const COALESCED_CALL: usize = 4;

/// Largest coalesced message.
const MESSAGE: usize = 65_536;

/// Receives without a coalesced message after which datagrams go straight into batches again.
const PATIENCE: u8 = 16;

/// One received message.
struct Message {
    bytes: Range<usize>,
    meta: RecvMeta,
}

/// Received messages that are not in a batch yet.
#[derive(Default)]
struct Spill {
    bytes: Vec<u8>,
    messages: Vec<Message>,
    /// The first message that is not in a batch yet.
    next: usize,
}

thread_local! {
    static SPILL: Cell<Option<Box<Spill>>> = const { Cell::new(None) };
}

/// The receiving side of a socket.
///
/// Datagrams are received into the slots of the batch. When coalesced messages come, they go through
/// a buffer of the thread and are copied into slots, so that each has its headroom; what does not fit
/// into the batch stays here for the next call.
#[derive(Default)]
pub(super) struct Inbox {
    spill: Option<Box<Spill>>,
    /// How long to go on expecting coalesced messages.
    coalesced: u8,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("spilled", &self.spill.is_some()).finish()
    }
}

impl Inbox {
    /// Moves messages that came with an earlier call into the batch. Returns the number of datagrams.
    pub(super) fn pour(&mut self, batch: &mut Batch, note: &mut impl FnMut(&RecvMeta)) -> usize {
        let Some(spill) = &mut self.spill else { return 0 };
        let before = batch.len();
        while let Some(message) = spill.messages.get_mut(spill.next) {
            let stride = match message.meta.stride {
                0 => message.bytes.len(),
                stride => stride.min(message.bytes.len()),
            };
            let end = message.bytes.start + stride;
            if !batch.push(&spill.bytes[message.bytes.start..end], message.meta.addr.into()) {
                break;
            }
            note(&message.meta);
            message.bytes.start = end;
            if message.bytes.is_empty() {
                spill.next += 1;
            }
        }
        if spill.next >= spill.messages.len() {
            spill.messages.clear();
            SPILL.set(self.spill.take());
        }
        batch.len() - before
    }

    /// Receives until the batch is full or the socket has nothing more. Returns the number of
    /// datagrams, at least one; `note` sees where each came from.
    ///
    /// # Errors
    /// `WouldBlock`, with the socket's readiness cleared, when there is none; what the system reports.
    pub(super) fn recv(
        &mut self,
        offload: &Offload,
        socket: &UdpSocket,
        batch: &mut Batch,
        mut note: impl FnMut(&RecvMeta),
    ) -> io::Result<usize> {
        let mut added = self.pour(batch, &mut note);
        while !batch.is_full() {
            let result = if self.coalesced > 0 {
                self.call_coalesced(offload, socket)
            } else {
                self.call(offload, socket, batch, &mut note)
            };
            match result {
                Ok((direct, more)) => {
                    added += direct + self.pour(batch, &mut note);
                    if !more && added > 0 {
                        break;
                    }
                }
                Err(_) if added > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(added)
    }

    /// One receive call into the batch. Coalesced messages, and all behind them, are spilled.
    /// Returns the number of datagrams in the batch, and whether there may be more in the socket.
    fn call(
        &mut self,
        offload: &Offload,
        socket: &UdpSocket,
        batch: &mut Batch,
        note: &mut impl FnMut(&RecvMeta),
    ) -> io::Result<(usize, bool)> {
        let mut metas = [RecvMeta::default(); CALL];
        let room = (BATCH - batch.len()).min(CALL);
        let got = {
            let mut spares = batch.spares();
            let mut buffers: [IoSliceMut<'_>; CALL] =
                std::array::from_fn(|_| IoSliceMut::new(spares.next().unwrap_or_default()));
            receive(offload, socket, &mut buffers[..room], &mut metas)?
        };
        let plain = metas[..got].iter().take_while(|meta| !is_coalesced(meta)).count();
        for meta in &metas[..plain] {
            batch.commit(meta.len, meta.addr.into());
            note(meta);
        }
        if plain < got {
            self.coalesced = PATIENCE;
            let spill = self.spill.insert(SPILL.take().unwrap_or_default());
            spill.next = 0;
            spill.bytes.clear();
            for (meta, slot) in metas[plain..got].iter().zip(batch.spares()) {
                let start = spill.bytes.len();
                spill.bytes.extend_from_slice(&slot[..meta.len]);
                spill.messages.push(Message { bytes: start..start + meta.len, meta: *meta });
                if is_coalesced(meta) {
                    count_coalesced(meta.len.div_ceil(meta.stride));
                }
            }
        }
        Ok((plain, got == room))
    }

    /// One receive call into the spill, which is empty. Returns as [`Inbox::call`] does.
    fn call_coalesced(
        &mut self,
        offload: &Offload,
        socket: &UdpSocket,
    ) -> io::Result<(usize, bool)> {
        let mut spill = SPILL.take().unwrap_or_default();
        spill.next = 0;
        spill.bytes.resize(MESSAGE * COALESCED_CALL, 0);
        let mut metas = [RecvMeta::default(); COALESCED_CALL];
        let result = {
            let mut chunks = spill.bytes.chunks_exact_mut(MESSAGE);
            let mut buffers: [IoSliceMut<'_>; COALESCED_CALL] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
            receive(offload, socket, &mut buffers, &mut metas)
        };
        let got = match result {
            Ok(got) => got,
            Err(error) => {
                SPILL.set(Some(spill));
                return Err(error);
            }
        };
        self.coalesced -= 1;
        for (i, meta) in metas[..got].iter().enumerate() {
            if is_coalesced(meta) {
                self.coalesced = PATIENCE;
                count_coalesced(meta.len.div_ceil(meta.stride));
            }
            spill
                .messages
                .push(Message { bytes: i * MESSAGE..i * MESSAGE + meta.len, meta: *meta });
        }
        self.spill = Some(spill);
        Ok((0, got == COALESCED_CALL))
    }
}

fn is_coalesced(meta: &RecvMeta) -> bool {
    meta.stride > 0 && meta.stride < meta.len
}

/// One receive call. Fewer messages than asked for mean that the socket is empty: its readiness is
/// cleared without another call that could only fail.
fn receive(
    offload: &Offload,
    socket: &UdpSocket,
    buffers: &mut [IoSliceMut<'_>],
    metas: &mut [RecvMeta],
) -> io::Result<usize> {
    let mut got = 0;
    let asked = buffers.len();
    let result = socket.try_io(Interest::READABLE, || {
        got = offload.state.recv(socket.into(), buffers, metas)?;
        if got < asked { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match result {
        Err(error) if got == 0 => Err(error),
        _ => Ok(got),
    }
}
