//! The store as its users see it: what is written is there, and is there again after a restart.

use std::{
    collections::HashMap,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crosspoint_kernel::{
    resolve::Family,
    state::{FakePool, SavedRuleSet, State},
};
use crosspoint_store::{Options, Store, StoreError, Stores};
use proptest::prelude::*;

fn all(id: &str) -> Options {
    Options { cache_id: id.to_owned(), fakeip: true, rejected: Some(Duration::from_secs(60)) }
}

fn open(path: &Path, id: &str) -> Store {
    Store::open(path, all(id)).unwrap()
}

fn set(content: &str) -> SavedRuleSet {
    SavedRuleSet {
        content: content.as_bytes().to_vec().into(),
        etag: "\"e\"".to_owned(),
        updated: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
    }
}

fn pool(last: &str) -> FakePool {
    FakePool { last4: last.parse().ok(), ..FakePool::default() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.db");
    for round in 0..2 {
        let store = open(&path, "");
        if round == 0 {
            store.select("group", "member");
            store.set_expanded("group", true);
            store.set_clash_mode("Global");
            store.save_rule_set("geo", set("rules"));
            store.reject("dns", "example.org", 1);
            let fake = store.fake().unwrap();
            assert_eq!(fake.pool(), None);
            fake.reset(pool("198.18.0.1"));
            fake.assign(ip("198.18.0.2"), "a.test", pool("198.18.0.2"));
            fake.assign(ip("fc00::2"), "a.test", pool("198.18.0.2"));
        }
        // Seen at once, and the same from the file.
        for synced in [false, true] {
            assert_eq!(store.selected("group").as_deref(), Some("member"));
            assert_eq!(store.selected("other"), None);
            assert_eq!(store.choices(), [("group".to_owned(), "member".to_owned())]);
            assert_eq!(store.expanded("group"), Some(true));
            assert_eq!(store.clash_mode().as_deref(), Some("Global"));
            assert_eq!(store.rule_set("geo"), Some(set("rules")));
            assert!(store.rejected("dns", "example.org", 1));
            assert!(store.rejected("dns", "Example.ORG.", 1));
            assert!(!store.rejected("dns", "example.org", 28));
            assert!(!store.rejected("other", "example.org", 1));
            let fake = store.fake().unwrap();
            assert_eq!(fake.pool(), Some(pool("198.18.0.2")));
            assert_eq!(fake.name(ip("198.18.0.2")).as_deref(), Some("a.test"));
            assert_eq!(fake.address("a.test", Family::V4), Some(ip("198.18.0.2")));
            assert_eq!(fake.address("a.test", Family::V6), Some(ip("fc00::2")));
            assert_eq!(fake.entries().len(), 2);
            if !synced {
                store.sync();
            }
        }
    }
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn cache_ids_are_kept_apart_but_fake_addresses_are_shared() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.db");
    let stores = Stores::default();
    let one = stores.open(&path, all("one")).unwrap();
    assert!(std::sync::Arc::ptr_eq(&one, &stores.open(&path, all("one")).unwrap()));
    let two = stores.open(&path, all("two")).unwrap();
    one.select("group", "a");
    two.select("group", "b");
    two.select("more", "c");
    one.set_clash_mode("Rule");
    one.fake().unwrap().assign(ip("198.18.0.2"), "a.test", pool("198.18.0.2"));
    for _ in 0..2 {
        assert_eq!(one.selected("group").as_deref(), Some("a"));
        assert_eq!(two.selected("group").as_deref(), Some("b"));
        assert_eq!((one.choices().len(), two.choices().len()), (1, 2));
        assert_eq!(two.clash_mode(), None);
        assert_eq!(two.fake().unwrap().name(ip("198.18.0.2")).as_deref(), Some("a.test"));
        one.sync();
    }
}

#[test]
fn what_is_switched_off_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("cache.db"), Options::default()).unwrap();
    store.reject("dns", "example.org", 1);
    assert!(!store.keeps_rejected() && !store.rejected("dns", "example.org", 1));
    assert!(store.fake().is_none());
}

#[test]
fn rejections_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.db");
    let brief = Options { rejected: Some(Duration::from_secs(1)), ..Options::default() };
    let store = Store::open(&path, brief).unwrap();
    store.reject("dns", "example.org", 1);
    assert!(store.rejected("dns", "example.org", 1));
    std::thread::sleep(Duration::from_millis(1200));
    assert!(!store.rejected("dns", "example.org", 1));
}

