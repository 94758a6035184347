//! Pages of other origins: what browsers are told, and that nobody is let in by it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::client::Answer;
use super::harness::{Gate, Setup};

const PAGE: &str = "https://app.example.com";
const CORS: &str =
    "[site.cors]\norigins = [\"https://app.example.com\", \"http://localhost:3000\"]\ncredentials = true\n";

async fn gate(cors: &str) -> Gate {
    Setup::default().site(cors).start().await.expect("SQLite")
}

fn allowed(answer: &Answer) -> Option<&str> {
    assert!(answer.headers.get_all("access-control-allow-origin").iter().count() < 2);
    answer.header("access-control-allow-origin")
}

fn varies(answer: &Answer) -> bool {
    answer.headers.get_all("vary").iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"origin"))
}

#[tokio::test]
async fn a_preflight_is_answered_without_a_credential_and_reaches_nobody() {
    let gate = gate(CORS).await;
    for path in ["/api/v1/posts", "/api/v1/auth/login", "/nowhere"] {
        let ask = |origin: &str| {
            let ask = gate.client.ask("OPTIONS", path).header("origin", origin);
            ask.header("access-control-request-method", "POST")
                .header("access-control-request-headers", "authorization")
        };
        let answer = ask(PAGE).send().await;
        assert_eq!((answer.status.as_u16(), allowed(&answer)), (204, Some(PAGE)), "{path}");
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
        assert!(answer.header("access-control-allow-methods").is_some_and(|list| list.contains("POST")));
        assert_eq!(answer.header("access-control-allow-headers"), Some("Authorization, Content-Type"));
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
        assert!(varies(&answer));
        assert_eq!(allowed(&ask("http://localhost:3000").send_http2().await), Some("http://localhost:3000"));
        for stranger in
            ["https://evil.example", "null", "https://app.example.com.evil.example", "http://app.example.com"]
        {
            let answer = ask(stranger).send().await;
            assert_eq!((answer.status.as_u16(), allowed(&answer)), (204, None), "{stranger}");
            assert!(answer.header("access-control-allow-methods").is_none() && varies(&answer));
        }
        let twice = ask(PAGE).header("origin", PAGE).send().await;
        assert_eq!(allowed(&twice), None, "two origins are none");
    }
    assert_eq!(gate.backend.count(), 0);
}

#[tokio::test]
async fn options_that_is_no_preflight_is_a_request_like_any_other() {
    let gate = gate(CORS).await;
    let token = gate.signed_in("ada@example.com").await;
    let plain = || gate.client.ask("OPTIONS", "/api/v1/posts");
    assert_eq!(plain().send().await.status, 401);
    assert_eq!(plain().header("origin", PAGE).send().await.status, 401);
    assert_eq!(plain().header("access-control-request-method", "GET").send().await.status, 401);
    assert_eq!(gate.backend.count(), 0);
    assert_eq!(plain().header("origin", PAGE).bearer(&token).send().await.status, 200);
    assert_eq!(gate.backend.last().method, "OPTIONS");
}

#[tokio::test]
async fn refusals_can_be_read_by_the_page_that_asked() {
    let gate = gate(&format!("{CORS}[site.plan.free]\nlimits = [\"1/1h\"]\n")).await;
    let token = gate.signed_in("ada@example.com").await;
    let get = |path: &'static str| gate.client.get(path).header("origin", PAGE);
    for (answer, status) in [
        (get("/api/v1/posts").send().await, 401),
        (get("/api/v1/posts").bearer("nonsense").send().await, 401),
        (get("/nowhere").send().await, 404),
        (get("/api/v1//posts").send().await, 400),
        (get("/api/v1/posts").bearer(&token).send().await, 200),
        (get("/api/v1/posts").bearer(&token).send().await, 429),
    ] {
        assert_eq!((answer.status.as_u16(), allowed(&answer)), (status, Some(PAGE)), "{}", answer.text());
        assert!(answer.header("access-control-expose-headers").is_some_and(|list| list.contains("Retry-After")));
        assert!(varies(&answer));
    }
    let stranger = gate.client.get("/api/v1/posts").header("origin", "https://evil.example").send().await;
    assert_eq!((stranger.status.as_u16(), allowed(&stranger)), (401, None));
    let elsewhere = gate.client.at_host("localhost").get("/api/v1/posts").send().await;
    assert_eq!(allowed(&elsewhere), None, "without an origin nothing is said");
}

/// A backend with words of its own about origins.
async fn talkative() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read(&mut [0; 4096]).await;
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\nvary: Accept\r\n\
                          access-control-allow-origin: *\r\naccess-control-allow-methods: PURGE\r\n\r\nok";
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    url
}

#[tokio::test]
async fn where_a_site_speaks_of_origins_its_backends_do_not() {
    let routes = format!(
        "[[site.route]]\nmatch = \"GET /open\"\npublic = true\nupstream = \"talkative\"\n\
         [site.upstream.talkative]\nservers = [\"{}\"]\n",
        talkative().await
    );
    let speaks = Setup::default().site(CORS).routes(&routes).start().await.expect("SQLite");
    let answer = speaks.client.get("/open").header("origin", PAGE).send().await;
    assert_eq!((answer.text().as_str(), allowed(&answer)), ("ok", Some(PAGE)));
    assert!(answer.header("access-control-allow-methods").is_none() && varies(&answer));
    let stranger = speaks.client.get("/open").header("origin", "https://evil.example").send().await;
    assert_eq!((stranger.text().as_str(), allowed(&stranger)), ("ok", None));

    let silent = Setup::default().routes(&routes).start().await.expect("SQLite");
    let answer = silent.client.get("/open").header("origin", PAGE).send().await;
    assert_eq!(allowed(&answer), Some("*"), "the backend's own");
    let preflight = silent.client.ask("OPTIONS", "/open").header("origin", PAGE);
    assert_eq!(preflight.header("access-control-request-method", "GET").send().await.status, 405);
}

#[tokio::test]
async fn every_origin_is_told_the_same_where_all_may_ask() {
    let gate = gate("[site.cors]\norigins = \"*\"\nexposed = []\n").await;
    let answer = gate.client.get("/api/v1/posts").header("origin", "https://anyone.example").send().await;
    assert_eq!((answer.status.as_u16(), allowed(&answer)), (401, Some("*")));
    assert!(answer.header("access-control-allow-credentials").is_none() && !varies(&answer));
    assert!(answer.header("access-control-expose-headers").is_none());
}
