//! User ids of VMess and VLESS: a UUID, or any text, which stands for one.

/// A UUID.
pub type Uuid = [u8; 16];

/// The id that a text means. What is no UUID, in one of the ways of writing that gofrs/uuid v5 knows (with and without
/// hyphens, in braces, as a URN), means the UUIDv5 of the text in the nil name space, as in the reference.
#[must_use]
pub fn id(text: &str) -> Uuid {
    parse(text).unwrap_or_else(|| named(text))
}

fn parse(text: &str) -> Option<Uuid> {
    let bytes = text.as_bytes();
    let digits = match bytes.len() {
        32 | 36 => bytes,
        34 | 38 => bytes.strip_prefix(b"{")?.strip_suffix(b"}")?,
        41 | 45 => bytes.strip_prefix(b"urn:uuid:")?,
        _ => return None,
    };
    let mut id = [0; 16];
    let mut digits = digits.iter();
    let hyphens = digits.len() == 36;
    for (at, byte) in id.iter_mut().enumerate() {
        if hyphens && matches!(at, 4 | 6 | 8 | 10) && digits.next() != Some(&b'-') {
            return None;
        }
        for _ in 0..2 {
            let digit = char::from(*digits.next()?).to_digit(16)?;
            *byte = *byte << 4 | digit as u8;
        }
    }
    Some(id)
}

/// The UUIDv5 (RFC 9562 §5.5) of a name in the nil name space.
fn named(name: &str) -> Uuid {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(&[0; 16]);
    hash.update(name.as_bytes());
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(hash.finish().as_ref()) {
        *to = *from;
    }
    id[6] = id[6] & 0x0f | 0x50;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = [
        0xb8, 0x31, 0x38, 0x1d, 0x63, 0x24, 0x4d, 0x53, 0xad, 0x4f, 0x8c, 0xda, 0x48, 0xb3, 0x08,
        0x11,
    ];

    #[test]
    fn all_ways_of_writing() {
        for text in [
            "b831381d-6324-4d53-ad4f-8cda48b30811",
            "B831381D63244D53AD4F8CDA48B30811",
            "{b831381d-6324-4d53-ad4f-8cda48b30811}",
            "{b831381d63244d53ad4f8cda48b30811}",
            "urn:uuid:b831381d-6324-4d53-ad4f-8cda48b30811",
            "urn:uuid:b831381d63244d53ad4f8cda48b30811",
        ] {
            assert_eq!(id(text), ID, "{text}");
        }
    }

    #[test]
    fn other_text_is_hashed() {
        // python3 -c 'import uuid; print(uuid.uuid5(uuid.UUID(int=0), "sekai"))'
        assert_eq!(id("sekai"), id("b5113ebd-ef90-56f3-843a-5b86956d5197"));
        for text in
            ["", "b831381d-6324-4d53-ad4f-8cda48b3081g", "b831381d_6324-4d53-ad4f-8cda48b30811"]
        {
            assert_eq!(id(text)[6] >> 4, 5, "{text}");
        }
    }
}
