//! Fresh instances of one component: on request, and for those that cannot run beside their successor.

use std::time::Duration;

use ractor::{ActorRef, RpcReplyPort};

use super::{ComponentId, Message, Planned, State, Warm, warm};
use crate::{component::Claims, slot::Health, supervise::child::clear};

/// How an exchange went.
pub(in crate::supervise) struct Exchanged {
    id: ComponentId,
    attempt: u64,
    result: Result<Warm, (String, Option<Warm>)>,
    reply: RpcReplyPort<Result<(), String>>,
}

impl State {
    /// A fresh instance of one component, because somebody asked for it.
    pub(super) fn restart(
        &mut self,
        me: &ActorRef<Message>,
        id: ComponentId,
        reply: RpcReplyPort<Result<u64, String>>,
    ) {
        let Some(child) = self.children.get_mut(&id) else {
            let _ = reply.send(Err(format!("no component {id}")));
            return;
        };
        let planned = child.planned.clone();
        let mut held = Claims::default();
        planned.spec.claims(&mut held);
        if child.live.is_some() && held.0.iter().any(|claim| !claim.lendable()) {
            let me = me.clone();
            tokio::spawn(async move {
                let done = me.call(|port| Message::Exchange(planned, port), None).await;
                let answer = match done {
                    Ok(ractor::rpc::CallResult::Success(result)) => result.map(|()| 0),
                    _ => Err("the supervisor did not answer".to_owned()),
                };
                let _ = reply.send(answer);
            });
            return;
        }
        child.attempt += 1;
        let attempt = child.attempt;
        let Some(start) = self.warm(me, &id) else { return };
        let me = me.clone();
        tokio::spawn(async move {
            let result = start.await.map(Box::new);
            let _ = me.cast(Message::Restarted(id, attempt, result, reply));
        });
    }

    /// Replaces an instance whose claims cannot be shared: it stops first, and comes back when the new one cannot start.
    pub(super) fn exchange(
        &mut self,
        me: &ActorRef<Message>,
        planned: Planned,
        reply: RpcReplyPort<Result<(), String>>,
    ) {
        let id = planned.id.clone();
        let Some(child) = self.children.get_mut(&id) else {
            let _ = reply.send(Err(format!("no component {id}")));
            return;
        };
        child.attempt += 1;
        let attempt = child.attempt;
        let fallback = std::mem::replace(&mut child.planned, planned.clone());
        let old = child.live.take();
        let epoch = self.epochs.get(&id).copied().unwrap_or(0) + 1;
        let (plane, me) = (self.plane.clone(), me.clone());
        let names = plane.snapshot.load().names.clone();
        let deadline = self.settings.supervision.start_deadline;
        let spared = self.spared(Some(&id));
        clear(&fallback, &names, Health::Starting);
        tokio::spawn(async move {
            if let Some(old) = old {
                old.cancel.cancel();
                let _ = old.actor.stop_and_wait(None, Some(Duration::from_secs(5))).await;
                drop(old);
                plane.vault.sweep(|key| spared.contains(&key.addr));
            }
            let start = |planned, epoch| {
                warm(me.get_cell(), plane.clone(), names.clone(), planned, epoch, deadline)
            };
            let result = match start(planned, epoch).await {
                Ok(warm) => Ok(warm),
                Err(why) => Err((why, start(fallback, epoch).await.ok())),
            };
            let _ = me.cast(Message::Exchanged(Box::new(Exchanged { id, attempt, result, reply })));
        });
    }

    /// Puts the result of [`Self::exchange`] in force.
    pub(super) fn exchanged(&mut self, me: &ActorRef<Message>, done: Exchanged) {
        let Exchanged { id, attempt, result, reply } = done;
        let answer = match (self.current(&id, attempt), result) {
            (true, Ok(warm)) => {
                self.resume(me, warm);
                Ok(())
            }
            (true, Err((why, Some(old)))) => {
                self.resume(me, old);
                Err(format!("{why} (the previous options are in force again)"))
            }
            (true, Err((why, None))) => {
                self.fail(me, &id, why.clone());
                Err(why)
            }
            (false, Ok(warm) | Err((_, Some(warm)))) => {
                warm.discard();
                Err("the component changed meanwhile".to_owned())
            }
            (false, Err((why, None))) => Err(why),
        };
        let _ = reply.send(answer);
    }
}
