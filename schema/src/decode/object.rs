//! Taking an object apart, member by member.

use super::{Cursor, Field, nearest, quote};
use crate::ConfigError;
use crate::json::{Member, Node, Object, overlay};

/// An object whose members are taken one by one. Errors are kept, and [`Self::finish`] reports the one that comes first in
/// the document, as a decoder that walks the document would.
#[derive(Debug)]
pub struct ObjectCursor<'a> {
    cursor: Cursor<'a>,
    object: &'a Object,
    taken: Vec<bool>,
    known: Vec<&'static str>,
    splitting: bool,
    error: Option<(usize, ConfigError)>,
}

impl<'a> ObjectCursor<'a> {
    /// Starts on the object at the cursor.
    ///
    /// # Errors
    /// It is no object.
    pub fn new(cursor: &Cursor<'a>, go_type: &str) -> Result<Self, ConfigError> {
        let object = cursor.node().as_object().ok_or_else(|| cursor.mismatch(go_type))?;
        let taken = object
            .members
            .iter()
            .map(|m| cursor.is_pruned() && m.value.is_empty_container())
            .collect();
        Ok(Self {
            cursor: *cursor,
            object,
            taken,
            known: Vec::new(),
            splitting: false,
            error: None,
        })
    }

    /// The place of the object.
    #[must_use]
    pub fn cursor(&self) -> &Cursor<'a> {
        &self.cursor
    }

    /// The last member that this key names, in any case of letters; other spellings count as taken too.
    fn find(&mut self, key: &'static str) -> Option<(usize, &'a Member)> {
        self.known.push(key);
        let mut found = None;
        for (i, member) in self.object.members.iter().enumerate() {
            let open = self.taken.get(i).is_some_and(|taken| !taken);
            if open && member.key.eq_ignore_ascii_case(key) {
                found = Some((i, member));
                let remove = !self.splitting || member.key == key;
                if let (Some(taken), true) = (self.taken.get_mut(i), remove) {
                    *taken = true;
                }
            }
        }
        found
    }

    /// From here on a member is read in any case of letters, but only the exact spelling counts as taken: where the
    /// reference reads an object in several passes, it removes what a pass knows by its exact name, so that another spelling
    /// is an unknown member of the last pass.
    pub fn splitting(&mut self, on: bool) {
        self.splitting = on;
    }

    /// Takes a member. Absent, `null` and undecodable members give the absent value.
    pub fn field<T: Field>(&mut self, key: &'static str) -> T {
        self.field_with(key, T::decode_or_null).unwrap_or_else(T::absent)
    }

    /// Takes a member with a decoder of one's own, which sees `null` too; `None` where it is absent or undecodable.
    pub fn field_with<T>(
        &mut self,
        key: &'static str,
        decode: impl FnOnce(&Cursor<'_>) -> Result<T, ConfigError>,
    ) -> Option<T> {
        let (i, member) = self.find(key)?;
        let repeated = self.repeated(key, member);
        let node = repeated.as_ref().unwrap_or(&member.value);
        match decode(&self.cursor.member(&member.key, node)) {
            Ok(value) => Some(value),
            Err(error) => {
                self.keep(i, error);
                None
            }
        }
    }

    /// Outside of typed objects, where the reference keeps the last of equal keys only, it decodes one after the other into
    /// the same variable.
    fn repeated(&self, key: &str, last: &Member) -> Option<Node> {
        if self.cursor.is_pruned() {
            return None;
        }
        let same = |member: &&Member| member.key.eq_ignore_ascii_case(key);
        let mut nodes = self
            .object
            .members
            .iter()
            .filter(same)
            .flat_map(|member| member.earlier.iter().chain([&member.value]))
            .take_while(|node| !std::ptr::eq(*node, &last.value));
        let first = nodes.next()?.clone();
        Some(overlay(nodes.fold(first, overlay), &last.value))
    }

    /// Whether the document has this member, in any case of letters and with any value but an emptied one.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        let cursor = self.cursor;
        self.object.members.iter().any(|m| {
            m.key.eq_ignore_ascii_case(key) && !(cursor.is_pruned() && m.value.is_empty_container())
        })
    }

    /// Reports an error at the object itself, unless a member has one.
    pub fn refuse(&mut self, message: impl Into<String>) {
        if self.error.is_none() {
            let error = self.cursor.error(message);
            self.error = Some((usize::MAX, error));
        }
    }

    /// Ends one pass of several.
    ///
    /// # Errors
    /// The first error of this pass in the order of the document.
    pub fn end_pass(&mut self) -> Result<(), ConfigError> {
        match self.error.take() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Runs a rule between members if all of them decoded.
    pub fn check(&mut self, rule: impl FnOnce() -> Result<(), String>) {
        if self.error.is_none()
            && let Err(message) = rule()
        {
            self.refuse(message);
        }
    }

    fn keep(&mut self, index: usize, error: ConfigError) {
        if self.error.as_ref().is_none_or(|(first, _)| index < *first) {
            self.error = Some((index, error));
        }
    }

    /// Ends the object: members that nobody took are refused unless `loose`.
    ///
    /// # Errors
    /// The first error in the order of the document.
    pub fn finish(mut self, loose: bool) -> Result<(), ConfigError> {
        if !loose {
            let first = self.taken.iter().position(|taken| !taken);
            if let Some((i, member)) = first.and_then(|i| Some((i, self.object.members.get(i)?))) {
                let cursor = self.cursor.member(&member.key, &member.value);
                let mut error = cursor.error(format!("json: unknown field {}", quote(&member.key)));
                error.location = cursor.context().locate(member.key_span).map(Box::new);
                error.hint =
                    nearest(&member.key, &self.known).map(|name| format!("did you mean `{name}`?"));
                self.keep(i, error);
            }
        }
        match self.error {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}
