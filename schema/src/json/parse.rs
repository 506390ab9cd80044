//! The parser: bytes to [`Node`]. Never panics, bounded in depth, linear in time.

use std::collections::HashMap;

use super::{Location, Member, Node, Object, SourceId, Sources, Span, Value};

/// How deep objects and arrays may nest; deeper is an error instead of an exhausted stack.
pub const MAX_DEPTH: usize = 128;

/// Why a text is no configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", self.place())]
pub struct SyntaxError {
    /// The reference's wording, e.g. `invalid character ',' looking for beginning of value`.
    pub message: String,
    /// Line from 1.
    pub row: u32,
    /// Bytes in that line up to and including the offending one, as the reference counts.
    pub column: u32,
    /// Where it is.
    pub location: Option<Location>,
}

/// Parses one document without a table of sources (spans carry source 0).
///
/// # Errors
/// The first violation of the syntax.
pub fn parse(text: &str) -> Result<Node, SyntaxError> {
    Parser::new(text, SourceId(0)).document()
}

/// Adds a file to the table and parses it.
///
/// # Errors
/// The first violation of the syntax, with its location.
pub fn parse_source(sources: &mut Sources, name: &str, text: &str) -> Result<Node, SyntaxError> {
    let id = sources.add(name, text);
    Parser::new(text, id).document().map_err(|mut error| {
        error.location =
            Some(Location { file: name.into(), line: error.row, column: error.column.max(1) });
        error
    })
}

