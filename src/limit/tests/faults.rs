//! A Redis that is away, silent, cut off or back, and what `on_failure` then does.
//!
//! The peer is a stand-in that answers every admission with a yes: the failures are the subject here, and a real Redis
//! does not fail on command.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use futures_util::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::model::time::{Clock, TestClock, Timestamp};

const TIMEOUT: Duration = Duration::from_millis(500);

/// What the stand-in was seen to do, and how it behaves.
#[derive(Default)]
struct StandIn {
    connections: AtomicUsize,
    admissions: AtomicUsize,
    /// Reads and never answers.
    silent: AtomicBool,
    /// Closes the connection on the next command instead of answering it.
    cut: AtomicBool,
    /// Takes this long over whatever comes before the first admission.
    slow_login: AtomicUsize,
}

impl StandIn {
    async fn start() -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let own = Arc::new(Self::default());
        let shared = own.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(shared.clone().serve(stream));
            }
        });
        (own, address)
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        while let Some(command) = read_command(&mut stream).await {
            if self.silent.load(Ordering::SeqCst) {
                continue;
            }
            let admission = command == b"EVALSHA";
            if admission && self.cut.swap(false, Ordering::SeqCst) {
                return;
            }
            if !admission {
                let millis = self.slow_login.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(u64::try_from(millis).unwrap())).await;
            }
            let answer: &[u8] = if admission { b"*4\r\n:0\r\n:0\r\n:7\r\n:1000\r\n" } else { b"+OK\r\n" };
            self.admissions.fetch_add(usize::from(admission), Ordering::SeqCst);
            if stream.write_all(answer).await.is_err() {
                return;
            }
        }
    }

    fn seen(&self) -> (usize, usize) {
        (self.connections.load(Ordering::SeqCst), self.admissions.load(Ordering::SeqCst))
    }
}

/// Reads one command of the Redis protocol; its first word.
async fn read_command(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let parts = read_number(stream).await?;
    let mut first = Vec::new();
    for part in 0..parts {
        let length = read_number(stream).await?;
        let mut bytes = vec![0; length + 2];
        stream.read_exact(&mut bytes).await.ok()?;
        bytes.truncate(length);
        if part == 0 {
            first = bytes;
        }
    }
    Some(first)
}

async fn read_number(stream: &mut BufReader<TcpStream>) -> Option<usize> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    line.trim_end().get(1..)?.parse().ok()
}

fn limiter(address: SocketAddr, on_failure: OnFailure) -> Limiter {
    hasty(address, on_failure, TIMEOUT)
}

fn hasty(address: SocketAddr, on_failure: OnFailure, timeout: Duration) -> Limiter {
    let url = Secret::new(format!("redis://{address}/"));
    let backend = Backend::Redis { url, timeout, on_failure };
    Limiter::new(&Settings { backend, max_subjects: 1000 }).unwrap()
}

fn clock() -> TestClock {
    TestClock::at(Timestamp::from_secs(1_700_000_000))
}

async fn admit(limiter: &Limiter, clock: &TestClock) -> Result<Verdict, LimitError> {
    let set = windows(&["5/1m"]);
    let subject = Subject::org("realm", OrgId::from(Uuid::from_u128(1)));
    limiter.admit(&[Charge { subject, windows: &set, cost: 1 }], clock.now()).await
}

/// An address where nothing listens.
async fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn without_redis_each_policy_does_what_its_name_says() {
    let (address, clock) = (nowhere().await, clock());
    let allow = limiter(address, OnFailure::Allow);
    let deny = limiter(address, OnFailure::Deny);
    let local = limiter(address, OnFailure::Local);
    for turn in 0..8 {
        assert_eq!(admit(&allow, &clock).await.unwrap(), Verdict::Admitted(States::default()));
        assert!(matches!(admit(&deny, &clock).await, Err(LimitError::Unavailable(_))));
        assert_eq!(passes(&admit(&local, &clock).await.unwrap()), turn < 5, "the local count is strict too");
    }
    assert!(allow.is_degraded() && deny.is_degraded() && local.is_degraded());
    assert_eq!((allow.failures(), local.subjects(), allow.subjects()), (1, 1, 0), "one try, then nobody asked");
}

