//! The keys of a server: one for all, or one for each user.

use std::{collections::HashMap, sync::Arc};

use super::{
    cipher::BLOCK,
    method::{Family, KeyError, MasterKey, Method},
    options::{ShadowsocksInOptions, ShadowsocksUser},
};

/// Who may use a server.
#[derive(Debug)]
pub(super) struct ServerKeys {
    pub(super) method: Method,
    /// The server's own key.
    pub(super) own: MasterKey,
    /// Users by index; none means that the server's key is everybody's.
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
        let password = options.password.expose();
        let own = match method.family {
            // With users, the server itself has no key.
            Family::Aead(_) if !options.users.is_empty() => method.key("unused", "")?,
            _ => method.key(password, "decode psk")?,
        };
        Self::with(method, own, &options.users)
    }

    fn with(method: Method, own: MasterKey, users: &[ShadowsocksUser]) -> Result<Self, KeyError> {
        if !users.is_empty() && !own.has_users() {
            return Err(KeyError::Method(method.name.to_owned()));
        }
        let mut keys = Self { method, own, users: Vec::new(), by_identity: HashMap::new() };
        for (at, user) in users.iter().enumerate() {
            if user.password.expose().is_empty() {
                return Err(KeyError::MissingPassword);
            }
            let key = method.key(user.password.expose(), "decode psk")?;
            let name = if user.name.is_empty() {
                at.to_string().into()
            } else {
                user.name.as_str().into()
            };
            keys.by_identity.insert(key.identity(), at);
            keys.users.push(User { name, key });
        }
        Ok(keys)
    }

    /// Whether users are told apart.
    pub(super) fn is_shared(&self) -> bool {
        self.users.is_empty()
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

    /// Whether the user of that name has the same key in `other`.
    pub(super) fn same_user(&self, other: &Self, name: &str) -> bool {
        let key = |keys: &Self| {
            keys.users.iter().find(|user| *user.name == *name).map(|user| user.key.clone())
        };
        key(self) == key(other)
    }

    /// Whether there is such a user.
    pub(super) fn has(&self, name: &str) -> bool {
        self.users.iter().any(|user| *user.name == *name)
    }
}
