//! Who may come in (`verify_client_endpoint`, `verify_client_url`).

use std::{net::IpAddr, sync::Arc, time::Duration};

use crosspoint_derp::{admission, key::Key};
use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, DialError, Kind,
    component::{Dial, Incarnation, Outbound},
    fetch::{Fetch as _, Method, Request},
    flow::{BoxPacketIo, BoxStream},
    net::dial::{Dialer, ResolverRule, Setup},
    slot::Slot,
    snapshot::Plane,
};
use crosspoint_layers::fetch::{HttpClient, Url};
use crosspoint_schema::options::DialOptions;

use super::options::{DerpOptions, VerifyUrlObject};

/// How long a URL may take to answer (tailscale `verifyClient`).
const PATIENCE: Duration = Duration::from_secs(5);

/// Longest answer that is read.
const MAX_ANSWER: usize = 4 << 10;

/// Who is asked whether a client may come in.
pub(super) struct Verifier {
    endpoints: Vec<Box<str>>,
    urls: Vec<Controller>,
    http: HttpClient,
    plane: Arc<Plane>,
}

/// A URL that is asked, and the way there.
struct Controller {
    url: Box<str>,
    via: Arc<Slot<dyn Outbound>>,
}

/// A dialer in the place of an outbound.
struct Through(Dialer);

impl Outbound for Through {
    fn connect<'a>(&'a self, dial: Dial<'a>) -> BoxFuture<'a, Result<BoxStream, DialError>> {
        Box::pin(self.0.connect(dial))
    }

    fn associate<'a>(&'a self, _: Dial<'a>) -> BoxFuture<'a, Result<BoxPacketIo, DialError>> {
        Box::pin(async { Err(DialError::unsupported("streams only")) })
    }
}

/// A dialer of this service for a server of that name. Which of several resolvers to ask it must be told.
pub(super) fn dialer(
    options: &DialOptions,
    server: &str,
    cx: &BuildCx,
) -> Result<Dialer, BuildError> {
    let setup = Setup { server: Some(server), resolver: ResolverRule::Strict, ..Setup::default() };
    Dialer::with(options, cx, setup)
}

impl Verifier {
    pub(super) fn new(options: &DerpOptions, cx: &BuildCx) -> Result<Self, BuildError> {
        for tag in &options.verify_client_endpoint {
            if !cx.names.outbounds.contains_key(tag.as_str()) {
                let text = format_args!("verify_client_endpoint: endpoint not found: {tag}");
                return Err(BuildError::options(text));
            }
            if !admission::exists(&cx.plane.vault, tag) {
                let text = format_args!("verify_client_endpoint: endpoint is not Tailscale: {tag}");
                return Err(BuildError::options(text));
            }
        }
        let urls = options.verify_client_url.iter().enumerate().map(|(at, url)| {
            let VerifyUrlObject { url, dial } = &url.0;
            let wrap = |error: &dyn std::fmt::Display| {
                BuildError::options(format_args!("verify_client_url[{at}]: {error}"))
            };
            let parsed = Url::parse(url).map_err(|error| wrap(&error))?;
            let dialer = dialer(dial, &parsed.host, cx).map_err(|error| wrap(&error))?;
            let slot = Slot::<dyn Outbound>::new(cx.me.tag.clone());
            let life = Incarnation {
                kind: Kind::Service,
                type_name: cx.me.type_name,
                tag: cx.me.tag.clone(),
                epoch: cx.me.epoch,
            };
            slot.set(Arc::new(life), Arc::new(Through(dialer)));
            Ok(Controller { url: url.as_str().into(), via: slot })
        });
        Ok(Self {
            endpoints: options
                .verify_client_endpoint
                .iter()
                .map(|tag| tag.as_str().into())
                .collect(),
            urls: urls.collect::<Result<_, BuildError>>()?,
            http: HttpClient::on(cx.plane.clone()),
            plane: cx.plane.clone(),
        })
    }

    /// Whether a client may come in: it may when one of all says so.
    ///
    /// # Errors
    /// Nobody does; what each of them said.
    pub(super) async fn admit(&self, client: Key, from: IpAddr) -> Result<(), String> {
        if self.endpoints.is_empty() && self.urls.is_empty() {
            return Ok(());
        }
        let mut errors = Vec::new();
        for endpoint in &self.endpoints {
            match admission::ask(&self.plane.vault, endpoint, client).await {
                Ok(()) => return Ok(()),
                Err(error) => errors.push(error.to_string()),
            }
        }
        for controller in &self.urls {
            match self.ask(controller, client, from).await {
                Ok(()) => return Ok(()),
                Err(error) => errors.push(error),
            }
        }
        Err(errors.join(" | "))
    }

    /// Asks a URL (tailscale `tailcfg.DERPAdmitClientRequest`).
    async fn ask(
        &self,
        Controller { url, via }: &Controller,
        client: Key,
        from: IpAddr,
    ) -> Result<(), String> {
        let body = serde_json::json!({ "NodePublic": client.to_string(), "Source": from });
        let request = Request {
            method: Method::Post,
            headers: vec![("content-type".into(), "application/json".into())],
            body: body.to_string().into(),
            via: Some(via.clone()),
            timeout: PATIENCE,
            body_limit: MAX_ANSWER,
            ..Request::get(url)
        };
        let answer = self.http.fetch(request).await.map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("admission controller: status {}", answer.status));
        }
        if allows(&answer.body) {
            Ok(())
        } else {
            Err(format!("admission controller: {client}/{from} not allowed"))
        }
    }
}

/// Whether an answer is yes. Names in any case of letters, as Go reads them.
fn allows(body: &[u8]) -> bool {
    // One value; what stands behind it is not looked at.
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<serde_json::Value>();
    let Some(Ok(serde_json::Value::Object(members))) = values.next() else { return false };
    let found = members.iter().rfind(|(name, _)| name.eq_ignore_ascii_case("allow"));
    found.and_then(|(_, allow)| allow.as_bool()).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        assert!(allows(br#"{"Allow":true}"#));
        assert!(allows(b"{\"allow\":true,\"x\":1}\n{}"));
        for no in ["", "true", "[]", "{}", r#"{"Allow":1}"#, r#"{"Allow":true,"allow":false}"#] {
            assert!(!allows(no.as_bytes()), "{no}");
        }
    }
}
