//! What a server has to know of DNS messages, read in place (RFC 1035 §4, RFC 6891 §6.1).
//!
//! Names are stepped over and never followed, so that nothing here can loop, and no length is believed before the
//! bytes are there.

/// Bytes of the header.
const HEADER: usize = 12;

/// Largest answer over UDP to a client that says nothing else.
const PLAIN: usize = 512;

/// Largest answer that fits a UDP datagram.
const DATAGRAM: usize = 65_507;

/// Record type of the pseudo-record of EDNS.
const OPT: u16 = 41;

/// Response code: the server failed.
const SERVER_FAILURE: u8 = 2;

/// What of a query matters to who carries its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Most bytes that the client takes in one datagram.
    pub datagram: usize,
}

/// Reads a query. `None`: it is broken, or an answer, which must not be answered.
///
/// As in the reference a message that ends behind its header is a query (without a question), counts above what
/// follows are not believed, and bytes behind the last record do not matter.
#[must_use]
pub fn hear(message: &[u8]) -> Option<Heard> {
    let mut datagram = PLAIN;
    if is_answer(message)? {
        return None;
    }
    let mut walk = Walk::new(message)?;
    if message.len() > HEADER {
        walk.questions()?;
        for section in 0..3 {
            for _ in 0..walk.counts[section + 1] {
                if walk.at == message.len() {
                    break;
                }
                let record = walk.record()?;
                if section == 2 && record.kind == OPT {
                    datagram = usize::from(record.class).clamp(PLAIN, DATAGRAM);
                }
            }
        }
    }
    Some(Heard { datagram })
}

/// Whether a message is an answer; `None` when it is shorter than a header.
fn is_answer(message: &[u8]) -> Option<bool> {
    (message.len() >= HEADER).then(|| message[2] & 0x80 != 0)
}

/// The answer to a query that [`hear`] took, for when there is none: SERVFAIL.
#[must_use]
pub fn failure(query: &[u8]) -> Vec<u8> {
    let mut questions = 0;
    let mut end = HEADER;
    if let Some(mut walk) = Walk::new(query)
        && query.len() > HEADER
        && walk.counts[0] == 1
        && walk.questions().is_some()
    {
        (questions, end) = (1, walk.at);
    }
    let mut answer: Vec<u8> = query.iter().copied().take(end).collect();
    answer.resize(end, 0);
    // The operation code and "recursion desired" are the client's.
    answer[2] = 0x80 | answer[2] & 0x79;
    answer[3] = 0x80 | SERVER_FAILURE;
    set_counts(&mut answer, [questions, 0, 0, 0]);
    answer
}

/// Cuts an answer in place so that it fits `limit` bytes, and returns its new length: records go from the end, the
/// one of EDNS stays, and the TC bit says that something is missing.
#[must_use]
pub fn truncate(answer: &mut [u8], limit: usize) -> usize {
    let limit = limit.max(PLAIN);
    if answer.len() <= limit {
        return answer.len();
    }
    let Some(cut) = Cut::find(answer, limit) else {
        // An answer that cannot be read: the client shall ask over TCP.
        let end = HEADER.min(answer.len());
        if end == HEADER {
            set_counts(answer, [0; 4]);
            answer[2] |= TC;
        }
        return end;
    };
    let mut end = cut.end;
    let mut counts = cut.counts;
    if let Some((from, to)) = cut.opt {
        answer.copy_within(from..to, end);
        end += to - from;
        counts[3] += 1;
    }
    set_counts(answer, counts);
    answer[2] |= TC;
    end
}

/// The bit "truncated" in the third byte of the header.
const TC: u8 = 0x02;

fn set_counts(message: &mut [u8], counts: [u16; 4]) {
    for (place, count) in message[4..HEADER].chunks_exact_mut(2).zip(counts) {
        place.copy_from_slice(&count.to_be_bytes());
    }
}

/// Where an answer is cut.
struct Cut {
    /// The end of what is kept.
    end: usize,
    /// Questions and records that are kept.
    counts: [u16; 4],
    /// The EDNS record, if it lies behind `end`.
    opt: Option<(usize, usize)>,
}

