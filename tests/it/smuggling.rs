//! Requests that two parsers read differently, byte for byte: what the client is told and what the backend saw.
//!
//! Every attack rides on a good token, so that only its form can stop it, and carries a second request without one. It is
//! judged by a backend that keeps what it was sent ([`super::recorder`]): each request there must have been let in.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use super::client::{Client, Stream};
use super::harness::{Gate, Setup};
use super::recorder::{Record, Recorder};

/// How long a connection is listened to after its last byte.
const QUIET: Duration = Duration::from_millis(700);

/// What becomes of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The gateway says no, and nothing of it is forwarded.
    Refused(u16),
    /// So many requests are forwarded whole, all of them let in.
    Passes(usize),
    /// One request is forwarded whole, and the connection is closed behind it.
    Last,
    /// The connection ends without a word, and nothing of it is forwarded.
    Cut,
    /// It begins well and breaks off: the backend never sees the end of it.
    Broken,
}

use Fate::{Broken, Cut, Last, Passes, Refused};

/// A gateway before a recorder, and a token that passes.
async fn guarded() -> (Gate, Recorder, String) {
    let recorder = Recorder::start().await;
    let gate = Setup::default().routes(&recorder.routes()).start().await.expect("SQLite is always there");
    let token = gate.signed_in("ada@example.com").await;
    (gate, recorder, token)
}

