//! A SOCKS client's first bytes, at once and byte by byte: the server must see the same both times.
#![no_main]

use crosspoint_base::socks::wire::{Handshake, MAX_HANDSHAKE, ServerError, Step};
use crosspoint_base::users::Users;
use libfuzzer_sys::fuzz_target;

type End = Option<Result<(usize, String), ServerError>>;

/// Feeds `input` in pieces. The end, and all that was answered.
fn run(input: &[u8], piece: usize, users: Option<&Users>) -> (End, Vec<u8>) {
    let (mut handshake, mut buffer, mut used_before, mut answers) =
        (Handshake::new(), Vec::new(), 0, Vec::new());
    for bytes in input.chunks(piece.max(1)) {
        buffer.extend_from_slice(bytes);
        let end = match handshake.advance(&buffer, users) {
            Ok(Step::More { used }) => {
                buffer.drain(..used);
                used_before += used;
                assert!(buffer.len() < MAX_HANDSHAKE, "a full buffer makes no progress");
                None
            }
            Ok(Step::Done { used, request }) => {
                Some(Ok((used_before + used, format!("{request:?}"))))
            }
            Err(error) => Some(Err(error)),
        };
        answers.extend_from_slice(handshake.pending());
        handshake.written();
        if end.is_some() {
            return (end, answers);
        }
    }
    (None, answers)
}

fuzz_target!(|input: &[u8]| {
    let Some((pick, input)) = input.split_first() else {
        return;
    };
    let users = Users::new([("user", "secret"), ("four", "")]);
    let users = users.as_ref().filter(|_| pick & 1 != 0);
    assert_eq!(run(input, input.len(), users), run(input, 1, users));
});
