//! `geosite.db`: lists of domains by category.
//!
//! Source: the reference's `common/geosite`. A zero byte, a count as uvarint, then for each category its name (with its
//! length before it), the offset of its items behind this table, and their number; an item is a type byte and a text.

use crosspoint_schema::options::{HeadlessMatchers, HeadlessRule, PlainRuleSet, RuleSetFile};

use super::{FormatError, bytes::Reader};

/// What an item asks of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// To be it.
    Domain,
    /// To end in it.
    Suffix,
    /// To contain it.
    Keyword,
    /// To match it.
    Regex,
    /// Nothing that is known; such items count but do nothing.
    Unknown,
}

/// An item of a category.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it asks.
    pub kind: ItemKind,
    /// Of what.
    pub value: String,
}

/// A file whose table was read.
#[derive(Clone, Debug)]
pub struct Geosite<'a> {
    /// The items of all categories.
    items: &'a [u8],
    /// Where they stand in the file.
    offset: usize,
    categories: Vec<Category>,
}

#[derive(Clone, Debug)]
struct Category {
    name: String,
    at: u64,
    count: u64,
}

impl<'a> Geosite<'a> {
    /// Reads the table of a file.
    ///
    /// # Errors
    /// Bytes that are no such file.
    pub fn new(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != 0 {
            return Err(FormatError::at(0, "unknown version"));
        }
        let count = reader.count(3)?;
        let mut categories: Vec<Category> = Vec::with_capacity(count.min(4096));
        for _ in 0..count {
            let (name, at, count) = (reader.text()?, reader.uvarint()?, reader.uvarint()?);
            categories.push(Category { name, at, count });
        }
        // Of equal names the last one counts, as in a map.
        categories.reverse();
        categories.sort_by(|a, b| a.name.cmp(&b.name));
        categories.dedup_by(|a, b| a.name == b.name);
        let offset = reader.position();
        Ok(Self { items: reader.take(reader.left())?, offset, categories })
    }

    /// The names of all categories, sorted.
    pub fn categories(&self) -> impl Iterator<Item = &str> {
        self.categories.iter().map(|category| category.name.as_str())
    }

    /// The items of a category.
    ///
    /// # Errors
    /// A category that is not there, or items that are cut.
    pub fn read(&self, name: &str) -> Result<Vec<Item>, FormatError> {
        let at = self.categories.binary_search_by(|category| category.name.as_str().cmp(name));
        let category = at.ok().and_then(|at| self.categories.get(at));
        let category =
            category.ok_or_else(|| FormatError::Message(format!("code {name} not exists!")))?;
        let items = usize::try_from(category.at).ok().and_then(|at| self.items.get(at..));
        let mut reader = Reader::new(items.unwrap_or_default());
        let moved = |error| match error {
            FormatError::Malformed { message, at } => FormatError::at(
                at.saturating_add(self.offset).saturating_add(category.at as usize),
                message,
            ),
            other => other,
        };
        let count = reader.fits(category.count, 2).map_err(moved)?;
        let mut list = Vec::with_capacity(count.min(4096));
        for _ in 0..count {
            let kind = match reader.u8().map_err(moved)? {
                0 => ItemKind::Domain,
                1 => ItemKind::Suffix,
                2 => ItemKind::Keyword,
                3 => ItemKind::Regex,
                _ => ItemKind::Unknown,
            };
            list.push(Item { kind, value: reader.text().map_err(moved)? });
        }
        Ok(list)
    }
}

/// Items as the matchers of one rule.
#[must_use]
pub fn matchers(items: Vec<Item>) -> HeadlessMatchers {
    let mut matchers = HeadlessMatchers::default();
    for Item { kind, value } in items {
        match kind {
            ItemKind::Domain => matchers.domain.push(value),
            ItemKind::Suffix => matchers.domain_suffix.push(value),
            ItemKind::Keyword => matchers.domain_keyword.push(value),
            ItemKind::Regex => matchers.domain_regex.push(value),
            ItemKind::Unknown => {}
        }
    }
    matchers
}

/// A source file of version 2 with these matchers as its one rule: what the reference exports.
#[must_use]
pub fn exported(matchers: HeadlessMatchers) -> RuleSetFile {
    let rules = vec![HeadlessRule::Default(Box::new(matchers))];
    RuleSetFile { version: 2, rules: PlainRuleSet { rules } }
}

/// The file that holds these categories. For tests and for making small files.
#[must_use]
pub fn write(categories: &[(String, Vec<Item>)]) -> Vec<u8> {
    use super::bytes::{put_bytes, put_uvarint};
    let mut sorted: Vec<&(String, Vec<Item>)> = categories.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let (mut out, mut content) = (vec![0], Vec::new());
    put_uvarint(&mut out, sorted.len() as u64);
    for (name, items) in sorted {
        put_bytes(&mut out, name.as_bytes());
        put_uvarint(&mut out, content.len() as u64);
        put_uvarint(&mut out, items.len() as u64);
        for item in items {
            content.push(match item.kind {
                ItemKind::Domain => 0,
                ItemKind::Suffix => 1,
                ItemKind::Keyword => 2,
                ItemKind::Regex => 3,
                ItemKind::Unknown => u8::MAX,
            });
            put_bytes(&mut content, item.value.as_bytes());
        }
    }
    out.extend_from_slice(&content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(kind: ItemKind, value: &str) -> Item {
        Item { kind, value: value.to_owned() }
    }

    #[test]
    fn written_and_read() {
        let lists = [
            (
                "b".to_owned(),
                vec![item(ItemKind::Suffix, "x.example"), item(ItemKind::Regex, "^a")],
            ),
            (
                "a".to_owned(),
                vec![item(ItemKind::Domain, "a.example"), item(ItemKind::Keyword, "k")],
            ),
        ];
        let bytes = write(&lists);
        let file = Geosite::new(&bytes).unwrap();
        assert_eq!(file.categories().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(file.read("b").unwrap(), lists[0].1);
        assert_eq!(file.read("c").unwrap_err().to_string(), "code c not exists!");
        let rule = matchers(file.read("a").unwrap());
        assert_eq!(
            (rule.domain.0, rule.domain_keyword.0),
            (vec!["a.example".into()], vec!["k".into()])
        );
        let cut = &bytes[..bytes.len() - 1];
        assert!(Geosite::new(cut).unwrap().read("b").unwrap_err().to_string().contains("EOF"));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..60)) {
            if let Ok(file) = Geosite::new(&bytes) {
                for category in file.categories() {
                    let _ = file.read(category);
                }
            }
        }
    }
}
