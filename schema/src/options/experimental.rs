//! Cache, APIs and debugging.

use std::borrow::Cow;

use serde_json::json;

use crate::decode::{Cursor, Duration, Field, Listable, Secret};
use crate::json::Value;
use crate::json_schema::SchemaBuilder;
use crate::{ConfigError, options};

options! {
    /// Parts that the reference calls experimental.
    pub struct ExperimentalOptions ("option.ExperimentalOptions") {
        /// State that outlives a restart.
        pub cache_file: Option<CacheFileOptions> = "cache_file",
        /// The HTTP API of Clash.
        pub clash_api: Option<ClashApiOptions> = "clash_api",
        /// The gRPC statistics API of V2Ray.
        pub v2ray_api: Option<V2RayApiOptions> = "v2ray_api",
        /// Limits of the process and the debug server.
        pub debug: Option<DebugOptions> = "debug",
    }
}

options! {
    /// State that outlives a restart.
    pub struct CacheFileOptions ("option.CacheFileOptions") {
        /// Keep it.
        pub enabled: bool = "enabled",
        /// The file; `cache.db` by default.
        pub path: String = "path",
        /// Separates several configurations in one file.
        pub cache_id: String = "cache_id",
        /// Keep the addresses of FakeIP.
        pub store_fakeip: bool = "store_fakeip",
        /// Keep rejected DNS answers.
        pub store_rdrc: bool = "store_rdrc",
        /// How long a rejected DNS answer is kept; 7 days by default.
        pub rdrc_timeout: Duration = "rdrc_timeout",
    }
}

options! {
    /// The HTTP API of Clash.
    pub struct ClashApiOptions ("option.ClashAPIOptions") {
        /// Address to listen on; empty switches the API off.
        pub external_controller: String = "external_controller",
        /// Directory of a web interface.
        pub external_ui: String = "external_ui",
        /// Archive from which an empty directory is filled.
        pub external_ui_download_url: String = "external_ui_download_url",
        /// Outbound for that download.
        pub external_ui_download_detour: String = "external_ui_download_detour",
        /// Password of the API.
        pub secret: Secret = "secret",
        /// Mode at start; `Rule` by default.
        pub default_mode: String = "default_mode",
        /// Origins that may use the API; `*` by default.
        pub access_control_allow_origin: Listable<String> = "access_control_allow_origin",
        /// Let public web sites reach the API in the private network.
        pub access_control_allow_private_network: bool = "access_control_allow_private_network",
        /// Removed in 1.8.0: start fails when it is set.
        pub cache_file: String = "cache_file",
        /// Removed in 1.8.0: start fails when it is set.
        pub cache_id: String = "cache_id",
        /// Removed in 1.8.0: start fails when it is set.
        pub store_mode: bool = "store_mode",
        /// Removed in 1.8.0: start fails when it is set.
        pub store_selected: bool = "store_selected",
        /// Removed in 1.8.0: start fails when it is set.
        pub store_fakeip: bool = "store_fakeip",
    }
}

options! {
    /// The gRPC statistics API of V2Ray.
    pub struct V2RayApiOptions ("option.V2RayAPIOptions") {
        /// Address to listen on; empty switches the API off.
        pub listen: String = "listen",
        /// What is counted.
        pub stats: Option<V2RayStatsOptions> = "stats",
    }
}

options! {
    /// Traffic counters.
    pub struct V2RayStatsOptions ("option.V2RayStatsServiceOptions") {
        /// Count.
        pub enabled: bool = "enabled",
        /// Inbounds to count.
        pub inbounds: Vec<String> = "inbounds",
        /// Outbounds to count.
        pub outbounds: Vec<String> = "outbounds",
        /// Users to count.
        pub users: Vec<String> = "users",
    }
}

options! {
    /// Limits of the process and the debug server. Those that steer the Go runtime have no meaning here.
    pub struct DebugOptions ("option.DebugOptions") {
        /// Address of the debug server.
        pub listen: String = "listen",
        /// Garbage collection target of Go; accepted, without effect.
        pub gc_percent: Option<i64> = "gc_percent",
        /// Greatest stack of a goroutine; accepted, without effect.
        pub max_stack: Option<i64> = "max_stack",
        /// Most threads.
        pub max_threads: Option<i64> = "max_threads",
        /// Go's handling of memory faults; accepted, without effect.
        pub panic_on_fault: Option<bool> = "panic_on_fault",
        /// Go's detail of stack traces; accepted, without effect.
        pub trace_back: String = "trace_back",
        /// Memory to stay below.
        pub memory_limit: Option<MemoryBytes> = "memory_limit",
        /// Close connections when memory runs out.
        pub oom_killer: Option<bool> = "oom_killer",
    }
}

/// A number of bytes: an integer, or a string with a unit of powers of 1024 (`512 MB`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryBytes {
    /// Bytes.
    pub value: u64,
    /// The number and the unit as written; empty for a plain integer.
    text: String,
}

impl MemoryBytes {
    fn parse(text: &str) -> Result<Self, String> {
        let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(0);
        let (digits, unit) = text.split_at(end);
        if digits.is_empty() {
            return Err(format!("invalid format: {text}"));
        }
        let number: u64 =
            digits.parse().map_err(|_| format!("parse {digits}: value out of range"))?;
        let power = match unit.trim().to_ascii_lowercase().as_str() {
            "b" => 0,
            "k" | "kb" => 1,
            "m" | "mb" => 2,
            "g" | "gb" => 3,
            "t" | "tb" => 4,
            "p" | "pb" => 5,
            "e" | "eb" => 6,
            _ => return Err(format!("unsupported unit: {unit}")),
        };
        Ok(Self {
            value: number.saturating_mul(1 << (10 * power)),
            text: format!("{number}{unit}"),
        })
    }
}

impl Field for MemoryBytes {
    fn absent() -> Self {
        Self::default()
    }

    fn decode(cursor: &Cursor<'_>) -> Result<Self, ConfigError> {
        if let Value::Number(text) = &cursor.node().value
            && let Ok(value) = text.parse()
        {
            return Ok(Self { value, text: String::new() });
        }
        Self::parse(cursor.string()?).map_err(|message| cursor.error(message))
    }

    fn to_json(&self) -> serde_json::Value {
        if self.text.is_empty() { self.value.into() } else { self.text.as_str().into() }
    }

    fn go_type() -> Cow<'static, str> {
        "byteformats.MemoryBytes".into()
    }

    fn schema(_: &mut SchemaBuilder) -> serde_json::Value {
        json!({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "examples": ["512 MB"]}]})
    }
}
