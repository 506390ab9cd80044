//! Reads files of bbolt, the store of the reference. Read only, from bytes in memory, safe on any bytes.
//!
//! The format, from bbolt's source (`internal/common/{page,meta,inode,bucket}.go`, Go types written as they lie in
//! memory; the reference runs on little-endian machines):
//! * A page: id u64, flags u16 (1 branch, 2 leaf, 4 meta, 16 free list), count u16, overflow u32 (further pages that
//!   belong to it), then elements.
//! * Pages 0 and 1 are meta: magic `0xED0CDAED`, version 2, page size, flags (u32 each), root bucket (page u64,
//!   sequence u64), free list u64, number of pages u64, transaction u64, FNV-1a of all that u64. The valid one of the
//!   greater transaction counts.
//! * A branch element: offset of the key from the element u32, its length u32, child page u64.
//! * A leaf element: flags u32 (1: the value is a bucket), offset of the key u32, length of the key u32, length of
//!   the value u32; the value lies behind the key.
//! * A bucket: page u64, sequence u64. Page 0 means that a leaf page follows right here.

mod page;

use std::collections::HashSet;

use self::page::{Element, Page};

/// Bytes that [`is_bbolt`] wants to see.
pub const HEAD: usize = page::HEADER + 4;

/// Buckets inside buckets.
const MAX_DEPTH: usize = 8;
/// Branches above a leaf.
const MAX_HEIGHT: usize = 32;

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BboltError {
    /// Neither meta page is valid.
    #[error("no valid meta page")]
    Meta,
    /// A page, an element or a key lies outside of the file.
    #[error("page {0} is cut off")]
    Bounds(u64),
    /// A page is of another kind than its place says.
    #[error("page {0} is neither branch nor leaf")]
    Kind(u64),
    /// A page belongs to two places.
    #[error("page {0} is used twice")]
    Twice(u64),
    /// Elements lie upon each other: there are more than the file has room for.
    #[error("page {0} has elements that cannot all be there")]
    Crowded(u64),
    /// Too many levels.
    #[error("page {0} lies too deep")]
    Depth(u64),
}

/// Whether a file that begins so is one of bbolt.
pub fn is_bbolt(head: &[u8; HEAD]) -> bool {
    head.ends_with(&page::MAGIC.to_le_bytes())
}

/// Called with the names of the buckets around it, a key and its value.
pub type Visit<'v> = dyn FnMut(&[&[u8]], &[u8], &[u8]) + 'v;

/// Visits every value of a file in the order of its pages.
///
/// # Errors
/// The first thing that is wrong; what comes before it was visited.
pub fn visit(bytes: &[u8], visit: &mut Visit<'_>) -> Result<(), BboltError> {
    let meta = page::meta(bytes).ok_or(BboltError::Meta)?;
    let room = bytes.len() / page::ELEMENT;
    let mut walk = Walk { bytes, size: meta.page_size, seen: HashSet::new(), room, visit };
    walk.tree(meta.root, &mut Vec::new(), 0)
}

struct Walk<'a, 'v> {
    bytes: &'a [u8],
    size: usize,
    seen: HashSet<u64>,
    /// How many elements there can still be.
    room: usize,
    visit: &'v mut Visit<'v>,
}

impl<'a> Walk<'a, '_> {
    fn tree(&mut self, id: u64, path: &mut Vec<&'a [u8]>, height: usize) -> Result<(), BboltError> {
        if height > MAX_HEIGHT {
            return Err(BboltError::Depth(id));
        }
        if !self.seen.insert(id) {
            return Err(BboltError::Twice(id));
        }
        let page = Page::at(self.bytes, self.size, id).ok_or(BboltError::Bounds(id))?;
        if page.is_leaf() {
            return self.leaf(&page, path);
        }
        if !page.is_branch() {
            return Err(BboltError::Kind(id));
        }
        for child in page.children() {
            self.tree(child.ok_or(BboltError::Bounds(id))?, path, height + 1)?;
        }
        Ok(())
    }

    fn leaf(&mut self, page: &Page<'a>, path: &mut Vec<&'a [u8]>) -> Result<(), BboltError> {
        for element in page.elements() {
            let Element { key, value, bucket } = element.ok_or(BboltError::Bounds(page.id))?;
            self.room = self.room.checked_sub(1).ok_or(BboltError::Crowded(page.id))?;
            if !bucket {
                (self.visit)(path, key, value);
                continue;
            }
            if path.len() >= MAX_DEPTH {
                return Err(BboltError::Depth(page.id));
            }
            path.push(key);
            let (root, inline) = page::bucket(value).ok_or(BboltError::Bounds(page.id))?;
            if root == 0 {
                let inline = Page::inline(inline).ok_or(BboltError::Bounds(page.id))?;
                if !inline.is_leaf() {
                    return Err(BboltError::Kind(page.id));
                }
                self.leaf(&inline, path)?;
            } else {
                self.tree(root, path, 0)?;
            }
            path.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
