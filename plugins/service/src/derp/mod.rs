//! Service `derp`: a server that relays packets between Tailscale nodes by their public keys, and tells them their
//! addresses. The engine is `crosspoint_derp`; the README of this crate says what differs from the reference.
//!
//! | module | what it is |
//! |---|---|
//! | `front` | a connection: TLS, HTTP, the upgrade |
//! | `pages` | what plain requests are answered |
//! | `verify` | who may come in |
//! | `stun` | the UDP socket |
//! | `files` | the server's key, the key of the region |
//!
//! The [`Hub`] is left in the vault: an instance that follows another one with the same key takes its clients over, so that
//! neither a changed option nor a restart costs anybody a connection.

mod files;
mod front;
mod options;
mod pages;
mod stun;
mod verify;

use std::{net::Ipv6Addr, sync::Arc, time::Duration};

use crosspoint_derp::{
    hub::{Hub, Settings},
    limit::Rate,
    mesh::Link,
};
use crosspoint_kernel::{
    BoxFuture, BuildError, Kind, Plugin,
    addr::Target,
    component::{BuildCx, Claims, Component, Deps, Dial, Fault, Spec},
    flow::BoxStream,
    net::{dial, listen},
    resolve::NO_TRAIL,
    serve,
    session::Network,
};
use crosspoint_layers::spec::{at_start, check, done, to_proxy};
use crosspoint_schema::{
    ConfigError, RawOptions,
    decode::{Addr, Map, Options as _},
    options::{ListenOptions, TlsInOptions},
};
use crosspoint_tls::{Client, ClientDefaults, Server as Tls, ServerDefaults};
use tokio::task::JoinHandle;

use self::{
    front::Front,
    pages::{Home, Pages},
    verify::Verifier,
};
pub use options::{DerpOptions, MeshOptions, Stun, StunObject, VerifyUrl, VerifyUrlObject};

inventory::submit! {
    Plugin { kind: Kind::Service, type_name: "derp", schema: DerpOptions::describe, canonical: |raw| raw.canonical::<DerpOptions>(), parse }
}

/// How long links of an instance stay when it is gone.
const LINKS_STAY: Duration = Duration::from_secs(5);

/// The port of STUN (RFC 8489 §8.1).
const STUN_PORT: u16 = 3478;

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: DerpOptions = raw.parse()?;
    let Some(tls) = options.tls.as_ref().filter(|tls| tls.enabled) else {
        return Err(raw.invalid_at("tls", "TLS is required for DERP server"));
    };
    tls.note_deprecated(raw.notices());
    let spec = Derp(options);
    check(&raw, "tls", spec.tls().map(drop))?;
    let options = &spec.0;
    if options.config_path.is_empty() {
        return Err(raw.invalid("missing config_path"));
    }
    check(&raw, "mesh_psk", files::mesh_key(options.mesh_psk.expose(), "").map(drop))?;
    at_start(&raw, "proxy_protocol", listen::validate(&options.listen))?;
    if let Some(stun) = spec.stun() {
        at_start(&raw, "stun", listen::validate(&stun))?;
    }
    at_start(&raw, "home", spec.home().map(drop))?;
    for url in &options.verify_client_url {
        at_start(&raw, "verify_client_url", dial::validate(&url.0.dial))?;
    }
    if !options.mesh_with.is_empty()
        && options.mesh_psk.is_empty()
        && options.mesh_psk_file.is_empty()
    {
        at_start(&raw, "mesh_with", Err(BuildError::options("missing mesh psk")))?;
    }
    for mesh in &options.mesh_with {
        at_start(&raw, "mesh_with", Mesh::check(mesh))?;
    }
    if options.client_burst > 0 && options.client_rate == 0 {
        return Err(raw.invalid_at("client_burst", "client_burst without client_rate"));
    }
    done(spec)
}

#[derive(Debug)]
struct Derp(DerpOptions);

impl Derp {
    fn tls(&self) -> Result<Tls, BuildError> {
        let mut tls: TlsInOptions = self.0.tls.clone().unwrap_or_default();
        // HTTP/2 is always offered, as in the reference.
        if !tls.alpn.0.is_empty() && !tls.alpn.0.iter().any(|alpn| alpn == "h2") {
            tls.alpn.0.insert(0, "h2".to_owned());
        }
        let defaults = ServerDefaults { alpn: &["h2", "http/1.1"], ..ServerDefaults::default() };
        Ok(Tls::new(&tls, &defaults)?)
    }

    /// Where STUN listens, if it does.
    fn stun(&self) -> Option<ListenOptions> {
        let Stun(StunObject { enabled, listen }) = self.0.stun.as_ref()?;
        let mut listen = listen.clone();
        let any = || Addr { ip: Ipv6Addr::UNSPECIFIED.into(), zone: String::new() };
        listen.listen.get_or_insert_with(any);
        if listen.listen_port == 0 {
            listen.listen_port = STUN_PORT;
        }
        enabled.then_some(listen)
    }

    fn home(&self) -> Result<Home, BuildError> {
        let invalid = || BuildError::options(format_args!("invalid home value: {}", self.0.home));
        Home::parse(&self.0.home).ok_or_else(invalid)
    }

    fn settings(&self) -> Result<Settings, BuildError> {
        let Self(DerpOptions { mesh_psk, mesh_psk_file, client_rate, client_burst, .. }) = self;
        let mesh_key = files::mesh_key(mesh_psk.expose(), mesh_psk_file)?;
        let rate = (*client_rate > 0).then(|| Rate::new(*client_rate, *client_burst));
        Ok(Settings { mesh_key, rate })
    }
}

/// The way to another server of the region.
struct Mesh;

