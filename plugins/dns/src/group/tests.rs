use std::sync::atomic::AtomicU32;

use crosspoint_kernel::{component::Incarnation, resolve::NO_TRAIL};
use crosspoint_resolver::message;
use hickory_proto::op::ResponseCode;

use super::*;

/// Answers after some time with a code, or fails.
struct Fixed(Duration, Option<ResponseCode>, AtomicU32);

impl DnsServer for Fixed {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        self.2.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            sleep(self.0).await;
            let code = self.1.ok_or_else(|| ExchangeError::failed("no luck"))?;
            let query = message::read(query.message).unwrap();
            Ok(message::reply(&query, code).to_vec().unwrap())
        })
    }
}

fn fixed(millis: u64, code: Option<ResponseCode>) -> Arc<Fixed> {
    Arc::new(Fixed(Duration::from_millis(millis), code, AtomicU32::new(0)))
}

fn group(patience: Duration, servers: &[&Arc<Fixed>]) -> Group {
    let members = servers.iter().enumerate().map(|(at, server)| {
        let tag: crosspoint_kernel::Tag = format!("s{at}").into();
        let slot: Arc<Slot<dyn DnsServer>> = Slot::new(tag.clone());
        let life = Incarnation { kind: Kind::DnsServer, type_name: "t", tag, epoch: 1 };
        slot.set(Arc::new(life), Arc::<Fixed>::clone(server));
        Member::new(slot)
    });
    Group { members: members.collect(), patience, born: Instant::now() }
}

/// The code, and after how many milliseconds.
async fn ask(group: &Group) -> (Result<ResponseCode, String>, u128) {
    let query = message::query(1, "x", crosspoint_kernel::resolve::Family::V4).unwrap();
    let query = query.to_vec().unwrap();
    let start = Instant::now();
    let answer = group.exchange(Query { message: &query, trail: &NO_TRAIL }).await;
    let code = answer.map(|answer| message::read(&answer).unwrap().metadata.response_code);
    (code.map_err(|error| error.to_string()), start.elapsed().as_millis())
}

fn asked(server: &Fixed) -> u32 {
    server.2.load(Ordering::Relaxed)
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn the_next_one_is_asked_when_one_fails() {
    let (dead, slow, good) = (
        fixed(0, None),
        fixed(5000, Some(ResponseCode::NoError)),
        fixed(10, Some(ResponseCode::NXDomain)),
    );
    let servers = group(SECOND, &[&dead, &slow, &good]);
    assert_eq!(ask(&servers).await, (Ok(ResponseCode::NXDomain), 1010));
    // Those that have failed are asked last for a while.
    assert_eq!(ask(&servers).await, (Ok(ResponseCode::NXDomain), 10));
    assert_eq!((asked(&dead), asked(&slow), asked(&good)), (1, 1, 2));
    tokio::time::advance(GRUDGE).await;
    assert_eq!(ask(&servers).await, (Ok(ResponseCode::NXDomain), 1010));
}

#[tokio::test(start_paused = true)]
async fn the_first_good_answer_of_all_counts() {
    let (refused, slow, good) = (
        fixed(0, Some(ResponseCode::Refused)),
        fixed(500, Some(ResponseCode::NoError)),
        fixed(100, Some(ResponseCode::NoError)),
    );
    let servers = group(Duration::ZERO, &[&refused, &slow, &good]);
    assert_eq!(ask(&servers).await, (Ok(ResponseCode::NoError), 100));
    assert_eq!((asked(&refused), asked(&slow), asked(&good)), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_best_of_bad_answers() {
    let (failing, refused) = (fixed(0, None), fixed(10, Some(ResponseCode::Refused)));
    for patience in [SECOND, Duration::ZERO] {
        let code = ask(&group(patience, &[&failing, &refused, &failing])).await.0;
        assert_eq!(code, Ok(ResponseCode::Refused));
        let error = ask(&group(patience, &[&failing])).await.0;
        assert_eq!(error, Err("no luck".to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_may_still_be_the_one() {
    let (slow, dead) = (fixed(1500, Some(ResponseCode::NoError)), fixed(60_000, None));
    assert_eq!(ask(&group(SECOND, &[&slow, &dead])).await, (Ok(ResponseCode::NoError), 1500));
}
