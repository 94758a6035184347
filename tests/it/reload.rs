//! What changes while it runs: files and signals, good and bad, and what they must not touch.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::backend::Backend;
use super::client::{Ask, Client};
use super::harness::{ADMIN_TOKEN, TOKEN_SECRET};
use super::process::{Home, Plan, Served};
use super::wire::{As, Wire, now};

pub const POSTS: &str = "/api/v1/posts";
pub const WATCH: &str = "[reload]\nevery = \"100ms\"";
pub const NEW_SECRET: &str = "YW5vdGhlci1zZWNyZXQtZm9yLXRlc3RzLW9ubHktNzI1MQ";
/// How long a change may take to count, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

pub fn home(backend: &Backend, top: &str, site: &str) -> Home {
    Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top, site })
}

/// Replaces `before` in a file, as an editor does: whole, under the same name.
pub fn edit(home: &Home, file: &str, before: &str, after: &str) {
    let path = home.folder.path().join(file);
    let text = std::fs::read_to_string(&path).expect("the file");
    assert!(text.contains(before), "no {before} in {text}");
    let draft = home.folder.path().join("draft");
    std::fs::write(&draft, text.replacen(before, after, 1)).expect("a draft");
    std::fs::rename(draft, path).expect("a new file in its place");
}

pub async fn signed_in(client: &Client, email: &str) -> String {
    let account = json!({ "email": email, "password": "correct horse battery", "name": "Test" });
    let made = client.post("/api/v1/auth/register", &account).send().await;
    assert!([201, 409].contains(&made.status.as_u16()), "{}", made.text());
    client.post("/api/v1/auth/login", &account).send().await.string("/access_token")
}

pub async fn metric(served: &Served, line: &str) -> Option<f64> {
    let text = served.admin.get("/metrics").send().await.text();
    text.lines().find_map(|own| own.strip_prefix(line)?.strip_prefix(' ')?.parse().ok())
}

