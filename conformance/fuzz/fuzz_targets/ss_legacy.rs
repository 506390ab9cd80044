//! Datagrams of old stream ciphers, which nothing authenticates: any bytes reach the address behind the salt.
#![no_main]

use crosspoint_proxy::shadowsocks::{
    datagram,
    legacy::Way,
    method::{MasterKey, Method},
};
use libfuzzer_sys::fuzz_target;

const METHODS: [&str; 5] = ["aes-128-ctr", "aes-256-cfb", "rc4-md5", "chacha20-ietf", "xchacha20"];

fn key(name: &str) -> MasterKey {
    Method::named(name).expect("a method").key("secret", "").expect("a key")
}

fuzz_target!(|data: &[u8]| {
    let Some((&pick, rest)) = data.split_first() else { return };
    let key = key(METHODS[usize::from(pick >> 1) % METHODS.len()]);
    let mut packet = rest.to_vec();
    if pick & 1 == 1 && packet.len() > key.method.salt_len() {
        // What lies behind the cipher.
        let (salt, bytes) = packet.split_at_mut(key.method.salt_len());
        let mut cipher = key.stream(salt, Way::Out).expect("a salt of that length");
        cipher.apply(bytes).expect("few bytes");
    }
    if let Ok((payload, _)) = datagram::open_stream(&key, &mut packet) {
        assert!(payload.end == packet.len() && payload.start <= payload.end);
    }
});