impl Mesh {
    /// What is wrong without touching the system.
    fn check(options: &MeshOptions) -> Result<(), BuildError> {
        dial::validate(&options.dial)?;
        Self::tls(options, ClientDefaults::default()).map(drop)
    }

    /// The name that is dialled and asked for.
    fn host(options: &MeshOptions) -> &str {
        if options.host.is_empty() { &options.server.server } else { &options.host }
    }

    fn tls(
        options: &MeshOptions,
        defaults: ClientDefaults<'_>,
    ) -> Result<Option<Client>, BuildError> {
        if Self::host(options).is_empty() {
            return Err(BuildError::options("missing server"));
        }
        let Some(tls) = options.tls.as_ref().filter(|tls| tls.enabled) else { return Ok(None) };
        Ok(Some(Client::new(tls, Self::host(options), &defaults)?))
    }

    fn link(options: &MeshOptions, cx: &BuildCx) -> Result<Link, BuildError> {
        let defaults =
            ClientDefaults { plane: Some(cx.plane.clone()), ..ClientDefaults::default() };
        let tls = Self::tls(options, defaults)?;
        let host = Self::host(options);
        let default = if tls.is_some() { 443 } else { 80 };
        let port = Some(options.server.server_port).filter(|port| *port > 0).unwrap_or(default);
        let target = Target::new(host, port);
        let dialer = Arc::new(verify::dialer(&options.dial, host, cx)?);
        let bare = host.contains(':') && !host.starts_with('[');
        let host = if bare { format!("[{host}]") } else { host.to_owned() };
        let host = if port == default { host } else { format!("{host}:{port}") };
        let open = move || -> BoxFuture<'static, Result<BoxStream, _>> {
            let (dialer, target, tls) = (dialer.clone(), target.clone(), tls.clone());
            Box::pin(async move {
                let dial = async || dialer.connect(Dial::internal(&target)).await.map_err(to_proxy);
                match tls {
                    None => dial().await,
                    Some(tls) => Ok(Box::new(tls.dial(dial, &NO_TRAIL).await?) as BoxStream),
                }
            })
        };
        Ok(Link { host, open: Box::new(open) })
    }
}

impl Spec for Derp {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        listen::deps(&self.0.listen, out);
        if let Some(stun) = self.stun() {
            listen::deps(&stun, out);
        }
        self.0.verify_client_url.iter().for_each(|url| dial::deps(&url.0.dial, out));
        self.0.mesh_with.iter().for_each(|mesh| dial::deps(&mesh.dial, out));
    }

    fn claims(&self, out: &mut Claims) {
        listen::claims(&self.0.listen, &[Network::Tcp], out);
        if let Some(stun) = self.stun() {
            listen::claims(&stun, &[Network::Udp], out);
        }
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let tls = self.tls()?;
            let (settings, home) = (self.settings()?, self.home()?);
            let verifier = Verifier::new(&self.0, &cx)?;
            let links = self.0.mesh_with.iter().map(|mesh| Mesh::link(mesh, &cx));
            let links = links.collect::<Result<Vec<_>, _>>()?;
            let key = files::server_key(&files::expand(&self.0.config_path))?;
            let listener = listen::tcp_listener(&self.0.listen, &cx)?;
            let stun = self.stun().map(|options| listen::udp_socket(&options, &cx, false));
            let stun = stun.transpose()?;
            // The one before, if it has the same key: its clients stay.
            let name = format!("derp/{}", cx.me.tag);
            let before = cx.plane.vault.left::<Hub>(&name);
            let same = |hub: &Arc<Hub>| hub.public() == key.public() && !hub.has_failed();
            let (hub, before) = match before {
                Some(hub) if same(&hub) => (hub, None),
                before => (Hub::new(key, settings.clone()), before),
            };
            let pages = Pages { home, plane: cx.plane.clone() };
            let front = Arc::new(Front { cx: cx.clone(), tls, hub, pages, verifier });
            let run = async move {
                cx.plane.vault.leave(&name, Arc::downgrade(&front.hub));
                front.hub.configure(settings);
                if let Some(before) = before {
                    before.end();
                }
                front.tls.watch(cx.cancel.clone(), cx.me.clone());
                let hub = front.hub.clone();
                let accept = front.clone();
                let accept = serve::tcp(listener, cx.clone(), move |accepted| {
                    let front = accept.clone();
                    async move { front.serve(accepted).await }
                });
                let answer = async {
                    match stun {
                        Some(socket) => stun::serve(socket, &cx).await,
                        None => std::future::pending().await,
                    }
                };
                let _links = Links::up(links, &hub, &cx);
                tokio::select! {
                    ended = accept => ended,
                    ended = answer => ended,
                    () = hub.failed() => Err(Fault("the actor of the server has failed".into())),
                }
            };
            Ok(Component { run: Some(Box::pin(run)), ..Component::default() })
        })
    }
}

/// The links of an instance. They stay for a moment when it is gone, so that those of the one after it are up before and
/// nobody is said to have left the region.
struct Links(Vec<JoinHandle<()>>);

impl Links {
    fn up(links: Vec<Link>, hub: &Arc<Hub>, cx: &BuildCx) -> Self {
        let run = |link: Link| tokio::spawn(link.run(hub.clone(), cx.me.clone()));
        Self(links.into_iter().map(run).collect())
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        let links = std::mem::take(&mut self.0);
        // Without a runtime the program ends, and they with it.
        if let (false, Ok(runtime)) = (links.is_empty(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                tokio::time::sleep(LINKS_STAY).await;
                links.iter().for_each(JoinHandle::abort);
            });
        }
    }
}
