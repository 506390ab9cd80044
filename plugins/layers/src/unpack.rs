//! Between a protocol and the router: connections that carry others.

use crosspoint_kernel::{
    BuildError,
    component::{BuildCx, Conn},
    dispatch::Dispatch,
};
use crosspoint_schema::options::MultiplexInOptions;

/// Takes connections of a protocol apart where they carry others, and lets the rest pass.
#[derive(Clone)]
pub struct Unpack {
    dispatch: Dispatch,
}

impl Unpack {
    /// What an inbound takes apart.
    ///
    /// # Errors
    /// The options ask for what this build lacks.
    pub fn new(
        cx: &BuildCx,
        mux: Option<&MultiplexInOptions>,
        _udp_over_tcp: bool,
    ) -> Result<Self, BuildError> {
        if mux.is_some_and(|mux| mux.enabled) {
            return Err(BuildError::NotInBuild("option `multiplex`".to_owned()));
        }
        Ok(Self { dispatch: Dispatch::new(cx.plane.clone()) })
    }

    /// Carries a connection to its end, in the caller's task.
    pub async fn conn(&self, conn: Conn) {
        self.dispatch.conn(conn).await;
    }
}
