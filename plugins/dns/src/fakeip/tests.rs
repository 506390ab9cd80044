//! The pool against a model, a store that can be lost, and the server as the resolver sees it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crosspoint_kernel::{
    Spec,
    resolve::{DnsServer, Family, NO_TRAIL, Query},
    slot::Slot,
    snapshot::Namespace,
    state::{FakePool, FakeStore, Memory, SavedRuleSet, State},
};
use crosspoint_resolver::message;
use crosspoint_schema::decode::Prefix;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::{
    FakeIpOptions, FakeIpSpec,
    pool::{Pool, Ranges},
};
use crate::testkit::{build_cx, plane};

/// A file as far as fake addresses go.
#[derive(Debug, Default)]
struct File {
    memory: Memory,
    pool: Mutex<Option<FakePool>>,
    names: Mutex<HashMap<IpAddr, Box<str>>>,
    resets: Mutex<u32>,
}

impl State for File {
    fn selected(&self, group: &str) -> Option<String> {
        self.memory.selected(group)
    }
    fn select(&self, group: &str, member: &str) {
        self.memory.select(group, member);
    }
    fn choices(&self) -> Vec<(String, String)> {
        self.memory.choices()
    }
    fn expanded(&self, group: &str) -> Option<bool> {
        self.memory.expanded(group)
    }
    fn set_expanded(&self, group: &str, expanded: bool) {
        self.memory.set_expanded(group, expanded);
    }
    fn clash_mode(&self) -> Option<String> {
        self.memory.clash_mode()
    }
    fn set_clash_mode(&self, mode: &str) {
        self.memory.set_clash_mode(mode);
    }
    fn rule_set(&self, tag: &str) -> Option<SavedRuleSet> {
        self.memory.rule_set(tag)
    }
    fn save_rule_set(&self, tag: &str, set: SavedRuleSet) {
        self.memory.save_rule_set(tag, set);
    }
    fn fake(&self) -> Option<&dyn FakeStore> {
        Some(self)
    }
}

impl FakeStore for File {
    fn pool(&self) -> Option<FakePool> {
        *self.pool.lock()
    }
    fn entries(&self) -> Vec<(IpAddr, Box<str>)> {
        self.names.lock().iter().map(|(ip, name)| (*ip, name.clone())).collect()
    }
    fn name(&self, ip: IpAddr) -> Option<Box<str>> {
        self.names.lock().get(&ip).cloned()
    }
    fn address(&self, _: &str, _: Family) -> Option<IpAddr> {
        unreachable!("the pool knows")
    }
    fn assign(&self, ip: IpAddr, name: &str, pool: FakePool) -> bool {
        let mut names = self.names.lock();
        names.retain(|other, known| other.is_ipv4() != ip.is_ipv4() || **known != *name);
        names.insert(ip, name.into());
        *self.pool.lock() = Some(pool);
        true
    }
    fn reset(&self, pool: FakePool) {
        self.names.lock().clear();
        *self.pool.lock() = Some(pool);
        *self.resets.lock() += 1;
    }
}

fn memory() -> Arc<dyn State> {
    Arc::new(Memory::default())
}

fn ranges(v4: &str, v6: &str) -> Ranges {
    let prefix = |text: &str| (!text.is_empty()).then(|| Prefix::parse(text).unwrap());
    Ranges { v4: prefix(v4), v6: prefix(v6) }
}

fn v4(pool: &Pool, name: &str, state: &Arc<dyn State>) -> String {
    pool.address(name, Family::V4, state).unwrap().0.to_string()
}

#[test]
fn families_are_numbered_apart() {
    let state = memory();
    let pool = Pool::new(ranges("198.18.0.0/15", "fc00::/18"), &state).unwrap();
    let ask = |name, family| pool.address(name, family, &state).unwrap();
    assert_eq!(ask("a", Family::V4), ("198.18.0.3".parse().unwrap(), true));
    assert_eq!(ask("b", Family::V6), ("fc00::3".parse().unwrap(), true));
    assert_eq!(ask("a", Family::V6), ("fc00::4".parse().unwrap(), true));
    assert_eq!(ask("a", Family::V4), ("198.18.0.3".parse().unwrap(), true));
    let name = |ip: &str| pool.name(ip.parse().unwrap());
    assert_eq!(name("198.18.0.3"), Some(Some("a".into())));
    assert_eq!(name("fc00::3"), Some(Some("b".into())));
    assert_eq!(name("198.19.255.255"), Some(None));
    assert_eq!((name("198.20.0.0"), name("fd00::3"), name("127.0.0.1")), (None, None, None));
}

