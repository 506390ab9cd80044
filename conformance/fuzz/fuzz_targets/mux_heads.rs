//! sing-mux's own words, each behind a byte that picks it: what is read is what was written, and nothing beyond the bytes.
#![no_main]

use crosspoint_layers::mux::wire::{
    HeadError, Request, StreamRequest, StreamResponse, emit_brutal, parse_brutal,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((what, bytes)) = input.split_first() else { return };
    let need = |error: HeadError| {
        if let HeadError::Incomplete(need) = error {
            assert!(need > bytes.len());
        }
    };
    let mut again = Vec::new();
    match what % 4 {
        0 => match Request::parse(bytes) {
            // The padding need not be there.
            Ok((request, len)) => {
                request.emit(len.saturating_sub(5) as u16, &mut again);
                assert_eq!(Request::parse(&again).map(|(same, _)| same), Ok(request));
            }
            Err(error) => need(error),
        },
        1 => match StreamRequest::parse(bytes) {
            Ok((request, len)) => {
                assert!(len <= bytes.len());
                request.emit(&mut again);
                assert_eq!(StreamRequest::parse(&again), Ok((request, again.len())));
            }
            Err(error) => need(error),
        },
        2 => match StreamResponse::parse(bytes) {
            Ok((response, len)) => {
                assert!(len <= bytes.len());
                response.emit(&mut again);
                let _ = StreamResponse::parse(&again).expect("ours");
            }
            Err(error) => need(error),
        },
        _ => match parse_brutal(bytes) {
            Ok((response, len)) => {
                assert!(len <= bytes.len());
                emit_brutal(&response, &mut again);
                let _ = parse_brutal(&again).expect("ours");
            }
            Err(error) => need(error),
        },
    }
});
