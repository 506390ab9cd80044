//! The protocols without cryptography of their own: mixed, socks, http, direct, block, selector, urltest.
//!
//! One folder per protocol. What several of them share lies beside: [`host`] and [`users`] for the codecs, `proxy`
//! (the inbounds that speak SOCKS and HTTP), `opening` (their first words), `answer` (their replies), [`group`].

// A build without some of the protocols leaves parts of what they share unused.
#![cfg_attr(
    not(all(
        feature = "mixed",
        feature = "socks",
        feature = "http",
        feature = "direct",
        feature = "block",
        feature = "selector",
        feature = "urltest"
    )),
    allow(dead_code, unused_imports)
)]

mod answer;
#[cfg(feature = "block")]
pub mod block;
#[cfg(feature = "direct")]
pub mod direct;
pub mod group;
pub mod host;
pub mod http;
#[cfg(feature = "mixed")]
pub mod mixed;
mod opening;
mod proxy;
mod read;
#[cfg(feature = "selector")]
pub mod selector;
pub mod socks;
mod system_proxy;
#[cfg(feature = "urltest")]
pub mod urltest;
pub mod users;
