//! DNS server `tls`: DNS over TLS (RFC 7858).

use std::sync::Arc;

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Kind, Plugin,
    resolve::{DnsServer, ExchangeError, Query},
};
use crosspoint_schema::decode::Options as _;

use crate::client::{self, RemoteOptions, RemoteTlsOptions, Route, Secure, Streams, Transport};

inventory::submit! {
    Plugin { kind: Kind::DnsServer, type_name: "tls", schema: RemoteTlsOptions::describe, canonical: |raw| raw.canonical::<RemoteTlsOptions>(), parse: client::parse::<Tls> }
}

struct Tls;

impl Transport for Tls {
    type Options = RemoteTlsOptions;
    const PORT: u16 = 853;

    fn remote(options: &RemoteTlsOptions) -> &RemoteOptions {
        &options.remote
    }

    fn check(options: &RemoteTlsOptions) -> Result<(), BuildError> {
        options.client(&[], None).map(drop)
    }

    fn serve(
        options: &RemoteTlsOptions,
        route: Route,
        cx: &BuildCx,
    ) -> Result<Arc<dyn DnsServer>, BuildError> {
        // Like the reference, it offers no ALPN unless told so: some servers close at a name that they do not know.
        let secure = Secure { route: Arc::new(route), client: options.client(&[], Some(cx))? };
        Ok(Arc::new(Server(Streams::new(secure))))
    }
}

struct Server(Streams<Secure>);

impl DnsServer for Server {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(self.0.exchange(query))
    }

    fn reset(&self) {
        self.0.reset();
    }
}
