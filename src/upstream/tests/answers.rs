//! What backends answer, rightly and wrongly.

use super::*;
use crate::upstream::{Overrides, SendError};

async fn send(to: &Settings, request: Request<Body>) -> Result<Response<Body>, SendError> {
    within(Pools::new(None).send(to, request, None)).await
}

/// The answer's text, or how its body failed.
async fn said(answer: &'static str) -> Result<String, BodyError> {
    let peer = Peer::once(answer).await;
    text(send(&peer.settings(), get("/")).await.unwrap()).await
}

/// Why there was no answer at all.
async fn refused(answer: &'static str) -> SendError {
    let peer = Peer::once(answer).await;
    send(&peer.settings(), get("/")).await.expect_err(answer)
}

#[tokio::test]
async fn a_whole_answer_passes_in_each_framing() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\n\r\nhello",
    ] {
        assert_eq!(said(answer).await.unwrap(), "hello", "{answer}");
    }
}

#[tokio::test]
async fn a_broken_off_answer_never_looks_complete() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello",
    ] {
        assert!(matches!(said(answer).await, Err(BodyError::BackendLost(_))), "{answer}");
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_the_connection_must_not_end_with_a_reset() {
    let peer = Peer::play(|_, mut wire| async move {
        wire.head().await;
        wire.say("HTTP/1.1 200 OK\r\n\r\nhello").await;
        tokio::time::sleep(SHORT).await;
        wire.reset();
    })
    .await;
    let answer = send(&peer.settings(), get("/")).await.unwrap();
    assert!(matches!(text(answer).await, Err(BodyError::BackendLost(_))));
}

#[tokio::test]
async fn nonsense_is_not_forwarded() {
    for answer in [
        "hello\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad name: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nname: a\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
    ] {
        let error = refused(answer).await;
        assert!(matches!(error, SendError::Nonsense(_)), "{answer}: {error:?}");
        assert_eq!(error.problem(), Problem::BadGateway);
    }
    for answer in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    ] {
        assert!(matches!(refused(answer).await, SendError::Unacceptable(_)), "{answer}");
    }
}

#[tokio::test]
async fn a_head_without_end_is_not_collected() {
    let peer = Peer::play(|_, mut wire| async move {
        wire.head().await;
        wire.say("HTTP/1.1 200 OK\r\n").await;
        let line = format!("x: {}\r\n", "y".repeat(8192));
        for _ in 0..64 {
            wire.say(&line).await;
        }
    })
    .await;
    assert!(matches!(send(&peer.settings(), get("/")).await, Err(SendError::Nonsense(_) | SendError::Closed(_))));
    let long = Peer::play(|_, mut wire| async move {
        wire.head().await;
        wire.say(&format!("HTTP/1.1 204 OK\r\nx: {}\r\n\r\n", "y".repeat(16_000))).await;
    })
    .await;
    assert_eq!(send(&long.settings(), get("/")).await.unwrap().headers()["x"].len(), 16_000);
}

#[tokio::test]
async fn a_backend_that_closes_without_a_word_is_a_bad_gateway() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-le"] {
        let error = refused(answer).await;
        assert!(matches!(error, SendError::Closed(_)), "{error:?}");
        assert_eq!((error.name(), error.problem()), ("closed", Problem::BadGateway));
    }
}