#[tokio::test]
async fn no_admission_waits_for_a_connection_that_takes_longer_and_the_next_one_finds_it_made() {
    const SHORT: Duration = Duration::from_millis(50);
    let (peer, address) = StandIn::start().await;
    // Its several steps together: longer than an admission may take, and shorter than a connection may.
    peer.slow_login.store(100, Ordering::SeqCst);
    let (slow, clock) = (hasty(address, OnFailure::Local, SHORT), clock());
    let asked = tokio::time::Instant::now();
    assert!(passes(&admit(&slow, &clock).await.unwrap()), "decided here");
    assert!(asked.elapsed() < Duration::from_millis(300), "{:?}", asked.elapsed());
    assert_eq!(peer.seen(), (1, 0));
    tokio::time::sleep(Duration::from_millis(450)).await;
    clock.advance(Duration::from_secs(2));
    assert!(passes(&admit(&slow, &clock).await.unwrap()));
    assert_eq!((peer.seen(), slow.is_degraded()), ((1, 1), false), "on the connection that was begun for the first");

    // One that is told to connect beforehand has it for the first admission.
    let early = hasty(address, OnFailure::Deny, SHORT);
    early.reach(clock.now()).await;
    assert!(!early.is_degraded());
    assert!(passes(&admit(&early, &clock).await.unwrap()));
    // And knows beforehand where there is none.
    let none = limiter(nowhere().await, OnFailure::Deny);
    none.reach(clock.now()).await;
    assert!(none.is_degraded());
}

#[tokio::test]
async fn a_silent_redis_costs_one_timeout_a_pause_not_one_a_request() {
    let (peer, address) = StandIn::start().await;
    peer.silent.store(true, Ordering::SeqCst);
    let (limiter, clock) = (limiter(address, OnFailure::Local), clock());
    let _ = admit(&limiter, &clock).await;
    assert!(limiter.is_degraded());
    let quick = async {
        for _ in 0..1000 {
            let _ = admit(&limiter, &clock).await;
        }
    };
    tokio::time::timeout(20 * TIMEOUT, quick).await.expect("a thousand requests do not wait a timeout each");
    assert_eq!(limiter.failures(), 1);
    clock.advance(Duration::from_secs(2));
    join_all((0..64).map(|_| admit(&limiter, &clock))).await;
    assert_eq!(limiter.failures(), 2, "one of the 64 tried");
}

#[tokio::test]
async fn redis_coming_back_is_found_by_one_and_used_by_all() {
    let (peer, address) = StandIn::start().await;
    peer.silent.store(true, Ordering::SeqCst);
    let (limiter, clock) = (limiter(address, OnFailure::Deny), clock());
    assert!(admit(&limiter, &clock).await.is_err());
    peer.silent.store(false, Ordering::SeqCst);
    assert!(admit(&limiter, &clock).await.is_err(), "it is back, but the pause is not over");
    clock.advance(Duration::from_secs(2));
    let before = peer.seen().0;
    let first = join_all((0..64).map(|_| admit(&limiter, &clock))).await;
    assert_eq!(first.iter().filter(|verdict| verdict.is_ok()).count(), 1, "one found out, the others did not wait");
    assert!(!limiter.is_degraded());
    let then = join_all((0..64).map(|_| admit(&limiter, &clock))).await;
    assert!(then.iter().all(Result::is_ok));
    assert_eq!(peer.seen(), (before + 1, 65), "one connection, no stampede");
}

#[tokio::test]
async fn a_lost_connection_is_made_again_without_anybody_noticing() {
    let (peer, address) = StandIn::start().await;
    let (limiter, clock) = (limiter(address, OnFailure::Deny), clock());
    let first = join_all((0..64).map(|_| admit(&limiter, &clock))).await;
    assert!(first.iter().all(Result::is_ok));
    assert_eq!(peer.seen().0, 1, "64 first callers share one connection");
    peer.cut.store(true, Ordering::SeqCst);
    let cut = join_all((0..64).map(|_| admit(&limiter, &clock))).await;
    assert!(cut.iter().all(Result::is_ok), "{cut:?}");
    assert_eq!(peer.seen().0, 2, "made again once, not 64 times");
    assert!(!limiter.is_degraded() && limiter.failures() == 0);
}

#[tokio::test]
async fn a_caller_that_goes_away_while_it_tries_does_not_keep_redis_given_up() {
    let (peer, address) = StandIn::start().await;
    peer.silent.store(true, Ordering::SeqCst);
    let (limiter, clock) = (limiter(address, OnFailure::Deny), clock());
    assert!(admit(&limiter, &clock).await.is_err());
    clock.advance(Duration::from_secs(2));
    let gone = tokio::time::timeout(TIMEOUT / 10, admit(&limiter, &clock)).await;
    assert!(gone.is_err(), "its client closed the connection in the middle of the try");
    peer.silent.store(false, Ordering::SeqCst);
    clock.advance(Duration::from_secs(2));
    assert!(admit(&limiter, &clock).await.is_ok());
}

#[tokio::test]
async fn an_admission_without_windows_asks_nobody() {
    let (limiter, clock) = (limiter(nowhere().await, OnFailure::Deny), clock());
    let subject = Subject::org("realm", OrgId::from(Uuid::from_u128(1)));
    let verdict = limiter.admit(&[Charge { subject, windows: &[], cost: 1 }], clock.now()).await.unwrap();
    assert_eq!(verdict, Verdict::Admitted(States::default()));
    // Nor does one of a site that tries a rule and has no windows.
    let both = limiter.admit_with(&[], &[], clock.now()).await.unwrap();
    assert_eq!(both, (verdict.clone(), Some(verdict)));
    assert!(!limiter.is_degraded());
}

