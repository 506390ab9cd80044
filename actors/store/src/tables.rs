//! How values lie in the file.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use crosspoint_kernel::{
    resolve::Family,
    state::{FakePool, SavedRuleSet},
};
use crosspoint_schema::decode::Prefix;
use redb::{
    Database, Key as RedbKey, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    TableError, Value as RedbValue,
};

use crate::{
    overlay::{Batch, Key, Value},
    unix,
};

/// (`cache_id`, group) → member.
const SELECTED: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("selected");
/// (`cache_id`, group) → shown open.
const EXPANDED: TableDefinition<'_, (&str, &str), bool> = TableDefinition::new("group_expand");
/// `cache_id` → mode.
const MODE: TableDefinition<'_, &str, &str> = TableDefinition::new("clash_mode");
/// (`cache_id`, tag) → (seconds since 1970, ETag, content).
const RULE_SET: TableDefinition<'_, (&str, &str), (u64, &str, &[u8])> =
    TableDefinition::new("rule_set");
/// (`cache_id`, server, type, name) → seconds since 1970.
const REJECTED: TableDefinition<'_, (&str, &str, u16, &str), u64> = TableDefinition::new("rdrc");
/// Address, 4 or 16 bytes → name.
const FAKE_NAME: TableDefinition<'_, &[u8], &str> = TableDefinition::new("fakeip_name");
/// (is of IPv6, name) → address.
const FAKE_ADDRESS: TableDefinition<'_, (bool, &str), &[u8]> =
    TableDefinition::new("fakeip_address");
/// `range4`, `range6`, `last4`, `last6` → text; [`OPEN`]. The table exists since the first reset.
const FAKE_POOL: TableDefinition<'_, &str, &str> = TableDefinition::new("fakeip_pool");
/// While addresses may be given out: in which life of the machine.
const OPEN: &str = "open";

/// Whether every table that is there has the types of ours.
pub(crate) fn check(db: &Database) -> Result<(), redb::Error> {
    let txn = db.begin_read()?;
    open(&txn, SELECTED)?;
    open(&txn, EXPANDED)?;
    open(&txn, MODE)?;
    open(&txn, RULE_SET)?;
    open(&txn, REJECTED)?;
    open(&txn, FAKE_NAME)?;
    open(&txn, FAKE_ADDRESS)?;
    open(&txn, FAKE_POOL)?;
    Ok(())
}

