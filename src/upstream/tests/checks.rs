//! Health checks: what passes, what does not, and what follows from it for requests.

use std::sync::atomic::{AtomicBool, AtomicU16};

use http::Method;

use super::*;
use crate::model::time::Timestamp;
use crate::observe::metrics::Metrics;
use crate::upstream::{Ask, Check, Ejection, Protocol, SendError, Verdict};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const QUICK: Duration = Duration::from_millis(20);

/// Asks for `/well` every 20 ms or so.
fn quick() -> Check {
    let ask = Ask::Http { method: Method::GET, path: "/well".parse().unwrap(), host: None, statuses: vec![200..=399] };
    Check { ask, interval: QUICK, timeout: SHORT, rise: 2, fall: 2, port: None }
}

fn checked(to: Settings, check: Check) -> Settings {
    Settings { health: Some(check), ..to }.prepare().unwrap()
}

/// Pools that watch `to`, and the counters.
fn watching(to: &Settings) -> (Pools, Metrics) {
    let (pools, metrics) = (Pools::new(None), Metrics::new(Timestamp::from_secs(0)));
    pools.watch(&[("site", to)], &metrics);
    (pools, metrics)
}

fn verdicts(pools: &Pools, to: &Settings) -> Vec<Verdict> {
    pools.stands(to).into_iter().map(|stands| stands.verdict.unwrap()).collect()
}

async fn settled(pools: &Pools, to: &Settings, wanted: &[Verdict]) {
    eventually(|| verdicts(pools, to) == wanted).await;
}

