//! The cache file: users and sums by endpoint, as the reference writes it (`service/ssmapi/cache.go`).

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use crosspoint_kernel::users::{Sums, Traffic, User};
use crosspoint_schema::decode::Secret;
use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    #[serde(default, deserialize_with = "or_default")]
    endpoints: BTreeMap<String, Option<Endpoint>>,
}

/// What is known of one endpoint. Sums of users that are zero are left out.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Endpoint {
    global_uplink: i64,
    global_downlink: i64,
    global_uplink_packets: i64,
    global_downlink_packets: i64,
    global_tcp_sessions: i64,
    global_udp_sessions: i64,
    #[serde(deserialize_with = "or_default")]
    user_uplink: Counters,
    #[serde(deserialize_with = "or_default")]
    user_downlink: Counters,
    #[serde(deserialize_with = "or_default")]
    user_uplink_packets: Counters,
    #[serde(deserialize_with = "or_default")]
    user_downlink_packets: Counters,
    #[serde(deserialize_with = "or_default")]
    user_tcp_sessions: Counters,
    #[serde(deserialize_with = "or_default")]
    user_udp_sessions: Counters,
    #[serde(deserialize_with = "or_default")]
    users: BTreeMap<String, String>,
}

type Counters = BTreeMap<String, i64>;

/// `null` is nothing.
fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(from).map(Option::unwrap_or_default)
}

fn signed(counter: u64) -> i64 {
    i64::try_from(counter).unwrap_or(i64::MAX)
}

fn unsigned(counter: i64) -> u64 {
    u64::try_from(counter).unwrap_or(0)
}

impl Endpoint {
    fn new(users: &[User], sums: &Sums) -> Self {
        let Traffic { up, down, up_packets, down_packets, tcp, udp } = sums.all;
        let of = |counter: fn(&Traffic) -> u64| -> Counters {
            let counters = sums.users.iter().map(|(name, of)| (name.to_string(), counter(of)));
            counters.filter(|(_, n)| *n > 0).map(|(name, n)| (name, signed(n))).collect()
        };
        Self {
            global_uplink: signed(up),
            global_downlink: signed(down),
            global_uplink_packets: signed(up_packets),
            global_downlink_packets: signed(down_packets),
            global_tcp_sessions: signed(tcp),
            global_udp_sessions: signed(udp),
            user_uplink: of(|traffic| traffic.up),
            user_downlink: of(|traffic| traffic.down),
            user_uplink_packets: of(|traffic| traffic.up_packets),
            user_downlink_packets: of(|traffic| traffic.down_packets),
            user_tcp_sessions: of(|traffic| traffic.tcp),
            user_udp_sessions: of(|traffic| traffic.udp),
            users: users
                .iter()
                .map(|user| (user.name.to_string(), user.secret.expose().to_owned()))
                .collect(),
        }
    }

    fn state(&self) -> (Vec<User>, Sums) {
        // The reference leaves out users without a name or a key as well.
        let users: Vec<User> = self
            .users
            .iter()
            .filter(|(name, secret)| !name.is_empty() && !secret.is_empty())
            .map(|(name, secret)| User {
                name: name.as_str().into(),
                secret: Secret::new(secret.as_str()),
            })
            .collect();
        let all = Traffic {
            up: unsigned(self.global_uplink),
            down: unsigned(self.global_downlink),
            up_packets: unsigned(self.global_uplink_packets),
            down_packets: unsigned(self.global_downlink_packets),
            tcp: unsigned(self.global_tcp_sessions),
            udp: unsigned(self.global_udp_sessions),
        };
        let mut sums = Sums { all, ..Sums::default() };
        for User { name, .. } in &users {
            let of = |counters: &Counters| unsigned(counters.get(&**name).copied().unwrap_or(0));
            let traffic = Traffic {
                up: of(&self.user_uplink),
                down: of(&self.user_downlink),
                up_packets: of(&self.user_uplink_packets),
                down_packets: of(&self.user_downlink_packets),
                tcp: of(&self.user_tcp_sessions),
                udp: of(&self.user_udp_sessions),
            };
            if traffic != Traffic::default() {
                sums.users.insert(name.clone(), traffic);
            }
        }
        (users, sums)
    }
}

impl Cache {
    /// Notes what is known of an endpoint.
    pub fn put(&mut self, endpoint: &str, users: &[User], sums: &Sums) {
        self.endpoints.insert(endpoint.to_owned(), Some(Endpoint::new(users, sums)));
    }

