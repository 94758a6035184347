//! A stream on which the server speaks only when it was spoken to.
//!
//! SMTP goes by turns (no PIPELINING here). Whoever sits on the wire can append answers of their own to the one to
//! STARTTLS; a client that reads ahead would find them after the handshake, and believe them to have come through it
//! (RFC 3207 section 6; CVE-2011-0411 and its kin). So this hands out one line at a time, and refuses to write while
//! something that was read has not been asked for. It also ends an answer that does not end: lettre reads a line
//! whole, however long it is. Once a TLS record is written the stream is TLS's own, which has turns of its own kind,
//! and at whose other end is the server that the operator chose.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The first byte of a TLS handshake record (RFC 8446 section 5.1); no command begins with it.
const HANDSHAKE: u8 = 22;
/// No answer is longer, with all its lines.
const LONGEST_ANSWER: usize = 16 * 1024;

/// The stream; everything but bytes passes through.
#[derive(Debug)]
pub(super) struct Lockstep {
    stream: TcpStream,
    /// Read and not handed out yet: `ahead[at..]`.
    ahead: Vec<u8>,
    at: usize,
    /// Handed out since the last time we spoke.
    heard: usize,
    /// TLS has begun.
    open: bool,
}

impl Lockstep {
    pub fn new(stream: TcpStream) -> Self {
        // Short turns: waiting to fill a segment only costs time. Without it everything still works.
        let _slower = stream.set_nodelay(true);
        Self { stream, ahead: Vec::new(), at: 0, heard: 0, open: false }
    }

    fn has_unasked(&self) -> bool {
        self.at < self.ahead.len()
    }
}

impl AsyncRead for Lockstep {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.open {
            return Pin::new(&mut this.stream).poll_read(cx, into);
        }
        if !this.has_unasked() {
            let mut scratch = [0; 2048];
            let mut fresh = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut fresh))?;
            this.ahead.clear();
            this.ahead.extend_from_slice(fresh.filled());
            this.at = 0;
        }
        if this.heard >= LONGEST_ANSWER {
            return Poll::Ready(Err(invalid("the server's answer does not end")));
        }
        let rest = &this.ahead[this.at..];
        let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let given = line.min(into.remaining());
        into.put_slice(&rest[..given]);
        this.at += given;
        this.heard += given;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lockstep {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.open {
            if this.has_unasked() {
                return Poll::Ready(Err(invalid("the server answered before it was asked")));
            }
            this.heard = 0;
            this.open = bytes.first() == Some(&HANDSHAKE);
        }
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl AsyncTokioStream for Lockstep {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}