/// Waits until a metric has this value.
pub async fn until(served: &Served, line: &str, value: f64) {
    let begun = now();
    while metric(served, line).await != Some(value) {
        assert!(begun.elapsed() < SOON, "{line} is {:?}, not {value}", metric(served, line).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn until_status(ask: impl Fn() -> Ask<'static>, status: u16) {
    let begun = now();
    loop {
        let seen = ask().send().await.status.as_u16();
        if seen == status {
            return;
        }
        assert!(begun.elapsed() < SOON, "{seen}, not {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub const GENERATION: &str = "tollgate_config_generation";
pub const GOOD: &str = "tollgate_config_last_reload_successful";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_files_change_and_no_request_notices_but_those_it_is_meant_for() {
    let backend = Backend::start().await;
    let home = home(&backend, WATCH, "[site.plan.free]\nlimits = [\"1000000/1h\"]\n");
    let served = home.start().await;
    let token = signed_in(&served.http, "ada@example.com").await;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..4 {
        let (mut wire, token) = (Wire::to(&served.http), token.clone());
        let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
        clients.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let reply = wire.get(POSTS, As::Token(&token)).await.expect("no connection breaks");
                assert_eq!(reply.status, 200, "{}", reply.text());
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // By signal, by the file, and a broken one in between, over and over.
    let mut limits = 1_000_000;
    for round in 0..4_u32 {
        let generation = metric(&served, GENERATION).await.expect("a generation");
        let before = format!("{limits}/1h");
        limits += 1000;
        edit(&home, "gateway.toml", &before, &format!("{limits}/1h"));
        if round % 2 == 0 {
            served.process.signal("HUP").await;
        }
        until(&served, GENERATION, generation + 1.0).await;
        edit(&home, "gateway.toml", "[listen]", "[listen");
        until(&served, GOOD, 0.0).await;
        edit(&home, "gateway.toml", "[listen", "[listen]");
        until(&served, GOOD, 1.0).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.expect("every request was answered as before");
    }
    let sent = u32::try_from(count.load(Ordering::Relaxed)).expect("not that many");
    assert!(sent > 100, "{sent}");
    // What was spent before and between the reloads is spent.
    let last = served.http.get(POSTS).bearer(&token).send().await;
    assert_eq!(last.header("x-ratelimit-limit"), Some(limits.to_string().as_str()));
    assert_eq!(last.header("x-ratelimit-remaining"), Some((limits - sent - 1).to_string().as_str()));
    let out = served.process.stop().await.good();
    let said = |what: &str| out.lines().filter(|line| line.contains(what)).count();
    assert!(said("\"configuration_loaded\"") >= 4 && said("\"configuration_refused\"") >= 4, "{out}");
    assert!(said("the configuration cannot be used; the one before stays") >= 4, "{out}");
}

#[tokio::test]
async fn a_broken_include_keeps_the_old_configuration_and_mending_it_is_enough() {
    let backend = Backend::start().await;
    let home = home(&backend, &format!("{WATCH}\n[network]"), "");
    let path = home.folder.path().join("more.toml");
    let served = home.start().await;
    let route = "[[site.route]]\nmatch = \"* /api/v1/{*rest}\"";
    // A file that is named before it is there.
    let text = std::fs::read_to_string(home.folder.path().join("gateway.toml")).expect("the file");
    std::fs::write(home.folder.path().join("gateway.toml"), format!("include = \"more.toml\"\n{text}"))
        .expect("a file");
    until(&served, GOOD, 0.0).await;
    assert_eq!(served.http.get(POSTS).send().await.status, 401, "the old one counts");
    std::fs::write(&path, "[limits]\nmax_subjects = 7\n").expect("a file");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(metric(&served, GOOD).await, Some(0.0), "it is there, and wrong");
    let generation = metric(&served, GENERATION).await.expect("a generation");
    assert_eq!(metric(&served, "tollgate_config_restart_pending").await, Some(0.0));
    std::fs::write(&path, "[limits]\nmax_subjects = 7000\n").expect("a file");
    until(&served, GOOD, 1.0).await;
    until(&served, GENERATION, generation + 1.0).await;
    until(&served, "tollgate_config_restart_pending", 1.0).await;
    // Touched, or written anew with the same text: nothing is read again.
    std::fs::write(&path, "[limits]\nmax_subjects = 7000\n").expect("a file");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(metric(&served, GENERATION).await, Some(generation + 1.0));
    // What a reload does apply is applied beside what waits.
    edit(&home, "gateway.toml", route, &route.replace("/api/v1", "/api/v2"));
    let client: &'static Client = Box::leak(Box::new(served.http.clone()));
    until_status(|| client.get(POSTS), 404).await;
    let out = served.process.stop().await.good();
    assert!(out.contains("\"section\":\"[limits]\"") && out.contains("more.toml"), "{out}");
}

#[tokio::test]
async fn a_key_a_secret_file_a_contract_and_the_operators_token_count_from_the_change_on() {
    let backend = Backend::start().await;
    let home = home(&backend, WATCH, "");
    let folder = home.folder.path();
    std::fs::write(folder.join("secret"), format!("{NEW_SECRET}\n")).expect("a file");
    std::fs::write(folder.join("operator"), format!("{ADMIN_TOKEN}\n")).expect("a file");
    let mine = tollgate::contract::compile::show("vantage").expect("a built-in contract");
    std::fs::write(folder.join("mine.toml"), mine).expect("a file");
    edit(&home, "gateway.toml", "contract = \"vantage\"", "contract = \"./mine.toml\"\nname = \"vantage\"");
    edit(&home, "gateway.toml", &format!("token = \"{ADMIN_TOKEN}\""), "token_file = \"operator\"");
    let served = home.start().await;
    let client: &'static Client = Box::leak(Box::new(served.http.clone()));
    let admin: &'static Client = Box::leak(Box::new(served.admin.clone()));
    let old = signed_in(client, "ada@example.com").await;
    assert_eq!(client.get(POSTS).bearer(&old).send().await.status, 200);

    // A second key in front signs; the first still verifies.
    let one = format!("{{ kid = \"one\", algorithm = \"HS256\", secret = \"{TOKEN_SECRET}\" }}");
    let two = "{ kid = \"two\", algorithm = \"HS256\", secret_file = \"secret\" }";
    edit(&home, "gateway.toml", &one, &format!("{two}, {one}"));
    until(&served, GENERATION, 2.0).await;
    let new = signed_in(client, "ada@example.com").await;
    for token in [&old, &new] {
        assert_eq!(client.get(POSTS).bearer(token).send().await.status, 200);
    }
    // The first is taken away: what it signed ends, though it was verified and is remembered.
    edit(&home, "gateway.toml", &format!(", {one}"), "");
    let ended = old.clone();
    until_status(move || client.get(POSTS).bearer(&ended), 401).await;
    assert_eq!(client.get(POSTS).bearer(&new).send().await.status, 200);
    // The secret in the file becomes another.
    std::fs::write(folder.join("secret"), format!("{TOKEN_SECRET}\n")).expect("a file");
    let ended = new.clone();
    until_status(move || client.get(POSTS).bearer(&ended), 401).await;

    edit(&home, "mine.toml", "Not authenticated", "Who are you");
    let begun = now();
    while !client.get(POSTS).send().await.text().contains("Who are you") {
        assert!(begun.elapsed() < SOON, "the contract's file is read again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(admin.get("/v1/sites").bearer(ADMIN_TOKEN).send().await.status, 200);
    std::fs::write(folder.join("operator"), format!("{NEW_SECRET}\n")).expect("a file");
    until_status(|| admin.get("/v1/sites").bearer(ADMIN_TOKEN), 401).await;
    assert_eq!(admin.get("/v1/sites").bearer(NEW_SECRET).send().await.status, 200);
    served.process.stop().await.good();
}

/// A certificate for `name`, written as `<name>.pem` and `<name>.key`.
fn certify(home: &Home, file: &str, name: &str) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    let at = |ending: &str| -> PathBuf { home.folder.path().join(format!("{file}.{ending}")) };
    std::fs::write(at("pem"), made.cert.pem()).expect("a file");
    std::fs::write(at("key"), made.signing_key.serialize_pem()).expect("a file");
    CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).expect("what was just made")
}

/// The certificate that a client is shown who asks for `name`.
async fn shown(client: &Client, name: &str, trusted: &[&CertificateDer<'static>]) -> Option<CertificateDer<'static>> {
    let mut roots = rustls::RootCertStore::empty();
    for each in trusted {
        roots.add((*each).clone()).expect("an anchor");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = tokio::net::TcpStream::connect(client.address).await.expect("accepted");
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await.ok()?;
    Some(stream.get_ref().1.peer_certificates()?.first()?.clone().into_owned())
}

#[tokio::test]
async fn certificates_are_replaced_and_added_while_it_runs_and_a_pair_that_does_not_fit_is_not() {
    let backend = Backend::start().await;
    let home = home(&backend, WATCH, "");
    let first = certify(&home, "first", "localhost");
    let pair = |file: &str| format!("[[tls.certificate]]\ncertificate = \"{file}.pem\"\nkey = \"{file}.key\"\n");
    edit(&home, "gateway.toml", "[tls]\ndevelopment = true\n", &pair("first"));
    let mut process = super::process::Process::start(home.serve());
    let https = Client { address: process.address("https").await, host: "localhost".into(), tls: None };
    process.address("admin").await;
    assert_eq!(shown(&https, "localhost", &[&first]).await.as_ref(), Some(&first));
    // The same files, another certificate.
    let renewed = certify(&home, "first", "localhost");
    let begun = now();
    while shown(&https, "localhost", &[&first, &renewed]).await.as_ref() != Some(&renewed) {
        assert!(begun.elapsed() < SOON, "a renewed certificate is served");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Another entry, for another name.
    let second = certify(&home, "second", "other.example");
    edit(&home, "gateway.toml", &pair("first"), &format!("{}{}", pair("first"), pair("second")));
    let begun = now();
    while shown(&https, "other.example", &[&second]).await.as_ref() != Some(&second) {
        assert!(begun.elapsed() < SOON, "an added certificate is served");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // A certificate without its key: nothing changes, not even what else the file says now.
    let made = rcgen::generate_simple_self_signed(vec!["other.example".to_owned()]).expect("a certificate");
    std::fs::write(home.folder.path().join("second.pem"), made.cert.pem()).expect("a file");
    process.until("a refusal", |out| out.contains("configuration_refused").then_some(())).await;
    assert_eq!(shown(&https, "other.example", &[&second]).await.as_ref(), Some(&second));
    std::fs::write(home.folder.path().join("second.key"), made.signing_key.serialize_pem()).expect("a file");
    let fits = CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).expect("what was just made");
    let begun = now();
    while shown(&https, "other.example", &[&fits]).await.as_ref() != Some(&fits) {
        assert!(begun.elapsed() < SOON, "the pair is served once it fits");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    process.stop().await.good();
}

#[tokio::test]
async fn without_a_watch_only_the_signal_reads_the_files_again() {
    let backend = Backend::start().await;
    let home = home(&backend, "[reload]\nwatch = false\nevery = \"100ms\"", "");
    let served = home.start().await;
    edit(&home, "gateway.toml", "* /api/v1/{*rest}", "* /api/v2/{*rest}");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(served.http.get(POSTS).send().await.status, 401);
    served.process.signal("HUP").await;
    until(&served, GENERATION, 2.0).await;
    assert_eq!(served.http.get(POSTS).send().await.status, 404);
    served.process.stop().await.good();
}

#[tokio::test]
async fn the_logs_level_is_the_operators_until_the_configured_one_changes() {
    let backend = Backend::start().await;
    let home = home(&backend, WATCH, "");
    let mut served = home.start().await;
    let level =
        async |served: &Served| -> Value { served.admin.get("/v1/log").bearer(ADMIN_TOKEN).send().await.json() };
    let put = async |served: &Served, body: Value| {
        served.admin.ask("PUT", "/v1/log").bearer(ADMIN_TOKEN).json(&body).send().await
    };
    assert_eq!(served.admin.get("/v1/log").send().await.status, 401);
    assert_eq!(level(&served).await, json!({ "level": "info", "configured": "info" }));
    for bad in [json!({ "level": "tollgate=loud" }), json!({ "lvl": "info" }), json!("info"), json!({ "level": 3 })] {
        assert_eq!(put(&served, bad.clone()).await.status, 400, "{bad}");
    }
    assert_eq!(served.admin.ask("DELETE", "/v1/log").bearer(ADMIN_TOKEN).send().await.status, 405);
    assert_eq!(put(&served, json!({ "level": "error" })).await.status, 200);
    assert_eq!(level(&served).await, json!({ "level": "error", "configured": "info" }));
    // An event of level info is not written now; the audit trail has no level.
    served.process.signal("HUP").await;
    until(&served, GENERATION, 2.0).await;
    assert_eq!(level(&served).await["level"], "error", "reading the same again changes nothing");
    served.process.until("the audit", |out| out.contains("configuration_loaded").then_some(())).await;
    assert!(!served.process.out().contains("the configuration was read again"));
    assert_eq!(put(&served, json!({ "level": null })).await.status, 200);
    served.process.signal("HUP").await;
    served.process.until("an event", |out| out.contains("the configuration was read again").then_some(())).await;

    put(&served, json!({ "level": "error" })).await;
    edit(&home, "gateway.toml", "[log]\naccess = false", "[log]\naccess = true\nlevel = \"warn\"");
    until(&served, GENERATION, 4.0).await;
    assert_eq!(level(&served).await, json!({ "level": "warn", "configured": "warn" }));
    assert_eq!(served.http.get(POSTS).send().await.status, 401);
    served.process.until("an access line", |out| out.contains("\"kind\":\"access\"").then_some(())).await;
    let out = served.process.stop().await.good();
    assert_eq!(out.matches("\"log_level_set\"").count(), 3, "{out}");
}

/// A backend whose answers never end.
async fn endless() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 4096]).await;
                let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                let mut sent = socket.write_all(head).await;
                while sent.is_ok() {
                    sent = socket.write_all(b"6\r\n: on\n\n\r\n").await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_through_reloads_and_ends_with_the_key_that_let_it_in() {
    let backend = endless().await;
    let home = Home::new(&Plan { postgres: None, backend: &backend, store: "", top: WATCH, site: "" });
    let served = home.start().await;
    let token = signed_in(&served.http, "ada@example.com").await;
    let mut stream = served.http.get(POSTS).bearer(&token).open().await;
    let one = format!("{{ kid = \"one\", algorithm = \"HS256\", secret = \"{TOKEN_SECRET}\" }}");
    let two = format!("{{ kid = \"two\", algorithm = \"HS256\", secret = \"{NEW_SECRET}\" }}");
    edit(&home, "gateway.toml", &one, &format!("{two}, {one}"));
    until(&served, GENERATION, 2.0).await;
    let begun = now();
    while begun.elapsed() < Duration::from_millis(1200) {
        let frame = tokio::time::timeout(SOON, stream.frame()).await.expect("in time");
        frame.expect("it goes on").expect("it is whole");
    }
    edit(&home, "gateway.toml", &format!(", {one}"), "");
    until(&served, GENERATION, 3.0).await;
    let begun = now();
    let ended = async { while let Some(Ok(_)) = stream.frame().await {} };
    tokio::time::timeout(SOON, ended).await.expect("it ends");
    // A second by promise; the rest is a busy machine's.
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    served.process.stop().await.good();
}

#[tokio::test]
async fn health_checks_begin_and_end_with_a_reload_and_what_they_know_outlives_one() {
    let backend = Backend::start().await;
    let home = home(&backend, WATCH, "max_body = \"64KiB\"\n[site.plan.free]\nlimits = [\"1000/1h\"]\n");
    let served = home.start().await;
    let labels = format!("server=\"{}\",site=\"vantage\",upstream=\"app\"", backend.url());
    let healthy = format!("tollgate_upstream_server_healthy{{{labels}}}");
    assert_eq!(metric(&served, &healthy).await, None);
    let checks =
        "[site.upstream.app.health]\npath = \"/well\"\ninterval = \"1h\"\nstatuses = \"204\"\n[site.plan.free]";
    edit(&home, "gateway.toml", "[site.plan.free]", checks);
    // The backend answers 200: not what was asked for.
    until(&served, &healthy, 0.0).await;
    let asked = backend.count();
    let generation = metric(&served, GENERATION).await.expect("a generation");
    edit(&home, "gateway.toml", "1000/1h", "1001/1h");
    until(&served, GENERATION, generation + 1.0).await;
    assert_eq!(
        (metric(&served, &healthy).await, backend.count()),
        (Some(0.0), asked),
        "it is known, and not asked anew"
    );
    edit(&home, "gateway.toml", "statuses = \"204\"\n", "");
    until(&served, GENERATION, generation + 2.0).await;
    let token = signed_in(&served.http, "ada@example.com").await;
    assert_eq!(served.http.get(POSTS).bearer(&token).send().await.status, 503, "one success is not enough");
    edit(&home, "gateway.toml", "interval = \"1h\"", "interval = \"100ms\"");
    until(&served, &healthy, 1.0).await;
    assert_eq!(served.http.get(POSTS).bearer(&token).send().await.status, 200);
    edit(&home, "gateway.toml", "[site.upstream.app.health]\npath = \"/well\"\ninterval = \"100ms\"\n", "");
    let begun = now();
    while metric(&served, &healthy).await.is_some() {
        assert!(begun.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    served.process.stop().await.good();
}

#[tokio::test]
async fn what_is_left_of_second_attempts_is_not_filled_up_by_a_reload() {
    let backend = Backend::start().await;
    // Nobody listens on port 1: each request is refused, and wants to be tried on the other server.
    let site = "[site.upstream.gone]\nservers = [\"http://127.0.0.1:1\", \"http://127.0.0.2:1\"]\n\
                retries = { percent = 0, per_second = 1 }\n\
                [[site.route]]\nmatch = \"GET /gone\"\npublic = true\nupstream = \"gone\"\n";
    let home = home(&backend, "[reload]\nwatch = false", site);
    edit(&home, "gateway.toml", "match = \"* /api/v1/{*rest}\"", "match = \"* /api/v1/{*rest}\"\nupstream = \"app\"");
    let served = home.start().await;
    let spent = "tollgate_upstream_retries_total{result=\"spent\",site=\"vantage\",upstream=\"gone\"}";
    let refused = "tollgate_upstream_retries_total{result=\"refused\",site=\"vantage\",upstream=\"gone\"}";
    let begun = now();
    for generation in 2_u8..22 {
        assert_eq!(served.http.get("/gone").send().await.status, 502);
        served.process.signal("HUP").await;
        until(&served, GENERATION, generation.into()).await;
    }
    assert_eq!(served.http.get("/gone").send().await.status, 502);
    let (spent, refused) = (metric(&served, spent).await.expect("one"), metric(&served, refused).await.expect("one"));
    assert!(spent >= 1.0 && (spent + refused - 21.0).abs() < 0.1, "{spent} and {refused}");
    assert!(spent <= 2.0 + begun.elapsed().as_secs_f64(), "one a second, whatever is read again: {spent}");
    served.process.stop().await.good();
}
