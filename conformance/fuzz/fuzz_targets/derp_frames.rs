//! Frames of DERP, read as a server and as a client do, and the handshake's JSON. What is read is what is written.
#![no_main]

use crosspoint_derp::{
    frame::{FromClient, FromServer, MAX_FRAME, Step, is_disco},
    info::{ClientInfo, ServerInfo},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&pick, mut rest)) = data.split_first() else { return };
    match pick % 3 {
        0 => {
            while let Ok(step) = FromClient::next(rest) {
                let used = match step {
                    Step::Need(need) => return assert!((rest.len() + 1..=MAX_FRAME).contains(&need)),
                    Step::Skip(used) => used,
                    Step::Frame(frame, used) => {
                        let mut again = Vec::new();
                        frame.emit(&mut again);
                        assert_eq!(FromClient::next(&again), Ok(Step::Frame(frame, again.len())));
                        if let FromClient::Send { packet, .. } = frame {
                            let _ = is_disco(packet);
                        }
                        used
                    }
                };
                let Some(next) = rest.get(used..) else { return };
                rest = next;
            }
        }
        1 => {
            while let Ok(step) = FromServer::next(rest) {
                let used = match step {
                    Step::Need(need) => return assert!((rest.len() + 1..=MAX_FRAME).contains(&need)),
                    Step::Skip(used) => used,
                    Step::Frame(frame, used) => {
                        let mut again = Vec::new();
                        frame.emit(&mut again);
                        let read = FromServer::next(&again);
                        // Who tells no address has no flags to tell either.
                        if !matches!(frame, FromServer::PeerPresent { addr: None, .. }) {
                            assert_eq!(read, Ok(Step::Frame(frame, again.len())));
                        }
                        used
                    }
                };
                let Some(next) = rest.get(used..) else { return };
                rest = next;
            }
        }
        _ => {
            if let Some(info) = ClientInfo::parse(rest) {
                let again = ClientInfo::parse(&info.emit()).expect("what was written is read");
                assert_eq!(again.emit(), info.emit());
            }
            if let Some(info) = ServerInfo::parse(rest) {
                assert_eq!(ServerInfo::parse(&info.emit()), Some(info));
            }
        }
    }
});
