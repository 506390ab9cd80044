//! Options of the selector.

use crosspoint_schema::options;

options! {
    /// A group whose member is chosen by hand.
    pub struct SelectorOptions ("option.SelectorOutboundOptions") {
        /// Tags of the members.
        pub outbounds: Vec<String> = "outbounds" always,
        /// The member to start with; the first one if unset.
        pub default: String = "default",
        /// Cut connections of clients when another member is chosen.
        pub interrupt_exist_connections: bool = "interrupt_exist_connections",
    }
}
