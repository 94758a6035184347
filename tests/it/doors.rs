//! Ways that were open once, each beside the honest request that still passes.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::harness::{Gate, Setup};

const CATCH_ALL: &str = "[[site.route]]\nmatch = \"* /api/v1/{*rest}\"\nupstream = \"app\"\n";

#[tokio::test]
async fn a_public_route_does_not_open_what_a_guard_names_more_closely() {
    let routes = "[[site.route]]\nmatch = \"GET /pub/{*rest}\"\npublic = true\nupstream = \"app\"\n\
        [[site.route]]\nmatch = \"GET /api/v1/health\"\npublic = true\nupstream = \"app\"\n\
        [[site.guard]]\nmatch = \"GET /pub/secret/{id}\"\nplans = [\"pro\"]\n";
    let gate = Setup::default().routes(&format!("{routes}{CATCH_ALL}")).start().await.expect("SQLite");
    assert_eq!(gate.client.get("/pub/page").send().await.status, 200);
    assert_eq!(gate.client.get("/pub/secret/1").send().await.status, 401);
    assert_eq!(gate.client.get("/pub/SECRET/1").send().await.status, 401, "whatever the case");
    assert_eq!(gate.client.get("/api/v1/health").send().await.status, 200, "closer than the product's guard");
    let token = gate.signed_in("ada@example.com").await;
    assert_eq!(gate.client.get("/pub/secret/1").bearer(&token).send().await.status, 403);
}

#[tokio::test]
async fn a_sites_guard_adds_to_what_the_product_asks() {
    let routes =
        format!("[[site.guard]]\nmatch = \"POST /api/v1/reports/{{id}}/export\"\nplans = [\"free\"]\n{CATCH_ALL}");
    let gate = Setup::default().routes(&routes).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let (reader, _) = gate.api_key(&token, &["read:reports"]).await;
    let (writer, _) = gate.api_key(&token, &["write:reports"]).await;
    let export = |key: &str| gate.client.ask("POST", "/api/v1/reports/7/export").api_key(key).send();
    assert_eq!(export(&reader).await.status, 403);
    assert_eq!(export(&writer).await.status, 200);
}

#[tokio::test]
async fn a_method_in_lower_case_and_trace_are_refused() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    for method in ["post", "Post", "get", "TRACE"] {
        let answer = gate.client.ask(method, "/api/v1/posts").bearer(&token).send().await;
        assert_eq!(answer.status, 400, "{method}: {}", answer.text());
    }
    assert_eq!(gate.client.ask("POST", "/api/v1/posts").bearer(&token).send().await.status, 200);
    assert_eq!((gate.backend.count(), gate.backend.last().method.as_str()), (1, "POST"));
}

#[tokio::test]
async fn twenty_sign_ins_at_once_with_the_right_password_all_succeed() {
    let gate = Arc::new(Gate::start().await);
    gate.signed_in("ada@example.com").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let gate = Arc::clone(&gate);
        let body = json!({ "email": "ada@example.com", "password": "correct horse battery" });
        tasks.spawn(async move { gate.client.post("/api/v1/auth/login", &body).send().await.status.as_u16() });
    }
    assert_eq!(tasks.join_all().await, [200; 20]);
}

#[tokio::test]
async fn parallel_guesses_are_counted_one_by_one() {
    let gate = Arc::new(Gate::start().await);
    gate.signed_in("ada@example.com").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let gate = Arc::clone(&gate);
        let body = json!({ "email": "ada@example.com", "password": "a guess" });
        tasks.spawn(async move { gate.client.post("/api/v1/auth/login", &body).send().await.status.as_u16() });
    }
    let statuses = tasks.join_all().await;
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 10, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 30, "{statuses:?}");
}

#[tokio::test]
async fn an_event_stream_ends_within_a_second_of_its_sessions_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let backend = listener.local_addr().expect("its address");
    let events = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("the gateway");
        let mut request = [0; 4096];
        let _ = socket.read(&mut request).await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        socket.write_all(head.as_bytes()).await.expect("the head");
        // Until the gateway hangs up.
        while socket.write_all(b"9\r\ndata: 1\n\n\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let routes = format!(
        "[[site.route]]\nmatch = \"GET /api/v1/events\"\nupstream = \"events\"\n{CATCH_ALL}\
         [site.upstream.events]\nservers = [\"http://{backend}\"]\n"
    );
    let gate = Setup::default().routes(&routes).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let mut body = gate.client.get("/api/v1/events").bearer(&token).open().await;
    for _ in 0..30 {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.expect("an event in time");
        assert!(frame.expect("the stream goes on").is_ok());
    }
    assert_eq!(gate.operate("DELETE", "/users/ada@example.com/sessions", None).await.status, 200);
    let ended =
        tokio::time::timeout(Duration::from_millis(1500), async { while let Some(Ok(_)) = body.frame().await {} });
    ended.await.expect("the stream ends");
    tokio::time::timeout(Duration::from_secs(5), events).await.expect("the backend is let go").expect("no panic");
    assert_eq!(gate.metric("tollgate_streams_cut_total").await, Some(1.0));
}

#[tokio::test]
async fn a_key_cannot_be_made_on_a_decision_from_before_the_session_ended() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let body = r#"{"name": "late", "permissions": ["read:posts"]}"#;
    let mut stream = gate.client.stream(&[b"http/1.1"]).await;
    let head = format!(
        "POST /api/v1/api-keys HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("the head");
    stream.write_all(&body.as_bytes()[..5]).await.expect("some of the body");
    stream.flush().await.expect("sent");
    tokio::time::sleep(Duration::from_millis(200)).await;
    gate.operate("DELETE", "/users/ada@example.com/sessions", None).await;
    stream.write_all(&body.as_bytes()[5..]).await.expect("the rest");
    stream.flush().await.expect("sent");
    let mut answer = String::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let keys = gate.operate("GET", "/orgs/ada@example.com/keys", None).await.json();
    assert_eq!(keys["keys"], json!([]));
}

#[tokio::test]
async fn a_spent_plan_does_not_keep_a_leaked_key_alive() {
    let gate = Setup::default().site("[site.plan.free]\nlimits = [\"3/1h\"]").start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let (key, id) = gate.api_key(&token, &["read:posts"]).await;
    for _ in 0..2 {
        assert_eq!(gate.client.get("/api/v1/posts").api_key(&key).send().await.status, 200);
    }
    assert_eq!(gate.client.get("/api/v1/posts").api_key(&key).send().await.status, 429);
    let revoked = gate.client.ask("DELETE", &format!("/api/v1/api-keys/{id}")).bearer(&token).send().await;
    assert_eq!(revoked.status, 200, "{}", revoked.text());
    assert_eq!(revoked.header("x-ratelimit-remaining"), Some("0"));
    assert_eq!(gate.client.get("/api/v1/posts").api_key(&key).send().await.status, 401);
}
