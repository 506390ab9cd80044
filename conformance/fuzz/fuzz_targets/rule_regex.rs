//! A line with a Go expression, then a text. What is translated is valid for the `regex` crate, unless it is too large.
#![no_main]

use crosspoint_rules::item::regex;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let (expression, text) = input.split_once('\n').unwrap_or((input, ""));
    if expression.len() > 64 {
        return;
    }
    match regex::compile(expression) {
        Ok(regex) => {
            regex.is_match(text);
        }
        Err(error) => assert!(error.to_string().starts_with("error parsing regexp: "), "{error}"),
    }
});
