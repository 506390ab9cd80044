//! Client side of the SOCKS4, 4a and 5 handshake.

use std::net::{IpAddr, Ipv4Addr};

use bytes::BufMut;
use thiserror::Error;

use super::addr::{AddrError, emit_addr, parse_addr};
use super::reply::{Code, GRANTED4};
use super::{
    AUTH_VERSION, CMD_ASSOCIATE, CMD_CONNECT, Command, METHOD_NONE, METHOD_PASSWORD, VERSION4,
    VERSION5,
};
use crate::host::{Host, MAX_NAME, Target};

/// Which dialect to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// IPv4 addresses only.
    V4,
    /// SOCKS4 with host names; other addresses travel as text.
    V4a,
    /// RFC 1928.
    V5,
}

/// Why the server did not do as asked.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ClientError {
    /// Not a SOCKS server, or one of another version.
    #[error("unexpected version {0} in a socks answer")]
    Version(u8),
    /// The server wants another method to log in (255: it wants none of ours).
    #[error("socks server asks for authentication method {0}")]
    Method(u8),
    /// The server did not let us in.
    #[error("incorrect user name or password")]
    Credentials,
    /// The server refused the request.
    #[error("request rejected: {}", .0.text())]
    Rejected(Code),
    /// A reply with a malformed bound address.
    #[error("malformed address in a socks reply")]
    Address,
    /// The request cannot be written in this dialect.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// The address that the server bound: for UDP, where to send datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The address, or a name from unusual servers.
    pub host: Result<IpAddr, Box<str>>,
    /// Port in host byte order.
    pub port: u16,
}

impl From<Target<'_>> for Bound {
    fn from(target: Target<'_>) -> Self {
        let host = match target.host {
            Host::Name(name) => Err(name.into()),
            Host::V4(addr) => Ok(addr.into()),
            Host::V6(addr) => Ok(addr.into()),
        };
        Self { host, port: target.port }
    }
}

/// How far the handshake got.
#[derive(Debug, PartialEq, Eq)]
pub enum ClientStep {
    /// Drop `used` bytes of the input, write what was put out, read more.
    More {
        /// Bytes that were consumed.
        used: usize,
    },
    /// Granted. What follows the `used` bytes is payload.
    Done {
        /// Bytes that were consumed.
        used: usize,
        /// What the server bound.
        bound: Bound,
    },
}

#[derive(Debug, Clone, Copy)]
enum State {
    Method,
    Password,
    Reply5,
    Reply4,
}

/// One handshake as a client.
///
/// The messages are sent one after another and not at once: servers exist that lose what comes too early.
#[derive(Debug)]
pub struct ClientHandshake<'a> {
    state: State,
    command: Command,
    target: Target<'a>,
    username: &'a str,
    password: &'a str,
}

impl<'a> ClientHandshake<'a> {
    /// Starts a handshake and writes the first message to `out`. An empty `username` means not to log in.
    ///
    /// # Errors
    /// The dialect cannot carry the request: UDP or a name or IPv6 over plain SOCKS4, strings over 255 bytes.
    pub fn start(
        version: Version,
        command: Command,
        target: Target<'a>,
        (username, password): (&'a str, &'a str),
        out: &mut impl BufMut,
    ) -> Result<Self, ClientError> {
        if username.len() > MAX_NAME || password.len() > MAX_NAME {
            return Err(ClientError::Unsupported("user name or password longer than 255 bytes"));
        }
        // Where datagrams will come from is not known yet: all zeros (RFC 1928 §4).
        let target = if command == Command::Associate { Target::UNSPECIFIED } else { target };
        let state = match version {
            Version::V5 => {
                out.put_slice(&[
                    VERSION5,
                    1,
                    if username.is_empty() { METHOD_NONE } else { METHOD_PASSWORD },
                ]);
                State::Method
            }
            Version::V4 | Version::V4a => {
                emit_request4(version, command, &target, username, out)?;
                State::Reply4
            }
        };
        Ok(Self { state, command, target, username, password })
    }

