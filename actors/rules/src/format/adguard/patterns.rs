//! Patterns as keys of a trie.
//!
//! Source: `AdGuardMatcher` of the reference's `common/domain`. A key is a pattern reversed; `\b` stands where anything
//! may follow the pattern, `\n` (`||`) or `\r` (neither `||` nor `|`) where something may stand before it.

use super::super::{FormatError, Trie, trie::Keys};

/// The trie of these patterns; `None` for none.
///
/// # Errors
/// More than 4 GiB of patterns.
pub(super) fn compile<T: AsRef<str>>(patterns: &[T]) -> Result<Option<Trie>, FormatError> {
    let bytes = patterns.iter().map(|pattern| pattern.as_ref().len() + 2).sum();
    let mut keys = Keys::with_capacity(patterns.len(), bytes);
    for pattern in patterns {
        let pattern = pattern.as_ref();
        let (front, rest) = if let Some(rest) = pattern.strip_prefix("||") {
            ("\n", rest)
        } else if let Some(rest) = pattern.strip_prefix('|') {
            ("", rest)
        } else {
            ("\r", pattern)
        };
        let (open, rest) = match rest.strip_suffix('^') {
            Some(rest) => ("", rest),
            None => ("\u{8}", rest.strip_suffix('.').unwrap_or(rest)),
        };
        keys.push_reversed(&[open, rest, front])?;
    }
    keys.sort();
    Ok(Trie::new(&keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::AdGuardSet;

    fn check(patterns: &[&str], yes: &[&str], no: &[&str]) {
        let set = AdGuardSet::from(compile(patterns).unwrap().unwrap());
        for name in yes {
            assert!(set.contains(name), "{patterns:?} {name}");
        }
        for name in no {
            assert!(!set.contains(name), "{patterns:?} {name}");
        }
    }

    #[test]
    fn ends() {
        check(
            &["||example.org^"],
            &["example.org", "a.example.org"],
            &["notexample.org", "example.org.cn"],
        );
        check(&["|example.org^"], &["example.org"], &["a.example.org", "example.orgs"]);
        check(
            &["example.org^"],
            &["example.org", "notexample.org", "a.example.org"],
            &["example.org.cn"],
        );
        check(
            &["||example.org"],
            &["example.org", "example.org.cn", "example.orgtest", "www.example.org.cn"],
            &["notexample.org", "example.com"],
        );
        check(
            &["|example.gov"],
            &["example.gov", "example.gov.cn"],
            &["www.example.gov", "notexample.gov"],
        );
        check(
            &["example.arpa"],
            &["example.arpa", "isexample.arpa", "www.example.arpa.cn"],
            &["example.com", "test.arpa"],
        );
        check(&["ads."], &["ads.example", "myads", "x.ads.y"], &["ad.s"]);
    }

    #[test]
    fn stars() {
        check(
            &["||google.*^", "||*.youtube.com^", "||youtube.com^", "|ads.*.com^"],
            &[
                "google.cn",
                "www.google.com",
                "m.youtube.com",
                "youtube.com",
                "ads.x.com",
                "ads.x.y.com",
            ],
            &["notgoogle.com", "youtube.org", "www.ads.example.com", "adsexample.com"],
        );
        check(
            &["||test**test.com^"],
            &["testtest.com", "test123test.com", "a.testx.test.com"],
            &["test.com"],
        );
        check(&["||*^"], &["anything.example", "x"], &[]);
    }

    #[test]
    fn many_stars_end_in_time() {
        let pattern = format!("|{}b^", "*a".repeat(60));
        let set = AdGuardSet::from(compile(&[pattern]).unwrap().unwrap());
        assert!(!set.contains(&"a".repeat(250)));
    }
}
