//! Where a WebSocket's frames begin and end (RFC 6455 section 5.2), without a look at what they carry.
//!
//! Bytes that pass through a tunnel are shown to a [`Frames`], which reads the headers and skips the payloads.
//! So whoever has to end the tunnel knows where a frame of our own, the close, can stand. It judges nothing:
//! what is no frame goes on to the peer, who will say so; only the close is then left out.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::WebSocket;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, FrameHeader, Utf8Bytes};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// The longest header of a frame, in bytes.
const LONGEST: usize = 14;

/// Follows the frames of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames {
    /// A header that has begun.
    head: [u8; LONGEST],
    /// Bytes of it that are there.
    known: usize,
    /// Bytes of payload still to come.
    left: u64,
    closing: bool,
    lost: bool,
}

impl Frames {
    /// Takes bytes up to the next place between two frames, and tells how many those are: all, where the last of
    /// them is not past its frame's end.
    pub fn next(&mut self, bytes: &[u8]) -> usize {
        if self.lost || bytes.is_empty() {
            return bytes.len();
        }
        let header = if self.left > 0 { Some(0) } else { self.header(bytes) };
        let Some(header) = header else { return bytes.len() };
        let here = bytes.len() - header;
        let body = usize::try_from(self.left).map_or(here, |left| left.min(here));
        self.left -= body as u64;
        header + body
    }

    /// Takes all of them.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.next(bytes);
            bytes = &bytes[taken..];
        }
    }

    /// Whether the next byte begins a frame.
    pub const fn is_between(&self) -> bool {
        !self.lost && self.known == 0 && self.left == 0
    }

    /// Whether a close frame has come, or begun to.
    pub const fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether what came is not made of frames.
    pub const fn is_lost(&self) -> bool {
        self.lost
    }

    /// Reads a header; how many of these bytes belong to it, `None` while it is not whole or can be none.
    fn header(&mut self, bytes: &[u8]) -> Option<usize> {
        let more = bytes.len().min(LONGEST - self.known);
        self.head[self.known..self.known + more].copy_from_slice(&bytes[..more]);
        let mut cursor = Cursor::new(&self.head[..self.known + more]);
        match FrameHeader::parse(&mut cursor) {
            Ok(Some((header, length))) => {
                let whole = usize::try_from(cursor.position()).unwrap_or(LONGEST);
                let taken = whole - self.known;
                self.known = 0;
                self.left = length;
                self.closing |= header.opcode == OpCode::Control(Control::Close);
                Some(taken)
            }
            Ok(None) => {
                self.known += more;
                None
            }
            Err(_) => {
                self.lost = true;
                None
            }
        }
    }
}

/// A close frame as bytes: masked where it is from a client's end (RFC 6455 section 5.3). `reason` is for people,
/// 123 bytes at most.
pub fn close(from: Role, code: u16, reason: &'static str) -> Vec<u8> {
    let config = WebSocketConfig::default().read_buffer_size(0);
    let mut socket = WebSocket::from_raw_socket(Cursor::new(Vec::new()), from, Some(config));
    let frame = CloseFrame { code: CloseCode::from(code), reason: Utf8Bytes::from_static(reason) };
    // Writing to memory: there is nobody who could refuse it.
    let _ = socket.close(Some(frame));
    socket.into_inner().into_inner()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::Message;

    use super::*;

    /// Messages as a client or a server writes them, and where each frame ends.
    fn written(role: Role, messages: &[Message]) -> (Vec<u8>, Vec<usize>) {
        let mut socket = WebSocket::from_raw_socket(Cursor::new(Vec::new()), role, None);
        let mut ends = Vec::new();
        for message in messages {
            socket.send(message.clone()).unwrap();
            ends.push(socket.get_ref().get_ref().len());
        }
        (socket.into_inner().into_inner(), ends)
    }

    fn messages(lengths: &[usize]) -> Vec<Message> {
        lengths.iter().map(|length| Message::binary(vec![0x81; *length])).collect()
    }

    #[test]
    fn every_end_of_a_frame_is_found_and_no_other() {
        for role in [Role::Client, Role::Server] {
            let (bytes, ends) = written(role, &messages(&[0, 1, 125, 126, 65_535, 65_536, 3]));
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for (at, byte) in bytes.iter().enumerate() {
                assert_eq!(frames.next(&[*byte]), 1);
                if frames.is_between() {
                    found.push(at + 1);
                }
            }
            assert_eq!(found, ends);
            assert!(!frames.is_closing() && !frames.is_lost());
        }
    }

    #[test]
    fn a_length_beyond_any_message_is_a_frame_that_does_not_end() {
        let mut frames = Frames::default();
        let header = [0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(frames.next(&[&header[..], &[0; 100]].concat()), 110);
        assert!(!frames.is_between());
    }

    #[test]
    fn what_is_no_frame_is_passed_on_and_has_no_ends() {
        // The opcodes 3 to 7 and 11 to 15 are reserved; `G` is a 7.
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], &[0x83, 0, 0x81, 0], &[0x81, 0, 0x8b, 0]] {
            let mut frames = Frames::default();
            frames.pass(bytes);
            assert!(frames.is_lost() && !frames.is_between(), "{bytes:?}");
            assert_eq!(frames.next(&[0x81, 0, 0x81]), 3);
        }
    }

    #[test]
    fn a_close_is_seen_and_is_what_the_other_end_reads() {
        for (from, to) in [(Role::Server, Role::Client), (Role::Client, Role::Server)] {
            let bytes = close(from, 1008, "access ended");
            let mut frames = Frames::default();
            frames.pass(&bytes);
            assert!(frames.is_closing() && frames.is_between());
            let mut peer = WebSocket::from_raw_socket(Cursor::new(bytes), to, None);
            let Message::Close(Some(frame)) = peer.read().unwrap() else { panic!("no close frame") };
            assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1008, "access ended"));
        }
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_ends_are_the_same(
            lengths in prop::collection::vec(0_usize..300, 1..8),
            cuts in prop::collection::vec(1_usize..200, 1..40),
        ) {
            let (bytes, ends) = written(Role::Client, &messages(&lengths));
            let mut frames = Frames::default();
            let mut found = Vec::new();
            let mut at = 0;
            for cut in cuts.iter().cycle() {
                let piece = &bytes[at..bytes.len().min(at + cut)];
                let mut taken = 0;
                while taken < piece.len() {
                    taken += frames.next(&piece[taken..]);
                    if frames.is_between() {
                        found.push(at + taken);
                    }
                }
                at += piece.len();
                if at == bytes.len() {
                    break;
                }
            }
            prop_assert_eq!(found, ends);
        }

        #[test]
        fn any_bytes_are_taken_whole(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut frames = Frames::default();
            let mut taken = 0;
            while taken < bytes.len() {
                let step = frames.next(&bytes[taken..]);
                prop_assert!(step > 0 && taken + step <= bytes.len());
                taken += step;
            }
        }
    }
}
