//! Real lists: those that the mihomo package carries, more than 100,000 names and 20,000 prefixes.

use std::{collections::BTreeMap, fs, net::IpAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use crosspoint_conformance::{loud, peers::Peer};
use serde_json::{Value, json};

use super::{Pair, inflate};

/// The fields of a protocol buffers message: numbers and byte strings.
fn fields(mut rest: &[u8]) -> Result<Vec<(u64, u64, &[u8])>> {
    fn varint(rest: &mut &[u8]) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, tail) = rest.split_first().context("cut")?;
            *rest = tail;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(value)
    }
    let mut out = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let value = varint(&mut rest)?;
        match key & 7 {
            0 => out.push((key >> 3, value, &rest[..0])),
            2 => {
                let (bytes, tail) = rest.split_at_checked(value as usize).context("cut")?;
                out.push((key >> 3, 0, bytes));
                rest = tail;
            }
            other => bail!("wire type {other}"),
        }
    }
    Ok(out)
}

/// The lists of one file of V2Ray's geo data (`GeoSiteList`, `GeoIPList`) by code: messages in field 2.
fn lists(path: &std::path::Path) -> Result<BTreeMap<String, Vec<Vec<u8>>>> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let mut lists = BTreeMap::new();
    for (_, _, list) in fields(&bytes)? {
        let list = fields(list)?;
        let code = list.iter().find(|field| field.0 == 1).context("no code")?.2;
        let items =
            list.iter().filter(|field| field.0 == 2).map(|field| field.2.to_vec()).collect();
        lists.insert(String::from_utf8_lossy(code).into_owned(), items);
    }
    Ok(lists)
}

/// A list of names as a rule. Kinds: 0 keyword, 1 expression, 2 suffix, 3 name.
fn names(items: &[Vec<u8>]) -> Result<Value> {
    let mut rule = json!({});
    for item in items {
        let item = fields(item)?;
        let kind = item.iter().find(|field| field.0 == 1).map_or(0, |field| field.1);
        let text = item.iter().find(|field| field.0 == 2).context("no text")?.2;
        let key = ["domain_keyword", "domain_regex", "domain_suffix", "domain"][kind as usize];
        let text: Value = String::from_utf8_lossy(text).into();
        match rule[key].as_array_mut() {
            Some(list) => list.push(text),
            None => rule[key] = json!([text]),
        }
    }
    Ok(rule)
}

/// A list of prefixes as a rule.
fn prefixes(items: &[Vec<u8>]) -> Result<Value> {
    let mut list = Vec::new();
    for item in items {
        let item = fields(item)?;
        let bytes = item.iter().find(|field| field.0 == 1).context("no address")?.2;
        let bits = item.iter().find(|field| field.0 == 2).map_or(0, |field| field.1);
        let ip: IpAddr = match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
            (Ok(four), _) => four.into(),
            (_, Ok(sixteen)) => sixteen.into(),
            _ => bail!("an address of {} bytes", bytes.len()),
        };
        list.push(json!(format!("{ip}/{bits}")));
    }
    Ok(json!({ "ip_cidr": list }))
}

#[test]
fn real_lists_alike() -> Result<()> {
    let data = Peer::Mihomo.path()?;
    let data = data.ancestors().nth(2).context("no directory of data")?.join("geodata");
    let sites = lists(&data.join("geosite.dat"))?;
    let countries = lists(&data.join("geoip.dat"))?;
    let pair = Pair::new()?;
    let (mut domains, mut cidrs) = (0, 0);
    for code in ["CN", "CATEGORY-ADS-ALL", "GOOGLE"] {
        let list = sites.get(code).with_context(|| format!("no list {code}"))?;
        domains += list.len();
        compare(&pair, code, &names(list)?)?;
    }
    for code in ["CN", "JP"] {
        let list = countries.get(code).with_context(|| format!("no country {code}"))?;
        cidrs += list.len();
        compare(&pair, code, &prefixes(list)?)?;
    }
    ensure!(domains > 100_000 && cidrs > 20_000, "{domains} names, {cidrs} prefixes");
    Ok(())
}

fn compare(pair: &Pair, code: &str, rule: &Value) -> Result<()> {
    let (mut ours, mut theirs) = (Duration::ZERO, Duration::ZERO);
    for version in 1..=3 {
        let source = json!({"version": version, "rules": [rule]});
        pair.write("set.json", source.to_string())?;
        ours += pair.timed(true, &["rule-set", "compile", "set.json", "-o", "ours.srs"])?;
        theirs += pair.timed(false, &["rule-set", "compile", "set.json", "-o", "theirs.srs"])?;
        let mine = inflate(&pair.read("ours.srs")?)?;
        ensure!(
            mine == inflate(&pair.read("theirs.srs")?)?,
            "{code} version {version}: rules differ"
        );
        ours += pair.timed(true, &["rule-set", "decompile", "theirs.srs", "-o", "ours.json"])?;
        theirs += pair.timed(false, &["rule-set", "decompile", "ours.srs", "-o", "theirs.json"])?;
        let same = pair.read("ours.json")? == pair.read("theirs.json")?;
        ensure!(same, "{code} version {version}: decompiled, they differ");
        pair.timed(true, &["rule-set", "compile", "ours.json", "-o", "again.srs"])?;
        let again = pair.read("again.srs")?;
        ensure!(
            again == pair.read("ours.srs")?,
            "{code} version {version}: compiled again, they differ"
        );
    }
    for probe in [
        "www.baidu.com",
        "google.com",
        "x.doubleclick.net",
        "example.org",
        "1.0.1.1",
        "203.0.113.1",
    ] {
        pair.same(&["rule-set", "match", "-f", "binary", "theirs.srs", probe])?;
        pair.same(&["rule-set", "match", "-f", "binary", "ours.srs", probe])?;
    }
    loud::line(&format!(
        "RULE-SET {code}: compile and decompile thrice {ours:?}, reference {theirs:?}"
    ));
    Ok(())
}
