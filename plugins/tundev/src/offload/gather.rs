//! Puts together what the system gets.

use crosspoint_netstack::checksum::{fold, sum};

use super::{
    HEADER, Header, NEEDS_CHECKSUM, TCP_CHECKSUM, TCP_HEADER, TCP4, TCP6, UDP, UDP_CHECKSUM,
    UDP_HEADER, flag, protocol, pseudo, put, put_length, word,
};

/// Largest IP packet.
const LARGEST: usize = 65_535;
/// Datagrams that older systems take at once.
const DATAGRAMS: usize = 64;

/// Puts packets of one flow that follow each other into one frame, if they say the same but for their payload, and
/// their checksums are right: whoever takes the whole no longer looks at them.
#[derive(Default)]
pub struct Gather {
    /// Header and packets so far; the former is written at the end.
    frame: Vec<u8>,
    open: Option<Open>,
    /// Whether the system takes datagrams together.
    udp: bool,
}

/// What may follow what is there.
struct Open {
    first: Candidate,
    /// Packets so far.
    count: usize,
    /// Sequence number of the next one.
    next: u32,
    /// Nothing may follow.
    closed: bool,
}

/// A packet that may be part of a larger one.
#[derive(Clone, Copy)]
struct Candidate {
    protocol: u8,
    /// Length of the IP header.
    ip: usize,
    /// Length of all headers.
    headers: usize,
    /// Payload bytes.
    size: usize,
    sequence: u32,
    push: bool,
}

impl Candidate {
    fn parse(packet: &[u8], udp: bool) -> Option<Self> {
        let (ip, protocol) = match packet.first()? {
            // No options; whole, and not a fragment.
            0x45 => {
                let whole = usize::from(word(packet, 2)?) == packet.len();
                (whole && word(packet, 6)? & 0x3fff == 0).then_some((20, *packet.get(9)?))?
            }
            byte if byte >> 4 == 6 => {
                let whole = usize::from(word(packet, 4)?) + 40 == packet.len();
                whole.then_some((40, *packet.get(6)?))?
            }
            _ => return None,
        };
        let transport = packet.get(ip..)?;
        let (len, sequence, push) = match protocol {
            protocol::TCP => {
                let header: &[u8; TCP_HEADER] = transport.first_chunk()?;
                let flags = header[13];
                if flags & !flag::PSH != flag::ACK {
                    return None;
                }
                let sequence = [header[4], header[5], header[6], header[7]];
                let len = usize::from(header[12] >> 4) * 4;
                (len, u32::from_be_bytes(sequence), flags & flag::PSH != 0)
            }
            protocol::UDP if udp => {
                let whole = usize::from(word(transport, 4)?) == transport.len();
                let summed = word(transport, UDP_CHECKSUM)? != 0;
                (whole && summed).then_some((UDP_HEADER, 0, false))?
            }
            _ => return None,
        };
        let least = if protocol == protocol::TCP { TCP_HEADER } else { UDP_HEADER };
        let size = transport.len().checked_sub(len)?;
        (len >= least && size > 0).then_some(Self {
            protocol,
            ip,
            headers: ip + len,
            size,
            sequence,
            push,
        })
    }

    /// Whether the checksum of that packet, which this was made of, is right.
    fn is_sound(&self, packet: &[u8]) -> bool {
        let transport = &packet[self.ip..];
        fold(pseudo(packet, self.protocol, transport.len()) + sum(transport)) == 0
    }

