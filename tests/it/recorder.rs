//! A backend that believes nothing: it keeps every byte that it was sent, cut into requests by a reading of its own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// One request, as it stood on the wire.
#[derive(Clone, Debug)]
pub struct Record {
    /// The request line and the fields.
    pub head: String,
    /// What came after the head, framing and trailers with it.
    pub rest: String,
    /// Whether it came to its end.
    pub whole: bool,
}

impl Record {
    /// How many fields of this name (in lower case) there are.
    pub fn count(&self, name: &str) -> usize {
        self.head.to_lowercase().lines().skip(1).filter(|line| line.split(':').next() == Some(name)).count()
    }
}

/// A running one.
pub struct Recorder {
    address: SocketAddr,
    records: Arc<Mutex<Vec<Record>>>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// Answers 200 to every request that it reads to its end.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let records: Arc<Mutex<Vec<Record>>> = Arc::default();
        let kept = Arc::clone(&records);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(record(socket, Arc::clone(&kept)));
            }
        });
        Self { address, records, task }
    }

    /// A route to it for everything below `/api/v1`, and its upstream.
    pub fn routes(&self) -> String {
        format!(
            "[site.upstream.recorder]\nservers = [\"http://{}\"]\n\
             [[site.route]]\nmatch = \"* /api/v1/{{*rest}}\"\nupstream = \"recorder\"\n",
            self.address
        )
    }

    /// What arrived and speaks of `what`, anywhere in it.
    pub fn about(&self, what: &str) -> Vec<Record> {
        let records = self.records.lock().expect("no panic under the lock");
        records.iter().filter(|record| record.head.contains(what) || record.rest.contains(what)).cloned().collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn record(mut socket: TcpStream, records: Arc<Mutex<Vec<Record>>>) {
    let mut bytes = Vec::new();
    loop {
        let cut = read(&mut socket, &mut bytes).await;
        let whole = cut.is_some();
        let (head, end) = cut.unwrap_or_else(|| {
            let head = find(&bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
            (head, bytes.len())
        });
        if end > 0 {
            let text = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
            let record = Record { head: text(&bytes[..head]), rest: text(&bytes[head..end]), whole };
            records.lock().expect("no panic under the lock").push(record);
        }
        if !whole || socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
            return;
        }
        bytes.drain(..end);
    }
}

/// Reads until one request is there; where its head and the whole of it end. `None`: the connection ended first.
async fn read(socket: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<(usize, usize)> {
    loop {
        if let Some(head) = find(bytes, b"\r\n\r\n").map(|at| at + 4) {
            let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let end = if text.contains("\r\ntransfer-encoding: chunked\r\n") {
                chunked(&bytes[head..]).map(|length| head + length)
            } else {
                Some(head + length.unwrap_or(0_usize)).filter(|end| *end <= bytes.len())
            };
            if let Some(end) = end {
                return Some((head, end));
            }
        }
        if socket.read_buf(bytes).await.unwrap_or(0) == 0 {
            return None;
        }
    }
}

/// How long a chunked body with its trailers is; `None`: not all of it is there.
fn chunked(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = find(&bytes[at..], b"\r\n")?;
        let size = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        at += line + 2;
        if size == 0 {
            // Trailers, if any, and an empty line.
            return if bytes.get(at..at + 2)? == b"\r\n" {
                Some(at + 2)
            } else {
                find(&bytes[at..], b"\r\n\r\n").map(|end| at + end + 4)
            };
        }
        at += size + 2;
        bytes.get(..at)?;
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
