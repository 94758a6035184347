//! Lines as they leave the process.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::access::{AccessLine, Shadow};
use super::audit::{Act, Actor, Door, Event, SignInFailure};
use super::log::{self, LogError, LogWriter, Logs};
use super::metrics::labels::{Clients, LogStream, StoreOperation, StoreOutcome, TlsVersion, UpstreamOutcome};
use super::metrics::{EndpointState, Metrics, SiteMetrics, UpstreamMetrics};
use super::sink::tests::Memory;
use super::{LogFormat, LogSettings};
use crate::model::entropy::TestEntropy;
use crate::model::id::{KeyId, OrgId, UserId};
use crate::model::problem::ProblemKind;
use crate::model::refusal::Fault;
use crate::model::time::{TestClock, Timestamp};
use crate::rules::trace::TraceId;

const AT: Timestamp = Timestamp::from_millis(1_705_312_800_123);
const LONG: Duration = Duration::from_secs(20);

fn settings(format: LogFormat) -> LogSettings {
    LogSettings { level: "info".to_owned(), format, access: true, audit_file: None }
}

fn open(settings: &LogSettings) -> (Logs, LogWriter, Memory) {
    let memory = Memory::default();
    let clock = Arc::new(TestClock::at(AT));
    let (logs, writer) =
        Logs::open(settings, Box::new(memory.clone()), clock, &Metrics::new(Timestamp::from_secs(0))).unwrap();
    (logs, writer, memory)
}

/// What the log holds after `write`, line by line.
fn lines(format: LogFormat, write: impl FnOnce(&Logs)) -> Vec<String> {
    let (logs, writer, memory) = open(&settings(format));
    write(&logs);
    assert!(writer.finish(LONG));
    memory.text().lines().map(str::to_owned).collect()
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

fn line<'a>() -> AccessLine<'a> {
    AccessLine {
        time: AT,
        request_id: "req-1",
        trace: None,
        site: Some("vantage"),
        client: IpAddr::from([192, 0, 2, 7]),
        method: "GET",
        path: "/api/v1/posts",
        route: Some("GET,HEAD /api/v1/{*rest}"),
        status: 200,
        problem: None,
        shadow: &[],
        user: None,
        org: None,
        key: None,
        session: None,
        auth: None,
        took: Duration::from_micros(1_500),
        received: 3,
        sent: 4,
        upstream: Some("app"),
        server: Some("http://10.0.0.1:9000"),
        tunnel: None,
        cut: None,
        tls: Some(TlsVersion::V13),
        alpn: Some("h2"),
        certificate: None,
        fault: None,
    }
}

#[test]
fn an_access_line_has_every_field_always_in_the_same_order() {
    let entropy = TestEntropy::new(1);
    let (user, key) = (UserId::new(AT, &entropy), KeyId::new(AT, &entropy));
    let fault = Fault::new("disk full");
    let shadow = ["guard GET /x", "limit organization"].map(|rule| Shadow {
        rule: rule.to_owned(),
        window: rule.starts_with("limit").then(|| "5/1m shadow".parse().unwrap()),
        problem: ProblemKind::PlanRequired,
    });
    let full = AccessLine {
        trace: TraceId::new([0xab; 16]),
        user: Some(user),
        key: Some(key),
        auth: Some("api_key"),
        problem: Some(ProblemKind::Unavailable),
        shadow: &shadow,
        fault: Some(&fault),
        ..line()
    };
    let written = lines(LogFormat::Json, |logs| {
        logs.access(&line());
        logs.access(&full);
    });
    assert_eq!(
        written[0],
        "{\"time\":\"2024-01-15T10:00:00.123Z\",\"kind\":\"access\",\"request_id\":\"req-1\",\"trace_id\":null,\"site\":\"vantage\",\
         \"client\":\"192.0.2.7\",\"method\":\"GET\",\"path\":\"/api/v1/posts\",\
         \"route\":\"GET,HEAD /api/v1/{*rest}\",\"status\":200,\"problem\":null,\"shadow\":null,\"user\":null,\"org\":null,\
         \"key\":null,\"session\":null,\"auth\":null,\"duration_ms\":1.5,\"received_bytes\":3,\"sent_bytes\":4,\
         \"upstream\":\"app\",\"server\":\"http://10.0.0.1:9000\",\"tunnel\":null,\"cut\":null,\"tls\":\"1.3\",\"alpn\":\"h2\",\"certificate\":null,\"fault\":null}"
    );
    let (first, second) = (json(&written[0]), json(&written[1]));
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&first), names(&second));
    assert_eq!(second["user"], Value::from(user.to_text()));
    assert_eq!(second["key"], Value::from(key.to_text()));
    assert_eq!(second["problem"], "service_unavailable");
    assert_eq!(second["fault"], "disk full");
    let told = "[{\"rule\":\"guard GET /x\",\"window\":null,\"problem\":\"plan_required\"},\
                {\"rule\":\"limit organization\",\"window\":\"5/1m\",\"problem\":\"plan_required\"}]";
    assert_eq!(second["shadow"].to_string(), told);
    let text = &lines(LogFormat::Text, |logs| logs.access(&full))[0];
    assert!(text.contains(" upstream=\"app\" server=\"http://10.0.0.1:9000\""), "{text}");
    assert!(text.contains(" shadow=\"plan_required by limit organization 5/1m\""), "{text}");
    assert_eq!(second["trace_id"], "abababababababababababababababab");
}

