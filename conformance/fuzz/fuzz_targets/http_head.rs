//! Heads of HTTP requests and answers, as transports read them: an end is found wherever the bytes are cut, nothing is
//! read beyond it, and a path that is written is read again.
#![no_main]

use crosspoint_layers::transport::head::{
    parse::{self, Line, Request, Response},
    uri::{Path, Uri},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = Line::parse(input);
    let end = parse::end(input, 0);
    let cut = (0..=input.len()).find_map(|n| parse::end(&input[..n], n.saturating_sub(1)));
    assert_eq!(end, cut);
    if let Some(end) = end {
        let head = &input[..end];
        if let Ok(request) = Request::parse(head) {
            assert!(Line::parse(head).is_ok_and(|line| line.is_some()));
            let target = request.uri.request();
            if request.method != "CONNECT" {
                let again = Uri::parse(request.method, &target);
                // What is opaque in a URL has no path, and is asked for as the root.
                if let Ok(again) = again && !request.uri.path.plain().is_empty() {
                    assert_eq!(again.path.plain(), request.uri.path.plain());
                }
            }
        }
        let _ = Response::parse(head);
    }
    if let Ok(text) = std::str::from_utf8(input)
        && let Ok(path) = Path::parse(text)
    {
        let path = path.absolute();
        assert_eq!(Path::parse(&path.escaped()).map(|path| path.plain().to_vec()), Ok(path.plain().to_vec()));
    }
});
