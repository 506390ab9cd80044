//! The supervisor's record of one component.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ractor::{ActorRef, ActorStatus};
use tokio_util::sync::CancellationToken;

use super::{
    Condition, Pulse,
    backoff::{Backoff, Verdict},
    blueprint::{Planned, Supervision},
    leaf::{LeafMsg, Warm},
    status::{ComponentStatus, State},
};
use crate::{
    component::Incarnation,
    slot::{Health, Slot},
    snapshot::Namespace,
};

/// A component in force.
pub(super) struct Child {
    pub(super) planned: Planned,
    pub(super) live: Option<Live>,
    pub(super) state: State,
    pub(super) epoch: u64,
    /// Changes whenever a start in flight loses its meaning.
    pub(super) attempt: u64,
    restarts: u64,
    last_error: Option<String>,
    backoff: Backoff,
    silent: u8,
}

/// The instance of a component that is up.
pub(super) struct Live {
    pub(super) actor: ActorRef<LeafMsg>,
    pub(super) life: Arc<Incarnation>,
    pub(super) cancel: CancellationToken,
    pulse: Pulse,
    condition: Condition,
}

impl Child {
    /// A component that has never been up.
    pub(super) fn new(planned: Planned) -> Self {
        Self {
            planned,
            live: None,
            state: State::Starting,
            epoch: 0,
            attempt: 0,
            restarts: 0,
            last_error: None,
            backoff: Backoff::default(),
            silent: 0,
        }
    }

    /// Puts a warm instance into its slots; its work begins with [`Child::activate`]. Returns the instance it takes
    /// over from. An actor that has died since it was warmed will be reported by its supervision event.
    pub(super) fn adopt(&mut self, warm: Warm, names: &Namespace) -> Option<Live> {
        let Warm { planned, life, cancel, pulse, condition, actor, faces } = warm;
        let tag = &planned.id.tag;
        if let (Some(slot), Some(face)) = (names.outbounds.get(tag), faces.outbound) {
            slot.set(life.clone(), face);
        }
        if let (Some(slot), Some(face)) = (names.injects.get(tag), faces.inject) {
            slot.set(life.clone(), face);
        }
        if let (Some(slot), Some(face)) = (names.users.get(tag), faces.users) {
            slot.set(life.clone(), face);
        }
        if let (Some(slot), Some(face)) = (names.dns.get(tag), faces.dns) {
            slot.set(life.clone(), face);
        }
        self.planned = planned;
        self.epoch = life.epoch;
        self.attempt += 1;
        self.state = State::Up;
        self.silent = 0;
        self.backoff.up(Instant::now());
        self.live.replace(Live { actor, life, cancel, pulse, condition })
    }

    /// Lets the instance in force begin its work.
    pub(super) fn activate(&self) {
        if let Some(live) = &self.live {
            let _ = live.actor.cast(LeafMsg::Activate);
        }
    }

    /// Counts a successful start after a failure.
    pub(super) fn count_restart(&mut self) {
        self.restarts += 1;
    }

    /// Whether the actor died between being warmed and being adopted.
    pub(super) fn is_dead(&self) -> bool {
        self.live.as_ref().is_some_and(|live| {
            matches!(live.actor.get_status(), ActorStatus::Stopping | ActorStatus::Stopped)
        })
    }

    /// The instance failed: takes it out of its slots and says when to try again.
    pub(super) fn fail(
        &mut self,
        why: String,
        names: &Namespace,
        policy: &Supervision,
    ) -> (Duration, u64) {
        if let Some(live) = self.live.take() {
            live.cancel.cancel();
            live.actor.kill();
        }
        let verdict = self.backoff.failed(Instant::now(), policy);
        let (state, health, delay) = match verdict {
            Verdict::Retry(delay) => (State::Backoff, Health::Starting, delay),
            Verdict::Degraded(delay) => {
                (State::Degraded, Health::Degraded(why.as_str().into()), delay)
            }
        };
        self.state = state;
        self.last_error = Some(why);
        self.attempt += 1;
        clear(&self.planned, names, health);
        (delay, self.attempt)
    }

    /// Asks the worker loop for a sign of life. Returns true when it has missed two in a row.
    pub(super) fn is_silent(&mut self) -> bool {
        match &self.live {
            Some(live) if live.pulse.ask() => self.silent += 1,
            _ => self.silent = 0,
        }
        self.silent >= 2
    }

    pub(super) fn status(&self) -> ComponentStatus {
        let missing = self.live.as_ref().and_then(|live| live.condition.missing());
        let (state, last_error) = match (self.state, missing) {
            (State::Up, Some(why)) => (State::Degraded, Some(why.as_ref().to_owned())),
            (state, _) => (state, self.last_error.clone()),
        };
        ComponentStatus {
            id: self.planned.id.clone(),
            type_name: self.planned.type_name,
            state,
            epoch: self.epoch,
            restarts: self.restarts,
            last_error,
        }
    }
}

/// Empties the slots of a component.
pub(super) fn clear(planned: &Planned, names: &Namespace, health: Health) {
    fn clear<T: ?Sized>(slot: Option<&Arc<Slot<T>>>, health: &Health) {
        if let Some(slot) = slot {
            slot.clear(health.clone());
        }
    }
    let tag = &planned.id.tag;
    match planned.id.kind {
        crate::Kind::DnsServer => clear(names.dns.get(tag), &health),
        crate::Kind::Outbound => clear(names.outbounds.get(tag), &health),
        crate::Kind::Inbound => {
            clear(names.injects.get(tag), &health);
            clear(names.users.get(tag), &health);
        }
        crate::Kind::Endpoint => {
            clear(names.outbounds.get(tag), &health);
            clear(names.injects.get(tag), &health);
        }
        crate::Kind::Service => {}
    }
}

/// An old instance whose flows go on.
pub(super) struct Draining {
    pub(super) live: Live,
    pub(super) status: ComponentStatus,
    /// When its flows are cut, for components that left the configuration.
    pub(super) deadline: Option<Instant>,
}

impl Draining {
    /// Stops accepting; flows go on.
    pub(super) fn new(live: Live, mut status: ComponentStatus, deadline: Option<Instant>) -> Self {
        live.cancel.cancel();
        status.state = State::Draining;
        status.epoch = live.life.epoch;
        Self { live, status, deadline }
    }
}
