//! Spans: what is recorded of a request, that it arrives, and that nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_rustls::TlsAcceptor;
use tollgate::model::time::{Clock, SystemClock};

use super::collector::{Collector, Mood, attribute, hex, of_kind};
use super::harness::{ADMIN_TOKEN, Gate, Setup};
use super::process::{Home, Plan};
use super::reload::edit;
use super::sockets::{Sockets, open};
use super::wire::now;

const PUBLIC: &str = "[[site.route]]\nmatch = \"* /open/{*rest}\"\npublic = true\nupstream = \"app\"\n\
                      [[site.route]]\nmatch = \"* /api/v1/{*rest}\"\nupstream = \"app\"\n";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const ERROR: i32 = 2;

async fn gate(tracing: &str) -> Gate {
    Setup::default().routes(PUBLIC).top(tracing).start().await.expect("SQLite is always there")
}

async fn ask(gate: &Gate, path: &str) {
    let answer = gate.client.get(path).send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// A gauge of ours, once it is so high.
async fn reaches(gate: &Gate, line: &str, least: f64) {
    let wait = async {
        while gate.metric(line).await.expect("a series") < least {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), wait).await.unwrap_or_else(|_| panic!("{line} stays below {least}"));
}

#[tokio::test]
async fn a_request_is_a_span_and_what_its_backend_is_asked_another() {
    let collector = Collector::start().await;
    let more = "service = \"edge\"\nresource = { \"deployment.environment.name\" = \"test\" }\n\
                headers = { x-tenant = \"acme\" }\ntoken = \"collector-token-0123456789\"";
    let gate = gate(&collector.tracing(more)).await;
    let answer = gate.client.get("/open/a?b=c").send().await;
    let spans = collector.spans(2).await;
    let (server, client) = (of_kind(&spans, SERVER), of_kind(&spans, CLIENT));
    let seen = gate.backend.last();
    let told = seen.one("traceparent").expect("exactly one");
    assert_eq!(told, format!("00-{}-{}-03", hex(&server.trace_id), hex(&client.span_id)));
    assert_eq!((&client.trace_id, &client.parent_span_id), (&server.trace_id, &server.span_id));
    assert!(server.parent_span_id.is_empty() && server.span_id != client.span_id, "the trace begins here");
    assert_eq!((server.flags, client.flags), (0x103, 0x103));
    let wall = u64::try_from(SystemClock::new().now().wall.millis()).expect("after 1970") * 1_000_000;
    let order = [server.start_time_unix_nano, client.start_time_unix_nano, client.end_time_unix_nano];
    assert!(order.is_sorted() && client.end_time_unix_nano <= server.end_time_unix_nano, "{spans:?}");
    assert!(server.end_time_unix_nano <= wall + 2_000_000 && wall - server.start_time_unix_nano < 20_000_000_000);

    assert_eq!((server.name.as_str(), client.name.as_str()), ("GET /open/{*rest}", "GET"));
    assert!(server.status.is_none() && client.status.is_none());
    let at = |name: &str| attribute(&server.attributes, name).unwrap_or_default();
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "* /open/{*rest}"),
        ("http.response.status_code", "200"),
        ("url.path", "/open/a"),
        ("url.scheme", "https"),
        ("network.protocol.version", "1.1"),
        ("server.address", "localhost"),
        ("client.address", "127.0.0.1"),
        ("tollgate.site", "vantage"),
        ("tollgate.request_id", answer.header("x-request-id").expect("an id")),
        ("tollgate.problem", ""),
        ("error.type", ""),
    ] {
        assert_eq!(at(name), value, "{name}");
    }
    let at = |name: &str| attribute(&client.attributes, name).unwrap_or_default();
    for (name, value) in [
        ("http.response.status_code", "200"),
        ("tollgate.upstream", "app"),
        ("server.address", "127.0.0.1"),
        ("server.port", &gate.backend.address.port().to_string()),
        ("http.request.resend_count", ""),
    ] {
        assert_eq!(at(name), value, "{name}");
    }
    let post = collector.posts().remove(0);
    assert_eq!(post.path, "/v1/traces");
    let header = |name: &str| post.headers.get(name).map(|value| value.to_str().expect("ASCII").to_owned());
    assert_eq!(header("content-type").as_deref(), Some("application/x-protobuf"));
    assert_eq!(header("authorization").as_deref(), Some("Bearer collector-token-0123456789"));
    assert_eq!((header("x-tenant").as_deref(), header("host")), (Some("acme"), Some(collector.address.to_string())));
    let of = |name: &str| attribute(&post.resource, name);
    assert_eq!((of("service.name"), of("deployment.environment.name")), (Some("edge".into()), Some("test".into())));
    assert!(of("service.version").is_some() && of("service.instance.id").is_some_and(|id| id.len() == 36));
    reaches(&gate, "tollgate_trace_spans_exported_total", 2.0).await;
}