#[test]
fn what_a_client_sends_makes_one_line_and_no_terminal_move() {
    let path = "/a\u{9b}31m\u{202e}\r\n{\"kind\":\"audit\"}?token=hunter2";
    let hostile = AccessLine { path, request_id: "x\n\u{1b}[2J", method: "G\u{7f}T", ..line() };
    for format in [LogFormat::Json, LogFormat::Text] {
        let written = lines(format, |logs| logs.access(&hostile));
        assert_eq!(written.len(), 1, "{written:?}");
        assert!(written[0].bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{written:?}");
        assert!(!written[0].contains("hunter2") && !written[0].contains('?'));
    }
    let read = json(&lines(LogFormat::Json, |logs| logs.access(&hostile))[0]);
    assert_eq!(read["path"], "/a\u{9b}31m\u{202e}\r\n{\"kind\":\"audit\"}");
    assert_eq!(read["kind"], "access");
}

#[test]
fn long_values_are_cut() {
    let long = "x".repeat(100_000);
    let hostile = AccessLine { path: &long, request_id: &long, method: &long, alpn: Some(&long), ..line() };
    let written = lines(LogFormat::Json, |logs| logs.access(&hostile));
    assert!(written[0].len() < 3000, "{}", written[0].len());
    assert!(written[0].contains('…'));
}

#[derive(Debug, thiserror::Error)]
#[error("no connection")]
struct Outer(#[source] std::io::Error);

#[test]
fn a_fault_is_told_with_its_causes_and_without_its_credentials() {
    let cause = std::io::Error::other("postgres://me:hunter2@db/app said no\nand eyJhbGciOiJIUzI1NiJ9.e30.x");
    let fault = Fault::new(Outer(cause));
    let written = lines(LogFormat::Json, |logs| logs.access(&AccessLine { fault: Some(&fault), ..line() }));
    assert_eq!(json(&written[0])["fault"], "no connection: postgres://***@db/app said no\nand ***");
}

#[test]
fn a_person_reads_what_happened_first() {
    let written = lines(LogFormat::Text, |logs| {
        logs.access(&AccessLine {
            status: 429,
            problem: Some(ProblemKind::RateLimited),
            upstream: None,
            server: None,
            ..line()
        });
    });
    assert_eq!(
        written,
        ["2024-01-15T10:00:00.123Z 429 GET /api/v1/posts 1.5ms client=192.0.2.7 site=\"vantage\" \
          route=\"GET,HEAD /api/v1/{*rest}\" problem=\"rate_limit_exceeded\" id=req-1"]
    );
}

#[test]
fn access_lines_are_written_only_where_they_are_wanted() {
    let (logs, writer, memory) = open(&LogSettings { access: false, ..settings(LogFormat::Json) });
    assert!(!logs.wants_access() && !Logs::off().wants_access());
    logs.access(&line());
    Logs::off().access(&line());
    assert!(writer.finish(LONG));
    assert_eq!(memory.text(), "");
}

fn failed_sign_in(request_id: &str) -> Event<'_> {
    Event {
        time: AT,
        actor: Actor::Anonymous,
        act: Act::SignInFailed { user: None, reason: SignInFailure::UnknownAccount },
        site: Some("vantage"),
        client: Some(IpAddr::from([192, 0, 2, 7])),
        request_id: Some(request_id),
    }
}

#[test]
fn the_audit_trail_says_who_did_what_and_whence() {
    let entropy = TestEntropy::new(1);
    let (user, org) = (UserId::new(AT, &entropy), OrgId::new(AT, &entropy));
    let windows = ["10/1m".parse().unwrap(), "100/1d".parse().unwrap()];
    let operator = Event {
        actor: Actor::Operator(Door::AdminApi),
        act: Act::LimitsSet { org, limits: Some(&windows) },
        client: None,
        request_id: None,
        ..failed_sign_in("")
    };
    let key = KeyId::new(AT, &entropy);
    let own = Event { actor: Actor::User(user), act: Act::KeyCreated { org, key }, ..failed_sign_in("req-2") };
    let written = lines(LogFormat::Json, |logs| {
        logs.audit(&failed_sign_in("req-1"));
        logs.audit(&operator);
        logs.audit(&own);
    });
    assert_eq!(
        written[0],
        "{\"time\":\"2024-01-15T10:00:00.123Z\",\"kind\":\"audit\",\"event\":\"sign_in_failed\",\
         \"actor\":\"anonymous\",\"site\":\"vantage\",\"client\":\"192.0.2.7\",\"request_id\":\"req-1\",\
         \"user\":null,\"reason\":\"unknown_account\"}"
    );
    let operator = json(&written[1]);
    assert_eq!((&operator["actor"], &operator["event"]), (&"operator:admin_api".into(), &"limits_set".into()));
    assert_eq!(operator["limits"], serde_json::json!(["10/1m", "100/1d"]));
    let own = json(&written[2]);
    assert_eq!((&own["actor"], &own["actor_id"]), (&"user".into(), &user.to_text().into()));
    assert_eq!(own["key"], Value::from(key.to_text()));
    let text = lines(LogFormat::Text, |logs| logs.audit(&failed_sign_in("req-1")));
    assert_eq!(
        text,
        ["2024-01-15T10:00:00.123Z AUDIT sign_in_failed by=anonymous user=null reason=\"unknown_account\" \
          site=\"vantage\" client=192.0.2.7 id=req-1"]
    );
}

#[test]
fn the_audit_file_is_private_appended_to_and_json_whatever_the_log_is() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deep/audit.jsonl");
    let settings = LogSettings { audit_file: Some(file.clone()), ..settings(LogFormat::Text) };
    for request_id in ["one", "two"] {
        let (logs, writer, memory) = open(&settings);
        logs.audit(&failed_sign_in(request_id));
        logs.access(&line());
        assert!(writer.finish(LONG));
        assert_eq!(memory.text().lines().count(), 2);
    }
    let text = std::fs::read_to_string(&file).unwrap();
    let ids: Vec<Value> = text.lines().map(|line| json(line)["request_id"].clone()).collect();
    assert_eq!(ids, ["one", "two"]);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let blocked = LogSettings { audit_file: Some(file.join("under-a-file")), ..settings };
    let clock = Arc::new(TestClock::at(AT));
    let error =
        Logs::open(&blocked, Box::new(Memory::default()), clock, &Metrics::new(AT)).map(drop).unwrap_err().to_string();
    assert!(error.contains("audit.jsonl/under-a-file: the audit trail cannot be written"), "{error}");
}

