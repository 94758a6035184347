//! Making a connection: name, TCP or a socket's path, TLS, and the protocol on it.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::task::TaskTracker;

use super::ahead::{Ahead, Heard};
use super::body::Body;
use super::endpoint::{Endpoint, Live, Slot};
use super::error::SendError;
use super::joint::Joint;
use super::reach::reach;
use super::settings::{Address, Protocol};
use super::tls::Trust;

/// What hyper may buffer per HTTP/1.1 connection and direction: also the longest head a backend may send.
const BUFFER: usize = 64 * 1024;
/// The longest head of an HTTP/2 answer.
const HEAD: u32 = 64 * 1024;
/// What a backend may send ahead on one stream. The connection's window holds as much for every stream, so that
/// clients who do not read never hold up the others.
const WINDOW: u32 = 256 * 1024;
/// How often a busy HTTP/2 connection is asked whether it is still there, and how long it has to say so.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_WITHIN: Duration = Duration::from_secs(5);

/// Where a server is and what it is spoken to in.
pub(super) struct Origin {
    pub(super) address: Address,
    /// The address as text, made once.
    pub(super) text: Arc<str>,
    pub(super) protocol: Protocol,
    place: Place,
    tls: Option<Secured>,
}

enum Place {
    Tcp { host: String, port: u16 },
    Unix,
}

struct Secured {
    /// As the protocol asks for it.
    usual: TlsConnector,
    /// Where the connection has to be HTTP/1.1.
    http1: TlsConnector,
    name: ServerName<'static>,
}

/// How long each step of connecting may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    pub(super) tcp: Duration,
    pub(super) tls: Duration,
}

/// A connection that was made.
pub(super) enum Made {
    /// For one request at a time.
    Alone(Box<Live>),
    /// For many.
    Joint(Arc<Joint>),
}

