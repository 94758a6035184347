//! Which connection a request gets, and what becomes of it.

use http_body::Body as _;

use super::*;
use crate::model::time::Timestamp;
use crate::observe::metrics::Metrics;
use crate::upstream::{Budget, Gauges, Retries, SendError};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn gauges(pools: &Pools) -> Gauges {
    pools.gauges().pop().unwrap()
}

#[tokio::test]
async fn a_connection_is_used_again_once_its_answer_was_read() {
    let peer = Peer::always(OK).await;
    let (pools, to) = (Pools::new(None), peer.settings());
    for _ in 0..5 {
        assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    }
    assert_eq!(ask(&pools, &to, post("/", "body")).await, "ok");
    assert_eq!(peer.accepted(), 1);
    let seen = gauges(&pools);
    assert_eq!((seen.open, seen.idle, seen.in_flight, seen.waiting), (1, 1, 0, 0));
}

#[tokio::test]
async fn while_an_answer_is_being_read_nobody_else_gets_its_connection() {
    let peer = Peer::always("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nok").await;
    let (pools, to) = (Pools::new(None), peer.settings());
    let first = within(pools.send(&to, get("/"), None)).await.unwrap();
    let second = within(pools.send(&to, get("/"), None)).await.unwrap();
    assert_eq!(peer.accepted(), 2);
    assert_eq!((gauges(&pools).in_flight, gauges(&pools).idle), (2, 0));
    drop((first, second));
    assert_eq!(gauges(&pools).in_flight, 0);
    eventually(|| gauges(&pools).open == 0).await;
}

#[tokio::test]
async fn a_dropped_answer_closes_its_connection() {
    let (told, hears) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::play(move |_, mut wire| {
        let told = told.clone();
        async move {
            wire.head().await;
            wire.say("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nabc").await;
            wire.closed().await;
            told.send(()).unwrap();
        }
    })
    .await;
    let mut hears = hears;
    let (pools, to) = (Pools::new(None), peer.settings());
    let unread = within(pools.send(&to, get("/"), None)).await.unwrap();
    drop(unread);
    within(hears.recv()).await.unwrap();
    let mut begun = within(pools.send(&to, get("/"), None)).await.unwrap();
    within(begun.body_mut().frame()).await.unwrap().unwrap();
    drop(begun);
    within(hears.recv()).await.unwrap();
    assert_eq!(peer.accepted(), 2, "and is never used again");
}

#[tokio::test]
async fn a_request_that_nobody_waits_for_any_more_closes_its_connection() {
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let peer = Peer::play(move |_, mut wire| {
        let told = told.clone();
        async move {
            wire.head().await;
            told.send("asked").unwrap();
            wire.closed().await;
            told.send("closed").unwrap();
        }
    })
    .await;
    let (pools, to) = (Pools::new(None), peer.settings());
    tokio::select! {
        _ = pools.send(&to, get("/"), None) => panic!("there is no answer"),
        asked = within(hears.recv()) => assert_eq!(asked, Some("asked")),
    }
    assert_eq!(within(hears.recv()).await, Some("closed"));
    eventually(|| gauges(&pools).open == 0).await;
}

#[tokio::test]
async fn what_a_backend_sends_too_much_is_nobodys_answer() {
    let peer = Peer::play(|nth, mut wire| async move {
        while !wire.head().await.is_empty() {
            let late = nth % 2 == 1;
            wire.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{}", if late { "" } else { OK })).await;
            if late {
                tokio::time::sleep(SHORT / 5).await;
                wire.say("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil").await;
            }
        }
    })
    .await;
    let (pools, to) = (Pools::new(None), peer.settings());
    for round in 1..=4 {
        assert_eq!(ask(&pools, &to, get("/")).await, "ok");
        tokio::time::sleep(SHORT).await;
        assert_eq!(peer.accepted(), round, "each time on a new connection");
    }
}

#[tokio::test]
async fn a_connection_closed_between_requests_costs_no_request() {
    let peer = Peer::once(OK).await;
    let (pools, to) = (Pools::new(None), peer.settings());
    for round in 1..=4 {
        let request = if round % 2 == 0 { get("/") } else { post("/", "") };
        assert_eq!(ask(&pools, &to, request).await, "ok");
        tokio::time::sleep(SHORT / 5).await;
    }
    assert_eq!(peer.accepted(), 4);
}

