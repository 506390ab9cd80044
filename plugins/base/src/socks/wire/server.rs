//! Server side of the SOCKS4, 4a and 5 handshake: bytes in, request and reply bytes out.

use std::sync::Arc;

use thiserror::Error;

use super::addr::{AddrError, parse_addr};
use super::reply::{Code, reply};
use super::{
    AUTH_VERSION, CMD_ASSOCIATE, CMD_CONNECT, METHOD_NONE, METHOD_PASSWORD, METHOD_REFUSED,
    VERSION4, VERSION5,
};
use crate::host::{Host, MAX_NAME, Target};
use crate::users::Authenticate;

/// Most bytes that a client can send before its request is complete (greeting, credentials and request in one
/// go): an input buffer of this size never fills up without progress.
pub const MAX_HANDSHAKE: usize = (2 + 255) + (3 + 255 + 255) + (3 + super::MAX_ADDR);

/// What the client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A TCP connection to the target.
    Connect,
    /// A UDP relay; the target is where the client says it will send from, mostly all zeros.
    Associate,
}

/// A complete request. It still waits for its reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'i> {
    /// 4 or 5: the dialect of the reply.
    pub version: u8,
    /// What to do.
    pub command: Command,
    /// Where to.
    pub target: Target<'i>,
    /// Who asks: the authenticated user, or the name that a SOCKS4 client states where nobody is asked to log in.
    pub user: Option<Arc<str>>,
}

/// Why a handshake ends without a request. The reply that the protocol has for it waits in [`Handshake::pending`].
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ServerError {
    /// The first octet is neither 4 nor 5, or a later message has another version.
    #[error("unexpected socks version {0}")]
    Version(u8),
    /// The version octet of the password message is not 1.
    #[error("unexpected password negotiation version {0}")]
    AuthVersion(u8),
    /// Users are configured and the client does not offer to log in.
    #[error("client offers no user name and password")]
    NoAcceptableMethod,
    /// Unknown user or wrong password.
    #[error("authentication failed, username={0:?}")]
    Credentials(String),
    /// BIND or something unknown.
    #[error("unsupported command {0}")]
    Command(u8),
    /// An address type that RFC 1928 does not have.
    #[error("unknown address type {0}")]
    AddressType(u8),
    /// A host name that cannot be one.
    #[error("malformed host name")]
    Name,
    /// A SOCKS4 string of more than 255 bytes.
    #[error("string too long")]
    TooLong,
}

/// How far the handshake got.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'i> {
    /// Drop `used` bytes of the input, write what is pending, read more.
    More {
        /// Bytes that were consumed.
        used: usize,
    },
    /// The request is complete; `used` bytes are consumed, what follows them is payload. Pending bytes go out
    /// in front of the reply.
    Done {
        /// Bytes that were consumed.
        used: usize,
        /// The request.
        request: Request<'i>,
    },
}

#[derive(Debug, Clone, Copy)]
enum State {
    Start,
    Password,
    Request,
}

/// The state of one handshake. Reads messages from the front of a caller's buffer and keeps the short answers to
/// them until the caller writes: a client that sends all at once is answered with one write.
#[derive(Debug)]
pub struct Handshake {
    state: State,
    user: Option<Arc<str>>,
    out: [u8; 16],
    out_len: usize,
}

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}

/// What one message yields: bytes used and, at the end, the request. `None`: the message is not complete.
type Parsed<T> = Result<Option<(T, usize)>, ServerError>;

impl Handshake {
    /// A handshake that waits for the version octet.
    pub fn new() -> Self {
        Self { state: State::Start, user: None, out: [0; 16], out_len: 0 }
    }

    /// Bytes to write before more can come in (or, after an error, before closing).
    pub fn pending(&self) -> &[u8] {
        self.out.get(..self.out_len).unwrap_or_default()
    }

    /// Forgets the pending bytes: they are written.
    pub fn written(&mut self) {
        self.out_len = 0;
    }

