//! Everything of Shadowsocks that reads bytes of strangers: headers, chunks and datagrams. What is not sealed with our key
//! must be refused; what is, must be read within its bounds.
#![no_main]

use crosspoint_proxy::{
    address,
    shadowsocks::{
        datagram::{self, From},
        method::{MasterKey, Method},
        wire::{self, Opened, Opener, Sealer},
    },
};
use libfuzzer_sys::fuzz_target;

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

fn key(name: &str) -> MasterKey {
    Method::named(name).expect("a method").key(KEY, "").expect("a key")
}

fuzz_target!(|input: &[u8]| {
    let Some((what, bytes)) = input.split_first() else { return };
    let mut packet = bytes.to_vec();
    match what % 8 {
        0 => {
            let _ = wire::parse_request(bytes);
            let _ = wire::parse_response(bytes, &[0; 16]);
        }
        1 => {
            if let Ok((target, at)) = wire::parse_request_rest(bytes) {
                assert!(at <= bytes.len() && address::len(&target) < at);
            }
        }
        2 => {
            if let Ok((target, at)) = address::parse(bytes) {
                let mut again = Vec::new();
                address::emit(&target, &mut again);
                assert!(at <= bytes.len());
                assert_eq!(address::parse(&again), Ok((target, again.len())));
            }
        }
        3 => {
            let key = key("aes-128-gcm");
            let family = key.method.family;
            let mut opener = Opener::new(key.session(&[0; 16]).expect("a key"), family);
            let opened = opener.advance(&mut packet);
            assert!(matches!(opened, Ok(Opened::Need(_)) | Err(_)), "forged");
        }
        4 => {
            // A stream that is sealed as it should be comes back, wherever it is cut.
            let key = key("chacha20-ietf-poly1305");
            let family = key.method.family;
            let session = || key.session(&[7; 32]).expect("a key");
            let mut sealed = Vec::new();
            Sealer::new(session(), family).chunks(&mut sealed, bytes).expect("sealed");
            let (mut opener, mut at, mut plain) = (Opener::new(session(), family), 0, Vec::new());
            loop {
                match opener.advance(&mut sealed[at..]).expect("ours") {
                    Opened::Need(_) => break,
                    Opened::Length(used) => at += used,
                    Opened::Payload(len, used) => {
                        plain.extend_from_slice(&sealed[at..at + len]);
                        at += used;
                    }
                }
            }
            assert_eq!(plain, bytes);
        }
        5 => assert!(datagram::open_aead(&key("aes-256-gcm"), &mut packet).is_err()),
        6 => {
            let key = key("2022-blake3-aes-256-gcm");
            let block = key.block().expect("a key");
            let _ = datagram::open_header(&block, &mut packet);
            let _ = datagram::open_identity(&block, &packet);
            let session = key.session(&[0; 8]).expect("a key");
            assert!(datagram::open_message(&session, &mut packet, 16, From::Client).is_err());
        }
        _ => {
            let key = key("2022-blake3-chacha20-poly1305").datagrams().expect("a key");
            assert!(datagram::open_chacha(&key, &mut packet, From::Client).is_err());
        }
    }
});