/// Answers once, then closes at the head of the second request: the race that keep-alive has.
async fn fickle() -> Peer {
    Peer::play(|nth, mut wire| async move {
        wire.head().await;
        wire.say(OK).await;
        if nth > 0 {
            wire.head().await;
            wire.say(OK).await;
        }
        wire.head().await;
    })
    .await
}

#[tokio::test]
async fn a_request_lost_on_an_old_connection_is_sent_again_only_if_that_is_harmless() {
    let peer = fickle().await;
    let (pools, to) = (Pools::new(None), peer.settings());
    ask(&pools, &to, get("/")).await;
    assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    assert_eq!(peer.accepted(), 2);
    for request in [post("/", ""), post("/", "pay")] {
        let peer = fickle().await;
        let (pools, to) = (Pools::new(None), peer.settings());
        ask(&pools, &to, get("/")).await;
        let error = within(pools.send(&to, request, None)).await.unwrap_err();
        assert!(matches!(error, SendError::Closed(_)), "{error:?}");
        assert_eq!(peer.accepted(), 1, "the backend may have acted on it");
    }
}

#[tokio::test]
async fn a_second_attempt_does_not_try_another_old_connection() {
    let peer = Peer::play(|nth, mut wire| async move {
        wire.head().await;
        wire.say(OK).await;
        if nth < 2 {
            wire.head().await;
        }
    })
    .await;
    let (pools, to) = (Pools::new(None), peer.settings());
    let both = tokio::join!(pools.send(&to, get("/"), None), pools.send(&to, get("/"), None));
    text(both.0.unwrap()).await.unwrap();
    text(both.1.unwrap()).await.unwrap();
    assert_eq!(gauges(&pools).idle, 2, "neither knows yet that it is dead");
    assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    assert_eq!(peer.accepted(), 3);
}

#[tokio::test]
async fn a_second_attempt_is_the_last() {
    let peer = Peer::play(|nth, mut wire| async move {
        wire.head().await;
        if nth == 0 {
            wire.say(OK).await;
            wire.head().await;
        }
    })
    .await;
    let (pools, to) = (Pools::new(None), peer.settings());
    ask(&pools, &to, get("/")).await;
    assert!(matches!(within(pools.send(&to, get("/"), None)).await, Err(SendError::Closed(_))));
    assert_eq!(peer.accepted(), 2);
}

#[tokio::test]
async fn idle_connections_expire_and_never_exceed_their_number() {
    let peer = Peer::always(OK).await;
    let (pools, to) = (Pools::new(None).keep_idle(SHORT), Settings { max_idle: 2, ..peer.settings() });
    let answers: Vec<_> = futures_util::future::join_all((0..4).map(|_| pools.send(&to, get("/"), None))).await;
    for answer in answers {
        text(answer.unwrap()).await.unwrap();
    }
    eventually(|| gauges(&pools).open == 2).await;
    assert_eq!(gauges(&pools).idle, 2);
    eventually(|| gauges(&pools).open == 0).await;
    assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    assert_eq!(peer.accepted(), 5);
}

#[tokio::test]
async fn a_backend_that_says_how_long_it_waits_is_believed() {
    for (answer, connections) in [
        ("HTTP/1.1 200 OK\r\nkeep-alive: timeout=5, max=9\r\ncontent-length: 2\r\n\r\nok", 1),
        ("HTTP/1.1 200 OK\r\nkeep-alive: timeout=0\r\ncontent-length: 2\r\n\r\nok", 2),
        ("HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 2\r\n\r\nok", 2),
        ("HTTP/1.1 200 OK\r\nconnection: x, Close\r\ncontent-length: 2\r\n\r\nok", 2),
        ("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok", 2),
    ] {
        let peer = Peer::always(answer).await;
        let (pools, to) = (Pools::new(None), peer.settings());
        for _ in 0..2 {
            assert_eq!(ask(&pools, &to, get("/")).await, "ok");
            tokio::time::sleep(SHORT / 5).await;
        }
        assert_eq!(peer.accepted(), connections, "{answer}");
    }
}

