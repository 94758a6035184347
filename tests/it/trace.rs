//! A request's place in a trace: whose word counts, and what the backend is told.

use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::backend::Backend;
use super::client::Answer;
use super::harness::{ADMIN_TOKEN, Gate, Setup};
use super::recorder::Recorder;
use super::sockets::{Memory, Sockets, open, within};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const PUBLIC: &str = "[[site.route]]\nmatch = \"* /open/{*rest}\"\npublic = true\nupstream = \"app\"\n";
/// The tests' own address is a proxy's.
const PROXY: &str = "[network]\ntrusted_proxies = [\"127.0.0.1\"]\n";

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

async fn gate(top: &str) -> Gate {
    Setup::default().routes(PUBLIC).top(top).start().await.expect("SQLite is always there")
}

async fn ask(gate: &Gate, headers: &[(&str, &str)]) -> Answer {
    let mut ask = gate.client.get("/open/x");
    for (name, value) in headers {
        ask = ask.header(name, *value);
    }
    let answer = ask.send().await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer
}

/// The parts of the one `traceparent` that the backend saw last.
fn told(backend: &Backend) -> [String; 4] {
    let seen = backend.last();
    let own = seen.one("traceparent").unwrap_or_else(|| panic!("not exactly one: {:?}", seen.headers));
    let parts: Vec<String> = own.split('-').map(str::to_owned).collect();
    assert!(parts.iter().all(|part| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))), "{own}");
    let lengths: Vec<usize> = parts.iter().map(String::len).collect();
    assert_eq!(lengths, [2, 32, 16, 2], "{own}");
    parts.try_into().expect("four parts")
}

#[tokio::test]
async fn without_tracing_the_headers_pass_as_they_came() {
    let gate = gate("").await;
    let sent = [("traceparent", "what-ever"), ("traceparent", "twice"), ("tracestate", "Not=Valid=At,All")];
    ask(&gate, &sent).await;
    let seen = gate.backend.last();
    assert_eq!(seen.all("traceparent"), ["what-ever", "twice"]);
    assert_eq!(seen.all("tracestate"), ["Not=Valid=At,All"]);
    ask(&gate, &[]).await;
    assert!(gate.backend.last().all("traceparent").is_empty());
}

#[tokio::test]
async fn a_strangers_trace_is_not_continued_and_nobody_who_is_not_asked_decides_what_is_recorded() {
    for top in [
        "[tracing]\nsample_ratio = 0",
        "[tracing]\nsample_ratio = 0\ntrust = \"never\"\n[network]\ntrusted_proxies = [\"127.0.0.1\"]",
    ] {
        let gate = gate(top).await;
        let mut traces = Vec::new();
        for _ in 0..2 {
            ask(&gate, &[("traceparent", &parent("01")), ("tracestate", "evil=1")]).await;
            let [version, trace, span, flags] = told(&gate.backend);
            assert_eq!((version.as_str(), flags.as_str()), ("00", "02"), "begun here, and not recorded");
            assert!(trace != TRACE && span != SPAN, "{top}");
            assert!(gate.backend.last().all("tracestate").is_empty(), "{top}");
            traces.push(trace);
        }
        assert_ne!(traces[0], traces[1]);
    }
}

#[tokio::test]
async fn what_is_recorded_is_the_ratios_to_say_of_traces_that_begin_here() {
    let all = gate("[tracing]\nsample_ratio = 1.0").await;
    ask(&all, &[("traceparent", &parent("00"))]).await;
    assert_eq!(told(&all.backend)[3], "03", "a stranger cannot hide either");
    let half = gate("[tracing]\nsample_ratio = \"0.5\"").await;
    let mut sampled = 0;
    for _ in 0..64 {
        ask(&half, &[]).await;
        let [_, trace, _, flags] = told(&half.backend);
        let low = u64::from_str_radix(&trace[18..], 16).expect("seven bytes");
        assert_eq!(flags == "03", low >= 1 << 55, "{trace} {flags}: it depends on the trace alone");
        sampled += usize::from(flags == "03");
    }
    assert!((8..=56).contains(&sampled), "{sampled} of 64");
}

