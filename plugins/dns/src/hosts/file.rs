//! One hosts file, read again when it has changed.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// A file is looked at again at most this often.
const MAX_AGE: Duration = Duration::from_secs(5);

/// Larger files are not read: a hosts file is not a block list.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// A hosts file and what it said when it was read last.
pub(super) struct HostsFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    names: Arc<HashMap<String, Vec<IpAddr>>>,
    looked: Option<Instant>,
    version: Option<(SystemTime, u64)>,
}

impl HostsFile {
    /// A file; it need not exist yet. Nothing is read before [`HostsFile::refresh`].
    pub(super) fn new(path: &str) -> Self {
        Self { path: path.into(), state: Mutex::default() }
    }

    /// Whether it is time to look at the file again. True for one caller only, who has to do it.
    pub(super) fn stale(&self) -> bool {
        let mut state = self.state.lock();
        let stale = state.looked.is_none_or(|at| at.elapsed() >= MAX_AGE);
        if stale {
            state.looked = Some(Instant::now());
        }
        stale
    }

    /// Reads the file if it has changed. Blocks; lookups meanwhile see what was known. A file that cannot be read keeps
    /// what was known.
    pub(super) fn refresh(&self) {
        let Ok(meta) = std::fs::metadata(&self.path) else { return };
        let version = meta.modified().ok().map(|modified| (modified, meta.len()));
        if version == self.state.lock().version || meta.len() > MAX_SIZE {
            return;
        }
        if let Ok(bytes) = std::fs::read(&self.path) {
            let names = Arc::new(parse(&String::from_utf8_lossy(&bytes)));
            let mut state = self.state.lock();
            (state.names, state.version) = (names, version);
        }
    }

    /// The addresses of a name in lower case.
    pub(super) fn lookup(&self, name: &str) -> Option<Vec<IpAddr>> {
        let names = self.state.lock().names.clone();
        names.get(name).cloned()
    }
}

/// `ADDRESS NAME…`, `#` starts a comment; lines that say something else are skipped (hosts(5)).
fn parse(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(ip)) = words.next().map(|word| {
            // A zone means nothing in an answer.
            word.split('%').next().unwrap_or_default().parse::<IpAddr>()
        }) else {
            continue;
        };
        for name in words {
            let list = names.entry(super::canonical(name)).or_default();
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
        let names =
            parse("# x\n127.0.0.1 localhost lo # y\nnonsense here\n::1 LOCALHOST\n\n300.1.1.1 a\n");
        assert_eq!(names.len(), 2);
        assert_eq!(names["localhost"].len(), 2);
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
