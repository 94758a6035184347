//! Clients that are slow, silent or many: what they may hold, and for how long.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::client::Stream;
use super::harness::{Gate, Setup};
use super::wire::now;

/// Longest wait for anything that must happen.
pub const PROMPT: Duration = Duration::from_secs(20);

pub const ASK: &str = "GET /api/v1/posts HTTP/1.1\r\nhost: localhost\r\n\r\n";

async fn gate(connections: &str) -> Gate {
    Setup::default().top(&format!("[connections]\n{connections}")).start().await.expect("SQLite")
}

/// A gate whose `GET /open/stream` is answered by `backend`, without a credential.
async fn streaming(connections: &str, backend: &str) -> Gate {
    let routes = format!(
        "[[site.route]]\nmatch = \"GET /open/{{*rest}}\"\npublic = true\nupstream = \"stream\"\n\
         [site.upstream.stream]\nservers = [\"{backend}\"]\n"
    );
    let top = format!("[connections]\n{connections}");
    Setup::default().routes(&routes).top(&top).start().await.expect("SQLite")
}

/// A backend for one connection: answers with `head`, then says `bytes` again and again until it is left.
async fn endless(head: &'static str, bytes: Vec<u8>, pause: Duration) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let task = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("the gateway");
        let mut request = [0; 4096];
        let _ = socket.read(&mut request).await;
        socket.write_all(head.as_bytes()).await.expect("the head");
        while socket.write_all(&bytes).await.is_ok() {
            tokio::time::sleep(pause).await;
        }
    });
    (url, task)
}

/// Reads one answer with a Content-Length; its status.
pub async fn answer(stream: &mut Stream) -> String {
    let mut said = String::new();
    let mut byte = [0];
    while !said.ends_with("\r\n\r\n") {
        let read = tokio::time::timeout(PROMPT, stream.read(&mut byte)).await.expect("an answer in time");
        assert_eq!(read.expect("the connection holds"), 1, "closed after {said:?}");
        said.push(char::from(byte[0]));
    }
    let length = said.to_lowercase().split("content-length: ").nth(1).map(|rest| rest.lines().next().map(str::parse));
    let length: usize = length.flatten().expect("a length").expect("a number");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("the body");
    said[9..12].to_owned()
}

/// Waits for the end; how long that took, and whether the goodbye was in order.
async fn ended(stream: &mut Stream) -> (Duration, bool) {
    let started = now();
    let end = tokio::time::timeout(PROMPT, stream.read(&mut [0; 64])).await.expect("it is let go");
    (started.elapsed(), matches!(end, Ok(0)))
}

