//! The inbounds behind the endpoints: their users, changed one after the other.

use std::sync::Arc;

use crosspoint_kernel::{
    Tag,
    slot::Slot,
    snapshot::Plane,
    users::{ManagedUsers, Roll, Sums, Traffic, User, UsersError},
};
use tokio::sync::Mutex;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChangeError {
    /// There is no such user.
    #[error("user {0} not found")]
    Unknown(String),
    /// There is such a user already.
    #[error("user {0} already exists")]
    Taken(String),
    /// A user must have a name: without one, no path leads to it.
    #[error("missing username")]
    Nameless,
    /// The inbound did not take it.
    #[error(transparent)]
    Users(#[from] UsersError),
}

/// One inbound.
pub(super) struct Managed {
    plane: Arc<Plane>,
    tag: Tag,
    roll: Arc<Roll>,
    /// Held while users change.
    changing: Mutex<()>,
}

impl Managed {
    pub(super) fn new(plane: &Arc<Plane>, tag: &str) -> Self {
        let roll = plane.users.open(tag);
        Self { plane: plane.clone(), tag: tag.into(), roll, changing: Mutex::default() }
    }

    /// The users and what they moved, as another process knew them, unless this one knows better.
    pub(super) fn restore(&self, users: &[User], sums: Sums) {
        self.roll.restore(users, sums);
    }

    /// Tells the inbound its users, in case it started before they were known.
    pub(super) async fn remind(&self) {
        let _changing = self.changing.lock().await;
        if let Some(inbound) = self.inbound().and_then(|slot| slot.now()) {
            // Those that it cannot have are left out and logged there.
            let _ = inbound.face.set(self.roll.users(), None).await;
        }
    }

    /// The users.
    pub(super) fn users(&self) -> Arc<[User]> {
        self.roll.users()
    }

    /// What one user moved.
    pub(super) fn traffic(&self, name: &str) -> Traffic {
        self.plane.ledger.settle(&self.roll);
        self.roll.traffic(name)
    }

    /// What was moved; with `clear`, counting begins anew.
    pub(super) fn sums(&self, clear: bool) -> Sums {
        self.plane.ledger.settle(&self.roll);
        self.roll.sums(clear)
    }

    pub(super) async fn add(&self, user: User) -> Result<(), ChangeError> {
        let _changing = self.changing.lock().await;
        let mut users = self.roll.users().to_vec();
        if users.iter().any(|known| known.name == user.name) {
            return Err(ChangeError::Taken(user.name.to_string()));
        }
        if user.name.is_empty() {
            return Err(ChangeError::Nameless);
        }
        users.push(user.clone());
        self.set(users, Some(user)).await
    }

    pub(super) async fn update(&self, user: User) -> Result<(), ChangeError> {
        let _changing = self.changing.lock().await;
        let mut users = self.roll.users().to_vec();
        let known = users.iter_mut().find(|known| known.name == user.name);
        *known.ok_or_else(|| ChangeError::Unknown(user.name.to_string()))? = user.clone();
        self.set(users, Some(user)).await
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), ChangeError> {
        let _changing = self.changing.lock().await;
        let mut users = self.roll.users().to_vec();
        let before = users.len();
        users.retain(|user| *user.name != *name);
        if users.len() == before {
            return Err(ChangeError::Unknown(name.to_owned()));
        }
        // What it has moved until now counts for all.
        self.plane.ledger.settle(&self.roll);
        self.set(users, None).await
    }

    async fn set(&self, users: Vec<User>, fresh: Option<User>) -> Result<(), ChangeError> {
        let users: Arc<[User]> = users.into();
        let only_less = fresh.is_none();
        let down = match self.inbound() {
            None => "the inbound is not there".to_owned(),
            Some(slot) => match slot.get().await {
                Err(error) => error.to_string(),
                Ok(inbound) => match inbound.face.set(users.clone(), fresh).await {
                    Err(UsersError::Down(why)) => why,
                    result => return Ok(result?),
                },
            },
        };
        if !only_less {
            return Err(UsersError::Down(down).into());
        }
        // Who is to go must not stay because the inbound is being restarted: it reads the roll when it starts.
        self.roll.put(&users);
        if let Some(inbound) = self.inbound().and_then(|slot| slot.now()) {
            let _ = inbound.face.set(users, None).await;
        }
        Ok(())
    }

    /// The slot of the generation in force.
    fn inbound(&self) -> Option<Arc<Slot<dyn ManagedUsers>>> {
        self.plane.snapshot.load().names.users.get(&self.tag).cloned()
    }
}
