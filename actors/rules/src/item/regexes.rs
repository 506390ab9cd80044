//! Lists of regular expressions.

use std::sync::OnceLock;

use regex::{RegexSet, RegexSetBuilder};
use regex_syntax::hir::{Hir, HirKind};
use tracing::error;

use super::regex::{NEST_LIMIT, RegexError, parse, too_large, translate};

/// Expressions up to this size are known to compile; see [`size`].
const SURE: usize = 20_000;

/// Expressions above this size are refused, as are those of more than 3.3 million instructions by Go.
const TOO_LARGE: usize = 4_000_000;

/// What all expressions of a rule may take when they are compiled. Go's limit is 128 MiB for one.
const SIZE_LIMIT: usize = 256 << 20;

/// `domain_regex` or `process_path_regex` of one rule: checked when the rule is made, compiled when one is first
/// needed, since many never are and compiling takes most of the time that a start may.
#[derive(Debug)]
pub struct Regexes {
    translated: Box<[String]>,
    compiled: OnceLock<Option<RegexSet>>,
}

impl Regexes {
    /// These expressions, in Go's syntax.
    ///
    /// # Errors
    /// The first that is refused, with its place in the list.
    pub fn new(expressions: &[String]) -> Result<Self, (usize, RegexError)> {
        let check = |(index, expression): (usize, &String)| {
            let translated = translate(expression).map_err(|error| (index, error))?;
            let hir = parse(expression, &translated).map_err(|error| (index, error))?;
            let size = size(&hir);
            let fits = size <= SURE
                || size <= TOO_LARGE && compile(std::slice::from_ref(&translated)).is_ok();
            if fits { Ok(translated) } else { Err((index, too_large(expression))) }
        };
        let translated = expressions.iter().enumerate().map(check).collect::<Result<_, _>>()?;
        Ok(Self { translated, compiled: OnceLock::new() })
    }

    /// Whether one of them matches a part of `text`.
    pub fn is_match(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| match compile(&self.translated) {
            Ok(set) => Some(set),
            Err(error) => {
                error!("regular expressions of a rule are too large together: {error}");
                None
            }
        });
        compiled.as_ref().is_some_and(|set| set.is_match(text))
    }
}

fn compile(translated: &[String]) -> Result<RegexSet, regex::Error> {
    RegexSetBuilder::new(translated).nest_limit(NEST_LIMIT).size_limit(SIZE_LIMIT).build()
}

/// About how many instructions an expression becomes. Classes of Unicode count by their ranges.
fn size(hir: &Hir) -> usize {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => 1,
        HirKind::Literal(literal) => literal.0.len(),
        HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => 4 * class.ranges().len(),
        HirKind::Class(regex_syntax::hir::Class::Bytes(class)) => class.ranges().len(),
        HirKind::Capture(capture) => size(&capture.sub).saturating_add(2),
        HirKind::Repetition(repeat) => {
            let times = repeat.max.unwrap_or(repeat.min.saturating_add(1)).max(1);
            size(&repeat.sub).saturating_mul(times as usize)
        }
        HirKind::Concat(list) | HirKind::Alternation(list) => {
            list.iter().fold(1, |all, part| all.saturating_add(size(part)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn any_of_them() {
        let set = Regexes::new(&list(&["^a", r"\d$"])).unwrap();
        assert!(set.is_match("ab") && set.is_match("b1") && !set.is_match("b"));
        assert!(!Regexes::new(&[]).unwrap().is_match(""));
    }

    #[test]
    fn refused_before_it_is_needed() {
        let (index, error) = Regexes::new(&list(&["a", "(b"])).unwrap_err();
        assert_eq!(
            (index, error.to_string()),
            (1, "error parsing regexp: missing closing ): `(b`".into())
        );
        let huge = "((((a{100}){100}){100}){100}){100}";
        assert!(Regexes::new(&list(&[huge])).is_err());
        assert!(Regexes::new(&list(&[r"\pL{100}"])).is_ok());
    }
}