#[test]
fn a_missing_range_is_named() {
    let state = memory();
    let ask =
        |v4, v6, family| Pool::new(ranges(v4, v6), &state).unwrap().address("a", family, &state);
    assert_eq!(ask("", "fc00::/18", Family::V4), Err("missing IPv4 fakeip address range"));
    assert_eq!(ask("10.0.0.0/8", "", Family::V6), Err("missing IPv6 fakeip address range"));
}

#[test]
fn the_file_carries_over_a_crash_and_other_ranges_begin_anew() {
    let (file, both) = (Arc::new(File::default()), ranges("10.0.0.0/29", "fc00::/125"));
    let state: Arc<dyn State> = file.clone();
    let first = Pool::new(both, &state).unwrap();
    assert_eq!(file.pool(), None, "nothing is written before the first answer");
    for name in ["a", "b", "c"] {
        v4(&first, name, &state);
    }
    // Nobody said goodbye.
    let second = Pool::new(both, &state).unwrap();
    assert_eq!(v4(&second, "b", &state), "10.0.0.4");
    assert_eq!(v4(&second, "d", &state), "10.0.0.6");
    assert_eq!(second.address("a", Family::V6, &state).unwrap().0.to_string(), "fc00::3");
    assert_eq!(*file.resets.lock(), 1);
    // Another range: until it is used, the file is as it was, because a reload may fail.
    let other = Pool::new(ranges("10.0.0.0/28", "fc00::/125"), &state).unwrap();
    assert_eq!(file.entries().len(), 5);
    assert_eq!(other.name("10.0.0.4".parse().unwrap()), Some(None));
    assert_eq!(v4(&other, "z", &state), "10.0.0.3");
    assert_eq!((file.entries().len(), *file.resets.lock()), (1, 2));
}

#[test]
fn a_file_that_comes_later_is_told_everything() {
    let before = memory();
    let pool = Pool::new(ranges("10.0.0.0/29", ""), &before).unwrap();
    v4(&pool, "a", &before);
    let file = Arc::new(File::default());
    let state: Arc<dyn State> = file.clone();
    v4(&pool, "b", &state);
    assert_eq!(file.entries().len(), 2);
    let reopened = Pool::new(ranges("10.0.0.0/29", ""), &state).unwrap();
    assert_eq!(v4(&reopened, "a", &state), "10.0.0.3");
    // A reload that opens the same file again writes nothing.
    let again = Arc::new(File {
        pool: Mutex::new(file.pool()),
        names: Mutex::new(file.names.lock().clone()),
        ..File::default()
    });
    v4(&pool, "b", &(again.clone() as Arc<dyn State>));
    assert_eq!(*again.resets.lock(), 0);
    // One with other names at the same place is told.
    again.names.lock().insert(IpAddr::from([10, 0, 0, 3]), "other".into());
    let pool = Pool::new(ranges("10.0.0.0/29", ""), &state).unwrap();
    v4(&pool, "b", &(again.clone() as Arc<dyn State>));
    assert_eq!(*again.resets.lock(), 1);
    assert_eq!(again.name(IpAddr::from([10, 0, 0, 3])).as_deref(), Some("a"));
}

/// What the pool should do, written down the slow way: names in the order in which they came.
#[derive(Default)]
struct Model {
    given: Vec<(String, usize)>,
    count: usize,
}

impl Model {
    /// Place of the address, from the base of the range.
    fn ask(&mut self, name: &str, size: usize) -> usize {
        if let Some((_, at)) = self.given.iter().find(|(known, _)| known == name) {
            return *at;
        }
        // 3, 4, …, size - 1, 2, 3, …
        let at = 2 + (self.count + 1) % (size - 2);
        self.count += 1;
        self.given.retain(|(_, taken)| *taken != at);
        self.given.push((name.to_owned(), at));
        at
    }
}

