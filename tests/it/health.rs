//! Health checks of backends in a whole gateway: what clients, metrics, the log and the operator see of them.

use std::time::Duration;

use serde_json::json;

use super::harness::{ADMIN_TOKEN, Gate, Setup};
use super::sockets::Memory;
use super::wire::now;

const CHECKS: &str = "[site.upstream.app.health]\npath = \"/well\"\ninterval = \"100ms\"\nfall = 2\n";

/// Waits until the one server of `app` is shown so.
async fn until(gate: &Gate, health: &str) {
    let begun = now();
    loop {
        let shown = gate.admin.get("/v1/upstreams").bearer(ADMIN_TOKEN).send().await.json();
        let server = &shown["upstreams"][0]["servers"][0];
        if server["health"] == health {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "not {health}: {shown}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_backend_that_is_gone_is_noticed_without_a_request_and_clients_are_told_at_once() {
    let log = Memory::default();
    let (logs, _writer) = log.open();
    let mut gate = Setup::default().site(CHECKS).logs(logs).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    until(&gate, "up").await;
    assert_eq!(gate.backend.last().path, "/well");
    assert_eq!(gate.client.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    gate.backend.stop();
    until(&gate, "down").await;
    let begun = now();
    let refused = gate.client.get("/api/v1/posts").bearer(&token).send().await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!((refused.status.as_u16(), refused.string("/error").as_str()), (503, "service_unavailable"));
    let server = gate.backend.url();
    let labels = format!("server=\"{server}\",site=\"vantage\",upstream=\"app\"");
    assert_eq!(gate.metric(&format!("tollgate_upstream_server_healthy{{{labels}}}")).await, Some(0.0));
    let failed = gate.metric(&format!("tollgate_upstream_checks_total{{result=\"connect_failed\",{labels}}}")).await;
    assert!(failed >= Some(2.0), "{failed:?}");
    let unhealthy = "tollgate_upstream_requests_total{outcome=\"unhealthy\",site=\"vantage\",upstream=\"app\"}";
    assert_eq!(gate.metric(unhealthy).await, Some(1.0));
    let line = log.lines("/api/v1/posts", 2).await.pop().expect("two lines");
    assert_eq!(line["fault"], "no server of app is well: all fail their health checks");
    // The gateway itself is ready: it signs in, refuses, and serves what other upstreams there are.
    assert_eq!(gate.admin.get("/readyz").send().await.status, 200);
    gate.drain().await;
}

#[tokio::test]
async fn the_operator_sees_how_servers_stand_and_nobody_else_does() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    gate.client.get("/api/v1/posts").bearer(&token).send().await;
    let shown = gate.admin.get("/v1/upstreams").bearer(ADMIN_TOKEN).send().await;
    let server = json!({
        "server": gate.backend.url(), "weight": 1, "health": null, "ejected": false,
        "connections": 1, "idle": 1, "in_flight": 0, "waiting": 0,
    });
    assert_eq!(shown.json(), json!({ "upstreams": [{ "site": "vantage", "upstream": "app", "servers": [server] }] }));
    assert_eq!(gate.admin.get("/v1/upstreams").send().await.status, 401);
    assert_eq!(gate.admin.ask("POST", "/v1/upstreams").bearer(ADMIN_TOKEN).send().await.status, 405);
    assert_ne!(gate.client.get("/v1/upstreams").bearer(ADMIN_TOKEN).send().await.status, 200);
}