/// A table, unless nothing was ever written to it.
fn open<K: RedbKey + 'static, V: RedbValue + 'static>(
    txn: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
) -> Result<Option<redb::ReadOnlyTable<K, V>>, redb::Error> {
    match txn.open_table(table) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What the last transaction says of a key.
pub(crate) fn read(db: &Database, key: &Key) -> Result<Option<Value>, redb::Error> {
    let txn = db.begin_read()?;
    Ok(match key {
        Key::Selected(id, group) => {
            let Some(table) = open(&txn, SELECTED)? else { return Ok(None) };
            table.get((&**id, &**group))?.map(|found| Value::Text(found.value().into()))
        }
        Key::Expanded(id, group) => {
            let Some(table) = open(&txn, EXPANDED)? else { return Ok(None) };
            table.get((&**id, &**group))?.map(|found| Value::Flag(found.value()))
        }
        Key::Mode(id) => {
            let Some(table) = open(&txn, MODE)? else { return Ok(None) };
            table.get(&**id)?.map(|found| Value::Text(found.value().into()))
        }
        Key::RuleSet(id, tag) => {
            let Some(table) = open(&txn, RULE_SET)? else { return Ok(None) };
            table.get((&**id, &**tag))?.map(|found| {
                let (updated, etag, content) = found.value();
                Value::RuleSet(SavedRuleSet {
                    content: Bytes::copy_from_slice(content),
                    etag: etag.to_owned(),
                    updated: UNIX_EPOCH
                        .checked_add(Duration::from_secs(updated))
                        .unwrap_or(UNIX_EPOCH),
                })
            })
        }
        Key::Rejected(id, server, qtype, name) => {
            let Some(table) = open(&txn, REJECTED)? else { return Ok(None) };
            table.get((&**id, &**server, *qtype, &**name))?.map(|found| Value::Until(found.value()))
        }
        Key::FakeName(ip) => {
            let Some(table) = open(&txn, FAKE_NAME)? else { return Ok(None) };
            table.get(&*octets(*ip))?.map(|found| Value::Text(found.value().into()))
        }
        Key::FakeAddress(family, name) => {
            let Some(table) = open(&txn, FAKE_ADDRESS)? else { return Ok(None) };
            let found = table.get((*family == Family::V6, &**name))?;
            found.and_then(|found| address(found.value())).map(Value::Address)
        }
        Key::FakePool => {
            let Some(table) = open(&txn, FAKE_POOL)? else { return Ok(None) };
            let text = |key: &str| -> Result<String, redb::Error> {
                Ok(table.get(key)?.map(|found| found.value().to_owned()).unwrap_or_default())
            };
            Some(Value::Pool(FakePool {
                range4: Prefix::parse(&text("range4")?).ok(),
                range6: Prefix::parse(&text("range6")?).ok(),
                last4: text("last4")?.parse().ok(),
                last6: text("last6")?.parse().ok(),
            }))
        }
    })
}

/// Every group of a `cache_id` with its member.
pub(crate) fn choices(db: &Database, id: &str) -> Result<Vec<(String, String)>, redb::Error> {
    let txn = db.begin_read()?;
    let Some(table) = open(&txn, SELECTED)? else { return Ok(Vec::new()) };
    let mut choices = Vec::new();
    for found in table.range((id, "")..)? {
        let (key, member) = found?;
        let (owner, group) = key.value();
        if owner != id {
            break;
        }
        choices.push((group.to_owned(), member.value().to_owned()));
    }
    Ok(choices)
}

/// Every fake address with its name.
pub(crate) fn fake_names(db: &Database) -> Result<Vec<(IpAddr, Box<str>)>, redb::Error> {
    let txn = db.begin_read()?;
    let Some(table) = open(&txn, FAKE_NAME)? else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for found in table.iter()? {
        let (ip, name) = found?;
        names.extend(address(ip.value()).map(|ip| (ip, name.value().into())));
    }
    Ok(names)
}

/// Writes a batch in one transaction. With `now`, rejections that are over by then are removed, too.
pub(crate) fn write(db: &Database, batch: &Batch, now: Option<u64>) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    if batch.forget_fake {
        txn.delete_table(FAKE_NAME)?;
        txn.delete_table(FAKE_ADDRESS)?;
        txn.delete_table(FAKE_POOL)?;
    }
    {
        let mut selected = txn.open_table(SELECTED)?;
        let mut expanded = txn.open_table(EXPANDED)?;
        let mut mode = txn.open_table(MODE)?;
        let mut rule_set = txn.open_table(RULE_SET)?;
        let mut rejected = txn.open_table(REJECTED)?;
        if let Some(now) = now {
            rejected.retain(|_, until| until > now)?;
        }
        for (key, value) in &batch.puts {
            match (key, value) {
                (Key::Selected(id, group), Some(Value::Text(member))) => {
                    selected.insert((&**id, &**group), &**member)?;
                }
                (Key::Expanded(id, group), Some(Value::Flag(open))) => {
                    expanded.insert((&**id, &**group), open)?;
                }
                (Key::Mode(id), Some(Value::Text(name))) => {
                    mode.insert(&**id, &**name)?;
                }
                (Key::RuleSet(id, tag), Some(Value::RuleSet(set))) => {
                    let value = (unix(set.updated), set.etag.as_str(), &*set.content);
                    rule_set.insert((&**id, &**tag), value)?;
                }
                (Key::Rejected(id, server, qtype, name), Some(Value::Until(until))) => {
                    rejected.insert((&**id, &**server, *qtype, &**name), until)?;
                }
                _ => {}
            }
        }
    }
    let fake = |key: &Key| matches!(key, Key::FakeName(_) | Key::FakeAddress(..) | Key::FakePool);
    // Whether the pool table exists says whether there was a reset: it is not made in passing.
    if batch.puts.keys().any(fake) {
        write_fake(&txn, batch)?;
    }
    txn.commit()?;
    Ok(())
}

