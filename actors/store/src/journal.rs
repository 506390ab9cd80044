//! New fake addresses until the next transaction: appended to a file beside the cache file, so that they survive a kill
//! of this process from the moment on at which a client is told of them, and nobody waits for the disk.
//!
//! ```text
//!  assign ──▶ overlay ──once a second──▶ cache file
//!      └────▶ PATH.fake ──renamed when a transaction begins──▶ PATH.fake.1 ──removed when it is done
//! ```
//! What is found at start is assigned again, in order: what the cache file knows already does not change by that. A
//! file is written as it comes, which a power cut may tear: then what is whole counts, up to the first that is not.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crosspoint_kernel::state::FakePool;
use crosspoint_schema::decode::Prefix;
use tracing::warn;

use crate::tables;

/// A file is not longer than this: while nothing can be committed, who assigns has to wait again.
const LONGEST: u64 = 16 << 20;

/// What one record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// An address stands for a name.
    Assign(IpAddr, Box<str>, FakePool),
    /// All are forgotten.
    Reset(FakePool),
    /// Device and inode of the cache file that all that follows belongs to.
    Of(u64, u64),
}

const ASSIGN: u8 = 1;
const RESET: u8 = 2;
const OF: u8 = 3;

/// The two files.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    identity: (u64, u64),
    /// Open since the first record.
    current: Option<fs::File>,
    length: u64,
    /// A renamed file waits for the end of a transaction.
    renamed: bool,
}

impl Journal {
    /// The journal of a cache file, and what was not committed when its last owner ended.
    pub(crate) fn open(cache: &Path, identity: (u64, u64)) -> (Self, Vec<Record>) {
        let mut path = cache.as_os_str().to_owned();
        path.push(".fake");
        let mut journal =
            Self { path: path.into(), identity, current: None, length: 0, renamed: false };
        let mut records = Vec::new();
        for path in [journal.renamed_path(), journal.path.clone()] {
            match read(&path) {
                Ok(bytes) => records.extend(belonging(parse(&bytes), identity)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => warn!("cache-file: read {}: {error}", path.display()),
            }
        }
        if records.is_empty() {
            journal.remove();
        } else {
            // Both are kept as one until what they say is committed.
            journal.renamed = true;
            if let Err(error) = journal.unite() {
                warn!("cache-file: write {}: {error}", journal.renamed_path().display());
            }
        }
        (journal, records)
    }

    /// Adds a record. Whether it survives a kill from now on.
    pub(crate) fn append(&mut self, record: &Record) -> bool {
        if self.length > LONGEST {
            return false;
        }
        let mut bytes = Vec::with_capacity(96);
        if self.current.is_none() {
            let opened = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&self.path)
                .map_err(|error| warn!("cache-file: open {}: {error}", self.path.display()));
            let Ok(file) = opened else { return false };
            self.current = Some(file);
            emit(&Record::Of(self.identity.0, self.identity.1), &mut bytes);
        }
        emit(record, &mut bytes);
        let Some(file) = &mut self.current else { return false };
        if let Err(error) = file.write_all(&bytes) {
            warn!("cache-file: write {}: {error}", self.path.display());
            // Whatever of it is there is not whole, and nothing may follow it.
            self.length = u64::MAX;
            return false;
        }
        self.length += bytes.len() as u64;
        true
    }

    /// A transaction begins with all that was appended so far.
    pub(crate) fn begin(&mut self) {
        // After a transaction that failed, the next one writes what belongs to both files.
        if self.current.is_some() && !self.renamed && self.rename() {
            (self.current, self.length, self.renamed) = (None, 0, true);
        }
    }

    fn rename(&self) -> bool {
        let renamed = fs::rename(&self.path, self.renamed_path());
        renamed
            .map_err(|error| warn!("cache-file: rename {}: {error}", self.path.display()))
            .is_ok()
    }

    /// The transaction is done. With `all`, nothing was appended since it began.
    pub(crate) fn end(&mut self, all: bool) {
        let renamed = std::mem::take(&mut self.renamed);
        if renamed {
            let _ = fs::remove_file(self.renamed_path());
        }
        if all && (self.current.take().is_some() || renamed) {
            self.length = 0;
            let _ = fs::remove_file(&self.path);
        }
    }

