//! Random rule-sets of every item.

use serde_json::{Map, Value, json};

/// A small generator of numbers (xorshift64*), so that a failure can be repeated by its seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    /// True once in `n`.
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    pub(super) fn name(&mut self) -> String {
        const LABELS: [&str; 10] =
            ["a", "b", "cc", "example", "münchen", "-x", "1", "x-y", "com", "org"];
        let labels: Vec<&str> = (0..=self.below(4)).map(|_| self.pick(&LABELS)).collect();
        labels.join(".")
    }

    fn cidr(&mut self) -> String {
        const BYTES: [&str; 5] = ["0", "1", "10", "127", "255"];
        let four =
            |dice: &mut Self| (0..4).map(|_| dice.pick(&BYTES)).collect::<Vec<_>>().join(".");
        match self.below(8) {
            0..3 => format!("{}/{}", four(self), self.below(33)),
            3 => four(self),
            4 | 5 => {
                format!(
                    "2001:db8:{:x}::{:x}/{}",
                    self.below(4),
                    self.below(4),
                    20 + self.below(109)
                )
            }
            6 => format!("::ffff:1.2.3.{}/{}", self.below(256), 90 + self.below(39)),
            _ => format!("fe80::{}%eth{}", self.below(3), self.below(3)),
        }
    }

    /// One value, alone or in a list, or several.
    fn some(&mut self, item: impl Fn(&mut Self) -> Value) -> Value {
        let mut items: Vec<Value> = (0..=self.below(6)).map(|_| item(self)).collect();
        if items.len() == 1 && self.one_in(2) { items.remove(0) } else { items.into() }
    }

    /// A rule of a set.
    pub(super) fn rule(&mut self, version: u8, depth: usize) -> Value {
        if depth < 2 && self.one_in(5) {
            let rules: Vec<Value> =
                (0..=self.below(3)).map(|_| self.rule(version, depth + 1)).collect();
            let mode = self.pick(&["and", "or"]);
            return json!({"type": "logical", "mode": mode, "rules": rules, "invert": self.one_in(3)});
        }
        let mut rule = Map::new();
        let name = |dice: &mut Self| dice.name().into();
        let cidr = |dice: &mut Self| dice.cidr().into();
        let port = |dice: &mut Self| dice.below(65_536).into();
        let range = |dice: &mut Self| format!("{}:{}", dice.below(10), 10 + dice.below(90)).into();
        let suffix = |dice: &mut Self| format!("{}{}", dice.pick(&["", "."]), dice.name()).into();
        let regex = |dice: &mut Self| format!("^{}", dice.name()).into();
        let network = |dice: &mut Self| dice.pick(&["tcp", "udp"]).into();
        let query = |dice: &mut Self| match dice.below(4) {
            0 => 65.into(),
            1 => 4711.into(),
            _ => dice.pick(&["A", "AAAA", "TXT"]).into(),
        };
        type Item = dyn Fn(&mut Dice) -> Value;
        let items: [(&str, &Item); 18] = [
            ("query_type", &query),
            ("network", &network),
            ("domain", &name),
            ("domain_suffix", &suffix),
            ("domain_keyword", &name),
            ("domain_regex", &regex),
            ("source_ip_cidr", &cidr),
            ("ip_cidr", &cidr),
            ("source_port", &port),
            ("source_port_range", &range),
            ("port", &port),
            ("port_range", &range),
            ("process_name", &name),
            ("process_path", &name),
            ("process_path_regex", &name),
            ("package_name", &name),
            ("wifi_ssid", &name),
            ("wifi_bssid", &name),
        ];
        for (key, item) in items {
            if self.one_in(4) {
                rule.insert(key.to_owned(), self.some(item));
            }
        }
        if version == 3 && self.one_in(3) {
            let kind =
                |dice: &mut Self| dice.pick(&["wifi", "cellular", "ethernet", "other"]).into();
            rule.insert("network_type".to_owned(), self.some(kind));
        }
        for key in ["network_is_expensive", "network_is_constrained", "invert"] {
            if self.one_in(5) {
                rule.insert(key.to_owned(), true.into());
            }
        }
        rule.into()
    }

    /// A source file.
    pub(super) fn file(&mut self, most: usize) -> Value {
        let version = 1 + self.below(3) as u8;
        let rules: Vec<Value> = (0..self.below(most + 1)).map(|_| self.rule(version, 0)).collect();
        json!({"version": version, "rules": rules})
    }
}
