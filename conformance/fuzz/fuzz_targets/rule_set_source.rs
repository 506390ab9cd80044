//! A source rule-set. What decodes is printed as a file that decodes to the same, and can be compiled to a binary one
//! that is read again.
#![no_main]

use crosspoint_rules::format::{Rules, source, srs};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok((_, file)) = source::decode("fuzz.json", input) else { return };
    let text = source::text(&file);
    let again = source::decode("again.json", text.as_bytes()).map(|(_, file)| source::text(&file));
    assert_eq!(again.as_ref(), Ok(&text));
    if let Ok(written) = srs::write(&Rules::from(file)) {
        let read = srs::read(&written);
        assert!(read.is_ok(), "{read:?}");
    }
});
