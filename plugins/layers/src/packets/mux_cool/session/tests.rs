use crosspoint_kernel::{
    flow::BoxPacketIo,
    relay::{give_batch, take_batch},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::mpsc,
};

use super::*;

impl Carrier for mpsc::UnboundedSender<(Target, Flow)> {
    fn carry(&self, target: Target, flow: Flow) -> BoxFuture<'static, bool> {
        let sent = self.send((target, flow)).is_ok();
        Box::pin(async move { sent })
    }
}

/// A client of a session that is being served.
struct Client {
    stream: DuplexStream,
    flows: mpsc::UnboundedReceiver<(Target, Flow)>,
    served: tokio::task::JoinHandle<io::Result<()>>,
}

impl Client {
    fn new() -> Self {
        let (near, far) = duplex(1 << 20);
        let (sender, flows) = mpsc::unbounded_channel();
        let served = tokio::spawn(Session::new(Box::new(far), sender).run());
        Self { stream: near, flows, served }
    }

    async fn send(
        &mut self,
        session: u16,
        status: Status,
        to: Option<(Network, Target)>,
        data: Option<&[u8]>,
    ) {
        let mut out = Vec::new();
        frame::emit(&Head { session, status, error: false, to }, data, &mut out);
        self.stream.write_all(&out).await.unwrap();
    }

    async fn receive(&mut self) -> (Head, Vec<u8>) {
        let mut bytes = Vec::new();
        loop {
            match frame::parse(&bytes).unwrap() {
                Parsed::Need(len) => {
                    let have = bytes.len();
                    bytes.resize(len, 0);
                    self.stream.read_exact(&mut bytes[have..]).await.unwrap();
                }
                Parsed::Frame { head, payload, .. } => {
                    return (head, payload.map(|at| bytes[at].to_vec()).unwrap_or_default());
                }
            }
        }
    }

    async fn stream(&mut self, session: u16, data: &[u8]) -> BoxStream {
        let to = Some((Network::Tcp, Target::new("a.test", 80)));
        self.send(session, Status::New, to, Some(data)).await;
        let Some((target, Flow::Stream(stream))) = self.flows.recv().await else { panic!() };
        assert_eq!(target, Target::new("a.test", 80));
        stream
    }

    async fn packets(&mut self, session: u16, to: Target, data: &[u8]) -> (Target, BoxPacketIo) {
        self.send(session, Status::New, Some((Network::Udp, to)), Some(data)).await;
        let Some((target, Flow::Packet(packets))) = self.flows.recv().await else { panic!() };
        (target, packets)
    }
}

async fn one(packets: &mut BoxPacketIo) -> (Vec<u8>, Target) {
    let mut batch = take_batch();
    poll_fn(|cx| packets.poll_recv(cx, &mut batch)).await.unwrap();
    assert_eq!(batch.len(), 1);
    let got = (batch.payload(0).to_vec(), batch.peer(0).clone());
    give_batch(batch);
    got
}

