//! The axes of the matrix, and which cells a run takes.

use std::{collections::BTreeSet, fmt};

use anyhow::{Context, Result};

const PROTOCOLS: &[&str] = &["shadowsocks", "trojan", "vless", "vmess"];
const TRANSPORTS: &[&str] = &["none", "ws", "http", "httpupgrade", "grpc"];
const SECURITY: &[&str] = &["none", "tls"];
const MUXES: &[&str] = &["off", "smux", "yamux", "h2mux"];
/// Client and server.
pub(super) const DIRECTIONS: &[&str] =
    &["ours>reference", "reference>ours", "ours>mihomo", "mihomo>ours"];

const AXES: [&[&str]; 5] = [PROTOCOLS, TRANSPORTS, SECURITY, MUXES, DIRECTIONS];

/// One combination. Ordered as the axes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Cell([usize; 5]);

impl Cell {
    fn at(self, axis: usize) -> &'static str {
        AXES[axis][self.0[axis]]
    }

    pub(super) fn protocol(self) -> &'static str {
        self.at(0)
    }

    pub(super) fn transport(self) -> &'static str {
        self.at(1)
    }

    pub(super) fn tls(self) -> bool {
        self.at(2) == "tls"
    }

    pub(super) fn mux(self) -> Option<&'static str> {
        Some(self.at(3)).filter(|mux| *mux != "off")
    }

    pub(super) fn direction(self) -> &'static str {
        self.at(4)
    }

    /// Half of the cells with a multiplexer pad.
    pub(super) fn padding(self) -> bool {
        (self.0[0] + self.0[1] + self.0[2]) % 2 == 1
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = (0..AXES.len()).map(|axis| self.at(axis)).collect();
        f.write_str(&names.join("/"))
    }
}

/// Every combination, possible or not.
pub(super) fn all() -> Vec<Cell> {
    let mut cells = vec![[0; 5]];
    for (axis, values) in AXES.iter().enumerate() {
        cells = cells
            .into_iter()
            .flat_map(|cell| {
                (0..values.len()).map(move |value| {
                    let mut cell = cell;
                    cell[axis] = value;
                    cell
                })
            })
            .collect();
    }
    cells.into_iter().map(Cell).collect()
}

/// The pairs of values that meet in a cell; each pair counts in each direction.
fn pairs(cell: Cell) -> impl Iterator<Item = [usize; 5]> {
    (0..4).flat_map(move |a| (a + 1..4).map(move |b| [a, cell.0[a], b, cell.0[b], cell.0[4]]))
}

/// Few of the cells, in which all pairs of values meet that meet anywhere: always the one that adds most.
pub(super) fn covering(cells: &[Cell]) -> Vec<Cell> {
    let mut open: BTreeSet<[usize; 5]> = cells.iter().copied().flat_map(pairs).collect();
    let mut chosen = Vec::new();
    while !open.is_empty() {
        let adds = |cell: &&Cell| pairs(**cell).filter(|pair| open.contains(pair)).count();
        // Of equals the last one wins: from the far end, so that it is the first.
        let Some(best) = cells.iter().rev().max_by_key(adds).copied() else { break };
        for pair in pairs(best) {
            open.remove(&pair);
        }
        chosen.push(best);
    }
    chosen
}

/// `protocol/transport/security/mux/direction`, where each part is `*`, a value, or several with `|` between them.
#[derive(Clone, Debug)]
pub(super) struct Pattern([Vec<String>; 5]);

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let parts: [&str; 5] =
            parts.try_into().ok().with_context(|| format!("five parts: {text}"))?;
        let mut out: [Vec<String>; 5] = Default::default();
        for ((out, part), values) in out.iter_mut().zip(parts).zip(AXES) {
            for name in part.split('|').filter(|name| *name != "*") {
                anyhow::ensure!(values.contains(&name), "{text}: {name} is none of {values:?}");
                out.push(name.to_owned());
            }
        }
        Ok(Self(out))
    }

    pub(super) fn matches(&self, cell: Cell) -> bool {
        self.0
            .iter()
            .enumerate()
            .all(|(axis, names)| names.is_empty() || names.iter().any(|name| name == cell.at(axis)))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |names: &Vec<String>| match names.is_empty() {
            true => "*".to_owned(),
            false => names.join("|"),
        };
        f.write_str(&self.0.iter().map(part).collect::<Vec<_>>().join("/"))
    }
}

#[test]
fn a_covering_set_is_small_and_covers() {
    let cells = all();
    let chosen = covering(&cells);
    let met: BTreeSet<_> = chosen.iter().copied().flat_map(pairs).collect();
    assert!(cells.into_iter().flat_map(pairs).all(|pair| met.contains(&pair)));
    // 5 transports by 4 of something else is the least for one direction.
    assert!((80..=110).contains(&chosen.len()), "{}", chosen.len());
}
