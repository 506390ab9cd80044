//! DNS server `quic`: DNS over dedicated QUIC connections (RFC 9250), a stream for each query.

use std::sync::Arc;

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Kind, Plugin,
    resolve::{DnsServer, ExchangeError, Query, Trail},
};
use crosspoint_schema::decode::Options as _;
use quinn::{Connection, ConnectionError, ReadExactError, VarInt};

use crate::client::{
    self, Failed, OpenSession, Opened, Post, RemoteOptions, RemoteTlsOptions, Route, Secure,
    Sessions, Transport, connect_quic,
};

/// Error codes of RFC 9250 §8.4.
const NO_ERROR: VarInt = VarInt::from_u32(0);
const REQUEST_CANCELLED: VarInt = VarInt::from_u32(3);

const ALPN: [&str; 1] = ["doq"];

inventory::submit! {
    Plugin { kind: Kind::DnsServer, type_name: "quic", schema: RemoteTlsOptions::describe, canonical: |raw| raw.canonical::<RemoteTlsOptions>(), parse: client::parse::<Quic> }
}

struct Quic;

impl Transport for Quic {
    type Options = RemoteTlsOptions;
    const PORT: u16 = 853;

    fn remote(options: &RemoteTlsOptions) -> &RemoteOptions {
        &options.remote
    }

    fn check(options: &RemoteTlsOptions) -> Result<(), BuildError> {
        options.client(&ALPN, None).map(drop)
    }

    fn serve(
        options: &RemoteTlsOptions,
        route: Route,
        cx: &BuildCx,
    ) -> Result<Arc<dyn DnsServer>, BuildError> {
        let client = options.client(&ALPN, Some(cx))?;
        client.check_quic()?;
        let opener = Opener(Secure { route: Arc::new(route), client });
        Ok(Arc::new(Server(Sessions::new(opener))))
    }
}

struct Opener(Secure);

impl OpenSession for Opener {
    type Session = Connection;

    fn open<'a>(
        &'a self,
        trail: &'a Trail,
    ) -> BoxFuture<'a, Result<Opened<Connection>, ExchangeError>> {
        Box::pin(async move {
            let (endpoint, connection) = connect_quic(&self.0, trail).await?;
            let session = connection.clone();
            let work = Box::pin(async move {
                let _close = CloseOnDrop(&connection);
                let error = connection.closed().await;
                drop(endpoint);
                ExchangeError::failed(error)
            });
            Ok(Opened { session, work })
        })
    }
}

/// Tells the server that the connection is over.
struct CloseOnDrop<'a>(&'a Connection);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close(NO_ERROR, b"");
    }
}

/// Each query has a stream of its own, with a length in front of the message on either side (RFC 9250 §4.2).
async fn ask(connection: Connection, post: &Post) -> Result<Vec<u8>, Failed> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(Failed::again)?;
    let length = u16::try_from(post.body.len())
        .map_err(|_| Failed::finally("the query is longer than 65535 bytes"))?;
    let mut message = Vec::with_capacity(2 + post.body.len());
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&post.body);
    send.write_all(&message).await.map_err(Failed::again)?;
    send.finish().map_err(Failed::again)?;
    let answer = async {
        let mut length = [0; 2];
        receive.read_exact(&mut length).await?;
        // No more than 65535 bytes; they are there in a moment, or the connection is gone.
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        receive.read_exact(&mut answer).await?;
        Ok(answer)
    };
    match answer.await {
        Ok(answer) => post.answer(answer),
        Err(ReadExactError::FinishedEarly(_)) => Err(Failed::finally("the answer is cut off")),
        Err(ReadExactError::ReadError(error)) => {
            let _ = receive.stop(REQUEST_CANCELLED);
            Err(match &error {
                quinn::ReadError::ConnectionLost(ConnectionError::LocallyClosed) => {
                    Failed::again("session closed")
                }
                quinn::ReadError::ConnectionLost(_) => Failed::again(error),
                _ => Failed::finally(error),
            })
        }
    }
}

struct Server(Sessions<Opener>);

impl DnsServer for Server {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(async move {
            // The id must be 0 (RFC 9250 §4.2.1).
            let post = Post::new(query.message)?;
            self.0.exchange(query.trail, |session| ask(session, &post)).await
        })
    }

    fn reset(&self) {
        self.0.reset();
    }
}