#[tokio::test]
async fn a_continued_trace_is_recorded_as_its_sender_says() {
    let collector = Collector::start().await;
    let gate = gate(&collector.tracing("trust = \"always\"")).await;
    for (flags, path) in [("00", "/open/no"), ("01", "/open/yes")] {
        let parent = format!("00-{TRACE}-{SPAN}-{flags}");
        let answer = gate.client.get(path).header("traceparent", &parent).send().await;
        assert_eq!(answer.status, 200);
        let told = gate.backend.last().one("traceparent").expect("one").to_owned();
        assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with(&format!("-{flags}")), "{told}");
        assert_ne!(&told[36..52], SPAN, "the backend's parent is the gateway");
    }
    let spans = collector.spans(2).await;
    let server = of_kind(&spans, SERVER);
    assert_eq!((hex(&server.trace_id), hex(&server.parent_span_id)), (TRACE.to_owned(), SPAN.to_owned()));
    assert_eq!(attribute(&server.attributes, "url.path").as_deref(), Some("/open/yes"));
    assert_eq!(server.flags, 0x301, "its parent is elsewhere");
}

#[tokio::test]
async fn what_is_not_sampled_is_not_sent() {
    let collector = Collector::start().await;
    let tracing = collector.tracing("").replace("sample_ratio = 1", "sample_ratio = 0");
    let mut gate = gate(&tracing).await;
    for _ in 0..5 {
        ask(&gate, "/open/x").await;
        assert!(gate.backend.last().one("traceparent").is_some_and(|own| own.ends_with("-02")));
    }
    gate.drain().await;
    assert!(collector.posts().is_empty(), "{:?}", collector.posts());
}

#[tokio::test]
async fn refusals_and_failures_are_told_apart() {
    let collector = Collector::start().await;
    let gate = gate(&collector.tracing("")).await;
    assert_eq!(gate.client.get("/api/v1/posts").bearer("a.b.c").send().await.status, 401);
    assert_eq!(gate.client.get("/nowhere").send().await.status, 404);
    let spans = collector.spans(2).await;
    assert!(spans.iter().all(|span| span.kind == SERVER && span.status.is_none()), "no backend was asked: {spans:?}");
    let mut problems: Vec<_> = spans.iter().map(|span| attribute(&span.attributes, "tollgate.problem")).collect();
    problems.sort();
    assert_eq!(problems, [Some("invalid_token".to_owned()), Some("not_found".to_owned())]);
    gate.backend.stop();
    assert_eq!(gate.client.get("/open/down").send().await.status, 502);
    let spans = collector.spans(4).await.split_off(2);
    let (server, client) = (of_kind(&spans, SERVER), of_kind(&spans, CLIENT));
    for (span, error) in [(&server, "bad_gateway"), (&client, "connect_failed")] {
        assert_eq!(span.status.as_ref().map(|status| status.code), Some(ERROR), "{span:?}");
        assert_eq!(span.status.as_ref().map(|status| status.message.as_str()), Some(""), "no text of an error");
        assert_eq!(attribute(&span.attributes, "error.type").as_deref(), Some(error));
    }
}

