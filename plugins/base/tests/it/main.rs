//! The plugins of this crate on the kernel, over loopback.

use crosspoint_base as _;

mod groups;
mod http;
mod socks;
mod support;
mod udp;
mod users;
