//! The TLS handshake: by whose rules it is made, and what it came to.
//!
//! Where no site asks for clients' certificates it is rustls's and nothing else. Where one does, the name that the
//! client asks for is read first (SNI; without one, the address that it came to), and the handshake is made under what
//! the site of that name asks. The name is the client's own word: whether a request may pass on a connection that was
//! made so is asked again for the site that the request is for ([`super::certificate`]).

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::CertificateError as Bad;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::certificate::Vouched;
use crate::gateway::{Gateway, Live};
use crate::observe::metrics::labels::Handshake;
use crate::tls::Server;
use crate::tls::clients::{Shown, Unreadable};

/// How long a client whose certificate was refused has to read so, and how many bytes of what it still sends are
/// thrown away meanwhile.
const LINGER: Duration = Duration::from_secs(1);
const WASTE: usize = 64 * 1024;

/// Both ends of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The client's address.
    pub client: IpAddr,
    /// The address that it came to.
    pub local: Option<IpAddr>,
}

/// A stream, and what vouches for the client where its site asks for that. Boxed: it is more than a kilobyte, and each future
/// that it is handed through would hold the room for it as long as the connection lasts.
pub type Made<S> = (Box<TlsStream<S>>, Option<Box<Vouched>>);

/// Makes the handshake.
pub async fn shake<S: AsyncRead + AsyncWrite + Unpin>(
    gateway: &Gateway,
    server: &Server,
    socket: S,
    ends: Ends,
) -> Result<Made<S>, Handshake> {
    let live = gateway.live();
    if !live.asks_clients {
        drop(live);
        return plain(TlsAcceptor::from(Arc::clone(&server.config)).accept(socket)).await;
    }
    // Apart: it is the larger future by far, and most gateways have no use for it.
    Box::pin(asking(live, server, socket, ends)).await
}

async fn plain<S>(handshake: tokio_rustls::Accept<S>) -> Result<Made<S>, Handshake>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    handshake.await.map(|stream| (Box::new(stream), None)).map_err(|_| Handshake::Failed)
}

async fn asking<S: AsyncRead + AsyncWrite + Unpin>(
    live: Arc<Live>,
    server: &Server,
    socket: S,
    ends: Ends,
) -> Result<Made<S>, Handshake> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await.map_err(|_| Handshake::Failed)?;
    let site = match start.client_hello().server_name() {
        Some(name) => live.site(name),
        None => ends.local.and_then(|local| live.site(&host(local))),
    };
    let asked =
        site.and_then(|live| Some((live.site.name.clone(), Arc::clone(live.site.client_certificates.as_ref()?))));
    drop(live);
    let Some((site, policy)) = asked else { return plain(start.into_stream(Arc::clone(&server.config))).await };
    let refused = |outcome: Handshake, reason: &dyn std::fmt::Display| {
        tracing::info!(client = %ends.client, site, outcome = outcome.name(), %reason, "a client's certificate was refused");
        outcome
    };
    match start.into_stream(server.under(&policy)).into_fallible().await {
        Ok(stream) => {
            let shown = shown(&stream).map_err(|unreadable| refused(Handshake::CertificateRefused, &unreadable))?;
            Ok((Box::new(stream), Some(Box::new(Vouched { policy, shown }))))
        }
        Err((error, socket)) => {
            let outcome = outcome(&error);
            if outcome != Handshake::Failed {
                refused(outcome, &error);
                linger(socket).await;
            }
            Err(outcome)
        }
    }
}

/// An address as it stands among a site's hosts.
fn host(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

fn shown<S>(stream: &TlsStream<S>) -> Result<Option<Shown>, Unreadable> {
    let (_, session) = stream.get_ref();
    session.peer_certificates().and_then(<[_]>::first).map(|leaf| Shown::read(leaf)).transpose()
}

/// What a failed handshake failed at.
fn outcome(error: &io::Error) -> Handshake {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref()) else { return Handshake::Failed };
    match error {
        rustls::Error::NoCertificatesPresented => Handshake::CertificateMissing,
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => Handshake::CertificateUnknown,
            Bad::Expired | Bad::ExpiredContext { .. } | Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                Handshake::CertificateExpired
            }
            Bad::Revoked => Handshake::CertificateRevoked,
            Bad::UnknownRevocationStatus | Bad::ExpiredRevocationList | Bad::ExpiredRevocationListContext { .. } => {
                Handshake::CertificateUndecided
            }
            _ => Handshake::CertificateRefused,
        },
        rustls::Error::InvalidCertRevocationList(_) => Handshake::CertificateUndecided,
        _ => Handshake::Failed,
    }
}

/// Lets the client read the alert. Most have sent a request behind their certificate: to close with that unread would
/// reset the connection, and what was said with it.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut socket: S) {
    let reading = async {
        let _ = socket.shutdown().await;
        let (mut waste, mut left) = ([0; 1024], WASTE);
        while let Ok(read @ 1..) = socket.read(&mut waste).await {
            left = left.saturating_sub(read);
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER, reading).await;
}
