//! Hosts files (hosts(5)).

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::Watched;
use crate::answer::canonical;

/// Where the system has its own.
pub(crate) const SYSTEM: &str = "/etc/hosts";

/// Larger files are not read: a hosts file is not a block list.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// Names in lower case and their addresses.
pub type Names = HashMap<String, Vec<IpAddr>>;

/// A hosts file. One that has gone keeps what was known, as in the reference.
pub(crate) fn watch(path: &str) -> Arc<Watched<Names>> {
    Watched::new(path, MAX_SIZE, None, parse)
}

/// `ADDRESS NAME…`, `#` starts a comment; lines that say something else are skipped.
#[must_use]
pub fn parse(text: &str) -> Names {
    let mut names = Names::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(ip)) = words.next().map(|word| {
            // A zone means nothing in an answer.
            word.split('%').next().unwrap_or_default().parse::<IpAddr>()
        }) else {
            continue;
        };
        for name in words {
            let list = names.entry(canonical(name)).or_default();
            if !list.contains(&ip) {
                list.push(ip);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_nonsense_are_skipped() {
        let text = "# x\n127.0.0.1 localhost lo # y\r\nnonsense here\n::1 LOCALHOST.\n\n300.1.1.1 a\nfe80::1%eth0 b\n";
        let names = parse(text);
        assert_eq!(names.len(), 3);
        assert_eq!(names["localhost"].len(), 2);
        assert_eq!(names["b"], ["fe80::1".parse::<IpAddr>().unwrap()]);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "(([0-9a-f.:%#]{0,12}|[a-z.]{1,5}|\\PC)[ \t\n\r]{0,2}){0,20}") {
            for name in parse(&text).into_keys() {
                proptest::prop_assert!(!name.contains(char::is_whitespace));
            }
        }
    }
}
