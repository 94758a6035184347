//! Many requests at once to servers of which most are broken, each in its own way.

use super::*;
use crate::upstream::{Ejection, SendError};

const REQUESTS: usize = 1500;
const AT_ONCE: usize = 48;

/// The path that a head asks for; `None` at the end.
async fn asked(wire: &mut Wire) -> Option<String> {
    let head = wire.head().await;
    Some(head.split(' ').nth(1)?.to_owned())
}

/// Says each request's path back.
async fn honest() -> Peer {
    Peer::play(|_, mut wire| async move {
        while let Some(path) = asked(&mut wire).await {
            wire.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len())).await;
        }
    })
    .await
}

/// Serves two requests well, then does what `how` says to the next.
async fn broken(how: usize) -> Peer {
    Peer::play(move |_, mut wire| async move {
        for _ in 0..2 {
            let Some(path) = asked(&mut wire).await else { return };
            wire.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len())).await;
        }
        let Some(path) = asked(&mut wire).await else { return };
        match how {
            // Killed before a word.
            0 => {}
            // Reset within the head.
            1 => {
                wire.say("HTTP/1.1 200 OK\r\ncont").await;
                wire.reset();
            }
            // Killed within the body.
            2 => wire.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{path}")).await,
            // Frozen before the head, and within the body.
            3 => wire.closed().await,
            4 => {
                wire.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{path}")).await;
                wire.closed().await;
            }
            // A head that drips for longer than it may take.
            5 => {
                for byte in "HTTP/1.1 200 OK\r\nx-drip: drip drip drip\r\ncontent-length: 0\r\n\r\n".chars() {
                    wire.say(&byte.to_string()).await;
                    tokio::time::sleep(SHORT / 5).await;
                }
            }
            // More than was announced, at once: it is no answer to the next request. (What comes only when that is under
            // way already cannot be told from its answer.)
            _ => {
                let more = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
                wire.say(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}{more}", path.len())).await;
                wire.closed().await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_broken_servers_every_answer_is_its_own_and_whole_or_is_known_to_be_broken() {
    let mut peers = vec![honest().await, honest().await];
    for how in 0..7 {
        peers.push(broken(how).await);
    }
    let servers: Vec<SocketAddr> = peers.iter().map(|peer| peer.address).collect();
    let to = Settings {
        response_timeout: SHORT,
        idle_timeout: SHORT,
        max_connections: 8,
        max_queue: AT_ONCE,
        ejection: Ejection { slow_start: SHORT, ..Ejection::default() },
        ..settings(&servers)
    };
    let (pools, to, next) = (Arc::new(Pools::new(None)), Arc::new(to), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let (pools, to, next) = (Arc::clone(&pools), Arc::clone(&to), Arc::clone(&next));
        clients.spawn(async move {
            let (mut whole, mut cut, mut failed) = (0, 0, Vec::new());
            loop {
                let nth = next.fetch_add(1, Ordering::SeqCst);
                if nth >= REQUESTS {
                    return (whole, cut, failed);
                }
                let path = format!("/{nth}");
                match within(pools.send(&to, get(&path), None)).await {
                    Ok(answer) => match within(answer.into_body().collect()).await {
                        Ok(body) => {
                            assert_eq!(body.to_bytes(), path.as_bytes(), "its own, and whole");
                            whole += 1;
                        }
                        Err(_) => cut += 1,
                    },
                    Err(error) => failed.push(error),
                }
            }
        });
    }
    let (mut whole, mut cut, mut failed) = (0, 0, Vec::new());
    while let Some(told) = within(clients.join_next()).await {
        let told = told.expect("no answer is somebody else's");
        whole += told.0;
        cut += told.1;
        failed.extend(told.2);
    }
    let explained =
        |error: &SendError| matches!(error, SendError::ResponseTimeout | SendError::Closed(_) | SendError::Nonsense(_));
    assert!(failed.iter().all(explained), "{failed:?}");
    assert_eq!(whole + cut + failed.len(), REQUESTS);
    assert!(whole * 10 > REQUESTS * 8, "{whole} whole, {cut} cut, {} failed", failed.len());
    let settled = || pools.gauges().iter().all(|pool| pool.in_flight == 0 && pool.waiting == 0 && pool.open <= 8);
    eventually(settled).await;
}
