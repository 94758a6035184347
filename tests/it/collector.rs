//! A real OTLP collector: an in-process hyper server that decodes what it is sent, and answers as a test wants it to.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::client::PATIENCE;
use super::wire::now;

/// What it does with a batch.
#[derive(Clone, Copy, Debug)]
pub enum Mood {
    /// Takes it.
    Takes,
    /// Takes it but for so many spans.
    Rejects(i64),
    /// Answers this status, with this `Retry-After`.
    Refuses(u16, Option<&'static str>),
    /// Is something else, which shows everybody the same page.
    Page,
    /// Never answers.
    Hangs,
}

/// One batch, taken or not.
#[derive(Clone, Debug)]
pub struct Post {
    pub path: String,
    pub headers: HeaderMap,
    pub raw: Bytes,
    pub at: Instant,
    pub taken: bool,
    pub resource: Vec<KeyValue>,
    pub spans: Vec<Span>,
}

/// A running one.
pub struct Collector {
    pub address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    posts: Arc<Mutex<Vec<Post>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Collector {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same behind TLS.
    pub async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let mood = Arc::new(Mutex::new(Mood::Takes));
        let posts: Arc<Mutex<Vec<Post>>> = Arc::default();
        let (own, kept) = (Arc::clone(&mood), Arc::clone(&posts));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (mood, posts, tls) = (Arc::clone(&own), Arc::clone(&kept), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(socket, mood, posts).await,
                        Some(tls) => {
                            if let Ok(secured) = tls.accept(socket).await {
                                serve(secured, mood, posts).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, mood, posts, task }
    }

    /// `[tracing]` that sends everything here at once, and `more` of it.
    pub fn tracing(&self, more: &str) -> String {
        format!("[tracing]\nendpoint = \"http://{}\"\nsample_ratio = 1\nbatch_delay = \"10ms\"\n{more}\n", self.address)
    }

    /// From now on.
    pub fn is(&self, mood: Mood) {
        *self.mood.lock().expect("no panic under the lock") = mood;
    }

    pub fn posts(&self) -> Vec<Post> {
        self.posts.lock().expect("no panic under the lock").clone()
    }

    /// The batches, once there are so many.
    pub async fn batches(&self, count: usize) -> Vec<Post> {
        self.until(|posts| posts.len() >= count).await
    }

    /// The spans that were taken, once there are so many.
    pub async fn spans(&self, count: usize) -> Vec<Span> {
        let taken = |posts: &[Post]| -> Vec<Span> {
            posts.iter().filter(|post| post.taken).flat_map(|post| post.spans.clone()).collect()
        };
        taken(&self.until(|posts| taken(posts).len() >= count).await)
    }

    async fn until(&self, enough: impl Fn(&[Post]) -> bool) -> Vec<Post> {
        let wait = async {
            loop {
                let posts = self.posts();
                if enough(&posts) {
                    return posts;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {:?}", self.posts()))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<S>(stream: S, mood: Arc<Mutex<Mood>>, posts: Arc<Mutex<Vec<Post>>>)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| answer(request, Arc::clone(&mood), Arc::clone(&posts)));
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    mood: Arc<Mutex<Mood>>,
    posts: Arc<Mutex<Vec<Post>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let raw = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let decoded = ExportTraceServiceRequest::decode(raw.clone()).expect("protobuf that a collector can read");
    let mood = *mood.lock().expect("no panic under the lock");
    let [resource_spans] = &decoded.resource_spans[..] else { panic!("one resource: {decoded:?}") };
    posts.lock().expect("no panic under the lock").push(Post {
        path: head.uri.to_string(),
        headers: head.headers,
        raw,
        at: now(),
        taken: matches!(mood, Mood::Takes | Mood::Rejects(_)),
        resource: resource_spans.resource.clone().expect("a resource").attributes,
        spans: resource_spans.scope_spans.iter().flat_map(|scope| scope.spans.clone()).collect(),
    });
    let mut answer = Response::new(Full::default());
    match mood {
        Mood::Takes => {}
        Mood::Rejects(rejected_spans) => {
            let partial_success = ExportTracePartialSuccess { rejected_spans, error_message: "no room".to_owned() };
            let told = ExportTraceServiceResponse { partial_success: Some(partial_success) };
            *answer.body_mut() = Full::from(told.encode_to_vec());
        }
        Mood::Refuses(status, after) => {
            *answer.status_mut() = status.try_into().expect("a status");
            let after = after.map(|after| after.parse().expect("a header value"));
            after.map(|after| answer.headers_mut().insert("retry-after", after));
        }
        Mood::Page => {
            answer.headers_mut().insert("content-type", "text/html; charset=utf-8".parse().expect("a header value"));
            *answer.body_mut() = Full::from("<html>It works!</html>");
        }
        Mood::Hangs => std::future::pending().await,
    }
    Ok(answer)
}

/// An attribute as text; `None` where it is not there.
pub fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|own| own.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{name}: {other:?}"),
    }
}

/// The span of this kind (2: server, 3: client) among those of one request.
pub fn of_kind(spans: &[Span], kind: i32) -> Span {
    let mut found = spans.iter().filter(|span| span.kind == kind);
    let only = found.next().unwrap_or_else(|| panic!("none of kind {kind}: {spans:?}"));
    assert!(found.next().is_none(), "more than one of kind {kind}: {spans:?}");
    only.clone()
}

/// An id as `traceparent` writes it.
pub fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
