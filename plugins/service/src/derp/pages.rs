//! What a DERP server answers to plain HTTP requests (service/derp/service.go of the reference; tailscale
//! `derp/derpserver/handler.go`).

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use crosspoint_kernel::{resolve::Lookup, snapshot::Plane};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;

pub(super) type Answer = Response<Full<Bytes>>;

/// How long a name may take to be resolved for a client.
const LOOKUP: Duration = Duration::from_secs(10);

/// Longest name (RFC 1035 §2.3.4).
const MAX_NAME: usize = 253;

/// Longest challenge that is answered.
const MAX_CHALLENGE: usize = 64;

/// What browsers are told of every page (tailscale `tsweb.AddBrowserHeaders`).
const BROWSER: [(HeaderName, &str); 4] = [
    (header::STRICT_TRANSPORT_SECURITY, "max-age=63072000; includeSubDomains"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'; \
         block-all-mixed-content; object-src 'none'",
    ),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

const HOME: &str = "<!doctype html>
<title>DERP</title>
<h1>DERP</h1>
<p>This server relays encrypted packets between nodes of <a href=\"https://tailscale.com/\">Tailscale</a> networks that
find no direct way to each other, and tells them their addresses (STUN). It cannot read what it relays.</p>
<p><a href=\"https://tailscale.com/kb/1232/derp-servers\">About DERP</a></p>
";

/// What `/` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Page,
    Blank,
    Redirect(HeaderValue),
}

impl Home {
    /// What the option says; `None`: nothing that is known.
    pub(super) fn parse(option: &str) -> Option<Self> {
        match option {
            "" => Some(Self::Page),
            "blank" => Some(Self::Blank),
            url if url.starts_with("http://") || url.starts_with("https://") => {
                HeaderValue::from_str(url).ok().map(Self::Redirect)
            }
            _ => None,
        }
    }
}

/// The pages of a server.
pub(super) struct Pages {
    pub(super) home: Home,
    pub(super) plane: Arc<Plane>,
}

/// An answer without a body.
fn status(status: StatusCode) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = status;
    answer
}

