//! What servers of plugins send, in two parts, and the options of plugins; what we wrap must come back.
#![no_main]

use crosspoint_proxy::shadowsocks::sip003::{
    args::Args,
    codec::{Codec, CodecError, Step},
    mux::Mux,
    obfs::{Http, Tls},
};
use libfuzzer_sys::fuzz_target;

fn unwrap_all(codec: &mut impl Codec, bytes: &[u8], cut: usize) -> Result<Vec<u8>, CodecError> {
    let (mut at, mut out) = (0, Vec::new());
    for end in [cut, bytes.len()] {
        while !codec.reads_plain() {
            match codec.unwrap(&bytes[at..end])? {
                Step::Need(need) => {
                    assert!(need > end - at, "asks for what it has");
                    break;
                }
                Step::End => return Ok(out),
                Step::Skip(len) => {
                    assert!(len > 0 && len <= end - at, "skips what is not there");
                    at += len;
                }
                Step::Payload(len) => {
                    assert!(len > 0 && len <= end - at, "hands out what is not there");
                    out.extend(&bytes[at..at + len]);
                    at += len;
                }
            }
        }
        if codec.reads_plain() {
            out.extend(&bytes[at..end]);
            at = end;
        }
    }
    Ok(out)
}

fuzz_target!(|data: &[u8]| {
    let Some((&[pick, cut], rest)) = data.split_first_chunk::<2>() else { return };
    let cut = usize::from(cut).min(rest.len());
    match pick % 5 {
        0 => drop(unwrap_all(&mut Http::new("a.test", 81), rest, cut)),
        1 => drop(unwrap_all(&mut Tls::new("a.test"), rest, cut)),
        2 => drop(unwrap_all(&mut Mux::default(), rest, cut)),
        3 => {
            let _ = std::str::from_utf8(rest).map(Args::parse);
        }
        _ => {
            let (mut wrapped, mut codec) = (Vec::new(), Mux::default());
            codec.wrap(b"x", &mut Vec::new());
            codec.wrap(rest, &mut wrapped);
            let back = unwrap_all(&mut Mux::default(), &wrapped, cut.min(wrapped.len()));
            assert_eq!(back.as_deref(), Ok(rest));
        }
    }
});
