//! What a forwarder must see of DNS messages (RFC 1035 §4.1): ids, questions, a few bits. Nothing else is parsed,
//! and nothing is changed but the id.

/// Bytes of a message header.
pub const HEADER: usize = 12;

/// Longest name on the wire, in bytes (RFC 1035 §2.3.4).
const MAX_NAME: usize = 255;

/// Codes of answers that need not repeat the question: FORMERR, SERVFAIL, NOTIMP, REFUSED. A server that cannot
/// read a query cannot repeat it.
const BARE_CODES: [u8; 4] = [1, 2, 4, 5];

/// A query as far as its answer must match it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    opcode: u8,
    count: u16,
    /// The question section as it was sent.
    questions: Vec<u8>,
}

impl Asked {
    /// Takes down what `query` asks. Reuses the space of what was taken down before.
    ///
    /// Returns false when `query` is no query.
    pub fn note(&mut self, query: &[u8]) -> bool {
        let Some(questions) = questions(query) else { return false };
        if query[2] & RESPONSE != 0 {
            return false;
        }
        self.opcode = query[2] & OPCODE;
        self.count = word(query, 4);
        self.questions.clear();
        self.questions.extend_from_slice(questions);
        true
    }

    /// Whether `response`, whose id matches, answers this query: the same questions, whatever the case of letters.
    #[must_use]
    pub fn is_answered_by(&self, response: &[u8]) -> bool {
        if response.len() < HEADER || response[2] & (RESPONSE | OPCODE) != RESPONSE | self.opcode {
            return false;
        }
        if word(response, 4) == 0 && self.count != 0 {
            return BARE_CODES.contains(&code(response)) && word(response, 6) == 0;
        }
        word(response, 4) == self.count
            && questions(response).is_some_and(|section| same(&self.questions, section))
    }
}

const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const TRUNCATED: u8 = 0x02;

/// Whether two question sections, both well formed, ask the same.
fn same(ours: &[u8], theirs: &[u8]) -> bool {
    if ours.len() != theirs.len() {
        return false;
    }
    let mut at = 0;
    while at < ours.len() {
        let Some(end) = name_end(ours, at) else { return false };
        // Label lengths are at most 63 and letters start at 65: ignoring case touches letters only.
        let names = ours[at..end].eq_ignore_ascii_case(&theirs[at..end]);
        let Some(rest) = ours.get(end..end + 4) else { return false };
        if !names || rest != &theirs[end..end + 4] {
            return false;
        }
        at = end + 4;
    }
    true
}

