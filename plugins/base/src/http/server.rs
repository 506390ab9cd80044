//! Inbound `http`.

use crosspoint_kernel::{Kind, Plugin};
use crosspoint_schema::decode::Options as _;

use super::HttpMixedInOptions;
use crate::opening::Speaks;
use crate::proxy::ProxySpec;
use crosspoint_layers::spec::done;

inventory::submit! {
    Plugin {
        kind: Kind::Inbound,
        type_name: "http",
        schema: HttpMixedInOptions::describe, canonical: |raw| raw.canonical::<HttpMixedInOptions>(),
        parse: |raw| done(ProxySpec::<HttpMixedInOptions>::parse(raw, Speaks::Http)?),
    }
}
