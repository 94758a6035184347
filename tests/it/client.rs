//! A small HTTP client: one connection a request unless asked otherwise, real TLS, every wait bounded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;

/// Longest wait for any one answer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header in ASCII"))
    }

    /// A string at a JSON pointer.
    pub fn string(&self, pointer: &str) -> String {
        let json = self.json();
        json.pointer(pointer)
            .and_then(|value| value.as_str())
            .unwrap_or_else(|| panic!("no string at {pointer} in {json}"))
            .to_owned()
    }
}

/// Where requests go and how.
#[derive(Clone)]
pub struct Client {
    pub address: SocketAddr,
    pub host: String,
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// One request, built up.
pub struct Ask<'a> {
    client: &'a Client,
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Client {
    pub fn ask(&self, method: &str, path: &str) -> Ask<'_> {
        Ask {
            client: self,
            method: Method::from_bytes(method.as_bytes()).expect("a method"),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    pub fn get(&self, path: &str) -> Ask<'_> {
        self.ask("GET", path)
    }

    pub fn post(&self, path: &str, json: &serde_json::Value) -> Ask<'_> {
        self.ask("POST", path).json(json)
    }

    /// The same client, asking for another host.
    pub fn at_host(&self, host: &str) -> Self {
        Self { host: host.to_owned(), ..self.clone() }
    }

    /// A TLS (or plain) stream to the gateway, with the given ALPN offers.
    pub async fn stream(&self, alpn: &[&[u8]]) -> Stream {
        let socket = TcpStream::connect(self.address).await.expect("the gateway accepts");
        socket.set_nodelay(true).expect("a socket option");
        match &self.tls {
            None => Box::new(socket),
            Some(config) => {
                let mut config = rustls::ClientConfig::clone(config);
                config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
                let name = ServerName::try_from(self.host.clone()).expect("a server name");
                let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
                Box::new(connector.connect(name, socket).await.expect("a handshake"))
            }
        }
    }
}

/// Any byte stream.
pub type Stream = Box<dyn Duplex>;
pub trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Duplex for T {}

impl std::fmt::Debug for dyn Duplex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl Ask<'_> {
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    pub fn api_key(self, key: &str) -> Self {
        self.header("authorization", format!("ApiKey {key}"))
    }

    pub fn json(self, json: &serde_json::Value) -> Self {
        self.header("content-type", "application/json").body(json.to_string())
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends over HTTP/1.1.
    pub async fn send(self) -> Answer {
        let described = format!("{} {}", self.method, self.path);
        tokio::time::timeout(PATIENCE, self.send_http1())
            .await
            .unwrap_or_else(|_| panic!("no answer in {PATIENCE:?}: {described}"))
            .unwrap_or_else(|error| panic!("{described}: {error}"))
    }

    /// Sends over HTTP/1.1 and hands the body over while it is still coming.
    pub async fn open(self) -> hyper::body::Incoming {
        self.try_open().await.expect("a good answer")
    }

    /// The same; `None` where it is answered otherwise than well, or not at all.
    pub async fn try_open(self) -> Option<hyper::body::Incoming> {
        let stream = self.client.stream(&[b"http/1.1"]).await;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        let mut request =
            Request::builder().method(self.method.clone()).uri(&self.path).header("host", &self.client.host);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let answer = sender.send_request(request.body(Full::new(self.body)).expect("a request"));
        let answer = tokio::time::timeout(PATIENCE, answer).await.expect("an answer in time").ok()?;
        (answer.status() == 200).then(|| answer.into_body())
    }

    /// Sends over HTTP/1.1; a broken exchange is an error, not a panic.
    pub async fn try_send(self) -> Result<Answer, String> {
        tokio::time::timeout(PATIENCE, self.send_http1()).await.map_err(|_| "no answer".to_owned())?
    }

    async fn send_http1(self) -> Result<Answer, String> {
        let stream = self.client.stream(&[b"http/1.1"]).await;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let driver = tokio::spawn(connection);
        let mut request =
            Request::builder().method(self.method.clone()).uri(&self.path).header("host", &self.client.host);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(self.body)).map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| format!("{error:?}"))?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| format!("body: {error:?}"))?.to_bytes();
        driver.abort();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    /// Sends over HTTP/2.
    pub async fn send_http2(self) -> Answer {
        self.try_send_http2().await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Sends over HTTP/2; a broken exchange is an error, not a panic.
    pub async fn try_send_http2(self) -> Result<Answer, String> {
        let exchange = async move {
            let stream = self.client.stream(&[b"h2"]).await;
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .map_err(|error| format!("an HTTP/2 connection: {error:?}"))?;
            let driver = tokio::spawn(connection);
            let uri = format!("https://{}{}", self.client.host, self.path);
            let mut request = Request::builder().method(self.method).uri(uri);
            for (name, value) in &self.headers {
                request = request.header(name, value);
            }
            let request = request.body(Full::new(self.body)).expect("a request");
            let response = sender.send_request(request).await.map_err(|error| format!("an answer: {error:?}"))?;
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| format!("body: {error:?}"))?.to_bytes();
            driver.abort();
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| "no answer".to_owned())?
    }
}