#[tokio::test]
async fn a_trace_is_continued_where_its_sender_is_trusted() {
    for top in [&format!("{PROXY}[tracing]\nsample_ratio = 0"), "[tracing]\ntrust = \"always\"\nsample_ratio = 1"] {
        let gate = gate(top).await;
        for flags in ["00", "01", "03"] {
            ask(&gate, &[("traceparent", &parent(flags)), ("tracestate", "congo=t61rcWkgMzE,rojo=1")]).await;
            let [_, trace, _, seen] = told(&gate.backend);
            assert_eq!((trace.as_str(), seen.as_str()), (TRACE, flags), "{top}");
            assert_eq!(gate.backend.last().all("tracestate"), ["congo=t61rcWkgMzE,rojo=1"]);
        }
        ask(&gate, &[("traceparent", &parent("01")), ("tracestate", "a=1"), ("tracestate", "b=2")]).await;
        assert_eq!(gate.backend.last().all("tracestate"), ["a=1,b=2"], "one line, in the order they came");
        ask(&gate, &[("traceparent", &parent("01")), ("tracestate", "a=1,b")]).await;
        assert_eq!(told(&gate.backend)[1], TRACE, "a bad tracestate does not spoil the trace");
        assert!(gate.backend.last().all("tracestate").is_empty());
    }
}

#[tokio::test]
async fn what_is_malformed_begins_a_trace_and_takes_its_tracestate_with_it() {
    let gate = gate("[tracing]\ntrust = \"always\"\nsample_ratio = 0").await;
    let good = parent("01");
    for wrong in [
        "garbage".to_owned(),
        format!("ff-{TRACE}-{SPAN}-01"),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{TRACE}-{}-01", "0".repeat(16)),
        good.to_uppercase(),
        format!("{good}-extra"),
        format!("{good}, {good}"),
    ] {
        ask(&gate, &[("traceparent", &wrong), ("tracestate", "a=1")]).await;
        assert_ne!(told(&gate.backend)[1], TRACE, "{wrong}");
        assert!(gate.backend.last().all("tracestate").is_empty(), "{wrong}");
    }
    for headers in [
        [("traceparent", good.as_str()), ("traceparent", good.as_str())],
        [("traceparent", good.as_str()), ("Traceparent", "garbage")],
    ] {
        ask(&gate, &headers).await;
        assert_ne!(told(&gate.backend)[1], TRACE, "several are malformed: {headers:?}");
    }
    for later in
        [format!("01-{TRACE}-{SPAN}-01"), format!("cc-{TRACE}-{SPAN}-01-what-comes-later"), format!(" {good}\t")]
    {
        ask(&gate, &[("traceparent", &later), ("tracestate", "a=1")]).await;
        let [version, trace, _, flags] = told(&gate.backend);
        assert_eq!((version.as_str(), trace.as_str(), flags.as_str()), ("00", TRACE, "01"), "{later}");
        assert_eq!(gate.backend.last().all("tracestate"), ["a=1"]);
    }
}

#[tokio::test]
async fn no_client_can_have_the_header_deleted_or_add_one_behind_the_body() {
    let recorder = Recorder::start().await;
    let setup = Setup::default().routes(&recorder.routes()).top("[tracing]\ntrust = \"always\"");
    let gate = setup.start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let head = format!(
        "POST /api/v1/first HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Connection: traceparent, close\r\ntraceparent: {}\r\nTE: trailers\r\n",
        parent("01")
    );
    let body = format!(
        "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\ntraceparent: {}\r\ntracestate: a=1\r\n\r\n",
        parent("00")
    );
    let mut stream = gate.client.stream(&[b"http/1.1"]).await;
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("the gateway reads");
    stream.flush().await.expect("sent");
    let mut answer = [0; 15];
    within(stream.read_exact(&mut answer)).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let seen = recorder.about("/api/v1/first").remove(0);
    assert_eq!(seen.count("traceparent"), 1, "{seen:?}");
    assert!(!seen.rest.contains("trace"), "{seen:?}");
}