    fn push(&mut self, bytes: &[u8]) {
        // Two negotiation answers and one reply with an IPv4 address: 14 bytes fit.
        if let Some(room) = self.out.get_mut(self.out_len..self.out_len + bytes.len()) {
            room.copy_from_slice(bytes);
            self.out_len += bytes.len();
        }
    }

    fn refuse(&mut self, version: u8, code: Code) {
        let mut bytes = [0u8; 10];
        let mut rest = &mut bytes[..];
        reply(version, code, &Target::UNSPECIFIED, &mut rest);
        let len = 10 - rest.len();
        self.push(bytes.get(..len).unwrap_or_default());
    }

    /// Takes as many messages as `input` holds. `users` is `None` where nobody has to log in.
    ///
    /// # Errors
    /// The handshake failed: write [`Handshake::pending`] and close.
    pub fn advance<'i, A: Authenticate>(
        &mut self,
        input: &'i [u8],
        users: Option<&A>,
    ) -> Result<Step<'i>, ServerError> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            let taken = match self.state {
                State::Start if rest.first() == Some(&VERSION4) => {
                    return Ok(match self.request4(rest, users)? {
                        Some((request, taken)) => Step::Done { used: used + taken, request },
                        None => Step::More { used },
                    });
                }
                State::Start => self.greeting(rest, users.is_some())?,
                State::Password => match users {
                    Some(users) => self.password(rest, users)?,
                    // Users were removed in the middle of the handshake: let the client go on.
                    None => self.password(rest, &Anyone)?,
                },
                State::Request => {
                    return Ok(match self.request5(rest)? {
                        Some((request, taken)) => Step::Done { used: used + taken, request },
                        None => Step::More { used },
                    });
                }
            };
            match taken {
                Some(((), taken)) => used += taken,
                None => return Ok(Step::More { used }),
            }
        }
    }

    fn greeting(&mut self, input: &[u8], login: bool) -> Parsed<()> {
        let Some((&version, rest)) = input.split_first() else { return Ok(None) };
        if version != VERSION5 {
            return Err(ServerError::Version(version));
        }
        let Some((&count, rest)) = rest.split_first() else { return Ok(None) };
        let Some(methods) = rest.get(..count.into()) else { return Ok(None) };
        if login && !methods.contains(&METHOD_PASSWORD) {
            self.push(&[VERSION5, METHOD_REFUSED]);
            return Err(ServerError::NoAcceptableMethod);
        }
        // Without users the answer is "none" even to a client that offers a password only, as the reference
        // does: its own client (and ours) sends such a greeting and takes that answer.
        self.push(&[VERSION5, if login { METHOD_PASSWORD } else { METHOD_NONE }]);
        self.state = if login { State::Password } else { State::Request };
        Ok(Some(((), 2 + methods.len())))
    }

    fn password<A: Authenticate>(&mut self, input: &[u8], users: &A) -> Parsed<()> {
        let Some((&version, rest)) = input.split_first() else { return Ok(None) };
        if version != AUTH_VERSION {
            return Err(ServerError::AuthVersion(version));
        }
        let Some((username, rest)) = short_string(rest) else { return Ok(None) };
        let Some((password, rest)) = short_string(rest) else { return Ok(None) };
        let Some(user) = users.authenticate(username, password) else {
            self.push(&[AUTH_VERSION, 1]);
            return Err(ServerError::Credentials(String::from_utf8_lossy(username).into_owned()));
        };
        self.push(&[AUTH_VERSION, 0]);
        self.user = (!user.is_empty()).then_some(user);
        self.state = State::Request;
        Ok(Some(((), input.len() - rest.len())))
    }

    fn request5<'i>(&mut self, input: &'i [u8]) -> Parsed<Request<'i>> {
        let Some((&version, rest)) = input.split_first() else { return Ok(None) };
        if version != VERSION5 {
            return Err(ServerError::Version(version));
        }
        let Some(([command, _reserved], rest)) = rest.split_first_chunk::<2>() else {
            return Ok(None);
        };
        let (target, len) = match parse_addr(rest) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(AddrError::Type(kind)) => {
                self.refuse(VERSION5, Code::AddressUnsupported);
                return Err(ServerError::AddressType(kind));
            }
            Err(AddrError::Name) => {
                self.refuse(VERSION5, Code::Failure);
                return Err(ServerError::Name);
            }
        };
        let command = match *command {
            CMD_CONNECT => Command::Connect,
            CMD_ASSOCIATE => Command::Associate,
            other => {
                self.refuse(VERSION5, Code::CommandUnsupported);
                return Err(ServerError::Command(other));
            }
        };
        Ok(Some((Request { version, command, target, user: self.user.take() }, 3 + len)))
    }

    fn request4<'i, A: Authenticate>(
        &mut self,
        input: &'i [u8],
        users: Option<&A>,
    ) -> Parsed<Request<'i>> {
        let Some(([version, command, p0, p1, a, b, c, d], rest)) = input.split_first_chunk::<8>()
        else {
            return Ok(None);
        };
        let port = u16::from_be_bytes([*p0, *p1]);
        let strings = strings4(rest, (*a, *b, *c) == (0, 0, 0) && *d != 0);
        let Some(Strings { username, name, rest }) =
            strings.inspect_err(|_| self.refuse(VERSION4, Code::Failure))?
        else {
            return Ok(None);
        };
        let host = match name {
            None => Host::V4([*a, *b, *c, *d].into()),
            Some(name) => match Host::parse_bytes(name) {
                Some(host) => host,
                None => {
                    self.refuse(VERSION4, Code::Failure);
                    return Err(ServerError::Name);
                }
            },
        };
        if *command != CMD_CONNECT {
            self.refuse(VERSION4, Code::CommandUnsupported);
            return Err(ServerError::Command(*command));
        }
        // SOCKS4 has no passwords: a user with an empty one may log in by name.
        let user = match users {
            Some(users) => match users.authenticate(username, b"") {
                Some(user) => Some(user),
                None => {
                    self.refuse(VERSION4, Code::NotAllowed);
                    return Err(ServerError::Credentials(
                        String::from_utf8_lossy(username).into_owned(),
                    ));
                }
            },
            None => {
                std::str::from_utf8(username).ok().filter(|name| !name.is_empty()).map(Arc::from)
            }
        };
        let request = Request {
            version: *version,
            command: Command::Connect,
            target: Target::new(host, port),
            user,
        };
        Ok(Some((request, input.len() - rest.len())))
    }
}

