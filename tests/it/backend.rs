//! A real backend: an in-process hyper server on port 0 that answers with what it received.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What one request looked like when it reached the backend.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Seen {
    /// Every value of a header, as the backend saw it.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The one value of a header; `None` when there is not exactly one.
    pub fn one(&self, name: &str) -> Option<&str> {
        match self.all(name)[..] {
            [only] => Some(only),
            _ => None,
        }
    }
}

/// A running backend.
pub struct Backend {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    count: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Backend {
    /// Starts one on loopback.
    pub async fn start() -> Self {
        Self::answering(None).await
    }

    /// The same, with this body for every request in place of the path.
    pub async fn answering(text: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let count = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn(accept(listener, text, Arc::clone(&seen), Arc::clone(&count)));
        Self { address, seen, count, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The last request that arrived.
    pub fn last(&self) -> Seen {
        self.seen.lock().expect("no panic under the lock").last().expect("a request reached the backend").clone()
    }

    /// All requests that arrived.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic under the lock").clone()
    }

    /// How many requests arrived.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Stops accepting and drops every connection.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    text: Option<&'static str>,
    seen: Arc<Mutex<Vec<Seen>>>,
    count: Arc<AtomicUsize>,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { return };
        let (seen, count) = (Arc::clone(&seen), Arc::clone(&count));
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, text, Arc::clone(&seen), Arc::clone(&count)));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    text: Option<&'static str>,
    seen: Arc<Mutex<Vec<Seen>>>,
    count: Arc<AtomicUsize>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let headers = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let path = parts.uri.to_string();
    count.fetch_add(1, Ordering::SeqCst);
    let answer = Full::new(text.map_or_else(|| Bytes::from(format!("{{\"path\":{path:?}}}")), Bytes::from));
    seen.lock().expect("no panic under the lock").push(Seen { method: parts.method.to_string(), path, headers, body });
    Ok(Response::builder().header("content-type", "application/json").body(answer).expect("a response"))
}
