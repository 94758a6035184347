//! A new process takes over: from the one before it, or from a service manager that holds the sockets.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixDatagram;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::backend::Backend;
use super::client::{Client, Stream};
use super::harness::{binary, trusting};
use super::process::{Home, Plan, Process, Served, run_by};
use super::sockets::{Socket, Sockets, closed, open, text};
use super::wire::now;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);
const UNLIMITED: &str = "[site.plan.free]\nlimits = [\"100000000/1h\"]\n";

fn home(backend: &Backend, top: &str) -> Home {
    Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top, site: UNLIMITED })
}

async fn token(client: &Client) -> String {
    let account = json!({ "email": "ada@example.com", "password": "correct horse battery", "name": "Ada" });
    assert_eq!(client.post("/api/v1/auth/register", &account).send().await.status, 201);
    client.post("/api/v1/auth/login", &account).send().await.string("/access_token")
}

/// A gateway that nobody here has started; it ends with this.
struct Heir(u32);

impl Heir {
    async fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.0.to_string()]).status().await;
        assert!(sent.expect("kill").success());
    }

    async fn ended(&self) {
        let begun = now();
        // Whoever inherits it as a child may be slow to reap it: a zombie has ended too.
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", self.0)).ok();
        while state().is_some_and(|stat| stat.rsplit(')').next().is_some_and(|rest| !rest.starts_with(" Z"))) {
            assert!(begun.elapsed() < PATIENCE, "process {} has not ended", self.0);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        let _ =
            std::process::Command::new("kill").args(["-s", "KILL", &self.0.to_string()]).stderr(Stdio::null()).status();
    }
}

