//! Conversations byte by byte, for what a well-behaved client never sends.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long silence must last to count as the end of an answer.
const QUIET: Duration = Duration::from_millis(400);

/// Sends each part, and notes after each what came back: bytes, then `| end` when the server
/// closed or `| open` when it did not.
pub(super) async fn converse(server: SocketAddr, parts: &[&[u8]]) -> Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let mut notes = Vec::new();
    for part in parts {
        if stream.write_all(part).await.is_err() {
            notes.push("cannot send".to_owned());
            break;
        }
        let (answer, ended) = listen(&mut stream).await;
        let state = if ended { "end" } else { "open" };
        notes.push(format!("{} | {state}", show(&answer)));
        if ended {
            break;
        }
    }
    Ok(notes.join("\n"))
}

async fn listen(stream: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut answer = Vec::new();
    loop {
        match timeout(QUIET, stream.read_buf(&mut answer)).await {
            Ok(Ok(1..)) => {}
            // A reset and a clean end are the same to a client that has broken the rules.
            Ok(_) => return (answer, true),
            Err(_) => return (answer, false),
        }
    }
}

/// Text as it is, bytes as hexadecimal.
fn show(bytes: &[u8]) -> String {
    let text = |b: &u8| b.is_ascii_graphic() || b" \r\n\t".contains(b);
    if !bytes.is_empty() && bytes.iter().all(text) {
        return String::from_utf8_lossy(bytes).replace("\r\n", "⏎");
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}