/// The strings at the end of a SOCKS4 request.
struct Strings<'i> {
    username: &'i [u8],
    /// The host name, SOCKS4a only.
    name: Option<&'i [u8]>,
    rest: &'i [u8],
}

fn strings4(input: &[u8], named: bool) -> Result<Option<Strings<'_>>, ServerError> {
    let Some((username, rest)) = zero_string(input)? else { return Ok(None) };
    if !named {
        return Ok(Some(Strings { username, name: None, rest }));
    }
    Ok(zero_string(rest)?.map(|(name, rest)| Strings { username, name: Some(name), rest }))
}

/// A string behind a length octet.
fn short_string(input: &[u8]) -> Option<Split<'_>> {
    let (&len, rest) = input.split_first()?;
    rest.split_at_checked(len.into())
}

/// A part of the input and what follows it.
type Split<'i> = (&'i [u8], &'i [u8]);

/// A string before a zero octet, at most 255 bytes long.
fn zero_string(input: &[u8]) -> Result<Option<Split<'_>>, ServerError> {
    match input.iter().take(MAX_NAME + 1).position(|&b| b == 0) {
        Some(at) => Ok(input
            .split_at_checked(at)
            .map(|(string, rest)| (string, rest.get(1..).unwrap_or_default()))),
        None if input.len() > MAX_NAME => Err(ServerError::TooLong),
        None => Ok(None),
    }
}

/// Lets everybody in, under no name.
struct Anyone;

impl Authenticate for Anyone {
    fn authenticate(&self, _: &[u8], _: &[u8]) -> Option<Arc<str>> {
        Some("".into())
    }
}
