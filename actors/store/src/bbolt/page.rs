//! Pages and what is on them.

/// Bytes before the elements.
pub(super) const HEADER: usize = 16;
/// Begins the contents of a meta page.
pub(super) const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// Bytes of a meta without its checksum.
const META: usize = 56;
/// Bytes of an element of either kind.
pub(super) const ELEMENT: usize = 16;

const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const BUCKET: u32 = 1;

/// What the valid meta page says.
pub(super) struct Meta {
    pub(super) page_size: usize,
    pub(super) root: u64,
    transaction: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_le_bytes)
}

/// The valid meta page of the last transaction. The second one lies a page behind the first, whose size is not known
/// if the first one is damaged.
pub(super) fn meta(bytes: &[u8]) -> Option<Meta> {
    let first = meta_at(bytes, 0);
    let second = match &first {
        Some(first) => meta_at(bytes, first.page_size),
        None => (9..=20).find_map(|bits| meta_at(bytes, 1 << bits)),
    };
    match (first, second) {
        (Some(first), Some(second)) if second.transaction > first.transaction => Some(second),
        (Some(first), _) => Some(first),
        (None, second) => second,
    }
}

fn meta_at(bytes: &[u8], at: usize) -> Option<Meta> {
    let meta = bytes.get(at.checked_add(HEADER)?..)?.get(..META + 8)?;
    if u32_at(meta, 0)? != MAGIC || u32_at(meta, 4)? != VERSION {
        return None;
    }
    if u64_at(meta, META)? != fnv(meta.get(..META)?) {
        return None;
    }
    let page_size = usize::try_from(u32_at(meta, 8)?).ok()?;
    let sound = page_size.is_power_of_two() && (512..=1 << 20).contains(&page_size);
    (sound && (at == 0 || at == page_size)).then_some(Meta {
        page_size,
        root: u64_at(meta, 16)?,
        transaction: u64_at(meta, 48)?,
    })
}

/// FNV-1a, 64 bits.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Page and inline contents of a bucket.
pub(super) fn bucket(value: &[u8]) -> Option<(u64, &[u8])> {
    Some((u64_at(value, 0)?, value.get(16..)?))
}

/// One page with what overflows from it.
pub(super) struct Page<'a> {
    pub(super) id: u64,
    flags: u16,
    count: u16,
    bytes: &'a [u8],
}

/// One element of a leaf.
pub(super) struct Element<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
    /// The value is a bucket.
    pub(super) bucket: bool,
}

impl<'a> Page<'a> {
    /// The page of a number.
    pub(super) fn at(bytes: &'a [u8], size: usize, id: u64) -> Option<Self> {
        let start = usize::try_from(id).ok()?.checked_mul(size)?;
        let rest = bytes.get(start..)?;
        let overflow = usize::try_from(u32_at(rest, 12)?).ok()?;
        let length = overflow.checked_add(1)?.checked_mul(size)?;
        let page = Self::inline(rest.get(..length)?)?;
        (page.id == id).then_some(page)
    }

    /// A page that lies in a value.
    pub(super) fn inline(bytes: &'a [u8]) -> Option<Self> {
        let (id, flags, count) = (u64_at(bytes, 0)?, u16_at(bytes, 8)?, u16_at(bytes, 10)?);
        bytes.get(HEADER..)?;
        Some(Self { id, flags, count, bytes })
    }

    pub(super) fn is_branch(&self) -> bool {
        self.flags & BRANCH != 0
    }

    pub(super) fn is_leaf(&self) -> bool {
        self.flags & LEAF != 0
    }

    /// Where the elements begin. None begins outside of the page.
    fn starts(&self) -> impl Iterator<Item = usize> + use<'a> {
        (0..usize::from(self.count)).map(|index| HEADER + index * ELEMENT)
    }

    /// Pages below a branch.
    pub(super) fn children(&self) -> impl Iterator<Item = Option<u64>> + use<'a> {
        let bytes = self.bytes;
        self.starts().map(move |at| u64_at(bytes, at + 8))
    }

    /// Keys and values of a leaf.
    pub(super) fn elements(&self) -> impl Iterator<Item = Option<Element<'a>>> + use<'a> {
        let bytes = self.bytes;
        self.starts().map(move |at| {
            let number = |field: usize| usize::try_from(u32_at(bytes, at + field)?).ok();
            let key_at = at.checked_add(number(4)?)?;
            let value_at = key_at.checked_add(number(8)?)?;
            Some(Element {
                key: bytes.get(key_at..value_at)?,
                value: bytes.get(value_at..value_at.checked_add(number(12)?)?)?,
                bucket: u32_at(bytes, at)? & BUCKET != 0,
            })
        })
    }
}
