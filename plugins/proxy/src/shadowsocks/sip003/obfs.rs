//! `obfs-local` of simple-obfs: a stream that begins like a WebSocket or like TLS. It hides nothing from who looks twice.
//!
//! Source of the formats: simple-obfs `src/obfs_http.c` and `src/obfs_tls.c`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE};

use super::{
    super::{
        stream::{below, salt},
        wire::now,
    },
    codec::{Codec, CodecError, Step},
};

/// Longest head of an HTTP response.
const HEAD: usize = 8 * 1024;

/// Longest payload of a TLS record (RFC 8446 §5.1).
const RECORD: usize = 1 << 14;

/// Length of the header of a TLS record: type, version, length.
const RECORD_HEAD: usize = 5;

/// Types of TLS records.
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

/// The mode `http`: one request and one response with an upgrade, then bytes as they are.
#[derive(Debug)]
pub struct Http {
    host: String,
    asked: bool,
    answered: bool,
}

impl Http {
    /// With that name in the request, and the server's port.
    #[must_use]
    pub fn new(host: &str, port: u16) -> Self {
        let host = if port == 80 { host.to_owned() } else { format!("{host}:{port}") };
        Self { host, asked: false, answered: false }
    }
}

impl Codec for Http {
    fn wrap(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        if !self.asked {
            self.asked = true;
            let head = format!(
                "GET / HTTP/1.1\r\nHost: {}\r\nUser-Agent: curl/7.{}.{}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Key: {}\r\nContent-Length: {}\r\n\r\n",
                self.host,
                below(54),
                below(2),
                URL_SAFE.encode(salt(16)),
                payload.len(),
            );
            out.extend(head.as_bytes());
        }
        out.extend(payload);
    }

    fn unwrap(&mut self, bytes: &[u8]) -> Result<Step, CodecError> {
        match bytes.windows(4).position(|end| end == b"\r\n\r\n") {
            Some(at) => {
                self.answered = true;
                Ok(Step::Skip(at + 4))
            }
            None if bytes.len() >= HEAD => Err(CodecError("no end of the HTTP response")),
            None => Ok(Step::Need(bytes.len() + 1)),
        }
    }

    fn writes_plain(&self) -> bool {
        self.asked
    }

    fn reads_plain(&self) -> bool {
        self.answered
    }
}

/// The mode `tls`: a ClientHello with the first payload as session ticket, then records of application data.
#[derive(Debug)]
pub struct Tls {
    host: String,
    asked: bool,
    read: Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// The record that looks like a ServerHello.
    Hello,
    /// The one that changes the cipher.
    Change,
    /// The one that looks like the rest of the handshake: payload.
    First,
    /// Application data.
    Data,
    /// So much is left of a record with payload.
    Payload(usize),
}

impl Tls {
    /// With that name as the server's.
    #[must_use]
    pub fn new(host: &str) -> Self {
        // No name of a host is longer (RFC 1035 §2.3.4).
        let end = (0..=host.len().min(255)).rev().find(|at| host.is_char_boundary(*at));
        let host = host[..end.unwrap_or(0)].to_owned();
        Self { host, asked: false, read: Read::Hello }
    }

