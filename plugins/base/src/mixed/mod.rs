//! Inbound `mixed`: SOCKS and HTTP on one port, told apart by the first octet.

use crosspoint_kernel::{Kind, Plugin};
use crosspoint_schema::decode::Options as _;

use crate::http::HttpMixedInOptions;
use crate::opening::Speaks;
use crate::proxy::ProxySpec;
use crosspoint_layers::spec::done;

inventory::submit! {
    Plugin {
        kind: Kind::Inbound,
        type_name: "mixed",
        schema: HttpMixedInOptions::describe, canonical: |raw| raw.canonical::<HttpMixedInOptions>(),
        parse: |raw| done(ProxySpec::<HttpMixedInOptions>::parse(raw, Speaks::Mixed)?),
    }
}
