//! An answer of a server, read, kept and told to a client. The input is the length of the query (two bytes), the query,
//! and the answer.
#![no_main]

use crosspoint_resolver::wire::{Query, told};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_be_bytes(*length)) % (rest.len() + 1);
    let (query, answer) = rest.split_at(length);
    let Some(out) = told(query, answer.to_vec(), 77) else { return };
    // What is told is an answer to that query.
    assert_eq!(out.get(..2), query.get(..2));
    assert!(out[2] & 0x80 != 0);
    let mut asked = out.clone();
    asked[2] &= 0x7f;
    let again = Query::parse(&asked);
    assert_eq!(again.ok().map(|q| q.name()), Query::parse(query).ok().map(|q| q.name()));
});
