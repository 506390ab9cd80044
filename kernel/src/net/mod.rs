//! Sockets with every shared dial and listen field.
//!
//! * [`dial`] opens connections and datagram sockets for outbounds, DNS servers and services.
//! * [`listen`] lends listening sockets from the [`Vault`](crate::vault::Vault).
//! * [`monitor`] is what is known of interfaces and default routes.
//! * [`udp`] turns UDP sockets into packet batches.

pub mod dial;
pub mod listen;
pub mod monitor;
mod netns;
mod protect;
mod sockopt;
#[cfg(test)]
pub(crate) mod testkit;
pub mod udp;

pub use sockopt::{brutal, buffers, unacked};

use std::{io, net::SocketAddr};

use crate::error::{DialClass, DialError, Side};

/// The system's words for an error as an operator reads them in Go programs: lower case, without the number.
pub(crate) fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    let bare = text.split(" (os error ").next().unwrap_or(&text);
    if error.raw_os_error().is_some() { bare.to_lowercase() } else { bare.to_owned() }
}

/// A failed dial to `addr`, with its address in the message (`dial tcp 192.0.2.1:80: connection refused`).
pub(crate) fn dial_error(network: &str, addr: SocketAddr, error: &io::Error) -> DialError {
    socket_error(format_args!("dial {network} {addr}"), error)
}

/// A failed system call, with what was being done.
pub(crate) fn socket_error(what: std::fmt::Arguments<'_>, error: &io::Error) -> DialError {
    let class = DialError::from_io(error, Side::Target).class;
    let text = match class {
        DialClass::TimedOut => "i/o timeout".to_owned(),
        _ => os_text(error),
    };
    DialError::new(class, side(error), format_args!("{what}: {text}"))
}

/// Whether the fault is on this machine: no permission, no descriptor, no such interface or address.
fn side(error: &io::Error) -> Side {
    match error.raw_os_error() {
        Some(
            libc::EACCES
            | libc::EPERM
            | libc::EMFILE
            | libc::ENFILE
            | libc::ENOBUFS
            | libc::ENOMEM
            | libc::EADDRNOTAVAIL
            | libc::EADDRINUSE
            | libc::ENODEV
            | libc::EAFNOSUPPORT
            | libc::EINVAL,
        ) => Side::Local,
        Some(_) => Side::Target,
        None if error.kind() == io::ErrorKind::TimedOut => Side::Target,
        None => Side::Local,
    }
}

/// The interface index of an IPv6 zone: an interface name or a number; 0 for none.
///
/// # Errors
/// No such interface.
pub(crate) fn zone_index(zone: &str) -> io::Result<u32> {
    if zone.is_empty() {
        return Ok(0);
    }
    if let Ok(index) = zone.parse() {
        return Ok(index);
    }
    // Interface names hold no slash, and "." and ".." are refused: nothing else can be read here.
    let plain = !zone.contains('/') && !matches!(zone, "." | "..");
    let text = match plain {
        true => std::fs::read_to_string(format!("/sys/class/net/{zone}/ifindex")).ok(),
        false => None,
    };
    text.and_then(|text| text.trim().parse().ok()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("no such network interface: {zone}"))
    })
}
