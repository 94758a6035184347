//! The attacks of the field, byte for byte, and what the backend saw of them.

use super::*;

/// Everything that the backend read while `request` was sent, and the client's status line.
async fn sees(request: &str) -> (String, String) {
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::play(move |_, mut wire| {
        let told = told.clone();
        async move {
            loop {
                let head = wire.head().await;
                if head.is_empty() {
                    return;
                }
                told.send(head).unwrap();
                wire.say("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let front = Front::open(peer.settings(), PLENTY).await;
    let mut client = front.connect().await;
    client.say(request).await;
    let status = within(client.head()).await.lines().next().unwrap_or_default().to_owned();
    // Time for a second answer, were there one.
    let _quiet = tokio::time::timeout(SHORT / 3, client.closed()).await;
    drop(client);
    drop(front);
    drop(peer);
    let mut seen = String::new();
    while let Ok(Some(head)) = tokio::time::timeout(SHORT / 3, hears.recv()).await {
        seen.push_str(&head);
    }
    (seen, status)
}

fn count(seen: &str, what: &str) -> usize {
    seen.to_lowercase().matches(what).count()
}

#[tokio::test]
async fn exactly_one_identity_reaches_the_backend_and_it_is_ours() {
    for lie in [
        "X-User-Id: root",
        "X_User_Id: root",
        "x-user_id: root",
        "X-USER-ID: root\r\nX-User-Id: root",
        "X-User-Id:",
        "X.User.Id: root",
        "X-User-Id: a\r\nConnection: X-User-Id",
        "Connection: close, x-user-id, X-Forwarded-For",
        "connection: X-USER-ID",
    ] {
        let (seen, status) = sees(&format!("GET / HTTP/1.1\r\nhost: a\r\n{lie}\r\nx-honest: 1\r\n\r\n")).await;
        assert!(status.contains("200"), "{lie}: {status}");
        assert_eq!(count(&seen, "x-user-id: user_1\r\n"), 1, "{lie}: {seen}");
        assert_eq!((count(&seen, "root"), count(&seen, "user_id"), count(&seen, "user.id")), (0, 0, 0), "{seen}");
        assert_eq!(count(&seen, "x-forwarded-for: 203.0.113.9\r\n"), 1, "{seen}");
        assert_eq!(count(&seen, "x-honest: 1\r\n"), 1, "{seen}");
    }
    // Line folding is not HTTP any more: nothing is forwarded.
    let (seen, status) = sees("GET / HTTP/1.1\r\nhost: a\r\nx-a: b\r\n X-User-Id: root\r\n\r\n").await;
    assert_eq!((seen.as_str(), status.contains("400")), ("", true));
}

#[tokio::test]
async fn one_request_in_is_at_most_one_request_out() {
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    for (attack, head) in [
        ("CL.TE", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("TE.CL", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n"),
        ("TE twice", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n"),
        ("TE odd", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n"),
        ("TE list", "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        ("TE by underscore", "GET / HTTP/1.1\r\nhost: a\r\ntransfer_encoding: chunked\r\n\r\n"),
        ("TE in 1.0", "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("CL twice", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\ncontent-length: 40\r\n\r\n"),
        ("CL odd", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +0\r\n\r\n"),
        ("CL by connection", "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\nconnection: content-length\r\n\r\n"),
        ("Host twice", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
        ("Host disagrees", "GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("bare LF", "GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n"),
        ("space before colon", "GET / HTTP/1.1\r\nhost: a\r\ncontent-length : 40\r\n\r\n"),
        ("CONNECT", "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n"),
        (
            "h2c",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
        ),
        (
            "bytes after Upgrade",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        ),
    ] {
        let (seen, status) = sees(&format!("{head}{smuggled}")).await;
        for gone in ["h2c", "http2-settings", "gzip", "transfer_encoding", "content-length: 4"] {
            assert_eq!(count(&seen, gone), 0, "{attack}: {seen}");
        }
        // What follows is a request of its own: it carries our word on who asks, or it was not forwarded.
        assert_eq!(count(&seen, " http/1.1\r\n"), count(&seen, "x-user-id: user_1\r\n"), "{attack}: {seen}");
        assert!(status.contains("200") || status.contains("400"), "{attack}: {status}");
    }
    let (seen, _) = sees(&format!("GET /honest HTTP/1.1\r\nhost: a\r\n\r\n{smuggled}")).await;
    assert_eq!((count(&seen, "get /honest "), count(&seen, "get /smuggled ")), (1, 1), "two requests are two");
}

#[tokio::test]
async fn the_path_that_is_decided_on_is_the_path_that_is_sent() {
    for (target, sent) in [
        ("/a%7Eb?x=%2e%2e/&y=//", "GET /a~b?x=%2e%2e/&y=// HTTP/1.1"),
        ("/admin#/public", "GET /admin HTTP/1.1"),
        ("http://a/x", "GET /x HTTP/1.1"),
        ("/a[1]", "GET /a%5B1%5D HTTP/1.1"),
    ] {
        let (seen, _) = sees(&format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert_eq!(seen.lines().next(), Some(sent));
    }
    for target in ["/public/../admin", "/%2e%2e/admin", "/a%2fb", "/a%252fb", "//a", "/a;b", "/a\\b", "/a%00", "*"] {
        let (seen, status) = sees(&format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert_eq!((seen.as_str(), status.contains("400")), ("", true), "{target}: {status}");
    }
}

#[tokio::test]
async fn expect_is_answered_here_and_te_says_only_what_we_can_do() {
    let (seen, status) = sees("POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!((count(&seen, "expect"), count(&seen, "content-length: 0\r\n")), (0, 1), "{seen}");
    assert!(status.contains("200"), "{status}");
    let (seen, _) = sees("GET / HTTP/1.1\r\nhost: a\r\nte: gzip, trailers\r\n\r\n").await;
    assert_eq!((count(&seen, "\r\nte: trailers\r\n"), count(&seen, "gzip")), (1, 0), "{seen}");
}
