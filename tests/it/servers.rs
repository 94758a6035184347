//! Which of an upstream's servers had a request: in the access log, and in the gauges of each.

use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::backend::Backend;
use super::harness::Setup;
use super::reload::{GENERATION, POSTS, WATCH, edit, home, metric, signed_in, until};
use super::sockets::Memory;

/// Where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    format!("http://{}", listener.local_addr().expect("its address"))
}

#[tokio::test]
async fn the_access_log_names_the_server_that_answered_or_was_asked_last() {
    let (gone, other) = (nobody().await, Backend::start().await);
    let log = Memory::default();
    let (logs, _writer) = log.open();
    let routes = format!(
        "[[site.route]]\nmatch = \"* /both\"\npublic = true\nupstream = \"both\"\n\
         [[site.route]]\nmatch = \"* /gone\"\npublic = true\nupstream = \"gone\"\n\
         [[site.route]]\nmatch = \"* /short\"\npublic = true\nupstream = \"both\"\nmax_body = \"1KiB\"\n\
         [[site.route]]\nmatch = \"* /api/v1/{{*rest}}\"\nupstream = \"app\"\n\
         [site.upstream.both]\nservers = [\"{gone}\", \"{}\"]\n\
         [site.upstream.gone]\nservers = [\"{gone}\"]\n",
        other.url()
    );
    let gate = Setup::default().routes(&routes).logs(logs).start().await.expect("SQLite");
    for _ in 0..8 {
        assert_eq!(gate.client.get("/both").send().await.status, 200);
    }
    let lines = log.lines("/both", 8).await;
    assert!(lines.iter().all(|line| line["server"] == other.url() && line["upstream"] == "both"), "{lines:?}");
    assert_eq!(gate.client.get("/gone").send().await.status, 502);
    let line = log.lines("/gone", 1).await.remove(0);
    assert_eq!((&line["server"], &line["problem"]), (&json!(gone), &json!("bad_gateway")), "{line}");
    // Nobody was asked: refused before, or answered here.
    assert_eq!(gate.client.get(POSTS).send().await.status, 401);
    assert_eq!(gate.client.get("/api/v1/api-keys").send().await.status, 401);
    assert_eq!(gate.client.post("/short", &json!("x".repeat(2000))).send().await.status, 413);
    for path in [POSTS, "/api/v1/api-keys", "/short"] {
        let line = log.lines(path, 1).await.remove(0);
        assert_eq!((&line["server"], &line["upstream"]), (&Value::Null, &Value::Null), "{line}");
    }
}

#[tokio::test]
async fn a_server_that_a_reload_takes_out_is_not_shown_any_more() {
    let (first, second) = (Backend::start().await, Backend::start().await);
    let home = home(&first, WATCH, "");
    let served = home.start().await;
    let token = signed_in(&served.http, "ada@example.com").await;
    let gauges = |backend: &Backend| {
        let url = backend.url();
        [
            format!("tollgate_upstream_endpoint{{endpoint=\"{url}\",state=\"open\"}}"),
            format!("tollgate_upstream_endpoint_up{{endpoint=\"{url}\"}}"),
        ]
    };
    let shown = async |backend: &Backend| {
        let [open, up] = gauges(backend);
        (metric(&served, &open).await, metric(&served, &up).await)
    };
    let ask = async || assert_eq!(served.http.get(POSTS).bearer(&token).send().await.status, 200);
    ask().await;
    assert_eq!((shown(&first).await, shown(&second).await), ((Some(1.0), Some(1.0)), (None, None)));
    edit(&home, "gateway.toml", &first.url(), &second.url());
    until(&served, GENERATION, 2.0).await;
    assert_eq!(shown(&first).await, (None, None));
    ask().await;
    assert_eq!((shown(&first).await, shown(&second).await), ((None, None), (Some(1.0), Some(1.0))));
    // Named again, it begins anew.
    edit(&home, "gateway.toml", &second.url(), &first.url());
    until(&served, GENERATION, 3.0).await;
    ask().await;
    assert_eq!((shown(&first).await, shown(&second).await), ((Some(1.0), Some(1.0)), (None, None)));
    served.process.stop().await.good();
}
