//! Names of users.

use std::{collections::HashMap, fs, time::SystemTime};

use parking_lot::Mutex;

const PASSWD: &str = "/etc/passwd";

type Names = HashMap<u32, Box<str>>;

/// `/etc/passwd`, read again when it has changed.
#[derive(Default)]
pub(super) struct Users {
    /// When the file was changed, and what it said then.
    known: Mutex<Option<(SystemTime, Names)>>,
}

impl Users {
    /// The name of the user with that number, if it has one in `/etc/passwd`.
    pub(super) fn name(&self, uid: u32) -> Option<Box<str>> {
        let changed = fs::metadata(PASSWD).and_then(|meta| meta.modified()).ok()?;
        let mut known = self.known.lock();
        if known.as_ref().is_none_or(|(when, _)| *when != changed) {
            *known = Some((changed, parse(&fs::read_to_string(PASSWD).ok()?)));
        }
        known.as_ref()?.1.get(&uid).cloned()
    }
}

/// Lines of `name:password:uid:…`; the first name of a number wins.
fn parse(text: &str) -> Names {
    let mut names = Names::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.split(':');
        if let (Some(name), Some(uid)) = (fields.next(), fields.nth(1))
            && let Ok(uid) = uid.parse()
            && !name.is_empty()
        {
            names.entry(uid).or_insert_with(|| name.into());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_name_wins() {
        let users = parse(
            "root:x:0:0:root:/root:/bin/sh\n#no:x:5:\ntoor:x:0:0\nbad\n:x:7:\nu:x:1000:1000::/:\n",
        );
        assert_eq!(users.get(&0).map(|n| &**n), Some("root"));
        assert_eq!(users.get(&1000).map(|n| &**n), Some("u"));
        assert_eq!(users.len(), 2);
    }
}
