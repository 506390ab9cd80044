//! Regular expressions in the syntax of Go, matched by the `regex` crate.
//!
//! Both are RE2 descendants, and most expressions mean the same in both. What differs is translated:
//! Go's `\d`, `\s`, `\w` and `\b` know ASCII only, `\Q…\E` quotes, `\123` is octal, a brace that is no
//! repetition stands for itself, and inside `[…]` the characters `[ & ~` mean nothing. What Go refuses is
//! refused here in its words (`error parsing regexp: …`), so that a rule works in both programs or in none.

use std::fmt;

use regex::{Regex, RegexBuilder};
use regex_syntax::{ParserBuilder, hir::Hir};

/// Largest repetition count that Go accepts.
const MAX_REPEAT: u32 = 1000;

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing regexp: {0}")]
pub struct RegexError(String);

impl RegexError {
    fn at(code: &str, part: impl fmt::Display) -> Self {
        Self(format!("{code}: `{part}`"))
    }
}

/// How deep groups may nest, as in Go.
pub(super) const NEST_LIMIT: u32 = 1000;

/// Compiles a Go expression.
///
/// # Errors
/// With Go's text where Go refuses it too, with the `regex` crate's where only that one does.
pub fn compile(expression: &str) -> Result<Regex, RegexError> {
    let translated = translate(expression)?;
    RegexBuilder::new(&translated).nest_limit(NEST_LIMIT).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => too_large(expression),
        other => refused(expression, &other.to_string()),
    })
}

/// What `translated` means, without compiling it.
pub(super) fn parse(expression: &str, translated: &str) -> Result<Hir, RegexError> {
    let mut parser = ParserBuilder::new().nest_limit(NEST_LIMIT).build();
    parser.parse(translated).map_err(|error| refused(expression, &error.to_string()))
}

/// The error for an expression that takes too much memory.
pub(super) fn too_large(expression: &str) -> RegexError {
    RegexError::at("expression too large", expression)
}

fn refused(expression: &str, text: &str) -> RegexError {
    RegexError(format!("{expression}: {}", last_line(text)))
}

/// The cause of a syntax error without the drawing of the expression above it.
fn last_line(text: &str) -> String {
    let line = text.lines().last().unwrap_or(text);
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// Rewrites a Go expression so that the `regex` crate means the same by it.
///
/// # Errors
/// Where Go refuses it.
pub fn translate(expression: &str) -> Result<String, RegexError> {
    let mut t = Translator {
        rest: expression,
        whole: expression,
        out: String::with_capacity(expression.len() + 16),
        open: 0,
    };
    t.run()?;
    Ok(t.out)
}

struct Translator<'a> {
    rest: &'a str,
    whole: &'a str,
    out: String,
    open: usize,
}