    /// Whether two packets say the same in everything that the cut ones have in common.
    fn same(&self, one: &[u8], other: &[u8]) -> bool {
        let ip: &[(usize, usize)] = if self.ip == 20 {
            // Type of service; flags, time to live, protocol; addresses.
            &[(1, 2), (6, 10), (12, 20)]
        } else {
            // All but the length.
            &[(0, 4), (6, 40)]
        };
        let transport: &[(usize, usize)] = if self.protocol == protocol::TCP {
            // Ports; acknowledgement, length; window; what is urgent, and options.
            &[(0, 4), (8, 13), (14, 16), (18, self.headers - self.ip)]
        } else {
            &[(0, 4)]
        };
        let equal = |one: &[u8], other: &[u8], parts: &[(usize, usize)]| {
            parts.iter().all(|(from, to)| one.get(*from..*to) == other.get(*from..*to))
        };
        equal(one, other, ip) && equal(&one[self.ip..], &other[self.ip..], transport)
    }
}

impl Gather {
    /// Whether datagrams are put together too, which not every system takes. At first they are not.
    pub fn set_datagrams(&mut self, together: bool) {
        self.udp = together;
    }

    /// Takes a packet. What cannot stand in one frame with it is given to `write` first.
    pub fn add(&mut self, packet: &[u8], write: impl FnMut(&[u8])) {
        let candidate = Candidate::parse(packet, self.udp);
        if let Some(candidate) = &candidate
            && self.append(candidate, packet)
        {
            return;
        }
        self.finish(write);
        self.frame.extend([0; HEADER]);
        self.frame.extend_from_slice(packet);
        self.open = candidate.map(|first| Open {
            first,
            count: 1,
            next: first.sequence.wrapping_add(u32::try_from(first.size).unwrap_or(0)),
            closed: first.push,
        });
    }

    /// Appends a packet to the open frame, if it follows.
    fn append(&mut self, candidate: &Candidate, packet: &[u8]) -> bool {
        let Some(open) = &mut self.open else { return false };
        let first = &open.first;
        let before = &self.frame[HEADER..];
        let tcp = first.protocol == protocol::TCP;
        let follows = !open.closed
            && (candidate.protocol, candidate.ip, candidate.headers)
                == (first.protocol, first.ip, first.headers)
            && candidate.size <= first.size
            && (if tcp { candidate.sequence == open.next } else { open.count < DATAGRAMS })
            && before.len() + candidate.size <= LARGEST
            && first.same(before, packet)
            && (open.count > 1 || first.is_sound(before))
            && candidate.is_sound(packet);
        if !follows {
            return false;
        }
        open.closed = candidate.push || candidate.size < first.size;
        open.count += 1;
        open.next = open.next.wrapping_add(u32::try_from(candidate.size).unwrap_or(0));
        if candidate.push
            && let Some(flags) = self.frame.get_mut(HEADER + first.ip + 13)
        {
            *flags |= flag::PSH;
        }
        self.frame.extend_from_slice(&packet[candidate.headers..]);
        true
    }

    /// Gives what is there to `write`, in front of it the header that tells how it is cut.
    pub fn finish(&mut self, mut write: impl FnMut(&[u8])) {
        if let Some(open) = self.open.take()
            && open.count > 1
        {
            let Candidate { protocol, ip, headers, size, .. } = open.first;
            let (head, packet) = self.frame.split_at_mut(HEADER);
            let (kind, field) = match (protocol, ip) {
                (protocol::UDP, _) => (UDP, UDP_CHECKSUM),
                (_, 20) => (TCP4, TCP_CHECKSUM),
                _ => (TCP6, TCP_CHECKSUM),
            };
            let word = |value: usize| u16::try_from(value).unwrap_or(u16::MAX);
            let header = Header {
                flags: NEEDS_CHECKSUM,
                kind,
                headers: word(headers),
                size: word(size),
                start: word(ip),
                offset: word(field),
            };
            head.copy_from_slice(&header.emit());
            put_length(packet, ip);
            let covered = packet.len() - ip;
            if protocol == protocol::UDP {
                put(packet, ip + 4, word(covered));
            }
            // The system completes it.
            let partial = !fold(pseudo(packet, protocol, covered));
            put(packet, ip + field, partial);
        }
        if !self.frame.is_empty() {
            write(&self.frame);
            self.frame.clear();
        }
    }
}