    /// Takes as many answers as `input` holds and writes what is to be said next to `out`.
    ///
    /// # Errors
    /// The handshake failed: close.
    pub fn advance(
        &mut self,
        input: &[u8],
        out: &mut impl BufMut,
    ) -> Result<ClientStep, ClientError> {
        let mut used = 0;
        loop {
            let rest = input.get(used..).unwrap_or_default();
            let more = Ok(ClientStep::More { used });
            match self.state {
                State::Method => {
                    let Some(&[version, method]) = rest.get(..2) else { return more };
                    expect_version(version, VERSION5)?;
                    used += 2;
                    match method {
                        METHOD_NONE => self.request5(out),
                        METHOD_PASSWORD if !self.username.is_empty() => {
                            out.put_u8(AUTH_VERSION);
                            put_short(self.username, out);
                            put_short(self.password, out);
                            self.state = State::Password;
                        }
                        other => return Err(ClientError::Method(other)),
                    }
                }
                State::Password => {
                    let Some(&[version, status]) = rest.get(..2) else { return more };
                    expect_version(version, AUTH_VERSION)?;
                    used += 2;
                    if status != 0 {
                        return Err(ClientError::Credentials);
                    }
                    self.request5(out);
                }
                State::Reply5 => {
                    let Some(&[version, code, _reserved]) = rest.get(..3) else {
                        if let Some(&version) = rest.first() {
                            expect_version(version, VERSION5)?;
                        }
                        return more;
                    };
                    expect_version(version, VERSION5)?;
                    // Some servers cut a refusal short: its code is enough.
                    match Code::from_wire(code) {
                        Code::Succeeded => {}
                        code => return Err(ClientError::Rejected(code)),
                    }
                    return match parse_addr(rest.get(3..).unwrap_or_default()) {
                        Ok(Some((target, len))) => {
                            Ok(ClientStep::Done { used: used + 3 + len, bound: target.into() })
                        }
                        Ok(None) => more,
                        Err(AddrError::Type(_)) => Err(ClientError::Address),
                        // An empty name instead of an address: fine where nobody needs it.
                        Err(AddrError::Name) if self.command == Command::Connect => {
                            let len =
                                3 + 2 + usize::from(rest.get(4).copied().unwrap_or_default()) + 2;
                            if rest.len() < len {
                                return more;
                            }
                            Ok(ClientStep::Done {
                                used: used + len,
                                bound: Target::UNSPECIFIED.into(),
                            })
                        }
                        Err(AddrError::Name) => Err(ClientError::Address),
                    };
                }
                State::Reply4 => {
                    let Some(&[version, code, p0, p1, a, b, c, d]) = rest.get(..8) else {
                        return more;
                    };
                    expect_version(version, 0)?;
                    if code != GRANTED4 {
                        return Err(ClientError::Rejected(Code::Failure));
                    }
                    let bound = Bound {
                        host: Ok(IpAddr::from([a, b, c, d])),
                        port: u16::from_be_bytes([p0, p1]),
                    };
                    return Ok(ClientStep::Done { used: used + 8, bound });
                }
            }
        }
    }

    fn request5(&mut self, out: &mut impl BufMut) {
        out.put_slice(&[
            VERSION5,
            if self.command == Command::Connect { CMD_CONNECT } else { CMD_ASSOCIATE },
            0,
        ]);
        emit_addr(&self.target, out);
        self.state = State::Reply5;
    }
}

fn expect_version(got: u8, expected: u8) -> Result<(), ClientError> {
    if got == expected { Ok(()) } else { Err(ClientError::Version(got)) }
}

fn put_short(text: &str, out: &mut impl BufMut) {
    // `start` has checked the length.
    out.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.put_slice(text.as_bytes());
}

fn emit_request4(
    version: Version,
    command: Command,
    target: &Target<'_>,
    username: &str,
    out: &mut impl BufMut,
) -> Result<(), ClientError> {
    if command != Command::Connect {
        return Err(ClientError::Unsupported("SOCKS4 has no UDP"));
    }
    if username.contains('\0') {
        return Err(ClientError::Unsupported("user name with a zero octet"));
    }
    let (addr, name) = match target.host {
        Host::V4(addr) => (addr, None),
        // 0.0.0.x announces a name (SOCKS4a).
        _ if version == Version::V4a => (Ipv4Addr::new(0, 0, 0, 1), Some(target.host)),
        Host::V6(_) => return Err(ClientError::Unsupported("SOCKS4 has no IPv6 addresses")),
        Host::Name(_) => return Err(ClientError::Unsupported("SOCKS4 has no host names")),
    };
    out.put_slice(&[VERSION4, CMD_CONNECT]);
    out.put_u16(target.port);
    out.put_slice(&addr.octets());
    out.put_slice(username.as_bytes());
    out.put_u8(0);
    match name {
        Some(Host::Name(name)) => out.put_slice(name.as_bytes()),
        Some(host) => out.put_slice(host.to_string().as_bytes()),
        None => return Ok(()),
    }
    out.put_u8(0);
    Ok(())
}