#[tokio::test]
async fn a_stream_ends_one_way_after_the_other() {
    let mut client = Client::new();
    let mut stream = client.stream(7, b"he").await;
    client.send(7, Status::Keep, None, Some(b"llo")).await;
    let mut five = [0; 5];
    stream.read_exact(&mut five).await.unwrap();
    assert_eq!(&five, b"hello");
    client.send(7, Status::End, None, None).await;
    assert_eq!(stream.read(&mut five).await.unwrap(), 0);
    stream.write_all(b"bye").await.unwrap();
    stream.shutdown().await.unwrap();
    let (head, data) = client.receive().await;
    assert_eq!((head.session, head.status, &data[..]), (7, Status::Keep, &b"bye"[..]));
    let (head, _) = client.receive().await;
    assert_eq!((head.session, head.status, head.error), (7, Status::End, false));
    drop(stream);
    // Nobody has this number now.
    client.send(7, Status::Keep, None, Some(b"more")).await;
    let (head, _) = client.receive().await;
    assert_eq!((head.session, head.status, head.error), (7, Status::End, true));
    client.stream.shutdown().await.unwrap();
    client.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_that_is_dropped_is_reset_and_one_that_is_cut_fails() {
    let mut client = Client::new();
    drop(client.stream(1, b"").await);
    let (head, _) = client.receive().await;
    assert_eq!((head.session, head.status, head.error), (1, Status::End, true));
    let mut stream = client.stream(2, b"").await;
    // The number is given to another one: the first is over, and says nothing about the second.
    let mut other = client.stream(2, b"x").await;
    assert!(stream.read_u8().await.is_err());
    drop(stream);
    assert_eq!(other.read_u8().await.unwrap(), b'x');
    client.served.abort();
    assert!(client.served.await.is_err());
    assert!(other.read_u8().await.is_err());
    assert!(other.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn what_nobody_reads_makes_the_client_wait() {
    let mut client = Client::new();
    let mut slow = client.stream(1, b"").await;
    let mut other = client.stream(2, b"").await;
    // More than one session and the stream itself hold.
    let chunk = vec![1; 60_000];
    let sent = tokio::spawn(async move {
        for _ in 0..40 {
            client.send(1, Status::Keep, None, Some(&chunk)).await;
        }
        client.send(2, Status::Keep, None, Some(b"late")).await;
        client
    });
    let waited = tokio::time::timeout(std::time::Duration::from_millis(100), other.read_u8());
    assert!(waited.await.is_err());
    assert!(!sent.is_finished());
    let mut bytes = vec![0; 40 * 60_000];
    slow.read_exact(&mut bytes).await.unwrap();
    let mut four = [0; 4];
    other.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"late");
    drop(sent.await.unwrap());
}

#[tokio::test]
async fn a_client_that_does_not_listen_makes_sessions_wait() {
    let mut client = Client::new();
    let mut stream = client.stream(1, b"").await;
    let sent = tokio::spawn(async move {
        stream.write_all(&vec![5; 4 << 20]).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(!sent.is_finished());
    let mut total = 0;
    loop {
        let (head, data) = client.receive().await;
        total += data.len();
        if head.status == Status::End {
            break;
        }
    }
    assert_eq!(total, 4 << 20);
    sent.await.unwrap();
}

#[tokio::test]
async fn datagrams_have_peers() {
    let mut client = Client::new();
    let dns = Target::new("192.0.2.1", 53);
    let (target, mut packets) = client.packets(0, dns.clone(), b"a").await;
    assert_eq!((&target, one(&mut packets).await), (&dns, (b"a".to_vec(), dns.clone())));
    let else_where = Target::new("b.test", 54);
    client.send(0, Status::Keep, Some((Network::Udp, else_where.clone())), Some(b"b")).await;
    assert_eq!(one(&mut packets).await, (b"b".to_vec(), else_where.clone()));
    client.send(0, Status::Keep, None, Some(b"c")).await;
    assert_eq!(one(&mut packets).await, (b"c".to_vec(), dns));
    let mut batch = take_batch();
    batch.push(b"answer", Target::new("2001:db8::1", 54));
    poll_fn(|cx| packets.poll_send(cx, &mut batch)).await.unwrap();
    let (head, data) = client.receive().await;
    let from = Some((Network::Udp, Target::new("2001:db8::1", 54)));
    assert_eq!((head.session, head.status, head.to), (0, Status::Keep, from));
    assert_eq!(data, b"answer");
    client.send(0, Status::End, None, None).await;
    let end = poll_fn(|cx| packets.poll_recv(cx, &mut batch)).await.unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn packetaddr_inside_of_a_session() {
    let mut client = Client::new();
    let mut first = packet_addr::emit("192.0.2.1:53".parse().unwrap());
    first.push(b'q');
    let (target, mut packets) = client.packets(3, packet_addr::target(), &first).await;
    assert_eq!(target, Target::new("192.0.2.1", 53));
    assert_eq!(one(&mut packets).await, (b"q".to_vec(), target));
}

#[tokio::test]
async fn nonsense_ends_the_stream() {
    let mut client = Client::new();
    let mut stream = client.stream(1, b"").await;
    client.stream.write_all(&[0, 4, 0, 0, 9, 0]).await.unwrap();
    assert!(client.served.await.unwrap().is_err());
    assert!(stream.read_u8().await.is_err());
}
