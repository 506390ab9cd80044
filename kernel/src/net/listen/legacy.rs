//! Listen fields that concern sessions and not sockets.

use std::{sync::Arc, time::Duration};

use crosspoint_schema::options::ListenOptions;

use crate::{
    Tag,
    net::dial,
    session::{LegacyInbound, Session},
};

/// What an inbound's listen options say about each of its sessions.
#[derive(Clone, Debug, Default)]
pub struct SessionDefaults {
    detour: Option<Tag>,
    udp_timeout: Option<Duration>,
    disable_domain_unmapping: bool,
    legacy: Option<Arc<LegacyInbound>>,
}

impl SessionDefaults {
    /// Reads the options once, for all sessions.
    #[must_use]
    pub fn new(options: &ListenOptions) -> Self {
        let old = &options.legacy;
        let strategy = dial::strategy(old.domain_strategy);
        let legacy = old.sniff || strategy.is_some();
        Self {
            detour: (!old.detour.is_empty()).then(|| old.detour.as_str().into()),
            udp_timeout: (options.udp_timeout.0.0 > 0).then(|| options.udp_timeout.0.get()),
            disable_domain_unmapping: old.udp_disable_domain_unmapping,
            legacy: legacy.then(|| {
                Arc::new(LegacyInbound {
                    sniff: old.sniff,
                    sniff_override_destination: old.sniff_override_destination,
                    sniff_timeout: (old.sniff_timeout.0 > 0).then(|| old.sniff_timeout.get()),
                    domain_strategy: strategy,
                })
            }),
        }
    }

    /// Applies them to a new session.
    pub fn apply(&self, session: &mut Session) {
        session.detour.clone_from(&self.detour);
        session.udp.timeout = self.udp_timeout;
        session.udp.disable_domain_unmapping = self.disable_domain_unmapping;
        session.legacy.clone_from(&self.legacy);
    }
}