#[test]
fn a_name_and_an_address_belong_to_one_another_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("cache.db"), "");
    let fake = store.fake().unwrap();
    for _ in 0..2 {
        fake.reset(FakePool::default());
        let (first, second) = (ip("198.18.0.2"), ip("198.18.0.3"));
        fake.assign(first, "a.test", pool("198.18.0.2"));
        store.sync();
        fake.assign(first, "b.test", pool("198.18.0.2"));
        assert_eq!(fake.address("a.test", Family::V4), None);
        store.sync();
        assert_eq!(fake.address("a.test", Family::V4), None);
        fake.assign(second, "b.test", pool("198.18.0.3"));
        assert_eq!(fake.name(first), None);
        assert_eq!(fake.entries(), [(second, "b.test".into())]);
    }
    fake.reset(FakePool::default());
    assert_eq!(fake.entries(), []);
    store.sync();
    assert_eq!((fake.entries(), fake.pool()), (vec![], Some(FakePool::default())));
}

#[test]
fn damaged_and_foreign_files_are_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.db");
    std::fs::write(&path, "# somebody's notes\n".repeat(1000)).unwrap();
    open(&path, "").select("group", "member");
    assert!(
        std::fs::read_to_string(dir.path().join("cache.db.damaged")).unwrap().contains("notes")
    );
    wait_for(&path, "member");
    // Damage anywhere in the file is found or does no harm.
    let whole = std::fs::read(&path).unwrap();
    for at in [0, 9, 64, 200, 4100, 5000, 9000, 20_000, whole.len() / 2] {
        let mut bytes = whole.clone();
        for byte in bytes.iter_mut().skip(at).take(40) {
            *byte ^= 0x5a;
        }
        std::fs::write(&path, &bytes).unwrap();
        let store = open(&path, "");
        assert!([None, Some("member")].contains(&store.selected("group").as_deref()), "at {at}");
        store.select("group", "again");
        store.sync();
        drop(store);
        wait_for(&path, "again");
    }
    // So is a file that is cut off.
    for length in [1, 100, 4096, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        open(&path, "").select("group", "again");
        wait_for(&path, "again");
    }
}

/// Opens the file when the thread of the last store has closed it, and looks for the choice.
fn wait_for(path: &Path, member: &str) {
    assert_eq!(open(path, "").selected("group").as_deref(), Some(member));
}

#[test]
fn a_file_in_use_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.db");
    let first = open(&path, "");
    let begun = Instant::now();
    let error = Store::open(&path, all("")).unwrap_err();
    assert!(matches!(error, StoreError::Locked(_)), "{error}");
    assert!(error.to_string().ends_with("cache.db is in use by another process"));
    assert!(begun.elapsed() >= Duration::from_secs(9));
    drop(first);
    open(&path, "");
    // A directory is none, and nothing is done to it.
    let error = Store::open(dir.path(), all("")).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    let error = Store::open(&dir.path().join("no/such/cache.db"), all("")).unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
}

#[test]
fn a_replaced_file_is_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache.db");
    let stores = Stores::default();
    let first = stores.open(&path, all("")).unwrap();
    first.select("group", "old");
    first.sync();
    std::fs::remove_file(&path).unwrap();
    let second = stores.open(&path, all("")).unwrap();
    assert_eq!(second.selected("group"), None);
    assert_eq!(first.selected("group").as_deref(), Some("old"));
}

#[test]
fn writing_waits_for_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("cache.db"), "");
    let begun = Instant::now();
    for number in 0..10_000 {
        store.reject("dns", &format!("{number}.example.org"), 1);
    }
    let each = begun.elapsed() / 10_000;
    let begun = Instant::now();
    store.sync();
    let commit = begun.elapsed();
    let begun = Instant::now();
    for number in 0..10_000 {
        assert!(store.rejected("dns", &format!("{number}.example.org"), 1));
    }
    let read = begun.elapsed() / 10_000;
    let begun = Instant::now();
    for number in 0..20 {
        store.select("group", &number.to_string());
        store.sync();
    }
    println!("a choice until it is in the file {:?}", begun.elapsed() / 20);
    println!("reject {each:?}, commit of 10,000 {commit:?}, look up in the file {read:?}");
    assert!(each < Duration::from_micros(200), "{each:?}");
}

