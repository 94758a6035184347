//! A TCP connection to a name that may have several addresses (RFC 8305).
//!
//! They are tried one after another, each a moment after the one before, or at once when one has failed, while those that
//! were begun go on: an address where nobody answers takes that moment from the others, not all the time there is.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::Instant;

/// How long an address has before the next one is tried beside it (RFC 8305 section 5), where there is time enough.
const PAUSE: Duration = Duration::from_millis(250);
/// The least pause: what fails within it does not set off all the others (same section).
const LEAST: Duration = Duration::from_millis(10);

/// Connects to `host`, a name or an address. `time` is what the caller gives it in all; every address begins within that.
pub(super) async fn reach(host: &str, port: u16, time: Duration) -> io::Result<TcpStream> {
    let due = Instant::now() + time;
    let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    first(in_turn(addresses), due.saturating_duration_since(Instant::now())).await
}

/// The first connection that is made to one of them.
async fn first(addresses: Vec<SocketAddr>, time: Duration) -> io::Result<TcpStream> {
    let each = time / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let pause = each.clamp(LEAST, PAUSE);
    let mut begun = FuturesUnordered::new();
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        begun.push(TcpStream::connect(address));
        match tokio::time::timeout(pause, begun.next()).await {
            Ok(Some(Ok(stream))) => return Ok(stream),
            Ok(Some(Err(error))) => failed = error,
            Ok(None) | Err(_) => {}
        }
    }
    while let Some(ended) = begun.next().await {
        match ended {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// As the system has sorted them, but the two families by turns: where one of them leads nowhere, the other should not
/// come last (RFC 8305 section 4).
fn in_turn(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let six = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == six);
    let (mut ones, mut others) = (first.into_iter(), second.into_iter());
    let pairs =
        std::iter::from_fn(|| Some([ones.next(), others.next()]).filter(|pair| pair.iter().any(Option::is_some)));
    pairs.flatten().flatten().collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::tests::Silent;
    use super::*;

    const PLENTY: Duration = Duration::from_secs(20);

    async fn open() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// An address that refuses connections.
    async fn shut() -> SocketAddr {
        open().await.1
    }

    async fn took(addresses: &[SocketAddr], time: Duration) -> (io::Result<SocketAddr>, Duration) {
        let begun = Instant::now();
        let made = tokio::time::timeout(time, first(addresses.to_vec(), time)).await;
        let made = made.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        (made.and_then(|stream| stream.peer_addr()), begun.elapsed())
    }

    #[tokio::test]
    async fn an_address_where_nobody_answers_does_not_starve_those_behind_it() {
        let (silent, also) = (Silent::listen("127.0.0.2:0").await, Silent::listen("127.0.0.3:0").await);
        let (_listener, good) = open().await;
        let (made, after) = took(&[silent.address, also.address, good], PLENTY).await;
        assert_eq!(made.unwrap(), good);
        assert!((2 * PAUSE..PLENTY / 10).contains(&after), "each had its pause: {after:?}");
        // Where there is little time in all, each has its part of it.
        let (made, after) = took(&[silent.address, also.address, good], 2 * PAUSE).await;
        assert_eq!(made.unwrap(), good);
        assert!(after < 2 * PAUSE, "{after:?}");
        // The one that comes late may still be the first that answers.
        let (made, _) = took(&[good, silent.address], PLENTY).await;
        assert_eq!(made.unwrap(), good);
    }

    #[tokio::test]
    async fn where_nobody_answers_at_all_the_time_there_is_in_all_still_holds() {
        let (silent, also) = (Silent::listen("127.0.0.2:0").await, Silent::listen("127.0.0.3:0").await);
        for time in [PAUSE / 2, 3 * PAUSE] {
            let (made, after) = took(&[silent.address, also.address], time).await;
            assert_eq!(made.unwrap_err().kind(), io::ErrorKind::TimedOut);
            assert!((time..time + 2 * PAUSE).contains(&after), "{after:?}");
        }
    }

    #[tokio::test]
    async fn an_address_that_refuses_is_passed_over_at_once_and_the_last_word_is_told() {
        let (listener, good) = open().await;
        let (made, after) = took(&[shut().await, shut().await, good], PLENTY).await;
        assert_eq!(made.unwrap(), good);
        assert!(after < 2 * PAUSE, "{after:?}");
        drop(listener);
        let (made, _) = took(&[shut().await, good], PLENTY).await;
        assert_eq!(made.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(took(&[], PLENTY).await.0.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_name_is_looked_up_and_an_address_is_one() {
        let (_listener, good) = open().await;
        for host in ["localhost", "127.0.0.1"] {
            let made = reach(host, good.port(), PLENTY).await.unwrap();
            assert_eq!(made.peer_addr().unwrap(), good);
        }
    }

    #[test]
    fn the_families_take_turns_in_the_order_the_system_gave() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let sorted = parse(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1", "10.0.0.2:1"]);
        let turns = parse(&["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"]);
        assert_eq!(in_turn(sorted), turns);
        let turns = parse(&["10.0.0.1:1", "[::1]:1", "[::2]:1"]);
        assert_eq!(in_turn(parse(&["10.0.0.1:1", "[::1]:1", "[::2]:1"])), turns);
        assert_eq!(in_turn(parse(&["10.0.0.2:1", "10.0.0.1:1"])), parse(&["10.0.0.2:1", "10.0.0.1:1"]));
        assert!(in_turn(Vec::new()).is_empty());
    }
}