fn counted(metrics: &Metrics, result: &str) -> u64 {
    let text = metrics.text();
    let of_result = text.lines().filter(|line| line.starts_with("tollgate_upstream_checks_total{"));
    let of_result = of_result.filter(|line| line.contains(&format!("result=\"{result}\"")));
    of_result.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

/// A server that says of itself how it is; and how often it was asked for anything else.
struct Patient {
    peer: Peer,
    says: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
}

impl Patient {
    async fn saying(status: u16) -> Self {
        let (says, asked) = (Arc::new(AtomicU16::new(status)), Arc::new(AtomicUsize::new(0)));
        let (say, count) = (Arc::clone(&says), Arc::clone(&asked));
        let peer = Peer::play(move |_, mut wire| {
            let (say, count) = (Arc::clone(&say), Arc::clone(&count));
            async move {
                loop {
                    let head = wire.head().await;
                    if head.is_empty() {
                        return;
                    }
                    if head.starts_with("GET /well ") {
                        let status = say.load(Ordering::SeqCst);
                        wire.say(&format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nok")).await;
                    } else {
                        count.fetch_add(1, Ordering::SeqCst);
                        wire.say(OK).await;
                    }
                }
            }
        })
        .await;
        Self { peer, says, asked }
    }

    fn says(&self, status: u16) {
        self.says.store(status, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_server_that_fails_its_checks_gets_no_requests_until_it_passes_again() {
    let (one, other) = (Patient::saying(200).await, Patient::saying(204).await);
    let to = checked(settings(&[one.peer.address, other.peer.address]), quick());
    let (pools, metrics) = watching(&to);
    settled(&pools, &to, &[Verdict::Up, Verdict::Up]).await;
    one.says(500);
    settled(&pools, &to, &[Verdict::Down, Verdict::Up]).await;
    let before = one.asked();
    for _ in 0..50 {
        assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    }
    assert_eq!(one.asked(), before);
    let healthy = |address: &SocketAddr, value: u8| {
        let labels = format!("server=\"http://{address}\",site=\"site\",upstream=\"app\"");
        metrics.text().contains(&format!("tollgate_upstream_server_healthy{{{labels}}} {value}\n"))
    };
    assert!(healthy(&one.peer.address, 0) && healthy(&other.peer.address, 1));
    assert!(counted(&metrics, "status") >= 2 && counted(&metrics, "passed") >= 2);
    one.says(302);
    settled(&pools, &to, &[Verdict::Up, Verdict::Up]).await;
    assert!(healthy(&one.peer.address, 1));
    let before = one.asked();
    for _ in 0..200 {
        assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    }
    let share = one.asked() - before;
    assert!(share > 0 && share < 80, "it comes back, and little by little: {share} of 200");
}

#[tokio::test]
async fn where_all_fail_their_checks_requests_are_refused_at_once_and_otherwise_than_a_refused_connection() {
    let (one, other) = (Patient::saying(503).await, Patient::saying(404).await);
    let to = checked(settings(&[one.peer.address, other.peer.address]), quick());
    let alone = checked(settings(&[one.peer.address]), quick());
    let (pools, metrics) = (Pools::new(None), Metrics::new(Timestamp::from_secs(0)));
    pools.watch(&[("site", &to), ("other", &alone)], &metrics);
    settled(&pools, &to, &[Verdict::Down, Verdict::Down]).await;
    settled(&pools, &alone, &[Verdict::Down]).await;
    for to in [&to, &alone] {
        let error = tokio::time::timeout(SHORT, pools.send(to, get("/"), None)).await.expect("at once").unwrap_err();
        assert!(matches!(error, SendError::Unhealthy { .. }), "{error:?}");
        assert_eq!((error.name(), error.problem()), ("unhealthy", Problem::Unavailable));
    }
    // `panic` is for servers that requests fail on: these have said themselves that they are not well.
    assert_eq!(one.asked() + other.asked(), 0);
    other.says(200);
    settled(&pools, &to, &[Verdict::Down, Verdict::Up]).await;
    assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    assert_eq!((one.asked(), other.asked()), (0, 1));
}

#[tokio::test]
async fn until_its_first_check_has_ended_a_server_gets_requests_and_then_that_check_decides() {
    let peer = Peer::play(|nth, mut wire| async move {
        let head = wire.head().await;
        if head.starts_with("GET /well ") {
            assert_eq!(nth, 0, "the first connection");
            wire.closed().await;
        }
        wire.say(OK).await;
    })
    .await;
    let to = checked(peer.settings(), Check { fall: 100, interval: Duration::from_mins(1), ..quick() });
    let (pools, metrics) = watching(&to);
    eventually(|| peer.accepted() == 1).await;
    assert_eq!(verdicts(&pools, &to), [Verdict::Unknown]);
    assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    settled(&pools, &to, &[Verdict::Down]).await;
    assert_eq!(counted(&metrics, "timeout"), 1, "a check that hangs has failed");
}

#[tokio::test]
async fn what_is_no_whole_answer_in_time_is_a_failure_and_a_long_one_is_not_read_to_its_end() {
    let endless: &'static str = "x".repeat(100_000).leak();
    for (answer, result) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", "passed"),
        ("HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 204 OK\r\n\r\n", "passed"),
        ("HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", "passed"),
        ("HTTP/1.0 200 OK\r\n\r\nto the end", "passed"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\nENDLESS", "passed"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", "protocol_error"),
        ("HTTP/1.1 404 Gone\r\ncontent-length: 0\r\n\r\n", "status"),
        ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "status"),
        ("hello\r\n\r\n", "protocol_error"),
        ("", "protocol_error"),
        ("HANG", "timeout"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nHANG", "timeout"),
    ] {
        let peer = Peer::play(move |_, mut wire| async move {
            assert!(!wire.head().await.is_empty());
            wire.say(answer.trim_end_matches("HANG")).await;
            if answer.ends_with("ENDLESS") {
                for _ in 0..1000 {
                    wire.say(endless).await;
                }
                panic!("a hundred megabytes were read");
            }
            if answer.ends_with("HANG") {
                wire.closed().await;
            }
        })
        .await;
        let to = checked(peer.settings(), Check { interval: Duration::from_mins(1), ..quick() });
        let (pools, metrics) = watching(&to);
        let wanted = if result == "passed" { Verdict::Up } else { Verdict::Down };
        settled(&pools, &to, &[wanted]).await;
        assert_eq!((counted(&metrics, result), peer.accepted()), (1, 1), "{answer}");
    }
}

#[tokio::test]
async fn a_check_asks_what_it_was_told_to_and_leaves_no_connection_behind() {
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::play(move |_, mut wire| {
        let told = told.clone();
        async move {
            let head = wire.head().await;
            wire.say("HTTP/1.1 207 X\r\ncontent-length: 1000\r\n\r\n").await;
            let (rest, clean) = wire.rest().await;
            told.send((head, rest.len(), clean)).unwrap();
        }
    })
    .await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ask = Ask::Http {
        method: Method::HEAD,
        path: "/deep?full=1".parse().unwrap(),
        host: Some(HeaderValue::from_static("app.internal")),
        statuses: vec![207..=207],
    };
    let check = Check { ask, port: Some(peer.address.port()), ..quick() };
    let to = checked(settings(&[elsewhere.local_addr().unwrap()]), check);
    let (pools, metrics) = watching(&to);
    let (head, more, clean) = within(hears.recv()).await.unwrap();
    assert!(head.starts_with("HEAD /deep?full=1 HTTP/1.1\r\n"), "{head}");
    for line in ["host: app.internal\r\n", "connection: close\r\n", "user-agent: tollgate-health-check\r\n"] {
        assert!(head.contains(line), "{head}");
    }
    assert_eq!((more, clean), (0, true), "it ends by itself");
    within(hears.recv()).await.unwrap();
    settled(&pools, &to, &[Verdict::Up]).await;
    assert!(pools.gauges().is_empty(), "the pool knows nothing of it");
    within(pools.stop_watching()).await;
    let (asked, passed) = (peer.accepted(), counted(&metrics, "passed"));
    tokio::time::sleep(QUICK * 5).await;
    assert_eq!((peer.accepted(), counted(&metrics, "passed")), (asked, passed), "nobody asks any more");
}

#[tokio::test]
async fn without_a_path_a_connection_is_enough_and_the_default_host_is_the_servers_own() {
    let silent = Peer::play(|_, mut wire| async move { wire.closed().await }).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let to = checked(settings(&[silent.address, gone]), Check { ask: Ask::Connect, ..quick() });
    let (pools, metrics) = watching(&to);
    settled(&pools, &to, &[Verdict::Up, Verdict::Down]).await;
    assert!(counted(&metrics, "connect_failed") >= 1);
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::play(move |_, mut wire| {
        let told = told.clone();
        async move {
            let _over = told.send(wire.head().await);
            wire.say(OK).await;
        }
    })
    .await;
    let (_pools, _metrics) = watching(&checked(peer.settings(), quick()));
    assert!(within(hears.recv()).await.unwrap().contains(&format!("host: {}\r\n", peer.address)));
}

#[tokio::test]
async fn servers_that_speak_http2_and_sockets_of_this_machine_are_asked_in_their_own_way() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&seen);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (heard, count) = (Arc::clone(&heard), Arc::clone(&count));
            let service = service_fn(move |request: Request<Incoming>| {
                heard.lock().unwrap().push(format!("{:?} {}", request.version(), request.uri()));
                async { Ok::<_, Infallible>(Response::new(http_body_util::Empty::<bytes::Bytes>::new())) }
            });
            tokio::spawn(async move {
                let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
                if builder.serve_connection(TokioIo::new(stream), service).await.is_ok() {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    let to = checked(Settings { protocol: Protocol::Http2, ..settings(&[address]) }, quick());
    let (pools, _metrics) = watching(&to);
    settled(&pools, &to, &[Verdict::Up]).await;
    eventually(|| ended.load(Ordering::SeqCst) > 1).await;
    within(pools.stop_watching()).await;
    assert_eq!(seen.lock().unwrap()[0], format!("HTTP/2.0 http://{address}/well"));

    // One that takes the connection and says nothing: given up, and the connection with it.
    let closed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&closed);
    let silent = Peer::play(move |_, mut wire| {
        let count = Arc::clone(&count);
        async move {
            wire.closed().await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let check = Check { timeout: SHORT / 5, ..quick() };
    let to = checked(Settings { protocol: Protocol::Http2, ..silent.settings() }, check);
    let (pools, metrics) = watching(&to);
    settled(&pools, &to, &[Verdict::Down]).await;
    eventually(|| closed.load(Ordering::SeqCst) > 1).await;
    assert!(counted(&metrics, "timeout") > 0);
    within(pools.stop_watching()).await;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let socket = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = socket.accept().await {
            let mut scratch = [0; 4096];
            let read = stream.read(&mut scratch).await.unwrap();
            assert!(String::from_utf8_lossy(&scratch[..read]).contains("host: localhost\r\n"));
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    });
    let servers = [path, folder.path().join("none.sock")].map(|path| Server::new(Address::Unix(path)));
    let to = checked(Settings::new("app", servers.into()), quick());
    let (pools, _metrics) = watching(&to);
    settled(&pools, &to, &[Verdict::Up, Verdict::Down]).await;
}

#[tokio::test]
async fn a_reload_asks_on_where_nothing_changed_and_forgets_what_is_no_longer_there() {
    let (kept, left) = (Patient::saying(500).await, Patient::saying(500).await);
    let slow = Check { interval: Duration::from_mins(1), ..quick() };
    let both = || checked(settings(&[kept.peer.address, left.peer.address]), slow.clone());
    let first = both();
    let (pools, metrics) = watching(&first);
    settled(&pools, &first, &[Verdict::Down, Verdict::Down]).await;
    assert_eq!((kept.peer.accepted(), left.peer.accepted()), (1, 1));
    // The same once more: what was known is known, and nobody is asked anew.
    let same = both();
    assert_eq!(same.servers[0].watched.verdict(), None);
    pools.watch(&[("site", &same)], &metrics);
    assert_eq!(verdicts(&pools, &same), [Verdict::Down, Verdict::Down]);
    tokio::time::sleep(SHORT / 3).await;
    assert_eq!((kept.peer.accepted(), left.peer.accepted()), (1, 1));
    // Asked otherwise: it begins anew, with what was known. The other server is gone.
    let changed = checked(settings(&[kept.peer.address]), Check { rise: 3, ..slow.clone() });
    pools.watch(&[("site", &changed)], &metrics);
    assert_eq!(verdicts(&pools, &changed), [Verdict::Down]);
    eventually(|| kept.peer.accepted() == 2).await;
    assert_eq!(left.peer.accepted(), 1);
    assert!(!metrics.text().contains(&format!("server=\"http://{}\"", left.peer.address)));
    // What requests under way still hold goes on telling what was last known.
    assert_eq!(verdicts(&pools, &first)[0], Verdict::Down);
    // No checks: nothing speaks against it any more.
    let unchecked = kept.peer.settings().prepare().unwrap();
    pools.watch(&[("site", &unchecked)], &metrics);
    assert_eq!(pools.stands(&unchecked)[0].verdict, None);
    assert_eq!(ask(&pools, &unchecked, get("/")).await, "ok");
    assert!(!metrics.text().contains("tollgate_upstream_server_healthy{"));
}

#[tokio::test]
async fn checks_and_failed_requests_leave_a_server_out_each_for_itself() {
    // Well by its own word, and useless: requests to it are lost.
    let lost = Arc::new(AtomicBool::new(true));
    let loses = Arc::clone(&lost);
    let liar = Peer::play(move |_, mut wire| {
        let loses = Arc::clone(&loses);
        async move {
            while let head = wire.head().await
                && !head.is_empty()
            {
                if !head.starts_with("GET /well ") && loses.load(Ordering::SeqCst) {
                    return;
                }
                wire.say(OK).await;
            }
        }
    })
    .await;
    let honest = Patient::saying(200).await;
    let rules = Ejection { failures: 2, first: Duration::from_mins(1), ..Ejection::default() };
    let to = Settings { ejection: rules, ..settings(&[liar.address, honest.peer.address]) };
    let to = checked(to, quick());
    let (pools, _metrics) = watching(&to);
    settled(&pools, &to, &[Verdict::Up, Verdict::Up]).await;
    let ejected = || pools.stands(&to)[0].pool.as_ref().is_some_and(|pool| pool.ejected);
    for _ in 0..200 {
        if !ejected() {
            let _lost = within(pools.send(&to, get("/"), None)).await;
        }
    }
    assert!(ejected(), "requests that are lost count, whatever the checks say");
    // Checks that pass do not end it: they ask for something else.
    tokio::time::sleep(QUICK * 5).await;
    assert!(ejected() && verdicts(&pools, &to)[0] == Verdict::Up);
    let before = honest.asked();
    for _ in 0..20 {
        assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    }
    assert_eq!(honest.asked() - before, 20);
    // One is down by its word, the other ejected: the ejected one is asked, since nobody else may be.
    lost.store(false, Ordering::SeqCst);
    honest.says(500);
    settled(&pools, &to, &[Verdict::Up, Verdict::Down]).await;
    let before = honest.asked();
    assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    assert_eq!(honest.asked(), before);
}