impl<'a> Translator<'a> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// The text between an earlier rest and now.
    fn since(&self, start: &'a str) -> &'a str {
        &start[..start.len() - self.rest.len()]
    }

    fn literal(&mut self, c: char) {
        if matches!(
            c,
            '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$'
        ) {
            self.out.push('\\');
        }
        self.out.push(c);
    }

    fn run(&mut self) -> Result<(), RegexError> {
        // What the last element was: nothing to repeat, something, or a repetition (with its text).
        let mut repeatable = false;
        let mut last_op: Option<&'a str> = None;
        loop {
            let start = self.rest;
            let Some(c) = self.next() else { break };
            let repeated = last_op.take();
            match c {
                '(' => {
                    self.group(start)?;
                    repeatable = false;
                    continue;
                }
                '|' => {
                    self.out.push('|');
                    repeatable = false;
                    continue;
                }
                ')' => {
                    self.open = self
                        .open
                        .checked_sub(1)
                        .ok_or_else(|| RegexError::at("unexpected )", self.whole))?;
                    self.out.push(')');
                }
                '[' => self.class(start)?,
                '*' | '+' | '?' => {
                    self.eat("?");
                    let op = self.since(start);
                    last_op = Some(self.repeat(op, start, repeatable, repeated)?);
                    self.out.push_str(op);
                }
                '{' => match self.counts() {
                    None => self.out.push_str(r"\{"),
                    Some((min, max)) => {
                        self.eat("?");
                        let op = self.since(start);
                        if min > MAX_REPEAT || max.is_some_and(|max| max > MAX_REPEAT || max < min)
                        {
                            return Err(RegexError::at(
                                "invalid repeat count",
                                op.trim_end_matches('?'),
                            ));
                        }
                        last_op = Some(self.repeat(op, start, repeatable, repeated)?);
                        self.out.push_str(op);
                    }
                },
                '\\' => self.escape(start)?,
                '^' | '$' | '.' => self.out.push(c),
                other => self.literal(other),
            }
            repeatable = true;
        }
        if self.open > 0 {
            return Err(RegexError::at("missing closing )", self.whole));
        }
        Ok(())
    }

    fn repeat(
        &self,
        op: &'a str,
        start: &'a str,
        repeatable: bool,
        repeated: Option<&'a str>,
    ) -> Result<&'a str, RegexError> {
        if let Some(before) = repeated {
            let both = &self.whole[self.whole.len() - start.len() - before.len()..];
            return Err(RegexError::at(
                "invalid nested repetition operator",
                &both[..before.len() + op.len()],
            ));
        }
        if !repeatable {
            return Err(RegexError::at("missing argument to repetition operator", op));
        }
        Ok(op)
    }

    /// `{n}`, `{n,}` or `{n,m}` behind its brace; `None` (and nothing read) when it is none of them.
    fn counts(&mut self) -> Option<(u32, Option<u32>)> {
        let close = self.rest.find('}')?;
        let inner = &self.rest[..close];
        let (min, max) = match inner.split_once(',') {
            None => (count(inner)?, Some(count(inner)?)),
            Some((min, "")) => (count(min)?, None),
            Some((min, max)) => (count(min)?, Some(count(max)?)),
        };
        self.rest = &self.rest[close + 1..];
        Some((min, max))
    }

    fn group(&mut self, start: &'a str) -> Result<(), RegexError> {
        self.open += 1;
        self.out.push('(');
        if !self.eat("?") {
            return Ok(());
        }
        for intro in ["P<", "<"] {
            if !self.rest.starts_with(intro) {
                continue;
            }
            let Some(end) = self.rest.find('>') else {
                return Err(RegexError::at("invalid named capture", start));
            };
            let name = &self.rest[intro.len()..end];
            self.rest = &self.rest[end + 1..];
            if name.is_empty() || !name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric()) {
                return Err(RegexError::at("invalid named capture", self.since(start)));
            }
            // Only whether it matches is asked for: names (which Go lets begin with a digit) are dropped.
            return Ok(());
        }
        self.out.push('?');
        let (mut seen, mut negative) = (false, false);
        loop {
            match self.next() {
                Some(flag @ ('i' | 'm' | 's' | 'U')) => {
                    self.out.push(flag);
                    seen = true;
                }
                Some('-') if !negative => {
                    self.out.push('-');
                    (negative, seen) = (true, false);
                }
                Some(end @ (':' | ')')) if seen || (!negative && end == ':') => {
                    self.out.push(end);
                    if end == ')' {
                        self.open -= 1;
                    }
                    return Ok(());
                }
                // `(?)` is allowed by Go and changes nothing.
                Some(')') if !negative => {
                    self.out.truncate(self.out.len() - 2);
                    self.open -= 1;
                    return Ok(());
                }
                _ => {
                    return Err(RegexError::at(
                        "invalid or unsupported Perl syntax",
                        self.since(start),
                    ));
                }
            }
        }
    }

    /// An escape outside a class, behind its backslash.
    fn escape(&mut self, start: &'a str) -> Result<(), RegexError> {
        if self.eat("Q") {
            let (quoted, rest) = self.rest.split_once(r"\E").unwrap_or((self.rest, ""));
            self.rest = rest;
            // Wrapped, so that an empty quotation is an element that nothing repeats wrongly.
            self.out.push_str("(?:");
            quoted.chars().for_each(|c| self.literal(c));
            self.out.push(')');
            return Ok(());
        }
        let assertion = match self.rest.chars().next() {
            Some('A') => Some(r"\A"),
            Some('z') => Some(r"\z"),
            Some('b') => Some(r"(?-u:\b)"),
            Some('B') => Some(r"(?-u:\B)"),
            _ => None,
        };
        if let Some(text) = assertion {
            self.next();
            self.out.push_str(text);
            return Ok(());
        }
        if let Some(class) = self.perl_class(start)? {
            self.out.push('[');
            self.out.push_str(&class);
            self.out.push(']');
            return Ok(());
        }
        let c = self.escaped_char(start)?;
        self.literal(c);
        Ok(())
    }

    /// `\d \s \w \p…` and their complements, as the inside of a class; the escape's letter comes next.
    fn perl_class(&mut self, start: &'a str) -> Result<Option<String>, RegexError> {
        let class = match self.rest.chars().next() {
            Some('d') => "0-9",
            Some('D') => "[^0-9]",
            Some('s') => r"\t\n\x0c\r ",
            Some('S') => r"[^\t\n\x0c\r ]",
            Some('w') => "0-9A-Za-z_",
            Some('W') => "[^0-9A-Za-z_]",
            Some('p' | 'P') => return self.unicode_class(start).map(Some),
            _ => return Ok(None),
        };
        self.next();
        Ok(Some(class.to_owned()))
    }

    fn unicode_class(&mut self, start: &'a str) -> Result<String, RegexError> {
        let negative = self.next() == Some('P');
        let name = if self.eat("{") {
            let Some((name, rest)) = self.rest.split_once('}') else {
                return Err(RegexError::at("invalid character class range", start));
            };
            self.rest = rest;
            name
        } else {
            let from = self.rest;
            self.next();
            self.since(from)
        };
        let bare = name.strip_prefix('^').unwrap_or(name);
        let plain = bare.chars().all(|c| c.is_ascii_alphabetic() || matches!(c, '_' | '-' | ' '));
        // The tables of both are those of Unicode; whether a name is in them is left to the crate.
        if !plain || regex_syntax::parse(&format!(r"\p{{{bare}}}")).is_err() {
            return Err(RegexError::at("invalid character class range", self.since(start)));
        }
        let class = if negative != name.starts_with('^') { 'P' } else { 'p' };
        Ok(format!(r"\{class}{{{bare}}}"))
    }

    /// The character that an escape stands for, behind its backslash.
    fn escaped_char(&mut self, start: &'a str) -> Result<char, RegexError> {
        let invalid = |t: &Self| RegexError::at("invalid escape sequence", t.since(start));
        let Some(c) = self.next() else {
            return Err(RegexError(String::from("trailing backslash at end of expression: ``")));
        };
        Ok(match c {
            // A single digit would be a backreference, which RE2 has not.
            '1'..='7' if !self.rest.starts_with(|c: char| ('0'..='7').contains(&c)) => {
                return Err(invalid(self));
            }
            '0'..='7' => {
                let mut value = c as u32 - '0' as u32;
                for _ in 0..2 {
                    match self.rest.chars().next() {
                        Some(digit @ '0'..='7') => {
                            value = value * 8 + (digit as u32 - '0' as u32);
                            self.next();
                        }
                        _ => break,
                    }
                }
                char::from_u32(value).ok_or_else(|| invalid(self))?
            }
            'x' => {
                let mut value = 0;
                let braced = self.eat("{");
                let mut digits = 0;
                loop {
                    match self.next() {
                        Some('}') if braced && digits > 0 => break,
                        Some(c) if c.is_ascii_hexdigit() => {
                            value = value * 16 + c.to_digit(16).unwrap_or_default();
                            digits += 1;
                        }
                        _ => return Err(invalid(self)),
                    }
                    if value > u32::from(char::MAX) {
                        return Err(invalid(self));
                    }
                    if !braced && digits == 2 {
                        break;
                    }
                }
                char::from_u32(value).ok_or_else(|| invalid(self))?
            }
            'a' => '\x07',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => c,
            _ => return Err(invalid(self)),
        })
    }

    /// A bracket class, behind its opening bracket.
    fn class(&mut self, start: &'a str) -> Result<(), RegexError> {
        self.out.push('[');
        if self.eat("^") {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            if self.rest.is_empty() {
                return Err(RegexError::at("missing closing ]", start));
            }
            if !first && self.eat("]") {
                self.out.push(']');
                return Ok(());
            }
            first = false;
            if self.rest.starts_with("[:")
                && let Some(end) = self.rest[2..].find(":]")
            {
                let name = &self.rest[..end + 4];
                let bare = name[2..name.len() - 2].trim_start_matches('^');
                const POSIX: [&str; 14] = [
                    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower",
                    "print", "punct", "space", "upper", "word", "xdigit",
                ];
                if !POSIX.contains(&bare) || name.len() > bare.len() + 5 {
                    return Err(RegexError::at("invalid character class range", name));
                }
                self.rest = &self.rest[name.len()..];
                self.out.push_str(name);
                continue;
            }
            let item = self.rest;
            if self.rest.starts_with('\\') {
                let mut probe = Translator {
                    rest: &self.rest[1..],
                    whole: self.whole,
                    out: String::new(),
                    open: 0,
                };
                if let Some(class) = probe.perl_class(item)? {
                    self.rest = probe.rest;
                    self.out.push_str(&class);
                    continue;
                }
            }
            let low = self.class_char(start)?;
            let mut high = low;
            // A minus right before the closing bracket stands for itself.
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") && self.rest.len() > 1 {
                self.next();
                high = self.class_char(start)?;
                if high < low {
                    return Err(RegexError::at("invalid character class range", self.since(item)));
                }
            }
            self.class_literal(low);
            if high != low {
                self.out.push('-');
                self.class_literal(high);
            }
        }
    }

    fn class_char(&mut self, start: &'a str) -> Result<char, RegexError> {
        let from = self.rest;
        match self.next() {
            None => Err(RegexError::at("missing closing ]", start)),
            Some('\\') => self.escaped_char(from),
            Some(c) => Ok(c),
        }
    }

    fn class_literal(&mut self, c: char) {
        // By number where the crate might read an operator.
        if c.is_ascii_alphanumeric() || !c.is_ascii() {
            self.out.push(c);
        } else {
            self.out.push_str(&format!(r"\x{:02x}", c as u32));
        }
    }
}

