//! The head of a request at the server: who asks, and where to.

use std::sync::Arc;

use crosspoint_kernel::{
    addr::Target,
    flow::{BoxStream, Prefixed},
};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{
    cipher::{BLOCK, Key, TAG},
    keys::ServerKeys,
    method::{Family, MasterKey},
    replay::Salts,
    stream::Shadow,
    wire::{self, Opener, WireError},
};
use crate::address::{self, AddressError};

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcceptError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<super::cipher::Forged> for AcceptError {
    fn from(error: super::cipher::Forged) -> Self {
        Self::Wire(error.into())
    }
}

/// A request that is good.
pub(super) struct Request {
    pub(super) user: Option<Arc<str>>,
    pub(super) target: Target,
    pub(super) stream: BoxStream,
}

/// Bytes of a head that is being read: the socket is asked for what is needed and no more than a buffer.
struct Head {
    bytes: Vec<u8>,
}

impl Head {
    async fn want(&mut self, stream: &mut BoxStream, len: usize) -> std::io::Result<()> {
        while self.bytes.len() < len {
            self.bytes.reserve(len.max(2048) - self.bytes.len());
            if stream.read_buf(&mut self.bytes).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// Reads the head of a request.
pub(super) async fn accept(
    stream: BoxStream,
    keys: &ServerKeys,
    salts: &Salts,
) -> Result<Request, AcceptError> {
    match keys.method.family {
        Family::None | Family::Stream(_) => accept_plain(stream).await,
        Family::Aead(_) => accept_aead(stream, keys, salts).await,
        Family::Aead2022(_) => accept_2022(stream, keys, salts).await,
    }
}

async fn accept_plain(mut stream: BoxStream) -> Result<Request, AcceptError> {
    let mut head = Head { bytes: Vec::new() };
    let (target, len) = loop {
        match address::parse(&head.bytes) {
            Ok(found) => break found,
            Err(AddressError::Incomplete(len)) => head.want(&mut stream, len).await?,
            Err(error) => return Err(WireError::from(error).into()),
        }
    };
    head.bytes.drain(..len);
    if !head.bytes.is_empty() {
        stream = Box::new(Prefixed::new(head.bytes.into(), stream));
    }
    Ok(Request { user: None, target, stream })
}

async fn accept_aead(
    mut stream: BoxStream,
    keys: &ServerKeys,
    salts: &Salts,
) -> Result<Request, AcceptError> {
    let salt_len = keys.method.key_len();
    let first = 2 + TAG;
    let mut head = Head { bytes: Vec::new() };
    head.want(&mut stream, salt_len + first).await?;
    let (salt, rest) = head.bytes.split_at(salt_len);
    // The first message tells whose key it is. All keys are tried, so that time tells nothing about the one that fits.
    let mut found: Option<(&MasterKey, Key, Option<&Arc<str>>)> = None;
    let mut plain = [0; 2];
    for (key, user) in keys.candidates() {
        let session = key.session(salt)?;
        let opened = session.open_into(&[0; 24], &rest[..first], &mut plain);
        if opened.is_ok() && found.is_none() {
            found = Some((key, session, user));
        }
    }
    let (key, session, user) = found.ok_or(WireError::from(super::cipher::Forged))?;
    if !salts.insert(salt) {
        return Err(WireError::Replay.into());
    }
    let opener = Opener::new(session, keys.method.family);
    let mut shadow = Shadow::server(stream, key.clone(), opener, rest, Vec::new());
    let target = read_address(&mut shadow).await?;
    Ok(Request { user: user.cloned(), target, stream: Box::new(shadow) })
}

/// Reads a destination and not a byte more.
async fn read_address(from: &mut (impl AsyncRead + Unpin)) -> Result<Target, AcceptError> {
    let mut bytes = Vec::new();
    loop {
        match address::parse(&bytes) {
            Ok((target, _)) => return Ok(target),
            Err(AddressError::Incomplete(len)) => {
                let have = bytes.len();
                bytes.resize(len, 0);
                from.read_exact(&mut bytes[have..]).await?;
            }
            Err(error) => return Err(WireError::from(error).into()),
        }
    }
}

async fn accept_2022(
    mut stream: BoxStream,
    keys: &ServerKeys,
    salts: &Salts,
) -> Result<Request, AcceptError> {
    let salt_len = keys.method.key_len();
    let identity = if keys.is_shared() { 0 } else { BLOCK };
    let fixed = salt_len + identity;
    let mut head = Head { bytes: Vec::new() };
    head.want(&mut stream, fixed + wire::REQUEST + TAG).await?;
    let salt = head.bytes[..salt_len].to_vec();
    let (key, user) = if identity == 0 {
        (&keys.own, None)
    } else {
        let mut block = [0; BLOCK];
        block.copy_from_slice(&head.bytes[salt_len..fixed]);
        keys.own.identity_block(&salt)?.decrypt(&mut block);
        let user = keys.identified(&block).ok_or(WireError::User)?;
        (&user.key, Some(user.name.clone()))
    };
    let mut opener = Opener::new(key.session(&salt)?, keys.method.family);
    let header = opener.open(&mut head.bytes[fixed..fixed + wire::REQUEST + TAG])?;
    let len = wire::parse_request(header)?;
    if !salts.insert(&salt) {
        return Err(WireError::Replay.into());
    }
    let at = fixed + wire::REQUEST + TAG;
    let end = at + len + TAG;
    head.want(&mut stream, end).await?;
    let plain = opener.open(&mut head.bytes[at..end])?;
    let (target, payload) = wire::parse_request_rest(plain)?;
    let first = plain[payload..].to_vec();
    let shadow = Shadow::server(stream, key.clone(), opener, &head.bytes[end..], salt);
    let stream: BoxStream = if first.is_empty() {
        Box::new(shadow)
    } else {
        Box::new(Prefixed::new(first.into(), Box::new(shadow)))
    };
    Ok(Request { user, target, stream })
}
