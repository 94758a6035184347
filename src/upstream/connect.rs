//! Making a connection: name, TCP, TLS, HTTP/1.1.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::body::Body;
use super::endpoint::{Endpoint, Live, Slot};
use super::error::SendError;

/// What hyper may buffer per connection and direction: also the longest head a backend may send.
const BUFFER: usize = 64 * 1024;

/// Where a server is.
pub(super) struct Origin {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Origin {
    pub(super) fn new(uri: &Uri, tls: Option<&Arc<ClientConfig>>) -> Result<Self, SendError> {
        let bad = |why: &str| SendError::Connect { server: uri.to_string(), source: io::Error::other(why) };
        let host = uri.host().ok_or_else(|| bad("the server has no host"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let (port, tls) = match uri.scheme_str() {
            Some("http") => (80, None),
            Some("https") => {
                let config = tls.ok_or_else(|| bad("no TLS settings for https servers"))?;
                let name = ServerName::try_from(host.clone()).map_err(|_| bad("the host is not a name TLS knows"))?;
                (443, Some((TlsConnector::from(Arc::clone(config)), name)))
            }
            _ => return Err(bad("servers are http:// or https://")),
        };
        Ok(Self { uri: uri.clone(), host, port: uri.port_u16().unwrap_or(port), tls })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, authority) = (self.uri.scheme_str(), self.uri.authority());
        write!(f, "{}://{}", scheme.unwrap_or_default(), authority.map_or("", |authority| authority.as_str()))
    }
}

/// Makes a connection and sets it to run.
pub(super) async fn connect(endpoint: &Endpoint, slot: Slot, timeout: Duration) -> Result<Live, SendError> {
    let server = || endpoint.origin.to_string();
    match tokio::time::timeout(timeout, dial(endpoint, slot)).await {
        Ok(Ok(live)) => Ok(live),
        Ok(Err(source)) => Err(SendError::Connect { server: server(), source }),
        Err(_) => Err(SendError::ConnectTimeout { server: server() }),
    }
}

async fn dial(endpoint: &Endpoint, slot: Slot) -> io::Result<Live> {
    let origin = &endpoint.origin;
    let stream = TcpStream::connect((origin.host.as_str(), origin.port)).await?;
    stream.set_nodelay(true)?;
    match &origin.tls {
        None => run(endpoint, slot, stream).await,
        Some((connector, name)) => run(endpoint, slot, connector.connect(name.clone(), stream).await?).await,
    }
}

async fn run<T>(endpoint: &Endpoint, slot: Slot, stream: T) -> io::Result<Live>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    // One flat write measured cheaper than gathering the pieces.
    builder.writev(false).max_buf_size(BUFFER);
    let handshake = builder.handshake::<_, Body>(TokioIo::new(stream));
    let (sender, connection) = handshake.await.map_err(io::Error::other)?;
    let slot = Arc::new(slot);
    let held = Arc::clone(&slot);
    let task = endpoint.tasks.spawn(async move {
        // Whoever has the request in flight is told; an idle connection may end however it likes.
        let _ended = connection.with_upgrades().await;
        drop(held);
    });
    Ok(Live::new(sender, task.abort_handle(), slot))
}
