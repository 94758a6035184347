//! What is large or does not end: bodies of a gigabyte, backends that never stop talking, streams at the drain's end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::Stream;
use super::harness::Setup;
use super::process::{Home, Plan};
use super::sockets::Memory;
use super::wire::now;

const GIGABYTE: u64 = 1 << 30;
const BLOCK: usize = 256 * 1024;
const PROMPT: Duration = Duration::from_mins(1);

/// Reads up to the end of a head; the head, and what came after it.
async fn head(socket: &mut (impl AsyncReadExt + Unpin)) -> Option<(String, Vec<u8>)> {
    let mut said = Vec::new();
    loop {
        if let Some(end) = said.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = said.split_off(end + 4);
            return Some((String::from_utf8_lossy(&said).into_owned(), rest));
        }
        if !matches!(socket.read_buf(&mut said).await, Ok(1..)) {
            return None;
        }
    }
}

/// Serves each connection of a backend with `serve`.
async fn backend<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket));
        }
    });
    url
}

async fn write_all(socket: &mut (impl AsyncWriteExt + Unpin), length: u64) {
    let block = vec![b'x'; BLOCK];
    let mut left = length;
    while left > 0 {
        let now = block.len().min(usize::try_from(left).unwrap_or(BLOCK));
        socket.write_all(&block[..now]).await.expect("it is taken");
        left -= now as u64;
    }
}