    /// What is known of an endpoint.
    #[must_use]
    pub fn get(&self, endpoint: &str) -> Option<(Vec<User>, Sums)> {
        Some(self.endpoints.get(endpoint)?.as_ref()?.state())
    }

    /// The text of a file.
    ///
    /// # Errors
    /// It is no such file.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        if text.is_empty() { Ok(Self::default()) } else { serde_json::from_slice(text) }
    }

    /// The text of this file.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        // Maps with texts as keys, texts and numbers: nothing in it can fail.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }
}

/// Reads a file. One that is damaged is set aside, so that it is neither lost nor in the way.
///
/// # Errors
/// It cannot be read, or was damaged; one that is not there is empty.
pub fn read(path: &Path) -> io::Result<Cache> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Cache::default()),
        text => text?,
    };
    Cache::parse(&text).map_err(|error| {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".damaged");
        match std::fs::rename(path, &aside) {
            Ok(()) => io::Error::other(format!("{error}; moved to {}", aside.display())),
            Err(_) => io::Error::other(error),
        }
    })
}

/// Writes a file whole or not at all, readable by its owner only: there are secrets in it.
///
/// # Errors
/// The file system's; the old file is untouched then.
pub fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    // A link stays a link.
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    // What a process left that was killed while it wrote.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text)?;
    // Before the rename: a power cut must not leave an empty file under the name.
    file.sync_data()?;
    std::fs::rename(&new, &path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    fn user(name: &str, secret: &str) -> User {
        User { name: name.into(), secret: Secret::new(secret) }
    }

    /// What the reference 1.12.12 writes.
    const REFERENCE: &str = r#"{
  "endpoints": {
    "/": {
      "global_uplink": 12,
      "global_downlink": 34,
      "global_uplink_packets": 1,
      "global_downlink_packets": 2,
      "global_tcp_sessions": 3,
      "global_udp_sessions": 4,
      "user_uplink": {
        "ann": 12
      },
      "user_downlink": {
        "ann": 34
      },
      "user_uplink_packets": {},
      "user_downlink_packets": {},
      "user_tcp_sessions": {
        "ann": 3
      },
      "user_udp_sessions": {},
      "users": {
        "ann": "secret",
        "bob": "other"
      }
    }
  }
}
"#;

    #[test]
    fn the_file_of_the_reference_is_read_and_written() {
        let cache = Cache::parse(REFERENCE.as_bytes()).unwrap();
        let (users, sums) = cache.get("/").unwrap();
        assert_eq!(users, [user("ann", "secret"), user("bob", "other")]);
        assert_eq!(sums.all.down_packets, 2);
        assert_eq!(sums.users["ann"].up, 12);
        assert!(!sums.users.contains_key("bob"));
        let mut again = Cache::default();
        again.put("/", &users, &sums);
        assert_eq!(String::from_utf8(again.text()).unwrap(), REFERENCE);
        assert_eq!(Cache::parse(b"").unwrap(), Cache::default());
        assert!(Cache::parse(b"{\"endpoints\": null}").unwrap().get("/").is_none());
        assert!(Cache::parse(b"{\"endpoints\": {\"/\": {\"users\": null}}}").is_ok());
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_a_new_one_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/cache.json");
        assert_eq!(read(&path).unwrap(), Cache::default());
        write(&path, b"{").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(read(&path).is_err());
        assert_eq!(std::fs::read(dir.path().join("sub/cache.json.damaged")).unwrap(), b"{");
        assert_eq!(read(&path).unwrap(), Cache::default());
    }

    proptest! {
        #[test]
        fn parsing_undoes_writing(users in proptest::collection::btree_map("[ -~]{1,9}", "[ -~]{1,9}", 0..5), n in 0u64..1 << 60) {
            let users: Vec<_> = users.iter().map(|(name, secret)| user(name, secret)).collect();
            let traffic = Traffic { up: n, down: n / 2, up_packets: 1, down_packets: 0, tcp: 3, udp: n % 2 };
            let mut sums = Sums { all: traffic, ..Sums::default() };
            sums.users.extend(users.iter().map(|user| (user.name.clone(), traffic)));
            let mut cache = Cache::default();
            cache.put("/x", &users, &sums);
            let back = Cache::parse(&cache.text()).unwrap();
            prop_assert_eq!(back.get("/x").unwrap(), (users, sums));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Cache::parse(&bytes);
        }
    }
}
