//! Clients and servers of `http` and `grpc` against each other, and against peers that misbehave.

mod abuse;
mod house;
mod life;
mod streams;
