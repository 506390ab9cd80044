use proptest::prelude::*;

use super::*;
use crate::uuid;
use crate::vmess::body::{self, Opened};
use crate::vmess::keys::{ServerKey, command_key};
use crate::vmess::users::{Entry, Users};

const ID: &str = "b831381d-6324-4d53-ad4f-8cda48b30811";

fn request(target: Option<Target>) -> Request {
    let command = if target.is_some() { Command::Tcp } else { Command::Mux };
    Request::new(Options(13), Security::Aes128Gcm, command, target)
}

#[test]
fn a_sealed_request_is_opened() {
    let (client, server) =
        (ClientKey::new(&uuid::id(ID)).unwrap(), ServerKey::new(&uuid::id(ID)).unwrap());
    for target in [None, Some(Target::new("a.test", 443)), Some(Target::new("2001:db8::1", 1))] {
        let expected = request(target);
        let mut sealed = expected.seal(&client, 1_700_000_000).unwrap();
        assert!(sealed.len() >= LEAST);
        let user = server.show(&first(&sealed));
        assert_eq!(time_of(&user), Some(1_700_000_000));
        let (front, rest) = sealed.split_first_chunk_mut::<FRONT>().unwrap();
        assert_eq!(open_length(&server.command, front), Ok(rest.len()));
        let mut changed = rest.to_vec();
        changed[3] ^= 1;
        assert_eq!(open(&server.command, front, &mut changed), Err(HeaderError::Forged(Forged)));
        assert_eq!(open(&server.command, front, rest), Ok(expected));
        front[20] ^= 1;
        assert_eq!(open_length(&server.command, front), Err(HeaderError::Forged(Forged)));
    }
    let stranger = ServerKey::new(&uuid::id("else")).unwrap();
    let sealed = request(None).seal(&client, 1).unwrap();
    assert_eq!(time_of(&stranger.show(&first(&sealed))), None);
}

#[test]
fn a_legacy_request_is_read_and_its_checksum_counts() {
    let key = command_key(&uuid::id(ID));
    let expected = request(Some(Target::new("a.test", 443)));
    let mut bytes = expected.seal_legacy(&key, &[7; 16], 1_700_000_000).unwrap();
    assert!(bytes.len() >= LEAST_LEGACY);
    let plain = &mut bytes[KEY..];
    Cfb::decrypt(&key, &time_iv(1_700_000_000)).unwrap().apply(plain).unwrap();
    for cut in 0..plain.len() {
        let short = Request::parse(&plain[..cut], true);
        assert!(matches!(short, Err(HeaderError::Incomplete(n)) if n > cut && n <= plain.len()));
    }
    assert_eq!(Request::parse(plain, true), Ok((expected, plain.len())));
    plain[1] ^= 1;
    assert_eq!(Request::parse(plain, true), Err(HeaderError::Checksum));
    assert!(Request::parse(plain, false).is_ok());
}

#[test]
fn what_is_no_request_is_refused() {
    let mut bytes = Vec::new();
    request(Some(Target::new("192.0.2.1", 443))).emit(&mut bytes);
    let changed = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        Request::parse(&bytes, false).map(drop)
    };
    assert_eq!(changed(0, 2), Err(HeaderError::Version(2)));
    assert_eq!(changed(35, 2), Err(HeaderError::Security(2)));
    assert_eq!(changed(35, 6), Err(HeaderError::Security(6)));
    assert_eq!(changed(37, 4), Err(HeaderError::Command(4)));
    assert_eq!(changed(40, 9), Err(HeaderError::Address(AddressError::Type(9))));
    let mut datagrams = request(Some(Target::new("192.0.2.1", 443)));
    (datagrams.command, datagrams.options) = (Command::Udp, Options(0));
    datagrams.security = Security::None;
    let mut bytes = Vec::new();
    datagrams.emit(&mut bytes);
    assert_eq!(Request::parse(&bytes, false), Err(HeaderError::Unframed));
}

