//! A process that writes is killed at moments that it does not choose. The test starts itself again to be that process.

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crosspoint_kernel::state::{FakePool, State};
use crosspoint_store::{Options, Store};

/// Names the file to the process that is killed.
const FILE: &str = "CROSSPOINT_STORE_KILL_FILE";

/// What a kill may cost of everything but fake addresses, and a machine that is busy with other tests.
const LOST: Duration = Duration::from_millis(1000 + 700);

fn open(path: &Path) -> Store {
    let rejected = Some(Duration::from_secs(600));
    Store::open(path, Options { fakeip: true, rejected, ..Options::default() }).unwrap()
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number)
}

/// The process that is killed: it numbers what it writes, and prints each number when it is written.
#[test]
fn victim() {
    let Some(path) = std::env::var_os(FILE) else { return };
    let store = open(path.as_ref());
    let fake = store.fake().unwrap();
    let begin = fake.pool().map_or(0, |pool| u32::from(pool.last4.unwrap()) & 0x1_ffff);
    for number in begin + 1.. {
        let pool = FakePool { last4: Some(address(number)), ..FakePool::default() };
        fake.assign(address(number).into(), &format!("n{number}.test"), pool);
        store.reject("dns", &format!("r{number}.test"), 1);
        println!("\nwritten {number}");
        std::thread::sleep(Duration::from_micros(700));
    }
}

#[test]
fn a_kill_costs_a_second_at_most_and_never_half_a_transaction_nor_a_fake_address() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.db");
    for wait in [300, 1500, 2111, 2750] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (begun, mut written) = (Instant::now(), Vec::new());
        while begun.elapsed() < Duration::from_millis(wait) || written.is_empty() {
            let line = lines.next().unwrap().unwrap();
            if let Some(number) = line.strip_prefix("written ") {
                written.push((Instant::now(), number.parse::<u32>().unwrap()));
            }
        }
        child.kill().unwrap();
        let killed = Instant::now();
        child.wait().unwrap();

        let store = open(&path);
        let fake = store.fake().unwrap();
        let entries = fake.entries();
        let last = fake.pool().and_then(|pool| pool.last4);
        // Address, name and pool of one assignment are there together or not at all.
        let highest = entries.iter().map(|(ip, _)| *ip).max();
        assert_eq!(highest, last.map(IpAddr::from));
        let last = last.map_or(0, |ip| u32::from(ip) & 0x1_ffff);
        assert_eq!(entries.len(), usize::try_from(last).unwrap());
        for (at, number) in written {
            // Of fake addresses nothing is lost at all.
            assert!(number <= last, "{number} was written {:?} before the end", killed - at);
            if killed - at > LOST {
                assert!(store.rejected("dns", &format!("r{number}.test"), 1));
            }
        }
        assert!(!dir.path().join("cache.db.damaged").exists());
    }
}