#[tokio::test]
async fn a_backend_that_hangs_or_drips_its_head_is_given_up_in_time() {
    let hangs = Peer::play(|_, mut wire| async move { wire.closed().await }).await;
    let drips = Peer::play(|_, mut wire| async move {
        wire.head().await;
        for byte in "HTTP/1.1 200 OK\r\nx: y\r\n".repeat(100).chars() {
            wire.say(&byte.to_string()).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for peer in [hangs, drips] {
        let to = Settings { response_timeout: SHORT, ..peer.settings() };
        let error = send(&to, get("/")).await.unwrap_err();
        assert!(matches!(error, SendError::ResponseTimeout), "{error:?}");
        assert_eq!(error.problem(), Problem::GatewayTimeout);
    }
    let slow = Peer::play(|_, mut wire| async move {
        wire.head().await;
        tokio::time::sleep(SHORT).await;
        wire.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    })
    .await;
    assert_eq!(text(send(&slow.settings(), get("/")).await.unwrap()).await.unwrap(), "ok");
    // A route's own patience goes before the upstream's.
    let to = slow.settings();
    let hurry = Overrides { response: Some(Duration::from_millis(20)), ..Overrides::default() };
    let hasty = within(Pools::new(None).send(&to, get("/"), Some(&hurry))).await;
    assert!(matches!(hasty, Err(SendError::ResponseTimeout)));
}

#[tokio::test]
async fn a_body_may_take_its_time_but_not_stand_still() {
    let script = |pause: Duration| {
        move |_, mut wire: Wire| async move {
            wire.head().await;
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n").await;
            for byte in ["h", "e", "l", "l", "o", "!"] {
                tokio::time::sleep(pause).await;
                wire.say(byte).await;
            }
            wire.closed().await;
        }
    };
    let drips = Peer::play(script(SHORT / 3)).await;
    let to = Settings { idle_timeout: SHORT, ..drips.settings() };
    assert_eq!(text(send(&to, get("/")).await.unwrap()).await.unwrap(), "hello!");
    let stalls = Peer::play(script(SHORT * 10)).await;
    let to = Settings { idle_timeout: SHORT, ..stalls.settings() };
    assert!(matches!(text(send(&to, get("/")).await.unwrap()).await, Err(BodyError::BackendStalled)));
}

#[tokio::test]
async fn interim_answers_are_not_the_answer() {
    let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok";
    let peer = Peer::once(answer).await;
    let response = send(&peer.settings(), get("/")).await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers().get("link")), (201, None));
    assert_eq!(text(response).await.unwrap(), "ok");
}

#[tokio::test]
async fn answers_without_a_body_end_at_their_head() {
    let pools = Pools::new(None);
    for (method, answer, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", Some("10")),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n", Some("10")),
        ("GET", "HTTP/1.1 204 No Content\r\ncontent-length: 10\r\n\r\n", None),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Some("0")),
    ] {
        let peer = Peer::always(answer).await;
        for _ in 0..2 {
            let mut request = get("/");
            *request.method_mut() = method.parse().unwrap();
            let response = within(pools.send(&peer.settings(), request, None)).await.unwrap();
            assert_eq!(response.headers().get("content-length").map(|value| value.to_str().unwrap()), length);
            assert!(matches!(response.body(), Body::Empty));
        }
        assert_eq!(peer.accepted(), 1, "the connection is used again");
    }
}

#[tokio::test]
async fn trailers_pass_without_what_belongs_into_a_head() {
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nok\r\n0\r\nx-sum: 7\r\ncontent-length: 5\r\nconnection: x\r\n\r\n";
    let peer = Peer::always(answer).await;
    let pools = Pools::new(None);
    for _ in 0..2 {
        let response = within(pools.send(&peer.settings(), get("/"), None)).await.unwrap();
        assert_eq!(response.headers()["trailer"], "x-sum");
        let whole = within(response.into_body().collect()).await.unwrap();
        let trailers = whole.trailers().unwrap();
        assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &HeaderValue::from_static("7")));
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn what_cannot_be_reached_says_so() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = send(&settings(&[gone]), get("/")).await.unwrap_err();
    assert!(matches!(&error, SendError::Connect { server, .. } if *server == format!("http://{gone}")), "{error:?}");
    assert_eq!(error.problem(), Problem::BadGateway);
    for bad in ["ftp://127.0.0.1", "https://127.0.0.1", "/nowhere"] {
        let to = Settings { servers: vec![Server::new(Address::Url(bad.parse().unwrap()))], ..settings(&[gone]) };
        assert!(matches!(send(&to, get("/")).await, Err(SendError::Connect { .. })), "{bad}");
    }
    assert!(matches!(send(&settings(&[]), get("/")).await, Err(SendError::Connect { .. })));
}
