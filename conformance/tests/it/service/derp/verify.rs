//! `verify_client_url`: somebody else says who may come in.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use crosspoint_conformance::{
    net::origin::Origin,
    tailnet::derp::{Hello, Keys, hex},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::stage::{World, says};

const MESH: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

type Asked = Arc<Mutex<Vec<Value>>>;

fn asked(of: &Asked) -> Vec<Value> {
    of.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Allows keys that are in `allowed`; says nothing sensible of the key `nonsense`.
async fn judge(
    mut stream: TcpStream,
    asked: Asked,
    allowed: Vec<String>,
    nonsense: String,
) -> Result<()> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "a request that is cut");
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        break (end + 4, length.context("no length")?.trim().parse::<usize>()?);
    };
    while bytes.len() < head + length {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "a body that is cut");
    }
    let request: Value = serde_json::from_slice(&bytes[head..])?;
    let key = request["NodePublic"].as_str().unwrap_or_default().to_owned();
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    let answer = match key {
        key if key == nonsense => ("500 Internal Server Error", "{\"Allow\":true}".to_owned()),
        key => ("200 OK", json!({ "Allow": allowed.contains(&key) }).to_string()),
    };
    let (status, body) = answer;
    let length = body.len();
    let text =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_key_is_refused() -> Result<()> {
    let (ann, bob, eve, odd) =
        (Keys::generate()?, Keys::generate()?, Keys::generate()?, Keys::generate()?);
    let name = |keys: &Keys| format!("nodekey:{}", hex(&keys.public));
    let allowed = vec![name(&ann), name(&bob)];
    let (log, nonsense) = (Asked::default(), name(&odd));
    let seen = log.clone();
    let controller = Origin::tcp("127.0.0.1:0", move |stream, _| {
        let (log, allowed, nonsense) = (log.clone(), allowed.clone(), nonsense.clone());
        async move { drop(judge(stream, log, allowed, nonsense).await) }
    })
    .await?;
    let url = format!("http://{}/verify", controller.addr());

    let world = World::new()?;
    let options = json!({ "verify_client_url": [{ "url": url }], "mesh_psk": MESH });
    let server = world.start(&options).await?;
    let (mut one, mut two) = (server.login(&ann).await?, server.login(&bob).await?);
    for (keys, what) in
        [(&eve, "a key that nobody knows"), (&odd, "a key of which the controller fails")]
    {
        ensure!(server.login(keys).await.is_err(), "{what} came in");
    }
    let questions = asked(&seen);
    ensure!(questions.len() == 4, "{questions:?}");
    ensure!(questions[0]["NodePublic"] == name(&ann), "{questions:?}");
    ensure!(questions.iter().all(|asked| asked["Source"] == "127.0.0.1"), "{questions:?}");
    // Who knows the key of the mesh is asked about by nobody.
    let hello = Hello { mesh: Some(MESH.to_owned()), ..Hello::default() };
    server.login_as(&eve, &hello).await.context("a mesh peer")?;
    ensure!(asked(&seen).len() == 4);
    says(&mut one, &mut two, b"among friends").await?;

    drop(controller);
    ensure!(server.login(&ann).await.is_err(), "without a controller one came in");
    says(&mut two, &mut one, b"still there").await
}

#[tokio::test]
async fn one_of_several_controllers_is_enough() -> Result<()> {
    let ann = Keys::generate()?;
    let allowed = vec![format!("nodekey:{}", hex(&ann.public))];
    let controller = Origin::tcp("127.0.0.1:0", move |stream, _| {
        let allowed = allowed.clone();
        async move { drop(judge(stream, Asked::default(), allowed, String::new()).await) }
    })
    .await?;
    let nobody = crosspoint_conformance::ports::free();
    let urls =
        json!([format!("http://127.0.0.1:{nobody}/"), format!("http://{}/", controller.addr())]);
    let world = World::new()?;
    let server = world.start(&json!({ "verify_client_url": urls })).await?;
    server.login(&ann).await?;
    ensure!(server.client().await.is_err(), "a stranger came in");
    Ok(())
}