#[test]
fn events_are_lines_of_the_same_log_filtered_and_masked() {
    let write = |format| {
        lines(format, |logs| {
            let subscriber = logs.subscriber(log::filter("info").unwrap());
            tracing::subscriber::with_default(subscriber, || {
                let error = std::io::Error::other("https://a:b@host/ failed");
                tracing::warn!(target: "tollgate::test", tries = 3, kind = "forged", error = &error as &dyn std::error::Error,
                    "sent Bearer abc12345678\nto \u{9b}");
                tracing::debug!("not wanted");
            });
        })
    };
    let written = write(LogFormat::Json);
    assert_eq!(written.len(), 1);
    let event = json(&written[0]);
    assert_eq!(event["message"], "sent Bearer ***\nto \u{9b}");
    assert_eq!((&event["kind"], &event["level"], &event["tries"]), (&"event".into(), &"warn".into(), &3.into()));
    assert_eq!(event["error"], "https://***@host/ failed");
    assert_eq!(event["time"], "2024-01-15T10:00:00.123Z");
    assert!(written[0].is_ascii());
    let text = write(LogFormat::Text);
    assert_eq!(
        text,
        ["2024-01-15T10:00:00.123Z WARN  tollgate::test: sent Bearer ***\\nto \\u{9b} tries=3 kind=\"forged\" \
          error=\"https://***@host/ failed\""]
    );
}

