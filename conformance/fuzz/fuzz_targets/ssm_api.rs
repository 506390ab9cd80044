//! Requests of `ssm-api`, and its cache file.
#![no_main]

use crosspoint_service::ssm_api::{cache::Cache, request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&pick, rest)) = data.split_first() else { return };
    match pick % 3 {
        0 => drop(request::body(rest)),
        1 => {
            let Ok(path) = std::str::from_utf8(rest) else { return };
            let _ = request::route(["", "/a", "/a/b"].into_iter(), path);
            let _ = request::clears(Some(path));
        }
        _ => {
            if let Ok(cache) = Cache::parse(rest) {
                let again = Cache::parse(&cache.text()).expect("what was written is read");
                assert_eq!(again, cache);
            }
        }
    }
});
