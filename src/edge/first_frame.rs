//! The first message of a WebSocket, read within bounds and without a byte of what follows it.
//!
//! tungstenite speaks the protocol. It reads ahead and keeps what it has read, so it is never shown more than the
//! frame that it is in: [`Socket`] hands the client's bytes over up to the next frame's beginning and keeps the rest
//! for the tunnel. What a client may send before it is known is bounded in bytes, frames' headers included, and
//! by the caller in time: a frame of nothing, sent for ever, is no way to stay.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use crate::model::problem::{FieldError, Problem};
use crate::upstream::frames::Frames;

/// Bytes read from the client at once.
const CHUNK: usize = 4096;
/// The longest payload of a control frame (RFC 6455 section 5.5).
const CONTROL: usize = 125;
/// How much may be sent for each byte that the message may have: its fragments' headers, and pings. A message in
/// pieces of one byte needs seven.
const OVERHEAD: usize = 8;

/// A client's WebSocket until its first message has been answered.
pub type FirstFrames<S> = WebSocketStream<Socket<S>>;

/// What came first.
#[derive(Debug, PartialEq, Eq)]
pub enum First {
    /// A text.
    Message(Utf8Bytes),
    /// Something else, or too much.
    Refused(Problem),
    /// The end.
    Gone,
}

/// A client's stream, frame by frame while the first message is read and as it comes after that.
#[derive(Debug)]
pub struct Socket<S> {
    stream: S,
    buffer: Box<[u8]>,
    /// What of the buffer was read and not handed over yet.
    ahead: Range<usize>,
    /// Of what was handed over.
    frames: Frames,
    /// Bytes that may still be handed over before the first message is whole; `None`: it is.
    left: Option<usize>,
}

/// Speaks WebSocket with a client that has been answered 101.
pub async fn speak<S: AsyncRead + AsyncWrite + Unpin>(stream: S, max_message: usize) -> FirstFrames<S> {
    let left = Some(max_message.saturating_add(CONTROL).saturating_mul(OVERHEAD));
    let socket = Socket { stream, buffer: vec![0; CHUNK].into(), ahead: 0..0, frames: Frames::default(), left };
    let config = WebSocketConfig::default()
        .read_buffer_size(CHUNK)
        .write_buffer_size(0)
        .max_write_buffer_size(64 * 1024)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message.max(CONTROL)));
    WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await
}

/// Reads the first message; pings are answered, fragments joined, a close is returned. Bound it by a timeout.
pub async fn first<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut FirstFrames<S>) -> First {
    let refused = |message: &str| First::Refused(Problem::InvalidRequest(vec![FieldError::new("", message)]));
    loop {
        return match socket.next().await {
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Text(text))) => First::Message(text),
            Some(Ok(Message::Binary(_))) => refused("must be a text message"),
            Some(Ok(Message::Close(_))) => {
                // The answer to it is queued.
                let _ = socket.flush().await;
                First::Gone
            }
            Some(Err(Error::Capacity(_))) => First::Refused(Problem::PayloadTooLarge),
            Some(Err(Error::Utf8(_))) => refused("must be text in UTF-8"),
            Some(Err(Error::Io(_))) if socket.get_ref().left == Some(0) => First::Refused(Problem::PayloadTooLarge),
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => First::Gone,
            Some(Err(Error::Protocol(_))) => {
                First::Refused(Problem::MalformedRequest("these are no WebSocket frames of a client"))
            }
            Some(Err(_)) | None => First::Gone,
        };
    }
}

impl<S> Socket<S> {
    /// From here on everything is handed over as it comes, first what was read ahead.
    #[must_use]
    pub fn open(mut self) -> Self {
        self.left = None;
        self
    }

    /// Where in a frame the client's stream stands.
    pub const fn frames(&self) -> Frames {
        self.frames
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, buffer, ahead, frames, left } = self.get_mut();
        if ahead.start == ahead.end {
            if left.is_none() {
                return Pin::new(stream).poll_read(cx, into);
            }
            let mut read = ReadBuf::new(buffer);
            ready!(Pin::new(stream).poll_read(cx, &mut read))?;
            *ahead = 0..read.filled().len();
        }
        let mut piece = &buffer[ahead.clone()];
        piece = &piece[..piece.len().min(into.remaining())];
        if let Some(left) = left {
            if *left == 0 && !piece.is_empty() {
                return Poll::Ready(Err(io::Error::other("too much before the first message")));
            }
            piece = &piece[..piece.len().min(*left)];
            piece = &piece[..frames.next(piece)];
            *left -= piece.len();
        }
        into.put_slice(piece);
        ahead.start += piece.len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;
    use tokio_tungstenite::tungstenite::WebSocket;
    use tokio_tungstenite::tungstenite::protocol::frame::Frame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

