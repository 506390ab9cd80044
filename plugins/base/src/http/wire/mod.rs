//! HTTP/1.1 as a forward proxy speaks it, without IO: heads, framing of bodies, CONNECT.
//!
//! Sources: RFC 9110 (semantics), RFC 9112 (messages), RFC 7617 (Basic).

mod auth;
mod body;
mod connect;
mod head;
mod request;
mod response;

pub use auth::basic;
pub use body::{Body, BodyError, Chunks, Taken};
pub use connect::{Connect, ConnectError, ConnectOptions, PathError, read_connect_answer};
pub use head::{HeadError, MAX_HEAD, find_head, plausible_request};
pub use request::{Incoming, Kind, Refusal, read_request};
pub(crate) use response::established;
pub use response::{Answer, AnswerError, Exchange, Status, read_response};

#[cfg(test)]
mod tests;
