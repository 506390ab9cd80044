//! The handshake: the server shows its public key, the client proves that it has the private key of its own by a
//! sealed message, the server answers with one (tailscale `derp/derpserver`, `derp/derp_client.go`).

use std::{future::poll_fn, io, time::Duration};

use crosspoint_kernel::{flow::BoxStream, serve::handshake};
use crosspoint_layers::input::Input;
use tokio::io::AsyncWriteExt as _;

use crate::{
    frame::{self, FrameError, FromServer, HEAD_LEN, MAGIC, kind},
    info::{ClientInfo, ServerInfo, VERSION},
    key::{KEY_LEN, Key, PrivateKey},
    limit::Rate,
    naclbox::{self, Sealer},
};

/// How long each side waits for the other.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Longest message of a stranger about itself. Those of nodes have 200 bytes.
const MAX_INFO: usize = 16 << 10;

/// Longest greeting of a server.
const MAX_GREETING: usize = 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side speaks otherwise.
    #[error("handshake: {0}")]
    Frame(#[from] FrameError),
    /// The other side does not have the private key to the public one that it shows, or a message was changed.
    #[error("cannot open the message of {0:?}")]
    Sealed(Key),
    /// What was sealed is not understood.
    #[error("message of {0:?} is not understood")]
    Message(Key),
    /// A server begins otherwise.
    #[error("no DERP server: wrong greeting")]
    Greeting,
}

/// A client that has proved who it is.
pub struct Newcomer {
    /// Its key.
    pub key: Key,
    /// What it says of itself.
    pub info: ClientInfo,
    sealer: Sealer,
}

impl Newcomer {
    /// The frame that ends the handshake.
    #[must_use]
    pub fn welcome(&self, rate: Option<Rate>) -> Vec<u8> {
        let mut out = Vec::new();
        let info = ServerInfo { version: VERSION, rate }.emit();
        // Without random numbers there is nothing to be said; clients do not wait for it.
        if let Some(sealed) = self.sealer.seal(&info) {
            FromServer::Info(&sealed).emit(&mut out);
        }
        out
    }
}

/// The frame that a server begins with.
#[must_use]
pub fn greeting(own: &Key) -> Vec<u8> {
    let mut out = Vec::new();
    frame::emit(&mut out, kind::SERVER_KEY, &[MAGIC, &own.0]);
    out
}

/// The server's side, within [`TIMEOUT`]. `input` holds what was received behind the upgrade, and what comes behind the
/// handshake.
///
/// # Errors
/// [`HandshakeError`].
pub async fn accept(
    stream: &mut BoxStream,
    input: &mut Input,
    own: &PrivateKey,
) -> Result<Newcomer, HandshakeError> {
    let work = async {
        stream.write_all(&greeting(&own.public())).await?;
        stream.flush().await?;
        let least = KEY_LEN + naclbox::OVERHEAD;
        let body = read(stream, input, kind::CLIENT_INFO, least, MAX_INFO).await?;
        let newcomer = open(own, input.bytes().get(HEAD_LEN..body).unwrap_or_default());
        input.consume(body);
        newcomer
    };
    handshake(TIMEOUT, Box::pin(work)).await
}

fn open(own: &PrivateKey, body: &[u8]) -> Result<Newcomer, HandshakeError> {
    let key = Key::read(body).ok_or(HandshakeError::Greeting)?;
    let sealed = body.get(KEY_LEN..).unwrap_or_default();
    let sealer = Sealer::new(own, &key).ok_or(HandshakeError::Sealed(key))?;
    let message = sealer.open(sealed).ok_or(HandshakeError::Sealed(key))?;
    let info = ClientInfo::parse(&message).ok_or(HandshakeError::Message(key))?;
    Ok(Newcomer { key, info, sealer })
}

/// A server that has shown its key, at the client. Whether it has the private one is known once its message can be opened.
pub struct Greeted {
    /// Its key.
    pub server: Key,
    sealer: Sealer,
}

impl Greeted {
    /// What the server says of itself in [`FromServer::Info`].
    ///
    /// # Errors
    /// Somebody else sealed it, or it is not understood.
    pub fn info(&self, sealed: &[u8]) -> Result<ServerInfo, HandshakeError> {
        let message = self.sealer.open(sealed).ok_or(HandshakeError::Sealed(self.server))?;
        ServerInfo::parse(&message).ok_or(HandshakeError::Message(self.server))
    }
}

/// The client's side, within [`TIMEOUT`]. `known` is the server's key, where it is known from elsewhere: then its greeting
/// is not waited for, and will be passed over.
///
/// # Errors
/// [`HandshakeError`].
pub async fn connect(
    stream: &mut BoxStream,
    input: &mut Input,
    own: &PrivateKey,
    info: &ClientInfo,
    known: Option<Key>,
) -> Result<Greeted, HandshakeError> {
    let work = async {
        let server = match known {
            Some(key) => key,
            None => {
                let least = MAGIC.len() + KEY_LEN;
                let end = read(stream, input, kind::SERVER_KEY, least, MAX_GREETING).await?;
                let body = input.bytes().get(HEAD_LEN..end).unwrap_or_default();
                let key = body.strip_prefix(MAGIC).and_then(Key::read);
                input.consume(end);
                key.ok_or(HandshakeError::Greeting)?
            }
        };
        let sealer = Sealer::new(own, &server).ok_or(HandshakeError::Sealed(server))?;
        let random = || io::Error::other("no random numbers");
        let sealed = sealer.seal(&info.emit()).ok_or_else(random)?;
        let mut out = Vec::new();
        frame::emit(&mut out, kind::CLIENT_INFO, &[&own.public().0, &sealed]);
        stream.write_all(&out).await?;
        stream.flush().await?;
        Ok(Greeted { server, sealer })
    };
    handshake(TIMEOUT, Box::pin(work)).await
}

