//! Client against server, by the byte, and what a broken peer may send.

use proptest::collection::vec;
use proptest::prelude::*;

use super::addr::tests::any_target;
use super::*;
use crate::host::{Host, Target};
use crate::users::Users;

const NOBODY: Option<&Users> = None;

fn users() -> Users {
    Users::new([("user", "secret"), ("four", "")]).unwrap()
}

/// Feeds `input` at once; the request with its bytes used, and what was answered.
fn serve(input: &[u8], users: Option<&Users>) -> (Result<Step<'static>, ServerError>, Vec<u8>) {
    let mut handshake = Handshake::new();
    let step = handshake.advance(Vec::leak(input.to_vec()), users);
    (step, handshake.pending().to_vec())
}

/// Runs a client against a server whose input comes in pieces of `chunk` bytes. Returns the server's request,
/// the user and whether the client was content.
fn meet(
    version: Version,
    command: Command,
    target: Target<'_>,
    login: (&str, &str),
    users: Option<&Users>,
    chunk: usize,
) -> Result<(String, Option<String>, Command), String> {
    let mut to_server = Vec::new();
    let mut client = ClientHandshake::start(version, command, target, login, &mut to_server)
        .map_err(|e| e.to_string())?;
    let mut server = Handshake::new();
    let (mut server_in, mut to_client, mut client_in) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen = None;
    for _ in 0..10_000 {
        if to_server.is_empty() && to_client.is_empty() {
            return Err("stuck".into());
        }
        let n = chunk.min(to_server.len());
        server_in.extend(to_server.drain(..n));
        assert!(server_in.len() <= MAX_HANDSHAKE);
        if seen.is_none() {
            let used = match server.advance(&server_in, users) {
                Ok(Step::More { used }) => used,
                Ok(Step::Done { used, request }) => {
                    assert_eq!(used, server_in.len());
                    seen = Some((
                        request.target.to_string(),
                        request.user.as_deref().map(str::to_owned),
                        request.command,
                    ));
                    to_client.extend(server.pending());
                    server.written();
                    reply(
                        request.version,
                        Code::Succeeded,
                        &Target::new(Host::V4([127, 0, 0, 1].into()), 9),
                        &mut to_client,
                    );
                    used
                }
                Err(error) => {
                    to_client.extend(server.pending());
                    let mut out = Vec::new();
                    let mut result = Ok(ClientStep::More { used: 0 });
                    for at in 0..to_client.len() {
                        result = client.advance(&to_client[at..], &mut out);
                        if result.is_err() {
                            break;
                        }
                        client_in.clear();
                    }
                    return Err(format!("{error} / {result:?}"));
                }
            };
            server_in.drain(..used);
            to_client.extend(server.pending());
            server.written();
        }
        let n = chunk.min(to_client.len());
        client_in.extend(to_client.drain(..n));
        match client.advance(&client_in, &mut to_server).map_err(|e| e.to_string())? {
            ClientStep::More { used } => drop(client_in.drain(..used)),
            ClientStep::Done { used, bound } => {
                assert_eq!(used, client_in.len());
                assert_eq!((bound.host, bound.port), (Ok([127, 0, 0, 1].into()), 9));
                return seen.ok_or_else(|| "no request".into());
            }
        }
    }
    Err("endless".into())
}

