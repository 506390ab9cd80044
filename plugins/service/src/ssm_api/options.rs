//! Options of `ssm-api`.

use crosspoint_schema::decode::NodeMap;
use crosspoint_schema::options;
use crosspoint_schema::options::{ListenOptions, TlsInOptions};

options! {
    /// An HTTP interface to the users of inbounds.
    pub struct SsmApiOptions ("option.SSMAPIServiceOptions") {
        /// Where and how to listen.
        pub listen: ListenOptions = flatten,
        /// Inbounds by the path under which their users are managed.
        pub servers: Option<NodeMap<String>> = "servers" always,
        /// File that users and what they have moved survive a restart in.
        pub cache_path: String = "cache_path",
        /// TLS.
        pub tls: Option<TlsInOptions> = "tls",
    }
}
