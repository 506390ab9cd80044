//! The actor of a server: the only one that changes who is where.
//!
//! It takes messages about connections, never packets. What it decides stands in the [`Table`], which connections read
//! by themselves. When it fails, every connection ends: nothing would be told who comes and goes.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    frame::{FromServer, Gone},
    key::Key,
    mailbox::{Limit, Mailbox},
    table::{Known, Peer, Route, Table},
};

/// Connections of one key at a time; the oldest ends when there are more.
const SAME_KEY: usize = 16;

/// What the actor is told.
pub(crate) enum Message {
    /// A client has proved who it is. `done` when packets find it.
    Join { peer: Arc<Peer>, done: oneshot::Sender<()> },
    /// Its connection has ended; it has sent to these.
    Leave { peer: Arc<Peer>, sent_to: Known },
    /// It speaks, and another connection of its key is the active one.
    Spoke(Arc<Peer>),
    /// It is a server and wants to know who is there.
    Watch(Arc<Peer>),
    /// All connections of that key are to end.
    Close(Key),
    /// The key of the region is another one: who proved to have the old one must come again.
    Distrust,
    /// All connections are to end.
    End,
    /// Another server has that client.
    Via { key: Key, link: Arc<Mailbox> },
    /// It has it no longer.
    Lost { key: Key, link: Arc<Mailbox> },
    /// That server is gone.
    LinkDown(Arc<Mailbox>),
    /// A client of another server has sent to one of ours.
    Heard { from: Key, to: Key },
}

/// The state.
pub(crate) struct Actor {
    table: Arc<Table>,
    /// Cancelled when the actor is gone.
    dead: CancellationToken,
    own: Key,
    /// Connections of each key, the one last active at the end.
    clients: HashMap<Key, Vec<Arc<Peer>>>,
    /// Servers that have a client, the one that had it first in front.
    links: HashMap<Key, Vec<Arc<Mailbox>>>,
    watchers: Vec<Arc<Peer>>,
    /// Whom a client has sent to, for what its connections do not know by themselves.
    sent_by: HashMap<Key, Known>,
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.dead.cancel();
        self.clients.values().flatten().for_each(|peer| peer.mailbox.close());
    }
}

impl Actor {
    pub(crate) fn new(own: Key, table: Arc<Table>, dead: CancellationToken) -> Self {
        Self {
            table,
            dead,
            own,
            clients: HashMap::new(),
            links: HashMap::new(),
            watchers: Vec::new(),
            sent_by: HashMap::new(),
        }
    }

    pub(crate) async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        while let Some(message) = messages.recv().await {
            self.on(message);
        }
    }

    pub(crate) fn on(&mut self, message: Message) {
        match message {
            Message::Join { peer, done } => {
                self.join(peer);
                // The connection may have ended meanwhile; it says so itself.
                let _ = done.send(());
            }
            Message::Leave { peer, sent_to } => self.leave(&peer, sent_to),
            Message::Spoke(peer) => self.spoke(&peer),
            Message::Watch(peer) => self.watch(peer),
            Message::Close(key) => {
                self.clients.get(&key).into_iter().flatten().for_each(|peer| peer.mailbox.close());
            }
            Message::Distrust => {
                let trusted = self.clients.values().flatten().filter(|peer| peer.trusted);
                trusted.for_each(|peer| peer.mailbox.close());
            }
            Message::End => {
                self.clients.values().flatten().for_each(|peer| peer.mailbox.close());
            }
            Message::Via { key, link } => {
                let links = self.links.entry(key).or_default();
                if !links.iter().any(|other| Arc::ptr_eq(other, &link)) {
                    links.push(link);
                    self.publish(&key);
                }
            }
            Message::Lost { key, link } => self.lost(&key, &link),
            Message::LinkDown(link) => {
                let has = |links: &Vec<Arc<Mailbox>>| links.iter().any(|l| Arc::ptr_eq(l, &link));
                let keys: Vec<Key> = self
                    .links
                    .iter()
                    .filter(|(_, links)| has(links))
                    .map(|(key, _)| *key)
                    .collect();
                keys.iter().for_each(|key| self.lost(key, &link));
            }
            Message::Heard { from, to } => {
                if self.links.contains_key(&from) {
                    self.sent_by.entry(from).or_default().insert(to);
                }
            }
        }
    }

    fn join(&mut self, peer: Arc<Peer>) {
        let key = peer.key;
        let same = self.clients.entry(key).or_default();
        if same.len() >= SAME_KEY
            && let Some(oldest) = same.first()
        {
            // It leaves when its task has seen it; until then there is one more.
            oldest.mailbox.close();
        }
        same.push(peer.clone());
        self.publish(&key);
        self.watchers.iter().for_each(|watcher| peer.present_to(watcher));
    }

    fn leave(&mut self, peer: &Arc<Peer>, sent_to: Known) {
        let key = peer.key;
        self.watchers.retain(|other| !Arc::ptr_eq(other, peer));
        let Some(same) = self.clients.get_mut(&key) else { return };
        same.retain(|other| !Arc::ptr_eq(other, peer));
        peer.active.store(false, Ordering::Release);
        self.sent_by.entry(key).or_default().merge(sent_to);
        if same.is_empty() {
            self.clients.remove(&key);
            let gone = FromServer::PeerGone(key, Gone::Disconnected);
            for watcher in &self.watchers {
                watcher.mailbox.control(Limit::Complete, |out| gone.emit(out));
            }
        }
        self.publish(&key);
    }

    /// Upstream's policy for connections of one key (`lastWriterIsActive`): packets go where it was last heard from.
    fn spoke(&mut self, peer: &Arc<Peer>) {
        peer.spoke.store(false, Ordering::Release);
        let Some(same) = self.clients.get_mut(&peer.key) else { return };
        if let Some(at) = same.iter().position(|other| Arc::ptr_eq(other, peer)) {
            let peer = same.remove(at);
            same.push(peer);
        }
        self.publish(&peer.key);
    }

    fn watch(&mut self, watcher: Arc<Peer>) {
        // A server that is told to mesh with itself finds out and stops.
        if watcher.key == self.own || self.watchers.iter().any(|w| Arc::ptr_eq(w, &watcher)) {
            return;
        }
        for peer in self.clients.values().filter_map(|same| same.last()) {
            peer.present_to(&watcher);
        }
        self.watchers.push(watcher);
    }

    fn lost(&mut self, key: &Key, link: &Arc<Mailbox>) {
        let Some(links) = self.links.get_mut(key) else { return };
        links.retain(|other| !Arc::ptr_eq(other, link));
        if links.is_empty() {
            self.links.remove(key);
        }
        self.publish(key);
    }

    /// Puts in the table what holds now. Who can no longer be reached at all is said to be gone, to those that it has
    /// sent something to.
    fn publish(&mut self, key: &Key) {
        let local = self.clients.get(key).and_then(|same| {
            let (active, others) = same.split_last()?;
            others.iter().for_each(|peer| peer.active.store(false, Ordering::Release));
            active.active.store(true, Ordering::Release);
            Some(Route::Local(active.clone()))
        });
        let via = || self.links.get(key)?.first().cloned().map(Route::Via);
        let route = local.or_else(via);
        let gone = route.is_none();
        self.table.set(key, route);
        if !gone {
            return;
        }
        self.table.left.fetch_add(1, Ordering::AcqRel);
        for to in self.sent_by.remove(key).iter().flat_map(Known::iter) {
            if let Some(Route::Local(peer)) = self.table.get(to) {
                peer.mailbox.peer_gone(*key, Gone::Disconnected);
            }
        }
    }
}

#[cfg(test)]
mod tests;
