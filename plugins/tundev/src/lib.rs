//! TUN interfaces of the system: opened, set up, read and written in batches with segmentation offload.
//!
//! ```text
//! Tun::open ── name, MTU, addresses, up ──► Reader::read ──► Packets ──► a tunnel or a stack
//!                                           Tun::write  ◄── packets ◄────┘
//! ```
//! The interface belongs to the [`Tun`]: it is gone when the last owner of that drops it. Only [`scope::Scope`] puts
//! something into the system that the interface does not take with it, and takes it away when it is dropped.
//!
//! | module | what it is |
//! |---|---|
//! | [`device`] | the interface |
//! | [`offload`] | large packets, cut and put together; sans-IO |
//! | [`scope`] | routes for sockets that are bound to the interface, and for nobody else |

pub mod device;
pub mod offload;
pub mod scope;

pub use device::{Name, OpenError, Reader, Settings, Tun, check_name};
pub use scope::Scope;