#[test]
fn a_url_that_is_no_redis_is_refused_without_showing_its_password() {
    let backend = Backend::Redis {
        url: Secret::new("http://user:hunter2@example.com/".into()),
        timeout: TIMEOUT,
        on_failure: OnFailure::Deny,
    };
    let error = Limiter::new(&Settings { backend, max_subjects: 1 }).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

/// Only where there is a Redis: a busy subject's list holds the buckets that count, not its past.
#[tokio::test]
async fn a_busy_subject_in_redis_stays_small() {
    let Some(url) = redis_url() else { return };
    let redis = Redis::new(&url, Duration::from_secs(10)).unwrap();
    let (subject, set) = (Subject::org(&realm(), OrgId::from(Uuid::from_u128(1))), windows(&["100000/1s"]));
    let charges = [Charge { subject, windows: &set, cost: 1 }];
    for turn in 0..500 {
        let clock = Some(START + turn * 17);
        let _ = redis.admit(&charges, &mut ask::flatten(&charges), Steady::from_millis(1), clock).await.unwrap();
    }
    let mut connection = ::redis::Client::open(url.expose()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let command = ::redis::cmd("HSTRLEN").arg(subject.redis_key()).arg(1000).to_owned();
    let bytes: usize = command.query_async(&mut connection).await.unwrap();
    assert!(bytes > 500 && bytes < 65 * 10 + 10, "65 buckets of a 9-byte number and a small count: {bytes}");
}

/// Only where there is a Redis: what it keeps goes away by itself, and the server's own clock is used.
#[tokio::test]
async fn keys_in_redis_outlive_their_window_by_little() {
    let Some(url) = redis_url() else { return };
    let redis = Redis::new(&url, Duration::from_secs(10)).unwrap();
    let subject = Subject::org(&realm(), OrgId::from(Uuid::from_u128(1)));
    let now = Steady::from_millis(1);
    let mut connection = ::redis::Client::open(url.expose()).unwrap().get_multiplexed_async_connection().await.unwrap();
    // The longest window decides, also when a later admission no longer has it.
    for (texts, longest) in [(&["5/1m"][..], 60_000), (&["5/1m", "9/1h"], 3_600_000), (&["5/1m"], 3_600_000)] {
        let set = windows(texts);
        let charges = [Charge { subject, windows: &set, cost: 1 }];
        let verdict = redis.admit(&charges, &mut ask::flatten(&charges), now, None).await.unwrap();
        let Verdict::Admitted(states) = verdict else { panic!("{verdict:?}") };
        assert!(states[0].reset_after > Duration::from_secs(50) && states[0].reset_after <= Duration::from_secs(61));
        let left: i64 = ::redis::cmd("PTTL").arg(subject.redis_key()).query_async(&mut connection).await.unwrap();
        assert!(left > longest - 10_000 && left <= longest + longest / 60 + 1000, "{left} {longest}");
    }
    let looked =
        [Charge { subject: Subject::org(&realm(), Uuid::from_u128(2).into()), windows: &windows(&["5/1m"]), cost: 0 }];
    let _ = redis.admit(&looked, &mut ask::flatten(&looked), now, None).await.unwrap();
    let kept: bool =
        ::redis::cmd("EXISTS").arg(looked[0].subject.redis_key()).query_async(&mut connection).await.unwrap();
    assert!(!kept, "looking leaves nothing behind");
}

#[tokio::test]
async fn what_is_only_tried_is_asked_by_the_same_call() {
    let (peer, address) = StandIn::start().await;
    let (limiter, clock) = (limiter(address, OnFailure::Deny), clock());
    let (set, subject) = (windows(&["5/1m shadow"]), Subject::org("realm", OrgId::from(Uuid::from_u128(1))));
    // The stand-in answers for one window.
    let tried = [Charge { subject, windows: &set, cost: 1 }.in_shadow()];
    let (held, came) = limiter.admit_with(&[], &tried, clock.now()).await.unwrap();
    assert!(passes(&held) && came.is_some_and(|came| passes(&came)));
    assert_eq!(peer.seen(), (1, 1));
    for (on_failure, passed) in
        [(OnFailure::Local, Some(Some(true))), (OnFailure::Allow, Some(None)), (OnFailure::Deny, None)]
    {
        peer.silent.store(true, Ordering::SeqCst);
        let limiter = self::limiter(address, on_failure);
        let came = limiter.admit_with(&[], &tried, clock.now()).await;
        assert_eq!(came.ok().map(|(_, came)| came.map(|came| passes(&came))), passed, "{on_failure:?}");
    }
}
