//! What looks like the beginning of TLS 1.3, so that VLESS's Vision takes what follows for sealed and copies it raw. Nothing
//! is encrypted: the load would have to pay for it.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result};

/// The content of a record at most (RFC 8446, section 5.1).
const RECORD: usize = 16 * 1024;

/// Says a handshake and a first record of data each way, and waits until all of it has come through.
pub(crate) fn greet(client: &mut TcpStream, server: &mut TcpStream) -> Result<()> {
    say(client, server, &record(22, &handshake(1, 200))).context("ClientHello")?;
    let mut answer = record(22, &server_hello());
    answer.extend(record(20, &[1]));
    answer.extend(record(23, &[0x5a; 1200]));
    say(server, client, &answer).context("ServerHello")?;
    let mut finished = record(20, &[1]);
    finished.extend(record(23, &[0x5a; 53]));
    say(client, server, &finished).context("Finished")?;
    // A few of them each way: the switch to raw bytes happens between records.
    for _ in 0..4 {
        say(server, client, &record(23, &[0x5a; RECORD])).context("data down")?;
        say(client, server, &record(23, &[0x5a; RECORD])).context("data up")?;
    }
    Ok(())
}

fn say(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    from.write_all(bytes)?;
    let mut come = vec![0; bytes.len()];
    to.read_exact(&mut come)?;
    anyhow::ensure!(come == bytes, "something else came out");
    Ok(())
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 3, 3];
    out.extend((content.len() as u16).to_be_bytes());
    out.extend(content);
    out
}

fn handshake(kind: u8, length: u8) -> Vec<u8> {
    let mut out = vec![kind, 0, 0, length, 3, 3];
    out.resize(4 + usize::from(length), 0);
    out
}

/// A ServerHello (RFC 8446, section 4.1.3): TLS_AES_128_GCM_SHA256, and `supported_versions` with TLS 1.3.
fn server_hello() -> Vec<u8> {
    let extensions = [0, 43, 0, 2, 3, 4];
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(32);
    body.extend([9; 32]);
    body.extend([0x13, 0x01, 0, 0, extensions.len() as u8]);
    body.extend(extensions);
    let mut out = vec![2, 0, 0, body.len() as u8];
    out.extend(body);
    out
}