#[test]
fn a_filter_that_is_none_is_refused_with_what_to_write() {
    for good in ["info", "error", "info,tollgate::edge=debug"] {
        log::check_level(good).unwrap();
    }
    for bad in ["warning", "loud", "in fo", "info,bogus", "tollgate"] {
        let error = log::check_level(bad).expect_err(bad).to_string();
        assert!(error.starts_with(&format!("log.level: `{bad}` is no filter (")), "{error}");
    }
    let error = log::check_level("tollgate=loud").unwrap_err();
    assert!(matches!(error, LogError::Filter { .. }));
    assert!(error.to_string().starts_with("log.level: `tollgate=loud` is no filter ("), "{error}");
}

#[test]
fn an_audit_file_that_is_moved_away_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (file, moved) = (folder.path().join("audit.jsonl"), folder.path().join("audit.jsonl.1"));
    let (logs, writer, _) = open(&LogSettings { audit_file: Some(file.clone()), ..settings(LogFormat::Json) });
    // Written by a thread of its own: within some milliseconds.
    let written = |path: &std::path::Path, id: &str| {
        (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            std::fs::read_to_string(path).is_ok_and(|text| text.contains(id))
        })
    };
    logs.audit(&failed_sign_in("before"));
    assert!(written(&file, "before"));
    std::fs::rename(&file, &moved).unwrap();
    logs.audit(&failed_sign_in("after"));
    assert!(written(&file, "after"));
    assert!(writer.finish(LONG));
    let texts = [&moved, &file].map(|path| std::fs::read_to_string(path).unwrap());
    assert!(!texts[0].contains("after") && !texts[1].contains("before"), "{texts:?}");
}

#[test]
fn every_metric_that_the_readme_names_is_there() {
    let metrics = Metrics::new(AT);
    let site = SiteMetrics::new(&metrics, "vantage");
    UpstreamMetrics::new(&metrics, "vantage", "app").asked().finished(UpstreamOutcome::Connect, LONG);
    drop(site.started());
    site.shadow_refused("guard GET /x", ProblemKind::PlanRequired);
    let state = EndpointState { open: 0, idle: 0, in_flight: 0, waiting: 0, up: true };
    metrics.endpoints([("http://127.0.0.1:9000".to_owned(), state)]);
    metrics.checks("vantage", "app", "http://127.0.0.1:9000");
    metrics.retries("vantage", "app");
    metrics.store.done(StoreOperation::Ping, StoreOutcome::Ok, LONG);
    metrics.tls.certificates([("localhost", AT)]);
    metrics.tls.of_clients([("vantage", Clients::Authority, "CN=Clients", AT)]);
    metrics.config.loaded(1, AT);
    metrics.lines_dropped(LogStream::Log);
    let text = metrics.text();
    let readme = include_str!("../../README.md");
    let named = readme.match_indices("tollgate_").map(|(at, _)| {
        let rest = &readme[at..];
        &rest[..rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len())]
    });
    let named: std::collections::BTreeSet<&str> = named.collect();
    assert!(named.len() > 15, "{named:?}");
    for name in named {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
    }
}