#[tokio::test]
async fn it_is_the_same_over_http2_in_grpc_and_in_websockets() {
    let sockets = Sockets::start(&[]).await;
    let routes = format!(
        "{PUBLIC}[[site.route]]\nmatch = \"GET /live\"\npublic = true\nupstream = \"live\"\n\
         [site.upstream.live]\nservers = [\"http://{}\"]\n",
        sockets.address
    );
    let gate = Setup::default().routes(&routes).top("[tracing]\ntrust = \"always\"").start().await.expect("SQLite");
    let answer = gate.client.get("/open/x").header("traceparent", parent("01")).send_http2().await;
    assert_eq!((answer.status.as_u16(), &told(&gate.backend)[1][..]), (200, TRACE));
    gate.client
        .get("/open/x")
        .header("traceparent", parent("01"))
        .header("traceparent", parent("01"))
        .send_http2()
        .await;
    assert_ne!(told(&gate.backend)[1], TRACE);

    let stream = gate.client.stream(&[b"h2"]).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let call = http::Request::post("https://localhost/open/shop.Cart/Sum")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("traceparent", parent("01"))
        .body(http_body_util::Empty::<bytes::Bytes>::new().boxed())
        .expect("a request");
    sender.send_request(call).await.expect("an answer");
    assert_eq!(told(&gate.backend)[1], TRACE);
    driver.abort();

    let socket = open(&gate.client, "/live", &[("traceparent", &parent("01"))]).await.expect("it is let in");
    let handshake = sockets.opened().await;
    assert_eq!(handshake.one("traceparent").map(|own| &own[3..35]), Some(TRACE));
    drop(socket);
}

#[tokio::test]
async fn the_log_names_the_trace_of_every_request_refused_ones_too() {
    let log = Memory::default();
    let (logs, _writer) = log.open();
    let top = "[tracing]\ntrust = \"always\"";
    let gate = Setup::default().routes(PUBLIC).top(top).logs(logs).start().await.expect("SQLite");
    ask(&gate, &[("traceparent", &parent("01"))]).await;
    let line = log.lines("/open/x", 1).await.remove(0);
    assert_eq!(
        (&line["trace_id"], &line["request_id"]),
        (&json!(TRACE), &json!(gate.backend.last().one("x-request-id")))
    );
    assert_eq!(gate.client.get("/nowhere").send().await.status, 404);
    let line = log.lines("/nowhere", 1).await.remove(0);
    assert_eq!(line["trace_id"].as_str().map(str::len), Some(32), "{line}");
    // Refused before its path was looked at.
    let misdirected =
        gate.plain.at_host("other.example").get("/open/y").header("traceparent", parent("00")).send().await;
    assert_eq!(misdirected.status, 421);
    assert_eq!(log.lines("", 1).await.remove(0)["trace_id"], TRACE);
}

#[tokio::test]
async fn explain_shows_what_the_backend_would_see() {
    let gate = gate("[tracing]\ntrust = \"always\"\nsample_ratio = 0").await;
    let headers = json!([["host", "localhost"], ["traceparent", parent("01")], ["tracestate", "a=1"]]);
    let asked = json!({ "method": "GET", "target": "/open/x", "headers": headers });
    let shown = gate.admin.post("/v1/explain", &asked).bearer(ADMIN_TOKEN).send().await.json();
    let shown: Vec<(&str, &str)> = shown["headers"]
        .as_array()
        .expect("headers")
        .iter()
        .map(|line| (line[0].as_str().expect("a name"), line[1].as_str().expect("a value")))
        .filter(|(name, _)| name.starts_with("trace"))
        .collect();
    assert!(shown.contains(&("traceparent", &parent("01"))) && shown.contains(&("tracestate", "a=1")), "{shown:?}");
    assert_eq!(shown.len(), 2);
}

#[tokio::test]
async fn a_route_can_keep_traces_from_its_backend() {
    let routes = "[[site.route]]\nmatch = \"* /open/{*rest}\"\npublic = true\nupstream = \"app\"\n\
                  request_headers = { remove = [\"traceparent\", \"tracestate\"] }\n";
    let setup = Setup::default().routes(routes).top("[tracing]\ntrust = \"always\"");
    let gate = setup.start().await.expect("SQLite");
    ask(&gate, &[("traceparent", &parent("01")), ("tracestate", "a=1")]).await;
    let seen = gate.backend.last();
    assert!(seen.all("traceparent").is_empty() && seen.all("tracestate").is_empty(), "{:?}", seen.headers);
}
