//! Request bodies, from a real client connection through to the backend, and answers back to it.

use super::*;

/// Reads one chunked body, and whether it came to its end.
async fn chunked(wire: &mut Wire) -> (Vec<u8>, bool) {
    let (mut body, mut line) = (Vec::new(), Vec::new());
    loop {
        let mut byte = [0];
        if !wire.0.read(&mut byte).await.is_ok_and(|read| read == 1) {
            return (body, false);
        }
        line.push(byte[0]);
        if line.ends_with(b"\r\n") {
            let size = usize::from_str_radix(str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            if wire.0.read_exact(&mut chunk).await.is_err() {
                return (body, false);
            }
            if size == 0 {
                return (body, chunk == b"\r\n");
            }
            body.extend_from_slice(&chunk[..size]);
            line.clear();
        }
    }
}

/// A backend that reads one chunked request and tells what it got.
async fn listener() -> (Peer, tokio::sync::mpsc::UnboundedReceiver<(String, Vec<u8>, bool)>) {
    let (told, hears) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::play(move |_, mut wire| {
        let told = told.clone();
        async move {
            let head = wire.head().await;
            let (body, whole) = chunked(&mut wire).await;
            told.send((head, body, whole)).unwrap();
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    (peer, hears)
}

const CHUNKED: &str = "POST /up HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_body_arrives_whole_in_either_framing() {
    let front = Front::open(settings(&[echo_server().await]), PLENTY).await;
    let payload = "0123456789abcdef".repeat(64 * 1024);
    let mut client = front.connect().await;
    client.say(&format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", payload.len())).await;
    let (mut reads, mut writes) = client.0.split();
    let (sent, received) = tokio::join!(writes.write_all(payload.as_bytes()), async {
        let mut answer = vec![0; payload.len() + 64];
        within(reads.read_exact(&mut answer)).await.unwrap();
        String::from_utf8(answer).unwrap()
    });
    sent.unwrap();
    assert!(received.starts_with("HTTP/1.1 200 OK\r\n") && received.contains(&payload[..100_000]));

    let (peer, mut hears) = listener().await;
    let front = Front::open(peer.settings(), PLENTY).await;
    let mut client = front.connect().await;
    client.say(&format!("{CHUNKED}5\r\nhello\r\n")).await;
    client.say("6\r\n world\r\n0\r\n\r\n").await;
    let (head, body, whole) = within(hears.recv()).await.unwrap();
    assert!(head.contains("transfer-encoding: chunked\r\n") && !head.contains("content-length"), "{head}");
    assert_eq!((body.as_slice(), whole), (&b"hello world"[..], true));
    assert!(within(client.head()).await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn a_get_may_have_a_body_and_it_is_not_lost() {
    let (peer, mut hears) = listener().await;
    let front = Front::open(peer.settings(), PLENTY).await;
    let mut client = front.connect().await;
    client.say("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").await;
    let (_, body, whole) = within(hears.recv()).await.unwrap();
    assert_eq!((body.as_slice(), whole), (&b"hi"[..], true));
}

#[tokio::test]
async fn client_trailers_stay_here() {
    let (peer, mut hears) = listener().await;
    let front = Front::open(peer.settings(), PLENTY).await;
    let mut client = front.connect().await;
    client.say("POST / HTTP/1.1\r\nhost: a\r\ntrailer: x-user-id\r\ntransfer-encoding: chunked\r\n\r\n").await;
    client.say("2\r\nhi\r\n0\r\nx-user-id: root\r\n\r\n").await;
    let (head, body, whole) = within(hears.recv()).await.unwrap();
    assert_eq!((body.as_slice(), whole), (&b"hi"[..], true), "the end came right after the body");
    assert!(!head.contains("trailer") && head.contains("x-user-id: user_1\r\n"), "{head}");
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_and_never_complete_to_the_backend() {
    let (peer, mut hears) = listener().await;
    let front = Front::open(peer.settings(), Allowed { bytes: 8, ..PLENTY }).await;
    let mut client = front.connect().await;
    client.say(&format!("{CHUNKED}8\r\n12345678\r\n0\r\n\r\n")).await;
    assert!(within(client.head()).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(within(hears.recv()).await.map(|(_, body, whole)| (body.len(), whole)), Some((8, true)));

    let mut client = front.connect().await;
    client.say(&format!("{CHUNKED}8\r\n12345678\r\n1\r\n9\r\n0\r\n\r\n")).await;
    assert!(within(client.head()).await.starts_with("HTTP/1.1 413 "));
    assert_eq!(within(hears.recv()).await.map(|(_, body, whole)| (body.len(), whole)), Some((8, false)));

    let mut client = front.connect().await;
    client.say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n").await;
    assert!(within(client.head()).await.starts_with("HTTP/1.1 413 "), "an announced length is refused at once");
    assert_eq!(peer.accepted(), 2);
}

#[tokio::test]
async fn a_client_that_stops_sending_is_not_waited_for() {
    let (peer, mut hears) = listener().await;
    let patient = Settings { response_timeout: SHORT / 3, idle_timeout: SHORT / 3, ..peer.settings() };
    let front = Front::open(patient, Allowed { idle: SHORT, ..PLENTY }).await;
    let mut client = front.connect().await;
    // Slower than the backend's own deadlines allow an answer to be: those begin when the request has ended.
    client.say(CHUNKED).await;
    for _ in 0..5 {
        client.say("1\r\nx\r\n").await;
        tokio::time::sleep(SHORT / 2).await;
    }
    client.say("0\r\n\r\n").await;
    assert!(within(client.head()).await.starts_with("HTTP/1.1 200 "));
    assert!(within(hears.recv()).await.unwrap().2);

    let mut client = front.connect().await;
    client.say(&format!("{CHUNKED}1\r\nx\r\n")).await;
    assert!(within(client.head()).await.starts_with("HTTP/1.1 408 "));
    assert!(!within(hears.recv()).await.unwrap().2);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let (peer, mut hears) = listener().await;
    let front = Front::open(peer.settings(), PLENTY).await;
    let mut client = front.connect().await;
    client.say(&format!("{CHUNKED}1\r\nx\r\n")).await;
    eventually(|| peer.accepted() == 1).await;
    drop(client);
    let (_, body, whole) = within(hears.recv()).await.unwrap();
    assert_eq!((body.len(), whole), (1, false));
    eventually(|| front.pools.gauges()[0].open == 0).await;
}

#[tokio::test]
async fn a_backend_that_does_not_read_slows_the_client_and_is_given_up() {
    let peer = Peer::play(|_, mut wire| async move {
        wire.head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let to = Settings { idle_timeout: SHORT * 3, ..peer.settings() };
    let front = Front::open(to, PLENTY).await;
    let mut client = front.connect().await;
    client.say("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n").await;
    let chunk = vec![0; 64 * 1024];
    let (mut taken, (mut reads, mut writes)) = (0, client.0.split());
    let mut head = [0; 12];
    within(async {
        tokio::select! {
            answer = reads.read_exact(&mut head) => { answer.unwrap(); }
            () = async { while writes.write_all(&chunk).await.is_ok() { taken += chunk.len(); } std::future::pending().await } => {}
        }
    })
    .await;
    assert_eq!(&head, b"HTTP/1.1 504");
    // The kernel's socket buffers on both hops take some megabytes; the gateway's own take none to speak of.
    assert!(taken < 20_000_000, "{taken} of 1,000,000,000 bytes were taken for a backend that reads nothing");
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_the_backend() {
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let peer = Peer::play(move |_, mut wire| {
        let count = Arc::clone(&count);
        async move {
            wire.head().await;
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
            let chunk = vec![0; 64 * 1024];
            while wire.0.write_all(&chunk).await.is_ok() {
                count.fetch_add(chunk.len(), Ordering::SeqCst);
            }
        }
    })
    .await;
    let front = Front::open(peer.settings(), PLENTY).await;
    let mut client = front.connect().await;
    client.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    within(client.head()).await;
    tokio::time::sleep(SHORT * 3).await;
    let before = written.load(Ordering::SeqCst);
    assert!(before < 20_000_000, "{before}");
    within(client.exactly(50_000_000)).await;
    assert!(written.load(Ordering::SeqCst) > 40_000_000, "and goes on when the client does");
    drop(client);
    eventually(|| front.pools.gauges()[0].open == 0).await;
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_the_answer() {
    let peer = Peer::play(|_, mut wire| async move {
        wire.head().await;
        wire.say("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
        chunked(&mut wire).await;
        wire.head().await;
        wire.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    let front = Front::open(peer.settings(), PLENTY).await;
    let mut client = front.connect().await;
    client.say(&format!("{CHUNKED}1\r\nx\r\n")).await;
    assert!(within(client.head()).await.starts_with("HTTP/1.1 403 "));
    assert_eq!(within(client.exactly(2)).await, b"no");
    assert_eq!(front.pools.gauges()[0].idle, 0, "the request is not over");
    client.say("1\r\ny\r\n0\r\n\r\n").await;
    eventually(|| front.pools.gauges()[0].idle == 1).await;
    client.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(within(client.head()).await.starts_with("HTTP/1.1 200 "));
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn a_request_that_goes_on_after_its_answer_is_not_carried_forever() {
    for (answer, idle) in [
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno", PLENTY.idle),
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", SHORT),
    ] {
        let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let peer = Peer::play(move |_, mut wire| {
            let told = told.clone();
            async move {
                wire.head().await;
                wire.say(answer).await;
                told.send(chunked(&mut wire).await).unwrap();
            }
        })
        .await;
        let front = Front::open(Settings { idle_timeout: idle, ..peer.settings() }, PLENTY).await;
        let mut client = front.connect().await;
        client.say(&format!("{CHUNKED}1\r\nx\r\n")).await;
        assert!(within(client.head()).await.starts_with("HTTP/1.1 403 "));
        assert_eq!(within(client.exactly(2)).await, b"no");
        let cut =
            tokio::time::timeout(PLENTY.idle / 2, hears.recv()).await.expect("before the client's own time is up");
        assert_eq!(cut, Some((b"x".to_vec(), false)));
    }
}

#[tokio::test]
async fn a_broken_answer_reaches_the_client_broken() {
    for (answer, ends_with) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello", &b"hello"[..]),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", b"hello\r\n"),
    ] {
        let peer = Peer::once(answer).await;
        let front = Front::open(peer.settings(), PLENTY).await;
        let mut client = front.connect().await;
        client.say("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(within(client.head()).await.starts_with("HTTP/1.1 200 "));
        let (body, _) = within(client.rest()).await;
        assert!(body.ends_with(ends_with), "no last chunk, no sixth byte: {body:?}");
    }
    let whole = Peer::once("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    let front = Front::open(whole.settings(), PLENTY).await;
    let mut client = front.connect().await;
    client.say("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    within(client.head()).await;
    assert!(within(client.rest()).await.0.ends_with(b"hello\r\n0\r\n\r\n"));
}

#[tokio::test]
async fn a_head_request_keeps_the_length_it_asked_for() {
    let peer = Peer::always("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").await;
    let front = Front::open(peer.settings(), PLENTY).await;
    let mut client = front.connect().await;
    for _ in 0..2 {
        client.say("HEAD / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let head = within(client.head()).await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-length: 10\r\n"), "{head}");
    }
}
