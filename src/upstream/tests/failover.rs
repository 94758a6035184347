//! Which server a request goes to when another one is full, slow or gone, and which servers are blamed for it.

use super::*;
use crate::upstream::{Ejection, Overrides, Protocol, Retries, SendError};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const LATE: Duration = Duration::from_millis(50);

/// Servers with a connection each, and an unread answer that keeps it busy at the first `busy` of them.
async fn occupied(busy: usize, max_queue: usize) -> (Pools, Settings, Vec<Peer>, Vec<Response<Body>>) {
    let peers = vec![Peer::always(OK).await, Peer::always(OK).await, Peer::always(OK).await];
    let servers: Vec<SocketAddr> = peers.iter().map(|peer| peer.address).collect();
    let pools = Pools::new(None);
    let mut held = Vec::new();
    for server in &servers[..busy] {
        let alone = Settings { max_connections: 1, ..settings(&[*server]) };
        held.push(within(pools.send(&alone, get("/"), None)).await.unwrap());
    }
    let queue_timeout = Duration::from_secs(5);
    (pools, Settings { max_connections: 1, max_queue, queue_timeout, ..settings(&servers) }, peers, held)
}

#[tokio::test]
async fn nobody_waits_or_is_refused_at_a_full_server_while_another_has_room() {
    for max_queue in [0, 100] {
        let (pools, to, peers, held) = occupied(2, max_queue).await;
        let begun = tokio::time::Instant::now();
        for _ in 0..50 {
            assert_eq!(ask(&pools, &to, get("/")).await, "ok");
        }
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        assert_eq!(peers.iter().map(Peer::accepted).collect::<Vec<_>>(), [1, 1, 1]);
        drop(held);
    }
}

