//! A thousand random configurations of real components on one daemon: what did not change keeps its
//! epoch, and descriptors and memory return to where they were.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use crosspoint_conformance::ports;
use serde_json::{Value, json};

use super::stage::Daemon;

const RELOADS: usize = 1000;

/// How many components of a kind there can be.
const SLOTS: [(&str, u64); 3] = [("inbound", 6), ("outbound", 8), ("dns", 3)];

/// A generator that needs no crate (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Components by kind and tag, as they stand in the configuration.
type World = BTreeMap<(&'static str, String), Value>;

/// A component of that slot with random options; a slot may change its type.
fn component(random: &mut Random, kind: &str, slot: u64, ports: &[u16]) -> Value {
    let level = random.below(3);
    let tag = format!("{kind}{slot}");
    match kind {
        "inbound" => {
            let kinds = ["mixed", "socks", "http", "direct"];
            let mut value = json!({
                "type": kinds[random.below(4) as usize], "tag": tag, "listen": "127.0.0.1",
                "listen_port": ports[slot as usize],
            });
            if value["type"] == "direct" {
                value["override_port"] = json!(1 + level);
                value["override_address"] = json!("127.0.0.1");
            } else if level > 0 {
                value["users"] = json!([{ "username": "u", "password": format!("p{level}") }]);
            }
            value
        }
        "outbound" => match random.below(5) {
            0 => {
                json!({ "type": "direct", "tag": tag, "connect_timeout": format!("{}s", 1 + level) })
            }
            1 => {
                json!({ "type": "socks", "tag": tag, "server": "127.0.0.1", "server_port": 1 + level })
            }
            2 => {
                json!({ "type": "http", "tag": tag, "server": "127.0.0.1", "server_port": 1 + level })
            }
            3 => {
                json!({ "type": "selector", "tag": tag, "outbounds": ["base"], "interrupt_exist_connections": level == 1 })
            }
            _ => {
                json!({ "type": "urltest", "tag": tag, "outbounds": ["base"], "url": "http://127.0.0.1:1/", "tolerance": 10 + level })
            }
        },
        _ => match random.below(2) {
            0 => json!({ "type": "local", "tag": tag }),
            _ => {
                json!({ "type": "hosts", "tag": tag, "predefined": { "a.test": format!("127.0.0.{}", 1 + level) } })
            }
        },
    }
}

fn config(world: &World, round: u64) -> Value {
    let of = |wanted: &str| -> Vec<Value> {
        world
            .iter()
            .filter(|((kind, _), _)| *kind == wanted)
            .map(|(_, value)| value.clone())
            .collect()
    };
    let mut outbounds = vec![json!({ "type": "direct", "tag": "base" })];
    outbounds.extend(of("outbound"));
    let mut servers = vec![json!({ "type": "local", "tag": "first" })];
    servers.extend(of("dns"));
    json!({
        "log": { "level": "error" },
        "inbounds": of("inbound"),
        "outbounds": outbounds,
        "dns": { "servers": servers },
        "route": {
            "rules": [{ "domain": format!("r{}.test", round % 5), "action": "reject" }],
            "final": "base"
        },
        // Drained quickly, so that the end of the test sees the end of every old instance.
        "crosspoint": { "drain_timeout": "1s" }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_random_reloads_leave_nothing_behind() -> Result<()> {
    let ports: [u16; 6] = ports::many();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut world = World::new();
    let daemon = Daemon::start(&config(&world, 0)).await?;
    // The first reloads fill pools and caches that stay, and the first listener takes the descriptor that is kept
    // for a time without any.
    for round in 0..20u64 {
        if round.is_multiple_of(2) {
            for (kind, slots) in SLOTS {
                for slot in 0..slots {
                    let value = component(&mut random, kind, slot, &ports);
                    world.insert((kind, format!("{kind}{slot}")), value);
                }
            }
        } else {
            world.clear();
        }
        daemon.reload_ok(&config(&world, round)).await?;
    }
    let (fds, rss) = (daemon.idle_descriptors().await?, daemon.running.rss());
    let mut known: BTreeMap<(String, String), (Option<Value>, u64)> = BTreeMap::new();
    for round in 0..RELOADS as u64 {
        for _ in 0..random.below(4) {
            let (kind, slots) = SLOTS[random.below(3) as usize];
            let slot = random.below(slots);
            let key = (kind, format!("{kind}{slot}"));
            if random.one_in(3) {
                world.remove(&key);
            } else {
                let value = component(&mut random, kind, slot, &ports);
                world.insert(key, value);
            }
        }
        daemon.reload_ok(&config(&world, round)).await?;
        let mut seen = BTreeMap::new();
        for row in daemon.status().await?.components {
            if row.state == "draining" {
                continue;
            }
            ensure!(row.state == "up" && row.restarts == 0, "reload {round}: {row:?}");
            let value = world.iter().find(|((kind, tag), _)| *kind == row.kind && *tag == row.tag);
            let value = value.map(|(_, value)| value.clone());
            let key = (row.kind.clone(), row.tag.clone());
            if let Some((before, epoch)) = known.get(&key)
                && *before == value
            {
                ensure!(row.epoch == *epoch, "reload {round}: unchanged, yet {row:?} was {epoch}");
            }
            seen.insert(key, (value, row.epoch));
        }
        // Beside the world: an outbound and a DNS server that stay, the control socket, the network.
        ensure!(world.len() + 4 == seen.len(), "reload {round}: {seen:?}");
        known = seen;
    }
    world.clear();
    daemon.reload_ok(&config(&world, 0)).await?;
    let left = daemon.idle_descriptors().await?;
    ensure!(left == fds, "{left:#?} are open, not {fds:#?}");
    let grown = daemon.running.rss().saturating_sub(rss);
    ensure!(grown < 8 << 20, "memory grew by {grown} bytes in {RELOADS} reloads");
    println!(
        "{RELOADS} random reloads: memory grew by {} kB, {} descriptors as before",
        grown >> 10,
        fds.len()
    );
    Ok(())
}
