//! A SOCKS proxy that tells each client under which name it has logged in, and what it has asked for.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinHandle,
};

/// The proxy; ends when dropped.
pub(super) struct Teller {
    port: u16,
    task: JoinHandle<()>,
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Teller {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that goes away early is no concern of ours: the test sees its own end.
                drop(tokio::spawn(async { drop(serve(stream).await) }));
            }
        });
        Ok(Self { port, task })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

async fn serve(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let methods = usize::from(head::<2>(&mut stream).await?[1]);
    stream.read_exact(&mut vec![0; methods]).await?;
    stream.write_all(&[5, 2]).await?;
    stream.read_u8().await?;
    let user = short(&mut stream).await?;
    short(&mut stream).await?;
    stream.write_all(&[1, 0]).await?;
    let command = head::<3>(&mut stream).await?[1];
    let asked = address(&mut stream).await?;
    match command {
        1 => {
            stream.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, 0, 0]).await?;
            stream.write_all(format!("{user} {asked}").as_bytes()).await?;
            stream.shutdown().await?;
            // Until the other side has closed as well: a reset would lose what was said.
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
        3 => {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let port = socket.local_addr()?.port().to_be_bytes();
            stream.write_all(&[5, 0, 0, 1, 127, 0, 0, 1, port[0], port[1]]).await?;
            tokio::select! {
                _ = stream.read_u8() => {}
                result = datagrams(&socket, &user) => result?,
            }
        }
        other => bail!("command {other}"),
    }
    Ok(())
}

/// Answers each datagram to the address it was for, with that address.
async fn datagrams(socket: &UdpSocket, user: &str) -> Result<()> {
    let mut buffer = [0; 2048];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).await?;
        let mut rest = &buffer[..len];
        let mut skip = [0; 3];
        rest.read_exact(&mut skip).await?;
        let at = len - rest.len();
        let asked = address(&mut rest).await?;
        let header = at..len - rest.len();
        let mut answer = vec![0; 3];
        answer.extend(&buffer[header]);
        answer.extend(format!("{user} {asked}").as_bytes());
        socket.send_to(&answer, from).await?;
    }
}

async fn head<const N: usize>(from: &mut (impl AsyncReadExt + Unpin)) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn short(from: &mut (impl AsyncReadExt + Unpin)) -> Result<String> {
    let len = from.read_u8().await?;
    let mut text = vec![0; len.into()];
    from.read_exact(&mut text).await?;
    Ok(String::from_utf8(text)?)
}

async fn address(from: &mut (impl AsyncReadExt + Unpin)) -> Result<String> {
    let host = match from.read_u8().await? {
        1 => SocketAddr::from((head::<4>(from).await?, 0)).ip().to_string(),
        4 => SocketAddr::from((head::<16>(from).await?, 0)).ip().to_string(),
        3 => short(from).await?,
        other => bail!("address type {other}"),
    };
    Ok(format!("{host} {}", from.read_u16().await?))
}