proptest! {
    #[test]
    fn the_pool_is_the_model(
        bits in 2u32..5,
        stored in any::<bool>(),
        steps in prop::collection::vec((0u8..24, any::<bool>(), 0u8..20), 1..120),
    ) {
        let size = 1usize << bits;
        let both = ranges(&format!("10.0.0.0/{}", 32 - bits), &format!("fc00::/{}", 128 - bits));
        let state: Arc<dyn State> = if stored { Arc::new(File::default()) } else { memory() };
        let mut pool = Pool::new(both, &state).unwrap();
        let mut models = [Model::default(), Model::default()];
        for (name, six, crash) in steps {
            if crash == 0 && stored {
                pool = Pool::new(both, &state).unwrap();
            }
            let (name, family) = (name.to_string(), if six { Family::V6 } else { Family::V4 });
            let at = models[usize::from(six)].ask(&name, size);
            let ip: IpAddr = match family {
                Family::V4 => Ipv4Addr::new(10, 0, 0, at as u8).into(),
                Family::V6 => Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, at as u16).into(),
            };
            prop_assert_eq!(pool.address(&name, family, &state).unwrap().0, ip);
            // Every name and no other is found by its address, and nothing is kept beside that.
            let mut names = std::collections::HashSet::new();
            for (six, model) in models.iter().enumerate() {
                for at in 0..size {
                    let ip: IpAddr = match six {
                        0 => Ipv4Addr::new(10, 0, 0, at as u8).into(),
                        _ => Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, at as u16).into(),
                    };
                    let known = model.given.iter().find(|(_, place)| *place == at);
                    names.extend(known.map(|(name, _)| name.clone()));
                    let expected = known.map(|(name, _)| Box::from(&**name));
                    prop_assert_eq!(pool.name(ip), Some(expected));
                }
            }
            let given = models.iter().map(|model| model.given.len()).sum::<usize>();
            prop_assert_eq!(pool.len(), (given, names.len()));
        }
    }
}

async fn ask(server: &dyn DnsServer, name: &str, family: Family) -> Result<Vec<IpAddr>, String> {
    let query = message::query(1, name, family).unwrap().to_vec().unwrap();
    let answer = server.exchange(Query { message: &query, trail: &NO_TRAIL }).await;
    let answer = message::read(&answer.map_err(|error| error.to_string())?).unwrap();
    assert!(answer.answers.iter().all(|record| record.ttl == 600));
    Ok(message::addresses(&answer).collect())
}

#[tokio::test]
async fn a_new_instance_takes_over_what_clients_were_told() {
    let slot: Arc<Slot<dyn DnsServer>> = Slot::new("old".into());
    let mut names = Namespace::default();
    names.dns.insert("old".into(), slot.clone());
    let plane = plane(names);
    let build = async |v4: &str| {
        let prefix = Prefix::parse(v4).unwrap();
        let options = FakeIpOptions { inet4_range: Some(prefix), inet6_range: None };
        let cx = build_cx("fakeip", plane.clone());
        let component = Arc::new(FakeIpSpec(options)).build(cx).await.unwrap();
        component.dns.unwrap()
    };
    let first = build("10.0.0.0/24").await;
    assert_eq!(
        ask(&*first, "A.example.", Family::V4).await.unwrap(),
        [IpAddr::from([10, 0, 0, 3])]
    );
    let error = ask(&*first, "a.example.", Family::V6).await.unwrap_err();
    assert_eq!(error, "missing IPv6 fakeip address range");
    let mut other = message::query(1, "a.example.", Family::V4).unwrap();
    other.queries[0].set_query_type(hickory_proto::rr::RecordType::HTTPS);
    let other = other.to_vec().unwrap();
    let error = first.exchange(Query { message: &other, trail: &NO_TRAIL }).await.unwrap_err();
    assert_eq!(error.to_string(), "only IP queries are supported by fakeip");

    slot.set(build_cx("fakeip", plane.clone()).me, first);
    let second = build("10.0.0.0/24").await;
    assert_eq!(
        ask(&*second, "b.example", Family::V4).await.unwrap(),
        [IpAddr::from([10, 0, 0, 4])]
    );
    assert_eq!(
        ask(&*second, "a.example", Family::V4).await.unwrap(),
        [IpAddr::from([10, 0, 0, 3])]
    );
    let face = second.fake_ip().unwrap();
    assert_eq!(face.name([10, 0, 0, 3].into()), Some(Some("a.example".into())));
    let other = build("10.0.0.0/25").await;
    assert_eq!(other.fake_ip().unwrap().name([10, 0, 0, 3].into()), Some(None));
}
