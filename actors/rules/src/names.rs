//! What counts as a domain name.

/// Whether `text` is a domain name by the rules of Go's resolver, which the reference applies wherever
/// a destination may be "nothing": at most 254 bytes, labels of at most 63 letters, digits, `_` and
/// `-` (none at the edge that a dot marks), and not digits and dots alone.
pub fn is_domain_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    if text == "." {
        return true;
    }
    if bytes.is_empty() || bytes.len() > 254 || (bytes.len() == 254 && !text.ends_with('.')) {
        return false;
    }
    let (mut last, mut non_numeric, mut label) = (b'.', false, 0usize);
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                non_numeric = true;
                label += 1;
            }
            b'0'..=b'9' => label += 1,
            b'-' if last != b'.' => {
                non_numeric = true;
                label += 1;
            }
            b'.' if last != b'.' && last != b'-' && (1..=63).contains(&label) => label = 0,
            _ => return false,
        }
        last = byte;
    }
    last != b'-' && label <= 63 && non_numeric
}

/// Lower case as the matchers compare: character by character, so that no character's case depends
/// on its neighbours. Returns `None` when the text is lower case already.
pub fn lowered(text: &str) -> Option<String> {
    if text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) {
        return None;
    }
    if text.is_ascii() {
        return Some(text.to_ascii_lowercase());
    }
    // A character whose lower case is several characters keeps the first, as one-to-one case tables do.
    Some(text.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_go_resolver() {
        let long = "a".repeat(63);
        for good in ["a", "a.b", "a.b.", "_dmarc.x", "a-b.c", "1a", ".", "xn--p1ai", &long] {
            assert!(is_domain_name(good), "{good}");
        }
        let too_long = "a".repeat(64);
        let whole = format!("{}.", "ab".repeat(127));
        for bad in [
            "", "-a", "a-", "a..b", "1.2.3.4", "a b", "a:1", "a-.b", "münchen", "..", &too_long,
            &whole,
        ] {
            assert!(!is_domain_name(bad), "{bad}");
        }
    }

    #[test]
    fn lower_case() {
        assert_eq!(lowered("example.org"), None);
        assert_eq!(lowered("EXAMPLE.org").as_deref(), Some("example.org"));
        assert_eq!(lowered("MÜNCHEN.DE").as_deref(), Some("münchen.de"));
    }
}
