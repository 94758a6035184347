//! What ends while it is in use: a certificate by its time, by its authority's list, by a reload.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use http::Request;
use http_body_util::{BodyExt, Empty};
use rcgen::SerialNumber;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::certificates::{Asked, BOTH, CLIENT, DAY, HOUR, Line, PATH, SUBJECT, World, loaded, params, toml};
use super::client::Client;
use super::sockets::{closed, open, within};
use super::wire::now;

#[tokio::test]
async fn a_certificate_that_expires_ends_its_connection_and_no_other() {
    let world = World::start().await;
    let short = world.one.issue(params("short", HOUR), &[CLIENT]);
    let long = world.one.client("long");
    let mut ending =
        [world.line(Some(&short), "strict.test", false).await, world.line(Some(&short), "strict.test", true).await];
    let mut lasting =
        [world.line(Some(&long), "strict.test", false).await, world.line(Some(&long), "strict.test", true).await];
    let mut maybe = world.line(Some(&short), "maybe.test", true).await;
    for line in ending.iter_mut().chain(&mut lasting) {
        assert_eq!(line.get("strict.test").await.expect("an answer").status, 200);
    }
    assert_eq!(maybe.get("maybe.test").await.expect("an answer").status, 200);
    world.clock.advance(2 * HOUR);
    for line in &mut ending {
        assert_eq!(line.get("strict.test").await.expect("an answer").status, 421);
        line.ends().await;
    }
    // Not even as one who has shown none: it did.
    assert_eq!(maybe.get("maybe.test").await.expect("an answer").status, 421);
    maybe.ends().await;
    for line in &mut lasting {
        assert_eq!(line.get("strict.test").await.expect("an answer").status, 200);
        assert_eq!(line.get("strict.test").await.expect("an answer").status, 200);
    }
}

#[tokio::test]
async fn a_reload_counts_from_the_next_request_on_also_on_open_connections() {
    let world = World::start().await;
    let (one, other) = (world.one.client("one"), world.other.client("other"));
    let open = async |http2| {
        let mut line = world.line(Some(&one), "strict.test", http2).await;
        assert_eq!(line.get("strict.test").await.expect("an answer").status, 200);
        line
    };
    let mut lines = [open(false).await, open(true).await];
    let mut plain = [world.line(None, "open.test", false).await, world.line(None, "open.test", true).await];
    for line in &mut plain {
        assert_eq!(line.get("open.test").await.expect("an answer").status, 200);
    }

    // The same once more, and one that cannot be used: nothing changes.
    world.reload(&Asked::default()).expect("it is good");
    for (file, told) in [("gone.pem", "cannot read"), ("tokens-open", "holds no certificate")] {
        let error = world.reload(&Asked { strict: Some(file), ..Asked::default() }).expect_err("it is bad");
        assert!(error.contains(told) && error.contains("client_certificates.authorities"), "{error}");
        assert_eq!(world.metric("tollgate_config_last_reload_successful").await, 0);
    }
    for line in &mut lines {
        assert_eq!(line.get("strict.test").await.expect("an answer").status, 200);
    }
    assert_eq!(world.refused(None, "strict.test").await, "received fatal alert: CertificateRequired");

    // Another authority: whoever came by the one before goes.
    world.reload(&Asked { strict: Some("other.pem"), ..Asked::default() }).expect("it is good");
    // `maybe` still asks for what they have shown, and less: not the same.
    for line in &mut lines {
        assert_eq!(line.get("maybe.test").await.expect("an answer").status, 421);
    }
    for line in &mut lines {
        line.ends().await;
    }
    assert_eq!(world.refused(Some(&one), "strict.test").await, "received fatal alert: UnknownCA");
    assert_eq!(world.status(Some(&other), "strict.test").await, 200);
    for line in &mut plain {
        assert_eq!(line.get("open.test").await.expect("an answer").status, 200);
    }

    // What asked for nothing asks now, and what asked does not.
    let mut before = world.line(Some(&other), "strict.test", false).await;
    assert_eq!(before.get("strict.test").await.expect("an answer").status, 200);
    world.reload(&Asked { strict: None, open: Some("one.pem"), lists: None }).expect("it is good");
    for line in &mut plain {
        let told = line.get("open.test").await.expect("an answer");
        let close = matches!(line, Line::One(_)).then_some("close");
        assert_eq!((told.status.as_u16(), told.header("connection")), (421, close), "HTTP/2 has GOAWAY for it");
        // Or its client would be told so again and again.
        line.ends().await;
    }
    assert_eq!(world.status(Some(&one), "open.test").await, 200);
    assert_eq!(world.refused(None, "open.test").await, "received fatal alert: CertificateRequired");
    // Another site asks what this connection was asked; that does not keep it, since nobody asked for that one.
    assert_eq!(before.get("other.test").await.expect("an answer").status, 200);
    assert_eq!(before.get("strict.test").await.expect("an answer").status, 421);
    before.ends().await;
    assert_eq!(world.status(None, "strict.test").await, 200);
}

#[tokio::test]
async fn a_connection_that_is_as_good_as_a_new_one_survives_a_request_that_was_not_for_it() {
    let world = World::start().await;
    let one = world.one.client("one");
    for (identity, own) in [(None, "open.test"), (Some(&one), "strict.test")] {
        for http2 in [false, true] {
            let mut line = world.line(identity, own, http2).await;
            for _ in 0..2 {
                let told = line.get("other.test").await.expect("an answer");
                assert_eq!((told.status.as_u16(), told.header("connection")), (421, None), "{own} {http2}");
                assert_eq!(line.get(own).await.expect("an answer").status, 200, "{own} {http2}");
            }
        }
    }
}

