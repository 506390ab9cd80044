//! IP packets, moved in batches.

/// IP packets one behind the other in one buffer, which is kept for the next batch.
#[derive(Debug, Default)]
pub struct Packets {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Packets {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of packets.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Forgets all packets and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// Adds a copy of a packet.
    pub fn push(&mut self, packet: &[u8]) {
        self.bytes.extend_from_slice(packet);
        self.ends.push(self.bytes.len());
    }

    /// Adds a packet of `len` bytes that `fill` writes into zeroes.
    pub fn push_with<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        self.ends.push(start + len);
        fill(&mut self.bytes[start..])
    }

    /// Adds a packet that `fill` writes at the beginning of `most` zeroes and whose length it returns; none if that is 0.
    pub fn push_within(&mut self, most: usize, fill: impl FnOnce(&mut [u8]) -> usize) {
        let start = self.bytes.len();
        self.bytes.resize(start + most, 0);
        let len = fill(&mut self.bytes[start..]).min(most);
        self.bytes.truncate(start + len);
        if len > 0 {
            self.ends.push(start + len);
        }
    }

    /// The packets, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| {
            let packet = &self.bytes[start..*end];
            start = *end;
            packet
        })
    }
}
