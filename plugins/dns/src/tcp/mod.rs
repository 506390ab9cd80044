//! DNS server `tcp`: few connections, many queries on each.

use std::sync::Arc;

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Kind, Plugin,
    resolve::{DnsServer, ExchangeError, Query},
};
use crosspoint_schema::decode::Options as _;

use crate::client::{self, RemoteOptions, Route, Streams, Transport};

inventory::submit! {
    Plugin { kind: Kind::DnsServer, type_name: "tcp", schema: RemoteOptions::describe, canonical: |raw| raw.canonical::<RemoteOptions>(), parse: client::parse::<Tcp> }
}

struct Tcp;

impl Transport for Tcp {
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
        Ok(Arc::new(Server(Streams::new(Arc::new(route)))))
    }
}

struct Server(Streams<Arc<Route>>);

impl DnsServer for Server {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(self.0.exchange(query))
    }

    fn reset(&self) {
        self.0.reset();
    }
}