impl SyntaxError {
    /// The reference tells no place where the text ends too soon.
    fn place(&self) -> String {
        if self.message.ends_with("EOF") {
            String::new()
        } else {
            format!(": row {}, column {}", self.row, self.column)
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    source: SourceId,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, source: SourceId) -> Self {
        // A byte order mark is not JSON, but editors write it.
        let at = if text.starts_with('\u{feff}') { 3 } else { 0 };
        Self { text, bytes: text.as_bytes(), at, source, depth: 0 }
    }

    fn document(&mut self) -> Result<Node, SyntaxError> {
        self.skip()?;
        if self.peek().is_none() {
            return Err(self.error_at("EOF".to_owned(), self.at));
        }
        self.value()
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn span(&self, start: usize) -> Span {
        let int = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Span { source: self.source, start: int(start), end: int(self.at) }
    }

    fn error_at(&self, message: String, at: usize) -> SyntaxError {
        let before = self.bytes.get(..at.min(self.bytes.len())).unwrap_or_default();
        let int = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let row = before.iter().filter(|b| **b == b'\n').count() + 1;
        let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |p| p + 1);
        // The reference counts the offending byte in.
        SyntaxError {
            message,
            row: int(row),
            column: int(at - line_start.min(at) + 1),
            location: None,
        }
    }

    /// The error for the byte at the cursor.
    fn unexpected(&self, context: &str) -> SyntaxError {
        let Some(rest) = self.text.get(self.at..) else {
            return self.error_at(format!("invalid character {context}"), self.at);
        };
        match rest.chars().next() {
            None => self.error_at("unexpected EOF".to_owned(), self.at),
            Some(c) => self.error_at(format!("invalid character {} {context}", quote(c)), self.at),
        }
    }

    /// Skips white space and comments.
    fn skip(&mut self) -> Result<(), SyntaxError> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                Some(b'#') => self.skip_line(),
                Some(b'/') => match self.bytes.get(self.at + 1) {
                    Some(b'/') => self.skip_line(),
                    Some(b'*') => {
                        let body = self.bytes.get(self.at + 2..).unwrap_or_default();
                        match body.windows(2).position(|pair| pair == b"*/") {
                            Some(end) => self.at += 2 + end + 2,
                            None => {
                                return Err(
                                    self.error_at("unexpected EOF".to_owned(), self.bytes.len())
                                );
                            }
                        }
                    }
                    _ => return Ok(()),
                },
                _ => return Ok(()),
            }
        }
    }

    fn skip_line(&mut self) {
        while self.peek().is_some_and(|b| b != b'\n') {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Result<Node, SyntaxError> {
        let start = self.at;
        let value = match self.peek() {
            Some(b'{') => self.nested(Self::object)?,
            Some(b'[') => self.nested(Self::array)?,
            Some(b'"') => Value::String(self.string()?),
            Some(b'-' | b'0'..=b'9') => Value::Number(self.number()?),
            Some(b't') => self.literal("true", Value::Bool(true))?,
            Some(b'f') => self.literal("false", Value::Bool(false))?,
            Some(b'n') => self.literal("null", Value::Null)?,
            _ => return Err(self.unexpected("looking for beginning of value")),
        };
        Ok(Node { value, span: self.span(start) })
    }

    fn nested(
        &mut self,
        parse: fn(&mut Self) -> Result<Value, SyntaxError>,
    ) -> Result<Value, SyntaxError> {
        if self.depth >= MAX_DEPTH {
            return Err(self.error_at(format!("exceeded max depth {MAX_DEPTH}"), self.at));
        }
        self.depth += 1;
        let value = parse(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self) -> Result<Value, SyntaxError> {
        self.at += 1;
        let mut object = Object::default();
        // Where each key stands, so that a repeated key replaces the earlier one in linear time.
        let mut places: HashMap<String, usize> = HashMap::new();
        loop {
            self.skip()?;
            match self.peek() {
                Some(b'}') => break,
                Some(b'"') => {}
                _ => return Err(self.unexpected("looking for beginning of object key string")),
            }
            let start = self.at;
            let key = self.string()?;
            let key_span = self.span(start);
            self.skip()?;
            if self.peek() != Some(b':') {
                return Err(self.unexpected("after object key"));
            }
            self.at += 1;
            self.skip()?;
            let value = self.value()?;
            let member = Member { key, key_span, value, earlier: Vec::new() };
            match places.get(&member.key).and_then(|at| object.members.get_mut(*at)) {
                Some(place) => {
                    let old = std::mem::replace(place, member);
                    place.earlier = old.earlier;
                    place.earlier.push(old.value);
                }
                None => {
                    places.insert(member.key.clone(), object.members.len());
                    object.members.push(member);
                }
            }
            self.skip()?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.unexpected("after object key:value pair")),
            }
        }
        self.at += 1;
        Ok(Value::Object(object))
    }

    fn array(&mut self) -> Result<Value, SyntaxError> {
        self.at += 1;
        let mut items = Vec::new();
        loop {
            self.skip()?;
            if self.peek() == Some(b']') {
                break;
            }
            items.push(self.value()?);
            self.skip()?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.unexpected("after array element")),
            }
        }
        self.at += 1;
        Ok(Value::Array(items))
    }

    fn literal(&mut self, word: &str, value: Value) -> Result<Value, SyntaxError> {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                return Err(self.unexpected(&format!(
                    "in literal {word} (expecting '{}')",
                    char::from(expected)
                )));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn number(&mut self) -> Result<String, SyntaxError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.unexpected("in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
                return Err(self.unexpected("after decimal point in numeric literal"));
            }
            self.digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
                return Err(self.unexpected("in exponent of numeric literal"));
            }
            self.digits();
        }
        Ok(self.text.get(start..self.at).unwrap_or_default().to_owned())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Result<String, SyntaxError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while self.peek().is_some_and(|b| b != b'"' && b != b'\\' && b >= 0x20) {
                self.at += 1;
            }
            // The loop stops at ASCII bytes only, so both ends are character boundaries.
            out.push_str(self.text.get(start..self.at).unwrap_or_default());
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    out.push(self.escape()?);
                }
                _ => return Err(self.unexpected("in string literal")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, SyntaxError> {
        let c = match self.peek() {
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'"') => '"',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        Ok(c)
    }

    fn unicode(&mut self) -> Result<char, SyntaxError> {
        let high = self.hex4()?;
        if (0xD800..0xDC00).contains(&high) && self.bytes.get(self.at..self.at + 2) == Some(b"\\u")
        {
            let back = self.at;
            self.at += 2;
            let low = self.hex4()?;
            if (0xDC00..0xE000).contains(&low) {
                let code = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        // A lone surrogate becomes U+FFFD, as in Go.
        Ok(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex4(&mut self) -> Result<u32, SyntaxError> {
        let mut code = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|b| char::from(b).to_digit(16)) else {
                return Err(self.unexpected("in \\u hexadecimal character escape"));
            };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }
}

/// Quotes a character as Go's `encoding/json` does in its errors.
fn quote(c: char) -> String {
    match c {
        '\'' => r"'\''".to_owned(),
        '"' => "'\"'".to_owned(),
        '\\' => r"'\\'".to_owned(),
        '\n' => r"'\n'".to_owned(),
        '\r' => r"'\r'".to_owned(),
        '\t' => r"'\t'".to_owned(),
        c if c.is_control() => format!(r"'\x{:02x}'", u32::from(c)),
        c => format!("'{c}'"),
    }
}
