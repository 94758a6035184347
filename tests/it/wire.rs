//! A client that keeps its connection and takes nothing for granted: whatever breaks is an error, never a panic.
//! For tests in which the gateway, or what it stands on, is about to be gone.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::client::Client;

/// Longest wait for any one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum As<'a> {
    Nobody,
    Token(&'a str),
    Key(&'a str),
}

/// An answer, and how long it took.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub took: Duration,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn string(&self, pointer: &str) -> Option<String> {
        let json: Value = serde_json::from_slice(&self.body).ok()?;
        Some(json.pointer(pointer)?.as_str()?.to_owned())
    }
}

/// One connection to a plain listener; opened again when it broke.
pub struct Wire {
    client: Client,
    open: Option<(SendRequest<Full<Bytes>>, JoinHandle<()>)>,
}

impl Wire {
    pub fn to(client: &Client) -> Self {
        assert!(client.tls.is_none(), "a wire is plain");
        Self { client: client.clone(), open: None }
    }

    pub async fn get(&mut self, path: &str, by: As<'_>) -> Result<Reply, String> {
        self.ask("GET", path, by, None).await
    }

    pub async fn post(&mut self, path: &str, by: As<'_>, body: &Value) -> Result<Reply, String> {
        self.ask("POST", path, by, Some(body)).await
    }

    pub async fn ask(&mut self, method: &str, path: &str, by: As<'_>, body: Option<&Value>) -> Result<Reply, String> {
        let started = now();
        let asked = tokio::time::timeout(PATIENCE, self.exchange(method, path, by, body)).await;
        let outcome = asked.unwrap_or_else(|_| Err(format!("{method} {path}: no answer in {PATIENCE:?}")));
        if outcome.is_err() {
            self.open = None;
        }
        let (status, headers, body) = outcome?;
        Ok(Reply { status, headers, body, took: started.elapsed() })
    }

    async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        by: As<'_>,
        body: Option<&Value>,
    ) -> Result<(u16, HeaderMap, Bytes), String> {
        let mut request = Request::builder().method(method).uri(path).header("host", &self.client.host);
        request = match by {
            As::Nobody => request,
            As::Token(token) => request.header("authorization", format!("Bearer {token}")),
            As::Key(key) => request.header("authorization", format!("ApiKey {key}")),
        };
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        let response = self.sender().await?.send_request(request).await.map_err(|error| format!("{error:?}"))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
        Ok((head.status.as_u16(), head.headers, body))
    }

    async fn sender(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, String> {
        if self.open.as_ref().is_none_or(|(sender, _)| sender.is_closed()) {
            let socket = TcpStream::connect(self.client.address).await.map_err(|error| error.to_string())?;
            socket.set_nodelay(true).map_err(|error| error.to_string())?;
            let (sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(|error| error.to_string())?;
            let driver = tokio::spawn(async {
                // What broke is told to whoever waits for an answer.
                let _ = connection.await;
            });
            self.open = Some((sender, driver));
        }
        let (sender, _) = self.open.as_mut().expect("opened above");
        sender.ready().await.map_err(|error| error.to_string())?;
        Ok(sender)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some((_, driver)) = self.open.take() {
            driver.abort();
        }
    }
}

/// The clock of measurements.
#[expect(clippy::disallowed_methods, reason = "a test measures real time")]
pub fn now() -> Instant {
    Instant::now()
}
