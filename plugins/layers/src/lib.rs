//! What protocols are layered on: the HTTP client of the daemon.
