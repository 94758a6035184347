//! Uploads that are refused while they are on their way: whoever sends them learns why, in every protocol, and nobody
//! can send for nothing without end.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::client::Stream;
use super::frames::{self, DATA, END_HEADERS, END_STREAM, HEADERS, Raw, block};
use super::harness::{Gate, Setup};
use super::process::{Told, run, run_by};
use super::wire::now;

const LARGE: u64 = 50 * 1024 * 1024;
const PROMPT: Duration = Duration::from_secs(20);

/// What the real curl makes of an upload of 50 MiB.
async fn curl(gate: &Gate, folder: &Path, path: &str, arguments: &[&str]) -> Told {
    let file = folder.join("large");
    std::fs::File::create(&file).expect("a file").set_len(LARGE).expect("room, in name");
    let mut command = run_by("curl".as_ref(), folder);
    let url = format!("https://localhost:{}{path}", gate.client.address.port());
    let authority = gate.directory.path().join("certs/ca.pem");
    command.args([
        "--silent",
        "--show-error",
        "--max-time",
        "20",
        "--request",
        "POST",
        "--write-out",
        "\n%{http_code}",
    ]);
    command.arg("--cacert").arg(authority).args(arguments).arg(url).stdin(std::fs::File::open(file).expect("a file"));
    run(command).await
}

#[tokio::test]
async fn curl_shows_the_refusal_of_a_large_upload_over_either_protocol_again_and_again() {
    let routes = "[[site.route]]\nmatch = \"* /api/v1/{*rest}\"\nupstream = \"app\"\nmax_body = \"1GiB\"\n\
                  [[site.route]]\nmatch = \"* /api/v1/posts\"\nupstream = \"app\"\nmax_body = \"1MiB\"\n\
                  [[site.route]]\nmatch = \"* /api/v1/rare\"\nupstream = \"app\"\nlimits = [\"1/1h\"]\nmax_body = \"1GiB\"\n";
    let gate = Setup::default().routes(routes).start().await.expect("SQLite");
    let folder = TempDir::new().expect("a folder");
    let token = gate.signed_in("ada@example.com").await;
    let field = format!("Authorization: Bearer {token}");
    assert_eq!(gate.client.get("/api/v1/rare").bearer(&token).send().await.status, 200);
    for protocol in ["--http2", "--http1.1"] {
        // With its length announced and without; over HTTP/1.1 curl waits for leave unless it is told not to.
        for how in
            [&["-T", "large"][..], &["-T", "-"], &["-T", "large", "-H", "Expect:"], &["-T", "-", "-H", "Expect:"]]
        {
            for (path, status, known) in
                [("/api/v1/users", "401", false), ("/api/v1/posts", "413", true), ("/api/v1/rare", "429", true)]
            {
                let mut arguments = vec![protocol];
                arguments.extend(how);
                if known {
                    arguments.extend(["-H", &field]);
                }
                for _ in 0..3 {
                    let told = curl(&gate, folder.path(), path, &arguments).await;
                    let seen = told.out.rsplit('\n').next();
                    assert_eq!((told.code, seen), (Some(0), Some(status)), "{arguments:?} {path}: {told:?}");
                    assert!(told.out.starts_with("{\"detail\""), "the whole answer: {told:?}");
                }
            }
        }
        // And one that passes, from the same hand.
        let told = curl(&gate, folder.path(), "/api/v1/users", &[protocol, "-T", "-", "-H", &field]).await;
        assert_eq!((told.code, told.out.rsplit('\n').next()), (Some(0), Some("200")), "{told:?}");
    }
}

#[tokio::test]
async fn a_backends_own_early_refusal_reaches_curl_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let backend = format!("http://{}", listener.local_addr().expect("its address"));
    let server = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.expect("the gateway");
            tokio::spawn(async move {
                let mut head = [0; 8192];
                let _ = socket.read(&mut head).await;
                let refusal =
                    "HTTP/1.1 422 Unprocessable Content\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbad\n";
                let _ = socket.write_all(refusal.as_bytes()).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            });
        }
    });
    let routes = format!(
        "[[site.route]]\nmatch = \"* /open/{{*rest}}\"\npublic = true\nupstream = \"early\"\nmax_body = \"1GiB\"\n\
         [site.upstream.early]\nservers = [\"{backend}\"]\n"
    );
    let gate = Setup::default().routes(&routes).start().await.expect("SQLite");
    let folder = TempDir::new().expect("a folder");
    for protocol in ["--http2", "--http1.1"] {
        for _ in 0..3 {
            let told = curl(&gate, folder.path(), "/open/x", &[protocol, "-T", "large", "-H", "Expect:"]).await;
            assert_eq!((told.code, &*told.out), (Some(0), "bad\n\n422"), "{protocol}: {told:?}");
        }
    }
    server.abort();
}