fn write_fake(txn: &redb::WriteTransaction, batch: &Batch) -> Result<(), redb::Error> {
    let mut names = txn.open_table(FAKE_NAME)?;
    let mut addresses = txn.open_table(FAKE_ADDRESS)?;
    for (key, value) in &batch.puts {
        match (key, value) {
            (Key::FakeName(ip), Some(Value::Text(name))) => {
                names.insert(&*octets(*ip), &**name)?;
            }
            (Key::FakeName(ip), None) => {
                names.remove(&*octets(*ip))?;
            }
            (Key::FakeAddress(family, name), Some(Value::Address(ip))) => {
                addresses.insert((*family == Family::V6, &**name), &*octets(*ip))?;
            }
            (Key::FakeAddress(family, name), None) => {
                addresses.remove((*family == Family::V6, &**name))?;
            }
            (Key::FakePool, Some(Value::Pool(pool))) => {
                let mut table = txn.open_table(FAKE_POOL)?;
                let mut put = |key: &str, text: Option<String>| match text {
                    Some(text) => table.insert(key, text.as_str()).map(drop),
                    None => table.remove(key).map(drop),
                };
                put("range4", pool.range4.map(|range| prefix(&range)))?;
                put("range6", pool.range6.map(|range| prefix(&range)))?;
                put(OPEN, Some(boot().to_owned()))?;
                put("last4", pool.last4.map(|ip| ip.to_string()))?;
                put("last6", pool.last6.map(|ip| ip.to_string()))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether somebody gave addresses out and did not close the file before the machine ended.
pub(crate) fn is_of_another_boot(db: &Database) -> Result<bool, redb::Error> {
    let txn = db.begin_read()?;
    let Some(table) = open(&txn, FAKE_POOL)? else { return Ok(false) };
    Ok(table.get(OPEN)?.is_some_and(|found| found.value() != boot()))
}

/// All is in the file: what is given out next follows what was given out last.
pub(crate) fn close(db: &Database) -> Result<(), redb::Error> {
    let read = db.begin_read()?;
    let Some(table) = open(&read, FAKE_POOL)? else { return Ok(()) };
    if table.get(OPEN)?.is_none() {
        return Ok(());
    }
    let txn = db.begin_write()?;
    txn.open_table(FAKE_POOL)?.remove(OPEN)?;
    txn.commit()?;
    Ok(())
}

/// As if the file had been left open in another life of the machine.
#[cfg(test)]
pub(crate) fn leave_open(db: &Database) -> Result<(), redb::Error> {
    let txn = db.begin_write()?;
    txn.open_table(FAKE_POOL)?.insert(OPEN, "before")?;
    Ok(txn.commit()?)
}

/// What tells this life of the machine from others.
fn boot() -> &'static str {
    static BOOT: LazyLock<String> = LazyLock::new(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    });
    &BOOT
}

fn prefix(prefix: &Prefix) -> String {
    format!("{}/{}", prefix.addr, prefix.bits)
}

fn octets(ip: IpAddr) -> Box<[u8]> {
    match ip {
        IpAddr::V4(ip) => ip.octets().into(),
        IpAddr::V6(ip) => ip.octets().into(),
    }
}

/// The address of 4 or 16 bytes.
pub(crate) fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(octets).ok().map(|octets| Ipv6Addr::from(octets).into())
}
