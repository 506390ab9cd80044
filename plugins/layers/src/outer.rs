//! What lies around a protocol's outbound: several streams in one connection, or datagrams in streams.
//!
//! A protocol makes its own [`Outbound`] and gives it to [`wrap`] with its options `multiplex` and `udp_over_tcp`; what comes
//! back is the component's outbound. At `parse` it calls [`OuterOptions::check`]:
//!
//! ```ignore
//! let outer = OuterOptions { multiplex: options.multiplex.as_ref(), udp_over_tcp: None };
//! let outbound = wrap(Arc::new(client), outer, &cx)?;
//! Ok(Component { outbound: Some(outbound), ..Component::default() })
//! ```

use std::sync::Arc;

use crosspoint_kernel::{
    BuildError,
    component::{BuildCx, Outbound},
};
use crosspoint_schema::options::{MultiplexOutOptions, UdpOverTcpOptions};

use crate::{
    mux::client::{Multiplexed, Settings},
    uot::{OverTcp, Version},
};

/// The options of an outbound that say what lies around it.
#[derive(Clone, Copy, Debug, Default)]
pub struct OuterOptions<'a> {
    /// Several streams in one connection.
    pub multiplex: Option<&'a MultiplexOutOptions>,
    /// Datagrams in streams. Switched on, it switches `multiplex` off, as in the reference.
    pub udp_over_tcp: Option<&'a UdpOverTcpOptions>,
}

/// What the options ask for.
enum Outer {
    None,
    OverTcp(Version),
    Multiplexed(Settings),
}

impl OuterOptions<'_> {
    /// Finds what is wrong.
    ///
    /// # Errors
    /// The options are wrong.
    pub fn check(&self) -> Result<(), BuildError> {
        self.outer().map(drop)
    }

    fn outer(&self) -> Result<Outer, BuildError> {
        if let Some(options) = self.udp_over_tcp.filter(|options| options.enabled()) {
            let version = Version::numbered(options.version()).ok_or_else(|| {
                BuildError::options(format_args!("unknown protocol version: {}", options.version()))
            })?;
            return Ok(Outer::OverTcp(version));
        }
        match self.multiplex.filter(|options| options.enabled) {
            Some(options) => Ok(Outer::Multiplexed(Settings::new(options)?)),
            None => Ok(Outer::None),
        }
    }
}

/// Puts around `inner` what the options ask for.
///
/// # Errors
/// As [`OuterOptions::check`].
pub fn wrap(
    inner: Arc<dyn Outbound>,
    options: OuterOptions<'_>,
    cx: &BuildCx,
) -> Result<Arc<dyn Outbound>, BuildError> {
    Ok(match options.outer()? {
        Outer::None => inner,
        Outer::OverTcp(version) => Arc::new(OverTcp::new(inner, version)),
        Outer::Multiplexed(settings) => Arc::new(Multiplexed::new(inner, settings, cx)),
    })
}