impl Cut {
    fn find(answer: &[u8], limit: usize) -> Option<Self> {
        let mut walk = Walk::new(answer)?;
        let all = walk.counts;
        walk.questions()?;
        let opt = walk.clone().find_opt();
        let mut cut = Self { end: walk.at, counts: [all[0], 0, 0, 0], opt };
        // Questions that alone are too long.
        let least = walk.at + opt.map_or(0, |(from, to)| to - from);
        if least > limit {
            return None;
        }
        'sections: for (section, count) in all.into_iter().enumerate().skip(1) {
            for _ in 0..count {
                let from = walk.at;
                walk.record()?;
                // What is passed stays where it is.
                let opt = cut.opt.filter(|opt| opt.0 != from);
                let room = limit.checked_sub(opt.map_or(0, |(from, to)| to - from))?;
                if walk.at > room {
                    break 'sections;
                }
                (cut.end, cut.opt) = (walk.at, opt);
                cut.counts[section] += 1;
            }
        }
        Some(cut)
    }
}

/// A walk over the sections of a message.
#[derive(Clone)]
struct Walk<'a> {
    message: &'a [u8],
    counts: [u16; 4],
    at: usize,
}

/// A record that was walked over.
struct Record {
    kind: u16,
    class: u16,
}

impl<'a> Walk<'a> {
    /// Begins behind the header.
    fn new(message: &'a [u8]) -> Option<Self> {
        let header = message.get(..HEADER)?;
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        Some(Self { message, counts: [count(4), count(6), count(8), count(10)], at: HEADER })
    }

