//! A stream on which the server speaks only when it was spoken to.
//!
//! SMTP goes by turns (no PIPELINING here). Whoever sits on the wire can append answers of their own to the one to
//! STARTTLS; a client that reads ahead would find them after the handshake, and believe them to have come through it
//! (RFC 3207 section 6; CVE-2011-0411 and its kin). So this hands out one line at a time, and refuses to write while
//! something that was read has not been asked for. Once a TLS record is written the stream is TLS's own, which has
//! turns of its own kind.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The first byte of a TLS handshake record (RFC 8446 section 5.1); no command begins with it.
const HANDSHAKE: u8 = 22;

/// The stream; everything but bytes passes through.
#[derive(Debug)]
pub(super) struct Lockstep {
    stream: TcpStream,
    /// Read and not handed out yet: `ahead[at..]`.
    ahead: Vec<u8>,
    at: usize,
    /// TLS has begun.
    open: bool,
}

impl Lockstep {
    pub fn new(stream: TcpStream) -> Self {
        // Short turns: waiting to fill a segment only costs time. Without it everything still works.
        let _slower = stream.set_nodelay(true);
        Self { stream, ahead: Vec::new(), at: 0, open: false }
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
        let rest = &this.ahead[this.at..];
        let line = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let given = line.min(into.remaining());
        into.put_slice(&rest[..given]);
        this.at += given;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lockstep {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.open {
            if this.has_unasked() {
                let error = io::Error::new(io::ErrorKind::InvalidData, "the server answered before it was asked");
                return Poll::Ready(Err(error));
            }
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

impl AsyncTokioStream for Lockstep {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }
}
