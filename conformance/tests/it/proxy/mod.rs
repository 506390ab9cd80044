//! The main job on real traffic: every inbound and outbound of the base set, by curl and by our
//! own clients, alone, chained with the reference, and compared with it.

mod by_curl;
mod carried_h2;
mod carried_probes;
mod carried_ws;
mod chained;
mod compared;
mod late;
pub(crate) mod mihomo;
mod multiplexed;
mod raw;
mod sealed;
mod shadowsocks_more;
mod skewed;
mod stage;
mod suites;
mod trojan_mux;
mod vless;
mod vmess;
