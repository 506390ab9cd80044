//! Names on the way into a tunnel. They are resolved here: nobody behind a tunnel takes a name.

use std::{net::IpAddr, sync::Arc};

use crosspoint_kernel::{
    DialError,
    component::Dial,
    error::{DialClass, Side},
    net::udp::Resolver,
    resolve::{Lookup, ResolveError},
    session::Session,
    snapshot::Plane,
};

/// Addresses of the name that a dial goes to, of families that the tunnel `speaks`.
///
/// # Errors
/// When the name is not resolved, or only to addresses of another family.
pub async fn addresses(
    plane: &Plane,
    dial: Dial<'_>,
    name: &str,
    speaks: impl Fn(IpAddr) -> bool,
) -> Result<Vec<IpAddr>, DialError> {
    let lookup = Lookup { session: dial.session, trail: dial.trail, ..Lookup::new(name) };
    let found = plane.resolver().lookup(lookup).await;
    let found = found.map_err(|error| unresolved(&error))?;
    let usable: Vec<_> = found.into_iter().filter(|ip| speaks(*ip)).collect();
    if usable.is_empty() {
        let text = format_args!("{name} has no address of a family that the tunnel has");
        return Err(DialError::new(DialClass::HostUnreachable, Side::Target, text));
    }
    Ok(usable)
}

/// Finds addresses of an association's family for names that later datagrams carry.
#[must_use]
pub fn resolver(plane: Arc<Plane>, dial: Dial<'_>, v4: bool) -> Resolver {
    let trail = dial.trail.clone();
    let session: Option<Arc<Session>> = dial.session.map(|session| Arc::new(session.clone()));
    Box::new(move |name| {
        let (plane, trail, session) = (plane.clone(), trail.clone(), session.clone());
        Box::pin(async move {
            let lookup =
                Lookup { session: session.as_deref(), trail: &trail, ..Lookup::new(&name) };
            let found = plane.resolver().lookup(lookup).await;
            let found = found.map_err(|error| unresolved(&error))?;
            found.into_iter().find(|ip| ip.is_ipv4() == v4).ok_or_else(|| {
                let text = format_args!("{name} has no address of this association's family");
                DialError::new(DialClass::HostUnreachable, Side::Target, text)
            })
        })
    })
}

fn unresolved(error: &ResolveError) -> DialError {
    DialError::new(DialClass::HostUnreachable, Side::Target, error)
}
