//! The TLS ClientHello (RFC 8446 §4.1.2), read in place: what TLS and QUIC sniffers need of it.

use super::cursor::Cursor;

/// Handshake message type of a ClientHello.
pub(super) const CLIENT_HELLO: u8 = 1;
/// Length of the type and length fields before a handshake message.
pub(super) const HANDSHAKE_HEADER: usize = 4;

const SERVER_NAME: u16 = 0;
const SUPPORTED_GROUPS: u16 = 10;
const EC_POINT_FORMATS: u16 = 11;
const SIGNATURE_ALGORITHMS: u16 = 13;
const SUPPORTED_VERSIONS: u16 = 43;

/// A list of 16-bit values, as on the wire.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct List<'a>(&'a [u8]);

impl<'a> List<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        bytes.len().is_multiple_of(2).then_some(Self(bytes))
    }

    pub(super) fn iter(self) -> impl Iterator<Item = u16> + 'a {
        self.0.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair))
    }

    pub(super) fn len(self) -> usize {
        self.0.len() / 2
    }

    pub(super) fn is(self, values: &[u16]) -> bool {
        self.iter().eq(values.iter().copied())
    }
}

/// The parts of a ClientHello that are looked at.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hello<'a> {
    pub(super) version: u16,
    pub(super) cipher_suites: List<'a>,
    pub(super) server_name: Option<&'a [u8]>,
    pub(super) groups: List<'a>,
    pub(super) point_formats: &'a [u8],
    pub(super) signature_algorithms: List<'a>,
    pub(super) versions: List<'a>,
    extensions: &'a [u8],
}

impl<'a> Hello<'a> {
    /// Reads the body of a ClientHello message, the four bytes of its header excluded. `None` when it is malformed.
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor(body);
        let mut hello = Self { version: cursor.u16()?, ..Self::default() };
        cursor.take(32)?;
        cursor.prefixed8()?;
        hello.cipher_suites = List::new(cursor.prefixed16()?)?;
        cursor.prefixed8()?;
        if cursor.0.is_empty() {
            return Some(hello); // before TLS 1.3 the extensions may be absent
        }
        hello.extensions = cursor.prefixed16()?;
        if !cursor.0.is_empty() {
            return None;
        }
        let mut rest = Cursor(hello.extensions);
        while !rest.0.is_empty() {
            let kind = rest.u16()?;
            let data = rest.prefixed16()?;
            match kind {
                SERVER_NAME if hello.server_name.is_some() => return None,
                SERVER_NAME => hello.server_name = host_name(whole16(data)?)?,
                SUPPORTED_GROUPS => hello.groups = List::new(whole16(data)?)?,
                EC_POINT_FORMATS => hello.point_formats = whole8(data)?,
                SIGNATURE_ALGORITHMS => hello.signature_algorithms = List::new(whole16(data)?)?,
                SUPPORTED_VERSIONS => hello.versions = List::new(whole8(data)?)?,
                _ => {}
            }
        }
        Some(hello)
    }

    /// Whether the extension types are exactly these, in whatever order; `sorted` is ascending.
    pub(super) fn has_exactly_extensions(&self, sorted: &[u16]) -> bool {
        let mut seen = 0u64;
        let mut count = 0;
        let mut rest = Cursor(self.extensions);
        while let (Some(kind), Some(_)) = (rest.u16(), rest.prefixed16()) {
            let Ok(at) = sorted.binary_search(&kind) else {
                return false;
            };
            seen |= 1u64.checked_shl(at as u32).unwrap_or(0);
            count += 1;
        }
        count == sorted.len() && seen.count_ones() as usize == sorted.len()
    }
}

/// The host name in a server name list (RFC 6066 §3): `None` when malformed, `Some(None)` when there is none in it.
fn host_name(list: &[u8]) -> Option<Option<&[u8]>> {
    if list.is_empty() {
        return None;
    }
    let mut found = None;
    let mut cursor = Cursor(list);
    while !cursor.0.is_empty() {
        let kind = cursor.u8()?;
        let name = cursor.prefixed16()?;
        if name.is_empty() || (kind == 0 && found.is_some()) {
            return None;
        }
        if kind == 0 {
            found = Some(name);
        }
    }
    Some(found)
}

/// A vector with a two-byte length that fills the extension.
fn whole16(data: &[u8]) -> Option<&[u8]> {
    let mut cursor = Cursor(data);
    let vector = cursor.prefixed16()?;
    cursor.0.is_empty().then_some(vector)
}

/// A vector with a one-byte length that fills the extension.
fn whole8(data: &[u8]) -> Option<&[u8]> {
    let mut cursor = Cursor(data);
    let vector = cursor.prefixed8()?;
    cursor.0.is_empty().then_some(vector)
}

/// A server name as text; a name that is no text is as good as none.
pub(super) fn domain(name: Option<&[u8]>) -> Option<Box<str>> {
    let name = std::str::from_utf8(name?).ok()?;
    (!name.is_empty()).then(|| name.into())
}
