//! The Basic scheme (RFC 7617).

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD_INDIFFERENT};

use crate::users::Authenticate;

/// Clients write either alphabet; the reference reads only the second.
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, NO_PAD_INDIFFERENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD_INDIFFERENT);

/// Longest `user:password` in bytes: more than SOCKS5 can carry.
const MAX_PAIR: usize = 1024;

/// Checks the value of a Proxy-Authorization field. The user's name when it is right; otherwise the name that was
/// tried, for the log, if one could be read.
pub fn basic<A: Authenticate>(value: &[u8], users: &A) -> Result<Arc<str>, Option<String>> {
    let (scheme, encoded) = value.split_at_checked(6).ok_or(None)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return Err(None);
    }
    let encoded = encoded.trim_ascii();
    let engine = if encoded.iter().any(|b| matches!(b, b'-' | b'_')) { URL_SAFE } else { STANDARD };
    let mut room = [0u8; MAX_PAIR];
    let len = engine.decode_slice(encoded, &mut room).map_err(|_| None)?;
    let pair = room.get(..len).ok_or(None)?;
    let colon = pair.iter().position(|&b| b == b':').ok_or(None)?;
    let (username, password) = (pair.get(..colon).ok_or(None)?, pair.get(colon + 1..).ok_or(None)?);
    users
        .authenticate(username, password)
        .ok_or_else(|| Some(String::from_utf8_lossy(username).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::users::Users;

    #[test]
    fn alphabets_and_padding() {
        let users = Users::new([("user", "secret"), ("\u{3ff}~", "~~?:>"), ("a", "")]).unwrap();
        for value in ["Basic dXNlcjpzZWNyZXQ=", "basic dXNlcjpzZWNyZXQ", "BASIC  dXNlcjpzZWNyZXQ= "]
        {
            assert_eq!(basic(value.as_bytes(), &users).as_deref(), Ok("user"), "{value}");
        }
        let pair = "\u{3ff}~:~~?:>";
        for engine in [STANDARD, URL_SAFE] {
            let value = format!("Basic {}", engine.encode(pair));
            assert_eq!(basic(value.as_bytes(), &users).as_deref(), Ok("\u{3ff}~"), "{value}");
        }
        assert_eq!(basic(b"Basic YTo=", &users).as_deref(), Ok("a"));
        for (value, tried) in [
            ("Basic dXNlcjp4", Some("user")),
            ("Basic dXNlcg==", None),
            ("Bearer dXNlcjpzZWNyZXQ=", None),
            ("Basic", None),
            ("Basic ====", None),
            ("", None),
        ] {
            assert_eq!(basic(value.as_bytes(), &users), Err(tried.map(Into::into)), "{value}");
        }
        let long = format!("Basic {}", "A".repeat(2000));
        assert_eq!(basic(long.as_bytes(), &users), Err(None));
    }
}
