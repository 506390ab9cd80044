//! Sockets in another network name space.

use std::{fs::File, io, os::fd::AsFd, path::PathBuf};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Where `ip netns` keeps names.
const NAMED: &str = "/var/run/netns";

/// Runs `open` inside the name space `name` (a name under `/var/run/netns`, or an absolute path), or here
/// when there is none. A socket belongs to the name space it was made in: all later calls on it may run
/// anywhere, so `open` should make the socket and nothing else.
///
/// The name space is entered by a thread that ends afterwards: a worker thread that could not get
/// back would make sockets in the wrong place for ever.
///
/// # Errors
/// Those of `open`; no such name space, or no permission to enter it.
pub(crate) fn within<T: Send>(
    name: Option<&str>,
    open: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let Some(name) = name else { return open() };
    let work = || {
        let path = if name.starts_with('/') {
            PathBuf::from(name)
        } else {
            PathBuf::from(NAMED).join(name)
        };
        let file = File::open(path).map_err(|e| context("get netns ", name, &e))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| context("set netns to ", name, &e.into()))?;
        open()
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("network name space thread panicked")))
    })
}

fn context(what: &str, name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}{name}: {}", super::os_text(error)))
}