/// A repetition count: decimal without leading zeros, as Go reads it.
fn count(text: &str) -> Option<u32> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    // Numbers too large for us are too large for Go: any count above its limit will do.
    (plain && !text.is_empty()).then(|| text.parse().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expression: &str, matching: &[&str], other: &[&str]) {
        let regex = compile(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        for text in matching {
            assert!(regex.is_match(text), "{expression} on {text:?} as {regex}");
        }
        for text in other {
            assert!(!regex.is_match(text), "{expression} on {text:?} as {regex}");
        }
    }

    #[test]
    fn means_what_go_means() {
        check(
            r"^ads\d+\.example\.(com|net)$",
            &["ads1.example.com"],
            &["ads.example.com", "ads1.example.org"],
        );
        check(r"^\d$", &["5"], &["٣"]);
        check(r"^\w$", &["_", "a"], &["ü"]);
        check(r"^\W$", &["ü", "-"], &["_"]);
        check(r"^\s$", &[" ", "\t"], &["\u{b}", "\u{a0}"]);
        check(r"^[\D]$", &["ü"], &["1"]);
        check(r"\bfoo\b", &["a foo b", "üfoo"], &["xfoo"]);
        check(r"o\B", &["fo1"], &["fo", "fo-"]);
        check(r"^\Qa.b\E+$", &["a.b", "a.ba.b"], &["axb"]);
        check(r"^\Q", &["anything"], &[]);
        check(r"^\101\x41\x{42}\0$", &["AAB\0"], &[]);
        check(r"^a{,2}$", &["a{,2}"], &["aa"]);
        check(r"^a{x}{$", &["a{x}{"], &[]);
        check(r"^a{02}$", &["a{02}"], &["aa"]);
        check(r"^a{2}?$", &["aa"], &["a"]);
        check(r"^[[a&&b~~d-]+$", &["[", "&", "~", "a-", "d"], &["e"]);
        check(r"^[]a]$", &["]", "a"], &["b"]);
        check(r"^[^]a]$", &["b", "\n"], &["]"]);
        check(r"^[a-]$", &["-", "a"], &["b"]);
        check(r"^[\d-z]$", &["-", "z", "7"], &["y"]);
        check(r"^[[:alpha:]_]$", &["a", "_"], &["1"]);
        check(r"^[[:^alpha:]]$", &["1"], &["a"]);
        check(r"^\<\>\_$", &["<>_"], &[]);
        check(r"(?i)^EXAMPLE", &["example"], &[]);
        check(r"^(?P<n>a)(?<m>b)(?:c)(?i:D)$", &["abcd"], &["abc"]);
        check(r"(?)^a", &["ab"], &[]);
        check(r"^\pL\p{Greek}\P{L}$", &["aα1"], &["aa1"]);
        check("", &["", "x"], &[]);
        check(r"a|", &["b"], &[]);
        check(r"^a$", &["a"], &["a\n"]);
    }

    #[test]
    fn refuses_what_go_refuses() {
        for (expression, text) in [
            ("(a", "missing closing ): `(a`"),
            ("a)", "unexpected ): `a)`"),
            ("[a", "missing closing ]: `[a`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a*?+", "invalid nested repetition operator: `*?+`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("a{2,1}", "invalid repeat count: `{2,1}`"),
            (r"\1", r"invalid escape sequence: `\1`"),
            (r"\y", r"invalid escape sequence: `\y`"),
            (r"\Z", r"invalid escape sequence: `\Z`"),
            (r"\", "trailing backslash at end of expression: ``"),
            ("[b-a]", "invalid character class range: `b-a`"),
            ("[[:word2:]]", "invalid character class range: `[:word2:]`"),
            (r"\p{nope}", r"invalid character class range: `\p{nope}`"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
            ("(?<=a)b", "invalid named capture: `(?<=a)b`"),
            (r"\x{110000}", r"invalid escape sequence: `\x{110000`"),
            (r"\x4", r"invalid escape sequence: `\x4`"),
            ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
        ] {
            assert_eq!(
                compile(expression).unwrap_err().to_string(),
                format!("error parsing regexp: {text}")
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics_and_translations_compile(expression in "[\\\\a-cQEdwbBpPxz0-9\\[\\](){}*+?^$|.,:<>&~i=!-]{0,24}") {
            if let Ok(translated) = translate(&expression) {
                // What Go takes may still be too large or name an unknown Unicode class, but is never a syntax error.
                if let Err(regex::Error::Syntax(text)) = Regex::new(&translated) {
                    proptest::prop_assert!(text.contains("Unicode property") || text.contains("empty character class"),
                        "{expression:?} -> {translated:?}: {text}");
                }
            }
        }
    }
}
