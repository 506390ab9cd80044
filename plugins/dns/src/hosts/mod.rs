//! DNS server `hosts`: answers from hosts files and from the configuration.
//!
//! Addresses only: any other type, and any name that is not known, does not exist. A name that is known has an answer
//! for either family, perhaps an empty one.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, Kind, Plugin, Spec,
    resolve::{DnsServer, ExchangeError, Query},
};
use crosspoint_schema::{
    ConfigError, RawOptions,
    decode::{Addr, Listable, Map, NodeMap, Options as _},
    options,
};

use crate::{
    answer::{Asked, canonical},
    system::{Watched, hosts as file},
};

inventory::submit! {
    Plugin { kind: Kind::DnsServer, type_name: "hosts", schema: HostsOptions::describe, canonical: |raw| raw.canonical::<HostsOptions>(), parse }
}

options! {
    /// Answers from hosts files and from the configuration.
    pub struct HostsOptions ("option.HostsDNSServerOptions") {
        /// Hosts files; /etc/hosts where none is given. Environment variables are expanded.
        pub path: Listable<String> = "path",
        /// Names and their addresses; they win over files.
        pub predefined: Predefined = "predefined",
    }
}

type Predefined = NodeMap<Listable<Addr>>;

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    Ok(Arc::new(HostsSpec(raw.parse()?)))
}

#[derive(Debug)]
struct HostsSpec(HostsOptions);

impl Spec for HostsSpec {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn build(self: Arc<Self>, _: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        let predefined = self.0.predefined.0.iter().map(|(name, addresses)| {
            (canonical(name), addresses.iter().map(|address| address.ip).collect())
        });
        let files = if self.0.path.is_empty() {
            vec![file::watch(file::SYSTEM)]
        } else {
            self.0.path.iter().map(|path| file::watch(&expand(path))).collect()
        };
        let hosts = Hosts { predefined: predefined.collect(), files };
        Box::pin(async move {
            // The first query should not be the one that waits for the disk.
            for file in &hosts.files {
                file.get().await;
            }
            Ok(Component { dns: Some(Arc::new(hosts)), ..Component::default() })
        })
    }
}

/// `$NAME` and `${NAME}` from the environment, as Go's os.ExpandEnv does for these forms.
fn expand(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let (name, after) = match tail.strip_prefix('{').and_then(|t| t.split_once('}')) {
            Some((name, after)) => (name, after),
            None => {
                let end = tail
                    .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .unwrap_or(tail.len());
                tail.split_at(end)
            }
        };
        out.push_str(&std::env::var(name).unwrap_or_default());
        rest = after;
    }
    out + rest
}

struct Hosts {
    predefined: HashMap<String, Vec<IpAddr>>,
    files: Vec<Arc<Watched<file::Names>>>,
}

impl Hosts {
    async fn answer(&self, query: Query<'_>) -> Result<Vec<u8>, ExchangeError> {
        let asked = Asked::read(query)?;
        if asked.family.is_none() {
            return asked.no_such_name();
        }
        if let Some(addresses) = self.predefined.get(&asked.name) {
            return asked.addresses(addresses);
        }
        for file in &self.files {
            if let Some(addresses) = file.get().await.get(&asked.name) {
                return asked.addresses(addresses);
            }
        }
        asked.no_such_name()
    }
}

impl DnsServer for Hosts {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(self.answer(query))
    }
}

#[cfg(test)]
mod tests {
    use crosspoint_kernel::resolve::NO_TRAIL;
    use crosspoint_resolver::message;
    use hickory_proto::{
        op::{Message, MessageType, OpCode, Query as Question, ResponseCode},
        rr::{Name, RecordType},
    };

    use super::*;

    async fn ask(hosts: &Hosts, name: &str, kind: RecordType) -> Message {
        let mut query = Message::new(7, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
        let bytes = query.to_vec().unwrap();
        let query = Query { message: &bytes, trail: &NO_TRAIL };
        let reply = message::read(&hosts.answer(query).await.unwrap()).unwrap();
        assert_eq!(reply.metadata.id, 7);
        assert_eq!(reply.queries[0].name().to_ascii(), name, "the question as it was asked");
        assert!(reply.answers.iter().all(|record| record.ttl == 600));
        reply
    }

    async fn addresses(hosts: &Hosts, name: &str, kind: RecordType) -> Option<Vec<IpAddr>> {
        let reply = ask(hosts, name, kind).await;
        match reply.metadata.response_code {
            ResponseCode::NoError => Some(message::addresses(&reply).collect()),
            ResponseCode::NXDomain => None,
            code => panic!("{code}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn predefined_names_win_and_a_miss_does_not_exist() {
        use RecordType::{A, AAAA, HTTPS, PTR};
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hosts");
        std::fs::write(&path, "192.0.2.7 a.example b.example\n2001:db8::7 b.example\n")
            .expect("written");
        let missing = dir.path().join("missing");
        let files = [&missing, &path].map(|path| file::watch(path.to_str().expect("UTF-8")));
        let own = IpAddr::from([10, 0, 0, 1]);
        let predefined =
            [("a.example".to_owned(), vec![own]), ("xn--e1afmkfd.example".into(), vec![own])];
        let hosts = Hosts { predefined: predefined.into(), files: files.into() };
        assert_eq!(addresses(&hosts, "A.eXample.", A).await.unwrap(), [own]);
        assert_eq!(addresses(&hosts, "xn--e1afmkfd.example.", A).await.unwrap(), [own]);
        assert!(addresses(&hosts, "a.example.", AAAA).await.unwrap().is_empty());
        assert_eq!(addresses(&hosts, "b.example.", AAAA).await.unwrap().len(), 1);
        assert_eq!(addresses(&hosts, "c.example.", A).await, None);
        assert_eq!(addresses(&hosts, "a.example.", HTTPS).await, None);
        assert_eq!(addresses(&hosts, "7.2.0.192.in-addr.arpa.", PTR).await, None);
        assert!(ask(&hosts, "a.example.", A).await.metadata.authoritative);
        // A change is seen when the file is looked at again, not before.
        std::fs::write(&path, "192.0.2.8 c.example\n").expect("written");
        assert!(addresses(&hosts, "c.example.", A).await.is_none());
        tokio::time::advance(std::time::Duration::from_secs(6)).await;
        assert_eq!(
            addresses(&hosts, "c.example.", A).await.unwrap(),
            [IpAddr::from([192, 0, 2, 8])]
        );
        assert!(addresses(&hosts, "b.example.", A).await.is_none());
        // A file that has gone keeps what was known, as in the reference.
        std::fs::remove_file(&path).expect("removed");
        tokio::time::advance(std::time::Duration::from_secs(6)).await;
        assert!(addresses(&hosts, "c.example.", A).await.is_some());
    }

    #[test]
    fn variables_are_expanded() {
        let path = std::env::var("PATH").expect("PATH is set");
        assert_eq!(expand("a/$PATH/b"), format!("a/{path}/b"));
        assert_eq!(expand("${PATH}b"), format!("{path}b"));
        assert_eq!(expand("/etc/hosts"), "/etc/hosts");
    }
}
