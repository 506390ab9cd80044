//! DNS server `group`: several servers as one, the next one when one fails, or all at once. The reference has none.

mod options;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crosspoint_kernel::{
    BoxFuture, BuildCx, BuildError, Component, Kind, Plugin, Spec,
    component::{Dep, Deps},
    resolve::{DnsServer, ExchangeError, Query},
    slot::Slot,
};
use crosspoint_schema::{
    ConfigError, RawOptions,
    decode::{Map, Options as _},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, sleep};
use tracing::debug;

pub use options::{GroupMode, GroupOptions};

/// How long a member may take before the next one is asked as well.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a member that has failed is asked after the others.
const GRUDGE: Duration = Duration::from_secs(30);

inventory::submit! {
    Plugin { kind: Kind::DnsServer, type_name: "group", schema: GroupOptions::describe, canonical: |raw| raw.canonical::<GroupOptions>(), parse }
}

fn parse(raw: RawOptions<'_>) -> Result<Arc<dyn Spec>, ConfigError> {
    let options: GroupOptions = raw.parse()?;
    if options.servers.is_empty() {
        return Err(raw.invalid("missing servers"));
    }
    Ok(Arc::new(GroupSpec(options)))
}

#[derive(Debug)]
struct GroupSpec(GroupOptions);

impl Spec for GroupSpec {
    fn canonical(&self) -> Map {
        self.0.to_map()
    }

    fn deps(&self, out: &mut Deps) {
        out.0.extend(self.0.servers.iter().map(|tag| Dep::DnsServer(tag.as_str().into())));
    }

    fn build(self: Arc<Self>, cx: BuildCx) -> BoxFuture<'static, Result<Component, BuildError>> {
        let members = self.0.servers.iter().map(|tag| {
            let missing = || BuildError::options(format_args!("DNS server not found: {tag}"));
            cx.names.dns.get(tag.as_str()).cloned().map(Member::new).ok_or_else(missing)
        });
        let group = members.collect::<Result<Vec<_>, _>>().map(|members| Group {
            members,
            patience: match self.0.mode {
                GroupMode::Fallback => self.0.timeout.map_or(PATIENCE, |timeout| timeout.get()),
                GroupMode::Parallel => Duration::ZERO,
            },
            born: Instant::now(),
        });
        Box::pin(
            async move { Ok(Component { dns: Some(Arc::new(group?)), ..Component::default() }) },
        )
    }
}

struct Member {
    slot: Arc<Slot<dyn DnsServer>>,
    /// When it has failed, in milliseconds since the group was made, plus one; 0 when it has not since its last answer.
    failed: AtomicU64,
}

impl Member {
    fn new(slot: Arc<Slot<dyn DnsServer>>) -> Self {
        Self { slot, failed: AtomicU64::new(0) }
    }

    async fn ask(&self, query: Query<'_>) -> Result<Vec<u8>, ExchangeError> {
        let trail = query.trail.enter(&self.slot.tag).map_err(ExchangeError::Loop)?;
        let instance = self.slot.get().await?;
        instance.face.exchange(Query { message: query.message, trail: &trail }).await
    }
}

struct Group {
    members: Vec<Member>,
    patience: Duration,
    born: Instant,
}

impl Group {
    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn blame(&self, member: &Member) {
        member.failed.store(self.now().saturating_add(1), Ordering::Relaxed);
    }

    /// Those that have not failed lately first, otherwise in the order of the configuration.
    fn order(&self) -> Vec<&Member> {
        let limit = self.now().saturating_sub(u64::try_from(GRUDGE.as_millis()).unwrap_or(0));
        let mut order: Vec<&Member> = self.members.iter().collect();
        order.sort_by_key(|member| {
            let failed = member.failed.load(Ordering::Relaxed);
            failed > 0 && failed > limit
        });
        order
    }

    async fn first(&self, query: Query<'_>) -> Result<Vec<u8>, ExchangeError> {
        let mut next = self.order().into_iter().peekable();
        let mut asked = FuturesUnordered::new();
        let mut outcome = Err(ExchangeError::failed("no server in the group"));
        let mut latest: Option<&Member> = None;
        loop {
            if let Some(member) = next.next() {
                asked.push(async move { (member, member.ask(query).await) });
                latest = Some(member);
                if self.patience.is_zero() {
                    continue;
                }
            }
            let answered = tokio::select! {
                answered = asked.next() => answered,
                () = sleep(self.patience), if next.peek().is_some() => {
                    // It may still answer; meanwhile the next one is asked.
                    latest.inspect(|member| self.blame(member));
                    continue;
                }
            };
            let Some((member, result)) = answered else { return outcome };
            match result {
                Ok(answer) if is_final(&answer) => {
                    member.failed.store(0, Ordering::Relaxed);
                    return Ok(answer);
                }
                // An error code is an answer, if there is no better one.
                Ok(answer) => outcome = Ok(answer),
                Err(error) => {
                    debug!("DNS server {} of a group: {error}", member.slot.tag);
                    self.blame(member);
                    if outcome.is_err() {
                        outcome = Err(error);
                    }
                }
            }
        }
    }
}

/// Whether the name exists or does not: anything else another server may know better.
fn is_final(answer: &[u8]) -> bool {
    answer.get(3).is_some_and(|flags| matches!(flags & 0x0f, 0 | 3))
}

impl DnsServer for Group {
    fn exchange<'a>(&'a self, query: Query<'a>) -> BoxFuture<'a, Result<Vec<u8>, ExchangeError>> {
        Box::pin(self.first(query))
    }
}
