//! The options of `http`.

use crosspoint_kernel::addr::Target;
use crosspoint_schema::{
    decode::{HeaderMap, Listable},
    options::HttpTransport,
};

use super::{
    service::{Asked, Service as _},
    *,
};

fn asked<'a>(method: &'a str, host: &'a str, path: &'a str) -> Asked<'a> {
    let (host, path) = (host.as_bytes(), path.as_bytes());
    Asked { method, host, path, content_type: b"", source: None }
}

fn door(options: HttpTransport) -> Door {
    Door {
        hosts: options.host.to_vec(),
        path: head::server_path(&options.path),
        method: options.method,
        welcome: http::HeaderMap::new(),
        idle: None,
    }
}

#[test]
fn a_server_without_options_takes_everything() {
    let door = door(HttpTransport::default());
    assert!(door.judge(&asked("GET", "", "/")).is_ok());
    assert!(door.judge(&asked("BREW", "x:1", "/any")).is_ok());
    // OPTIONS * and CONNECT have no path.
    assert_eq!(door.judge(&asked("CONNECT", "x", "")).map(drop).unwrap_err().status, 404);
}

#[test]
fn the_host_is_compared_before_the_path_and_the_path_before_the_method() {
    let door = door(HttpTransport {
        host: Listable(vec!["a".to_owned(), "b".to_owned()]),
        path: "p".to_owned(),
        method: "PUT".to_owned(),
        ..Default::default()
    });
    let refusal = |asked: Asked<'_>| door.judge(&asked).map(drop).unwrap_err();
    assert!(door.judge(&asked("PUT", "b", "/path")).is_ok());
    let host = refusal(asked("GET", "a:443", "/q"));
    assert_eq!((host.status.as_u16(), host.why.as_str()), (400, "bad host: a:443"));
    let path = refusal(asked("GET", "a", "/q\n"));
    assert_eq!((path.status.as_u16(), path.why.as_str()), (404, "bad path: /q\\n"));
    let method = refusal(asked("GET", "a", "/p"));
    assert_eq!((method.status.as_u16(), method.why.as_str()), (404, "bad method: GET"));
}

#[test]
fn wrong_options_are_found_when_they_are_read() {
    let server = Target::new("s", 1);
    let mut bad = HeaderMap::default();
    bad.0.insert("a b".to_owned(), Listable(vec!["v".to_owned()]));
    for tls in [true, false] {
        let fails = |options: HttpTransport| client(&options, &server, tls).is_err();
        assert!(fails(HttpTransport { method: "A B".to_owned(), ..Default::default() }));
        assert!(fails(HttpTransport { path: "/%".to_owned(), ..Default::default() }));
        let host = Listable(vec!["a b".to_owned()]);
        assert!(fails(HttpTransport { host, ..Default::default() }));
        assert!(fails(HttpTransport { headers: bad.clone(), ..Default::default() }));
        assert!(!fails(HttpTransport::default()));
    }
    assert!(super::server(&HttpTransport { headers: bad, ..Default::default() }).is_err());
}

#[test]
fn every_host_is_picked() {
    let hosts = ["a", "b", "c"];
    let mut seen: Vec<&str> = (0..200).filter_map(|_| pick(&hosts).copied()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, hosts);
    assert_eq!(pick::<u8>(&[]), None);
}