#[tokio::test]
async fn beyond_the_last_connection_requests_wait_their_turn_but_not_forever() {
    let peer = Peer::always("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbusy").await;
    let to = Settings { max_connections: 1, queue_timeout: SHORT, ..peer.settings() };
    let pools = Arc::new(Pools::new(None));
    let held = within(pools.send(&to, get("/"), None)).await.unwrap();
    let error = within(pools.send(&to, get("/"), None)).await.unwrap_err();
    assert!(matches!(error, SendError::Busy { .. }));
    assert_eq!(error.problem(), Problem::Unavailable);
    let waiting = tokio::spawn({
        let (pools, to) = (Arc::clone(&pools), Settings { queue_timeout: Duration::from_secs(5), ..to.clone() });
        async move { ask(&pools, &to, get("/")).await }
    });
    eventually(|| gauges(&pools).waiting == 1).await;
    assert_eq!(text(held).await.unwrap(), "busy");
    assert_eq!(within(waiting).await.unwrap(), "busy");
    assert_eq!((peer.accepted(), gauges(&pools).open), (1, 1));
}

#[tokio::test]
async fn a_connection_that_ends_makes_room_for_whoever_waits() {
    let peer = Peer::once("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbusy").await;
    let to = Settings { max_connections: 1, ..peer.settings() };
    let pools = Pools::new(None);
    let answers = futures_util::future::join_all((0..4).map(|_| ask(&pools, &to, get("/"))));
    assert_eq!(within(answers).await, ["busy"; 4]);
    let unread = within(pools.send(&to, get("/"), None)).await.unwrap();
    let (next, ()) = tokio::join!(ask(&pools, &to, get("/")), async {
        eventually(|| gauges(&pools).waiting == 1).await;
        drop(unread);
    });
    assert_eq!(next, "busy");
}

#[tokio::test]
async fn the_queue_has_an_end() {
    let peer = Peer::play(|_, mut wire| async move { wire.closed().await }).await;
    let to = Settings { max_connections: 1, max_queue: 4, ..peer.settings() };
    let pools = Pools::new(None);
    let mut sent: Vec<_> = (0..5).map(|_| Box::pin(pools.send(&to, get("/"), None))).collect();
    for request in &mut sent {
        let late = tokio::time::timeout(SHORT / 5, request).await;
        assert!(late.is_err(), "one is under way and four wait");
    }
    let refused = tokio::time::timeout(SHORT, pools.send(&to, get("/"), None)).await.expect("at once");
    assert!(matches!(refused, Err(SendError::Busy { .. })));
    drop(sent);
    eventually(|| gauges(&pools).open == 0).await;
    assert_eq!(gauges(&pools).waiting, 0);
    // Those who left the queue take no room in it.
    let mut again: Vec<_> = (0..5).map(|_| Box::pin(pools.send(&to, get("/"), None))).collect();
    for round in 0..3 {
        for request in &mut again {
            assert!(tokio::time::timeout(SHORT / 10, request).await.is_err(), "{round}");
        }
        again.truncate(1);
        again.extend((0..4).map(|_| Box::pin(pools.send(&to, get("/"), None))));
    }
}

#[tokio::test]
async fn a_dead_idle_connection_takes_nobodys_place() {
    let peer = fickle().await;
    let (pools, to) = (Pools::new(None), Settings { max_connections: 1, ..peer.settings() });
    ask(&pools, &to, get("/")).await;
    // The second attempt needs a new connection although only one is allowed.
    assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    assert_eq!(peer.accepted(), 2);
}

#[tokio::test]
async fn a_server_that_is_gone_is_passed_over_and_left_alone() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let peer = Peer::always(OK).await;
    let (pools, to) = (Pools::new(None), settings(&[gone, peer.address]));
    for _ in 0..50 {
        assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    }
    let ejected: Vec<_> = pools.gauges().into_iter().filter(|gauges| gauges.ejected).collect();
    assert_eq!(ejected.iter().map(|gauges| gauges.server.as_str()).collect::<Vec<_>>(), [format!("http://{gone}")]);
    assert_eq!(ejected[0].open, 0, "attempts that failed hold nothing");
    // Alone, it is still asked: better a refusal by the server than one by us.
    let alone = settings(&[gone]);
    assert!(matches!(within(pools.send(&alone, get("/"), None)).await, Err(SendError::Connect { .. })));
}

