//! mux.cool with a single connection in it, as `v2ray-plugin` has it around a WebSocket.
//!
//! A frame is: length of its head (2 bytes); connection (2), status, options, and for a new connection network, port,
//! address; then, where the options say so, the length of the payload (2) and the payload. Source: the description of
//! mux.cool at v2fly.org; the destination is that of sing-vmess `protocol.go`, and no server looks at it.

use super::codec::{Codec, CodecError, Step};

const NEW: u8 = 1;
const KEEP: u8 = 2;
const END: u8 = 3;
const KEEP_ALIVE: u8 = 4;

/// There is payload.
const HAS_DATA: u8 = 1;
/// Something went wrong.
const FAILED: u8 = 2;

/// Longest payload of a frame that is made.
const MOST: usize = 8 * 1024;

/// Longest head of a frame that is read.
const HEAD: usize = 512;

const DESTINATION: &[u8] = b"v1.mux.cool";
const PORT: u16 = 666;

/// See the module.
#[derive(Debug, Default)]
pub struct Mux {
    opened: bool,
    /// Payload that is left of the frame at hand.
    left: usize,
}

impl Codec for Mux {
    fn wrap(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        for part in payload.chunks(MOST) {
            let mut head = vec![0, 0, KEEP, HAS_DATA];
            if !std::mem::replace(&mut self.opened, true) {
                head[2] = NEW;
                // TCP, and the name of the destination.
                head.push(1);
                head.extend(PORT.to_be_bytes());
                head.extend([2, DESTINATION.len() as u8]);
                head.extend(DESTINATION);
            }
            out.extend((head.len() as u16).to_be_bytes());
            out.extend(head);
            out.extend((part.len() as u16).to_be_bytes());
            out.extend(part);
        }
    }

    fn unwrap(&mut self, bytes: &[u8]) -> Result<Step, CodecError> {
        if self.left > 0 {
            let len = self.left.min(bytes.len());
            self.left -= len;
            return Ok(if len == 0 { Step::Need(1) } else { Step::Payload(len) });
        }
        let Some(&[high, low, ..]) = bytes.first_chunk::<6>() else { return Ok(Step::Need(6)) };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if !(4..=HEAD).contains(&len) {
            return Err(CodecError("bad length of a mux frame"));
        }
        let Some(head) = bytes.get(2..2 + len) else { return Ok(Step::Need(2 + len)) };
        let (status, options) = (head[2], head[3]);
        match status {
            KEEP | KEEP_ALIVE => {}
            END => return Ok(Step::End),
            _ => return Err(CodecError("unexpected mux frame")),
        }
        if options & FAILED != 0 {
            return Err(CodecError("the connection was closed by the server"));
        }
        if options & HAS_DATA == 0 {
            return Ok(Step::Skip(2 + len));
        }
        let Some(&[high, low]) = bytes.get(2 + len..).and_then(|rest| rest.first_chunk::<2>())
        else {
            return Ok(Step::Need(4 + len));
        };
        self.left = usize::from(u16::from_be_bytes([high, low]));
        Ok(Step::Skip(4 + len))
    }

    fn half_closes(&self) -> bool {
        // A frame that ends the connection ends both directions at the server.
        false
    }
}
