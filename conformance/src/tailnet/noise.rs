//! The encrypted transport between a node and its control server: Noise IK over X25519, ChaCha20-Poly1305 and BLAKE2s, the
//! server's side.
//!
//! Facts: a handshake of 101 bytes (`u16` version, type 1, `u16` 96, ephemeral key, sealed static key, seal) and an answer of
//! 51 (type 2, `u16` 48, ephemeral key, seal); then records (type 4, `u16` length) with counters in big-endian.

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    agreement::{PrivateKey, UnparsedPublicKey, X25519, agree},
};
use blake2::{Blake2s256, Digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;

/// Plain bytes of a record: 4096 less head and seal.
const RECORD: usize = 4077;

/// The key of a control server.
pub(super) struct Server {
    secret: PrivateKey,
    pub(super) public: [u8; 32],
}

impl Server {
    pub(super) fn generate() -> Result<Self> {
        let (secret, public) = pair()?;
        Ok(Self { secret, public })
    }
}

fn pair() -> Result<(PrivateKey, [u8; 32])> {
    let secret = PrivateKey::generate(&X25519).ok().context("a key")?;
    let public = secret.compute_public_key().ok().context("a public key")?;
    let public = public.as_ref().try_into().context("32 bytes")?;
    Ok((secret, public))
}

fn shared(secret: &PrivateKey, public: &[u8]) -> Result<[u8; 32]> {
    let peer = UnparsedPublicKey::new(&X25519, public);
    let out: Option<[u8; 32]> =
        agree(secret, peer, (), |bytes| bytes.try_into().map_err(drop)).ok();
    out.context("agree on a key")
}

fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// HMAC with a key of 32 bytes; the block of BLAKE2s has 64.
fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let mut all: Vec<&[u8]> = Vec::new();
    let inner = pad(0x36);
    all.push(&inner);
    all.extend(parts);
    hash(&[&pad(0x5c), &hash(&all)])
}

/// Two keys of a chaining key and new material.
fn derive(chain: &[u8; 32], material: &[u8]) -> ([u8; 32], [u8; 32]) {
    let secret = hmac(chain, &[material]);
    let first = hmac(&secret, &[&[1]]);
    (first, hmac(&secret, &[&first, &[2]]))
}

struct Cipher {
    key: LessSafeKey,
    count: u64,
}

impl Cipher {
    fn new(key: &[u8; 32]) -> Result<Self> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).ok().context("a cipher")?;
        Ok(Self { key: LessSafeKey::new(key), count: 0 })
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.count.to_be_bytes());
        self.count += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn open(&mut self, sealed: &[u8], aad: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = sealed.to_vec();
        let nonce = self.nonce();
        let opened = self.key.open_in_place(nonce, Aad::from(aad), &mut bytes).ok();
        let length = opened.context("a seal that does not fit")?.len();
        bytes.truncate(length);
        Ok(bytes)
    }

    fn seal(&mut self, plain: &[u8], aad: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = plain.to_vec();
        let nonce = self.nonce();
        let sealed = self.key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut bytes);
        sealed.ok().context("seal")?;
        Ok(bytes)
    }
}

/// Answers a handshake. Gives back the plain side of the connection, and the task that is its encryption.
pub(super) async fn accept(
    server: &Server,
    hello: &[u8],
    mut stream: TcpStream,
) -> Result<(DuplexStream, impl Future<Output = Result<()>> + use<>)> {
    ensure!(hello.len() == 101 && hello[2] == 1, "no handshake");
    let version = u16::from_be_bytes([hello[0], hello[1]]);
    let (ephemeral, rest) = hello[5..].split_at(32);
    let (sealed_key, seal) = rest.split_at(48);
    let mut chain = hash(&[b"Noise_IK_25519_ChaChaPoly_BLAKE2s"]);
    let prologue = format!("Tailscale Control Protocol v{version}");
    let mut transcript = hash(&[&chain, prologue.as_bytes()]);
    transcript = hash(&[&transcript, &server.public]);
    transcript = hash(&[&transcript, ephemeral]);
    let key;
    (chain, key) = derive(&chain, &shared(&server.secret, ephemeral)?);
    let machine = Cipher::new(&key)?.open(sealed_key, &transcript)?;
    transcript = hash(&[&transcript, sealed_key]);
    let key;
    (chain, key) = derive(&chain, &shared(&server.secret, &machine)?);
    Cipher::new(&key)?.open(seal, &transcript)?;
    transcript = hash(&[&transcript, seal]);

    let (secret, public) = pair()?;
    transcript = hash(&[&transcript, &public]);
    (chain, _) = derive(&chain, &shared(&secret, ephemeral)?);
    let key;
    (chain, key) = derive(&chain, &shared(&secret, &machine)?);
    let seal = Cipher::new(&key)?.seal(&[], &transcript)?;
    let answer = [&[2, 0, 48], &public[..], &seal].concat();
    stream.write_all(&answer).await?;
    let (from, to) = derive(&chain, &[]);
    let (inside, outside) = tokio::io::duplex(64 << 10);
    Ok((inside, pump(stream, outside, Cipher::new(&from)?, Cipher::new(&to)?)))
}

/// Carries records one way and plain bytes the other, until one side ends.
async fn pump(
    stream: TcpStream,
    plain: DuplexStream,
    mut from: Cipher,
    mut to: Cipher,
) -> Result<()> {
    let (mut wire_in, mut wire_out) = stream.into_split();
    let (mut plain_in, mut plain_out) = tokio::io::split(plain);
    let reading = async {
        let mut head = [0; 3];
        while wire_in.read_exact(&mut head).await.is_ok() {
            if head[0] != 4 {
                bail!("a record of type {}", head[0]);
            }
            let mut record = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
            wire_in.read_exact(&mut record).await?;
            plain_out.write_all(&from.open(&record, &[])?).await?;
        }
        Ok(())
    };
    let writing = async {
        let mut buffer = [0; RECORD];
        loop {
            let read = plain_in.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            let sealed = to.seal(&buffer[..read], &[])?;
            let length = u16::try_from(sealed.len())?.to_be_bytes();
            wire_out.write_all(&[&[4, length[0], length[1]], &sealed[..]].concat()).await?;
        }
    };
    tokio::select! { done = reading => done, done = writing => done }
}
