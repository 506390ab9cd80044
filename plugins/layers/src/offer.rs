//! The one [`Spec`] of all inbounds over streams with users that change: what the options say, the sockets, the instance,
//! and users by reload and by message.

use std::{fmt, sync::Arc};

use crosspoint_kernel::{
    BoxFuture, BuildError,
    component::{BuildCx, Change, Claims, Component, Control, Deps, Fault, Spec},
    net::listen::{self, Bound},
    session::Network,
    users::User,
};
use crosspoint_schema::decode::{Map, Options};
use tokio::net::{TcpListener, UdpSocket};
use tracing::error;

use crate::{
    inbound::{Greeter, Inbound, InboundOptions},
    spec::user_name,
};

/// The users of a protocol's inbounds.
pub type UsersOf<P> = <<P as Offer>::Greeter as Greeter>::Users;

/// What an inbound of one protocol offers.
pub trait Offer: fmt::Debug + Send + Sync + Sized + 'static {
    /// As they are configured.
    type Options: Options;
    /// Serves clients.
    type Greeter: Greeter;

    /// The options.
    fn options(&self) -> &Self::Options;

    /// What of the options is the same for all protocols.
    fn inbound(&self) -> InboundOptions<'_>;

    /// Networks to serve.
    fn networks(&self) -> Vec<Network> {
        vec![Network::Tcp]
    }

    /// Whether `next` has the same options but for users.
    fn differs_in_users(&self, next: &Self) -> bool;

    /// Whether services may manage users of it.
    fn takes_users(&self) -> bool {
        true
    }

    /// Names of the configured users; an empty one is that of the index.
    fn names(&self) -> impl Iterator<Item = &str>;

    /// Whether a configured user has that name.
    fn configures(&self, name: &str) -> bool {
        self.names().enumerate().any(|(at, other)| *user_name(at, other) == *name)
    }

    /// Configured users and `managed` ones, in place of `old`. Who is configured stays who he is.
    ///
    /// # Errors
    /// They cannot be had.
    fn users(
        &self,
        managed: &[User],
        old: Option<&UsersOf<Self>>,
        cx: &BuildCx,
    ) -> Result<UsersOf<Self>, BuildError>;

    /// Whether the secret of a managed user can be one.
    ///
    /// # Errors
    /// What is wrong with it.
    fn check_secret(&self, user: &User) -> Result<(), String>;

    /// A server.
    fn greeter(&self, cx: &BuildCx) -> Self::Greeter;

    /// Serves the sockets until the instance is cancelled.
    fn serve(
        inbound: Arc<Inbound<Self::Greeter>>,
        _: BuildCx,
        sockets: Sockets,
    ) -> BoxFuture<'static, Result<(), Fault>> {
        Box::pin(async move {
            match sockets.tcp {
                Some(tcp) => inbound.run(tcp).await,
                None => std::future::pending().await,
            }
        })
    }
}

/// The sockets of an inbound: those of the networks that it serves.
pub struct Sockets {
    /// For streams.
    pub tcp: Option<Bound<TcpListener>>,
    /// For datagrams.
    pub udp: Option<Bound<UdpSocket>>,
}

/// The spec of such an inbound.
#[derive(Debug)]
pub struct Offered<P>(Arc<P>);

impl<P: Offer> Offered<P> {
    /// A spec.
    pub fn new(offer: P) -> Self {
        Self(Arc::new(offer))
    }
}

impl<P: Offer> Spec for Offered<P> {
    fn canonical(&self) -> Map {
        self.0.options().to_map()
    }

    fn deps(&self, out: &mut Deps) {
        listen::deps(self.0.inbound().listen, out);
    }

    fn claims(&self, out: &mut Claims) {
        listen::claims(self.0.inbound().listen, &self.0.networks(), out);
    }

    fn takes_users(&self) -> bool {
        self.0.takes_users()
    }

    fn change(&self, next: &dyn Spec) -> Change {
        match next.downcast_ref::<Self>() {
            Some(next) if self.0.differs_in_users(&next.0) => Change::Reconfigure,
            _ => Change::Replace,
        }
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let offer = self.0.clone();
            let (options, networks) = (offer.inbound(), offer.networks());
            let tcp = networks.contains(&Network::Tcp);
            let udp = networks.contains(&Network::Udp);
            let sockets = Sockets {
                tcp: tcp.then(|| listen::tcp_listener(options.listen, &cx)).transpose()?,
                udp: udp.then(|| listen::udp_socket(options.listen, &cx, true)).transpose()?,
            };
            let roll = cx.plane.users.get(&cx.me.tag).filter(|_| offer.takes_users());
            let managed = roll.map(|roll| roll.users()).unwrap_or_default();
            let users = offer.users(&managed, None, &cx)?;
            let inbound = Inbound::new(&options, offer.greeter(&cx), users, &cx)?;
            let inject = inbound.inject();
            let control = Handle { inbound: inbound.clone(), cx: cx.clone(), offer, managed };
            let run = async move {
                inbound.take_over();
                P::serve(inbound, cx, sockets).await
            };
            Ok(Component {
                inject: Some(inject),
                control: Some(Box::new(control)),
                run: Some(Box::pin(run)),
                ..Component::default()
            })
        })
    }
}

/// Takes other users.
struct Handle<P: Offer> {
    inbound: Arc<Inbound<P::Greeter>>,
    cx: BuildCx,
    offer: Arc<P>,
    managed: Arc<[User]>,
}

impl<P: Offer> Handle<P> {
    fn apply(&self) {
        match self.offer.users(&self.managed, Some(&self.inbound.users()), &self.cx) {
            Ok(users) => self.inbound.replace_users(users),
            Err(error) => error!(component = %self.cx.me, "take other users: {error}"),
        }
    }
}

impl<P: Offer> Control for Handle<P> {
    fn reconfigure(&mut self, next: Arc<dyn Spec>) {
        let Some(next) = next.downcast_ref::<Offered<P>>() else { return };
        self.offer = next.0.clone();
        self.apply();
    }

    fn check_user(&self, user: &User) -> Result<(), String> {
        if self.offer.configures(&user.name) {
            return Err(format!("user {} already exists", user.name));
        }
        self.offer.check_secret(user)
    }

    fn set_users(&mut self, users: &[User]) {
        if *self.managed != *users {
            self.managed = users.into();
            self.apply();
        }
    }
}
