//! TCP Brutal: a congestion control of the kernel (module `tcp-brutal`) that sends at a fixed rate, whatever gets lost. Both
//! sides tell how fast they may be sent to.

use std::{io, os::fd::OwnedFd};

use crosspoint_kernel::{BuildError, flow::BoxStream, net};
use crosspoint_schema::options::BrutalOptions;

use super::wire::BRUTAL_LEAST;

/// Bytes per second of one Mbit/s.
const MBIT: u64 = 125_000;

/// Rates in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Brutal {
    /// To send at.
    pub(super) send: u64,
    /// To be sent to.
    pub(super) receive: u64,
}

impl Brutal {
    /// The rates of the options, if Brutal is wanted.
    ///
    /// # Errors
    /// A rate is too low.
    pub(super) fn new(options: Option<&BrutalOptions>) -> Result<Option<Self>, BuildError> {
        let Some(options) = options.filter(|options| options.enabled) else { return Ok(None) };
        let rate = |mbps: i64, what: &str| match u64::try_from(mbps).map(|n| n.saturating_mul(MBIT))
        {
            Ok(rate) if rate >= BRUTAL_LEAST => Ok(rate),
            _ => Err(BuildError::options(format_args!("brutal: invalid {what} speed"))),
        };
        let send = rate(options.up_mbps, "upload")?;
        Ok(Some(Self { send, receive: rate(options.down_mbps, "download")? }))
    }
}

/// The socket under a stream, for [`enable`] once the stream is in other hands.
pub(super) fn socket(stream: &BoxStream) -> Option<OwnedFd> {
    stream.socket().and_then(|socket| socket.try_clone_to_owned().ok())
}

/// Sends at that rate from now on.
///
/// # Errors
/// The stream has no socket of its own, or the kernel does not know Brutal.
pub(super) fn enable(socket: Option<&OwnedFd>, rate: u64) -> io::Result<()> {
    let socket = socket.ok_or_else(|| {
        io::Error::other(
            "brutal: nested multiplexing is not supported: the stream has no socket of its own",
        )
    })?;
    net::brutal(socket, rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_checked() {
        let options = |up_mbps, down_mbps| BrutalOptions { enabled: true, up_mbps, down_mbps };
        let new = |options: BrutalOptions| Brutal::new(Some(&options)).map_err(|e| e.to_string());
        assert_eq!(new(options(1, 2)), Ok(Some(Brutal { send: 125_000, receive: 250_000 })));
        assert_eq!(new(options(0, 2)), Err("brutal: invalid upload speed".to_owned()));
        assert_eq!(new(options(1, -2)), Err("brutal: invalid download speed".to_owned()));
        assert_eq!(new(BrutalOptions { enabled: false, ..options(0, 0) }), Ok(None));
    }

    #[test]
    fn a_stream_without_a_socket_cannot_be_brutal() {
        assert!(enable(None, BRUTAL_LEAST).unwrap_err().to_string().contains("nested"));
    }
}