/// Reads one answer of HTTP/1.1 with its body; its status.
async fn answer(stream: &mut Stream) -> String {
    let mut said = Vec::new();
    let mut byte = [0];
    while !said.ends_with(b"}") {
        let read = tokio::time::timeout(PROMPT, stream.read(&mut byte)).await.expect("an answer in time");
        assert_eq!(read.expect("the connection holds"), 1, "closed after {:?}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    String::from_utf8_lossy(&said[9..12]).into_owned()
}

fn post(length: u64) -> String {
    format!("POST /api/v1/posts HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n")
}

#[tokio::test]
async fn a_client_that_sends_all_before_it_looks_gets_its_answer_and_keeps_its_connection() {
    let gate = Gate::start().await;
    for client in [&gate.client, &gate.plain] {
        let mut stream = client.stream(&[b"http/1.1"]).await;
        for length in [5_u64, 300_000, LARGE] {
            stream.write_all(post(length).as_bytes()).await.expect("sent");
            let block = vec![b'x'; 100_000];
            let mut left = usize::try_from(length).expect("it fits");
            while left > 0 {
                let now = left.min(block.len());
                tokio::time::timeout(PROMPT, stream.write_all(&block[..now])).await.expect("taken").expect("sent");
                left -= now;
            }
            stream.flush().await.expect("sent");
            assert_eq!(answer(&mut stream).await, "401", "{length}");
        }
    }
    assert_eq!(gate.backend.count(), 0);
}

#[tokio::test]
async fn nobody_sends_for_nothing_without_end() {
    let gate = Gate::start().await;
    // One that never stops is left after 64 MiB or ten seconds.
    let mut greedy = gate.plain.stream(&[b"http/1.1"]).await;
    greedy.write_all(post(u64::from(u32::MAX)).as_bytes()).await.expect("sent");
    assert_eq!(answer(&mut greedy).await, "401");
    let (began, block) = (now(), vec![b'x'; 1 << 20]);
    let mut sent = 0;
    while tokio::time::timeout(PROMPT, greedy.write_all(&block)).await.is_ok_and(|sent| sent.is_ok()) {
        sent += 1;
        assert!(sent < 200, "it is left");
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    // One that stops in the middle is left after two seconds without a byte.
    let mut silent = gate.plain.stream(&[b"http/1.1"]).await;
    silent.write_all(post(1000).as_bytes()).await.expect("sent");
    assert_eq!(answer(&mut silent).await, "401");
    let began = now();
    let end = tokio::time::timeout(PROMPT, silent.read(&mut [0; 16])).await.expect("it is let go");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert!((1..6).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn who_waits_for_leave_is_refused_without_it_and_nothing_after_that_is_taken_for_a_body() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let before = gate.backend.count();
    let mut stream = gate.plain.stream(&[b"http/1.1"]).await;
    let head = post(100).replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    assert_eq!(answer(&mut stream).await, "401", "and no 100 before it");
    // What it sends now, a whole good request, is no body of the refused one: the connection is over.
    let next = format!("GET /api/v1/posts HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
    let _ = stream.write_all(next.as_bytes()).await;
    let mut rest = Vec::new();
    let ended = now();
    let _ = tokio::time::timeout(PROMPT, stream.read_to_end(&mut rest)).await.expect("it ends");
    assert!(ended.elapsed() < Duration::from_secs(1) && rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    assert_eq!(gate.backend.count(), before);
    // Leave is given once the request may pass.
    let mut stream = gate.plain.stream(&[b"http/1.1"]).await;
    let head = head.replace("\r\nexpect", &format!("\r\nauthorization: Bearer {token}\r\nexpect"));
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut leave = [0; 25];
    tokio::time::timeout(PROMPT, stream.read_exact(&mut leave)).await.expect("in time").expect("leave");
    assert_eq!(&leave, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&[b'x'; 100]).await.expect("sent");
    let mut status = [0; 12];
    tokio::time::timeout(PROMPT, stream.read_exact(&mut status)).await.expect("in time").expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 200");
}

#[tokio::test]
async fn over_http2_who_asks_first_is_refused_before_it_sends_and_passes_when_it_sends_unasked() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let mut raw = Raw::open(&gate.client).await;
    let bearer = format!("Bearer {token}");
    let head = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/api/v1/posts"),
        ("expect", "100-continue"),
        ("authorization", &bearer),
    ];
    raw.send(HEADERS, END_HEADERS, 1, &block(&head[..5])).await;
    assert_eq!(raw.told(1).await, frames::Told::Status(401));
    // hyper gives no leave in HTTP/2 (nor does nginx): a client waits for it a moment, and then sends (RFC 9110 section 10.1.1).
    raw.send(HEADERS, END_HEADERS, 3, &block(&head)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    raw.send(DATA, END_STREAM, 3, b"at last").await;
    assert_eq!(raw.told(3).await, frames::Told::Status(200));
    let seen = gate.backend.last();
    assert_eq!((&seen.body[..], seen.all("expect").len(), gate.backend.count()), (&b"at last"[..], 0, 1));
}
