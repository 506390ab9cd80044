//! A SOCKS client for tests: versions 4, 4a and 5 (RFC 1928, RFC 1929), which shows replies as
//! they are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Login, Target};

/// Dialect of SOCKS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4 addresses only.
    V4,
    /// Names too.
    V4a,
    /// RFC 1928.
    V5,
}

/// A SOCKS server and how to log in to it.
#[derive(Clone, Debug)]
pub struct Socks {
    /// The server.
    pub server: SocketAddr,
    /// The dialect.
    pub version: Version,
    /// Credentials; with versions 4 and 4a only the user name is sent.
    pub login: Option<Login>,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub enum SocksError {
    /// The connection to the server failed or ended.
    Io(io::Error),
    /// The server wants another authentication method; 255 means "none of yours".
    Method(u8),
    /// The server refused the credentials, with this status.
    Login(u8),
    /// The server refused the request with this code (version 5: RFC 1928 §6; version 4: 91…).
    Refused(u8),
    /// The server said something that is not SOCKS.
    Protocol(&'static str),
}

impl std::fmt::Display for SocksError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SocksError::Io(e) => write!(f, "SOCKS: {e}"),
            SocksError::Method(m) => write!(f, "SOCKS server chose method {m}"),
            SocksError::Login(s) => write!(f, "SOCKS login refused with {s}"),
            SocksError::Refused(c) => write!(f, "SOCKS request refused with {c}"),
            SocksError::Protocol(what) => write!(f, "not SOCKS: {what}"),
        }
    }
}

impl std::error::Error for SocksError {}

impl From<io::Error> for SocksError {
    fn from(e: io::Error) -> Self {
        SocksError::Io(e)
    }
}

impl Socks {
    /// Version 5 without credentials.
    pub fn v5(server: SocketAddr) -> Self {
        Self { server, version: Version::V5, login: None }
    }

    /// The same server with another dialect.
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// The same server with credentials.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some(Login::new(user, password));
        self
    }

    /// A stream to `target` through the server.
    ///
    /// # Errors
    /// [`SocksError`]; every step has ten seconds.
    pub async fn connect(&self, target: &Target) -> Result<TcpStream, SocksError> {
        let work = async {
            let mut stream = TcpStream::connect(self.server).await?;
            stream.set_nodelay(true)?;
            match self.version {
                Version::V5 => {
                    self.request5(&mut stream, 1, target).await?;
                }
                Version::V4 | Version::V4a => self.request4(&mut stream, target).await?,
            }
            Ok(stream)
        };
        deadline(work).await
    }

    /// Greets, logs in, sends a version 5 request and returns the bound address of the answer.
    pub(super) async fn request5(
        &self,
        stream: &mut TcpStream,
        command: u8,
        target: &Target,
    ) -> Result<SocketAddr, SocksError> {
        let wanted = if self.login.is_some() { 2 } else { 0 };
        stream.write_all(&[5, 1, wanted]).await?;
        let mut chosen = [0; 2];
        stream.read_exact(&mut chosen).await?;
        if chosen[0] != 5 {
            return Err(SocksError::Protocol("version of the method answer"));
        }
        if chosen[1] != wanted {
            return Err(SocksError::Method(chosen[1]));
        }
        if let Some(login) = &self.login {
            let mut message = vec![1];
            push_short(&mut message, login.user.as_bytes());
            push_short(&mut message, login.password.as_bytes());
            stream.write_all(&message).await?;
            let mut status = [0; 2];
            stream.read_exact(&mut status).await?;
            if status[1] != 0 {
                return Err(SocksError::Login(status[1]));
            }
        }
        let mut request = vec![5, command, 0];
        push_address(&mut request, target);
        stream.write_all(&request).await?;
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        if head[0] != 5 {
            return Err(SocksError::Protocol("version of the answer"));
        }
        let ip: IpAddr = match head[3] {
            1 => {
                let mut ip = [0; 4];
                stream.read_exact(&mut ip).await?;
                Ipv4Addr::from(ip).into()
            }
            4 => {
                let mut ip = [0; 16];
                stream.read_exact(&mut ip).await?;
                Ipv6Addr::from(ip).into()
            }
            _ => return Err(SocksError::Protocol("address type of the answer")),
        };
        let port = stream.read_u16().await?;
        if head[1] != 0 {
            return Err(SocksError::Refused(head[1]));
        }
        Ok(SocketAddr::new(ip, port))
    }

    async fn request4(&self, stream: &mut TcpStream, target: &Target) -> Result<(), SocksError> {
        let mut request = vec![4, 1];
        request.extend(target.port().to_be_bytes());
        let name = match target {
            Target::Addr(SocketAddr::V4(addr)) => {
                request.extend(addr.ip().octets());
                None
            }
            Target::Name(name, _) if self.version == Version::V4a => {
                // 0.0.0.x with x ≠ 0 announces a name behind the user id.
                request.extend([0, 0, 0, 1]);
                Some(name)
            }
            _ => return Err(SocksError::Protocol("version 4 cannot say this target")),
        };
        request.extend(self.login.iter().flat_map(|login| login.user.bytes()));
        request.push(0);
        if let Some(name) = name {
            request.extend(name.bytes());
            request.push(0);
        }
        stream.write_all(&request).await?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).await?;
        match answer {
            [0, 90, ..] => Ok(()),
            [0, code, ..] => Err(SocksError::Refused(code)),
            _ => Err(SocksError::Protocol("version of the answer")),
        }
    }
}

/// Ten seconds for a whole exchange with a proxy.
pub(super) async fn deadline<T>(
    work: impl Future<Output = Result<T, SocksError>>,
) -> Result<T, SocksError> {
    tokio::time::timeout(Duration::from_secs(10), work).await.unwrap_or_else(|_| {
        Err(SocksError::Io(io::Error::new(io::ErrorKind::TimedOut, "no answer in ten seconds")))
    })
}

fn push_short(message: &mut Vec<u8>, bytes: &[u8]) {
    message.push(bytes.len() as u8);
    message.extend(bytes);
}

/// Appends type, address and port as version 5 writes them.
pub(super) fn push_address(message: &mut Vec<u8>, target: &Target) {
    match target {
        Target::Addr(SocketAddr::V4(addr)) => {
            message.push(1);
            message.extend(addr.ip().octets());
        }
        Target::Addr(SocketAddr::V6(addr)) => {
            message.push(4);
            message.extend(addr.ip().octets());
        }
        Target::Name(name, _) => {
            message.push(3);
            push_short(message, name.as_bytes());
        }
    }
    message.extend(target.port().to_be_bytes());
}
