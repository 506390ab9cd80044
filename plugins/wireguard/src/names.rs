//! Peers that are configured by name: where they are, and where they are when they do not answer any more.

use std::{net::IpAddr, time::Duration};

use crosspoint_kernel::{
    addr::Host,
    component::{BuildCx, Dial},
};
use tracing::{debug, error};

use crate::running::Running;

/// How often peers with names are looked after.
pub(crate) const LOOK: Duration = Duration::from_secs(5);
/// A peer that has left handshakes unanswered for so long (two of them) may be elsewhere now.
const SILENT: Duration = Duration::from_secs(9);

/// Finds peers for an instance of the component.
#[derive(Default)]
pub(crate) struct Names {
    /// What was last said of a peer that could not be found, so that it is said once.
    said: Option<String>,
}

impl Names {
    /// Finds the addresses of peers that are configured by name, and that are not known or have not answered.
    pub(crate) async fn find(&mut self, running: &Running, cx: &BuildCx) {
        let mut wrong = None;
        for peer in running.device.peers().iter() {
            let Some(target) = &peer.config.endpoint else { continue };
            let Host::Name(name) = &target.host else { continue };
            let known = peer.endpoint();
            if known.is_some() && peer.tunnel.lock().unanswered() < SILENT {
                continue;
            }
            match running.dialer.addresses(Dial::internal(target), name).await {
                Ok(found) => {
                    let Some(ip) = another(&found, known.map(|at| at.ip())) else { continue };
                    let at = (ip, target.port).into();
                    if known != Some(at) {
                        debug!(component = %cx.me, "peer {target} is at {ip}");
                        running.device.found(peer, at);
                    }
                }
                Err(why) => wrong = Some(format!("resolve endpoint of peer {target}: {why}")),
            }
        }
        if let Some(wrong) = &wrong
            && self.said.as_ref() != Some(wrong)
        {
            error!(component = %cx.me, "{wrong}");
        }
        self.said = wrong;
    }
}

/// The address to try after one that does not answer: the next one, the first one again behind the last.
fn another(found: &[IpAddr], tried: Option<IpAddr>) -> Option<IpAddr> {
    let at = tried.and_then(|tried| found.iter().position(|ip| *ip == tried));
    let next = at.map_or(0, |at| at + 1);
    found.get(next).or(found.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_after_the_other_is_tried() {
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([192, 0, 2, last]));
        assert_eq!(another(&[], Some(a)), None);
        assert_eq!(another(&[a, b], None), Some(a));
        assert_eq!(another(&[a, b], Some(a)), Some(b));
        assert_eq!(another(&[a, b], Some(b)), Some(a));
        assert_eq!(another(&[a, b], Some(c)), Some(a));
        assert_eq!(another(&[a], Some(a)), Some(a));
    }
}