#[tokio::test]
async fn closing_lets_idle_connections_go_and_waits_for_those_in_use() {
    let peer = Peer::always("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let (pools, to) = (Pools::new(None), peer.settings());
    ask(&pools, &to, get("/")).await;
    let unread = within(pools.send(&to, get("/"), None)).await.unwrap();
    let mut closing = Box::pin(pools.close());
    assert!(tokio::time::timeout(SHORT, &mut closing).await.is_err(), "an answer is still being read");
    assert_eq!(text(unread).await.unwrap(), "ok");
    within(closing).await;
    assert_eq!((gauges(&pools).open, gauges(&pools).idle), (0, 0));
}

#[tokio::test]
async fn a_reload_keeps_the_pools_it_still_names() {
    let (kept, left) = (Peer::always(OK).await, Peer::always(OK).await);
    let pools = Pools::new(None);
    ask(&pools, &kept.settings(), get("/")).await;
    ask(&pools, &left.settings(), get("/")).await;
    pools.retain(&[&kept.settings()]);
    assert_eq!(gauges(&pools).server, format!("http://{}", kept.address));
    assert_eq!(pools.gauges().len(), 1);
    ask(&pools, &kept.settings(), get("/")).await;
    assert_eq!(kept.accepted(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_load_every_request_gets_its_own_answer_on_few_connections() {
    let (pools, to) = (Arc::new(Pools::new(None)), settings(&[echo_server().await]));
    let to = Settings { max_connections: 8, max_idle: 8, ..to };
    let tasks: Vec<_> = (0..32)
        .map(|task| {
            let (pools, to) = (Arc::clone(&pools), to.clone());
            tokio::spawn(async move {
                for round in 0..50 {
                    let said = format!("{task}/{round}");
                    let body = Body::from(said.clone().into_bytes());
                    let request = Request::builder().method("POST").uri("/").header("host", "app").body(body).unwrap();
                    let response = pools.send(&to, request, None).await.unwrap();
                    if round % 7 == 0 {
                        continue; // unread: its connection must not serve anyone else
                    }
                    assert!(!response.body().is_end_stream());
                    assert_eq!(text(response).await.unwrap(), said);
                    assert!(pools.gauges()[0].open <= 8);
                }
            })
        })
        .collect();
    for task in tasks {
        within(task).await.unwrap();
    }
    within(pools.close()).await;
    assert_eq!((gauges(&pools).open, gauges(&pools).in_flight), (0, 0));
}

#[tokio::test]
async fn a_server_can_be_a_socket_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut scratch = [0; 4096];
            while stream.read(&mut scratch).await.is_ok_and(|read| read > 0) {
                stream.write_all(OK.as_bytes()).await.unwrap();
            }
        }
    });
    let to = |path: &std::path::Path| Settings::new("app", vec![Server::new(Address::Unix(path.to_owned()))]);
    let pools = Pools::new(None);
    for _ in 0..3 {
        assert_eq!(ask(&pools, &to(&path), get("/")).await, "ok");
    }
    assert_eq!((gauges(&pools).server, gauges(&pools).open), (format!("unix:{}", path.display()), 1));
    let gone = within(pools.send(&to(&folder.path().join("none.sock")), get("/"), None)).await;
    assert!(matches!(gone, Err(SendError::Connect { .. })));
    task.abort();
}

