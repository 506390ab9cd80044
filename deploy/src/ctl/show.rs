//! Answers as people read them.

use crosspoint_api::protocol::{ConnectionsReply, GroupsReply, ReloadReply, StatusReply};

use super::table::table;
use crate::words::{age, bytes};

pub(super) fn status(reply: &StatusReply) -> String {
    let head = format!(
        "crosspoint {}  pid {}  up {}  generation {}\n{} connections  {} listening sockets  {} from clients  {} to clients\n\n",
        reply.version,
        reply.pid,
        age(reply.uptime_ms),
        reply.generation,
        reply.connections,
        reply.sockets,
        bytes(reply.up),
        bytes(reply.down),
    );
    let rows: Vec<_> = reply
        .components
        .iter()
        .map(|c| {
            [
                format!("{}/{}", c.kind, c.tag),
                c.type_name.clone(),
                c.state.clone(),
                c.epoch.to_string(),
                c.restarts.to_string(),
                c.last_error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    head + &table(["COMPONENT", "TYPE", "STATE", "EPOCH", "RESTARTS", "LAST ERROR"], &rows)
}

pub(super) fn reload(reply: &ReloadReply) -> String {
    let mut text = match (&reply.error, reply.committed) {
        (Some(why), _) => {
            format!("refused, generation {} serves on: {why}\n", reply.generation)
        }
        (None, true) => format!("generation {} is in force\n", reply.generation),
        (None, false) => format!("nothing done, generation {} serves on\n", reply.generation),
    };
    if !reply.changed.is_empty() {
        text.push_str(&format!("changed: {}\n", reply.changed.join(", ")));
    }
    let kept = reply.components.iter().filter(|c| c.outcome == "kept").count();
    if kept > 0 {
        text.push_str(&format!("kept: {kept} components\n"));
    }
    let rows: Vec<_> = reply
        .components
        .iter()
        .filter(|c| c.outcome != "kept")
        .map(|c| {
            [
                format!("{}/{}", c.kind, c.tag),
                c.outcome.clone(),
                c.error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(["COMPONENT", "OUTCOME", "WHY"], &rows));
    }
    text
}

pub(super) fn connections(reply: &ConnectionsReply) -> String {
    let rows: Vec<_> = reply
        .connections
        .iter()
        .map(|c| {
            [
                c.id.to_string(),
                c.network.clone(),
                c.inbound.clone(),
                c.source.clone(),
                c.target.clone(),
                c.outbounds.join(" > "),
                c.user.clone().unwrap_or_default(),
                age(c.age_ms),
                bytes(c.up),
                bytes(c.down),
            ]
        })
        .collect();
    table(
        ["ID", "NET", "INBOUND", "SOURCE", "TARGET", "OUTBOUND", "USER", "AGE", "UP", "DOWN"],
        &rows,
    )
}

pub(super) fn groups(reply: &GroupsReply) -> String {
    let rows: Vec<_> = reply
        .groups
        .iter()
        .map(|group| {
            [
                group.tag.clone(),
                group.type_name.clone(),
                group.selected.clone().unwrap_or_default(),
                group.members.join(", "),
            ]
        })
        .collect();
    table(["GROUP", "TYPE", "USES", "MEMBERS"], &rows)
}