impl Origin {
    pub(super) fn new(
        address: &Address,
        protocol: Protocol,
        trust: Option<&Arc<Trust>>,
        usual: Option<&Arc<ClientConfig>>,
    ) -> Result<Self, SendError> {
        let text: Arc<str> = address.to_string().into();
        let bad = |why: &str| SendError::Connect { server: address.to_string(), source: io::Error::other(why) };
        let uri = match address {
            Address::Unix(_) => {
                return Ok(Self { address: address.clone(), text, protocol, place: Place::Unix, tls: None });
            }
            Address::Url(uri) => uri,
        };
        let host = uri.host().ok_or_else(|| bad("the server has no host"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let (port, tls) = match uri.scheme_str() {
            Some("http") => (80, None),
            Some("https") => {
                let config = trust.map(|trust| &trust.config).or(usual.map(|config| &**config));
                let config = config.ok_or_else(|| bad("no TLS settings for https servers"))?;
                let own = || ServerName::try_from(host.clone()).map_err(|_| bad("the host is not a name TLS knows"));
                let name = trust.and_then(|trust| trust.name.clone()).map_or_else(own, Ok)?;
                let offering = |protocols: &[&[u8]]| {
                    let mut config = config.clone();
                    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
                    TlsConnector::from(Arc::new(config))
                };
                let usual = offering(match protocol {
                    Protocol::Http1 => &[b"http/1.1"],
                    Protocol::Http2 => &[b"h2"],
                    Protocol::Auto => &[b"h2", b"http/1.1"],
                });
                (443, Some(Secured { usual, http1: offering(&[b"http/1.1"]), name }))
            }
            _ => return Err(bad("servers are http://, https:// or unix:")),
        };
        let place = Place::Tcp { host, port: uri.port_u16().unwrap_or(port) };
        Ok(Self { address: address.clone(), text, protocol, place, tls })
    }

    /// Whether a connection to it may turn out to carry many requests at once.
    pub(super) const fn may_join(&self) -> bool {
        match self.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Auto => self.tls.is_some(),
        }
    }

    /// What stands as the host of a request of our own; `port` in place of the server's.
    pub(super) fn authority(&self, port: Option<u16>) -> String {
        match (&self.address, port) {
            (Address::Unix(_), _) => "localhost".to_owned(),
            (Address::Url(uri), None) => uri.authority().map_or_else(String::new, ToString::to_string),
            (Address::Url(uri), Some(port)) => format!("{}:{port}", uri.host().unwrap_or_default()),
        }
    }

    /// What stands as `:scheme`.
    pub(super) const fn scheme(&self) -> http::uri::Scheme {
        if self.tls.is_some() { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP }
    }
}

/// A stream to a server, on which nothing was said yet.
pub(super) struct Dialled {
    pub(super) stream: Stream,
    /// Whether HTTP/2 is what is spoken on it.
    pub(super) joint: bool,
}

pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Makes a connection and sets it to run; `alone`: one that carries one request at a time. The caller holds `slot` as well,
/// until it has told others how this ended.
pub(super) async fn connect(
    endpoint: &Endpoint,
    slot: Arc<Slot>,
    alone: bool,
    steps: Steps,
) -> Result<Made, SendError> {
    let origin = &endpoint.origin;
    let Dialled { stream, joint } = dial(origin, None, alone, steps).await?;
    let made = match stream {
        Stream::Tcp(stream) => begin(endpoint, slot, stream, joint).await,
        Stream::Unix(stream) => begin(endpoint, slot, stream, joint).await,
        Stream::Tls(stream) => begin(endpoint, slot, *stream, joint).await,
    };
    made.map_err(|source| SendError::Connect { server: origin.address.to_string(), source })
}

/// Connects, and agrees on TLS and the protocol; `port` in place of the server's own.
pub(super) async fn dial(origin: &Origin, port: Option<u16>, alone: bool, steps: Steps) -> Result<Dialled, SendError> {
    let server = || origin.address.to_string();
    let dialled = async {
        match (&origin.place, &origin.address) {
            (Place::Tcp { host, port: own }, _) => {
                let stream = reach(host, port.unwrap_or(*own), steps.tcp).await?;
                stream.set_nodelay(true)?;
                Ok(Wire::Tcp(stream))
            }
            (Place::Unix, Address::Unix(path)) => UnixStream::connect(path).await.map(Wire::Unix),
            (Place::Unix, Address::Url(_)) => Err(io::Error::other("a URL is no socket's path")),
        }
    };
    let wire = match tokio::time::timeout(steps.tcp, dialled).await {
        Ok(Ok(wire)) => wire,
        Ok(Err(source)) => return Err(SendError::Connect { server: server(), source }),
        Err(_) => return Err(SendError::ConnectTimeout { server: server() }),
    };
    let plain = origin.may_join() && !alone;
    match (wire, &origin.tls) {
        (Wire::Unix(stream), _) => Ok(Dialled { stream: Stream::Unix(stream), joint: plain }),
        (Wire::Tcp(stream), None) => Ok(Dialled { stream: Stream::Tcp(stream), joint: plain }),
        (Wire::Tcp(stream), Some(tls)) => {
            let connector = if alone { &tls.http1 } else { &tls.usual };
            let secured = match tokio::time::timeout(steps.tls, connector.connect(tls.name.clone(), stream)).await {
                Ok(Ok(secured)) => secured,
                Ok(Err(source)) => return Err(SendError::Tls { server: server(), source }),
                Err(_) => return Err(SendError::TlsTimeout { server: server() }),
            };
            let chose_h2 = secured.get_ref().1.alpn_protocol() == Some(b"h2");
            if origin.protocol == Protocol::Http2 && !chose_h2 {
                let source = io::Error::other("it does not speak HTTP/2 (ALPN chose something else)");
                return Err(SendError::Tls { server: server(), source });
            }
            Ok(Dialled { stream: Stream::Tls(Box::new(secured)), joint: chose_h2 })
        }
    }
}

enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn begin<T>(endpoint: &Endpoint, slot: Arc<Slot>, stream: T, joint: bool) -> io::Result<Made>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if joint {
        return begin_http2(endpoint, slot, stream).await.map(Made::Joint);
    }
    let mut builder = http1::Builder::new();
    // One flat write measured cheaper than gathering the pieces.
    builder.writev(false).max_buf_size(BUFFER);
    let ahead = Ahead::new();
    let handshake = builder.handshake::<_, Body>(TokioIo::new(Heard::new(stream, Arc::clone(&ahead))));
    let (sender, connection) = handshake.await.map_err(io::Error::other)?;
    let held = Arc::clone(&slot);
    let task = endpoint.tasks.spawn(async move {
        // Whoever has the request in flight is told; an idle connection may end however it likes.
        let _ended = connection.with_upgrades().await;
        drop(held);
    });
    Ok(Made::Alone(Box::new(Live::new(sender, task.abort_handle(), slot, ahead))))
}

async fn begin_http2<T>(endpoint: &Endpoint, slot: Arc<Slot>, stream: T) -> io::Result<Arc<Joint>>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let most = u32::try_from(endpoint.max_streams).unwrap_or(u32::MAX);
    let mut builder = http2::Builder::new(Tracked(endpoint.tasks.clone()));
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW.saturating_mul(most.max(1)).min(i32::MAX as u32))
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN);
    let (sender, connection) = builder.handshake::<_, Body>(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let held = Arc::clone(&slot);
    let allowed = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
    let heard = Arc::new(Notify::new());
    let joint = Arc::new(Joint::new(sender, Arc::clone(&allowed), Arc::clone(&heard), slot));
    endpoint.tasks.spawn(async move {
        let mut connection = pin!(connection);
        let mut settled = pin!(heard.notified());
        let mut waits = true;
        let _ended = poll_fn(|cx| {
            // Woken by it once; from then on every request that begins looks again.
            waits = waits && settled.as_mut().poll(cx).is_pending();
            let polled = connection.as_mut().poll(cx);
            allowed.store(connection.current_max_send_streams(), Ordering::Relaxed);
            polled
        })
        .await;
        drop(held);
    });
    Ok(joint)
}

/// Runs the tasks of an HTTP/2 connection where they are awaited when the pools close.
#[derive(Clone)]
pub(super) struct Tracked(pub(super) TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}
