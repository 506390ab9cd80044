//! The interface: what each request answers (http-api of the reference, `service/ssmapi/api.go`).

use std::sync::Arc;

use bytes::Bytes;
use crosspoint_kernel::users::{Traffic, User, UsersError};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Body;
use serde::Serialize;

use super::{
    inbounds::{ChangeError, Managed},
    request::{self, Resource},
};

/// Longest body of a request.
const BODY: usize = 64 * 1024;

/// What the interface calls itself.
const SERVER: &str = concat!("crosspoint ", env!("CARGO_PKG_VERSION"));

/// One endpoint.
pub(super) struct Endpoint {
    /// The path as configured, which is its name in the cache file.
    pub(super) path: String,
    pub(super) inbound: Arc<Managed>,
}

/// All endpoints.
pub(super) struct Api(pub(super) Vec<Endpoint>);

pub(super) type Answer = Response<Full<Bytes>>;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserObject<'a> {
    username: &'a str,
    #[serde(rename = "uPSK", skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    downlink_bytes: u64,
    uplink_bytes: u64,
    downlink_packets: u64,
    uplink_packets: u64,
    #[serde(rename = "tcpSessions")]
    tcp: u64,
    #[serde(rename = "udpSessions")]
    udp: u64,
}

impl<'a> UserObject<'a> {
    fn new(user: &'a User, with_secret: bool, traffic: Traffic) -> Self {
        let secret = user.secret.expose();
        Self {
            username: &user.name,
            secret: (with_secret && !secret.is_empty()).then_some(secret),
            downlink_bytes: traffic.down,
            uplink_bytes: traffic.up,
            downlink_packets: traffic.down_packets,
            uplink_packets: traffic.up_packets,
            tcp: traffic.tcp,
            udp: traffic.udp,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats<'a> {
    downlink_bytes: u64,
    downlink_packets: u64,
    #[serde(rename = "tcpSessions")]
    tcp: u64,
    #[serde(rename = "udpSessions")]
    udp: u64,
    uplink_bytes: u64,
    uplink_packets: u64,
    users: Vec<UserObject<'a>>,
}

fn json(value: &impl Serialize) -> Answer {
    // Texts and numbers only: nothing in it can fail.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    with(StatusCode::OK, "application/json", text)
}

fn text(status: StatusCode, text: impl ToString) -> Answer {
    with(status, "text/plain; charset=utf-8", text.to_string().into())
}

fn with(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = status_only(status);
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    *answer.body_mut() = Full::new(body.into());
    answer
}

fn status_only(status: StatusCode) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = status;
    answer
}

/// Methods that a resource has.
fn methods(resource: &Resource) -> &'static [Method] {
    match resource {
        Resource::Info | Resource::Stats => &[Method::GET],
        Resource::Users => &[Method::GET, Method::POST],
        Resource::User(_) => &[Method::GET, Method::PUT, Method::DELETE],
    }
}

impl Api {
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body + Send,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let uri = request.uri();
        let prefixes = self.0.iter().map(|endpoint| request::prefix(&endpoint.path));
        let Some((at, resource)) = request::route(prefixes, uri.path()) else {
            let mut answer = text(StatusCode::NOT_FOUND, "404 page not found\n");
            let nosniff = header::HeaderValue::from_static("nosniff");
            answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
            return answer;
        };
        let Some(Endpoint { inbound, .. }) = self.0.get(at) else {
            return status_only(StatusCode::NOT_FOUND);
        };
        let method = request.method().clone();
        let allowed = methods(&resource);
        if !allowed.contains(&method) {
            let mut answer = status_only(StatusCode::METHOD_NOT_ALLOWED);
            for method in allowed {
                if let Ok(value) = method.as_str().parse() {
                    answer.headers_mut().append(header::ALLOW, value);
                }
            }
            return answer;
        }
        let clear = request::clears(uri.query());
        match (resource, method) {
            (Resource::Info, _) => {
                json(&serde_json::json!({ "apiVersion": "v1", "server": SERVER }))
            }
            (Resource::Stats, _) => stats(inbound, clear),
            (Resource::Users, Method::POST) => {
                let body = match read(request.into_body()).await {
                    Ok(body) => body,
                    Err(answer) => return answer,
                };
                let user = User { name: body.name.as_str().into(), secret: body.secret };
                changed(inbound.add(user).await, StatusCode::CREATED)
            }
            (Resource::Users, _) => {
                let users = inbound.users();
                let users: Vec<_> = users
                    .iter()
                    .map(|user| UserObject::new(user, true, Traffic::default()))
                    .collect();
                json(&serde_json::json!({ "users": users }))
            }
            (Resource::User(name), Method::PUT) => {
                let body = match read(request.into_body()).await {
                    Ok(body) => body,
                    Err(answer) => return answer,
                };
                let user = User { name: name.into(), secret: body.secret };
                changed(inbound.update(user).await, StatusCode::NO_CONTENT)
            }
            (Resource::User(name), Method::DELETE) => {
                changed(inbound.delete(&name).await, StatusCode::NO_CONTENT)
            }
            (Resource::User(name), _) => {
                let users = inbound.users();
                match users.iter().find(|user| *user.name == *name) {
                    Some(user) => json(&UserObject::new(user, true, inbound.traffic(&name))),
                    None => status_only(StatusCode::NOT_FOUND),
                }
            }
        }
    }
}

fn stats(inbound: &Managed, clear: bool) -> Answer {
    let (users, sums) = (inbound.users(), inbound.sums(clear));
    let traffic = |user: &User| sums.users.get(&user.name).copied().unwrap_or_default();
    json(&Stats {
        downlink_bytes: sums.all.down,
        downlink_packets: sums.all.down_packets,
        tcp: sums.all.tcp,
        udp: sums.all.udp,
        uplink_bytes: sums.all.up,
        uplink_packets: sums.all.up_packets,
        users: users.iter().map(|user| UserObject::new(user, false, traffic(user))).collect(),
    })
}

async fn read<B>(body: B) -> Result<request::Body, Answer>
where
    B: Body + Send,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let bytes = match Limited::new(body, BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(text(StatusCode::PAYLOAD_TOO_LARGE, error));
        }
        Err(error) => return Err(text(StatusCode::BAD_REQUEST, error)),
    };
    request::body(&bytes).map_err(|error| text(StatusCode::BAD_REQUEST, error))
}

fn changed(result: Result<(), ChangeError>, done: StatusCode) -> Answer {
    match result {
        Ok(()) => status_only(done),
        Err(ChangeError::Unknown(_)) => status_only(StatusCode::NOT_FOUND),
        Err(error @ ChangeError::Users(UsersError::Down(_))) => {
            text(StatusCode::SERVICE_UNAVAILABLE, error)
        }
        Err(error) => text(StatusCode::BAD_REQUEST, error),
    }
}
