//! Texts in URLs.

/// Undoes percent-encoding (RFC 3986 §2.1). `None`: it is broken, or no text comes of it.
pub(crate) fn undo(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        };
        out.push(byte);
    }
    String::from_utf8(out).ok()
}
