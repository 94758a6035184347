//! WebSockets for tests: backends that take them and tell what they see, clients that open them, raw ones too.

use std::io::{Cursor, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};
use tollgate::model::time::SystemClock;
use tollgate::observe::log::{LogWriter, Logs};
use tollgate::observe::metrics::Metrics;
use tollgate::observe::{LogFormat, LogSettings};

use super::client::{Client, PATIENCE, Stream};

/// No test waits longer for anything.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("within the time a test has")
}

/// What a backend sees.
#[derive(Debug)]
pub enum Seen {
    Opened(Box<Handshake>),
    Said(Message),
    /// The end, and with which status where there was a close frame.
    Ended(Option<u16>),
}

/// A handshake as it reached a backend.
#[derive(Debug)]
pub struct Handshake {
    pub path: String,
    pub headers: HeaderMap,
}

impl Handshake {
    /// The one value of a header; `None` when there is not exactly one.
    pub fn one(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none())?.to_str().ok()
    }
}

/// A backend that says back what it is told.
pub struct Sockets {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    seen: tokio::sync::Mutex<UnboundedReceiver<Seen>>,
    task: tokio::task::JoinHandle<()>,
}

impl Sockets {
    /// One that says `first` as soon as it is asked, in the same segment as its agreement.
    pub async fn start(first: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let accepted = Arc::new(AtomicUsize::new(0));
        let (tell, seen) = unbounded_channel();
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                open.spawn(echo(socket, first, tell.clone()));
            }
        });
        Self { address, accepted, seen: tokio::sync::Mutex::new(seen), task }
    }

    /// One that a test plays itself.
    pub fn at(address: SocketAddr) -> Self {
        let (_, seen) = unbounded_channel();
        Self { address, accepted: Arc::default(), seen: tokio::sync::Mutex::new(seen), task: tokio::spawn(async {}) }
    }

    /// Takes no more connections and drops those it has.
    pub fn stop(&self) {
        self.task.abort();
    }

    /// Connections that were made to it.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// The next that it sees.
    pub async fn next(&self) -> Seen {
        within(async { self.seen.lock().await.recv().await }).await.expect("the backend runs")
    }

    /// The next handshake; nothing else may come first.
    pub async fn opened(&self) -> Handshake {
        match self.next().await {
            Seen::Opened(handshake) => *handshake,
            other => panic!("no handshake: {other:?}"),
        }
    }

    /// The next text.
    pub async fn text(&self) -> String {
        match self.next().await {
            Seen::Said(Message::Text(text)) => text.to_string(),
            other => panic!("no text: {other:?}"),
        }
    }

    /// The end; nothing else may come first.
    pub async fn ended(&self) -> Option<u16> {
        match self.next().await {
            Seen::Ended(status) => status,
            other => panic!("not the end: {other:?}"),
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[expect(clippy::result_large_err, reason = "the shape of tungstenite's callback")]
async fn echo(socket: TcpStream, first: &'static [&'static str], tell: UnboundedSender<Seen>) {
    let told = tell.clone();
    let taken = tokio_tungstenite::accept_hdr_async(socket, move |request: &Request, answer: Response| {
        let path = request.uri().to_string();
        let _ = told.send(Seen::Opened(Box::new(Handshake { path, headers: request.headers().clone() })));
        Ok(answer)
    });
    let Ok(mut socket) = taken.await else { return };
    for text in first {
        let _ = socket.send(Message::text(*text)).await;
    }
    let mut status = None;
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Close(frame) => status = frame.map(|frame| frame.code.into()),
            Message::Text(text) => {
                let _ = tell.send(Seen::Said(Message::Text(text.clone())));
                let _ = socket.send(Message::Text(text)).await;
            }
            other => {
                let _ = tell.send(Seen::Said(other));
            }
        }
    }
    let _ = tell.send(Seen::Ended(status));
}

/// A client's end.
pub type Socket = WebSocketStream<Stream>;

/// Opens one; what was answered where it is not agreed to.
pub async fn open(
    client: &Client,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<Socket, http::Response<String>> {
    let mut request = format!("wss://{}{path}", client.host).into_client_request().expect("a request");
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().expect("a header value"));
    }
    let stream = client.stream(&[b"http/1.1"]).await;
    match within(tokio_tungstenite::client_async(request, stream)).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer)) => {
            Err(answer.map(|body| String::from_utf8_lossy(&body.unwrap_or_default()).into_owned()))
        }
        Err(error) => panic!("no handshake: {error}"),
    }
}

/// The next text.
pub async fn text(socket: &mut Socket) -> String {
    loop {
        match within(socket.next()).await {
            Some(Ok(Message::Text(text))) => return text.to_string(),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => panic!("no text: {other:?}"),
        }
    }
}

/// The status of the close frame that comes next, and whether the connection ends after it.
pub async fn closed(socket: &mut Socket) -> u16 {
    let status = match within(socket.next()).await {
        Some(Ok(Message::Close(Some(frame)))) => frame.code.into(),
        other => panic!("no close frame: {other:?}"),
    };
    assert!(within(socket.next()).await.is_none(), "nothing follows a close");
    status
}

/// Frames as a client writes them.
pub fn frames(messages: impl IntoIterator<Item = Message>) -> Vec<u8> {
    let mut socket = WebSocket::from_raw_socket(Cursor::new(Vec::new()), Role::Client, None);
    messages.into_iter().for_each(|message| socket.send(message).expect("memory takes it"));
    socket.into_inner().into_inner()
}

/// A handshake as bytes.
pub fn handshake(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// A connection that has sent a handshake, and whatever follows it in the same write; the head of the answer.
pub async fn raw(client: &Client, path: &str, behind: &[u8]) -> (Stream, String) {
    let mut stream = client.stream(&[b"http/1.1"]).await;
    stream.write_all(&[&handshake(path)[..], behind].concat()).await.expect("the gateway reads");
    stream.flush().await.expect("sent");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && within(stream.read(&mut byte)).await.is_ok_and(|read| read == 1) {
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).expect("a head in ASCII"))
}

/// The rest of a raw connection as a WebSocket.
pub async fn speak(stream: Stream) -> Socket {
    WebSocketStream::from_raw_socket(stream, Role::Client, None).await
}

/// A log that a test can read.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    /// Opens it; the second is to be kept as long as lines are to come.
    pub fn open(&self) -> (Logs, LogWriter) {
        let settings =
            LogSettings { level: "trace".to_owned(), format: LogFormat::Json, access: true, audit_file: None };
        let clock = Arc::new(SystemClock::new());
        let metrics = Metrics::new(tollgate::model::time::Clock::now(&*clock).wall);
        Logs::open(&settings, Box::new(self.clone()), clock, &metrics).expect("a log in memory")
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic under the lock").clone()).expect("UTF-8")
    }

    /// The access lines of a path, once there are so many.
    pub async fn lines(&self, path: &str, count: usize) -> Vec<serde_json::Value> {
        let found = within(async {
            loop {
                let lines: Vec<serde_json::Value> = self
                    .text()
                    .lines()
                    .filter_map(|line| serde_json::from_str(line).ok())
                    .filter(|line: &serde_json::Value| line["kind"] == "access" && line["path"] == path)
                    .collect();
                if lines.len() >= count {
                    return lines;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let lines = found.await;
        assert_eq!(lines.len(), count, "one line a connection");
        lines
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic under the lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