#[tokio::test]
async fn a_request_that_takes_too_long_as_a_whole_ends_wherever_it_is() {
    let silent = Peer::play(|_, mut wire| async move { wire.closed().await }).await;
    let to = Settings { timeout: Some(SHORT), ..silent.settings() };
    let error = within(Pools::new(None).send(&to, get("/"), None)).await.unwrap_err();
    assert!(matches!(error, SendError::Overdue));
    assert_eq!(error.problem(), Problem::GatewayTimeout);
    let drips = Peer::play(|_, mut wire| async move {
        wire.head().await;
        wire.say("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
        for _ in 0..1000 {
            wire.say("x").await;
            tokio::time::sleep(SHORT / 10).await;
        }
    })
    .await;
    let to = Settings { timeout: Some(SHORT), ..drips.settings() };
    let pools = Pools::new(None);
    let answer = within(pools.send(&to, get("/"), None)).await.unwrap();
    assert!(matches!(text(answer).await, Err(BodyError::Overdue)));
    eventually(|| gauges(&pools).open == 0).await;
    let patient = crate::upstream::Overrides { whole: Some(Duration::from_secs(20)), ..Default::default() };
    let peer = Peer::always(OK).await;
    let to = Settings { timeout: Some(SHORT / 100), ..peer.settings() };
    let answer = within(Pools::new(None).send(&to, get("/"), Some(&patient))).await.unwrap();
    assert_eq!(text(answer).await.unwrap(), "ok", "a route's own time stands in for its upstream's");
}

#[tokio::test]
async fn a_server_that_keeps_answering_for_a_lost_backend_is_left_out_but_never_all_of_them() {
    const LOST: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nlost";
    let (bad, good) = (Peer::always(LOST).await, Peer::always(OK).await);
    let (pools, to) = (Pools::new(None), settings(&[bad.address, good.address]));
    let mut lost = 0;
    for _ in 0..100 {
        lost += usize::from(ask(&pools, &to, get("/")).await == "lost");
    }
    assert_eq!(lost, 5, "then it is left alone for a while");
    // An answer of the application's own, whatever it says, is no reason.
    let (broken, pools) = (Peer::always("HTTP/1.1 500 Bug\r\ncontent-length: 3\r\n\r\nbug").await, Pools::new(None));
    let to = settings(&[broken.address, good.address]);
    let mut bugs = 0;
    for _ in 0..100 {
        bugs += usize::from(ask(&pools, &to, get("/")).await == "bug");
    }
    assert!(bugs > 25, "{bugs}");
    // Where all of them fail, all are asked.
    let (other, pools) = (Peer::always(LOST).await, Pools::new(None));
    let to = settings(&[bad.address, other.address]);
    for _ in 0..50 {
        assert_eq!(ask(&pools, &to, get("/")).await, "lost");
    }
    assert_eq!(pools.gauges().iter().filter(|gauges| gauges.ejected).count(), 2);
}

/// Takes connections and resets each in the middle of the TLS handshake.
async fn resetting() -> Peer {
    Peer::play(|_, mut wire| async move {
        wire.exactly(1).await;
        wire.reset();
    })
    .await
}

#[tokio::test]
async fn an_upstream_that_resets_everything_is_not_sent_everything_twice() {
    let begun = tokio::time::Instant::now();
    let peers = [resetting().await, resetting().await, resetting().await];
    let url = |peer: &Peer| Address::Url(format!("https://localhost:{}", peer.address.port()).parse().unwrap());
    let servers = peers.iter().map(|peer| Server::new(url(peer))).collect();
    let to = Settings { servers, ..settings(&[]) };
    let pools = Pools::new(Some(crate::upstream::tls::with_roots(rustls::RootCertStore::empty()).unwrap()));
    for _ in 0..1000 {
        let error = within(pools.send(&to, get("/"), None)).await.unwrap_err();
        assert!(matches!(error, SendError::Tls { .. }), "{error:?}");
    }
    let attempts: usize = peers.iter().map(Peer::accepted).sum();
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    assert!((1100..=1200 + 10 * (seconds + 1)).contains(&attempts), "{attempts} in {seconds} s");
    // Without a budget there would have been three for each; and none, where it says so.
    let (peers, to) = (resetting().await, Retries { percent: 0, per_second: 0 });
    let other = resetting().await;
    let to =
        Settings { servers: vec![Server::new(url(&peers)), Server::new(url(&other))], retries: to, ..settings(&[]) };
    for _ in 0..20 {
        assert!(within(pools.send(&to, get("/"), None)).await.is_err());
    }
    assert_eq!(peers.accepted() + other.accepted(), 20);
}

#[tokio::test]
async fn what_is_lost_on_old_connections_is_sent_again_within_the_budget() {
    let (metrics, few) = (Metrics::new(Timestamp::from_secs(0)), Retries { percent: 0, per_second: 1 });
    let mut lost = 0;
    let mut kept = 0;
    let retries =
        Settings { retries: few, ..settings(&[]) }.spending(Arc::new(Budget::counting(metrics.retries("site", "app"))));
    for _ in 0..5 {
        let peer = fickle().await;
        let to = Settings { servers: peer.settings().servers, ..retries.clone() };
        let pools = Pools::new(None);
        ask(&pools, &to, get("/")).await;
        match within(pools.send(&to, get("/"), None)).await {
            Ok(answer) => {
                assert_eq!((text(answer).await.unwrap().as_str(), peer.accepted()), ("ok", 2));
                kept += 1;
            }
            Err(error) => {
                assert!(matches!(error, SendError::Closed(_)), "{error:?}");
                assert_eq!(peer.accepted(), 1);
                lost += 1;
            }
        }
    }
    assert!(kept >= 1 && lost >= 1, "one a second, whatever the machine does: {kept}, {lost}");
    let series = |result: &str, count: i32| {
        format!("tollgate_upstream_retries_total{{result=\"{result}\",site=\"site\",upstream=\"app\"}} {count}\n")
    };
    let counted = metrics.text();
    assert!(counted.contains(&series("spent", kept)) && counted.contains(&series("refused", lost)), "{counted}");
}
