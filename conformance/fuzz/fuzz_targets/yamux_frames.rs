//! Frames of yamux: what is read is what was written, and nothing beyond the bytes.
#![no_main]

use crosspoint_layers::mux::frame::{Dialect, Frame};
use libfuzzer_sys::fuzz_target;

const DIALECT: Dialect = Dialect::Yamux;

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    while let Ok(Some((frame, len))) = DIALECT.parse(rest) {
        assert_eq!(len, DIALECT.header());
        let mut again = Vec::new();
        match frame {
            Frame { payload: len @ 1..=0xffff, .. } => DIALECT.data(frame.id, len as u16, &mut again),
            Frame { syn: true, .. } => DIALECT.open(frame.id, &mut again),
            Frame { rst: true, .. } => DIALECT.reset(frame.id, &mut again),
            Frame { fin: true, .. } => DIALECT.end(frame.id, &mut again),
            _ => {}
        }
        if !again.is_empty() {
            let (same, _) = DIALECT.parse(&again).expect("ours").expect("whole");
            assert_eq!(same.id, frame.id);
            assert!(same.syn || same.fin || same.rst || same.payload == frame.payload);
        }
        let skip = len + frame.payload as usize + frame.skip as usize;
        let Some(next) = rest.get(skip..) else { return };
        rest = next;
    }
});