#[tokio::test]
async fn a_second_try_is_counted_in_the_span_of_the_first() {
    let collector = Collector::start().await;
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("one");
    let backend = super::backend::Backend::start().await;
    let routes = format!(
        "[[site.route]]\nmatch = \"* /open/{{*rest}}\"\npublic = true\nupstream = \"two\"\n\
         [site.upstream.two]\nservers = [\"http://{dead}\", \"{}\"]\n",
        backend.url()
    );
    let setup = Setup::default().routes(&routes).top(&collector.tracing(""));
    let gate = setup.start().await.expect("SQLite");
    for at in 1..=20 {
        ask(&gate, "/open/x").await;
        let spans = collector.spans(2 * at).await;
        let resent = spans.iter().find(|span| attribute(&span.attributes, "http.request.resend_count").is_some());
        let Some(span) = resent else { continue };
        assert_eq!(attribute(&span.attributes, "http.request.resend_count").as_deref(), Some("1"));
        let port = backend.address.port().to_string();
        assert_eq!(attribute(&span.attributes, "server.port"), Some(port), "the server that answered");
        assert!(span.status.is_none());
        return;
    }
    panic!("of twenty requests none was tried twice");
}

#[tokio::test]
async fn a_websocket_is_recorded_when_it_ends() {
    let collector = Collector::start().await;
    let sockets = Sockets::start(&[]).await;
    let routes = format!(
        "[[site.route]]\nmatch = \"GET /live\"\npublic = true\nupstream = \"live\"\n\
         [site.upstream.live]\nservers = [\"http://{}\"]\n",
        sockets.address
    );
    let setup = Setup::default().routes(&routes).top(&collector.tracing(""));
    let gate = setup.start().await.expect("SQLite");
    let mut socket = open(&gate.client, "/live", &[]).await.expect("it is let in");
    let told = sockets.opened().await.one("traceparent").expect("one").to_owned();
    socket.close(None).await.expect("it is closed");
    let spans = collector.spans(2).await;
    let (server, client) = (of_kind(&spans, SERVER), of_kind(&spans, CLIENT));
    assert_eq!(told, format!("00-{}-{}-03", hex(&server.trace_id), hex(&client.span_id)));
    assert_eq!(attribute(&server.attributes, "http.response.status_code").as_deref(), Some("101"));
    assert!(attribute(&server.attributes, "tollgate.tunnel").is_some(), "{server:?}");
}

#[tokio::test]
async fn no_span_holds_a_credential_a_cookie_a_query_or_an_address_of_a_person() {
    let collector = Collector::start().await;
    let mut gate =
        gate(&collector.tracing("trust = \"always\"\nheaders = { x-key = \"the-collectors-own-key\" }")).await;
    let token = gate.signed_in("ada@example.com").await;
    let (key, _) = gate.api_key(&token, &["read:posts"]).await;
    let (_, signature) = token.rsplit_once('.').expect("a token");
    let mut statuses = Vec::new();
    for credential in
        [format!("Bearer {token}"), format!("ApiKey {key}"), format!("ApiKey {key}x"), "Basic YWRhOmh1bnRlcjI=".into()]
    {
        for path in
            ["/api/v1/posts?api_key=in-the-query-7f3a", &format!("/open/{token}"), "/api/v1/auth/none", "/api/v1/../x"]
        {
            let ask =
                gate.client.get(path).header("authorization", &credential).header("cookie", "sid=in-the-cookie-91bc");
            let ask = ask.header("user-agent", "in-the-agent-22aa").header("tracestate", "in=the-state-33bb");
            let parent = format!("00-{TRACE}-{SPAN}-01");
            statuses
                .push(ask.header("traceparent", parent).header("x-api-key", "in-a-header-44cc").send().await.status);
        }
    }
    assert!(statuses.iter().filter(|status| **status == 200).count() >= 4, "honest requests among them: {statuses:?}");
    let asked = json!({ "method": "GET", "target": "/open/explained", "headers": [["host", "localhost"]] });
    assert_eq!(gate.admin.post("/v1/explain", &asked).bearer(ADMIN_TOKEN).send().await.status, 200);
    gate.drain().await;
    let posts = collector.posts();
    let spans: usize = posts.iter().map(|post| post.spans.len()).sum();
    assert!(spans >= statuses.len() + 4, "{spans} spans");
    for post in &posts {
        let raw = String::from_utf8_lossy(&post.raw);
        for secret in [
            signature,
            &key,
            "hunter2",
            "correct horse",
            "in-the-query-7f3a",
            "in-the-cookie-91bc",
            "in-the-agent-22aa",
            "the-state-33bb",
            "in-a-header-44cc",
            "YWRhOmh1bnRlcjI",
            "ada@example.com",
            "the-collectors-own-key",
            "explained",
        ] {
            assert!(!raw.contains(secret), "{secret} was exported: {raw}");
        }
    }
}

