//! `tollgate serve` as a service manager meets it: how it starts, what stops it from starting, how it ends.

use std::fs;
use std::net::TcpListener as Taken;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;

use super::backend::Backend;
use super::client::{Answer, Client};
use super::harness::trusting;
use super::process::{Home, Plan, Process, Told, run, tollgate};
use super::wire::now;

/// A process that has nothing to finish ends within this time.
const PROMPT: Duration = Duration::from_secs(3);

fn home(backend: &str) -> Home {
    Home::new(&Plan { postgres: None, backend, store: "", top: "", site: "" })
}

/// `serve` with these arguments, listening where the system gives it room.
fn serve(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = tollgate(folder);
    command.arg("serve").args(arguments).args(["--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command
}

async fn client(process: &mut Process, folder: &Path) -> Client {
    let address = process.address("https").await;
    process.address("admin").await;
    Client { address, host: "localhost".into(), tls: Some(trusting(&folder.join("certs/ca.pem"))) }
}

async fn token(client: &Client) -> String {
    let account = json!({ "email": "ada@example.com", "password": "correct horse battery", "name": "Ada" });
    let made = client.post("/api/v1/auth/register", &account).send().await;
    assert!([201, 409].contains(&made.status.as_u16()), "{}", made.text());
    let signed_in = client.post("/api/v1/auth/login", &account).send().await;
    assert_eq!(signed_in.status, 200, "{}", signed_in.text());
    signed_in.string("/access_token")
}

#[tokio::test]
async fn an_upstream_on_the_command_line_is_all_that_it_takes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let backend = Backend::start().await;
    for start in 0..2 {
        let mut process = Process::start(serve(folder.path(), &["--upstream", &backend.url()]));
        let client = client(&mut process, folder.path()).await;
        let token = token(&client).await;
        assert_eq!(client.get("/anything/at/all?page=2").send().await.status, 401, "without a credential");
        let answer = client.get("/anything/at/all?page=2").bearer(&token).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = backend.last();
        assert_eq!(
            (seen.path.as_str(), seen.one("x-user-email")),
            ("/anything/at/all?page=2", Some("ada@example.com"))
        );
        assert_eq!(backend.count(), start + 1);
        process.stop().await.good();
    }
    for file in ["data/tollgate.db", "data/secrets/tokens", "data/secrets/pepper", "data/secrets/admin"] {
        let mode = fs::metadata(folder.path().join(file)).expect(file).permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} is its owner's alone");
    }
}

#[tokio::test]
async fn the_configuration_that_ships_works_as_it_is_in_a_fresh_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copied = Command::new("cp").args(["-R", "config"]).arg(folder.path()).status().await;
    assert!(copied.expect("cp").success());
    let mut process = Process::start(serve(folder.path(), &["--config", "config/gateway.toml"]));
    let client = client(&mut process, folder.path()).await;
    let token = token(&client).await;
    // Its backend is an example: nobody is there, and that is told in the product's words.
    let answer = client.get("/api/v1/posts").bearer(&token).send().await;
    assert_eq!(answer.status.as_u16() / 100, 5, "{}", answer.text());
    assert!(!answer.string("/error").is_empty());
    assert_eq!(client.at_host("api.vantageai.com").get("/api/v1/posts").send().await.status, 401);
    process.stop().await.good();
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_nothing_is_served() {
    let taken = Taken::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let home = home("http://127.0.0.1:9");
    for flag in ["--https", "--http", "--admin"] {
        let mut command = home.serve();
        command.args([flag, &address]);
        let said = run(command).await;
        assert!(!said.out.contains("\"listening\""), "all doors or none: {said:?}");
        let err = said.bad(1);
        assert!(err.contains(&format!("{address} cannot be listened on")), "{err}");
    }
}

