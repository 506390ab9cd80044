//! The language of the control socket: one JSON object a line, a request and then its response, any number of times on
//! one connection.
//!
//! ```text
//! → {"v":1,"method":"restart","component":"inbound/in"}
//! ← {"v":1,"ok":true,"result":{"epoch":2}}
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the protocol. It grows when an older side would misunderstand; new members do not count.
pub const VERSION: u32 = 1;

/// Longest request line in bytes.
pub const MAX_REQUEST: usize = 64 * 1024;

/// Longest response line in bytes that a client takes: about 200,000 connections.
pub const MAX_RESPONSE: u64 = 64 * 1024 * 1024;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`] of the client; taken as the current one where it is missing.
    #[serde(default = "version")]
    pub v: u32,
    /// What is asked.
    #[serde(flatten)]
    pub call: Call,
}

fn version() -> u32 {
    VERSION
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Call {
    /// Where everything stands: [`StatusReply`].
    Status,
    /// Read the configuration anew and apply the difference: [`ReloadReply`].
    Reload,
    /// Put a fresh instance of one component in force: [`RestartReply`].
    Restart {
        /// `KIND/TAG`, e.g. `inbound/in`.
        component: String,
    },
    /// Live connections: [`ConnectionsReply`].
    Connections,
    /// End one connection: [`CountReply`].
    Close {
        /// Its number.
        id: u64,
    },
    /// Stop accepting, let connections end, cut what is left at the deadline, end the process: [`CountReply`] with the
    /// number of connections that were cut.
    Drain {
        /// The deadline in milliseconds.
        #[serde(default = "drain_default")]
        timeout_ms: u64,
    },
    /// Outbounds that choose among others: [`GroupsReply`].
    Groups,
    /// Choose a member of a selector: [`GroupInfo`].
    Select {
        /// Tag of the group.
        group: String,
        /// Tag of the member.
        member: String,
    },
}

/// Drain deadline when none is named.
pub const DRAIN_DEFAULT_MS: u64 = 30_000;

fn drain_default() -> u64 {
    DRAIN_DEFAULT_MS
}

/// One response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// [`VERSION`] of the daemon.
    pub v: u32,
    /// Whether the request was carried out.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The answer; a refused reload has one as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
}

impl Response {
    /// Carried out.
    pub fn done(result: impl Into<Reply>) -> Self {
        Self { v: VERSION, ok: true, error: None, result: Some(result.into().to_value()) }
    }

    /// Refused.
    pub fn refused(why: impl Into<String>) -> Self {
        Self { v: VERSION, ok: false, error: Some(why.into()), result: None }
    }
}

macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident($body:ty);)*) => {
        /// Any answer.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        #[serde(untagged)]
        pub enum Reply {
            $($(#[$doc])* $name($body),)*
        }
        $(impl From<$body> for Reply {
            fn from(body: $body) -> Self {
                Self::$name(body)
            }
        })*
    };
}

replies! {
    /// To `status`.
    Status(StatusReply);
    /// To `reload`.
    Reload(ReloadReply);
    /// To `restart`.
    Restart(RestartReply);
    /// To `connections`.
    Connections(ConnectionsReply);
    /// To `close` and `drain`.
    Count(CountReply);
    /// To `groups`.
    Groups(GroupsReply);
    /// To `select`.
    Group(GroupInfo);
}

impl Reply {
    fn to_value(&self) -> Value {
        // Maps with string keys and numbers only: cannot fail.
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

/// Where everything stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Milliseconds since start.
    pub uptime_ms: u64,
    /// Committed configurations, from 1.
    pub generation: u64,
    /// Live connections.
    pub connections: usize,
    /// Listening sockets of inbounds.
    pub sockets: usize,
    /// Payload bytes from clients since start.
    pub up: u64,
    /// Payload bytes to clients since start.
    pub down: u64,
    /// Of both, bytes that were moved from socket to socket without a copy.
    #[serde(default)]
    pub spliced: u64,
    /// Components in start order, then old instances that still serve their last connections (`draining`).
    pub components: Vec<ComponentInfo>,
}

/// One component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentInfo {
    /// `inbound`, `outbound`, `endpoint`, `dns` or `service`.
    pub kind: String,
    /// The protocol.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The tag, or the index of an untagged component.
    pub tag: String,
    /// `starting`, `up`, `backoff`, `degraded` or `draining`.
    pub state: String,
    /// Counts instances, from 1; 0 before the first.
    pub epoch: u64,
    /// Restarts after failures.
    pub restarts: u64,
    /// Why it failed last.
    pub last_error: Option<String>,
}

/// What became of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReply {
    /// The generation now in force.
    pub generation: u64,
    /// Whether the new configuration is in force. If not, nothing has changed.
    pub committed: bool,
    /// Why not.
    pub error: Option<String>,
    /// What became of each component.
    pub components: Vec<ComponentOutcome>,
    /// Parts that are no components and have changed: `route`, `dns`, `log`, …
    pub changed: Vec<String>,
}

/// What became of one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentOutcome {
    /// As in [`ComponentInfo`].
    pub kind: String,
    /// As in [`ComponentInfo`].
    pub tag: String,
    /// `kept`, `reconfigured`, `replaced`, `added`, `removed` or `failed`.
    pub outcome: String,
    /// Why it failed.
    pub error: Option<String>,
}

/// A component was restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartReply {
    /// The instance now in force.
    pub epoch: u64,
}

/// Live connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionsReply {
    /// Oldest first.
    pub connections: Vec<ConnectionInfo>,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// Its number, as in the log.
    pub id: u64,
    /// `tcp` or `udp`.
    pub network: String,
    /// The inbound that accepted it: `inbound/mixed[in]`.
    pub inbound: String,
    /// The client.
    pub source: String,
    /// Where it goes.
    pub target: String,
    /// The authenticated user.
    pub user: Option<String>,
    /// The outbounds it goes through, outermost first.
    pub outbounds: Vec<String>,
    /// Milliseconds since it was accepted.
    pub age_ms: u64,
    /// Payload bytes from the client.
    pub up: u64,
    /// Payload bytes to the client.
    pub down: u64,
    /// Of both, bytes that were moved from socket to socket without a copy.
    #[serde(default)]
    pub spliced: u64,
}

/// How many connections a request has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountReply {
    /// Connections that were cut.
    pub closed: usize,
}

/// Outbounds that choose among others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupsReply {
    /// Sorted by tag.
    pub groups: Vec<GroupInfo>,
}

/// One group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    /// Its tag.
    pub tag: String,
    /// Its protocol, e.g. `selector`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The member in use.
    pub selected: Option<String>,
    /// All members.
    pub members: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_documented() {
        let request: Request =
            serde_json::from_str(r#"{"v":1,"method":"restart","component":"inbound/in"}"#).unwrap();
        assert_eq!(request.call, Call::Restart { component: "inbound/in".to_owned() });
        let request: Request = serde_json::from_str(r#"{"method":"drain"}"#).unwrap();
        assert_eq!(request, Request { v: VERSION, call: Call::Drain { timeout_ms: 30_000 } });
        assert!(serde_json::from_str::<Request>(r#"{"method":"fly"}"#).is_err());
        assert!(serde_json::from_str::<Request>("[]").is_err());
    }

    #[test]
    fn responses_are_one_flat_object() {
        let text = serde_json::to_string(&Response::done(RestartReply { epoch: 2 })).unwrap();
        assert_eq!(text, r#"{"v":1,"ok":true,"result":{"epoch":2}}"#);
        let text = serde_json::to_string(&Response::refused("no")).unwrap();
        assert_eq!(text, r#"{"v":1,"ok":false,"error":"no"}"#);
    }
}
