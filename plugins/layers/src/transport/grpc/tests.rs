//! The options of `grpc`.

use crosspoint_schema::options::GrpcTransport;

use super::*;

#[test]
fn names_are_one_segment() {
    assert_eq!(path("GunService"), "/GunService/Tun");
    assert_eq!(path("a/b c;d,e?f"), "/a%2Fb%20c%3Bd%2Ce%3Ff/Tun");
    assert_eq!(path(""), "//Tun");
}

#[test]
fn only_calls_of_the_service_are_taken() {
    let callee = Callee { path: "/a/b/Tun".to_owned(), idle: None };
    let why = |method: &str, path: &str, kind: &str| {
        let asked = Asked {
            method,
            host: b"",
            path: path.as_bytes(),
            content_type: kind.as_bytes(),
            source: None,
        };
        callee.judge(&asked).map(drop).map_err(|refusal| {
            assert_eq!(refusal.status.as_u16(), 404);
            refusal.why
        })
    };
    assert_eq!(why("POST", "/a/b/Tun", "application/grpc"), Ok(()));
    assert_eq!(why("POST", "/a/b/Tun", "application/grpc+proto"), Ok(()));
    assert_eq!(
        why("POST", "/a/b/TunMulti", "application/grpc").unwrap_err(),
        "bad path: /a/b/TunMulti"
    );
    assert_eq!(why("GET", "/a/b/Tun", "application/grpc").unwrap_err(), "bad method: GET");
    assert_eq!(why("POST", "/a/b/Tun", "text/html").unwrap_err(), "bad content type: text/html");
}

#[test]
fn an_empty_name_of_a_service_is_one() {
    let server = Target::new("2001:db8::1", 443);
    assert!(client(&GrpcTransport::default(), &server, None).is_ok());
    assert!(client(&GrpcTransport::default(), &server, Some("name.example")).is_ok());
    assert!(super::server(&GrpcTransport::default()).is_ok());
}