    use super::*;

    const MOST: usize = 256;

    /// Frames as a client sends them.
    fn sent(messages: impl IntoIterator<Item = Message>) -> Vec<u8> {
        let mut socket = WebSocket::from_raw_socket(Cursor::new(Vec::new()), Role::Client, None);
        messages.into_iter().for_each(|message| socket.send(message).unwrap());
        socket.into_inner().into_inner()
    }

    fn piece(text: &str, first: bool, last: bool) -> Message {
        let data = if first { Data::Text } else { Data::Continue };
        Message::Frame(Frame::message(text.to_owned(), OpCode::Data(data), last))
    }

    /// What is read first of these bytes, and what of them is left for the tunnel.
    async fn read(bytes: &[u8]) -> (First, Vec<u8>) {
        let stream = tokio::io::join(Cursor::new(bytes.to_vec()), Vec::new());
        let mut socket = speak(stream, MOST).await;
        let came = first(&mut socket).await;
        let mut rest = Vec::new();
        socket.into_inner().open().read_to_end(&mut rest).await.unwrap();
        (came, rest)
    }

    fn too_large() -> First {
        First::Refused(Problem::PayloadTooLarge)
    }

    #[tokio::test]
    async fn a_message_is_read_and_nothing_of_what_follows() {
        let behind = b"\x82\x05not a frame of ours";
        let bytes = [&sent([Message::text("hello")])[..], behind].concat();
        assert_eq!(read(&bytes).await, (First::Message("hello".into()), behind.to_vec()));
    }

    #[tokio::test]
    async fn pings_and_fragments_come_before_a_message_is_whole() {
        let frames = [
            Message::Ping("a".into()),
            piece("he", true, false),
            Message::Ping("b".into()),
            piece("", false, false),
            Message::Pong("c".into()),
            piece("llo", false, true),
        ];
        assert_eq!(read(&sent(frames)).await, (First::Message("hello".into()), Vec::new()));
    }

    #[tokio::test]
    async fn the_longest_message_passes_whole_or_in_pieces_of_a_byte_and_a_longer_one_does_not() {
        let fits = "x".repeat(MOST);
        assert_eq!(read(&sent([Message::text(fits.clone())])).await.0, First::Message(fits.clone().into()));
        assert_eq!(read(&sent([Message::text(format!("{fits}x"))])).await.0, too_large());
        let pieces = |count: usize| sent((0..count).map(|at| piece("x", at == 0, at == count - 1)));
        assert_eq!(read(&pieces(MOST)).await.0, First::Message(fits.into()));
        assert_eq!(read(&pieces(MOST + 1)).await.0, too_large());
    }

    #[tokio::test]
    async fn frames_of_nothing_come_to_an_end() {
        let empty = (0..10_000).map(|at| piece("", at == 0, false));
        assert_eq!(read(&sent(empty)).await.0, too_large());
        assert_eq!(read(&sent((0..10_000).map(|_| Message::Ping("".into())))).await.0, too_large());
    }

    #[tokio::test]
    async fn what_is_no_text_of_a_client_is_refused() {
        let masked = sent([Message::text("hello")]);
        let mut unmasked = WebSocket::from_raw_socket(Cursor::new(Vec::new()), Role::Server, None);
        unmasked.send(Message::text("hello")).unwrap();
        let reserved = [&[masked[0] | 0x40], &masked[1..]].concat();
        let huge = [0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4];
        let unending = piece("hello", false, true);
        for bytes in [
            sent([Message::binary("hello")]),
            sent([Message::Frame(Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true))]),
            unmasked.into_inner().into_inner(),
            reserved,
            huge.to_vec(),
            sent([unending]),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        ] {
            let (came, _) = read(&bytes).await;
            assert!(matches!(came, First::Refused(_)), "{bytes:?}: {came:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_gone() {
        for bytes in [sent([Message::Close(None)]), sent([Message::text("hello")])[..7].to_vec(), Vec::new()] {
            assert_eq!(read(&bytes).await.0, First::Gone, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_something(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (came, rest) = runtime.block_on(read(&bytes));
            prop_assert!(rest.len() <= bytes.len());
            if let First::Message(text) = came {
                prop_assert!(text.len() <= MOST);
            }
        }
    }
}
