//! TLS at the client and at the server, from the options of the dialect.