fn word(message: &[u8], at: usize) -> u16 {
    match message.get(at..at + 2) {
        Some(&[high, low]) => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}

/// The response code without the bits that EDNS adds.
fn code(message: &[u8]) -> u8 {
    message.get(3).map_or(0, |byte| byte & 0x0f)
}

/// The id; 0 where the message is too short.
#[must_use]
pub fn id(message: &[u8]) -> u16 {
    word(message, 0)
}

/// Changes the id.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// Whether the answer did not fit and should be fetched over a stream.
#[must_use]
pub fn is_truncated(response: &[u8]) -> bool {
    response.get(2).is_some_and(|flags| flags & TRUNCATED != 0)
}

/// The question section; `None` for what is no message. Names must be written out (the first ones of a message
/// have nothing before them to point to).
fn questions(message: &[u8]) -> Option<&[u8]> {
    let count = if message.len() < HEADER { return None } else { word(message, 4) };
    let mut at = HEADER;
    for _ in 0..count {
        at = name_end(message, at)? + 4;
        if at > message.len() {
            return None;
        }
    }
    message.get(HEADER..at)
}

/// Where the name that starts at `at` ends.
fn name_end(message: &[u8], at: usize) -> Option<usize> {
    let mut next = at;
    loop {
        let length = usize::from(*message.get(next)?);
        if length > 63 {
            return None;
        }
        next += 1 + length;
        if next - at > MAX_NAME {
            return None;
        }
        if length == 0 {
            return Some(next);
        }
    }
}

/// Cuts a stream of messages with a length in front (RFC 1035 §4.2.2) into messages.
#[derive(Debug, Default)]
pub struct Frames {
    /// The beginning of a message whose end has not come yet.
    rest: Vec<u8>,
}

impl Frames {
    /// Takes bytes in and hands every whole message to `sink`.
    ///
    /// Returns false when the stream is no stream of messages.
    pub fn feed(&mut self, mut bytes: &[u8], mut sink: impl FnMut(&[u8])) -> bool {
        if !self.rest.is_empty() {
            // Fill up the message that was begun, and not more.
            while self.rest.len() < 2 {
                let Some((first, after)) = bytes.split_first() else { return true };
                self.rest.push(*first);
                bytes = after;
            }
            let length = usize::from(word(&self.rest, 0));
            if length < HEADER {
                return false;
            }
            let wanted = 2 + length - self.rest.len();
            let (part, after) = bytes.split_at(wanted.min(bytes.len()));
            self.rest.extend_from_slice(part);
            if part.len() < wanted {
                return true;
            }
            sink(&self.rest[2..]);
            // Most answers are short: the space of a long one is not kept.
            if self.rest.capacity() > 4096 {
                self.rest = Vec::new()
            } else {
                self.rest.clear()
            }
            bytes = after;
        }
        while let Some((length, after)) = bytes.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            if length < HEADER {
                return false;
            }
            let Some((message, after)) = after.split_at_checked(length) else { break };
            sink(message);
            bytes = after;
        }
        self.rest.extend_from_slice(bytes);
        true
    }

    /// Whether a message was begun and not ended.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        !self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUERY: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01";

    fn asked(query: &[u8]) -> Asked {
        let mut asked = Asked::default();
        assert!(asked.note(query));
        asked
    }

    fn response(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut response = QUERY.to_vec();
        response[2] |= 0x80;
        change(&mut response);
        response
    }

    #[test]
    fn an_answer_repeats_the_question() {
        let asked = asked(QUERY);
        assert!(asked.is_answered_by(&response(|_| ())));
        assert!(asked.is_answered_by(&response(|r| r[13].make_ascii_uppercase())), "case is free");
        assert!(!asked.is_answered_by(QUERY), "a query is no answer");
        assert!(!asked.is_answered_by(&response(|r| r[13] = b'b')), "another name");
        assert!(!asked.is_answered_by(&response(|r| r[24] = 28)), "another type");
        assert!(!asked.is_answered_by(&response(|r| r[26] = 3)), "another class");
        assert!(!asked.is_answered_by(&response(|r| r[2] |= 0x28)), "another opcode");
        assert!(!asked.is_answered_by(&response(|r| r[5] = 2)), "more questions than there are");
        assert!(!asked.is_answered_by(&response(|r| r.truncate(20))), "cut off");
        assert!(!asked.is_answered_by(&response(|r| r[14] = 0xc0)), "a pointer");
        assert!(!asked.is_answered_by(b"\x12\x34"));
    }

    #[test]
    fn types_that_look_like_letters_are_not_folded() {
        let mut query = QUERY.to_vec();
        query[24] = b'a';
        let asked = asked(&query);
        let mut response = query.clone();
        response[2] |= 0x80;
        assert!(asked.is_answered_by(&response));
        response[24] = b'A';
        assert!(!asked.is_answered_by(&response));
    }

    #[test]
    fn only_refusals_may_leave_the_question_out() {
        let bare = |code: u8| {
            response(|r| {
                r.truncate(HEADER);
                (r[5], r[3]) = (0, 0x80 | code);
            })
        };
        for code in 0..16 {
            assert_eq!(asked(QUERY).is_answered_by(&bare(code)), [1, 2, 4, 5].contains(&code));
        }
    }

    #[test]
    fn what_is_no_query_is_refused() {
        let mut asked = Asked::default();
        assert!(!asked.note(&response(|_| ())));
        assert!(!asked.note(&QUERY[..26]));
        assert!(!asked.note(b""));
        assert!(asked.note(&[0; 12]), "no question is a matter for the server");
    }

    #[test]
    fn frames_come_whole() {
        let messages: [&[u8]; 3] = [&[1; 12], &[2; 300], &[3; 65_535]];
        let mut stream = Vec::new();
        for message in messages {
            stream.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
            stream.extend(message);
        }
        for step in [1, 2, 3, 13, 14, 15, 1000, stream.len()] {
            let (mut frames, mut got) = (Frames::default(), Vec::new());
            for part in stream.chunks(step) {
                assert!(frames.feed(part, |message| got.push(message.to_vec())));
            }
            assert_eq!(got, messages, "in steps of {step}");
            assert!(!frames.is_inside());
        }
    }

    #[test]
    fn a_length_that_no_message_has_ends_the_stream() {
        assert!(!Frames::default().feed(&[0, 11, 0], |_| ()));
        let mut frames = Frames::default();
        assert!(frames.feed(&[0], |_| ()));
        assert!(!frames.feed(&[&[1], &[0; 1][..]].concat(), |_| ()));
    }

    proptest! {
        #[test]
        fn no_bytes_cause_a_panic(query: Vec<u8>, response: Vec<u8>) {
            let mut asked = Asked::default();
            let _ = asked.note(&query);
            let _ = asked.is_answered_by(&response);
            let _ = is_truncated(&response);
        }

        #[test]
        fn frames_do_not_depend_on_cuts(stream in prop::collection::vec(any::<u8>(), 0..400), cut in 0usize..400) {
            let cut = cut.min(stream.len());
            let (mut whole, mut parts) = (Vec::new(), Vec::new());
            let one = Frames::default().feed(&stream, |m| whole.push(m.to_vec()));
            let mut frames = Frames::default();
            let two = frames.feed(&stream[..cut], |m| parts.push(m.to_vec()))
                && frames.feed(&stream[cut..], |m| parts.push(m.to_vec()));
            prop_assert_eq!((one, whole), (two, parts));
        }
    }
}