    fn hello(&self, payload: &[u8], out: &mut Vec<u8>) {
        const SUITES: [u16; 28] = [
            0xc02c, 0xc030, 0x009f, 0xcca9, 0xcca8, 0xccaa, 0xc02b, 0xc02f, 0x009e, 0xc024, 0xc028,
            0x006b, 0xc023, 0xc027, 0x0067, 0xc00a, 0xc014, 0x0039, 0xc009, 0xc013, 0x0033, 0x009d,
            0x009c, 0x003d, 0x003c, 0x0035, 0x002f, 0x00ff,
        ];
        /// Extensions behind the name of the server: point formats, groups, signature algorithms, encrypt-then-MAC,
        /// extended master secret.
        const REST: [&[u8]; 5] = [
            &[0, 11, 0, 4, 3, 1, 0, 2],
            &[0, 10, 0, 10, 0, 8, 0, 29, 0, 23, 0, 25, 0, 24],
            &[
                0, 13, 0, 32, 0, 30, 6, 1, 6, 2, 6, 3, 5, 1, 5, 2, 5, 3, 4, 1, 4, 2, 4, 3, 3, 1, 3,
                2, 3, 3, 2, 1, 2, 2, 2, 3,
            ],
            &[0, 22, 0, 0],
            &[0, 23, 0, 0],
        ];
        let host = self.host.as_bytes();
        let two = |n: usize| (n as u16).to_be_bytes();
        let mut extensions = Vec::with_capacity(128 + payload.len());
        extensions.extend([0, 35]);
        extensions.extend(two(payload.len()));
        extensions.extend(payload);
        extensions.extend([0, 0]);
        extensions.extend(two(host.len() + 5));
        extensions.extend(two(host.len() + 3));
        extensions.push(0);
        extensions.extend(two(host.len()));
        extensions.extend(host);
        REST.iter().for_each(|extension| extensions.extend(*extension));
        // Version, time and random, session, suites, compression, and the length of extensions.
        let body = 2 + 32 + 1 + 32 + 2 + 2 * SUITES.len() + 2 + 2 + extensions.len();
        out.extend([HANDSHAKE, 3, 1]);
        out.extend(two(4 + body));
        out.extend([1, 0]);
        out.extend(two(body));
        out.extend([3, 3]);
        out.extend((now() as u32).to_be_bytes());
        out.extend(salt(28));
        out.push(32);
        out.extend(salt(32));
        out.extend(two(2 * SUITES.len()));
        SUITES.iter().for_each(|suite| out.extend(suite.to_be_bytes()));
        out.extend([1, 0]);
        out.extend(two(extensions.len()));
        out.extend(extensions);
    }
}

impl Codec for Tls {
    fn wrap(&mut self, mut payload: &[u8], out: &mut Vec<u8>) {
        if !self.asked {
            self.asked = true;
            // Everything but the payload takes 217 bytes and the name.
            let first = payload.len().min(RECORD - 217 - self.host.len());
            let (first, rest) = payload.split_at(first);
            self.hello(first, out);
            payload = rest;
        }
        for part in payload.chunks(RECORD) {
            out.extend([APPLICATION_DATA, 3, 3]);
            out.extend((part.len() as u16).to_be_bytes());
            out.extend(part);
        }
    }

    fn unwrap(&mut self, bytes: &[u8]) -> Result<Step, CodecError> {
        if let Read::Payload(left) = self.read {
            let len = left.min(bytes.len());
            if len == 0 {
                return Ok(Step::Need(1));
            }
            self.read = if len == left { Read::Data } else { Read::Payload(left - len) };
            return Ok(Step::Payload(len));
        }
        let Some(head) = bytes.first_chunk::<RECORD_HEAD>() else {
            return Ok(Step::Need(RECORD_HEAD));
        };
        let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let (expected, whole, next) = match self.read {
            Read::Hello => (&[HANDSHAKE][..], true, Read::Change),
            Read::Change => (&[CHANGE_CIPHER_SPEC][..], true, Read::First),
            Read::First => (&[HANDSHAKE, APPLICATION_DATA][..], false, Read::Data),
            _ => (&[APPLICATION_DATA][..], false, Read::Data),
        };
        if !expected.contains(&head[0]) {
            return Err(CodecError("unexpected TLS record"));
        }
        if !whole {
            self.read = if len == 0 { next } else { Read::Payload(len) };
            return Ok(Step::Skip(RECORD_HEAD));
        }
        if len > RECORD {
            return Err(CodecError("TLS record too long"));
        }
        if bytes.len() < RECORD_HEAD + len {
            return Ok(Step::Need(RECORD_HEAD + len));
        }
        self.read = next;
        Ok(Step::Skip(RECORD_HEAD + len))
    }
}
