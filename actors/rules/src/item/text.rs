//! Sets of words: tags, users, protocols, paths.

/// A set of texts, compared exactly.
#[derive(Clone, Debug)]
pub struct TextSet(Box<[Box<str>]>);

impl TextSet {
    /// A set of these texts.
    pub fn new<T: AsRef<str>>(texts: &[T]) -> Self {
        let mut texts: Vec<Box<str>> = texts.iter().map(|text| text.as_ref().into()).collect();
        texts.sort_unstable();
        texts.dedup();
        Self(texts.into_boxed_slice())
    }

    /// Whether `text` is in the set.
    pub fn contains(&self, text: &str) -> bool {
        match &*self.0 {
            [one] => **one == *text,
            all => all.binary_search_by(|probe| (**probe).cmp(text)).is_ok(),
        }
    }

    /// The texts, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|text| &**text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_it_was_given() {
        let set = TextSet::new(&["b", "a", "a", ""]);
        assert!(set.contains("a") && set.contains("b") && set.contains(""));
        assert!(!set.contains("c") && !TextSet::new(&["a"]).contains("A"));
        assert_eq!(set.iter().count(), 3);
    }
}
