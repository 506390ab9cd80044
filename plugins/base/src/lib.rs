//! The protocols without cryptography: mixed, socks, http, direct, block, selector, urltest.
