//! What each request does.

use std::{sync::atomic::Ordering, time::Duration};

use crosspoint_kernel::{
    component::Group,
    ledger::Entry,
    relay,
    slot::Instance,
    supervise::{ComponentId, ComponentStatus, Handle, ReloadReport, Status},
};
use tracing::info;

use crate::{
    Control,
    protocol::{
        Call, ComponentInfo, ComponentOutcome, ConnectionInfo, ConnectionsReply, CountReply,
        GroupInfo, GroupsReply, ReloadReply, Response, RestartReply, StatusReply,
    },
};

/// How long an answer waits for the disk.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// What follows an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Nothing,
    /// The process ends.
    Quit,
}

/// Carries out a request.
pub(crate) async fn handle(control: &Control, call: Call) -> (Response, After) {
    let Some(handle) = control.handle() else {
        return (Response::refused("the daemon is starting"), After::Nothing);
    };
    if let Call::Drain { timeout_ms } = call {
        info!("draining at the request of a control client");
        let closed = handle.drain(Duration::from_millis(timeout_ms)).await;
        return (Response::done(CountReply { closed }), After::Quit);
    }
    let answer = match call {
        Call::Status => match handle.status().await {
            Ok(status) => Ok(Response::done(status_reply(control, handle, status))),
            Err(gone) => Err(gone.to_string()),
        },
        Call::Reload => match handle.reload().await {
            Ok(report) => Ok(reload(report)),
            Err(gone) => Err(gone.to_string()),
        },
        Call::Restart { component } => restart(handle, &component).await,
        Call::Connections => Ok(Response::done(connections(handle))),
        Call::Close { id } if handle.close(id) => Ok(Response::done(CountReply { closed: 1 })),
        Call::Close { id } => Err(format!("no connection {id}")),
        Call::Groups => Ok(Response::done(GroupsReply { groups: groups(handle) })),
        Call::Select { group, member } => {
            let answer = select(handle, &group, &member);
            // Who is told that it is done may pull the plug.
            let flush = handle.plane().state().flush();
            let _ = tokio::time::timeout(FLUSH_DEADLINE, flush).await;
            answer
        }
        // Answered above.
        Call::Drain { .. } => Err("drain".to_owned()),
    };
    (answer.unwrap_or_else(Response::refused), After::Nothing)
}

fn status_reply(control: &Control, handle: &Handle, status: Status) -> StatusReply {
    let (up, down) = handle.plane().ledger.totals();
    StatusReply {
        version: control.version().to_owned(),
        pid: std::process::id(),
        uptime_ms: millis(status.uptime),
        generation: status.generation,
        connections: status.connections,
        sockets: status.sockets,
        up,
        down,
        spliced: relay::stats().spliced_bytes,
        components: status.components.into_iter().map(component).collect(),
    }
}

fn component(status: ComponentStatus) -> ComponentInfo {
    ComponentInfo {
        kind: status.id.kind.name().to_owned(),
        type_name: status.type_name.to_owned(),
        tag: status.id.tag.to_string(),
        state: status.state.as_str().to_owned(),
        epoch: status.epoch,
        restarts: status.restarts,
        last_error: status.last_error,
    }
}

fn reload(report: ReloadReport) -> Response {
    let outcome =
        |(id, outcome, error): (ComponentId, crosspoint_kernel::supervise::Outcome, _)| {
            ComponentOutcome {
                kind: id.kind.name().to_owned(),
                tag: id.tag.to_string(),
                outcome: outcome.as_str().to_owned(),
                error,
            }
        };
    let reply = ReloadReply {
        generation: report.generation,
        committed: report.committed,
        error: report.error.clone(),
        components: report.components.into_iter().map(outcome).collect(),
        changed: report.changed.into_iter().map(str::to_owned).collect(),
    };
    Response { ok: reply.committed, error: report.error, ..Response::done(reply) }
}

async fn restart(handle: &Handle, name: &str) -> Result<Response, String> {
    let id = ComponentId::parse(name)
        .ok_or_else(|| format!("{name:?} names no component: write KIND/TAG, e.g. inbound/in"))?;
    let epoch = handle.restart(id).await?;
    Ok(Response::done(RestartReply { epoch }))
}

fn connections(handle: &Handle) -> ConnectionsReply {
    let mut connections: Vec<_> =
        handle.plane().ledger.list().iter().map(|entry| connection(entry)).collect();
    connections.sort_by_key(|connection| connection.id);
    ConnectionsReply { connections }
}

fn connection(entry: &Entry) -> ConnectionInfo {
    ConnectionInfo {
        id: entry.id,
        network: entry.network.to_string(),
        inbound: entry.inbound.to_string(),
        source: entry.source.to_string(),
        target: entry.target.to_string(),
        user: entry.user.as_deref().map(str::to_owned),
        outbounds: entry.hops().iter().map(ToString::to_string).collect(),
        age_ms: millis(entry.started.elapsed()),
        up: entry.up.load(Ordering::Relaxed),
        down: entry.down.load(Ordering::Relaxed),
        spliced: entry.spliced.load(Ordering::Relaxed),
    }
}

fn groups(handle: &Handle) -> Vec<GroupInfo> {
    let names = handle.plane().snapshot.load().names.clone();
    let instances = names.outbounds.values().filter_map(|slot| slot.now());
    let mut groups: Vec<_> = instances
        .filter_map(|instance| instance.face.group().map(|group| describe(&instance, group)))
        .collect();
    groups.sort_by(|a, b| a.tag.cmp(&b.tag));
    groups
}

fn describe<T: ?Sized>(instance: &Instance<T>, group: &dyn Group) -> GroupInfo {
    GroupInfo {
        tag: instance.life.tag.to_string(),
        type_name: instance.life.type_name.to_owned(),
        selected: group.selected().map(|tag| tag.to_string()),
        members: group.members().iter().map(ToString::to_string).collect(),
    }
}

fn select(handle: &Handle, tag: &str, member: &str) -> Result<Response, String> {
    let names = handle.plane().snapshot.load().names.clone();
    let slot = names.outbounds.get(tag).ok_or_else(|| format!("no outbound {tag:?}"))?;
    let instance = slot.now().ok_or_else(|| format!("outbound {tag:?} is down"))?;
    let group = instance.face.group().ok_or_else(|| format!("outbound {tag:?} is no group"))?;
    if !group.members().iter().any(|known| **known == *member) {
        return Err(format!("group {tag:?} has no member {member:?}"));
    }
    if !group.select(member) {
        return Err(format!("group {tag:?} chooses by itself"));
    }
    info!(component = %instance.life, "control client chose [{member}]");
    Ok(Response::done(describe(&instance, group)))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
