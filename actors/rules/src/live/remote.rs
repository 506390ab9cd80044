//! Rule-sets that are downloaded.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crosspoint_kernel::{
    BuildCx,
    component::Fault,
    fetch::{Fetch, Request},
    state::SavedRuleSet,
};
use crosspoint_schema::options::{RemoteRuleSet, RuleSetFormat};
use tokio::sync::Semaphore;
use tracing::{debug, error, info, warn};

use super::{
    file::blocking,
    set::{First, Known, LiveSet},
};

/// Limit of one download, body included.
const TIMEOUT: Duration = Duration::from_secs(300);
/// First and longest delay before a failed update is tried again. Rules are in force meanwhile.
const RETRY: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(60 * 60));
/// Longest sleep: what is due is told by the clock of the wall, which may be set, or go on while the machine sleeps.
const NAP: Duration = Duration::from_secs(60 * 60);

/// A remote set, and what it takes to download it.
#[derive(Clone)]
pub(super) struct Remote {
    pub(super) set: Arc<LiveSet>,
    pub(super) options: RemoteRuleSet,
    pub(super) format: RuleSetFormat,
    /// How many downloads may go on at once.
    pub(super) permits: Arc<Semaphore>,
    pub(super) client: Arc<dyn Fetch>,
    pub(super) cx: BuildCx,
}

impl Remote {
    /// Puts the rules of the cache file in force, if there are none yet.
    pub(super) async fn restore(&self) {
        if !self.set.is_empty() {
            return;
        }
        let (set, format, state) = (self.set.clone(), self.format, self.cx.names.state.clone());
        let restored = blocking(move || {
            let saved = state.rule_set(set.tag())?;
            Some(set.put_bytes(format, &saved.content).map(|()| {
                *set.known.lock() =
                    Known { file: None, updated: Some(saved.updated), etag: saved.etag };
                set.first.send_replace(First::Done);
            }))
        });
        match restored.await {
            Ok(Some(Ok(()))) => debug!("restored rule-set {} from the cache file", self.set.tag()),
            Ok(None) => {}
            Ok(Some(Err(why))) | Err(why) => {
                warn!("restore cached rule-set {}: {why}; it is downloaded anew", self.set.tag());
            }
        }
    }

    /// Tells the supervisor whether there are rules.
    pub(super) fn tell(&self) {
        if !self.set.is_empty() {
            return self.cx.condition.well();
        }
        self.cx.condition.degraded(match &*self.set.first.borrow() {
            First::Failed(why) => format!("waiting for the first download; the last try: {why}"),
            First::Pending | First::Done => "waiting for the first download".to_owned(),
        });
    }

    /// Downloads whenever it is time. Ends when there is nothing to go on with.
    pub(super) async fn run(self) -> Result<(), Fault> {
        let tag = self.set.tag();
        let mut retry = RETRY.0;
        loop {
            while let Some(left) = self.due_in() {
                tokio::time::sleep(left.min(NAP)).await;
            }
            match self.update().await {
                Ok(()) => retry = RETRY.0,
                Err(why) if self.set.is_empty() => {
                    self.set.first.send_if_modified(|first| {
                        let pending = *first != First::Done;
                        if pending {
                            *first = First::Failed(why.clone());
                        }
                        pending
                    });
                    return Err(Fault(format!("initial rule-set: {tag}: {why}")));
                }
                Err(why) => {
                    let delay = retry.min(self.set.interval());
                    error!(
                        "fetch rule-set {tag}: {why}; the rules before stay in force, next try in {delay:?}"
                    );
                    tokio::time::sleep(delay).await;
                    retry = (retry * 2).min(RETRY.1);
                }
            }
        }
    }

    /// How long until the next download; `None` for now.
    fn due_in(&self) -> Option<Duration> {
        // A time to come was written by a clock that was wrong.
        let age = self.set.known.lock().updated?.elapsed().ok()?;
        self.set.interval().checked_sub(age).filter(|left| !left.is_zero())
    }

    async fn update(&self) -> Result<(), String> {
        let (set, tag) = (&self.set, self.set.tag());
        let _permit = self.permits.acquire().await.map_err(|closed| closed.to_string())?;
        debug!("updating rule-set {tag} from URL: {}", self.options.url);
        let mut request = Request::get(&self.options.url);
        request.timeout = TIMEOUT;
        if !self.options.download_detour.is_empty() {
            let detour = self.options.download_detour.as_str();
            let slot = self.cx.plane.snapshot.load().names.outbounds.get(detour).cloned();
            let slot = slot.ok_or_else(|| format!("download detour not found: {detour}"))?;
            request.via = Some(slot);
        }
        let etag = set.known.lock().etag.clone();
        if !etag.is_empty() && !set.is_empty() {
            request.headers.push(("If-None-Match".into(), etag.into()));
        }
        let answer = self
            .client
            .fetch(request)
            .await
            .map_err(|error| format!("Get {:?}: {error}", self.options.url))?;
        let now = SystemTime::now();
        match answer.status {
            200 => {}
            304 if !set.is_empty() => {
                set.known.lock().updated = Some(now);
                let state = self.cx.plane.state();
                if let Some(saved) = state.rule_set(tag) {
                    state.save_rule_set(tag, SavedRuleSet { updated: now, ..saved });
                }
                info!("update rule-set {tag}: not modified");
                return Ok(());
            }
            other => return Err(format!("unexpected status: {other}")),
        }
        let etag = answer.header("etag").unwrap_or_default().to_owned();
        let (loading, format, content) = (set.clone(), self.format, answer.body.clone());
        blocking(move || loading.put_bytes(format, &content)).await.and_then(|done| done)?;
        *set.known.lock() = Known { file: None, updated: Some(now), etag: etag.clone() };
        self.tell();
        set.first.send_replace(First::Done);
        let saved = SavedRuleSet { content: answer.body, etag, updated: now };
        self.cx.plane.state().save_rule_set(tag, saved);
        info!("updated rule-set {tag}");
        Ok(())
    }
}
