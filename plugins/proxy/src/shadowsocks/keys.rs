//! The keys of a server: one for all, or one for each user.

use std::{collections::HashMap, sync::Arc};

use crosspoint_kernel::users;

use super::{
    cipher::BLOCK,
    method::{Family, KeyError, MasterKey, Method},
    options::ShadowsocksInOptions,
};

/// Who may use a server.
#[derive(Clone, Debug)]
pub(super) struct ServerKeys {
    pub(super) method: Method,
    /// The server's own key.
    pub(super) own: MasterKey,
    /// Whether the server's key is everybody's.
    shared: bool,
    /// Users by index.
    users: Vec<User>,
    by_identity: HashMap<[u8; BLOCK], usize>,
}

/// One user.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) name: Arc<str>,
    pub(super) key: MasterKey,
}

impl ServerKeys {
    /// The keys in the options.
    ///
    /// # Errors
    /// [`KeyError`], in the order in which the reference finds things.
    pub(super) fn new(options: &ShadowsocksInOptions) -> Result<Self, KeyError> {
        let method = Method::named(&options.method)?;
        if matches!(method.family, Family::Stream(_)) {
            // Servers of such methods were never made, here or in the reference.
            return Err(KeyError::Method(options.method.clone()));
        }
        let shared = options.users.is_empty() && !options.managed;
        let own = match method.family {
            // With users, the server itself has no key.
            Family::Aead(_) if !shared => method.key("unused", "")?,
            _ => method.key(options.password.expose(), "decode psk")?,
        };
        if !shared && !own.has_users() {
            return Err(match method.family {
                Family::None => KeyError::Method(method.name.to_owned()),
                _ => KeyError::NoIdentity,
            });
        }
        let (users, by_identity) = Default::default();
        let mut keys = Self { method, own, shared, users, by_identity };
        for (at, user) in options.users.iter().enumerate() {
            let name = crosspoint_layers::spec::user_name(at, &user.name);
            let key = keys.user_key(user.password.expose())?;
            keys.add(User { name, key });
        }
        Ok(keys)
    }

    fn user_key(&self, password: &str) -> Result<MasterKey, KeyError> {
        if password.is_empty() {
            return Err(KeyError::MissingPassword);
        }
        self.method.key(password, "decode psk")
    }

    fn add(&mut self, user: User) {
        self.by_identity.insert(user.key.identity(), self.users.len());
        self.users.push(user);
    }

    /// Whether a managed user can be added.
    ///
    /// # Errors
    /// In the words of the reference.
    pub(super) fn check(&self, user: &users::User) -> Result<(), String> {
        if self.has(&user.name) {
            return Err(format!("user {} already exists", user.name));
        }
        self.user_key(user.secret.expose()).map(drop).map_err(|error| error.to_string())
    }

    /// These keys and those of managed users; `left_out` is told of those that cannot be had.
    pub(super) fn with_managed(
        &self,
        managed: &[users::User],
        left_out: impl Fn(&users::User, String),
    ) -> Self {
        let mut keys = self.clone();
        for user in managed {
            match self.check(user).and_then(|()| {
                self.user_key(user.secret.expose()).map_err(|error| error.to_string())
            }) {
                Ok(key) => keys.add(User { name: user.name.clone(), key }),
                Err(why) => left_out(user, why),
            }
        }
        keys
    }

    /// Whether everybody has the same key, so that users are not told apart.
    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether a flow of that user may live on.
    pub(super) fn knows(&self, user: Option<&str>) -> bool {
        // Without users nobody is told apart.
        self.is_shared() || user.is_some_and(|name| self.has(name))
    }

    /// Everybody's keys, with the user's name where there is one.
    pub(super) fn candidates(&self) -> impl Iterator<Item = (&MasterKey, Option<&Arc<str>>)> {
        let own = self.is_shared().then_some((&self.own, None));
        own.into_iter().chain(self.users.iter().map(|user| (&user.key, Some(&user.name))))
    }

    /// The user with that identity (SIP022).
    pub(super) fn identified(&self, identity: &[u8; BLOCK]) -> Option<&User> {
        self.users.get(*self.by_identity.get(identity)?)
    }

    /// The names of users with their keys, as they are in `other`, too.
    pub(super) fn unchanged<'a>(&'a self, other: &Self) -> HashMap<&'a str, Vec<&'a MasterKey>> {
        let keys = |of: &'a Self| by_name(&of.users);
        let (mut mine, theirs) = (keys(self), by_name(&other.users));
        mine.retain(|name, keys| theirs.get(name) == Some(keys));
        mine
    }

    fn has(&self, name: &str) -> bool {
        self.users.iter().any(|user| *user.name == *name)
    }
}

fn by_name(users: &[User]) -> HashMap<&str, Vec<&MasterKey>> {
    let mut named: HashMap<&str, Vec<&MasterKey>> = HashMap::new();
    for user in users {
        named.entry(&user.name).or_default().push(&user.key);
    }
    named
}
