//! Go's reasons for refusing an address (`net/netip`), found by walking the text as Go does. The addresses themselves are
//! parsed by the standard library.

use super::quote;

fn at(why: &str, rest: &str) -> String {
    format!("{why} (at {})", quote(rest))
}

/// Why a text with a dot is no IPv4 address.
pub(super) fn v4(text: &str) -> String {
    let (mut value, mut digits, mut dots) = (0u32, 0, 0);
    let mut previous = '.';
    for (i, c) in text.char_indices() {
        let rest = text.get(i..).unwrap_or_default();
        if let Some(digit) = c.to_digit(10) {
            if digits == 1 && value == 0 {
                return "IPv4 field has octet with leading zero".to_owned();
            }
            value = value * 10 + digit;
            digits += 1;
            if value > 255 {
                return "IPv4 field has value >255".to_owned();
            }
        } else if c == '.' {
            if previous == '.' || rest.len() == 1 {
                return at("IPv4 field must have at least one digit", rest);
            }
            if dots == 3 {
                return "IPv4 address too long".to_owned();
            }
            dots += 1;
            (value, digits) = (0, 0);
        } else {
            return at("unexpected character", rest);
        }
        previous = c;
    }
    "IPv4 address too short".to_owned()
}

/// Why a text with a colon is no IPv6 address.
pub(super) fn v6(text: &str) -> String {
    let mut rest = text.strip_prefix("::").unwrap_or(text);
    let mut ellipsis = rest.len() != text.len();
    let mut bytes = 0;
    while bytes < 16 {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits > 4 {
            return at("each group must have 4 or less digits", rest);
        }
        if digits == 0 {
            return at("each colon-separated field must have at least one digit", rest);
        }
        let after = rest.get(digits..).unwrap_or_default();
        if after.starts_with('.') {
            if !ellipsis && bytes != 12 {
                return at(
                    "embedded IPv4 address must replace the final 2 fields of the address",
                    rest,
                );
            }
            if bytes > 12 {
                return at(
                    "too many hex fields to fit an embedded IPv4 at the end of the address",
                    rest,
                );
            }
            return v4(rest);
        }
        bytes += 2;
        rest = after;
        if rest.is_empty() {
            break;
        }
        let Some(next) = rest.strip_prefix(':') else {
            return at("unexpected character, want colon", rest);
        };
        if next.is_empty() {
            return at("colon must be followed by more characters", rest);
        }
        rest = next;
        if let Some(next) = rest.strip_prefix(':') {
            if ellipsis {
                return at("multiple :: in address", rest);
            }
            ellipsis = true;
            rest = next;
            if rest.is_empty() {
                break;
            }
        }
    }
    if !rest.is_empty() {
        at("trailing garbage after address", rest)
    } else if bytes < 16 && !ellipsis {
        "address string too short".to_owned()
    } else {
        "the :: must expand to at least one field of zeros".to_owned()
    }
}