#[test]
fn answers_are_to_their_request() {
    let (mine, other) = (request(None), request(None));
    let keys = mine.answer_keys(false);
    let mut sealed = Vec::new();
    seal_answer(&mine, &keys, &mut sealed).unwrap();
    for cut in 0..sealed.len() {
        let short = open_answer(&mine, &keys, &mut sealed[..cut]);
        assert_eq!(short, Err(HeaderError::Incomplete(sealed.len())));
    }
    let len = sealed.len();
    assert_eq!(open_answer(&mine, &keys, &mut sealed.clone()), Ok(len));
    let forged = open_answer(&other, &other.answer_keys(false), &mut sealed.clone());
    assert_eq!(forged, Err(HeaderError::Forged(Forged)));
    let stale = Request { answer: mine.answer.wrapping_add(1), ..mine.clone() };
    assert_eq!(open_answer(&stale, &keys, &mut sealed), Err(HeaderError::Answer));

    let plain = legacy_answer(&mine);
    assert_eq!(parse_legacy_answer(&mine, &plain), Ok(4));
    assert_eq!(parse_legacy_answer(&mine, &plain[..3]), Err(HeaderError::Incomplete(4)));
    assert_eq!(parse_legacy_answer(&stale, &plain), Err(HeaderError::Answer));
    let long = [mine.answer, 0, 1, 2, 0];
    assert_eq!(parse_legacy_answer(&mine, &long), Err(HeaderError::Incomplete(6)));
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// What the reference 1.12.12 sent for `hello from the reference` to a.test:443: chacha20-poly1305 with padding and sealed
/// lengths.
const SEALED: &str = "\
        dc156a31dda15ca5c6bfbd6e9f4e2250737052829d517591f0608edd8e2e8bbc14d9b7398c47a60b275054a4\
        b2210a6bbf0f39e4be7afc577f21b7095fca33d0d8e4e4c723e4079ce699eaf5839a6bb4bf7d3c117521ca66\
        b4aed5230537a589fc7e20b9ad68aabe6e93885a17f40278b285aebb1b3697963d5f4c1e1abe5b68ed5f51c2\
        af617c94031110efbf3439fd3037c2ee7ef13815d7ab5d3433e4bcc5d67c1179a47e3fbd8ee31ad6aa659b74\
        c74753d964cc1bb26c5f7953a33ade808edc4c45";

/// The same with alternative ids, aes-128-cfb.
const LEGACY: &str = "\
        4822878899dec370ae1f9e2f3d2aa48ffa7bcb5c0c451506f43a0c974fb3fdd87a2ca5af43c218dfe40d418e\
        bfa3f2fc49bd6754abb0e404888000597a6e5bda3e419b9bb70595a873519959af3efb1978e04df3e06507cc\
        0675280a23f367d8e508a3a84d92";

fn check_reference(request: &Request, rest: &mut [u8], security: Security) {
    assert_eq!(request.target, Some(Target::new("a.test", 443)));
    assert_eq!((request.command, request.security), (Command::Tcp, security));
    let body = body::reader(security, request.options, &request.keys(), None).unwrap();
    if let Some(mut cfb) = body.cfb {
        cfb.apply(rest).unwrap();
    }
    let mut opener = body.chunks.unwrap();
    let Ok(Opened::Length(at)) = opener.advance(rest) else { panic!("no chunk") };
    let rest = &mut rest[at..];
    let Ok(Opened::Chunk(payload, used)) = opener.advance(rest) else { panic!("no chunk") };
    assert_eq!((&rest[payload], used), (&b"hello from the reference"[..], rest.len()));
}

#[test]
fn what_the_reference_sends_is_read() {
    let key = ServerKey::new(&uuid::id(ID)).unwrap();
    let mut bytes = hex(SEALED);
    assert!(time_of(&key.show(&first(&bytes))).is_some());
    let (front, rest) = bytes.split_first_chunk_mut::<FRONT>().unwrap();
    let len = open_length(&key.command, front).unwrap();
    let (head, rest) = rest.split_at_mut(len);
    let request = open(&key.command, front, head).unwrap();
    assert_eq!(request.options, Options(1 | 4 | 8 | 16));
    check_reference(&request, rest, Security::ChaCha20Poly1305);

    let entry = Entry::new("ann".into(), ID, 1);
    let mut bytes = hex(LEGACY);
    let near = 1795340933;
    let found = Users::new(vec![entry], near).unwrap().find(&first(&bytes), near).unwrap();
    assert!(found.legacy);
    let mut head = bytes[KEY..].to_vec();
    Cfb::decrypt(&found.command_key, &time_iv(found.time)).unwrap().apply(&mut head).unwrap();
    let (request, used) = Request::parse(&head, true).unwrap();
    check_reference(&request, &mut bytes[KEY + used..], Security::Legacy);
}

proptest! {
    #[test]
    fn parsing_undoes_emitting(name in "[a-z][a-z0-9.-]{0,60}", port: u16, options: u8, tail: Vec<u8>) {
        let mut expected = request(Some(Target::new(&*name, port)));
        expected.options = Options(options);
        let mut bytes = Vec::new();
        expected.emit(&mut bytes);
        let end = bytes.len();
        prop_assert!(end <= MOST);
        bytes.extend(tail);
        prop_assert_eq!(Request::parse(&bytes, true), Ok((expected, end)));
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = Request::parse(&bytes, false);
        let mut one = vec![1];
        one.extend(&bytes);
        let _ = Request::parse(&one, true);
        let mine = request(None);
        let _ = open_answer(&mine, &mine.answer_keys(false), &mut one);
        let _ = parse_legacy_answer(&mine, &bytes);
    }
}
