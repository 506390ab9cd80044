//! DNS server `hosts`: answers from hosts files and from the configuration.

mod file;

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, Kind, Plugin, Spec,
    resolve::{DnsServer, ExchangeError, Family, Query, ResolveError},
};
use crosspoint_schema::{
    ConfigError, RawOptions,
    decode::{Listable, Map, Options as _},
    options,
};
use file::HostsFile;

use crate::answer;

/// Read where no `path` is given.
const DEFAULT_PATH: &str = "/etc/hosts";

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

type Predefined = crosspoint_schema::decode::NodeMap<Listable<crosspoint_schema::decode::Addr>>;

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
            vec![HostsFile::new(DEFAULT_PATH)]
        } else {
            self.0.path.iter().map(|path| HostsFile::new(&expand(path))).collect()
        };
        let hosts = Hosts { predefined: predefined.collect(), files: files.into() };
        Box::pin(async move {
            hosts.refresh().await;
            Ok(Component { dns: Some(Arc::new(hosts)), ..Component::default() })
        })
    }
}

/// Lower case, without the final dot.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
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
    files: Arc<[HostsFile]>,
}

impl Hosts {
    /// Reads what has changed, on a thread that may block; at most every few seconds.
    async fn refresh(&self) {
        let stale: Vec<usize> =
            (0..self.files.len()).filter(|at| self.files[*at].stale()).collect();
        if stale.is_empty() {
            return;
        }
        let files = self.files.clone();
        let work =
            tokio::task::spawn_blocking(move || stale.iter().for_each(|at| files[*at].refresh()));
        // A panic there means that the old contents stay.
        let _ = work.await;
    }

    fn find(&self, name: &str, family: Family) -> Result<Vec<IpAddr>, ResolveError> {
        let name = canonical(name);
        let found = match self.predefined.get(&name) {
            Some(addresses) => Some(addresses.clone()),
            None => self.files.iter().find_map(|file| file.lookup(&name)),
        };
        let mut found = found.ok_or(ResolveError::NotFound { name: name.into() })?;
        found.retain(|ip| ip.is_ipv4() == (family == Family::V4));
        Ok(found)
    }
}

impl DnsServer for Hosts {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(async move {
            self.refresh().await;
            answer::addresses(query, async |name, family| self.find(name, family)).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn predefined_names_win_and_a_miss_is_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("hosts");
        std::fs::write(&path, "192.0.2.7 a.example b.example\n2001:db8::7 b.example\n")
            .expect("written");
        let missing = dir.path().join("missing");
        let files = [&missing, &path].map(|path| HostsFile::new(path.to_str().expect("UTF-8")));
        let hosts = Hosts {
            predefined: HashMap::from([(
                "a.example".to_owned(),
                vec![IpAddr::from([10, 0, 0, 1])],
            )]),
            files: Arc::new(files),
        };
        let ask = async |name, family| {
            hosts.refresh().await;
            hosts.find(name, family)
        };
        assert_eq!(ask("A.example.", Family::V4).await.unwrap(), [IpAddr::from([10, 0, 0, 1])]);
        assert!(ask("a.example", Family::V6).await.unwrap().is_empty());
        assert_eq!(ask("b.example", Family::V6).await.unwrap().len(), 1);
        let error = ask("c.example", Family::V4).await.unwrap_err();
        assert_eq!(error.to_string(), "lookup c.example: no such host");
        // A change is seen when the file is looked at again, not before.
        std::fs::write(&path, "192.0.2.8 c.example\n").expect("written");
        assert!(ask("c.example", Family::V4).await.is_err());
        tokio::time::advance(std::time::Duration::from_secs(6)).await;
        assert_eq!(ask("c.example", Family::V4).await.unwrap(), [IpAddr::from([192, 0, 2, 8])]);
        assert!(ask("b.example", Family::V4).await.is_err());
        // A file that has gone keeps what was known, as in the reference.
        std::fs::remove_file(&path).expect("removed");
        tokio::time::advance(std::time::Duration::from_secs(6)).await;
        assert!(ask("c.example", Family::V4).await.is_ok());
    }

    #[test]
    fn variables_are_expanded() {
        let path = std::env::var("PATH").expect("PATH is set");
        assert_eq!(expand("a/$PATH/b"), format!("a/{path}/b"));
        assert_eq!(expand("${PATH}b"), format!("{path}b"));
        assert_eq!(expand("/etc/hosts"), "/etc/hosts");
    }
}