proptest! {
    #[test]
    fn five(target in any_target(), login in any::<bool>(), chunk in 1usize..300) {
        let users = users();
        let (request, user, command) =
            meet(Version::V5, Command::Connect, target, if login { ("user", "secret") } else { ("", "") }, login.then_some(&users), chunk).unwrap();
        prop_assert_eq!(request, target.to_string());
        prop_assert_eq!(user.as_deref(), login.then_some("user"));
        prop_assert_eq!(command, Command::Connect);
    }

    #[test]
    fn four_a(target in any_target(), login in any::<bool>(), chunk in 1usize..300) {
        // 0.0.0.x announces a name: such an address cannot be asked for.
        prop_assume!(!matches!(target.host, Host::V4(addr) if addr.octets()[..3] == [0, 0, 0]));
        let users = users();
        let (request, user, _) = meet(Version::V4a, Command::Connect, target, ("four", ""), login.then_some(&users), chunk).unwrap();
        prop_assert_eq!(request, target.to_string());
        prop_assert_eq!(user.as_deref(), Some("four"));
    }

    #[test]
    fn server_survives_garbage(start in prop_oneof![Just(vec![]), Just(vec![4u8, 1]), Just(vec![5u8, 1, 0, 5, 1, 0]), Just(vec![5u8, 1, 2, 1])],
                               tail in vec(any::<u8>(), 0..1200), login in any::<bool>()) {
        let users = users();
        let input = [start, tail].concat();
        let (whole, answer) = serve(&input, login.then_some(&users));
        if let Ok(Step::More { used }) = &whole {
            // A full buffer always makes progress.
            prop_assert!(input.len() - used < MAX_HANDSHAKE);
        }
        // By single bytes it ends the same.
        let (mut handshake, mut buffer, mut used_before, mut answers) = (Handshake::new(), Vec::new(), 0, Vec::<u8>::new());
        let mut end = None;
        for &byte in &input {
            buffer.push(byte);
            match handshake.advance(&buffer, login.then_some(&users)) {
                Ok(Step::More { used }) => { buffer.drain(..used); used_before += used; }
                Ok(Step::Done { used, request }) => end = Some(Ok((used_before + used, request.target.to_string()))),
                Err(error) => end = Some(Err(error)),
            }
            answers.extend(handshake.pending());
            handshake.written();
            if end.is_some() { break; }
        }
        prop_assert_eq!(answers, answer);
        match (whole, end) {
            (Ok(Step::Done { used, request }), Some(Ok(end))) => prop_assert_eq!((used, request.target.to_string()), end),
            (Err(error), Some(Err(end))) => prop_assert_eq!(error, end),
            (Ok(Step::More { used }), None) => prop_assert_eq!(used, used_before),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn client_survives_garbage(input in vec(any::<u8>(), 0..400), five in any::<bool>(), login in any::<bool>(), version in any::<bool>()) {
        let mut out = Vec::new();
        let target = Target::new(Host::Name("a.test"), 1);
        let dialect = if five { Version::V5 } else { Version::V4a };
        let mut client = ClientHandshake::start(dialect, Command::Connect, target, if login { ("u", "p") } else { ("", "") }, &mut out).unwrap();
        let mut input = input;
        if let (Some(first), true) = (input.first_mut(), version) { *first = if five { 5 } else { 0 }; }
        match client.advance(&input, &mut out) {
            Ok(ClientStep::More { used } | ClientStep::Done { used, .. }) => prop_assert!(used <= input.len()),
            Err(_) => {}
        }
    }
}

#[test]
fn all_at_once() {
    let users = users();
    let mut input =
        b"\x05\x02\x00\x02\x01\x04user\x06secret\x05\x01\x00\x03\x06a.test\x00\x50payload".to_vec();
    let (step, answer) = serve(&input, Some(&users));
    let Ok(Step::Done { used, request }) = step else { panic!("{step:?}") };
    assert_eq!(&input[used..], b"payload");
    assert_eq!(
        (request.target.to_string().as_str(), request.user.as_deref()),
        ("a.test:80", Some("user"))
    );
    assert_eq!(answer, b"\x05\x02\x01\x00");
    // Nobody to log in: the password method is still not asked for.
    input = b"\x05\x01\x02\x05\x03\x00\x01\0\0\0\0\0\0".to_vec();
    let (step, answer) = serve(&input, NOBODY);
    let Ok(Step::Done { request, .. }) = step else { panic!("{step:?}") };
    assert_eq!((request.command, request.user), (Command::Associate, None));
    assert_eq!(answer, b"\x05\x00");
}

#[test]
fn refusals() {
    let users = users();
    for (input, login, answer, error) in [
        (&b"\x05\x01\x00"[..], true, &b"\x05\xff"[..], ServerError::NoAcceptableMethod),
        (
            b"\x05\x01\x02\x01\x04user\x01x",
            true,
            b"\x05\x02\x01\x01",
            ServerError::Credentials("user".into()),
        ),
        (b"\x05\x01\x02\x02", true, b"\x05\x02", ServerError::AuthVersion(2)),
        (
            b"\x05\x01\x00\x05\x02\x00\x01\0\0\0\0\0\0",
            false,
            b"\x05\x00\x05\x07\x00\x01\0\0\0\0\0\0",
            ServerError::Command(2),
        ),
        (
            b"\x05\x01\x00\x05\x01\x00\x02",
            false,
            b"\x05\x00\x05\x08\x00\x01\0\0\0\0\0\0",
            ServerError::AddressType(2),
        ),
        (
            b"\x05\x01\x00\x05\x01\x00\x03\x00\0\0",
            false,
            b"\x05\x00\x05\x01\x00\x01\0\0\0\0\0\0",
            ServerError::Name,
        ),
        (b"\x05\x01\x00\x04", false, b"\x05\x00", ServerError::Version(4)),
        (
            b"\x04\x02\0\x50\x01\x02\x03\x04\0",
            false,
            b"\0\x5b\0\0\0\0\0\0",
            ServerError::Command(2),
        ),
        (
            b"\x04\x01\0\x50\x01\x02\x03\x04user\0",
            true,
            b"\0\x5b\0\0\0\0\0\0",
            ServerError::Credentials("user".into()),
        ),
        (b"\x04\x01\0\x50\0\0\0\x01\0\0", false, b"\0\x5b\0\0\0\0\0\0", ServerError::Name),
        (b"G", false, b"", ServerError::Version(b'G')),
    ] {
        assert_eq!(
            serve(input, login.then_some(&users)),
            (Err(error), answer.to_vec()),
            "{input:?}"
        );
    }
    let long = [&b"\x04\x01\0\x50\x01\x02\x03\x04"[..], &[b'a'; 256]].concat();
    assert_eq!(serve(&long, NOBODY), (Err(ServerError::TooLong), b"\0\x5b\0\0\0\0\0\0".to_vec()));
    assert!(matches!(serve(&long[..long.len() - 1], NOBODY), (Ok(Step::More { used: 0 }), _)));
}

#[test]
fn four() {
    let (step, answer) = serve(b"\x04\x01\0\x50\x01\x02\x03\x04bob\0rest", NOBODY);
    let Ok(Step::Done { used, request }) = step else { panic!("{step:?}") };
    assert_eq!((used, request.version, answer), (12, 4, vec![]));
    assert_eq!(
        (request.target.to_string().as_str(), request.user.as_deref()),
        ("1.2.3.4:80", Some("bob"))
    );
    let mut out = Vec::new();
    for host in [Host::Name("a.test"), Host::V6(std::net::Ipv6Addr::LOCALHOST)] {
        let started = ClientHandshake::start(
            Version::V4,
            Command::Connect,
            Target::new(host, 1),
            ("", ""),
            &mut out,
        );
        assert!(matches!(started, Err(ClientError::Unsupported(_))));
    }
    let started = ClientHandshake::start(
        Version::V4a,
        Command::Associate,
        Target::UNSPECIFIED,
        ("", ""),
        &mut out,
    );
    assert!(matches!(started, Err(ClientError::Unsupported(_))));
    assert!(out.is_empty());
}

#[test]
fn client_errors() {
    let answer = |login: (&'static str, &'static str), input: &[u8]| {
        let mut out = Vec::new();
        let mut client = ClientHandshake::start(
            Version::V5,
            Command::Associate,
            Target::UNSPECIFIED,
            login,
            &mut out,
        )
        .unwrap();
        client.advance(input, &mut out)
    };
    assert_eq!(answer(("", ""), b"\x05\x02"), Err(ClientError::Method(2)));
    assert_eq!(answer(("u", "p"), b"\x05\xff"), Err(ClientError::Method(255)));
    assert_eq!(answer(("u", "p"), b"\x05\x02\x01\x01"), Err(ClientError::Credentials));
    assert_eq!(
        answer(("", ""), b"\x05\x00\x05\x05\x00"),
        Err(ClientError::Rejected(Code::Refused))
    );
    assert_eq!(answer(("", ""), b"HTTP"), Err(ClientError::Version(b'H')));
    // A server that does not ask for the password gets none.
    assert!(
        matches!(answer(("u", "p"), b"\x05\x00\x05\x00\x00\x03\x06a.test\0\x01"), Ok(ClientStep::Done { used: 15, bound }) if bound.host == Err("a.test".into()))
    );
}