/// Reads until a whole frame of that kind, `least` to `most` bytes behind its head, stands in front; returns where it
/// ends.
async fn read(
    stream: &mut BoxStream,
    input: &mut Input,
    kind: u8,
    least: usize,
    most: usize,
) -> Result<usize, HandshakeError> {
    let mut need = HEAD_LEN;
    loop {
        if let Some([got, len @ ..]) = input.bytes().first_chunk::<HEAD_LEN>() {
            let len = u32::from_be_bytes(*len);
            let size = usize::try_from(len).unwrap_or(usize::MAX);
            if *got != kind {
                return Err(FrameError::Unexpected(*got).into());
            }
            if !(least..=most).contains(&size) {
                return Err(FrameError::Length { kind, len }.into());
            }
            need = HEAD_LEN + size;
        }
        if input.bytes().len() >= need {
            return Ok(need);
        }
        if poll_fn(|cx| input.poll_receive(cx, stream, need)).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams() -> (BoxStream, BoxStream) {
        let (one, two) = tokio::io::duplex(4096);
        (Box::new(one), Box::new(two))
    }

    #[tokio::test]
    async fn both_sides_know_each_other() {
        let (mut at_server, mut at_client) = streams();
        let (server, client) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let info = ClientInfo { version: VERSION, can_ack_pings: true, ..ClientInfo::default() };
        let (mut one, mut two) = (Input::default(), Input::default());
        let (newcomer, greeted) = tokio::join!(
            accept(&mut at_server, &mut one, &server),
            connect(&mut at_client, &mut two, &client, &info, None)
        );
        let (newcomer, greeted) = (newcomer.unwrap(), greeted.unwrap());
        assert_eq!(newcomer.key, client.public());
        assert_eq!(greeted.server, server.public());
        assert!(newcomer.info.can_ack_pings);
        let rate = Some(Rate::new(1 << 20, 0));
        let welcome = newcomer.welcome(rate);
        let Ok(frame::Step::Frame(FromServer::Info(sealed), _)) = FromServer::next(&welcome) else {
            panic!("{welcome:?}");
        };
        assert_eq!(greeted.info(sealed).unwrap(), ServerInfo { version: VERSION, rate });
        assert!(greeted.info(&sealed[1..]).is_err());
    }

    /// A client that shows a key which is not its own, and one that knows another server's key.
    #[tokio::test]
    async fn who_lies_is_refused() {
        let key = || PrivateKey::generate().unwrap();
        let (server, client, other) = (key(), key(), key());
        let sealed = Sealer::new(&client, &server.public()).unwrap().seal(b"{}").unwrap();
        let attempt = async |bytes: Vec<u8>| {
            let (mut at_server, mut at_client) = streams();
            at_client.write_all(&bytes).await.unwrap();
            drop(at_client.shutdown().await);
            accept(&mut at_server, &mut Input::default(), &server).await.map(drop)
        };
        let info = |key: &Key| {
            let mut out = Vec::new();
            frame::emit(&mut out, kind::CLIENT_INFO, &[&key.0, &sealed]);
            out
        };
        assert!(attempt(info(&client.public())).await.is_ok());
        assert!(matches!(attempt(info(&other.public())).await, Err(HandshakeError::Sealed(_))));
        assert!(matches!(attempt(info(&Key([0; 32]))).await, Err(HandshakeError::Sealed(_))));
        let long = frame::head(kind::CLIENT_INFO, MAX_INFO + 1).to_vec();
        assert!(matches!(attempt(long).await, Err(HandshakeError::Frame(_))));
        let early = frame::head(kind::SEND, 40).to_vec();
        assert!(matches!(attempt(early).await, Err(HandshakeError::Frame(_))));
        assert!(matches!(attempt(Vec::new()).await, Err(HandshakeError::Io(_))));

        let (mut at_server, mut at_client) = streams();
        let (mut one, mut two) = (Input::default(), Input::default());
        let (info, wrong) = (ClientInfo::default(), Some(other.public()));
        let (refused, _) = tokio::join!(
            accept(&mut at_server, &mut one, &server),
            connect(&mut at_client, &mut two, &client, &info, wrong)
        );
        assert!(matches!(refused, Err(HandshakeError::Sealed(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_may_be_silent() {
        let (mut at_server, _at_client) = streams();
        let server = PrivateKey::generate().unwrap();
        let refused = accept(&mut at_server, &mut Input::default(), &server).await;
        let Err(HandshakeError::Io(error)) = refused else { panic!() };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
