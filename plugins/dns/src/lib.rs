//! DNS servers: local and hosts.
