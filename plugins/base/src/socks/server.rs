//! Inbound `socks`.

use crosspoint_kernel::{Kind, Plugin};
use crosspoint_schema::decode::Options as _;

use super::SocksInOptions;
use crate::opening::Speaks;
use crate::proxy::ProxySpec;
use crosspoint_layers::spec::done;

inventory::submit! {
    Plugin {
        kind: Kind::Inbound,
        type_name: "socks",
        schema: SocksInOptions::describe, canonical: |raw| raw.canonical::<SocksInOptions>(),
        parse: |raw| done(ProxySpec::<SocksInOptions>::parse(raw, Speaks::Socks)?),
    }
}