    fn u16(&self, at: usize) -> Option<u16> {
        self.message.get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]))
    }

    /// Steps over a name.
    fn name(&mut self) -> Option<()> {
        let start = self.at;
        loop {
            let length = *self.message.get(self.at)?;
            match length {
                0 => self.at += 1,
                0xc0.. => {
                    self.message.get(self.at + 1)?;
                    self.at += 2;
                }
                1..=63 => {
                    self.at += 1 + usize::from(length);
                    // Longest name (RFC 1035 §2.3.4).
                    if self.at - start > 255 {
                        return None;
                    }
                    continue;
                }
                _ => return None,
            }
            return Some(());
        }
    }

    /// Steps over the questions.
    fn questions(&mut self) -> Option<()> {
        for _ in 0..self.counts[0] {
            self.name()?;
            self.message.get(self.at..self.at + 4)?;
            self.at += 4;
        }
        Some(())
    }

    /// Steps over a record.
    fn record(&mut self) -> Option<Record> {
        self.name()?;
        let fixed = self.at;
        let length = usize::from(self.u16(fixed + 8)?);
        self.message.get(fixed + 10..fixed + 10 + length)?;
        self.at = fixed + 10 + length;
        Some(Record { kind: self.u16(fixed)?, class: self.u16(fixed + 2)? })
    }

    /// Steps over records to that of EDNS.
    fn find_opt(mut self) -> Option<(usize, usize)> {
        let counts = self.counts;
        for _ in 0..usize::from(counts[1]) + usize::from(counts[2]) {
            self.record()?;
        }
        for _ in 0..counts[3] {
            let from = self.at;
            if self.record()?.kind == OPT {
                return Some((from, self.at));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_proto::{
        op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
        rr::{Name, RData, Record, RecordType, rdata},
    };

    use super::*;

    fn query(edns: Option<u16>) -> Vec<u8> {
        let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        let name = Name::from_ascii("a.example.").expect("a name");
        message.add_query(Query::query(name, RecordType::A));
        if let Some(size) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            message.set_edns(edns);
        }
        message.to_vec().expect("a message")
    }

    fn answer(records: u32, edns: bool) -> Vec<u8> {
        let mut message = Message::from_vec(&query(edns.then_some(1232))).expect("a message");
        message.metadata.message_type = MessageType::Response;
        let name = Name::from_ascii("a.example.").expect("a name");
        for n in 0..records {
            let data = RData::A(rdata::A(Ipv4Addr::from(n)));
            message.add_answer(Record::from_rdata(name.clone(), 60, data));
        }
        message.to_vec().expect("a message")
    }

    #[test]
    fn the_size_of_datagrams() {
        for (edns, expected) in
            [(None, 512), (Some(100), 512), (Some(1232), 1232), (Some(65_535), 65_507)]
        {
            assert_eq!(hear(&query(edns)), Some(Heard { datagram: expected }), "{edns:?}");
        }
    }

    #[test]
    fn what_is_no_query() {
        let good = query(Some(1232));
        for end in 0..good.len() {
            // A header alone is a query; so is one that ends in front of a record.
            let whole = end == HEADER || end == query(None).len();
            assert_eq!(hear(&good[..end]).is_some(), whole, "{end}");
        }
        let mut bytes = good.clone();
        bytes[2] |= 0x80;
        assert_eq!(hear(&bytes), None, "an answer");
        bytes = good.clone();
        bytes[HEADER] = 0x40;
        assert_eq!(hear(&bytes), None, "a label of no known kind");
        bytes = good;
        bytes.extend_from_slice(b"behind");
        assert!(hear(&bytes).is_some());
        let mut long = vec![0; HEADER];
        long[5] = 1;
        for _ in 0..5 {
            long.push(63);
            long.extend_from_slice(&[b'a'; 63]);
        }
        long.extend_from_slice(&[0, 0, 1, 0, 1]);
        assert_eq!(hear(&long), None, "a name that is too long");
    }

    #[test]
    fn failures_say_what_was_asked() {
        let answer = Message::from_vec(&failure(&query(Some(1232)))).expect("a message");
        assert_eq!(answer.metadata.id, 0x1234);
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
        assert!(answer.metadata.recursion_desired && answer.metadata.recursion_available);
        assert_eq!(answer.queries.len(), 1);
        assert_eq!(answer.edns, None);
        let header = failure(&[0; HEADER]);
        assert_eq!(header.len(), HEADER);
    }

    #[test]
    fn answers_are_cut_to_fit() {
        let mut whole = answer(20, true);
        assert!(whole.len() <= 512);
        let before = whole.clone();
        let end = truncate(&mut whole, 512);
        assert_eq!(whole[..end], before);
        for edns in [false, true] {
            for limit in [512, 700, 1232] {
                let mut bytes = answer(200, edns);
                let end = truncate(&mut bytes, limit);
                assert!(end <= limit && end + 16 > limit, "{end} of {limit}");
                let cut = Message::from_vec(&bytes[..end]).expect("a message");
                assert!(cut.metadata.truncation);
                assert_eq!(cut.edns.is_some(), edns);
                let counted = usize::from(u16::from_be_bytes([bytes[6], bytes[7]]));
                assert_eq!(cut.answers.len(), counted);
                assert!(counted > 20);
            }
        }
        let mut broken = vec![0xff; 600];
        assert_eq!(truncate(&mut broken, 512), HEADER);
    }

    /// The same properties as in the fuzz target `dns_front`, on mangled messages.
    #[test]
    fn mangled_messages_harm_nothing() {
        let mut state = 1_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 33).unwrap_or(0)
        };
        let good = [query(Some(1232)), answer(100, true), answer(60, false)];
        for _ in 0..20_000 {
            let mut bytes = good[next() % good.len()].clone();
            for _ in 0..next() % 4 {
                let at = next() % bytes.len();
                bytes[at] = next() as u8;
            }
            bytes.truncate(bytes.len() - next() % 3 * (next() % bytes.len()) / 2);
            if hear(&bytes).is_some() {
                let failure = failure(&bytes);
                assert!(failure.len() <= bytes.len() && failure[..2] == bytes[..2]);
                assert_eq!(hear(&failure), None);
            }
            let limit = next() % 1500;
            let mut cut = bytes.clone();
            let end = truncate(&mut cut, limit);
            assert!(end <= bytes.len() && end <= limit.max(PLAIN));
            let mut again = cut[..end].to_vec();
            assert_eq!(truncate(&mut again, limit), end);
        }
    }
}
