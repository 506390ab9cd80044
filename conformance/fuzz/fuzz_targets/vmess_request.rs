//! Everything of VMess that reads bytes of strangers: heads of requests and responses, and chunks. What is not sealed with
//! our key must be refused; what is, must come back wherever it is cut.
#![no_main]

use crosspoint_proxy::{
    uuid,
    vmess::{
        body::{Keys, Opened, Opener, Options, Sealer, Security},
        header::{self, Command, FRONT, HeaderError, Request},
        keys::{command_key, kdf},
    },
};
use libfuzzer_sys::fuzz_target;

fn keys() -> Keys {
    Keys { request_key: [1; 16], request_nonce: [2; 16], key: [3; 16], nonce: [4; 16] }
}

fn check_request(bytes: &[u8], legacy: bool) {
    match Request::parse(bytes, legacy) {
        Ok((request, len)) => {
            assert!(len <= bytes.len() && len <= header::MOST);
            assert_eq!(request.target.is_none(), request.command == Command::Mux);
        }
        Err(HeaderError::Incomplete(need)) => assert!(need > bytes.len()),
        Err(_) => {}
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((what, bytes)) = input.split_first() else { return };
    let mut copy = bytes.to_vec();
    match what % 4 {
        0 => {
            check_request(bytes, false);
            check_request(bytes, true);
            let _ = uuid::id(&String::from_utf8_lossy(bytes));
        }
        1 => {
            let key = command_key(&uuid::id("fuzz"));
            let _ = kdf(&key, &[b"x"]);
            if let Some((front, rest)) = copy.split_first_chunk_mut::<FRONT>() {
                assert!(header::open_length(&key, front).is_err());
                assert!(header::open(&key, front, rest).is_err());
            }
            let request = Request::new(Options::CHUNKS, Security::None, Command::Mux, None);
            let keys = request.answer_keys(false);
            assert!(header::open_answer(&request, &keys, &mut copy).is_err());
            if let Ok(len) = header::parse_legacy_answer(&request, bytes) {
                assert!(len <= bytes.len());
            }
        }
        2 => {
            let Some((how, _)) = bytes.split_first() else { return };
            let Some(security) = Security::of(how >> 5) else { return };
            let mut opener = Opener::new(security, Options(how & 31), &keys()).expect("keys");
            let mut at = 1;
            while let Ok(Opened::Length(used) | Opened::Chunk(_, used)) =
                opener.advance(&mut copy[at..])
            {
                at += used;
            }
        }
        _ => {
            // A body that is sealed as it should be comes back.
            let Some((how, payload)) = bytes.split_first() else { return };
            let Some(security) = Security::of(how >> 5) else { return };
            let options = Options(how & 31 | 1);
            let mut sealed = Vec::new();
            let mut sealer = Sealer::new(security, options, &keys()).expect("keys");
            sealer.chunks(payload, &mut sealed).expect("sealed");
            let mut opener = Opener::new(security, options, &keys()).expect("keys");
            let (mut at, mut plain) = (0, Vec::new());
            loop {
                match opener.advance(&mut sealed[at..]).expect("ours") {
                    Opened::Need(_) | Opened::End => break,
                    Opened::Length(used) => at += used,
                    Opened::Chunk(payload, used) => {
                        plain.extend_from_slice(&sealed[at..][payload]);
                        at += used;
                    }
                }
            }
            assert_eq!(plain, payload);
        }
    }
});
