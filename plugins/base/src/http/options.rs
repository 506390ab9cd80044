//! Options of `http`, and of the `mixed` inbound, which has the same ones.

use crosspoint_schema::decode::{HeaderMap, Secret};
use crosspoint_schema::options;
use crosspoint_schema::options::{
    AuthUser, DialOptions, DomainResolver, ListenOptions, ServerOptions, TlsInOptions,
    TlsOutOptions,
};

options! {
    /// A proxy for HTTP clients, or for HTTP and SOCKS clients.
    pub struct HttpMixedInOptions ("option.HTTPMixedInboundOptions") {
        /// Where and how to listen.
        pub listen: ListenOptions = flatten,
        /// Who may use the proxy; everybody if there is none.
        pub users: Vec<AuthUser> = "users",
        /// Read and not used, as in the reference.
        pub domain_resolver: Option<DomainResolver> = "domain_resolver",
        /// Make this the proxy of the desktop while it runs.
        pub set_system_proxy: bool = "set_system_proxy",
        /// TLS at this server.
        pub tls: Option<TlsInOptions> = "tls",
    }
}

options! {
    /// A proxy that is asked with CONNECT.
    pub struct HttpOutOptions ("option.HTTPOutboundOptions") {
        /// How to dial.
        pub dial: DialOptions = flatten,
        /// The proxy.
        pub server: ServerOptions = flatten,
        /// Name to log in with.
        pub username: String = "username",
        /// Password to log in with.
        pub password: Secret = "password",
        /// TLS towards the proxy.
        pub tls: Option<TlsOutOptions> = "tls",
        /// Path of the request, instead of the destination.
        pub path: String = "path",
        /// More header fields of the request.
        pub headers: HeaderMap = "headers",
    }
}
