//! What all servers over the network share: their options, checks, and how they are built.

use std::{fmt, marker::PhantomData, sync::Arc};

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, Spec, addr::Host, component::Deps, net::dial,
    resolve::DnsServer,
};
use crosspoint_schema::{
    ConfigError, RawOptions,
    decode::{Map, Options},
    options,
    options::{DialOptions, DnsAddressOptions},
};

use super::route::{Legacy, Route};

options! {
    /// A DNS server that is asked over the network.
    pub struct RemoteOptions ("option.RemoteDNSServerOptions") {
        /// How to dial.
        pub dial: DialOptions = flatten,
        /// The server.
        pub address: DnsAddressOptions = flatten,
    }
}

/// One type of server.
pub(crate) trait Transport: 'static {
    /// Its options.
    type Options: Options + fmt::Debug + Send + Sync + 'static;
    /// The port where none is given.
    const PORT: u16;

    /// The part of the options that all types have.
    fn remote(options: &Self::Options) -> &RemoteOptions;

    /// Finds what is wrong with the other part, without the network.
    fn check(_options: &Self::Options) -> Result<(), BuildError> {
        Ok(())
    }

    /// The server at the end of `route`.
    fn serve(
        options: &Self::Options,
        route: Route,
        cx: &BuildCx,
    ) -> Result<Arc<dyn DnsServer>, BuildError>;
}

/// Reads the options of a server.
pub(crate) fn parse<T: Transport>(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: T::Options = raw.parse()?;
    let legacy = raw.component().legacy_dns.as_ref();
    let legacy = Legacy {
        old: legacy.is_some(),
        default_outbound: legacy.is_some_and(|legacy| legacy.default_dialer),
    };
    let RemoteOptions { dial, address } = T::remote(&options);
    let server = address.server.as_str();
    let is_name = Host::from(server).ip().is_none();
    if is_name && !is_domain_name(server) {
        let port = if address.server_port == 0 { T::PORT } else { address.server_port };
        return Err(raw.invalid_at("server", format!("invalid server address: {server}:{port}")));
    }
    let resolver = dial.domain_resolver.as_ref().is_some_and(|r| !r.server.is_empty());
    if is_name && !resolver && dial.detour.is_empty() {
        return Err(if legacy.old {
            raw.invalid_at("address", format!("missing address resolver for server: {server}"))
        } else {
            raw.invalid_at("server", "missing domain resolver for domain server address")
        });
    }
    dial::validate(dial).map_err(|e| raw.invalid_at("network_strategy", e.to_string()))?;
    T::check(&options).map_err(|error| raw.invalid(error.to_string()))?;
    Ok(Arc::new(RemoteSpec::<T> { options, legacy, transport: PhantomData }))
}

/// A parsed server.
struct RemoteSpec<T: Transport> {
    options: T::Options,
    legacy: Legacy,
    transport: PhantomData<fn() -> T>,
}

impl<T: Transport> fmt::Debug for RemoteSpec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSpec")
            .field("options", &self.options)
            .field("legacy", &self.legacy)
            .finish()
    }
}

impl<T: Transport> Spec for RemoteSpec<T> {
    fn canonical(&self) -> Map {
        let mut map = self.options.to_map();
        // An old-style server and its new form look alike and dial differently: no option has this name.
        if self.legacy.old {
            map.insert("(legacy)".to_owned(), self.legacy.default_outbound.into());
        }
        map
    }

    fn deps(&self, out: &mut Deps) {
        dial::deps(&T::remote(&self.options).dial, out);
    }

    fn detour(&self) -> Option<&str> {
        let detour = T::remote(&self.options).dial.detour.as_str();
        (!self.legacy.old && !detour.is_empty()).then_some(detour)
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        Box::pin(async move {
            let RemoteOptions { dial, address } = T::remote(&self.options);
            let route = Route::new(dial, address, T::PORT, self.legacy, &cx)?;
            let server = T::serve(&self.options, route, &cx)?;
            Ok(Component { dns: Some(server), ..Component::default() })
        })
    }
}

/// Whether Go takes `text` for the name of a server: letters, digits, `-` and `_` in labels of at most 63 bytes, not
/// all of it digits and dots, no hyphen at either end of a label (after `_` it may).
fn is_domain_name(text: &str) -> bool {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    text == "."
        || bare.len() <= 253
            && bare.split('.').all(label)
            && bare.bytes().any(|b| !b.is_ascii_digit() && b != b'.')
}

#[cfg(test)]
pub(crate) mod tests {
    use crosspoint_schema::{
        decode::{Context, Cursor},
        json,
    };

    use super::*;

    /// Options from JSON.
    pub(crate) fn options<T: Options>(text: &str) -> T {
        let (node, cx) = (json::parse(text).expect("JSON"), Context::default());
        T::decode_object(&Cursor::new(&node, "x", &cx)).expect("options")
    }

    #[test]
    fn names_of_servers() {
        for good in ["dns.google", "dns.google.", "a_b", "1a", "_dns.x", "a-b.c", "xn--p1ai", "."] {
            assert!(is_domain_name(good), "{good}");
        }
        let long = "a".repeat(64);
        let longer = format!("{}a", "a.".repeat(127));
        for bad in ["", "a b", "1.2.3", "-a", "a-", "a..b", ".a", "é", "[::1", &long, &longer] {
            assert!(!is_domain_name(bad), "{bad}");
        }
    }
}
