//! Taking over a file of the reference, once.
//!
//! Its buckets: `selected`, `group_expand`, `rule_set`, `rdrc2` with one bucket for each server, either at the top or
//! in a bucket whose name is a zero byte and the `cache_id`; at the top always `clash_mode` (key `default`, or the zero
//! byte and the `cache_id`), `fakeip_address`, `fakeip_domain4`, `fakeip_domain6` (parity/semantics.md §5.8).

use std::{
    collections::HashMap,
    fs, io,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use crosspoint_kernel::{
    resolve::Family,
    state::{FakePool, SavedRuleSet},
};
use crosspoint_schema::decode::Prefix;
use rustix::fs::FlockOperation;
use tracing::{info, warn};

use crate::{
    bbolt::{self, BboltError},
    file::{free_name, is_bbolt, write_new},
    overlay::{Batch, Key, Value},
    plain,
    tables::address,
    unix,
};

/// A larger file is not read.
const LARGEST: u64 = 1 << 30;

/// Why a file was not taken over.
pub(crate) enum Failure {
    /// The reference is running.
    Locked,
    /// It is one of the reference's, and damaged.
    Contents(String),
    /// What was being done, and what the system said.
    System(&'static str, io::Error),
}

/// If `path` is a file of the reference, puts one of ours in its place. Otherwise does nothing.
pub(crate) fn take_over(path: &Path) -> Result<(), Failure> {
    // Not through a pipe, and not on a terminal.
    let options = fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(path);
    let file = match options {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::System("open", error)),
    };
    let meta = file.metadata().map_err(|error| Failure::System("look at", error))?;
    if !meta.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
        return Err(Failure::System("open", error));
    }
    if !is_bbolt(&file).map_err(|error| Failure::System("read", error))? {
        return Ok(());
    }
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(Failure::Locked),
        Err(error) => return Err(Failure::System("lock", error.into())),
    }
    if meta.len() > LARGEST {
        return Err(Failure::Contents("it is too large".to_owned()));
    }
    let bytes = fs::read(path).map_err(|error| Failure::System("read", error))?;
    let (batch, damage) = translate(&bytes);
    if let Some(damage) = damage {
        if batch.is_empty() {
            return Err(Failure::Contents(damage.to_string()));
        }
        warn!("cache-file: {}: {damage}: taking what can be read", path.display());
    }
    let kept = free_name(path, "bbolt");
    let new = with_suffix(path, "new");
    let _ = fs::remove_file(&new);
    write_new(&new, &batch).map_err(|why| Failure::System("import", io::Error::other(why)))?;
    // Under both names first, so that a crash in between loses nothing.
    let renamed = match fs::hard_link(path, &kept) {
        Ok(()) => Ok(()),
        Err(_) => fs::rename(path, &kept),
    };
    renamed
        .and_then(|()| fs::rename(&new, path))
        .map_err(|error| Failure::System("keep", error))?;
    info!(
        "cache-file: {} was one of sing-box: imported, and kept as {}",
        path.display(),
        kept.display()
    );
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{suffix}"));
    name.into()
}

/// What a file of the reference says, and what is wrong with it.
pub(crate) fn translate(bytes: &[u8]) -> (Batch, Option<BboltError>) {
    let mut found = Found::default();
    let damage = bbolt::visit(bytes, &mut |path, key, value| found.take(path, key, value)).err();
    (found.into_batch(), damage)
}

#[derive(Default)]
struct Found {
    puts: HashMap<Key, Option<Value>>,
    names: Vec<(IpAddr, Box<str>)>,
    addresses: HashMap<(Family, Box<str>), IpAddr>,
    pool: Option<FakePool>,
}

impl Found {
    fn take(&mut self, path: &[&[u8]], key: &[u8], value: &[u8]) {
        let (id, path) = match path {
            [[0, id @ ..], rest @ ..] => (id, rest),
            path => (&b""[..], path),
        };
        let Some(id) = text(id).map(Arc::<str>::from) else { return };
        let _ = match path {
            [b"selected"] => self.selected(id, key, value),
            [b"group_expand"] => self.expanded(id, key, value),
            [b"rule_set"] => self.rule_set(id, key, value),
            [b"rdrc2", server] => self.rejected(id, server, key, value),
            [b"clash_mode"] => self.mode(key, value),
            [b"fakeip_address"] => self.fake(key, value),
            [b"fakeip_domain4"] => self.fake_name(Family::V4, key, value),
            [b"fakeip_domain6"] => self.fake_name(Family::V6, key, value),
            _ => None,
        };
    }