#[derive(Clone, Debug)]
enum Step {
    Select(u8, u8),
    Mode(u8),
    RuleSet(u8, u8),
    Reject(u8, u8),
    Assign(u8, u8),
    Reset,
    Sync,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8, any::<u8>()).prop_map(|(g, m)| Step::Select(g, m)),
        any::<u8>().prop_map(Step::Mode),
        (0..4_u8, any::<u8>()).prop_map(|(t, c)| Step::RuleSet(t, c)),
        (0..2_u8, 0..8_u8).prop_map(|(s, n)| Step::Reject(s, n)),
        (0..6_u8, 0..6_u8).prop_map(|(a, n)| Step::Assign(a, n)),
        Just(Step::Reset),
        Just(Step::Sync),
        Just(Step::Reopen),
    ]
}

#[derive(Default)]
struct Model {
    selected: HashMap<String, String>,
    mode: Option<String>,
    sets: HashMap<String, SavedRuleSet>,
    rejected: Vec<(String, String)>,
    names: HashMap<IpAddr, String>,
    pool: Option<FakePool>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_map(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.db");
        let mut store = Some(open(&path, "id"));
        let mut model = Model::default();
        for step in steps {
            let now = store.as_ref().unwrap();
            let fake = now.fake().unwrap();
            match step {
                Step::Select(group, member) => {
                    now.select(&format!("g{group}"), &format!("m{member}"));
                    model.selected.insert(format!("g{group}"), format!("m{member}"));
                }
                Step::Mode(mode) => {
                    now.set_clash_mode(&format!("mode{mode}"));
                    model.mode = Some(format!("mode{mode}"));
                }
                Step::RuleSet(tag, content) => {
                    let set = set(&"r".repeat(usize::from(content) * 40));
                    now.save_rule_set(&format!("t{tag}"), set.clone());
                    model.sets.insert(format!("t{tag}"), set);
                }
                Step::Reject(server, name) => {
                    now.reject(&format!("s{server}"), &format!("n{name}"), 1);
                    model.rejected.push((format!("s{server}"), format!("n{name}")));
                }
                Step::Assign(address, name) => {
                    let address = ip(&format!("198.18.0.{address}"));
                    let pool = FakePool { last4: address.to_string().parse().ok(), ..FakePool::default() };
                    fake.assign(address, &format!("n{name}"), pool);
                    model.names.retain(|_, other| *other != format!("n{name}"));
                    model.names.insert(address, format!("n{name}"));
                    model.pool = Some(pool);
                }
                Step::Reset => {
                    fake.reset(FakePool::default());
                    model.names.clear();
                    model.pool = Some(FakePool::default());
                }
                Step::Sync => now.sync(),
                Step::Reopen => {
                    drop(store.take());
                    store = Some(open(&path, "id"));
                }
            }
            let now = store.as_ref().unwrap();
            for group in 0..4 {
                let group = format!("g{group}");
                prop_assert_eq!(now.selected(&group), model.selected.get(&group).cloned());
            }
            prop_assert_eq!(now.choices().into_iter().collect::<HashMap<_, _>>(), model.selected.clone());
            prop_assert_eq!(now.clash_mode(), model.mode.clone());
            for tag in 0..4 {
                let tag = format!("t{tag}");
                prop_assert_eq!(now.rule_set(&tag), model.sets.get(&tag).cloned());
            }
            for server in 0..2 {
                for name in 0..8 {
                    let key = (format!("s{server}"), format!("n{name}"));
                    prop_assert_eq!(now.rejected(&key.0, &key.1, 1), model.rejected.contains(&key));
                }
            }
            let fake = now.fake().unwrap();
            prop_assert_eq!(fake.pool(), model.pool);
            let entries: HashMap<_, _> =
                fake.entries().into_iter().map(|(ip, name)| (ip, String::from(name))).collect();
            prop_assert_eq!(&entries, &model.names);
            for (ip, name) in &model.names {
                prop_assert_eq!(fake.name(*ip).map(String::from), Some(name.clone()));
                prop_assert_eq!(fake.address(name, Family::V4), Some(*ip));
            }
        }
    }
}

#[test]
fn times_are_kept_in_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("cache.db"), "");
    let now = SystemTime::now();
    store.save_rule_set("t", SavedRuleSet { updated: now, ..set("") });
    store.sync();
    let kept = store.rule_set("t").unwrap().updated;
    assert!(now.duration_since(kept).unwrap() < Duration::from_secs(1));
}
