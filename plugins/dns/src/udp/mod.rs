//! DNS server `udp`: asked in datagrams, and over TCP where these are too short.

use std::sync::Arc;

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Kind, Plugin,
    resolve::{DnsServer, ExchangeError, Query},
};
use crosspoint_schema::decode::Options as _;
use tracing::debug;

use crate::client::{self, Answer, Datagrams, RemoteOptions, Route, Streams, Transport};

inventory::submit! {
    Plugin { kind: Kind::DnsServer, type_name: "udp", schema: RemoteOptions::describe, canonical: |raw| raw.canonical::<RemoteOptions>(), parse: client::parse::<Udp> }
}

struct Udp;

impl Transport for Udp {
    type Options = RemoteOptions;
    const PORT: u16 = 53;

    fn remote(options: &RemoteOptions) -> &RemoteOptions {
        options
    }

    fn serve(
        _: &RemoteOptions,
        route: Route,
        _: &BuildCx,
    ) -> Result<Arc<dyn DnsServer>, BuildError> {
        let route = Arc::new(route);
        Ok(Arc::new(Server {
            datagrams: Datagrams::new(route.clone()),
            streams: Streams::new(route.clone()),
            route,
        }))
    }
}

struct Server {
    datagrams: Datagrams,
    streams: Streams<Arc<Route>>,
    route: Arc<Route>,
}

impl DnsServer for Server {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(async move {
            match self.datagrams.exchange(query).await? {
                Answer::Whole(answer) => Ok(answer),
                Answer::TooLong => {
                    debug!(server = %self.route.tag, "response truncated, retrying with TCP");
                    // Boxed: hardly any query needs it, and every one would carry its state.
                    Box::pin(self.streams.exchange(query)).await
                }
            }
        })
    }

    fn reset(&self) {
        self.datagrams.reset();
        self.streams.reset();
    }
}
