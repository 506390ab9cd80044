//! Slots bind a tag to whatever instance lives behind it at the moment of use.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use crate::{
    Tag,
    addr::Target,
    component::{Dial, Incarnation, Outbound},
    error::{DialClass, DialError, Side},
    flow::{BoxPacketIo, BoxStream},
};

/// A dial may pass this many outbounds (groups, detours) before it is refused as a loop.
pub const MAX_HOPS: u8 = 16;

/// How long a use of a slot waits for a component that is being restarted.
pub const RESTART_WAIT: Duration = Duration::from_secs(1);

/// Whether a component can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Not started yet, or being restarted: uses wait up to [`RESTART_WAIT`].
    Starting,
    /// An instance is in place.
    Up,
    /// It keeps failing: uses fail at once with this reason.
    Degraded(Arc<str>),
    /// The tag has left the configuration.
    Removed,
}

/// A live instance of a component.
pub struct Instance<T: ?Sized> {
    /// Which life of which component.
    pub life: Arc<Incarnation>,
    /// Its face.
    pub face: Arc<T>,
}

/// Late binding of one tag.
pub struct Slot<T: ?Sized> {
    /// The tag.
    pub tag: Tag,
    live: ArcSwapOption<Instance<T>>,
    health: watch::Sender<Health>,
}

impl<T: ?Sized> std::fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("tag", &self.tag)
            .field("health", &*self.health.borrow())
            .finish()
    }
}

impl<T: ?Sized> Slot<T> {
    /// An empty slot.
    pub fn new(tag: Tag) -> Arc<Self> {
        let (health, _) = watch::channel(Health::Starting);
        Arc::new(Self { tag, live: ArcSwapOption::empty(), health })
    }

    /// Puts an instance in place. Flows on the previous one keep it until they end.
    pub fn set(&self, life: Arc<Incarnation>, face: Arc<T>) {
        self.live.store(Some(Arc::new(Instance { life, face })));
        self.health.send_replace(Health::Up);
    }

    /// Takes the instance away.
    pub fn clear(&self, health: Health) {
        self.live.store(None);
        self.health.send_replace(health);
    }

    /// The instance, if one is in place now.
    pub fn now(&self) -> Option<Arc<Instance<T>>> {
        self.live.load_full()
    }

    /// Whether the component can be used.
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }

    /// The instance; waits a moment for one that is being restarted.
    ///
    /// # Errors
    /// [`DialClass::Down`] with the reason.
    pub async fn get(&self) -> Result<Arc<Instance<T>>, DialError> {
        if let Some(instance) = self.now() {
            return Ok(instance);
        }
        let mut health = self.health.subscribe();
        let wait = async {
            loop {
                match &*health.borrow_and_update() {
                    Health::Degraded(why) => return Err(self.down(&format!("degraded: {why}"))),
                    Health::Removed => return Err(self.down("removed from the configuration")),
                    Health::Up | Health::Starting => {}
                }
                if let Some(instance) = self.now() {
                    return Ok(instance);
                }
                if health.changed().await.is_err() {
                    return Err(self.down("gone"));
                }
            }
        };
        tokio::time::timeout(RESTART_WAIT, wait)
            .await
            .unwrap_or_else(|_| Err(self.down("still restarting")))
    }

    fn down(&self, why: &str) -> DialError {
        DialError::new(
            DialClass::Down,
            Side::Local,
            format_args!("component [{}] is {why}", self.tag),
        )
    }
}

impl Slot<dyn Outbound> {
    /// Opens a stream through the instance in place, accounting the hop.
    ///
    /// # Errors
    /// Those of the outbound, [`DialClass::Down`] and [`DialClass::Loop`].
    pub async fn connect(&self, dial: Dial<'_>) -> Result<BoxStream, DialError> {
        let (instance, dial) = self.enter(dial).await?;
        let session = dial.session.filter(|session| {
            !session.resolved.is_empty()
                && session.target == *dial.target
                && session.target.host.name().is_some()
                && !instance.face.dials_resolved()
        });
        let Some(session) = session else { return instance.face.connect(dial).await };
        // What stands behind a proxy is found by us once a rule says so: `resolve` is for that.
        let mut last = None;
        for ip in &session.resolved {
            let target = Target { host: (*ip).into(), port: dial.target.port };
            match instance.face.connect(dial.to(&target)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| DialError::new(DialClass::Other, Side::Local, "no address")))
    }

    /// Opens a datagram association through the instance in place, accounting the hop.
    ///
    /// # Errors
    /// Those of the outbound, [`DialClass::Down`] and [`DialClass::Loop`].
    pub async fn associate(&self, dial: Dial<'_>) -> Result<BoxPacketIo, DialError> {
        let (instance, dial) = self.enter(dial).await?;
        instance.face.associate(dial).await
    }

    async fn enter<'a>(
        &self,
        mut dial: Dial<'a>,
    ) -> Result<(Arc<Instance<dyn Outbound>>, Dial<'a>), DialError> {
        dial.hops += 1;
        if dial.hops > MAX_HOPS {
            return Err(DialError::new(
                DialClass::Loop,
                Side::Local,
                format_args!("outbound loop: more than {MAX_HOPS} hops at [{}]", self.tag),
            ));
        }
        let instance = self.get().await?;
        if let Some(entry) = dial.entry {
            entry.push_hop(instance.life.clone());
        }
        Ok((instance, dial))
    }
}
