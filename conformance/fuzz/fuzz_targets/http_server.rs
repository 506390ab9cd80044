//! A request to an HTTP proxy and the response to it. What is passed on is well formed, and means the same.
#![no_main]

use crosspoint_base::http::wire::{
    Answer, Body, Chunks, Exchange, Kind, find_head, plausible_request, read_connect_answer,
    read_request, read_response,
};
use crosspoint_base::users::Users;
use libfuzzer_sys::fuzz_target;

/// Reads a body at once and byte by byte.
fn body(mut body: Body, input: &[u8]) {
    let mut slow = body.clone();
    let mut whole = Vec::new();
    let fast = body.advance(input, |bytes| whole.extend_from_slice(bytes));
    let (mut used, mut payload, mut failed) = (0, Vec::new(), false);
    while !slow.is_done() && !failed && used < input.len() {
        match slow.advance(&input[used..=used], |bytes| payload.extend_from_slice(bytes)) {
            Ok(taken) => used += taken.used,
            Err(_) => failed = true,
        }
    }
    assert_eq!(fast.is_err(), failed);
    if let Ok(taken) = fast {
        assert_eq!((taken.used, &whole), (used, &payload));
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((pick, input)) = input.split_first() else {
        return;
    };
    let _ = plausible_request(input);
    let _ = read_connect_answer(input, 0);
    body(Body::Chunked(Chunks::default()), input);
    let Ok(Some(len)) = find_head(input, 0) else {
        return;
    };
    assert_eq!(find_head(&input[..len], len - 1), Ok(Some(len)));
    let (head, rest) = input.split_at(len);

    let users = Users::new([("user", "secret")]);
    let mut out = Vec::new();
    match read_request(head, users.as_ref().filter(|_| pick & 1 != 0), &mut out) {
        Err(refusal) => {
            assert!(out.is_empty() && refusal.answer().starts_with(b"HTTP/1.1 "));
        }
        Ok(incoming) if incoming.kind == Kind::Connect => assert!(out.is_empty()),
        Ok(incoming) => {
            assert_eq!(find_head(&out, 0), Ok(Some(out.len())));
            let Kind::Forward { body: framing, .. } = incoming.kind else {
                return;
            };
            // The origin sees the same framing as we do.
            let line = out.iter().position(|b| *b == b' ').map_or(0, |at| at + 1);
            let host = format!("http://{}", incoming.target);
            let again = [&out[..line], host.as_bytes(), &out[line..]].concat();
            if out.get(line) == Some(&b'/')
                && let Ok(seen) = read_request::<Users>(&again, None, &mut Vec::new())
                && let Kind::Forward { body: theirs, .. } = seen.kind
            {
                assert_eq!(framing, theirs);
            }
            body(framing, rest);
        }
    }

    out.clear();
    let exchange = Exchange {
        minor: u8::from(pick & 2 == 0),
        keep_alive: pick & 4 != 0,
        head_only: pick & 8 != 0,
        upgrade: pick & 16 != 0,
    };
    match read_response(head, &exchange, &mut out) {
        Err(_) => assert!(out.is_empty()),
        Ok(Answer::Interim) => {}
        Ok(Answer::Switched) => assert!(exchange.upgrade),
        Ok(Answer::Final { body: framing, .. }) => {
            assert_eq!(find_head(&out, 0), Ok(Some(out.len())));
            body(framing, rest);
        }
    }
});
