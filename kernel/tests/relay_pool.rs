//! Pipes come back: a test of its own process, because pipes are counted for the whole process.

use std::{sync::Arc, time::Duration};

use crosspoint_kernel::{
    Kind,
    addr::Target,
    component::Incarnation,
    ledger::Ledger,
    relay,
    session::{Network, Session},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const FLOWS: usize = 12;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) =
        tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (a.unwrap(), b.unwrap().0)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn pipes_are_held_while_data_moves_and_closed_afterwards() {
    let ledger = Ledger::default();
    let mut ends = Vec::new();
    for id in 0..FLOWS as u64 {
        let ((client, near), (far, server)) = (pair().await, pair().await);
        let life =
            Incarnation { kind: Kind::Inbound, type_name: "test", tag: "t".into(), epoch: 1 };
        let source = client.local_addr().unwrap();
        let session = Session::new(id, Arc::new(life), Network::Tcp, source, Target::from(source));
        let entry = ledger.register(&session);
        tokio::spawn(async move { relay::streams(Box::new(near), Box::new(far), &entry).await });
        ends.push((client, server));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let idle = descriptors();
    assert_eq!(relay::stats().pipes, 0, "idle connections hold no pipe");

    // All at once, and stalled: every direction that has data holds one pipe at most.
    let piece = vec![7; 1 << 20];
    let mut sent = Vec::new();
    for (client, _) in &mut ends {
        let mut total = 0;
        while let Ok(n) =
            tokio::time::timeout(Duration::from_millis(60), client.write(&piece)).await
        {
            total += n.unwrap();
        }
        sent.push(total);
    }
    let stats = relay::stats();
    assert!(stats.pipes > 0 && stats.pipes <= FLOWS, "{stats:?}");

    // Drained, the connections still open: everything comes back.
    let mut buffer = vec![0; 1 << 20];
    for ((_, server), total) in ends.iter_mut().zip(&sent) {
        let mut got = 0;
        while got < *total {
            got += server.read(&mut buffer).await.unwrap();
        }
    }
    tokio::time::timeout(Duration::from_secs(20), async {
        while relay::stats().pipes > 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(descriptors(), idle);
    assert!(relay::stats().spliced_bytes > sent.iter().sum::<usize>() as u64 / 2);
    assert_eq!(ledger.len(), FLOWS);
}
