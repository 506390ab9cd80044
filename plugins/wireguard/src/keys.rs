//! Keys as configurations write them: 32 bytes in base64.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use crosspoint_kernel::BuildError;

/// A key.
pub(crate) type Key = [u8; 32];

/// Reads a key; `what` names it in the error, which never shows the key.
///
/// # Errors
/// It is not base64, or not 32 bytes.
pub(crate) fn parse(what: &str, text: &str) -> Result<Key, BuildError> {
    let bytes = BASE64_STANDARD
        .decode(text)
        .map_err(|error| BuildError::options(format!("decode {what}: {}", describe(&error))))?;
    let len = bytes.len();
    bytes.try_into().map_err(|_| BuildError::options(format!("{what} has {len} bytes, needs 32")))
}

/// The reason without the byte that is wrong: it is part of a secret.
fn describe(error: &base64::DecodeError) -> String {
    match error {
        base64::DecodeError::InvalidByte(at, _)
        | base64::DecodeError::InvalidLastSymbol { offset: at, .. } => {
            format!("illegal base64 data at input byte {at}")
        }
        _ => "illegal base64 data: wrong length or padding".to_owned(),
    }
}