    fn put(&mut self, key: Key, value: Value) {
        self.puts.insert(key, Some(value));
    }

    fn selected(&mut self, id: Arc<str>, key: &[u8], value: &[u8]) -> Option<()> {
        let (group, member) = (text(key)?, text(value)?);
        self.put(Key::Selected(id, group.into()), Value::Text(member.into()));
        Some(())
    }

    fn expanded(&mut self, id: Arc<str>, key: &[u8], value: &[u8]) -> Option<()> {
        let &[expanded] = value else { return None };
        self.put(Key::Expanded(id, text(key)?.into()), Value::Flag(expanded == 1));
        Some(())
    }

    fn mode(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let id = match key {
            [0, id @ ..] => text(id)?,
            b"default" => "",
            _ => return None,
        };
        self.put(Key::Mode(id.into()), Value::Text(text(value)?.into()));
        Some(())
    }

    /// Version 1, content, seconds since 1970, ETag; byte strings with their length before them as a varint.
    fn rule_set(&mut self, id: Arc<str>, key: &[u8], value: &[u8]) -> Option<()> {
        let mut rest = value.strip_prefix(&[1])?;
        let content = Bytes::copy_from_slice(counted(&mut rest)?);
        let (seconds, mut rest) = rest.split_first_chunk::<8>()?;
        let seconds = u64::try_from(i64::from_be_bytes(*seconds)).ok()?;
        let etag = text(counted(&mut rest)?)?.to_owned();
        let updated = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
        let set = SavedRuleSet { content, etag, updated };
        self.put(Key::RuleSet(id, text(key)?.into()), Value::RuleSet(set));
        Some(())
    }

    /// Query type and name → seconds since 1970.
    fn rejected(&mut self, id: Arc<str>, server: &[u8], key: &[u8], value: &[u8]) -> Option<()> {
        let (qtype, name) = key.split_first_chunk::<2>()?;
        let until = u64::from_be_bytes(value.try_into().ok()?);
        if until <= unix(SystemTime::now()) {
            return None;
        }
        let key =
            Key::Rejected(id, text(server)?.into(), u16::from_be_bytes(*qtype), plain(text(name)?));
        self.put(key, Value::Until(until));
        Some(())
    }

    fn fake(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if key == b"fakeip_metadata" {
            self.pool = pool(value);
        } else {
            self.names.push((address(key)?, plain(text(value)?)));
        }
        Some(())
    }

    fn fake_name(&mut self, family: Family, key: &[u8], value: &[u8]) -> Option<()> {
        self.addresses.insert((family, plain(text(key)?)), address(value)?);
        Some(())
    }

    fn into_batch(mut self) -> Batch {
        // The reference takes its metadata out of the file while it runs. Without them it would begin anew, and so do
        // we.
        if let Some(pool) = self.pool.take() {
            for (ip, name) in std::mem::take(&mut self.names) {
                let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
                // Its two directions may contradict each other; only what both say counts.
                if self.addresses.get(&(family, name.clone())) == Some(&ip) {
                    self.put(Key::FakeAddress(family, name.clone()), Value::Address(ip));
                    self.put(Key::FakeName(ip), Value::Text(name));
                }
            }
            self.put(Key::FakePool, Value::Pool(pool));
        }
        Batch { puts: self.puts, forget_fake: false }
    }
}

/// Two ranges (address and length of the prefix) and two addresses, each with its length before it in two bytes.
fn pool(mut bytes: &[u8]) -> Option<FakePool> {
    let mut next = || {
        let (length, rest) = bytes.split_first_chunk::<2>()?;
        let (field, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
        bytes = rest;
        Some(field)
    };
    let range = |field: &[u8]| {
        let (&bits, addr) = field.split_last()?;
        Some(Prefix { addr: address(addr)?, bits })
    };
    let (range4, range6) = (range(next()?), range(next()?));
    let (last4, last6) = (address(next()?), address(next()?));
    Some(FakePool {
        range4: range4.filter(|range| range.addr.is_ipv4() && range.bits <= 32),
        range6: range6.filter(|range| range.addr.is_ipv6() && range.bits <= 128),
        last4: match last4 {
            Some(IpAddr::V4(ip)) => Some(ip),
            _ => None,
        },
        last6: match last6 {
            Some(IpAddr::V6(ip)) => Some(ip),
            _ => None,
        },
    })
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Bytes with their number before them, in groups of seven bits, the lowest first.
fn counted<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut length = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        length |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            let (bytes, tail) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            *rest = tail;
            return Some(bytes);
        }
    }
    None
}