#[tokio::test]
async fn what_a_connection_has_under_way_is_not_lost_when_another_of_its_requests_finds_it_useless() {
    let world = World::start().await;
    // A backend that answers when it is told.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let (go, told) = tokio::sync::oneshot::channel::<()>();
    let (came, asked) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        assert!(socket.read(&mut [0; 4096]).await.expect("it speaks") > 0, "a request");
        came.send(()).expect("somebody waits");
        told.await.expect("it is told");
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("it reads");
    });
    let running = world.running.as_ref().expect("it runs");
    let text =
        |asked: &Asked<'_>| toml(world.folder.path(), &format!("http://{address}"), world.sockets.address, "", asked);
    running.take(loaded(&text(&Asked::default()), 2));
    let Line::Two(sender) = world.line(None, "open.test", true).await else { panic!("HTTP/2") };
    let mut again = Line::Two(sender.clone());
    let slow = tokio::spawn(async move { Line::Two(sender).get("open.test").await });
    within(asked).await.expect("the backend is asked");
    running.take(loaded(&text(&Asked { open: Some("one.pem"), ..Asked::default() }), 3));
    assert_eq!(again.get("open.test").await.expect("an answer").status, 421);
    go.send(()).expect("it waits");
    let answer = within(slow).await.expect("no panic").expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "ok"));
    again.ends().await;
}

#[tokio::test]
async fn a_certificate_that_is_taken_back_ends_at_once() {
    let world = World::start().await;
    let [kept, gone] = [1, 2].map(|serial: u64| {
        let mut params = params("worker", DAY);
        params.serial_number = Some(SerialNumber::from(serial));
        world.one.issue(params, &[CLIENT])
    });
    let mut line = world.line(Some(&gone), "strict.test", true).await;
    assert_eq!(line.get("strict.test").await.expect("an answer").status, 200);
    std::fs::write(world.path("one.crl"), world.one.list(&[2])).expect("a file");
    let asked = Asked { lists: Some("one.crl"), ..Asked::default() };
    world.reload(&asked).expect("it is good");
    assert_eq!(line.get("strict.test").await.expect("an answer").status, 421);
    line.ends().await;
    assert_eq!(world.refused(Some(&gone), "strict.test").await, "received fatal alert: CertificateRevoked");
    world.count_to("certificate_revoked", 2).await;
    assert_eq!(world.status(Some(&kept), "strict.test").await, 200);
    std::fs::write(world.path("one.crl"), world.other.list(&[2])).expect("a file");
    let error = world.reload(&asked).expect_err("somebody else's list");
    assert!(error.contains("there is no list of the authority `CN=One Clients`"), "{error}");
    assert_eq!(world.status(Some(&kept), "strict.test").await, 200);
}

#[tokio::test]
async fn what_is_open_ends_with_what_let_it_in() {
    let world = World::start().await;
    let client = world.one.client("worker");
    let through = |identity| Client {
        address: world.https,
        host: "strict.test".into(),
        tls: Some(Arc::new(world.config(Some(identity), BOTH))),
    };
    // Through a WebSocket, and in an answer that takes its time.
    let mut socket = open(&through(&client), "/api/v1/live", &[]).await.expect("it is let in");
    let seen = world.sockets.opened().await;
    assert_eq!(seen.headers.get_all(SUBJECT).iter().collect::<Vec<_>>(), ["CN=worker"]);
    world.reload(&Asked { strict: Some("other.pem"), ..Asked::default() }).expect("it is good");
    let began = now();
    assert_eq!(closed(&mut socket).await, 1008);
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());

    let short = world.other.issue(params("short", HOUR), &[CLIENT]);
    let long = world.other.client("long");
    let mut ending = open(&through(&short), "/api/v1/live", &[]).await.expect("it is let in");
    let mut lasting = open(&through(&long), "/api/v1/live", &[]).await.expect("it is let in");
    world.clock.advance(2 * HOUR);
    assert_eq!(closed(&mut ending).await, 1008);
    let quiet = tokio::time::timeout(Duration::from_millis(700), lasting.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test]
async fn a_download_ends_with_the_certificate_also_where_no_credential_is_asked() {
    let world = World::start().await;
    // A backend that never comes to an end.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let dripping = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        // An answer that is there before it is asked for is none.
        assert!(socket.read(&mut [0; 4096]).await.expect("it speaks") > 0, "a request");
        socket.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.expect("it reads");
        while socket.write_all(b"1\r\nx\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let text = toml(world.folder.path(), &format!("http://{address}"), world.sockets.address, "", &Asked::default());
    world.running.as_ref().expect("it runs").take(loaded(&text, 2));
    let client = world.one.client("worker");
    let Line::One(mut sender) = world.line(Some(&client), "strict.test", false).await else { panic!("HTTP/1.1") };
    let request = Request::get(PATH).header("host", "strict.test").body(Empty::new()).expect("a request");
    let mut body = within(sender.send_request(request)).await.expect("an answer").into_body();
    let until = now() + Duration::from_millis(1200);
    while now() < until {
        assert!(within(body.frame()).await.expect("it goes on").is_ok());
    }
    world.clock.advance(2 * DAY);
    let ended = async { while body.frame().await.is_some_and(|frame| frame.is_ok()) {} };
    within(ended).await;
    within(dripping).await.expect("its connection was let go");
}
