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

/// A backend whose first answer of all is `answer`, whatever was asked, and that then speaks to the point.
async fn odd(answer: &'static str) -> Peer {
    Peer::play(move |nth, mut wire| async move {
        if nth == 0 {
            wire.head().await;
            wire.say(answer).await;
        }
        while !wire.head().await.is_empty() {
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await
}

#[tokio::test]
async fn a_body_where_none_may_be_is_nobodys_and_its_connection_nobodys_either() {
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    for (method, head) in [
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\ncontent-length: 4\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 4\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 51\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\n\r\n"),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
    ] {
        let peer = odd(format!("{head}{evil}").leak()).await;
        let (pools, to) = (Pools::new(None), peer.settings());
        let mut request = get("/");
        *request.method_mut() = method.parse().unwrap();
        match within(pools.send(&to, request, None)).await {
            Ok(answer) => assert_eq!(text(answer).await.unwrap(), "", "{method} {head}"),
            Err(error) => assert_eq!(error.problem(), Problem::BadGateway, "{method} {head}: {error:?}"),
        }
        // The backend is quick: what it sent too much is there before the next request is.
        tokio::time::sleep(SHORT / 10).await;
        for _ in 0..2 {
            assert_eq!(ask(&pools, &to, get("/")).await, "ok", "{method} {head}");
        }
        assert_eq!(peer.accepted(), 2, "{method} {head}: on a new connection, from its beginning");
    }
}

#[tokio::test]
async fn heads_that_two_readers_would_read_differently_are_no_answers() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5, 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 0x5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nx: a\rcontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length : 5\r\n\r\nhello",
        "HTTP/1.1 2000 OK\r\n\r\nhello",
        "HTTP/1.1 099 Low\r\n\r\nhello",
        "HTTP/3.1 200 OK\r\n\r\nhello",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\nhello",
    ] {
        let error = refused(answer).await;
        assert!(matches!(error, SendError::Nonsense(_) | SendError::Unacceptable(_)), "{answer}: {error:?}");
        assert_eq!(error.problem(), Problem::BadGateway);
    }
    let many: &'static str = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(1000)).leak();
    assert!(matches!(refused(many).await, SendError::Nonsense(_)), "a thousand headers");
    let fair: &'static str =
        format!("HTTP/1.1 200 OK\r\n{}content-length: 5\r\n\r\nhello", "x: y\r\n".repeat(90)).leak();
    assert_eq!(said(fair).await.unwrap(), "hello");
}

/// A backend that says `begun` and then `flood` without end; the second hears when it could not go on.
async fn flooding(begun: &'static str, flood: String) -> (Peer, tokio::sync::mpsc::UnboundedReceiver<()>) {
    let (told, hears) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::play(move |_, mut wire| {
        let (told, flood) = (told.clone(), flood.clone());
        async move {
            wire.head().await;
            wire.say(begun).await;
            while wire.0.write_all(flood.as_bytes()).await.is_ok() {}
            told.send(()).unwrap();
        }
    })
    .await;
    (peer, hears)
}

#[tokio::test]
async fn a_flood_of_interim_answers_is_no_answer_and_a_drip_of_them_ends_when_the_answer_is_due() {
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"] {
        let (peer, mut hears) = flooding("", interim.repeat(1000)).await;
        let pools = Pools::new(None);
        let error = within(pools.send(&peer.settings(), get("/"), None)).await.unwrap_err();
        assert!(matches!(error, SendError::Nonsense(_)), "not after 5 s: {error:?}");
        assert_eq!(error.problem(), Problem::BadGateway);
        within(hears.recv()).await.expect("the connection is cut");
        eventually(|| pools.gauges()[0].open == 0).await;
        // Far more than anybody needs, and each request has as many.
        let many = interim.repeat(1000);
        let peer = Peer::play(move |_, mut wire| {
            let many = many.clone();
            async move {
                while !wire.head().await.is_empty() {
                    wire.say(&many).await;
                    wire.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                }
            }
        })
        .await;
        for _ in 0..30 {
            assert_eq!(ask(&pools, &peer.settings(), get("/")).await, "ok");
        }
        assert_eq!(peer.accepted(), 1, "on one connection");
        let drips = Peer::play(move |_, mut wire| async move {
            wire.head().await;
            loop {
                wire.say(interim).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        let to = Settings { response_timeout: SHORT, ..drips.settings() };
        let error = within(pools.send(&to, get("/"), None)).await.unwrap_err();
        assert!(matches!(error, SendError::ResponseTimeout), "{error:?}");
    }
}

#[tokio::test]
async fn an_answer_may_be_as_long_as_it_likes_once_its_head_is_here() {
    const LONG: usize = 4 * super::super::ahead::MOST;
    let peer = Peer::play(|_, mut wire| async move {
        while !wire.head().await.is_empty() {
            wire.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: {LONG}\r\n\r\n{}", "x".repeat(LONG))).await;
        }
    })
    .await;
    let pools = Pools::new(None);
    for _ in 0..2 {
        assert_eq!(ask(&pools, &peer.settings(), get("/")).await.len(), LONG);
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn what_a_chunked_answer_may_say_beside_its_data_is_bounded() {
    const BEGUN: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n";
    for (first, more) in [
        ("0\r\n", "x-more: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n"),
        ("2;", "more=yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy;"),
        ("", "00000000000000000000000000000000000000000000000000"),
    ] {
        let (peer, mut hears) = flooding(format!("{BEGUN}{first}").leak(), more.repeat(1000)).await;
        let to = Settings { idle_timeout: SHORT, ..peer.settings() };
        let answer = within(Pools::new(None).send(&to, get("/"), None)).await.unwrap();
        let broken = text(answer).await;
        assert!(matches!(broken, Err(BodyError::BackendLost(_) | BodyError::BackendStalled)), "{more}: {broken:?}");
        within(hears.recv()).await.expect("the connection is cut");
    }
}
