//! HTTP/2 as bytes: frames as a hostile client writes them, with no library between to make them good.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Client, Stream};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const PRIORITY: u8 = 2;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags: of DATA and HEADERS, of HEADERS.
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// How long the other side may be silent.
const PATIENCE: Duration = Duration::from_secs(5);

/// One frame (RFC 9113 section 4.1).
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// How a stream, or all of them, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// An answer with this status.
    Status(u16),
    /// `RST_STREAM` with this code.
    Reset(u32),
    /// `GOAWAY` with this code.
    Gone(u32),
    /// The connection was closed.
    Closed,
    /// Nothing for a while.
    Silence,
}

/// A connection.
pub struct Raw {
    stream: Stream,
    read: Vec<u8>,
}

impl Raw {
    /// Connected, with the preface and no settings of our own said.
    pub async fn open(client: &Client) -> Self {
        let mut raw = Self { stream: client.stream(&[b"h2"]).await, read: Vec::new() };
        raw.bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        raw.send(SETTINGS, 0, 0, &[]).await;
        raw
    }

    /// Says these bytes; `false`: nobody takes them any more.
    pub async fn bytes(&mut self, bytes: &[u8]) -> bool {
        let said = async { self.stream.write_all(bytes).await.is_ok() && self.stream.flush().await.is_ok() };
        tokio::time::timeout(PATIENCE, said).await.unwrap_or(false)
    }

    /// Says one frame.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> bool {
        self.bytes(&frame(kind, flags, stream, payload)).await
    }

    /// Says as much of these bytes as is taken within `patience`, again and again for at most `rounds`; how often they
    /// were taken, and whether the other side has closed by then.
    pub async fn pour(
        &mut self,
        mut bytes: impl FnMut(u32) -> Vec<u8>,
        rounds: u32,
        patience: Duration,
    ) -> (u32, bool) {
        for round in 0..rounds {
            let bytes = bytes(round);
            let said = async { self.stream.write_all(&bytes).await.is_ok() && self.stream.flush().await.is_ok() };
            match tokio::time::timeout(patience, said).await {
                Ok(true) => {}
                Ok(false) => return (round, true),
                Err(_) => return (round, false),
            }
        }
        (rounds, false)
    }

    /// The next frame; `None`: the connection is closed.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((length, kind, stream)) = self.read.first_chunk().map(header)
                && self.read.len() >= 9 + length
            {
                let payload = self.read[9..9 + length].to_vec();
                self.read.drain(..9 + length);
                return Some(Frame { kind, stream, payload });
            }
            if !matches!(self.stream.read_buf(&mut self.read).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// What becomes of `stream`, or of everything.
    pub async fn told(&mut self, stream: u32) -> Told {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let Some(frame) = self.next().await else { return Told::Closed };
                let code = |at: usize| {
                    frame
                        .payload
                        .get(at..at + 4)
                        .map_or(u32::MAX, |four| u32::from_be_bytes(four.try_into().expect("four bytes")))
                };
                match frame.kind {
                    HEADERS if frame.stream == stream => return Told::Status(status(&frame.payload)),
                    RST_STREAM if frame.stream == stream => return Told::Reset(code(0)),
                    GOAWAY => return Told::Gone(code(4)),
                    _ => {}
                }
            }
        });
        waited.await.unwrap_or(Told::Silence)
    }
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A field block of literals that no table remembers (RFC 7541 section 6.2.2), so that anything at all can stand in it.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            // Text stands for bytes here: U+0080 to U+00FF is one byte each.
            let text: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect();
            integer(&mut bytes, text.len());
            bytes.extend_from_slice(&text);
        }
    }
    bytes
}

/// A length in seven bits and as many more as it takes (RFC 7541 section 5.1).
fn integer(bytes: &mut Vec<u8>, number: usize) {
    let low = |number: usize| u8::try_from(number & 0x7f).expect("seven bits");
    let Some(mut rest) = number.checked_sub(127) else { return bytes.push(low(number)) };
    bytes.push(127);
    while rest >= 128 {
        bytes.push(low(rest) | 0x80);
        rest >>= 7;
    }
    bytes.push(low(rest));
}

fn header(nine: &[u8; 9]) -> (usize, u8, u32) {
    let length = usize::from(nine[0]) << 16 | usize::from(nine[1]) << 8 | usize::from(nine[2]);
    (length, nine[3], u32::from_be_bytes([nine[5] & 0x7f, nine[6], nine[7], nine[8]]))
}

/// The `:status` of a field block that begins with it: indexed, or a literal under its indexed name (RFC 7541 section 6
/// and appendix A), its digits plain or in Huffman's code (appendix B).
fn status(block: &[u8]) -> u16 {
    let block = if block.first() == Some(&0x20) { &block[1..] } else { block };
    let indexed = [200, 204, 206, 304, 400, 404, 500];
    match block {
        [first @ 0x88..=0x8e, ..] => indexed[usize::from(first - 0x88)],
        [0x08 | 0x48, 3, digits @ ..] => digits[..3].iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0')),
        [0x08 | 0x48, length, code @ ..] if length & 0x80 != 0 => {
            let code = &code[..usize::from(length & 0x7f)];
            let bits = code.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
            let mut left = code.len() * 8;
            let mut take = |count: usize| {
                left -= count;
                (bits >> left) & ((1 << count) - 1)
            };
            let mut number = 0;
            for _ in 0..3 {
                let five = take(5);
                // 0, 1 and 2 have five bits, the others six: 25 is 3.
                let digit = if five < 3 { five } else { (five << 1 | take(1)) - 25 + 3 };
                number = number * 10 + u16::try_from(digit).expect("a digit");
            }
            number
        }
        _ => panic!("a field block that begins otherwise: {block:02x?}"),
    }
}
