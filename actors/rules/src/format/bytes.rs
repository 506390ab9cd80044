//! Reading and writing the primitives of binary files: big-endian integers, and lengths as LEB128 ("uvarint").
//!
//! A length from a file never makes memory: what it counts has to be there first.

use super::FormatError;

/// Bytes of a file from the front to the end.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes were taken.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// An error at the next byte.
    pub(super) fn error(&self, message: impl Into<String>) -> FormatError {
        FormatError::at(self.at, message)
    }

    /// As Go tells it: `EOF` where nothing is left at all.
    fn short(&self) -> FormatError {
        let message = if self.left() == 0 { "EOF" } else { "unexpected EOF" };
        FormatError::at(self.bytes.len(), message)
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], FormatError> {
        let taken = self
            .bytes
            .get(self.at..)
            .and_then(|rest| rest.get(..count))
            .ok_or_else(|| self.short())?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let short = self.short();
        self.take(N)?.try_into().map_err(|_| short)
    }

    pub(super) fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u16(&mut self) -> Result<u16, FormatError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, FormatError> {
        self.array().map(u64::from_be_bytes)
    }

    /// A number of seven bits a byte, the lowest first; at most ten bytes.
    pub(super) fn uvarint(&mut self) -> Result<u64, FormatError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.error("binary: varint overflows a 64-bit integer"))
    }

    /// A count of items that take at least `size` bytes each, all of which must still follow.
    pub(super) fn count(&mut self, size: usize) -> Result<usize, FormatError> {
        let count = self.uvarint()?;
        self.fits(count, size)
    }

    /// Refuses a count of items of at least `size` bytes each that cannot follow any more.
    pub(super) fn fits(&self, count: u64, size: usize) -> Result<usize, FormatError> {
        match usize::try_from(count) {
            Ok(count) if count <= self.left() / size.max(1) => Ok(count),
            _ => Err(self.error(format!("unexpected EOF: {count} items cannot follow"))),
        }
    }

    /// A text with its length before it. What is not UTF-8 becomes U+FFFD.
    pub(super) fn text(&mut self) -> Result<String, FormatError> {
        let length = self.count(1).map_err(|error| error.within("string length"))?;
        let bytes = self.take(length).map_err(|error| error.within("string value"))?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    /// A list with its count before it, of items that take at least `size` bytes each.
    pub(super) fn list<T>(
        &mut self,
        size: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, FormatError>,
    ) -> Result<Vec<T>, FormatError> {
        let count = self.count(size).map_err(|error| error.within("slice length"))?;
        // A file can claim one item a byte; memory follows as they come.
        let mut items = Vec::with_capacity(count.min(4096));
        for index in 0..count {
            items.push(item(self).map_err(|error| error.within(format_args!("[{index}]")))?);
        }
        Ok(items)
    }

    /// A list of 64-bit words.
    pub(super) fn words(&mut self) -> Result<Box<[u64]>, FormatError> {
        let count = self.count(8).map_err(|error| error.within("slice length"))?;
        let bytes = self.take(count * 8)?;
        let words = bytes
            .chunks_exact(8)
            .map(|word| word.iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte)));
        Ok(words.collect())
    }
}

/// Appends a number as [`Reader::uvarint`] reads it.
pub(super) fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends bytes with their count before them.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uvarint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends texts with their count before them.
pub(super) fn put_texts<T: AsRef<str>>(out: &mut Vec<u8>, texts: &[T]) {
    put_uvarint(out, texts.len() as u64);
    for text in texts {
        put_bytes(out, text.as_ref().as_bytes());
    }
}

/// Appends 64-bit words with their count before them.
pub(super) fn put_words(out: &mut Vec<u8>, words: &[u64]) {
    put_uvarint(out, words.len() as u64);
    for word in words {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_length_makes_no_memory() {
        let mut claim = Vec::new();
        put_uvarint(&mut claim, u64::MAX);
        assert!(Reader::new(&claim).words().is_err());
        assert!(Reader::new(&claim).text().is_err());
        assert!(Reader::new(&claim).list(1, Reader::u8).is_err());
        assert!(Reader::new(&[0xff; 11]).uvarint().unwrap_err().to_string().contains("overflows"));
    }

    #[test]
    fn ends_as_in_go() {
        assert_eq!(Reader::new(&[]).u8().unwrap_err().to_string(), "EOF (byte 0)");
        assert_eq!(Reader::new(&[1]).u16().unwrap_err().to_string(), "unexpected EOF (byte 1)");
    }

    proptest! {
        #[test]
        fn what_is_put_is_read(number: u64, words: Vec<u64>, text: String) {
            let mut out = Vec::new();
            put_uvarint(&mut out, number);
            put_words(&mut out, &words);
            put_texts(&mut out, std::slice::from_ref(&text));
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.uvarint().unwrap(), number);
            prop_assert_eq!(&*reader.words().unwrap(), &words[..]);
            prop_assert_eq!(reader.list(1, Reader::text).unwrap(), vec![text]);
            prop_assert_eq!(reader.left(), 0);
        }
    }
}