#[tokio::test]
async fn where_all_are_full_a_request_gets_the_first_connection_that_is_free_anywhere() {
    for freed in 0..3 {
        let (pools, to, peers, mut held) = occupied(3, 10).await;
        let waiting = pools.send(&to, get("/"), None);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(LATE, &mut waiting).await.is_err());
        assert_eq!(text(held.swap_remove(freed)).await.unwrap(), "ok");
        let answer = tokio::time::timeout(Duration::from_secs(2), waiting).await.expect("not at its own queue's end");
        assert_eq!(text(answer.unwrap()).await.unwrap(), "ok");
        assert_eq!(peers.iter().map(Peer::accepted).sum::<usize>(), 3, "on a connection that was there");
        assert!(pools.gauges().iter().all(|gauges| gauges.waiting == 0), "nobody waits elsewhere any more");
        let refused = Settings { max_queue: 0, ..to.clone() };
        drop(within(pools.send(&refused, get("/"), None)).await.unwrap());
    }
    let (pools, to, _peers, _held) = occupied(3, 0).await;
    let refused = within(pools.send(&to, get("/"), None)).await;
    assert!(matches!(refused, Err(SendError::Busy { .. })), "and none where nobody may wait: {refused:?}");
    // As many may wait as for each by itself, and no more.
    let (pools, to, _peers, _held) = occupied(3, 1).await;
    let mut three: Vec<_> = (0..3).map(|_| Box::pin(pools.send(&to, get("/"), None))).collect();
    for waiting in &mut three {
        assert!(tokio::time::timeout(LATE, waiting).await.is_err());
    }
    let refused = within(pools.send(&to, get("/"), None)).await;
    assert!(matches!(refused, Err(SendError::Busy { .. })), "{refused:?}");
    drop(three);
    let (pools, to, _peers, _held) = occupied(3, 10).await;
    let to = Settings { queue_timeout: SHORT, ..to };
    let begun = tokio::time::Instant::now();
    let late = within(pools.send(&to, get("/"), None)).await;
    assert!(matches!(late, Err(SendError::Busy { .. })) && begun.elapsed() < 3 * SHORT, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_restart_that_many_requests_have_seen_is_one_failure_and_not_many() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let good = Peer::always(OK).await;
    let rules = Ejection { longest: Duration::from_mins(1), ..Ejection::default() };
    let plenty = Retries { percent: 100, per_second: 1000 };
    let to = Settings { ejection: rules, retries: plenty, ..settings(&[gone, good.address]) };
    let pools = Pools::new(None);
    let all = futures_util::future::join_all((0..60).map(|_| ask(&pools, &to, get("/"))));
    assert!(within(all).await.iter().all(|answer| answer == "ok"));
    assert!(ejected(&pools).contains(&true));
    // It is there again, and asked again, as soon as the first time is over.
    let (revived, begun) = (TcpListener::bind(gone).await.unwrap(), tokio::time::Instant::now());
    let asking = async {
        loop {
            ask(&pools, &to, get("/")).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let asking = Box::pin(asking);
    within(async {
        tokio::select! { asked = revived.accept() => drop(asked.unwrap()), () = asking => {} }
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// Reads a request and closes without a word: whether it was acted on, nobody knows.
async fn dying() -> Peer {
    Peer::play(|_, mut wire| async move {
        wire.head().await;
    })
    .await
}

#[tokio::test]
async fn what_a_server_has_lost_is_tried_once_on_another_where_that_does_no_harm() {
    let off = Ejection { connects: 0, failures: 0, ..Ejection::default() };
    let plenty = Retries { percent: 100, per_second: 100 };
    let (bad, good) = (dying().await, Peer::once(OK).await);
    let to = Settings { ejection: off, retries: plenty, ..settings(&[bad.address, good.address]) };
    let pools = Pools::new(None).keep_idle(Duration::ZERO);
    for _ in 0..20 {
        assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    }
    assert!(bad.accepted() > 0 && good.accepted() == 20, "{} {}", bad.accepted(), good.accepted());
    // What may have been done is not done twice.
    let before = bad.accepted() + good.accepted();
    let mut lost = 0;
    for request in std::iter::repeat_with(|| post("/", "pay")).take(20) {
        lost += usize::from(within(pools.send(&to, request, None)).await.is_err());
    }
    assert!(lost > 0 && bad.accepted() + good.accepted() == before + 20, "{lost}");
    // One that kills whoever reads it does not go through all of them.
    let all = [dying().await, dying().await, dying().await, dying().await];
    let to = Settings { servers: all.iter().map(|peer| peer.settings().servers.remove(0)).collect(), ..to };
    let error = within(pools.send(&to, get("/"), None)).await.unwrap_err();
    assert!(matches!(error, SendError::Closed(_)), "{error:?}");
    assert_eq!(all.iter().map(Peer::accepted).sum::<usize>(), 2);
    // Nor any second time without a budget, or without another server.
    let none = Settings { retries: Retries { percent: 0, per_second: 0 }, budget: Arc::default(), ..to.clone() };
    assert!(within(pools.send(&none, get("/"), None)).await.is_err());
    let alone = Settings { servers: vec![to.servers[0].clone()], ..to };
    assert!(within(pools.send(&alone, get("/"), None)).await.is_err());
    assert_eq!(all.iter().map(Peer::accepted).sum::<usize>(), 4);
}

#[tokio::test]
async fn what_an_http2_server_refuses_goes_to_another_whatever_the_method() {
    // SETTINGS, then REFUSED_STREAM for whatever is asked (RFC 9113 section 8.7: nothing was done).
    let refuses = Peer::play(|_, Wire(mut wire)| async move {
        let _gone = wire.read_exact(&mut [0; 24]).await;
        let _gone = wire.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        let mut head = [0; 9];
        while wire.read_exact(&mut head).await.is_ok() {
            let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
            let _gone = wire.read_exact(&mut payload).await;
            if head[3] == 1 {
                let reset = [&[0, 0, 4, 3, 0], &head[5..], &[0, 0, 0, 7]].concat();
                let _gone = wire.write_all(&reset).await;
            }
        }
    })
    .await;
    let good = super::http2::Server2::echo().await;
    let settings = Settings { protocol: Protocol::Http2, ..settings(&[refuses.address, good.address]) };
    let to = Settings { retries: Retries { percent: 100, per_second: 100 }, ..settings }.prepare().unwrap();
    let pools = Pools::new(None);
    for method in ["GET", "POST", "DELETE"].iter().cycle().take(30) {
        let request = Request::builder().method(*method).uri("/").header("host", "app").body(Body::Empty).unwrap();
        assert_eq!(ask(&pools, &to, request).await, "", "{method}");
    }
    assert!(refuses.accepted() > 0);
}

/// Which of the servers of `to` is left out.
fn ejected(pools: &Pools) -> Vec<bool> {
    pools.gauges().into_iter().map(|gauges| gauges.ejected).collect()
}

#[tokio::test]
async fn a_server_that_is_too_slow_for_a_whole_request_is_blamed_and_not_for_its_clients_haste() {
    let frozen = Peer::play(|_, mut wire| async move { wire.closed().await }).await;
    let strict = Ejection { failures: 2, ..Ejection::default() };
    let to = Settings { timeout: Some(LATE), ejection: strict, ..frozen.settings() };
    let pools = Pools::new(None);
    for _ in 0..2 {
        let late = within(pools.send(&to, get("/"), None)).await;
        assert!(matches!(late, Err(SendError::Overdue)), "{late:?}");
    }
    assert_eq!(ejected(&pools), [true], "it had all of its time");
    // A deadline of the client's own, however short: else whoever likes could have servers left out.
    let pools = Pools::new(None);
    let hasty = Overrides { deadline: Some(LATE), ..Overrides::default() };
    let to = Settings { timeout: Some(Duration::from_mins(1)), ..to };
    for _ in 0..4 {
        let late = within(pools.send(&to, get("/"), Some(&hasty))).await;
        assert!(matches!(late, Err(SendError::Overdue)), "{late:?}");
    }
    assert_eq!(ejected(&pools), [false]);
    // The same, where the route's own time is the shorter one.
    let to = Settings { timeout: Some(LATE / 2), ..to };
    for _ in 0..2 {
        assert!(within(pools.send(&to, get("/"), Some(&hasty))).await.is_err());
    }
    assert_eq!(ejected(&pools), [true]);
}

#[tokio::test]
async fn a_connection_that_was_not_made_in_a_requests_time_is_its_servers_fault_and_not_for_its_clients_haste() {
    let silent = Silent::listen("127.0.0.1:0").await;
    let strict = Ejection { connects: 2, ..Ejection::default() };
    let to = Settings { timeout: Some(LATE), ejection: strict, ..settings(&[silent.address]) };
    let hasty = Overrides { deadline: Some(LATE / 2), ..Overrides::default() };
    let pools = Pools::new(None);
    for (own, left_out) in [(Some(&hasty), false), (None, true)] {
        for _ in 0..4 {
            let late = within(pools.send(&to, get("/"), own)).await;
            assert!(matches!(late, Err(SendError::Overdue)), "{late:?}");
        }
        assert_eq!(ejected(&pools), [left_out]);
    }
    // Nor is it the end for those who wait for the same connection.
    let to = Settings { protocol: Protocol::Http2, timeout: None, ..settings(&[silent.address]) }.prepare().unwrap();
    let (first, other) = (pools.send(&to, get("/"), Some(&hasty)), pools.send(&to, get("/"), None));
    let others = async { tokio::time::timeout(3 * LATE, other).await };
    let (first, other) = tokio::join!(first, others);
    assert!(matches!(first, Err(SendError::Overdue)) && other.is_err(), "{first:?} {other:?}");
}

#[tokio::test]
async fn whoever_waits_for_a_connection_that_cannot_be_made_is_told_with_the_one_who_makes_it() {
    let silent = Silent::listen("127.0.0.1:0").await;
    let settings = Settings { protocol: Protocol::Http2, connect_timeout: 4 * LATE, ..settings(&[silent.address]) };
    let to = Settings { queue_timeout: Duration::from_mins(1), ..settings }.prepare().unwrap();
    let pools = Pools::new(None);
    let began = tokio::time::Instant::now();
    let all = futures_util::future::join_all((0..8).map(|_| pools.send(&to, get("/"), None))).await;
    assert!(all.iter().all(|it| matches!(it, Err(error) if error.is_connect())), "{all:?}");
    // One after another they would take eight times as long.
    assert!(began.elapsed() < 16 * LATE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_in_haste_takes_nobody_elses_connection_away() {
    let server = super::http2::Server2::slow(4 * LATE).await;
    let to = Settings { protocol: Protocol::Http2, ..settings(&[server.address]) }.prepare().unwrap();
    let pools = Pools::new(None);
    let hasty = Overrides { deadline: Some(LATE), ..Overrides::default() };
    for own in [None, Some(&hasty), None, Some(&hasty), None] {
        let answer = within(pools.send(&to, get("/"), own)).await;
        assert_eq!(answer.is_ok(), own.is_none(), "{answer:?}");
    }
    assert_eq!(server.accepted(), 1);
    // Nor where the time was the route's: others' streams are on it, and a ping finds out whether it is dead.
    let strict = Overrides { whole: Some(LATE), ..Overrides::default() };
    assert!(within(pools.send(&to, get("/"), Some(&strict))).await.is_err());
    assert!(within(pools.send(&to, get("/"), None)).await.is_ok());
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn time_that_went_before_a_server_had_the_request_is_not_its_fault() {
    let frozen = Peer::play(|_, mut wire| async move { wire.closed().await }).await;
    let strict = Ejection { failures: 1, ..Ejection::default() };
    let to = Settings { timeout: Some(2 * SHORT), ejection: strict, max_connections: 1, ..frozen.settings() };
    // The body comes for most of the time.
    let front = Front::open(to.clone(), PLENTY).await;
    let mut wire = front.connect().await;
    wire.say("POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 8\r\n\r\n").await;
    for _ in 0..8 {
        tokio::time::sleep(2 * SHORT / 10).await;
        wire.say("x").await;
    }
    assert!(wire.head().await.starts_with("HTTP/1.1 504"), "it is late all the same");
    assert_eq!(ejected(&front.pools), [false]);
}

#[tokio::test]
async fn a_server_that_takes_no_body_is_blamed_whichever_time_is_over() {
    let deaf = Peer::play(|_, mut wire| async move {
        wire.head().await;
        tokio::time::sleep(Duration::from_mins(1)).await;
    })
    .await;
    let strict = Ejection { failures: 1, ..Ejection::default() };
    for (timeout, idle_timeout) in [(None, SHORT), (Some(8 * SHORT), Duration::from_mins(1))] {
        let to = Settings { timeout, idle_timeout, ejection: strict, ..deaf.settings() };
        let front = Front::open(to, PLENTY).await;
        let mut wire = front.connect().await;
        wire.say("POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 1000000000\r\n\r\n").await;
        let (mut reads, mut writes) = wire.0.into_split();
        let filling = tokio::spawn(async move { while writes.write_all(&[b'x'; 8192]).await.is_ok() {} });
        let mut status = [0; 12];
        within(reads.read_exact(&mut status)).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 504");
        assert_eq!(ejected(&front.pools), [true], "{timeout:?} {idle_timeout:?}");
        filling.abort();
    }
}