/// A line of text.
fn text(code: StatusCode, text: &'static str) -> Answer {
    let mut answer = status(code);
    set(answer.headers_mut(), header::CONTENT_TYPE, "text/plain; charset=utf-8");
    set(answer.headers_mut(), header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    *answer.body_mut() = Full::new(Bytes::from_static(text.as_bytes()));
    answer
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

fn for_browsers(mut answer: Answer) -> Answer {
    for (name, value) in BROWSER {
        set(answer.headers_mut(), name, value);
    }
    answer
}

impl Pages {
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Answer {
        match request.uri().path() {
            // Upgrades do not come here.
            "/derp" => text(StatusCode::UPGRADE_REQUIRED, "DERP requires connection upgrade\n"),
            "/derp/probe" | "/derp/latency-check" => probe(request.method()),
            "/bootstrap-dns" => for_browsers(self.bootstrap(request.uri().query()).await),
            "/generate_204" => no_content(request.headers()),
            "/robots.txt" => for_browsers(text(StatusCode::OK, "User-agent: *\nDisallow: /\n")),
            _ => for_browsers(self.home()),
        }
    }

    fn home(&self) -> Answer {
        let mut answer = match &self.home {
            Home::Redirect(url) => {
                let mut answer = status(StatusCode::FOUND);
                answer.headers_mut().insert(header::LOCATION, url.clone());
                return answer;
            }
            Home::Page | Home::Blank => status(StatusCode::OK),
        };
        set(answer.headers_mut(), header::CONTENT_TYPE, "text/html; charset=utf-8");
        if self.home == Home::Page {
            *answer.body_mut() = Full::new(Bytes::from_static(HOME.as_bytes()));
        }
        answer
    }

    /// The addresses of a name, for nodes that have no DNS yet.
    async fn bootstrap(&self, query: Option<&str>) -> Answer {
        let mut answer = match asked(query.unwrap_or_default()) {
            None => with_json(&serde_json::json!({})),
            Some(name) => match self.lookup(&name).await {
                Some(addresses) => with_json(&serde_json::json!({ name: addresses })),
                None => status(StatusCode::INTERNAL_SERVER_ERROR),
            },
        };
        set(answer.headers_mut(), header::CONTENT_TYPE, "application/json");
        set(answer.headers_mut(), header::CONNECTION, "close");
        answer
    }

    async fn lookup(&self, name: &str) -> Option<Vec<IpAddr>> {
        if name.len() > MAX_NAME {
            return None;
        }
        let resolver = self.plane.resolver();
        tokio::time::timeout(LOOKUP, resolver.lookup(Lookup::new(name))).await.ok()?.ok()
    }
}

fn with_json(value: &serde_json::Value) -> Answer {
    let mut answer = status(StatusCode::OK);
    *answer.body_mut() = Full::new(value.to_string().into());
    answer
}

/// The first `q` of a query.
fn asked(query: &str) -> Option<String> {
    let values = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = { values }.find(|(name, _)| *name == "q")?;
    let plain = crate::escape::undo(&value.replace('+', " "))?;
    (!plain.is_empty()).then_some(plain)
}

/// What clients without UDP measure instead of STUN.
fn probe(method: &Method) -> Answer {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "bogus probe method\n");
    }
    let mut answer = status(StatusCode::OK);
    set(answer.headers_mut(), header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    answer
}

/// What nodes find captive portals by: those do not know how to answer.
fn no_content(headers: &HeaderMap) -> Answer {
    let mut answer = status(StatusCode::NO_CONTENT);
    let challenge = headers.get("x-tailscale-challenge").and_then(|value| value.to_str().ok());
    let known = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    if let Some(challenge) = challenge
        .filter(|text| (1..=MAX_CHALLENGE).contains(&text.len()) && text.chars().all(known))
        && let Ok(response) = HeaderValue::from_str(&format!("response {challenge}"))
    {
        answer.headers_mut().insert("x-tailscale-response", response);
    }
    let caching = "no-cache, no-store, must-revalidate, no-transform, max-age=0";
    set(answer.headers_mut(), header::CACHE_CONTROL, caching);
    answer
}

#[cfg(test)]
mod tests {
    use crosspoint_kernel::snapshot::Snapshot;
    use http_body_util::BodyExt as _;

    use super::*;

    async fn ask(home: &str, request: Request<()>) -> (u16, HeaderMap, String) {
        let plane = Arc::new(Plane::new(Snapshot::empty()));
        let pages = Pages { home: Home::parse(home).unwrap(), plane };
        let answer = pages.answer(&request).await;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    fn get(path: &str) -> Request<()> {
        Request::get(path).body(()).unwrap()
    }

    #[tokio::test]
    async fn home_is_what_the_option_says() {
        let (status, headers, body) = ask("", get("/")).await;
        assert_eq!((status, body.as_str()), (200, HOME));
        assert_eq!(headers["x-frame-options"], "DENY");
        let (status, headers, body) = ask("blank", get("/anything")).await;
        assert_eq!((status, body.as_str()), (200, ""));
        assert_eq!(headers["content-type"], "text/html; charset=utf-8");
        let (status, headers, _) = ask("https://example.org/x", get("/")).await;
        assert_eq!(
            (status, &headers["location"]),
            (302, &"https://example.org/x".parse().unwrap())
        );
        for bad in ["ftp://a", "Blank", "https://a\nb"] {
            assert_eq!(Home::parse(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn probes_and_challenges() {
        for path in ["/derp/probe", "/derp/latency-check"] {
            let (status, headers, body) = ask("", get(path)).await;
            assert_eq!((status, body.as_str()), (200, ""));
            assert_eq!(headers["access-control-allow-origin"], "*");
            let (status, ..) = ask("", Request::post(path).body(()).unwrap()).await;
            assert_eq!(status, 405);
        }
        let challenge = async |text: &str| {
            let request = Request::get("/generate_204").header("X-Tailscale-Challenge", text);
            let (status, headers, _) = ask("", request.body(()).unwrap()).await;
            assert_eq!(status, 204);
            headers.get("x-tailscale-response").map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(challenge("ts_a.b-c:1").await.unwrap(), "response ts_a.b-c:1");
        assert_eq!(challenge("a b").await, None);
        assert_eq!(challenge("<x>").await, None);
        assert_eq!(challenge(&"a".repeat(65)).await, None);
        assert_eq!(ask("", get("/generate_204")).await.0, 204);
        let (status, _, body) = ask("", get("/derp")).await;
        assert_eq!((status, body.as_str()), (426, "DERP requires connection upgrade\n"));
        let (status, _, body) = ask("", get("/robots.txt")).await;
        assert_eq!((status, body.as_str()), (200, "User-agent: *\nDisallow: /\n"));
    }

    #[tokio::test]
    async fn names_for_nodes_without_dns() {
        let (status, headers, body) = ask("", get("/bootstrap-dns")).await;
        assert_eq!((status, body.as_str()), (200, "{}"));
        assert_eq!(headers["connection"], "close");
        assert_eq!(headers["content-type"], "application/json");
        // The empty plane has no resolver.
        assert_eq!(ask("", get("/bootstrap-dns?q=a.test")).await.0, 500);
        assert_eq!(asked("x=1&q=a%2Eb&q=c"), Some("a.b".to_owned()));
        assert_eq!(asked("q="), None);
        assert_eq!(asked("q=%zz"), None);
    }
}
