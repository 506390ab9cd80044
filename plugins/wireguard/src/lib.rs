//! WireGuard in user space: endpoint `wireguard`, and the outbound of that name in old configurations.
//!
//! ```text
//! app ── TcpStream ──► Netstack ──► Device ──► peer: encrypt ──► Outer (UDP socket, or a detour)
//! router ◄── Handler ◄── Netstack ◄── Device ◄── peer: decrypt ◄──┘
//! ```
//!
//! Everything from the stack to the socket runs in the task that wrote; what comes in runs in the task that receives.
//! The [`device`] is the data plane: it belongs to its component and to the flows through it, so that they
//! outlive an instance that fails. The component itself only routes new flows and takes changed peers.
//!
//! | module | what it is |
//! |---|---|
//! | `options`, `endpoint`, `legacy` | configuration, component, the old outbound |
//! | `running` | a device at work: tasks, and how long they live |
//! | [`device`] | data plane: packets between stack and peers, timers |
//! | `peers` | who there is, and which addresses are whose |
//! | `names` | peers that are configured by name |
//! | `tunnel` | the protocol towards one peer (boringtun) |
//! | `outer` | what carries the datagrams |
//! | `workers` | decryption on several cores |
//! | `system` | an interface of the system in place of the stack |
//! | `keys` | keys in base64 |
//! | [`lab`] | two devices without a network, for tests |

// A daemon with this clock would never do anything.
#[cfg(all(feature = "fake-clock", not(test)))]
compile_error!("feature `fake-clock` is for this crate's own tests: cargo test --lib");

#[cfg(feature = "wireguard")]
pub mod device;
#[cfg(feature = "wireguard")]
mod endpoint;
#[cfg(feature = "wireguard")]
mod keys;
#[cfg(feature = "wireguard")]
pub mod lab;
#[cfg(feature = "wireguard")]
mod legacy;
#[cfg(feature = "wireguard")]
mod names;
#[cfg(feature = "wireguard")]
mod options;
#[cfg(feature = "wireguard")]
mod outer;
#[cfg(feature = "wireguard")]
mod peers;
#[cfg(feature = "wireguard")]
mod running;
#[cfg(feature = "wireguard")]
mod system;
#[cfg(all(test, feature = "wireguard"))]
mod tests;
#[cfg(feature = "wireguard")]
mod tunnel;
#[cfg(feature = "wireguard")]
mod workers;

#[cfg(feature = "wireguard")]
pub use options::{WireGuardOptions, WireGuardPeer};
