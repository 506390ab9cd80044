//! From a socket's inode to the program that has it open.

use std::{
    collections::VecDeque,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

/// Processes that are looked at first because they had a socket lately.
const RECENT: usize = 16;

/// Finds owners; remembers the last ones, since a browser opens hundreds of connections in a row.
#[derive(Default)]
pub(super) struct Owners {
    recent: Mutex<VecDeque<u32>>,
}

impl Owners {
    /// The executable of the process of user `uid` that holds the socket `inode`.
    pub(super) fn path(&self, inode: u64, uid: u32) -> Option<PathBuf> {
        let socket = format!("socket:[{inode}]");
        let recent: Vec<u32> = self.recent.lock().iter().copied().collect();
        let pid = recent.iter().copied().find(|pid| holds(*pid, uid, &socket)).or_else(|| {
            pids().filter(|pid| !recent.contains(pid)).find(|pid| holds(*pid, uid, &socket))
        })?;
        self.remember(pid);
        fs::read_link(format!("/proc/{pid}/exe")).ok()
    }

    fn remember(&self, pid: u32) {
        let mut recent = self.recent.lock();
        recent.retain(|known| *known != pid);
        recent.push_front(pid);
        recent.truncate(RECENT);
    }
}

fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether that process belongs to the user and has the socket among its descriptors.
fn holds(pid: u32, uid: u32, socket: &str) -> bool {
    if fs::metadata(format!("/proc/{pid}")).map_or(true, |meta| meta.uid() != uid) {
        return false;
    }
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
    descriptors
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(socket)))
}