/// Says `bytes` and gives back all that comes until the other side closes or is quiet.
async fn told(mut stream: Stream, bytes: &[u8]) -> String {
    // A gateway that has heard enough may close before the end.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(QUIET, stream.read(&mut buffer)).await {
        answer.extend_from_slice(&buffer[..count]);
        if answer.len() > 1 << 20 {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The statuses of all answers in `text`.
fn statuses(text: &str) -> Vec<u16> {
    let lines = text.split("HTTP/1.").skip(1).filter_map(|rest| rest.get(2..5)?.parse().ok());
    lines.filter(|status| *status != 100).collect()
}

/// Plays every attack over plain HTTP and over TLS and judges what became of it. In an attack `{auth}` is the field with
/// the token, `{at}` a path of its own, and what is appended to it asks for `{at}/smuggled` without a token.
async fn play(attacks: &[(&'static str, &'static str, Fate)]) {
    let (gate, recorder, token) = guarded().await;
    let recorder = Arc::new(recorder);
    let mut plays = JoinSet::new();
    for (place, (name, attack, fate)) in attacks.iter().copied().enumerate() {
        for client in [&gate.plain, &gate.client] {
            let (client, recorder, token): (Client, _, _) = (client.clone(), Arc::clone(&recorder), token.clone());
            plays.spawn(async move {
                let scheme = if client.tls.is_some() { "https" } else { "http" };
                let at = format!("/api/v1/{scheme}-{place}-");
                let auth = format!("authorization: Bearer {token}\r\n");
                let fill = |text: &str| text.replace("{auth}", &auth).replace("{at}", &at);
                let smuggled = fill("GET {at}/smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n");
                let request = format!("{}{smuggled}", fill(attack));
                // Text stands for bytes here: what is written as U+0080 to U+00FF is one byte.
                let bytes: Vec<u8> = request.chars().map(|c| u8::try_from(u32::from(c)).expect("a byte")).collect();
                let answer = told(client.stream(&[b"http/1.1"]).await, &bytes).await;
                judge(&format!("{name} over {scheme}"), fate, &answer, &recorder.about(&at), &at);
            });
        }
    }
    let mut failed = 0;
    while let Some(played) = plays.join_next().await {
        // What was wrong has been told by its own panic.
        failed += usize::from(played.is_err());
    }
    assert_eq!(failed, 0, "attacks that went otherwise than they should");
}

fn judge(name: &str, fate: Fate, answer: &str, seen: &[Record], at: &str) {
    let statuses = statuses(answer);
    let whole: Vec<&Record> = seen.iter().filter(|record| record.whole).collect();
    for record in seen {
        let own = ["x-user-email", "x-request-id", "x-user-id", "host"].map(|field| record.count(field));
        assert_eq!(own, [1; 4], "{name}: something reached the backend that was not let in: {record:?}");
        assert_eq!(record.count("authorization"), 0, "{name}: {record:?}");
        let lengths = record.count("content-length") + record.count("transfer-encoding");
        assert!(lengths <= 1, "{name}: two framings: {record:?}");
        let smuggled = record.head.contains("/smuggled") || (fate != Broken && record.rest.contains("/smuggled"));
        assert!(!smuggled, "{name}: {record:?}");
        for gone in ["upgrade", "http2-settings", "te", "trailer", "expect", "proxy-connection"] {
            assert_eq!(record.count(gone), 0, "{name}: {record:?}");
        }
    }
    match fate {
        Refused(status) => {
            assert_eq!(statuses.first(), Some(&status), "{name}: {answer}");
            assert!(seen.is_empty(), "{name}: {seen:?}");
            assert!(!statuses.contains(&200), "{name}: {answer}");
        }
        Passes(count) => {
            assert_eq!(whole.len(), count, "{name}: {answer} {seen:?}");
            assert_eq!(statuses.iter().filter(|status| **status == 200).count(), count, "{name}: {answer}");
            // The rest of what was said is a request of its own, and nobody who asks so is let in.
            assert!(statuses[count..].iter().all(|status| [400, 401].contains(status)), "{name}: {answer}");
            assert!(whole.iter().all(|record| record.head.contains(at)), "{name}: {seen:?}");
        }
        Last => {
            assert_eq!((statuses.as_slice(), whole.len()), (&[200][..], 1), "{name}: {answer} {seen:?}");
            assert!(answer.to_lowercase().contains("connection: close"), "{name}: {answer}");
        }
        Cut => assert!(answer.is_empty() && seen.is_empty(), "{name}: {answer} {seen:?}"),
        Broken => {
            assert!(whole.is_empty(), "{name}: the backend took it for whole: {whole:?}");
            assert!(!statuses.contains(&200), "{name}: {answer}");
        }
    }
}

#[tokio::test]
async fn two_framings_or_an_odd_one_are_no_request() {
    play(&[
        ("honest length", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: 2\r\n\r\nhi", Passes(1)),
        (
            "honest chunks",
            "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            Passes(1),
        ),
        (
            "honest chunks in capitals",
            "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}TRANSFER-ENCODING: \tChunked \r\n\r\n0\r\n\r\n",
            Passes(1),
        ),
        (
            "two honest requests",
            "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: 2\r\n\r\nhi\
             GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n",
            Passes(2),
        ),
        // hyper reads these as RFC 9112 section 6.3 has it: the length is void, the chunks count, and the connection ends.
        (
            "CL.TE",
            "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Last,
        ),
        (
            "TE.CL",
            "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n",
            Last,
        ),
        (
            "TE.CL of nothing",
            "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
            Last,
        ),
        ("CL.CL", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: 0\r\ncontent-length: 70\r\n\r\n", Refused(400)),
        ("CL=CL", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: 2\r\ncontent-length: 2\r\n\r\nhi", Passes(1)),
        ("CL,CL", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: 2, 2\r\n\r\nhi", Refused(400)),
        ("CL +", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: +2\r\n\r\nhi", Refused(400)),
        ("CL -", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: -1\r\n\r\n", Refused(400)),
        ("CL 0x", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: 0x2\r\n\r\nhi", Refused(400)),
        ("CL empty", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length:\r\n\r\n", Refused(400)),
        ("CL words", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: 1 1\r\n\r\nh", Refused(400)),
        (
            "CL beyond counting",
            "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: 36893488147419103232\r\n\r\n",
            Refused(400),
        ),
        (
            "TE.TE",
            "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        (
            "TE=TE",
            "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        ("TE list", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("TE twice in one", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("TE last not chunked", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n", Refused(400)),
        ("TE misspelt", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("TE quoted", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n", Refused(400)),
        ("TE with a parameter", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n", Refused(400)),
        ("TE identity", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: identity\r\n\r\n", Refused(400)),
        ("TE empty", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding:\r\n\r\n", Refused(400)),
        ("TE and a control", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: \u{b}chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("TE and a wide space", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: \u{a0}chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("TE with an underscore", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer_encoding: chunked\r\n\r\n", Refused(400)),
        ("CL with an underscore", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content_length: 70\r\n\r\n", Refused(400)),
        ("a space before the colon", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding : chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        ("a space before CL's colon", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length : 70\r\n\r\n", Refused(400)),
        ("TE in HTTP/1.0", "POST {at} HTTP/1.0\r\nhost: localhost\r\n{auth}transfer-encoding: chunked\r\n\r\n0\r\n\r\n", Refused(400)),
        (
            "TE in HTTP/1.0 kept alive",
            "POST {at} HTTP/1.0\r\nhost: localhost\r\n{auth}connection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        ("an honest HTTP/1.0", "POST {at} HTTP/1.0\r\nhost: localhost\r\n{auth}content-length: 2\r\n\r\nhi", Passes(1)),
        (
            "a length that Connection deletes",
            "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: 2\r\nconnection: content-length\r\n\r\nhi",
            Passes(1),
        ),
    ])
    .await;
}

#[tokio::test]
async fn lines_have_one_end_and_are_never_folded() {
    play(&[
        ("an honest field", "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}x-a: b c\td\r\n\r\n", Passes(1)),
        ("an empty line first", "\r\nGET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n", Passes(1)),
        (
            "obs-fold",
            "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}x-a: b\r\n content-length: 70\r\n\r\n",
            Refused(400),
        ),
        (
            "obs-fold by a tab",
            "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}x-a: b\r\n\tX-User-Id: root\r\n\r\n",
            Refused(400),
        ),
        (
            "TE folded",
            "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
            Refused(400),
        ),
        ("a fold before the first field", "GET {at} HTTP/1.1\r\n x: y\r\nhost: localhost\r\n{auth}\r\n", Refused(400)),
        (
            "a bare CR in a value",
            "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}x-a: b\rcontent-length: 70\r\n\r\n",
            Refused(400),
        ),
        (
            "a bare CR before a name",
            "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}\rcontent-length: 70\r\n\r\n",
            Refused(400),
        ),
        ("a NUL in a value", "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}x-a: b\0c\r\n\r\n", Refused(400)),
        ("a control in a value", "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}x-a: b\u{1}c\r\n\r\n", Refused(400)),
        ("a DEL in a value", "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}x-a: b\u{7f}c\r\n\r\n", Refused(400)),
        (
            "obs-text in a value",
            "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}x-a: caf\u{c3}\u{a9}\r\n\r\n",
            Passes(1),
        ),
        ("no ASCII in a name", "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}x-\u{c3}\u{a9}: b\r\n\r\n", Refused(400)),
        ("a NUL in a name", "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}x\0a: b\r\n\r\n", Refused(400)),
        ("a name of nothing", "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}: b\r\n\r\n", Refused(400)),
        ("no colon", "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length\r\n\r\n", Refused(400)),
        ("a space in a name", "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}x a: b\r\n\r\n", Refused(400)),
        ("a control in the target", "GET {at}/\u{1} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n", Refused(400)),
        ("no ASCII in the target", "GET {at}/\u{c3}\u{a9} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n", Refused(400)),
        ("a space in the target", "GET {at}/a b HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n", Refused(400)),
        ("a tab in the request line", "GET\t{at} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n", Refused(400)),
        ("no version", "GET {at}\r\nhost: localhost\r\n{auth}\r\n", Refused(400)),
        ("a version that is none", "GET {at} HTTP/1.9\r\nhost: localhost\r\n{auth}\r\n", Refused(400)),
        ("a method that is none", "G(ET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n", Refused(400)),
    ])
    .await;
    // A line feed alone ends a line to us (RFC 9112 section 2.2 allows that); what goes on has whole line ends.
    play(&[
        ("bare LF in a head", "GET {at} HTTP/1.1\nhost: localhost\r\n{auth}x-a: b\nx-c: d\r\n\r\n", Passes(1)),
        ("bare LF before TE", "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: 5\r\nx-a: b\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", Last),
        ("bare LF before CL", "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}content-length: 0\r\nx-a: b\ncontent-length: 70\r\n\r\n", Refused(400)),
    ])
    .await;
}

#[tokio::test]
async fn chunks_are_what_the_rfc_says_or_the_backend_never_sees_an_end() {
    macro_rules! body {
        ($body:literal) => {
            concat!("POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: chunked\r\n\r\n", $body)
        };
    }
    play(&[
        ("capital digits", body!("A\r\n0123456789\r\n0\r\n\r\n"), Passes(1)),
        ("leading zeros", body!("00002\r\nhi\r\n000\r\n\r\n"), Passes(1)),
        ("an extension", body!("2;a=b\r\nhi\r\n0;c\r\n\r\n"), Passes(1)),
        ("a size that is none", body!("zz\r\nhi\r\n0\r\n\r\n"), Broken),
        ("a size with 0x", body!("0x2\r\nhi\r\n0\r\n\r\n"), Broken),
        ("a size with a sign", body!("+2\r\nhi\r\n0\r\n\r\n"), Broken),
        ("a size below zero", body!("-2\r\nhi\r\n0\r\n\r\n"), Broken),
        ("no size", body!("\r\nhi\r\n0\r\n\r\n"), Broken),
        ("a size beyond counting", body!("fffffffffffffffff\r\nhi\r\n0\r\n\r\n"), Broken),
        ("a size that wraps around", body!("10000000000000002\r\nhi\r\n0\r\n\r\n"), Broken),
        ("a chunk too long", body!("2\r\nhihi\r\n0\r\n\r\n"), Broken),
        ("a chunk that ends by LF", body!("2\r\nhi\n0\r\n\r\n"), Broken),
        ("a size that ends by LF", body!("2\nhi\r\n0\r\n\r\n"), Broken),
        ("a size that ends by CR", body!("2\rhi\r\n0\r\n\r\n"), Broken),
        ("an extension that ends by LF", body!("2;a\nhi\r\n0\r\n\r\n"), Broken),
        ("an extension with a CR", body!("2;a\rb\r\nhi\r\n0\r\n\r\n"), Broken),
    ])
    .await;
}

#[tokio::test]
async fn trailers_of_a_client_stay_here_whatever_they_say() {
    macro_rules! trailers {
        ($fields:literal) => {
            concat!(
                "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n2\r\nhi\r\n0\r\n",
                $fields,
                "\r\n"
            )
        };
    }
    let attacks = [
        ("an honest one", trailers!("x-sum: 1\r\n"), Passes(1)),
        ("identity", trailers!("X-User-Id: root\r\nx_user_id: root\r\nX-User-Email: root\r\n"), Passes(1)),
        ("credentials", trailers!("authorization: Bearer root\r\ncookie: root\r\n"), Passes(1)),
        ("framing", trailers!("content-length: 70\r\ntransfer-encoding: root\r\nhost: root\r\n"), Passes(1)),
        ("a connection", trailers!("connection: x-user-id, x-user-email\r\nupgrade: root\r\n"), Passes(1)),
    ];
    play(&attacks).await;
    let (gate, recorder, token) = guarded().await;
    for (name, attack, _) in attacks {
        let auth = format!("authorization: Bearer {token}\r\n");
        let request = attack.replace("{auth}", &auth).replace("{at}", "/api/v1/trailers");
        let answer = told(gate.client.stream(&[b"http/1.1"]).await, request.as_bytes()).await;
        assert_eq!(statuses(&answer), [200], "{name}: {answer}");
        let seen = recorder.about("/trailers").pop().expect("it arrived");
        assert!(seen.whole && !seen.head.contains("root") && !seen.rest.contains("root"), "{name}: {seen:?}");
        assert_eq!(seen.rest, "2\r\nhi\r\n0\r\n\r\n", "{name}: no trailer at all");
    }
}

#[tokio::test]
async fn one_request_is_for_one_host() {
    play(&[
        ("honest", "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n", Passes(1)),
        ("with a port", "GET {at} HTTP/1.1\r\nhost: LOCALHOST:8443\r\n{auth}\r\n", Passes(1)),
        ("absolute form without Host", "GET http://localhost{at} HTTP/1.1\r\n{auth}\r\n", Refused(400)),
        ("absolute form", "GET http://localhost{at} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n", Passes(1)),
        (
            "absolute form for another",
            "GET http://127.0.0.1{at} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n",
            Refused(400),
        ),
        (
            "absolute form against Host",
            "GET http://localhost{at} HTTP/1.1\r\nhost: 127.0.0.1\r\n{auth}\r\n",
            Refused(400),
        ),
        (
            "absolute form by another scheme",
            "GET ftp://localhost{at} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n",
            Refused(400),
        ),
        ("absolute form for a stranger", "GET http://evil{at} HTTP/1.1\r\nhost: evil\r\n{auth}\r\n", Refused(421)),
        (
            "absolute form with a user",
            "GET http://a@localhost{at} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n",
            Refused(400),
        ),
        ("two of them", "GET {at} HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n{auth}\r\n", Refused(400)),
        ("two that differ", "GET {at} HTTP/1.1\r\nhost: localhost\r\nhost: evil\r\n{auth}\r\n", Refused(400)),
        ("two in one", "GET {at} HTTP/1.1\r\nhost: localhost, evil\r\n{auth}\r\n", Refused(400)),
        ("none", "GET {at} HTTP/1.1\r\n{auth}\r\n", Refused(400)),
        ("an empty one", "GET {at} HTTP/1.1\r\nhost:\r\n{auth}\r\n", Refused(400)),
        ("one with a path", "GET {at} HTTP/1.1\r\nhost: localhost/x\r\n{auth}\r\n", Refused(400)),
        ("one with a user", "GET {at} HTTP/1.1\r\nhost: evil@localhost\r\n{auth}\r\n", Refused(400)),
        ("one with a space before the colon", "GET {at} HTTP/1.1\r\nhost : localhost\r\n{auth}\r\n", Refused(400)),
        ("a port that is none", "GET {at} HTTP/1.1\r\nhost: localhost:x\r\n{auth}\r\n", Refused(421)),
        ("no slash", "GET evil{at} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n", Refused(400)),
        ("an asterisk", "GET * HTTP/1.1\r\nhost: localhost\r\n{auth}x-at: {at}\r\n\r\n", Refused(400)),
        (
            "an asterisk to ask for options",
            "OPTIONS * HTTP/1.1\r\nhost: localhost\r\n{auth}x-at: {at}\r\n\r\n",
            Refused(400),
        ),
        ("two Authorizations", "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}{auth}\r\n", Refused(401)),
        (
            "a good Authorization first",
            "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}authorization: Bearer x\r\n\r\n",
            Refused(401),
        ),
        (
            "a good Authorization last",
            "GET {at} HTTP/1.1\r\nhost: localhost\r\nauthorization:\r\n{auth}\r\n",
            Refused(401),
        ),
    ])
    .await;
}

#[tokio::test]
async fn no_protocol_is_switched_to_and_no_tunnel_opened_on_a_strangers_word() {
    play(&[
        (
            "h2c",
            "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}connection: upgrade, http2-settings\r\nupgrade: h2c\r\n\
             http2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
            Passes(1),
        ),
        (
            "another protocol",
            "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}connection: upgrade\r\nupgrade: TLS/1.0\r\n\r\n",
            Passes(1),
        ),
        (
            "a WebSocket among others",
            "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}connection: upgrade\r\nupgrade: h2c, websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            Passes(1),
        ),
        (
            "a WebSocket with a body",
            "GET {at} HTTP/1.1\r\nhost: localhost\r\n{auth}connection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\ncontent-length: 70\r\n\r\n",
            Refused(400),
        ),
        ("CONNECT", "CONNECT localhost:80 HTTP/1.1\r\nhost: localhost:80\r\n{auth}x-at: {at}\r\n\r\n", Refused(400)),
        ("CONNECT with a path", "CONNECT {at} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n", Refused(400)),
        ("TRACE", "TRACE {at} HTTP/1.1\r\nhost: localhost\r\n{auth}\r\n", Refused(400)),
        ("HTTP/2 without being asked", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{auth}{at}", Cut),
        (
            "an expectation",
            "POST {at} HTTP/1.1\r\nhost: localhost\r\n{auth}expect: 100-continue\r\ncontent-length: 2\r\n\r\nhi",
            Passes(1),
        ),
    ])
    .await;
}

/// The backend of [`Recorder`] never agrees to a WebSocket: whoever sent bytes behind the handshake has sent a request.
#[tokio::test]
async fn bytes_behind_an_upgrade_request_are_a_request_until_the_backend_has_agreed() {
    let (gate, recorder, token) = guarded().await;
    let upgrade = format!(
        "GET /api/v1/socket HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: upgrade\r\n\
         upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    for client in [&gate.plain, &gate.client] {
        let behind = "GET /api/v1/smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let answer = told(client.stream(&[b"http/1.1"]).await, format!("{upgrade}{behind}").as_bytes()).await;
        assert_eq!(statuses(&answer), [200, 401], "{answer}");
        let seen = recorder.about("/socket");
        assert!(seen.iter().all(|record| record.rest.is_empty() && record.count("x-user-id") == 1), "{seen:?}");
        assert_eq!(recorder.about("smuggled").len(), 0);
        // The nearest honest one: it says who asks.
        let behind = format!("GET /api/v1/second HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n");
        let answer = told(client.stream(&[b"http/1.1"]).await, format!("{upgrade}{behind}").as_bytes()).await;
        assert_eq!(statuses(&answer), [200, 200], "{answer}");
    }
    assert_eq!((recorder.about("/socket").len(), recorder.about("/second").len()), (4, 2));
}
