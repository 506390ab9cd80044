use proptest::prelude::*;

use super::*;
use crate::frame::{Step, flags};

struct Stage {
    actor: Actor,
    table: Arc<Table>,
}

impl Stage {
    fn new() -> Self {
        let table = Arc::new(Table::default());
        let actor = Actor::new(Key([0xff; 32]), table.clone(), CancellationToken::new());
        Self { actor, table }
    }

    fn join(&mut self, key: u8, trusted: bool) -> Arc<Peer> {
        let flags = if trusted { flags::MESH_PEER } else { 0 };
        let addr = ([10, 0, 0, key], 1000).into();
        let peer = Arc::new(Peer::new(Key([key; 32]), addr, trusted, flags));
        let (done, _) = oneshot::channel();
        self.actor.on(Message::Join { peer: peer.clone(), done });
        peer
    }

    fn leave(&mut self, peer: &Arc<Peer>, sent_to: &[u8]) {
        let mut known = Known::default();
        sent_to.iter().for_each(|key| known.insert(Key([*key; 32])));
        self.actor.on(Message::Leave { peer: peer.clone(), sent_to: known });
    }

    fn is_at(&self, peer: &Arc<Peer>) -> bool {
        matches!(self.table.get(&peer.key), Some(Route::Local(at)) if Arc::ptr_eq(&at, peer))
    }
}

/// What a connection was told.
fn told(peer: &Peer) -> Vec<String> {
    let bytes = peer.mailbox.taken();
    let (mut rest, mut all) = (bytes.as_slice(), Vec::new());
    while let Ok(Step::Frame(frame, used)) = FromServer::next(rest) {
        all.push(match frame {
            FromServer::PeerGone(key, why) => format!("{} {why:?}", key.0[0]),
            FromServer::PeerPresent { key, addr, flags } => {
                format!("{} at {} {flags}", key.0[0], addr.unwrap())
            }
            other => format!("{other:?}"),
        });
        rest = &rest[used..];
    }
    all
}

#[test]
fn the_last_connection_that_speaks_is_the_active_one() {
    let mut stage = Stage::new();
    let (a, b) = (stage.join(1, false), stage.join(1, false));
    assert!(stage.is_at(&b) && b.is_active() && !a.is_active());
    stage.actor.on(Message::Spoke(a.clone()));
    assert!(stage.is_at(&a) && a.is_active() && !b.is_active());
    // The active one leaves, the other one takes over; nobody is told.
    let c = stage.join(3, false);
    stage.leave(&a, &[3]);
    assert!(stage.is_at(&b));
    assert_eq!(told(&c), [""; 0]);
    stage.leave(&b, &[]);
    assert!(stage.table.get(&b.key).is_none());
    // What either of them has sent counts.
    assert_eq!(told(&c), ["1 Disconnected"]);
    // One that is gone already changes nothing.
    stage.leave(&b, &[3]);
    stage.actor.on(Message::Spoke(b));
    assert_eq!(told(&c), [""; 0]);
    assert_eq!(stage.table.len(), 1);
}

#[test]
fn a_key_has_so_many_connections_and_no_more() {
    let mut stage = Stage::new();
    let peers: Vec<_> = (0..SAME_KEY + 1).map(|_| stage.join(1, false)).collect();
    assert!(peers[0].mailbox.is_closed());
    assert!(peers[1..].iter().all(|peer| !peer.mailbox.is_closed()));
}

#[test]
fn other_servers_are_told_who_is_there() {
    let mut stage = Stage::new();
    let first = stage.join(1, false);
    let watcher = stage.join(9, true);
    stage.actor.on(Message::Watch(watcher.clone()));
    let mut seen = told(&watcher);
    seen.sort();
    assert_eq!(seen, ["1 at 10.0.0.1:1000 1", "9 at 10.0.0.9:1000 2"]);
    let second = stage.join(2, false);
    stage.leave(&first, &[]);
    assert_eq!(told(&watcher), ["2 at 10.0.0.2:1000 1", "1 Disconnected"]);
    stage.actor.on(Message::Close(second.key));
    assert!(second.mailbox.is_closed());
    stage.actor.on(Message::Distrust);
    assert!(watcher.mailbox.is_closed());
    stage.leave(&watcher, &[]);
    stage.leave(&second, &[]);
    assert_eq!(told(&watcher), [""; 0]);
}