    fn renamed_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".1");
        path.into()
    }

    fn remove(&self) {
        for path in [self.renamed_path(), self.path.clone()] {
            let _ = fs::remove_file(path);
        }
    }

    /// Puts what stands in the newer file behind what stands in the renamed one.
    fn unite(&self) -> io::Result<()> {
        let newer = match read(&self.path) {
            Ok(newer) => newer,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        // What is torn at the end of the older file would hide it.
        let mut all = Vec::new();
        let older = read(&self.renamed_path()).unwrap_or_default();
        for record in parse(&older).into_iter().chain(parse(&newer)) {
            emit(&record, &mut all);
        }
        let mut whole = self.path.clone().into_os_string();
        whole.push(".2");
        fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&whole)?
            .write_all(&all)?;
        fs::rename(whole, self.renamed_path())?;
        fs::remove_file(&self.path)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Both files in one, and a record that made one of them too long.
    fs::File::open(path)?.take(3 * LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What belongs to this cache file.
fn belonging(records: Vec<Record>, identity: (u64, u64)) -> Vec<Record> {
    let mut ours = false;
    let mut keep = |record: &Record| match record {
        Record::Of(device, inode) => {
            ours = (*device, *inode) == identity;
            false
        }
        _ => ours,
    };
    records.into_iter().filter(|record| keep(record)).collect()
}

/// Length, record, checksum.
fn emit(record: &Record, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(80);
    match record {
        Record::Assign(ip, name, pool) => {
            body.push(ASSIGN);
            emit_ip(Some(*ip), &mut body);
            emit_pool(pool, &mut body);
            body.extend_from_slice(name.as_bytes());
        }
        Record::Reset(pool) => {
            body.push(RESET);
            emit_pool(pool, &mut body);
        }
        Record::Of(device, inode) => {
            body.push(OF);
            body.extend_from_slice(&device.to_be_bytes());
            body.extend_from_slice(&inode.to_be_bytes());
        }
    }
    // A name of DNS has 255 bytes, four times as many when all are escaped.
    let Ok(length) = u16::try_from(body.len()) else { return };
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&body);
    out.extend_from_slice(&checksum(&body).to_be_bytes());
}

fn emit_ip(ip: Option<IpAddr>, out: &mut Vec<u8>) {
    match ip {
        None => out.push(0),
        Some(IpAddr::V4(ip)) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        Some(IpAddr::V6(ip)) => {
            out.push(16);
            out.extend_from_slice(&ip.octets());
        }
    }
}

fn emit_pool(pool: &FakePool, out: &mut Vec<u8>) {
    for range in [&pool.range4, &pool.range6] {
        emit_ip(range.map(|range| range.addr), out);
        out.push(range.map_or(0, |range| range.bits));
    }
    emit_ip(pool.last4.map(IpAddr::V4), out);
    emit_ip(pool.last6.map(IpAddr::V6), out);
}

/// All records up to the first that is not whole.
fn parse(mut bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    while let Some(record) = parse_one(&mut bytes) {
        records.push(record);
    }
    records
}

fn parse_one(bytes: &mut &[u8]) -> Option<Record> {
    let length = u16::from_be_bytes(*take::<2>(bytes)?);
    let (mut body, rest) = bytes.split_at_checked(length.into())?;
    *bytes = rest;
    if u64::from_be_bytes(*take::<8>(bytes)?) != checksum(body) {
        return None;
    }
    let [kind] = *take::<1>(&mut body)?;
    Some(match kind {
        ASSIGN => {
            let ip = parse_ip(&mut body)??;
            let pool = parse_pool(&mut body)?;
            Record::Assign(ip, std::str::from_utf8(body).ok()?.into(), pool)
        }
        RESET => Record::Reset(parse_pool(&mut body)?),
        OF => Record::Of(
            u64::from_be_bytes(*take::<8>(&mut body)?),
            u64::from_be_bytes(*take::<8>(&mut body)?),
        ),
        _ => return None,
    })
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(head)
}

/// `Some(None)` where no address stands.
fn parse_ip(bytes: &mut &[u8]) -> Option<Option<IpAddr>> {
    let [length] = *take::<1>(bytes)?;
    if length == 0 {
        return Some(None);
    }
    let (octets, rest) = bytes.split_at_checked(length.into())?;
    *bytes = rest;
    tables::address(octets).map(Some)
}

fn parse_pool(bytes: &mut &[u8]) -> Option<FakePool> {
    let mut range = || -> Option<Option<Prefix>> {
        let addr = parse_ip(bytes)?;
        let [bits] = *take::<1>(bytes)?;
        Some(addr.map(|addr| Prefix { addr, bits }))
    };
    let (range4, range6) = (range()?, range()?);
    let last4: Option<Ipv4Addr> = parse_ip(bytes)?.and_then(|ip| match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    let last6: Option<Ipv6Addr> = parse_ip(bytes)?.and_then(|ip| match ip {
        IpAddr::V6(ip) => Some(ip),
        IpAddr::V4(_) => None,
    });
    Some(FakePool { range4, range6, last4, last6 })
}

/// FNV-1a, 64 bits: against what is torn, not against anybody.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool() -> impl Strategy<Value = FakePool> {
        let prefix = |v4: bool| {
            let addr = any::<u128>().prop_map(move |bits| match v4 {
                true => IpAddr::from(Ipv4Addr::from(bits as u32)),
                false => IpAddr::from(Ipv6Addr::from(bits)),
            });
            let bits = 0..=(if v4 { 32u8 } else { 128 });
            prop::option::of((addr, bits).prop_map(|(addr, bits)| Prefix { addr, bits }))
        };
        let last4 = prop::option::of(any::<u32>().prop_map(Ipv4Addr::from));
        let last6 = prop::option::of(any::<u128>().prop_map(Ipv6Addr::from));
        (prefix(true), prefix(false), last4, last6)
            .prop_map(|(range4, range6, last4, last6)| FakePool { range4, range6, last4, last6 })
    }

    fn record() -> impl Strategy<Value = Record> {
        prop_oneof![
            (any::<IpAddr>(), ".{0,40}", pool()).prop_map(|(ip, name, pool)| Record::Assign(
                ip,
                name.into(),
                pool
            )),
            pool().prop_map(Record::Reset),
            any::<(u64, u64)>().prop_map(|(device, inode)| Record::Of(device, inode)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_up_to_where_it_is_torn(
            records in prop::collection::vec(record(), 0..12), cut in any::<prop::sample::Index>(), flip in any::<Option<prop::sample::Index>>(),
        ) {
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for record in &records {
                emit(record, &mut bytes);
                ends.push(bytes.len());
            }
            prop_assert_eq!(&parse(&bytes), &records);
            let mut whole = cut.index(bytes.len() + 1);
            bytes.truncate(whole);
            if let Some(flip) = flip.filter(|_| !bytes.is_empty()) {
                let at = flip.index(bytes.len());
                bytes[at] ^= 1;
                whole = at;
            }
            let read = parse(&bytes);
            prop_assert!(records.starts_with(&read));
            prop_assert_eq!(read.len(), ends.iter().filter(|end| **end > 0 && **end <= whole).count());
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
        }
    }

    #[test]
    fn records_last_until_a_transaction_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache.db");
        let assign = |n: u8| {
            Record::Assign(
                IpAddr::from([198, 18, 0, n]),
                format!("n{n}").into(),
                FakePool::default(),
            )
        };
        let again = || Journal::open(&cache, (1, 2)).1;
        let files = || std::fs::read_dir(dir.path()).unwrap().count();
        let (mut journal, found) = Journal::open(&cache, (1, 2));
        assert!(found.is_empty());
        journal.begin();
        journal.end(true);
        assert!(journal.append(&assign(1)) && journal.append(&assign(2)));
        journal.begin();
        assert!(journal.append(&assign(3)));
        assert_eq!(files(), 2);
        // The transaction is done: what came later is still there.
        journal.end(false);
        assert_eq!(files(), 1);
        assert_eq!(again(), [assign(3)]);
        // Nothing is lost when it is opened twice, or is killed again before a transaction.
        assert_eq!(again(), [assign(3)]);
        let (mut journal, _) = Journal::open(&cache, (1, 2));
        assert!(journal.append(&assign(4)));
        // A transaction that fails.
        journal.begin();
        assert!(journal.append(&assign(5)));
        journal.begin();
        assert_eq!(again(), [assign(3), assign(4), assign(5)]);
        let (mut journal, _) = Journal::open(&cache, (1, 2));
        journal.begin();
        journal.end(true);
        assert_eq!(files(), 0);
        // What belongs to another file says nothing here.
        assert!(journal.append(&assign(6)));
        assert!(Journal::open(&cache, (1, 3)).1.is_empty());
        assert_eq!(files(), 0);
    }
}
