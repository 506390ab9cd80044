//! Users with a name and a password.

use crate::decode::Secret;
use crate::options;

options! {
    /// A user of an inbound. The reference prints the keys capitalised and reads any case.
    pub struct AuthUser ("auth.User") {
        /// Name of the user.
        pub username: String = "Username" always,
        /// Password of the user.
        pub password: Secret = "Password" always,
    }
}
