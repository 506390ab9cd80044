//! Bytes and packets on their way: the types that layers wrap.

mod packet;
mod prefixed;
mod shape;
mod stream;

pub use packet::{BATCH, Batch, BoxPacketIo, HEADROOM, MAX_DATAGRAM, Packet, PacketIo};
pub use prefixed::{Prefixed, PrefixedPackets};
pub use shape::{Shaper, shape};
pub use stream::{BoxStream, Seal, Stream};

/// A connection's bytes or packets.
pub enum Flow {
    /// A byte stream.
    Stream(BoxStream),
    /// Datagrams.
    Packet(BoxPacketIo),
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stream(_) => "Flow::Stream",
            Self::Packet(_) => "Flow::Packet",
        })
    }
}
