//! Lookups under way: who asks for what is being asked already waits for that answer.

use std::{collections::HashMap, future::Future, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Work under way by key. An entry lives until its work has ended; nothing is cached.
pub(crate) struct Flights<K, T>(Arc<Mutex<HashMap<K, watch::Receiver<Option<T>>>>>);

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// Takes the entry out when the work ends, also when it panics.
struct Landing<K: Eq + Hash, T> {
    flights: Arc<Mutex<HashMap<K, watch::Receiver<Option<T>>>>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        self.flights.lock().remove(&self.key);
    }
}

impl<K, T> Flights<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The result of the work of that key: of work under way, or of `start` (which then runs as a task of its own, so that it
    /// does not end with whoever asked first). `None` when the work has panicked.
    pub(crate) async fn run<F>(&self, key: K, start: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut answer = {
            let mut flights = self.0.lock();
            match flights.get(&key) {
                Some(answer) => answer.clone(),
                None => {
                    let (send, answer) = watch::channel(None);
                    flights.insert(key.clone(), answer.clone());
                    let landing = Landing { flights: self.0.clone(), key };
                    let work = start();
                    tokio::spawn(async move {
                        let result = work.await;
                        // Out of the table first: who comes now wants a fresh answer.
                        drop(landing);
                        send.send_replace(Some(result));
                    });
                    answer
                }
            }
        };
        let value = answer.wait_for(Option::is_some).await.ok()?;
        value.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn equal_work_runs_once_at_a_time() {
        let flights: Flights<u8, u32> = Flights::default();
        let count = Arc::new(AtomicU32::new(0));
        let run = |key: u8| {
            let count = count.clone();
            flights.run(key, move || async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                count.fetch_add(1, Ordering::Relaxed) + 1
            })
        };
        assert_eq!(tokio::join!(run(1), run(1), run(1)), (Some(1), Some(1), Some(1)));
        assert_eq!(run(1).await, Some(2));
        let (a, b) = tokio::join!(run(1), run(2));
        assert_ne!(a, b);
        assert!(flights.0.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_to_ask_may_leave() {
        let flights: Arc<Flights<u8, u32>> = Arc::default();
        let work = || async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            7
        };
        let first = tokio::time::timeout(Duration::from_millis(10), flights.run(1, work)).await;
        assert!(first.is_err());
        assert_eq!(flights.run(1, || async { 8 }).await, Some(7));
    }

    #[tokio::test]
    async fn a_panic_is_told_and_forgotten() {
        let flights: Flights<u8, u32> = Flights::default();
        let work = || async {
            tokio::task::yield_now().await;
            panic!("told to")
        };
        assert_eq!(flights.run(1, work).await, None);
        assert_eq!(flights.run(1, || async { 9 }).await, Some(9));
    }
}
