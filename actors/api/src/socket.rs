//! The control socket in the file system.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, Mode},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

/// Environment variable that names the control socket.
pub const CONTROL_ENV: &str = "CROSSPOINT_CONTROL";

/// Name of the socket in its directory.
const FILE_NAME: &str = "crosspoint.sock";

/// Where the daemon puts its socket unless told otherwise: `$XDG_RUNTIME_DIR/crosspoint.sock`, else
/// `/run/crosspoint.sock`.
pub fn default_path() -> PathBuf {
    candidates().into_iter().next().unwrap_or_else(system_path)
}

/// Where a client looks: the daemon of this login first, then that of the system, which has no `XDG_RUNTIME_DIR`, and
/// that of our systemd unit, which may not write to `/run` itself.
pub fn candidates() -> Vec<PathBuf> {
    let login = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let login = login.filter(|dir| dir.is_absolute()).map(|dir| dir.join(FILE_NAME));
    let unit = Path::new("/run/crosspoint").join(FILE_NAME);
    login.into_iter().chain([system_path(), unit]).collect()
}

fn system_path() -> PathBuf {
    Path::new("/run").join(FILE_NAME)
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error("control socket {0}: another daemon listens there")]
    InUse(PathBuf),
    /// Something that is no socket has that name.
    #[error("control socket {0}: there is a file of that name that is no socket")]
    NotASocket(PathBuf),
    /// The system said no.
    #[error("control socket {path}: {what}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// The answer.
        source: io::Error,
    },
}

/// A socket that listens, together with its name in the file system, which goes when this is dropped.
#[derive(Debug)]
pub struct Bound {
    path: PathBuf,
    inode: (u64, u64),
    listener: tokio::net::UnixListener,
}

impl Bound {
    /// Binds `path` so that only its owner can connect. A socket that no process listens on any more is replaced, a
    /// live one never. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn new(path: &Path) -> Result<Self, SocketError> {
        let fail =
            |what| move |source: io::Error| SocketError::Io { path: path.to_owned(), what, source };
        let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        if !parent.exists() {
            let mut builder = fs::DirBuilder::new();
            builder
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(fail("create its directory"))?;
        }
        // Two daemons that start at once must not both take the old socket for dead and each remove
        // the other's. The lock goes with the descriptor.
        let _lock = lock(parent).map_err(fail("lock its directory"))?;
        clear(path)?;
        let listener = bind(path).map_err(fail("bind"))?;
        let meta = fs::symlink_metadata(path).map_err(fail("look at it"))?;
        listener.set_nonblocking(true).map_err(fail("set up"))?;
        let listener = tokio::net::UnixListener::from_std(listener).map_err(fail("set up"))?;
        Ok(Self { path: path.to_owned(), inode: (meta.dev(), meta.ino()), listener })
    }

    /// Takes the next client.
    ///
    /// # Errors
    /// Those of `accept`.
    pub async fn accept(&self) -> io::Result<tokio::net::UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Whether the name still leads to this socket.
    pub fn is_reachable(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.inode)
    }
}

impl Bound {
    /// Takes the name away, if it still leads here. Nobody new can connect then.
    pub fn unlink(&self) {
        if self.is_reachable() {
            // It may be gone in this instant; a name that is left behind is found to be dead next time.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        self.unlink();
    }
}

/// Holds the directory's lock. Someone who keeps it for long is no reason not to start.
fn lock(dir: &Path) -> io::Result<OwnedFd> {
    let fd = OwnedFd::from(fs::File::open(dir)?);
    for _ in 0..20 {
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(25)),
            // File systems without locks: the race stays open there.
            _ => break,
        }
    }
    Ok(fd)
}

/// Removes a dead socket.
fn clear(path: &Path) -> Result<(), SocketError> {
    let fail = |what, source| SocketError::Io { path: path.to_owned(), what, source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail("look at it", error)),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| fail("remove the dead one", error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full backlog (EAGAIN) or a socket of another user: somebody is there.
        Err(_) => Err(SocketError::InUse(path.to_owned())),
    }
}

/// The file gets its mode from the socket's own inode at `bind` (unix(7), Linux), so that it is never wider than 0600,
/// whatever the umask.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 64)?;
    // The umask may have taken bits away, never added any.
    rustix::fs::chmod(path, Mode::from_raw_mode(0o600))?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn only_the_owner_may_connect_and_the_name_goes_with_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c.sock");
        let bound = Bound::new(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert!(bound.is_reachable());
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let first = Bound::new(&path).unwrap();
        assert!(matches!(Bound::new(&path), Err(SocketError::InUse(_))));
        assert!(first.is_reachable());
        // A successor's socket is not removed by the first one's end.
        fs::remove_file(&path).unwrap();
        let second = Bound::new(&path).unwrap();
        drop(first);
        assert!(second.is_reachable());
    }

    #[tokio::test]
    async fn a_file_of_that_name_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Bound::new(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(Bound::new(&long), Err(SocketError::Io { .. })));
    }
}