#[tokio::test]
async fn a_collector_that_hangs_delays_nobody_and_costs_only_spans() {
    let collector = Collector::start().await;
    collector.is(Mood::Hangs);
    let gate = gate(&collector.tracing("max_queue = 4")).await;
    ask(&gate, "/open/first").await;
    collector.batches(1).await;
    let began = now();
    for _ in 0..20 {
        ask(&gate, "/open/x").await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let dropped = gate.metric("tollgate_trace_spans_dropped_total{reason=\"queue_full\"}").await;
    assert_eq!(dropped, Some(32.0), "of twenty requests four wait, each with two spans");
    assert_eq!(collector.posts().len(), 1);
}

#[tokio::test]
async fn a_collector_that_is_gone_delays_nobody_and_is_asked_again() {
    let collector = Collector::start().await;
    let tracing = collector.tracing("");
    let address = collector.address;
    drop(collector);
    let gate = gate(&tracing).await;
    let began = now();
    for _ in 0..20 {
        ask(&gate, "/open/x").await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    reaches(&gate, "tollgate_trace_export_failures_total", 2.0).await;
    assert_eq!(gate.metric("tollgate_trace_spans_exported_total").await, Some(0.0), "{address}");
}

#[tokio::test]
async fn one_that_is_busy_gets_the_same_again_when_it_says_so() {
    let collector = Collector::start().await;
    collector.is(Mood::Refuses(503, Some("2")));
    let gate = gate(&collector.tracing("")).await;
    ask(&gate, "/open/x").await;
    let first = collector.batches(1).await.remove(0);
    collector.is(Mood::Takes);
    let again = collector.batches(2).await.remove(1);
    assert!(again.at - first.at >= Duration::from_millis(1_900), "{:?}", again.at - first.at);
    assert_eq!(again.raw, first.raw);
    reaches(&gate, "tollgate_trace_spans_exported_total", 2.0).await;
    assert_eq!(gate.metric("tollgate_trace_export_failures_total").await, Some(1.0));
}

#[tokio::test]
async fn what_it_will_never_take_is_not_sent_twice() {
    let collector = Collector::start().await;
    let gate = gate(&collector.tracing("")).await;
    collector.is(Mood::Refuses(400, None));
    ask(&gate, "/open/x").await;
    reaches(&gate, "tollgate_trace_spans_dropped_total{reason=\"refused\"}", 2.0).await;
    collector.is(Mood::Rejects(1));
    ask(&gate, "/open/y").await;
    reaches(&gate, "tollgate_trace_spans_dropped_total{reason=\"refused\"}", 3.0).await;
    assert_eq!(gate.metric("tollgate_trace_spans_exported_total").await, Some(1.0));
    assert_eq!(collector.posts().len(), 2);
}

#[tokio::test]
async fn one_that_says_at_once_is_given_time_all_the_same() {
    let collector = Collector::start().await;
    let gate = gate(&collector.tracing("")).await;
    for (at, after) in ["0", "Thu, 01 Jan 1970 00:00:00 GMT"].into_iter().enumerate() {
        collector.is(Mood::Refuses(429, Some(after)));
        let seen = collector.posts().len();
        ask(&gate, "/open/x").await;
        let first = collector.batches(seen + 1).await.remove(seen);
        collector.is(Mood::Takes);
        let again = collector.batches(seen + 2).await.remove(seen + 1);
        assert!(again.at - first.at >= Duration::from_millis(400), "{after}: {:?}", again.at - first.at);
        let exported = 2.0 * f64::from(u8::try_from(at + 1).expect("two"));
        reaches(&gate, "tollgate_trace_spans_exported_total", exported).await;
    }
}

#[tokio::test]
async fn what_answers_with_a_page_is_no_collector() {
    let collector = Collector::start().await;
    let gate = gate(&collector.tracing("")).await;
    collector.is(Mood::Page);
    ask(&gate, "/open/x").await;
    reaches(&gate, "tollgate_trace_spans_dropped_total{reason=\"refused\"}", 2.0).await;
    assert_eq!(gate.metric("tollgate_trace_spans_exported_total").await, Some(0.0));
    collector.is(Mood::Takes);
    ask(&gate, "/open/x").await;
    reaches(&gate, "tollgate_trace_spans_exported_total", 2.0).await;
}

#[tokio::test]
async fn what_waits_is_sent_at_the_end_and_the_end_does_not_wait_for_ever() {
    let collector = Collector::start().await;
    let tracing = collector.tracing("").replace("10ms", "60s");
    let mut one = gate(&tracing).await;
    for _ in 0..3 {
        ask(&one, "/open/x").await;
    }
    assert!(collector.posts().is_empty(), "it waits for more");
    one.drain().await;
    assert_eq!(collector.spans(6).await.len(), 6);
    let mut other = gate(&tracing).await;
    ask(&other, "/open/x").await;
    collector.is(Mood::Hangs);
    let began = now();
    other.drain().await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_collector_behind_tls_is_known_by_its_own_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = tollgate::tls::Settings::Development {
        directory: folder.path().to_owned(),
        names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
    };
    let (config, _certificates) = tollgate::tls::server_config(&settings, SystemClock::new().now().wall).expect("one");
    let mut config = config;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let collector = Collector::start_with(Some(TlsAcceptor::from(Arc::new(config)))).await;
    let secured = collector.tracing("").replace("http://", "https://");
    let trusted = format!("{secured}tls = {{ authorities = \"{}\" }}\n", folder.path().join("ca.pem").display());
    let believes = gate(&trusted).await;
    ask(&believes, "/open/x").await;
    assert_eq!(collector.spans(2).await.len(), 2);
    let stranger = gate(&secured).await;
    ask(&stranger, "/open/x").await;
    reaches(&stranger, "tollgate_trace_export_failures_total", 1.0).await;
    assert_eq!(collector.posts().len(), 1, "nothing goes to one who cannot show who it is");
}

#[tokio::test]
async fn a_reload_applies_the_share_and_says_that_another_collector_needs_a_restart() {
    let collector = Collector::start().await;
    let backend = super::backend::Backend::start().await;
    let tracing = collector.tracing("").replace("sample_ratio = 1", "sample_ratio = 0");
    let site = "[[site.route]]\nmatch = \"* /open/{*rest}\"\npublic = true\n";
    let home = Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top: &tracing, site });
    let mut served = home.start().await;
    let told = async || {
        assert_eq!(served.http.get("/open/x").send().await.status, 200);
        backend.last().one("traceparent").expect("one")[53..].to_owned()
    };
    assert_eq!(told().await, "02");
    edit(&home, "gateway.toml", "sample_ratio = 0", "sample_ratio = 1");
    served.process.signal("HUP").await;
    let applied = async {
        while told().await != "03" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), applied).await.expect("the reload applies");
    collector.spans(2).await;
    edit(&home, "gateway.toml", "10ms", "20ms");
    served.process.signal("HUP").await;
    let said = |out: &str| out.contains("a change here counts after a restart").then_some(());
    served.process.until("that it needs a restart", said).await;
    served.process.stop().await.good();
}
