//! What cannot be, and what is known of the others: `conformance/matrix.tsv`.

use std::fmt;

use anyhow::{Context, Result, bail};
use crosspoint_conformance::workspace;

use super::axes::{Cell, Pattern};

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// There is no such combination.
    Impossible,
    /// Not built yet; a build that accepts it makes the line an error.
    Pending,
    /// The client's end of its direction ends both.
    NoHalfClose,
    /// The end of the server's direction is not told while the client's is open.
    NoServerEnd,
    /// The first bytes must be few, and more come a moment later.
    SlowStart,
    /// The peer fails now and then: there are three tries.
    Flaky,
    /// No datagrams.
    NoUdp,
    /// Datagrams of 1400 bytes, and no longer ones.
    ShortUdp,
}

impl Kind {
    const ALL: [(&'static str, Self); 8] = [
        ("impossible", Self::Impossible),
        ("pending", Self::Pending),
        ("no-half-close", Self::NoHalfClose),
        ("no-server-end", Self::NoServerEnd),
        ("slow-start", Self::SlowStart),
        ("flaky", Self::Flaky),
        ("no-udp", Self::NoUdp),
        ("short-udp", Self::ShortUdp),
    ];

    /// Whether a cell of that kind is not run.
    pub(super) fn ends_cell(self) -> bool {
        matches!(self, Self::Impossible | Self::Pending)
    }
}

/// One line: kind, pattern, reason.
pub(super) struct Line {
    pub(super) kind: Kind,
    pub(super) pattern: Pattern,
    reason: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} ({})", self.kind, self.pattern, self.reason)
    }
}

/// All lines.
pub(super) struct Known {
    pub(super) lines: Vec<Line>,
}

impl Known {
    pub(super) fn read() -> Result<Self> {
        let path = workspace::root().join("conformance/matrix.tsv");
        let text = std::fs::read_to_string(&path).context("read conformance/matrix.tsv")?;
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let lines = lines.map(|line| parse(line).with_context(|| line.to_owned()));
        Ok(Self { lines: lines.collect::<Result<_>>()? })
    }

    /// The first kind of those asked for that a line says of a cell.
    pub(super) fn of(&self, cell: Cell, wanted: impl Fn(Kind) -> bool) -> Option<Kind> {
        let mut lines = self.lines.iter();
        lines.find(|line| wanted(line.kind) && line.pattern.matches(cell)).map(|line| line.kind)
    }

    pub(super) fn says(&self, cell: Cell, kind: Kind) -> bool {
        self.of(cell, |other| other == kind).is_some()
    }
}

fn parse(line: &str) -> Result<Line> {
    let [kind, pattern, reason] = line.split('\t').collect::<Vec<_>>()[..] else {
        bail!("kind TAB pattern TAB reason");
    };
    let known = Kind::ALL.into_iter().find(|(name, _)| *name == kind);
    let (_, kind) = known.with_context(|| format!("{kind} is no kind"))?;
    Ok(Line { kind, pattern: Pattern::parse(pattern)?, reason: reason.to_owned() })
}