/// The `at`th process that took over, by the log that all of them write.
async fn heir(process: &Process, at: usize) -> Heir {
    let begun = now();
    loop {
        // The first of them may have ended by then, and its heirs write on.
        let out = process.out();
        let lines = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if let Some(line) = lines.filter(|line| line["message"] == "another process serves now").nth(at) {
            let pid = line["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            return Heir(pid.expect("a process id"));
        }
        assert!(begun.elapsed() < PATIENCE, "nobody took over: {out}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn ask(token: &str, more: &str) -> String {
    format!("GET /api/v1/posts HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n{more}\r\n")
}

/// Reads one answer; whether it says that it is the last.
async fn answer(stream: &mut Stream) -> bool {
    let mut read = Vec::new();
    let mut byte = [0; 4096];
    loop {
        let length = stream.read(&mut byte).await.expect("no reset");
        assert!(length > 0, "an end where an answer was due, after {:?}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&byte[..length]);
        let text = String::from_utf8_lossy(&read).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if body.len() == length.expect("a length") {
            assert!(head.starts_with("http/1.1 200"), "{text}");
            return head.contains("connection: close");
        }
    }
}

/// Clients that come and go, and clients that stay, until `stop`: whatever is refused, reset or unanswered panics.
fn load(served: &Served, token: &str, stop: &Arc<AtomicBool>, came: &Arc<AtomicUsize>) -> JoinSet<usize> {
    let mut clients = JoinSet::new();
    for at in 0..12 {
        let client = if at % 4 == 3 { served.https.clone() } else { served.http.clone() };
        let stays = at % 4 == 2;
        let ask = ask(token, if stays { "" } else { "connection: close\r\n" });
        let (stop, came) = (Arc::clone(stop), Arc::clone(came));
        clients.spawn(async move {
            let mut sent_away = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut stream = client.stream(&[b"http/1.1"]).await;
                came.fetch_add(1, Ordering::Relaxed);
                loop {
                    stream.write_all(ask.as_bytes()).await.expect("sent");
                    if answer(&mut stream).await {
                        sent_away += usize::from(stays);
                        break;
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
            sent_away
        });
    }
    clients
}

/// GOAWAY, for a stream beyond the last that was taken: it may be asked again (RFC 9113 section 6.8). Whether it was really not
/// taken the backend says.
fn is_goodbye(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_go_away() && cause.is_remote() && cause.reason() == Some(h2::Reason::NO_ERROR))
}

/// Clients that keep a connection of HTTP/2 with several requests on it at once, until `stop`: a connection may say goodbye, and
/// every request that it took is answered.
fn load_by_http2(served: &Served, token: &str, stop: &Arc<AtomicBool>, asked: &Arc<AtomicUsize>) -> JoinSet<usize> {
    let mut clients = JoinSet::new();
    for _ in 0..3 {
        let (client, bearer) = (served.https.clone(), format!("Bearer {token}"));
        let (stop, asked) = (Arc::clone(stop), Arc::clone(asked));
        clients.spawn(async move {
            let mut goodbyes = 0;
            while !stop.load(Ordering::Relaxed) {
                let stream = TokioIo::new(client.stream(&[b"h2"]).await);
                let made = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
                let (sender, connection) = made.expect("a connection");
                tokio::spawn(connection);
                let mut streams = JoinSet::new();
                for _ in 0..4 {
                    let (mut sender, bearer) = (sender.clone(), bearer.clone());
                    let (stop, asked) = (Arc::clone(&stop), Arc::clone(&asked));
                    streams.spawn(async move {
                        while !stop.load(Ordering::Relaxed) && sender.ready().await.is_ok() {
                            let request =
                                Request::get("https://localhost/api/v1/posts").header("authorization", &bearer);
                            let request = request.body(Empty::<Bytes>::new()).expect("a request");
                            let answer = match sender.try_send_request(request).await {
                                Ok(answer) => answer,
                                // It was not sent: between two looks the connection has said goodbye.
                                Err(error) if error.message().is_some() => break,
                                Err(error) if is_goodbye(error.error()) => break,
                                Err(error) => panic!("a request was taken and not answered: {:?}", error.into_error()),
                            };
                            assert_eq!(answer.status(), 200);
                            answer.into_body().collect().await.expect("a whole answer");
                            asked.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
                while let Some(ended) = streams.join_next().await {
                    ended.expect("every request was answered");
                }
                goodbyes += usize::from(!stop.load(Ordering::Relaxed));
            }
            goodbyes
        });
    }
    clients
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http2_every_request_that_is_taken_is_answered_while_one_process_after_another_takes_over() {
    let backend = Backend::start().await;
    let home = home(&backend, "");
    let served = home.start().await;
    let token = token(&served.http).await;
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = load_by_http2(&served, &token, &stop, &asked);
    let mut heirs: Vec<Heir> = Vec::new();
    for at in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        match heirs.last() {
            None => served.process.signal("USR2").await,
            Some(last) => last.signal("USR2").await,
        }
        heirs.push(heir(&served.process, at).await);
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    stop.store(true, Ordering::Relaxed);
    let mut goodbyes = 0;
    while let Some(ended) = clients.join_next().await {
        goodbyes += ended.expect("no connection breaks");
    }
    let asked = asked.load(Ordering::Relaxed);
    assert!(goodbyes >= 6 && asked > 200, "{goodbyes} goodbyes, {asked} requests");
    assert_eq!(backend.count(), asked, "what was taken was answered, and what was not was not taken");
    for gone in &heirs[..2] {
        gone.ended().await;
    }
    let last = heirs.pop().expect("three");
    last.signal("TERM").await;
    last.ended().await;
    served.process.ended().await.good();
}

#[tokio::test]
async fn a_websocket_goes_on_through_a_handover_and_is_told_at_its_processes_end() {
    let backend = Sockets::start(&[]).await;
    let url = format!("http://{}", backend.address);
    let top = "[connections]\ndrain_timeout = \"5s\"";
    let home = Home::new(&Plan { postgres: None, backend: &url, store: "", top, site: UNLIMITED });
    let served = home.start().await;
    let field = format!("Bearer {}", token(&served.http).await);
    let mut old = open(&served.https, "/api/v1/live", &[("authorization", &field)]).await.expect("it is let in");
    backend.opened().await;
    served.process.signal("USR2").await;
    let heir = heir(&served.process, 0).await;
    said(&mut old, "from before", &backend).await;
    let mut new = open(&served.https, "/api/v1/live", &[("authorization", &field)]).await.expect("the heir lets it in");
    backend.opened().await;
    said(&mut new, "from after", &backend).await;
    assert_eq!((closed(&mut old).await, backend.ended().await), (1001, Some(1001)));
    served.process.ended().await.good();
    new.send(Message::text("still there")).await.expect("sent");
    assert_eq!(text(&mut new).await, "still there");
    heir.signal("KILL").await;
    heir.ended().await;
}

/// What is said through `socket` reaches the backend and comes back.
async fn said(socket: &mut Socket, word: &str, backend: &Sockets) {
    socket.send(Message::text(word)).await.expect("sent");
    assert_eq!(text(socket).await, word);
    assert_eq!(backend.text().await, word);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_one_process_after_another_takes_over_and_nobody_is_refused_or_reset() {
    let backend = Backend::start().await;
    let home = home(&backend, "");
    let served = home.start().await;
    let token = token(&served.http).await;
    let (stop, came) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = load(&served, &token, &stop, &came);
    // A load balancer asks all the while, and there is always somebody who is ready.
    let (admin, asking) = (served.admin.clone(), Arc::clone(&stop));
    clients.spawn(async move {
        while !asking.load(Ordering::Relaxed) {
            let ready = admin.get("/readyz").send().await;
            assert_eq!((ready.status.as_u16(), ready.text().as_str()), (200, "ready\n"));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        0
    });
    let mut heirs: Vec<Heir> = Vec::new();
    let begun = now();
    for at in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        match heirs.last() {
            None => served.process.signal("USR2").await,
            Some(last) => last.signal("USR2").await,
        }
        let next = heir(&served.process, at).await;
        heirs.push(next);
    }
    while came.load(Ordering::Relaxed) < 3000 && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut sent_away = 0;
    while let Some(ended) = clients.join_next().await {
        sent_away += ended.expect("nobody was refused, reset or left without an answer");
    }
    println!("{} connections in {:?}", came.load(Ordering::Relaxed), begun.elapsed());
    assert!(came.load(Ordering::Relaxed) > 1000, "{came:?}");
    assert!(sent_away >= 3, "who keeps a connection is told to go: {sent_away}");
    for gone in &heirs[..2] {
        gone.ended().await;
    }
    let last = heirs.pop().expect("three");
    last.signal("TERM").await;
    last.ended().await;
    let out = served.process.ended().await.good();
    assert_eq!(out.matches("\"handed_over\"").count(), 3, "{out}");
    assert!(tokio::net::TcpStream::connect(served.http.address).await.is_err(), "and then nobody is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_cannot_start_takes_nothing_over_and_one_that_can_brings_the_new_listeners() {
    let backend = Backend::start().await;
    let home = home(&backend, "[reload]\nwatch = false");
    let mut served = home.start().await;
    let token = token(&served.http).await;
    let path = home.folder.path().join("gateway.toml");
    let good = std::fs::read_to_string(&path).expect("the configuration");
    std::fs::write(&path, good.replace("[listen]", "[listen")).expect("a file");
    served.process.signal("USR2").await;
    served.process.until("a refusal", |out| out.contains("\"handover_failed\"").then_some(())).await;
    for client in [&served.http, &served.https] {
        assert_eq!(client.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    }
    let metrics = served.admin.get("/metrics").send().await.text();
    assert!(metrics.contains("tollgate_handover_failures_total 1\n"), "{metrics}");
    // What needs a restart is there without one that anybody notices: here a listener more.
    let more = good.replace("http = \"127.0.0.1:0\"", "http = [\"127.0.0.1:0\", \"127.0.0.2:0\"]");
    std::fs::write(&path, more).expect("a file");
    served.process.signal("USR2").await;
    let heir = heir(&served.process, 0).await;
    let second = async {
        loop {
            let out = served.process.out();
            let lines = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut addresses = lines.filter_map(|line| line["address"].as_str()?.parse::<SocketAddr>().ok());
            if let Some(second) = addresses.find(|address| address.ip().to_string() == "127.0.0.2") {
                return second;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let second = tokio::time::timeout(PATIENCE, second).await.expect("a second listener");
    let second = Client { address: second, ..served.http.clone() };
    for client in [&served.http, &second] {
        assert_eq!(client.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    }
    heir.signal("TERM").await;
    heir.ended().await;
    served.process.ended().await.good();
}

#[tokio::test]
async fn a_service_manager_gives_the_sockets_and_is_told_how_things_stand() {
    let backend = Backend::start().await;
    let home = home(&backend, "[reload]\nwatch = false");
    let folder = home.folder.path();
    let manager = UnixDatagram::bind(folder.join("notify")).expect("a socket");
    let said = async |what: &'static str| {
        let mut all = String::new();
        let hearing = async {
            loop {
                let mut message = [0; 512];
                let length = manager.recv(&mut message).await.expect("a message");
                all.push_str(&String::from_utf8_lossy(&message[..length]));
                if all.contains(what) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, hearing).await.unwrap_or_else(|_| panic!("no {what}"));
    };
    // As systemd does it: the sockets are there before the process is, and clients may come already.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let early = tokio::net::TcpStream::connect(address).await.expect("the kernel takes it in");
    let mut shell = run_by("/bin/sh".as_ref(), folder);
    shell.args(["-c", "exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$0\" serve --config gateway.toml"]);
    shell.arg(binary()).stdin(Stdio::from(OwnedFd::from(listener)));
    shell.envs([("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "https"), ("WATCHDOG_USEC", "400000")]);
    shell.env("NOTIFY_SOCKET", folder.join("notify"));
    let mut process = Process::start(shell);
    assert_eq!(process.address("https").await, address);
    said("READY=1").await;
    let https = Client { address, host: "localhost".into(), tls: Some(trusting(&folder.join("certs/ca.pem"))) };
    let tls = tokio_rustls::TlsConnector::from(https.tls.clone().expect("trust"));
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    let mut early: Stream = Box::new(tls.connect(name, early).await.expect("who was early is served"));
    let token = token(&https).await;
    early.write_all(ask(&token, "").as_bytes()).await.expect("sent");
    assert!(!answer(&mut early).await);
    said("WATCHDOG=1").await;
    process.signal("HUP").await;
    said("RELOADING=1\nMONOTONIC_USEC=").await;
    said("READY=1").await;

    // The one who was the service says who is it now; the socket keeps its name.
    process.signal("USR2").await;
    said("MAINPID=").await;
    let heir = heir(&process, 0).await;
    process.ended().await.good();
    assert_eq!(https.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    said("WATCHDOG=1").await;
    heir.signal("TERM").await;
    said("STOPPING=1").await;
    heir.ended().await;
}

#[tokio::test]
async fn a_socket_that_nobody_wants_and_a_handover_that_is_none_are_reasons_not_to_start() {
    let backend = Backend::start().await;
    let home = home(&backend, "");
    let mut shell = run_by("/bin/sh".as_ref(), home.folder.path());
    let listener = std::net::TcpListener::bind("127.0.0.3:0").expect("a port");
    shell.args(["-c", "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --config gateway.toml"]);
    shell.arg(binary()).stdin(Stdio::from(OwnedFd::from(listener)));
    let err = super::process::run(shell).await.bad(1);
    assert!(err.contains("the service manager gives a socket at 127.0.0.3:"), "{err}");
    let mut command = home.serve();
    command.env("TOLLGATE_HANDOVER", "1");
    let err = super::process::run(command).await.bad(1);
    assert!(err.contains("TOLLGATE_HANDOVER is set, and nothing is handed over"), "{err}");
    // Sockets for another process are not ours.
    let mut command = home.serve();
    command.envs([("LISTEN_PID", "1"), ("LISTEN_FDS", "1")]);
    let served = home.start_as(command).await;
    served.process.stop().await.good();
}

/// What runs a program as process 1 of a namespace of its own, and ends it with itself; `None`: that is not allowed here.
fn first_of_its_own() -> Option<&'static [&'static str]> {
    let ways: [&[&str]; 2] =
        [&["--pid", "--fork", "--kill-child"], &["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]];
    let works = |way: &&[&str]| {
        let tried = std::process::Command::new("unshare").args(*way).arg("true").stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    ways.into_iter().find(works)
}

#[tokio::test]
async fn process_1_hands_nothing_over_says_why_and_serves_on() {
    let Some(way) = first_of_its_own() else {
        eprintln!("skipped: no namespace of processes can be made here (unshare --pid)");
        return;
    };
    let backend = Backend::start().await;
    let home = home(&backend, "");
    let mut command = run_by("unshare".as_ref(), home.folder.path());
    command.args(way).arg(binary()).args(["serve", "--config", "gateway.toml"]);
    let mut served = home.start_as(command).await;
    let token = token(&served.http).await;
    let parent = served.process.id();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).expect("its children");
    let first = Heir(children.trim().parse().expect("one child"));
    let status = std::fs::read_to_string(format!("/proc/{}/status", first.0)).expect("its state");
    let ids = status.lines().find(|line| line.starts_with("NSpid:")).expect("its ids, the innermost last");
    assert!(ids.ends_with("\t1"), "{ids}");

    first.signal("USR2").await;
    served.process.until("a refusal", |out| out.contains("process 1 cannot hand over").then_some(())).await;
    let metrics = served.admin.get("/metrics").send().await.text();
    assert!(metrics.contains("tollgate_handover_failures_total 1\n"), "{metrics}");
    assert_eq!(served.https.get("/api/v1/posts").bearer(&token).send().await.status, 200);
    first.signal("TERM").await;
    served.process.ended().await.good();
}