#[tokio::test]
async fn a_connection_may_rest_for_longer_than_a_head_may_take_and_then_ends_in_order() {
    // Far enough apart for a machine that does not look at everybody for a second.
    let gate = gate("header_timeout = \"1s\"\nidle_timeout = \"5s\"").await;
    let mut stream = gate.client.stream(&[b"http/1.1"]).await;
    for _ in 0..2 {
        stream.write_all(ASK.as_bytes()).await.expect("sent");
        assert_eq!(answer(&mut stream).await, "401");
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    stream.write_all(ASK.as_bytes()).await.expect("sent");
    assert_eq!(answer(&mut stream).await, "401");
    let (took, in_order) = ended(&mut stream).await;
    assert!(took > Duration::from_secs(3) && in_order, "{took:?} {in_order}");
}

#[tokio::test]
async fn a_head_that_has_begun_comes_whole_or_not_at_all() {
    let gate = gate("header_timeout = \"1500ms\"\nidle_timeout = \"60s\"").await;
    let mut honest = gate.client.stream(&[b"http/1.1"]).await;
    for _ in 0..2 {
        honest.write_all(&ASK.as_bytes()[..20]).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(200)).await;
        honest.write_all(&ASK.as_bytes()[20..]).await.expect("sent");
        assert_eq!(answer(&mut honest).await, "401");
    }
    for kept in [false, true] {
        let mut dripping = gate.client.stream(&[b"http/1.1"]).await;
        if kept {
            dripping.write_all(ASK.as_bytes()).await.expect("sent");
            assert_eq!(answer(&mut dripping).await, "401");
        }
        let started = now();
        // A byte every now and then: each is progress, all of them are too little.
        let drip = async {
            for byte in ASK.as_bytes() {
                if dripping.write_all(&[*byte]).await.is_err() || dripping.flush().await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            panic!("it could say the whole head");
        };
        tokio::time::timeout(PROMPT, drip).await.expect("it is cut off");
        assert!(started.elapsed() > Duration::from_millis(1400), "not before its time");
    }
    // In one piece with the request before it, or after that one's answer.
    for with in [true, false] {
        let mut half = gate.client.stream(&[b"http/1.1"]).await;
        let (first, second) = if with { (&*[ASK, "GET /api"].concat(), "") } else { (ASK, "GET /api") };
        half.write_all(first.as_bytes()).await.expect("sent");
        assert_eq!(answer(&mut half).await, "401");
        half.write_all(second.as_bytes()).await.expect("sent");
        // Half a head holds no connection for as long as one may rest.
        ended(&mut half).await;
    }
    // Long before it would have rested.
    let mut silent = gate.client.stream(&[b"http/1.1"]).await;
    ended(&mut silent).await;
    assert!(gate.client.get("/api/v1/posts").send().await.status == 401);
}

#[tokio::test]
async fn an_http2_connection_rests_for_the_idle_timeout_and_not_while_a_stream_is_open() {
    let event = b"5\r\nevent\r\n".to_vec();
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let (url, backend) = endless(head, event, Duration::from_millis(200)).await;
    let gate = streaming("header_timeout = \"3s\"\nidle_timeout = \"1s\"", &url).await;
    let stream = gate.client.stream(&[b"h2"]).await;
    let (mut sender, connection) =
        http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let ask = || Request::get("https://localhost/open/stream").body(Empty::new()).expect("a request");
    let mut body = sender.send_request(ask()).await.expect("an answer").into_body();
    let started = now();
    while started.elapsed() < Duration::from_millis(2500) {
        assert!(body.frame().await.expect("it goes on").is_ok());
    }
    drop(body);
    let rested = now();
    // GOAWAY: the end is in order, not a broken connection.
    tokio::time::timeout(PROMPT, driver).await.expect("it ends").expect("no panic").expect("in order");
    assert!(rested.elapsed() > Duration::from_millis(900), "{:?}", rested.elapsed());
    assert!(sender.send_request(ask()).await.is_err());
    tokio::time::timeout(PROMPT, backend).await.expect("the backend is let go").expect("no panic");
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off_and_its_backend_let_go() {
    let head = "HTTP/1.1 200 OK\r\n\r\n";
    let (url, backend) = endless(head, vec![b'x'; 65_536], Duration::ZERO).await;
    let gate = streaming("send_timeout = \"500ms\"", &url).await;
    let mut stream = gate.client.stream(&[b"http/1.1"]).await;
    stream.write_all(b"GET /open/stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    tokio::time::timeout(PROMPT, backend).await.expect("the backend is let go").expect("no panic");
    drop(stream);
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_everything() {
    let head = "HTTP/1.1 200 OK\r\n\r\n";
    let (url, backend) = endless(head, vec![b'x'; 65_536], Duration::ZERO).await;
    let gate = streaming("send_timeout = \"500ms\"", &url).await;
    let mut stream = gate.client.stream(&[b"http/1.1"]).await;
    stream.write_all(b"GET /open/stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let started = now();
    let mut piece = vec![0; 1 << 20];
    while started.elapsed() < Duration::from_secs(2) {
        tokio::time::timeout(PROMPT, stream.read_exact(&mut piece)).await.expect("in time").expect("more");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(stream);
    tokio::time::timeout(PROMPT, backend).await.expect("the backend is let go").expect("no panic");
}

#[tokio::test]
async fn an_http2_stream_whose_window_stays_shut_is_reset_and_the_others_go_on() {
    let head = "HTTP/1.1 200 OK\r\n\r\n";
    let (url, backend) = endless(head, vec![b'x'; 65_536], Duration::ZERO).await;
    let gate = streaming("send_timeout = \"700ms\"", &url).await;
    let stream = gate.client.stream(&[b"h2"]).await;
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1024)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let ask =
        |path: &str| Request::get(format!("https://localhost{path}")).body(Empty::<Bytes>::new()).expect("a request");
    // Never read: its window is full after a kilobyte.
    let mut shut = sender.send_request(ask("/open/stream")).await.expect("an answer").into_body();
    tokio::time::timeout(PROMPT, backend).await.expect("the backend is let go").expect("no panic");
    let honest = sender.send_request(ask("/elsewhere")).await.expect("the connection is as good as before");
    assert_eq!(honest.status(), 404);
    assert!(!honest.into_body().collect().await.expect("whole").to_bytes().is_empty());
    let rest = async {
        while let Some(frame) = shut.frame().await {
            frame?;
        }
        Ok::<_, hyper::Error>(())
    };
    assert!(tokio::time::timeout(PROMPT, rest).await.expect("it ends").is_err(), "never a clean end");
    driver.abort();
}

#[tokio::test]
async fn a_websocket_may_be_silent_for_longer_than_a_connection_may_rest() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let backend = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("the gateway");
        let _ = socket.read(&mut [0; 4096]).await;
        let agreed = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                      sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        socket.write_all(agreed.as_bytes()).await.expect("agreed");
        let (mut reads, mut writes) = socket.split();
        let _ = tokio::io::copy(&mut reads, &mut writes).await;
    });
    let gate = streaming("header_timeout = \"200ms\"\nidle_timeout = \"1s\"", &url).await;
    let mut stream = gate.client.stream(&[b"http/1.1"]).await;
    let ask = "GET /open/ws HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
               sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(ask.as_bytes()).await.expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(PROMPT, stream.read_u8()).await.expect("in time").expect("a byte"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stream.write_all(b"still here").await.expect("sent");
    let mut echo = [0; 10];
    tokio::time::timeout(PROMPT, stream.read_exact(&mut echo)).await.expect("in time").expect("the echo");
    assert_eq!(&echo, b"still here");
    drop(stream);
    tokio::time::timeout(PROMPT, backend).await.expect("the backend is let go").expect("no panic");
}

#[tokio::test]
async fn an_address_has_so_many_connections_and_no_more() {
    let gate = gate("max_per_address = 3").await;
    let enter = async |patience| {
        let mut socket = TcpStream::connect(gate.client.address).await.expect("accepted");
        let closed = tokio::time::timeout(patience, socket.read(&mut [0; 8])).await.is_ok();
        (socket, closed)
    };
    let mut held = Vec::new();
    for _ in 0..3 {
        let (socket, closed) = enter(Duration::from_millis(300)).await;
        assert!(!closed);
        held.push(socket);
    }
    // At once, where a silent one would be let go after ten seconds.
    assert!(enter(Duration::from_secs(5)).await.1, "closed at once");
    let counted = "tollgate_connections_turned_away_total{listener=\"https\",reason=\"per_address\"}";
    assert_eq!(gate.metric(counted).await, Some(1.0));
    held.pop();
    let began = now();
    loop {
        // Its place is free once it is seen that it has left.
        match gate.plain.get("/api/v1/posts").try_send().await {
            Ok(answer) => break assert_eq!(answer.status, 401, "one has left"),
            Err(error) => assert!(began.elapsed() < PROMPT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_trusted_proxy_has_as_many_connections_as_there_are() {
    let top = "[connections]\nmax_per_address = 1\n[network]\ntrusted_proxies = [\"127.0.0.1\"]";
    let gate = Setup::default().top(top).start().await.expect("SQLite");
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = gate.client.stream(&[b"http/1.1"]).await;
        stream.write_all(ASK.as_bytes()).await.expect("sent");
        assert_eq!(answer(&mut stream).await, "401");
        held.push(stream);
    }
}

/// A backend that answers as soon as it has a head, once a connection, and reads on: what it reads behind the heads.
async fn hasty() -> (String, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let read = Arc::new(Mutex::new(Vec::new()));
    let bodies = Arc::clone(&read);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let bodies = Arc::clone(&bodies);
            tokio::spawn(async move {
                let mut socket = BufReader::new(socket);
                let mut line = String::new();
                while !matches!(line.as_str(), "\r\n") {
                    line.clear();
                    if socket.read_line(&mut line).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("the answer");
                let mut bytes = [0; 1024];
                while let Ok(count @ 1..) = socket.read(&mut bytes).await {
                    bodies.lock().expect("nobody panicked").extend_from_slice(&bytes[..count]);
                }
            });
        }
    });
    (url, read)
}

#[tokio::test]
async fn what_a_body_lacks_when_its_answer_is_out_is_never_the_next_request() {
    let length = format!("content-length: {}\r\n\r\nabc", 3 + ASK.len());
    let chunk = format!("transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n{:x}\r\n", ASK.len());
    for (begin, end) in [(&length, ""), (&chunk, "\r\n0\r\n\r\n")] {
        let (backend, read) = hasty().await;
        let routes = format!(
            "[[site.route]]\nmatch = \"POST /open/{{*rest}}\"\npublic = true\nupstream = \"hasty\"\n\
             [site.upstream.hasty]\nservers = [\"{backend}\"]\n"
        );
        let gate = Setup::default().routes(&routes).start().await.expect("SQLite");
        let mut stream = gate.client.stream(&[b"http/1.1"]).await;
        let head = format!("POST /open/x HTTP/1.1\r\nhost: localhost\r\n{begin}");
        stream.write_all(head.as_bytes()).await.expect("sent");
        assert_eq!(answer(&mut stream).await, "200");
        // Longer than a connection waits before it gives back its buffers, twice over.
        tokio::time::sleep(Duration::from_millis(1300)).await;
        stream.write_all(ASK.as_bytes()).await.expect("sent");
        let early = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut [0; 64])).await;
        assert!(early.is_err(), "the rest of a body is no request: {early:?}");
        stream.write_all(end.as_bytes()).await.expect("sent");
        stream.write_all(ASK.as_bytes()).await.expect("sent");
        assert_eq!(answer(&mut stream).await, "404", "and after it the next request is one");
        let whole = std::mem::take(&mut *read.lock().expect("nobody panicked"));
        let whole = String::from_utf8(whole).expect("text");
        assert!(whole.contains("abc") && whole.contains(ASK), "the backend was told all of it: {whole:?}");
    }
}

#[tokio::test]
async fn whatever_a_rest_falls_into_nothing_of_a_request_is_lost() {
    // Longer than a connection waits before it gives back its buffers.
    const REST: Duration = Duration::from_millis(800);
    let gate = gate("header_timeout = \"60s\"\nidle_timeout = \"60s\"").await;
    let mut stream = gate.client.stream(&[b"http/1.1"]).await;
    // Before the first byte, within a head, between two requests.
    for at in [0, 1, ASK.len() - 1] {
        tokio::time::sleep(REST).await;
        stream.write_all(&ASK.as_bytes()[..at]).await.expect("sent");
        tokio::time::sleep(REST).await;
        stream.write_all(&ASK.as_bytes()[at..]).await.expect("sent");
        assert_eq!(answer(&mut stream).await, "401", "{at}");
    }
    // Several at once, the last of them cut.
    tokio::time::sleep(REST).await;
    let cut = ASK.len() - 4;
    stream.write_all(&[ASK, ASK, &ASK[..cut]].concat().into_bytes()).await.expect("sent");
    for _ in 0..2 {
        assert_eq!(answer(&mut stream).await, "401");
    }
    tokio::time::sleep(REST).await;
    stream.write_all(&ASK.as_bytes()[cut..]).await.expect("sent");
    assert_eq!(answer(&mut stream).await, "401");
    // Within a body.
    let head = "POST /api/v1/auth/login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.expect("sent");
    tokio::time::sleep(REST).await;
    stream.write_all(b"}").await.expect("sent");
    let status = answer(&mut stream).await;
    assert!(status.starts_with('4') && status != "408", "{status}");
    stream.write_all(ASK.as_bytes()).await.expect("sent");
    assert_eq!(answer(&mut stream).await, "401");
}
