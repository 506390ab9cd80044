//! The option blocks that components share, and the sections of the root.

mod acme;
mod auth;
mod certificate;
mod crosspoint;
mod dial;
mod dns;
mod dns_action;
mod dns_codes;
mod dns_legacy;
mod dns_optimistic;
mod dns_record;
mod dns_rule;
mod dns_svcb;
mod domain_resolver;
mod experimental;
mod listen;
mod log;
mod multiplex;
mod ntp;
mod route;
mod rule;
mod rule_action;
mod rule_set;
mod server;
mod tls_in;
mod tls_out;
mod transport;
mod udp_over_tcp;

pub use acme::{AcmeAliDns, AcmeCloudflare, AcmeDns01, AcmeExternalAccount, AcmeOptions};
pub use auth::AuthUser;
pub use certificate::{CertificateOptions, CertificateStore};
pub use crosspoint::{CrosspointOptions, SupervisionOptions};
pub use dial::{DialOptions, InterfaceType, NetworkStrategy};
pub use dns::{DnsClientOptions, DnsOptions, LegacyFakeIpOptions};
pub use dns_action::{DnsPredefinedAction, DnsRouteAction, DnsRouteOptionsAction, DnsRuleAction};
pub use dns_codes::{QueryType, Rcode};
pub use dns_legacy::LegacyDnsServerOptions;
pub use dns_optimistic::{Optimistic, OptimisticOptions};
pub use dns_record::DnsRecord;
pub use dns_rule::{DefaultDnsRule, DnsRule, DnsRuleMatchers, LogicalDnsRule};
pub use domain_resolver::{DomainResolver, DomainResolverObject, DomainStrategy};
pub use experimental::{
    CacheFileOptions, ClashApiOptions, DebugOptions, ExperimentalOptions, MemoryBytes,
    V2RayApiOptions, V2RayStatsOptions,
};
pub use listen::{InboundLegacyOptions, ListenOptions};
pub use log::{LogLevel, LogOptions};
pub use multiplex::{BrutalOptions, MultiplexInOptions, MultiplexOutOptions};
pub use ntp::NtpOptions;
pub use route::{GeoDatabaseOptions, GeositeOptions, RouteOptions};
pub use rule::{DefaultRule, LOGICAL_MODES, LogicalRule, Rule, RuleMatchers};
pub use rule_action::{
    RejectAction, RejectMethod, ResolveAction, RouteAction, RouteOptionsAction, RuleAction,
    SniffAction,
};
pub use rule_set::{
    HeadlessMatchers, HeadlessRule, LocalRuleSet, LogicalHeadlessRule, PlainRuleSet, RemoteRuleSet,
    RuleSet, RuleSetFile, RuleSetFormat, RuleSetSource,
};
pub use server::{DnsAddressOptions, ServerOptions};
pub use tls_in::{EchInOptions, RealityHandshakeOptions, RealityInOptions, TlsInOptions};
pub use tls_out::{EchOutOptions, RealityOutOptions, TlsOutOptions, UtlsOptions};
pub use transport::{
    GrpcTransport, HttpTransport, HttpUpgradeTransport, QuicTransport, TransportOptions,
    WsTransport,
};
pub use udp_over_tcp::{UdpOverTcpObject, UdpOverTcpOptions};
