//! `[connections] max`: how many clients are served at once, and what becomes of those beyond it.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::client::{Client, Stream};
use super::harness::{Gate, Setup};
use super::pace::{ASK, PROMPT, answer};

async fn gate(max: usize) -> Gate {
    let top = format!("[connections]\nmax = {max}\nworkers = 2\nheader_timeout = \"60s\"\nhandshake_timeout = \"60s\"");
    Setup::default().top(&top).start().await.expect("SQLite")
}

/// A connection that has had an answer, and stays.
async fn resting(client: &Client) -> Stream {
    let mut stream = client.stream(&[b"http/1.1"]).await;
    stream.write_all(ASK.as_bytes()).await.expect("sent");
    assert_eq!(answer(&mut stream).await, "401");
    stream
}

#[tokio::test]
async fn beyond_the_most_connections_clients_wait_and_each_that_leaves_lets_one_in() {
    const MORE: usize = 10;
    let gate = gate(2).await;
    let count = async |name: &str, listener: &str| gate.metric(&format!("{name}{{listener=\"{listener}\"}}")).await;
    let held = (resting(&gate.client).await, resting(&gate.plain).await);
    let mut served = JoinSet::new();
    for nth in 0..MORE {
        let client = if nth % 2 == 0 { gate.client.clone() } else { gate.plain.clone() };
        served.spawn(async move { client.get("/api/v1/posts").send().await.status });
    }
    // One that only looks on: the kernel has its connection, nobody answers, and nobody turns it away.
    let mut looks = TcpStream::connect(gate.plain.address).await.expect("it is taken");
    looks.write_all(ASK.as_bytes()).await.expect("sent");
    assert!(tokio::time::timeout(Duration::from_millis(500), looks.read_u8()).await.is_err());
    assert!(served.try_join_next().is_none(), "nobody is served beyond the most");
    for listener in ["http", "https"] {
        assert_eq!(count("tollgate_connections", listener).await, Some(1.0));
        let waited = count("tollgate_connections_waited_total", listener).await;
        assert!(waited >= Some(1.0), "{listener}: {waited:?}");
    }
    drop(held.0);
    served.spawn(async move {
        assert_eq!(looks.read_u8().await.expect("an answer"), b'H');
        StatusCode::UNAUTHORIZED
    });
    let all = async {
        while let Some(status) = served.join_next().await {
            assert_eq!(status.expect("no panic"), 401);
        }
    };
    tokio::time::timeout(PROMPT, all).await.expect("one after the other, on the one place that is free");
    let away = "tollgate_connections_turned_away_total";
    for listener in ["http", "https"] {
        assert_eq!(gate.metric(&format!("{away}{{listener=\"{listener}\",reason=\"per_address\"}}")).await, Some(0.0));
    }
}

#[tokio::test]
async fn a_listener_where_nobody_comes_takes_no_place_from_the_others() {
    let gate = gate(1).await;
    for _ in 0..5 {
        for client in [&gate.client, &gate.plain] {
            let answer = tokio::time::timeout(PROMPT, client.get("/api/v1/posts").send()).await;
            assert_eq!(answer.expect("there is a place").status, 401);
        }
    }
}