#[test]
fn clients_of_other_servers_are_reached_through_them() {
    let mut stage = Stage::new();
    let ours = stage.join(1, false);
    let (key, one, two) = (Key([5; 32]), Arc::<Mailbox>::default(), Arc::<Mailbox>::default());
    let via = |link: &Arc<Mailbox>| Message::Via { key, link: link.clone() };
    let is_via = |stage: &Stage, link: &Arc<Mailbox>| matches!(stage.table.get(&key), Some(Route::Via(at)) if Arc::ptr_eq(&at, link));
    stage.actor.on(via(&one));
    stage.actor.on(via(&two));
    stage.actor.on(via(&one));
    assert!(is_via(&stage, &one));
    stage.actor.on(Message::Heard { from: key, to: ours.key });
    stage.actor.on(Message::Lost { key, link: one.clone() });
    assert!(is_via(&stage, &two));
    // A connection of our own comes first.
    let here = stage.join(5, false);
    assert!(stage.is_at(&here));
    stage.leave(&here, &[]);
    assert!(is_via(&stage, &two));
    assert_eq!(told(&ours), [""; 0]);
    stage.actor.on(Message::LinkDown(two.clone()));
    assert!(stage.table.get(&key).is_none());
    assert_eq!(told(&ours), ["5 Disconnected"]);
    // Of strangers nothing is kept.
    stage.actor.on(Message::Heard { from: key, to: ours.key });
    assert!(stage.actor.sent_by.is_empty());
}

#[test]
fn when_the_actor_fails_all_connections_end() {
    let mut stage = Stage::new();
    let peer = stage.join(1, false);
    let dead = stage.actor.dead.clone();
    drop(stage);
    assert!(dead.is_cancelled() && peer.mailbox.is_closed());
}

proptest! {
    /// Whatever comes in whatever order: a key is in the table exactly if somebody has it, one of its connections is
    /// active, and nothing is remembered of who is gone.
    #[test]
    fn the_table_is_true(steps in prop::collection::vec((0..9u8, 0..4u8, 0..8usize), 0..60)) {
        let mut stage = Stage::new();
        let mut here: Vec<Arc<Peer>> = Vec::new();
        let links: [Arc<Mailbox>; 2] = Default::default();
        let mut linked: Vec<(u8, usize)> = Vec::new();
        for (what, key, pick) in steps {
            let (of, which) = (Key([key; 32]), pick % 2);
            let link = links[which].clone();
            match what {
                0 | 1 => here.push(stage.join(key, pick % 3 == 0)),
                2 if !here.is_empty() => {
                    let peer = here.remove(pick % here.len());
                    stage.leave(&peer, &[0, 1, 2, 3]);
                }
                3 if !here.is_empty() => {
                    stage.actor.on(Message::Spoke(here[pick % here.len()].clone()));
                }
                4 => {
                    stage.actor.on(Message::Via { key: of, link });
                    linked.push((key, which));
                }
                5 => {
                    stage.actor.on(Message::Lost { key: of, link });
                    linked.retain(|entry| *entry != (key, which));
                }
                6 => {
                    stage.actor.on(Message::LinkDown(link));
                    linked.retain(|(_, other)| *other != which);
                }
                7 => stage.actor.on(Message::Heard { from: of, to: Key([0; 32]) }),
                8 if !here.is_empty() => {
                    stage.actor.on(Message::Watch(here[pick % here.len()].clone()));
                }
                _ => {}
            }
            for key in 0..4u8 {
                let same: Vec<_> = here.iter().filter(|peer| peer.key.0[0] == key).collect();
                let active = same.iter().filter(|peer| peer.is_active()).count();
                let is_linked = linked.iter().any(|(other, _)| *other == key);
                match stage.table.get(&Key([key; 32])) {
                    Some(Route::Local(peer)) => {
                        prop_assert!(peer.is_active() && active == 1);
                        prop_assert!(same.iter().any(|other| Arc::ptr_eq(other, &peer)));
                    }
                    Some(Route::Via(_)) => prop_assert!(is_linked && same.is_empty()),
                    None => {
                        prop_assert!(!is_linked && same.is_empty());
                        prop_assert!(!stage.actor.sent_by.contains_key(&Key([key; 32])));
                    }
                }
            }
        }
    }
}