/// Reads `length` bytes, or as many as there are.
async fn read_all(socket: &mut (impl AsyncReadExt + Unpin), length: u64) -> u64 {
    let (mut block, mut count) = (vec![0; BLOCK], 0);
    while count < length {
        match socket.read(&mut block).await {
            Ok(read @ 1..) => count += read as u64,
            _ => break,
        }
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_up_and_a_gigabyte_down_at_once_pass_at_constant_memory() {
    let url = backend(|mut socket| async move {
        while let Some((said, rest)) = head(&mut socket).await {
            if said.starts_with("POST") {
                let count = rest.len() as u64 + read_all(&mut socket, GIGABYTE - rest.len() as u64).await;
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{count}", count.to_string().len());
                socket.write_all(answer.as_bytes()).await.expect("an answer");
            } else {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {GIGABYTE}\r\n\r\n");
                socket.write_all(answer.as_bytes()).await.expect("an answer");
                write_all(&mut socket, GIGABYTE).await;
            }
        }
    })
    .await;
    let site = "[[site.route]]\nmatch = \"* /open/{*rest}\"\npublic = true\nmax_body = \"unlimited\"\n";
    let home = Home::new(&Plan { postgres: None, backend: &url, store: "", top: "", site });
    let served = home.start().await;
    assert_eq!(served.http.get("/other").send().await.status, 404, "warm");
    let before = served.resident();
    let mut up = served.http.stream(&[b"http/1.1"]).await;
    let mut down = served.http.stream(&[b"http/1.1"]).await;
    let upload = async {
        let ask = format!("POST /open/x HTTP/1.1\r\nhost: localhost\r\ncontent-length: {GIGABYTE}\r\n\r\n");
        up.write_all(ask.as_bytes()).await.expect("sent");
        write_all(&mut up, GIGABYTE).await;
        let (said, mut rest) = head(&mut up).await.expect("an answer");
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        let digits = GIGABYTE.to_string();
        while rest.len() < digits.len() && up.read_buf(&mut rest).await.is_ok_and(|read| read > 0) {}
        assert_eq!(rest, digits.as_bytes(), "every byte came");
    };
    let download = async {
        down.write_all(b"GET /open/x HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
        let (said, rest) = head(&mut down).await.expect("an answer");
        assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
        let count = rest.len() as u64 + read_all(&mut down, GIGABYTE - rest.len() as u64).await;
        assert_eq!(count, GIGABYTE);
    };
    let (done, most) = (AtomicBool::new(false), AtomicU64::new(0));
    let transfer = async {
        tokio::join!(upload, download);
        done.store(true, Ordering::Relaxed);
    };
    let watch = async {
        while !done.load(Ordering::Relaxed) {
            most.fetch_max(served.resident(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PROMPT, async { tokio::join!(transfer, watch) }).await.expect("in time");
    let grown = most.load(Ordering::Relaxed).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more than before");
    served.process.stop().await.good();
}

#[tokio::test]
async fn a_backend_that_says_1xx_without_end_is_a_502_at_once_and_one_that_says_a_few_is_not() {
    let said = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&said);
    let url = backend(move |mut socket| {
        let count = Arc::clone(&count);
        async move {
            const HINT: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
            while let Some((asked, _)) = head(&mut socket).await {
                if asked.starts_with("GET /open/few") {
                    let _gone = socket.write_all(&HINT.repeat(20)).await;
                    let _gone = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    continue;
                }
                let many = HINT.repeat(1000);
                while socket.write_all(&many).await.is_ok() {
                    count.fetch_add(many.len() as u64, Ordering::Relaxed);
                }
            }
        }
    })
    .await;
    let site = "[[site.route]]\nmatch = \"GET /open/{*rest}\"\npublic = true\nresponse_timeout = \"20s\"\n";
    // One thread for all: hyper reads interim answers for as long as there are any, and nothing else would be served.
    let top = "[connections]\nworkers = 1";
    let home = Home::new(&Plan { postgres: None, backend: &url, store: "", top, site });
    let served = home.start().await;
    assert_eq!(served.http.get("/open/few").send().await.text(), "ok");
    let before = served.resident();
    let began = now();
    let flooded = async { served.http.get("/open/many").send().await };
    let beside = async {
        for _ in 0..5 {
            assert_eq!(served.http.get("/open/few").send().await.text(), "ok", "others are served meanwhile");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (flooded, ()) = tokio::join!(flooded, beside);
    assert_eq!(flooded.status, 502, "{}", flooded.text());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let heard = said.load(Ordering::Relaxed);
    assert!(heard > 512 * 1024, "it was a flood: {heard}");
    assert!(heard < 20_000_000, "and nobody listens to it any more: {heard}");
    assert!(served.resident().saturating_sub(before) < 16 * 1024);
    served.process.stop().await.good();
}

/// What is left of an answer over HTTP/1.1, up to how it ends.
async fn rest(mut stream: Stream) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PROMPT, stream.read_to_end(&mut rest)).await.expect("it ends");
    rest
}

#[tokio::test]
async fn at_the_drains_deadline_whatever_streams_is_broken_off_in_its_protocols_manner() {
    let url = backend(|mut socket| async move {
        let Some((asked, _)) = head(&mut socket).await else { return };
        let kind = if asked.contains("grpc") { "application/grpc" } else { "text/event-stream" };
        let length =
            if asked.contains("/open/known") { "content-length: 1000000000" } else { "transfer-encoding: chunked" };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{length}\r\n\r\n");
        let mut alive = socket.write_all(answer.as_bytes()).await.is_ok();
        while alive {
            alive = socket.write_all(b"5\r\nevent\r\n").await.is_ok();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let routes = format!(
        "[[site.route]]\nmatch = \"GET,POST /open/{{*rest}}\"\npublic = true\nupstream = \"streams\"\n\
         [site.upstream.streams]\nservers = [\"{url}\"]\n"
    );
    let log = Memory::default();
    let (logs, _writer) = log.open();
    let setup = Setup::default().routes(&routes).top("[connections]\ndrain_timeout = \"1s\"").logs(logs);
    let mut gate = setup.start().await.expect("SQLite");
    let mut chunked = gate.client.stream(&[b"http/1.1"]).await;
    let mut known = gate.plain.stream(&[b"http/1.1"]).await;
    for (stream, path) in [(&mut chunked, "chunked"), (&mut known, "known")] {
        let ask = format!("GET /open/{path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.expect("sent");
        assert!(head(stream).await.expect("an answer").0.starts_with("HTTP/1.1 200 "));
    }
    let over2 = gate.client.stream(&[b"h2"]).await;
    let (mut sender, connection) =
        http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(over2)).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let events = Request::get("https://localhost/open/events").body(Empty::new()).expect("a request");
    let events = sender.send_request(events).await.expect("an answer").into_body();
    let call = Request::post("https://localhost/open/call").header("content-type", "application/grpc");
    let call = call.header("te", "trailers").body(Empty::new()).expect("a request");
    let call = sender.send_request(call).await.expect("an answer").into_body();
    let began = now();
    let drain = gate.drain();
    let (chunked, known, events, call, ()) =
        tokio::join!(rest(chunked), rest(known), events.collect(), call.collect(), drain);
    assert!(began.elapsed() > Duration::from_millis(900), "until then it goes on");
    assert!(chunked.ends_with(b"5\r\nevent\r\n"), "no last chunk: {:?}", String::from_utf8_lossy(&chunked));
    assert!(known.len() < 10_000, "less than was announced");
    assert!(events.is_err(), "a stream that is reset");
    let call = call.expect("a call ends with its status");
    assert_eq!(
        call.trailers().and_then(|trailers| trailers.get("grpc-status")).map(http::HeaderValue::as_bytes),
        Some(&b"14"[..])
    );
    for path in ["/open/chunked", "/open/known", "/open/events", "/open/call"] {
        let line = log.lines(path, 1).await.remove(0);
        assert_eq!((&line["status"], &line["cut"]), (&200.into(), &"drained".into()), "{line}");
    }
    let ended = tokio::time::timeout(PROMPT, driver).await.expect("the connection ends").expect("no panic");
    assert!(ended.is_ok(), "after a goodbye: {ended:?}");
}