#[tokio::test]
async fn a_weak_missing_or_shared_secret_is_a_reason_not_to_start() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let shipped = fs::read_to_string("config/gateway.toml").expect("the configuration that ships");
    let key = "secret_file = \"data/secrets/tokens\", generate = true";
    let pepper = "pepper_file = \"data/secrets/pepper\"\ngenerate = true";
    fs::write(folder.path().join("short"), "kX9vQ2mZ7tR4wY8pL1nB6cJ3hG5fD0s\n").expect("a file");
    for (what, before, after, told) in [
        ("short", key, "secret = \"kX9vQ2mZ7tR4wY8pL1nB6cJ3hG5fD0s\"", "it has 31 bytes and needs 32"),
        ("short in a file", key, "secret_file = \"short\"", "it has 31 bytes and needs 32"),
        ("a sample", key, "secret = \"your-secret-key-here-your-secret-key-here\"", "secret"),
        ("repeated", key, "secret = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"", "secret"),
        ("not there", key, "secret_file = \"data/secrets/tokens\"", "data/secrets/tokens"),
        ("not set", key, "secret = \"${NOBODY_SETS_THIS}\"", "NOBODY_SETS_THIS"),
        ("empty", key, "secret = \"\"", "secret"),
        ("none", key, "", "secret"),
        ("a weak pepper", pepper, "pepper = \"pepper\"", "pepper"),
    ] {
        let text = shipped.replace(before, after).replace("algorithm = \"HS256\",  }", "algorithm = \"HS256\" }");
        assert_ne!(text, shipped, "{what}");
        fs::write(folder.path().join("gateway.toml"), text).expect("a file");
        let err = run(serve(folder.path(), &["--config", "gateway.toml"])).await.bad(78);
        let mut lines = err.lines();
        let first = lines.next().expect("an error");
        assert!(first.starts_with("gateway.toml:") && first.contains(told), "{what}: {err}");
        assert!(lines.next().is_some_and(|line| line.starts_with("    help: ")), "{what}: {err}");
        assert!(!err.contains("kX9vQ2mZ"), "{what}: the secret is not printed");
        assert!(!folder.path().join("data").exists(), "{what}: nothing is made");
    }
    // The nearest thing that may start: one byte more.
    fs::write(folder.path().join("short"), "kX9vQ2mZ7tR4wY8pL1nB6cJ3hG5fD0sA\n").expect("a file");
    fs::write(folder.path().join("gateway.toml"), shipped.replace(key, "secret_file = \"short\"")).expect("a file");
    let mut process = Process::start(serve(folder.path(), &["--config", "gateway.toml"]));
    process.address("admin").await;
    process.stop().await.good();
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_is_a_reason_not_to_start() {
    let home = home("http://127.0.0.1:9");
    let listener = Taken::bind("127.0.0.1:0").expect("a port");
    let silent = listener.local_addr().expect("its address");
    let postgres = format!("postgres://someone:hunter2@{silent}/tollgate?sslmode=disable");
    fs::write(home.folder.path().join("file"), "").expect("a file");
    fs::write(home.folder.path().join("text.db"), "no database, just text. ".repeat(100)).expect("a file");
    for url in [postgres.as_str(), "sqlite://file/tollgate.db", "sqlite://text.db"] {
        let mut command = home.serve();
        command.env("TOLLGATE__STORE__URL", url).env("TOLLGATE__STORE__ACQUIRE_TIMEOUT", "300ms");
        let started = now();
        let said = run(command).await;
        assert!(started.elapsed() < 2 * PROMPT, "{url}: {:?}", started.elapsed());
        assert!(!said.out.contains("\"listening\"") && !said.out.contains("hunter2"), "{said:?}");
        let err = said.bad(1);
        assert!(err.contains("the store could not be opened ([store] url): "), "{url}: {err}");
        assert!(!err.contains("hunter2"), "{err}");
    }
}

/// A backend that takes this long to answer, and how many requests have reached it.
async fn slow_backend(answer: Duration) -> (String, watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let (arrived, count) = watch::channel(0);
    let arrived = Arc::new(arrived);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let arrived = Arc::clone(&arrived);
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = socket.read(&mut head).await;
                arrived.send_modify(|count| *count += 1);
                tokio::time::sleep(answer).await;
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await;
                tokio::time::sleep(Duration::from_secs(5)).await;
            });
        }
    });
    (format!("http://{address}"), count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_what_is_under_way_finish_and_ends_well() {
    let (backend, mut arrived) = slow_backend(Duration::from_millis(1500)).await;
    let home = home(&backend);
    let served = home.start().await;
    let token = token(&served.https).await;
    let client = served.https.clone();
    let under_way = tokio::spawn(async move { client.get("/api/v1/posts").bearer(&token).send().await });
    // Others are only there: two that sent nothing, two that are between requests, one that has not even greeted.
    let silent = [served.https.stream(&[b"http/1.1"]).await, served.https.stream(&[b"h2"]).await];
    let (mut idle, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(served.https.stream(&[b"h2"]).await))
            .await
            .expect("an HTTP/2 connection");
    let driver = tokio::spawn(connection);
    let request = http::Request::get("https://localhost/api/v1/posts").body(Empty::<Bytes>::new()).expect("a request");
    assert_eq!(idle.send_request(request).await.expect("an answer").status(), 401);
    let mut between = served.http.stream(&[]).await;
    between.write_all(b"GET /api/v1/posts HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut first = [0; 12];
    between.read_exact(&mut first).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 401");
    let greeted = tokio::net::TcpStream::connect(served.https.address).await.expect("accepted");
    arrived.wait_for(|count| *count == 1).await.expect("a request");
    assert_eq!(served.admin.get("/readyz").send().await.status, 200);

    let told = now();
    served.process.signal("TERM").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let refused = tokio::net::TcpStream::connect(served.https.address).await;
    assert!(refused.is_err(), "nobody new is let in");
    let ready = served.admin.get("/readyz").send().await;
    assert_eq!((ready.status.as_u16(), ready.text().as_str()), (503, "not ready: draining\n"));
    let answer: Answer = under_way.await.expect("no panic");
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "late"), "what had begun is finished");
    let ended = served.process.ended().await;
    println!("ended {:?} after the signal", told.elapsed());
    assert!(ended.out.contains("\"draining\""), "{}", ended.out);
    ended.good();
    assert!(told.elapsed() < PROMPT, "nobody else keeps it: {:?}", told.elapsed());
    driver.await.expect("no panic").expect("HTTP/2 clients are told to go, not cut off");
    drop((silent, between, greeted, idle));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_finish_in_time_is_left_behind() {
    let (backend, mut arrived) = slow_backend(Duration::from_mins(1)).await;
    let home = Home::new(&Plan {
        postgres: None,
        backend: &backend,
        store: "",
        top: "[connections]\ndrain_timeout = \"500ms\"",
        site: "",
    });
    let served = home.start().await;
    let token = token(&served.https).await;
    let client = served.https.clone();
    let under_way = tokio::spawn(async move { client.get("/api/v1/posts").bearer(&token).try_send().await });
    arrived.wait_for(|count| *count == 1).await.expect("a request");
    let told = now();
    let ended = served.process.stop().await;
    assert!((Duration::from_millis(500)..PROMPT).contains(&told.elapsed()), "{:?}", told.elapsed());
    assert!(ended.out.contains("still open at the drain timeout"), "{}", ended.out);
    ended.good();
    assert!(under_way.await.expect("no panic").is_err(), "it is told by the end of its connection");
}

#[tokio::test]
async fn ctrl_c_ends_it_as_sigterm_does_and_so_does_the_demo() {
    let home = home("http://127.0.0.1:9");
    let served = home.start().await;
    served.process.signal("INT").await;
    served.process.ended().await.good();

    let mut command = tollgate(home.folder.path());
    command.args(["demo", "--https", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut demo = Process::start(command);
    let told = |out: &str| out.contains("Ctrl-C ends it.").then_some(());
    demo.until("an invitation", told).await;
    demo.signal("INT").await;
    let said: Told = demo.ended().await;
    assert!(said.out.contains("curl --cacert certs/ca.pem https://localhost:"), "{}", said.out);
    said.good();
}

#[tokio::test]
async fn a_client_that_chooses_http2_and_says_nothing_is_not_kept() {
    let backend = Backend::start().await;
    let home = Home::new(&Plan {
        postgres: None,
        backend: &backend.url(),
        store: "",
        top: "[connections]\nheader_timeout = \"500ms\"",
        site: "",
    });
    let served = home.start().await;
    let honest = served.https.stream(&[b"h2"]).await;
    let (mut honest, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(honest)).await.expect("an HTTP/2 connection");
    let driver = tokio::spawn(connection);
    for begun in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let mut silent = served.https.stream(&[b"h2"]).await;
        silent.write_all(begun).await.expect("sent");
        let started = now();
        let mut told = Vec::new();
        // What hyper says first is read; then comes the end, by a close or by a reset.
        let _ = tokio::time::timeout(PROMPT, silent.read_to_end(&mut told)).await.expect("it is let go");
        assert!(started.elapsed() >= Duration::from_millis(400), "not before it could speak");
    }
    // Whoever has begun may rest between two requests.
    let request = http::Request::get("https://localhost/api/v1/posts").body(Empty::<Bytes>::new()).expect("a request");
    assert_eq!(honest.send_request(request).await.expect("an answer").status(), 401);
    served.process.stop().await.good();
    driver.abort();
}

#[tokio::test]
async fn a_load_balancer_is_told_first_and_clients_are_let_in_until_the_delay_is_over() {
    let backend = Backend::start().await;
    let home = Home::new(&Plan {
        postgres: None,
        backend: &backend.url(),
        store: "",
        top: "[connections]\ndrain_delay = \"1s\"",
        site: "",
    });
    let served = home.start().await;
    let token = token(&served.http).await;
    let told = now();
    served.process.signal("TERM").await;
    let mut during = 0;
    while told.elapsed() < Duration::from_millis(800) {
        let ready = served.admin.get("/readyz").send().await;
        let answer = served.http.get("/api/v1/posts").bearer(&token).send().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        during += u32::from(ready.status == 503);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(during > 5, "{during}");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(tokio::net::TcpStream::connect(served.http.address).await.is_err(), "nobody new after it");
    served.process.ended().await.good();
    assert!(told.elapsed() >= Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() {
    let (backend, mut arrived) = slow_backend(Duration::from_mins(1)).await;
    let home = home(&backend);
    let served = home.start().await;
    let token = token(&served.http).await;
    let client = served.http.clone();
    let under_way = tokio::spawn(async move { client.get("/api/v1/posts").bearer(&token).try_send().await });
    arrived.wait_for(|count| *count == 1).await.expect("a request");
    served.process.signal("TERM").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!under_way.is_finished(), "the first signal lets it finish");
    let told = now();
    served.process.signal("INT").await;
    let ended = served.process.ended().await;
    assert!(told.elapsed() < PROMPT, "{:?}", told.elapsed());
    assert!(ended.out.contains("told a second time to stop"), "{}", ended.out);
    ended.bad(1);
    assert!(under_way.await.expect("no panic").is_err());
}

#[tokio::test]
async fn who_was_about_to_ask_is_answered_and_told_to_go() {
    let backend = Backend::start().await;
    let home = home(&backend.url());
    let served = home.start().await;
    // One that has just come, one that has asked once and rests.
    let mut fresh = served.http.stream(&[]).await;
    let mut rests = served.https.stream(&[b"http/1.1"]).await;
    let ask = b"GET /api/v1/posts HTTP/1.1\r\nhost: localhost\r\n\r\n";
    rests.write_all(ask).await.expect("sent");
    let mut first = [0; 4096];
    let length = rests.read(&mut first).await.expect("an answer");
    assert!(!String::from_utf8_lossy(&first[..length]).contains("connection: close"));
    served.process.signal("TERM").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for stream in [&mut fresh, &mut rests] {
        stream.write_all(ask).await.expect("sent");
        let mut told = String::new();
        let read = tokio::time::timeout(PROMPT, stream.read_to_string(&mut told)).await.expect("an end");
        read.expect("an orderly one");
        assert!(told.starts_with("HTTP/1.1 401") && told.contains("connection: close"), "{told}");
    }
    served.process.ended().await.good();
}
