//! HTTP/2 requests whose form is wrong, frame by frame, each beside the nearest good one. Every one has a good token, and
//! what reached the backend is read from the wire ([`super::recorder`]).

use std::sync::Arc;

use tokio::task::JoinSet;

use super::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, Raw, Told, block};
use super::harness::Setup;
use super::recorder::Recorder;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is forwarded whole, with one identity.
    Passes,
    /// It is answered so, and not forwarded.
    Refused(u16),
    /// Its stream or its connection ends as RFC 9113 section 8.1.1 wants it, or it is refused; it is not forwarded.
    Malformed,
    /// Its body is not what its head says: the backend never sees the end of it.
    Broken,
}

use Fate::{Broken, Malformed, Passes, Refused};

/// The fields of a good request; `{at}` and `{token}` are filled in.
const GOOD: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "https"),
    (":authority", "localhost"),
    (":path", "{at}"),
    ("authorization", "Bearer {token}"),
    ("x-at", "{at}"),
];

/// The good fields without those named in `less`, and `more` behind them.
fn fields(less: &[&str], more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let kept = GOOD.iter().filter(|(name, _)| !less.contains(name)).copied();
    kept.chain(more.iter().copied()).collect()
}

/// The good fields, one of them with another value.
fn changed(name: &str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    GOOD.iter().map(|own| if own.0 == name { (own.0, value) } else { *own }).collect()
}

/// The good fields with one more among those that begin with a colon.
fn beside(name: &'static str, value: &'static str) -> Vec<(&'static str, &'static str)> {
    let mut fields = GOOD.to_vec();
    fields.insert(4, (name, value));
    fields
}

struct Attack {
    name: &'static str,
    fields: Vec<(&'static str, &'static str)>,
    /// DATA frames; none: the head ends the stream.
    data: &'static [&'static str],
    /// Fields behind the body.
    trailers: &'static [(&'static str, &'static str)],
    fate: Fate,
}

async fn play(attacks: Vec<Attack>) {
    let recorder = Arc::new(Recorder::start().await);
    let gate = Setup::default().routes(&recorder.routes()).start().await.expect("SQLite is always there");
    let token = gate.signed_in("ada@example.com").await;
    let mut plays = JoinSet::new();
    for (place, attack) in attacks.into_iter().enumerate() {
        let (client, recorder, token) = (gate.client.clone(), Arc::clone(&recorder), token.clone());
        plays.spawn(async move {
            let Attack { name, fields, data, trailers, fate } = attack;
            let at = format!("/api/v1/h2-{place}-");
            let filled: Vec<(&str, String)> = fields
                .iter()
                .map(|(name, value)| (*name, value.replace("{at}", &at).replace("{token}", &token)))
                .collect();
            let filled: Vec<(&str, &str)> = filled.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let mut raw = Raw::open(&client).await;
            let ends = |last: bool| if last && trailers.is_empty() { END_STREAM } else { 0 };
            raw.send(HEADERS, END_HEADERS | ends(data.is_empty()), 1, &block(&filled)).await;
            for (at, part) in data.iter().enumerate() {
                raw.send(DATA, ends(at + 1 == data.len()), 1, part.as_bytes()).await;
            }
            if !trailers.is_empty() {
                raw.send(HEADERS, END_HEADERS | END_STREAM, 1, &block(trailers)).await;
            }
            let told = raw.told(1).await;
            let seen = recorder.about(&at);
            for record in &seen {
                let own = ["x-user-email", "x-request-id", "x-user-id", "host"].map(|field| record.count(field));
                assert_eq!(own, [1; 4], "{name}: {record:?}");
                for gone in ["authorization", "keep-alive", "upgrade", "trailer"] {
                    assert_eq!(record.count(gone), 0, "{name}: {record:?}");
                }
                // Of a connection the backend hears what the gateway itself says: that trailers are welcome.
                let lines =
                    record.head.lines().filter(|line| line.starts_with("te:") || line.starts_with("connection:"));
                assert!(
                    lines.clone().all(|line| line == "te: trailers" || line == "connection: te"),
                    "{name}: {record:?}"
                );
                assert!(!record.head.contains("root") && !record.rest.contains("root"), "{name}: {record:?}");
                assert!(record.count("content-length") + record.count("transfer-encoding") <= 1, "{name}: {record:?}");
            }
            let whole = seen.iter().filter(|record| record.whole).count();
            match fate {
                Passes => assert_eq!((told, whole, seen.len()), (Told::Status(200), 1, 1), "{name}"),
                Refused(status) => assert_eq!((told, seen.len()), (Told::Status(status), 0), "{name}"),
                Malformed => {
                    let ended = matches!(told, Told::Reset(_) | Told::Gone(_) | Told::Closed | Told::Status(400 | 431));
                    assert!(ended && seen.is_empty(), "{name}: {told:?} {seen:?}");
                }
                Broken => assert!(told != Told::Status(200) && whole == 0, "{name}: {told:?} {seen:?}"),
            }
        });
    }
    let mut failed = 0;
    while let Some(played) = plays.join_next().await {
        failed += usize::from(played.is_err());
    }
    assert_eq!(failed, 0, "attacks that went otherwise than they should");
}

fn head(name: &'static str, fields: Vec<(&'static str, &'static str)>, fate: Fate) -> Attack {
    Attack { name, fields, data: &[], trailers: &[], fate }
}

#[tokio::test]
async fn fields_of_a_connection_and_names_that_are_none_are_no_request() {
    let with = |name, field: (&'static str, &'static str), fate| head(name, fields(&[], &[field]), fate);
    play(vec![
        with("an honest field", ("x-a", "b c"), Passes),
        with("TE: trailers", ("te", "trailers"), Passes),
        with("connection", ("connection", "close"), Malformed),
        with("connection names identity", ("connection", "x-user-id, x-user-email"), Malformed),
        with("keep-alive", ("keep-alive", "timeout=5"), Malformed),
        with("proxy-connection", ("proxy-connection", "keep-alive"), Malformed),
        with("transfer-encoding", ("transfer-encoding", "chunked"), Malformed),
        with("upgrade", ("upgrade", "h2c"), Malformed),
        with("TE: gzip", ("te", "gzip"), Malformed),
        with("a name in capitals", ("X-A", "b"), Malformed),
        with("identity in capitals", ("X-User-Id", "root"), Malformed),
        with("identity", ("x-user-id", "root"), Passes),
        with("identity by an underscore", ("x_user_id", "root"), Refused(400)),
        with("a name with a space", ("x a", "b"), Malformed),
        with("a name with a colon", ("x:a", "b"), Malformed),
        with("a name with CR and LF", ("x\r\nx-user-id", "root"), Malformed),
        with("a name of nothing", ("", "b"), Malformed),
        with("CR and LF in a value", ("x-a", "b\r\nx-user-id: root"), Malformed),
        with("LF in a value", ("x-a", "b\nx-user-id: root"), Malformed),
        with("CR in a value", ("x-a", "b\rx-user-id: root"), Malformed),
        with("NUL in a value", ("x-a", "b\0c"), Malformed),
        with("obs-text in a value", ("x-a", "caf\u{e9}"), Passes),
        with("a request after the head", ("x-a", "b\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"), Malformed),
        with("two Authorizations", ("authorization", "Bearer {token}"), Refused(401)),
        with("cookies in crumbs", ("cookie", "a=1"), Passes),
    ])
    .await;
}

#[tokio::test]
async fn pseudo_fields_stand_once_first_and_are_known() {
    play(vec![
        head("honest", GOOD.to_vec(), Passes),
        head("no method", fields(&[":method"], &[]), Malformed),
        head("no scheme", fields(&[":scheme"], &[]), Malformed),
        head("another scheme", changed(":scheme", "ftp"), Refused(400)),
        head("no path", fields(&[":path"], &[]), Malformed),
        head("an empty path", changed(":path", ""), Malformed),
        head("a method twice", beside(":method", "POST"), Malformed),
        head("a path twice", beside(":path", "{at}"), Malformed),
        head("another path behind", beside(":path", "/api/v1/other"), Malformed),
        head("an authority twice", beside(":authority", "evil"), Malformed),
        head("one behind the others", fields(&[":path"], &[(":path", "{at}")]), Malformed),
        head("one that is unknown", beside(":evil", "1"), Malformed),
        head("a status", beside(":status", "200"), Malformed),
        head("a path that is an authority", changed(":path", "evil{at}"), Malformed),
        head("a path that is a URL", changed(":path", "https://evil{at}"), Malformed),
        head("a path of an asterisk", changed(":path", "*"), Malformed),
        head("a request in the path", changed(":path", "{at} HTTP/1.1\r\nx-user-id: root\r\n\r\n"), Malformed),
        head("a fragment in the path", changed(":path", "{at}#/../admin"), Passes),
        head("dots in the path", changed(":path", "{at}/../admin"), Malformed),
        head("a request in the method", changed(":method", "GET / HTTP/1.1\r\n\r\nGET"), Malformed),
        head("a method in small letters", changed(":method", "post"), Refused(400)),
        head("TRACE", changed(":method", "TRACE"), Refused(400)),
        head("CONNECT with a path", changed(":method", "CONNECT"), Malformed),
        head("an extended CONNECT", beside(":protocol", "websocket"), Malformed),
        head("no authority, but a host", fields(&[":authority"], &[("host", "localhost")]), Passes),
        head("neither authority nor host", fields(&[":authority"], &[]), Refused(400)),
        head("authority and the same host", fields(&[], &[("host", "localhost")]), Passes),
        head("authority against host", fields(&[], &[("host", "127.0.0.1")]), Refused(400)),
        head("two hosts", fields(&[":authority"], &[("host", "localhost"), ("host", "localhost")]), Refused(400)),
        head("an authority with a user", changed(":authority", "evil@localhost"), Malformed),
        head("an authority with a path", changed(":authority", "localhost/x"), Malformed),
        head("another authority", changed(":authority", "evil.example"), Refused(421)),
    ])
    .await;
}

#[tokio::test]
async fn a_body_is_as_long_as_it_says_and_trailers_stay_here() {
    let body = |name, more: &[(&'static str, &'static str)], data, fate| Attack {
        name,
        fields: fields(&[], more),
        data,
        trailers: &[],
        fate,
    };
    let trailers = |name, trailers, fate| Attack { name, fields: fields(&[], &[]), data: &["hi"], trailers, fate };
    play(vec![
        body("an honest length", &[("content-length", "4")], &["hi", "hi"], Passes),
        body("no length", &[], &["hi", "", "hi"], Passes),
        body("longer than it says", &[("content-length", "1")], &["hi"], Broken),
        body("shorter than it says", &[("content-length", "70")], &["hi"], Broken),
        body("a length and no body", &[("content-length", "70")], &[], Broken),
        body("nothing, said so", &[("content-length", "0")], &[], Passes),
        body("something, said to be nothing", &[("content-length", "0")], &["GET /smuggled HTTP/1.1\r\n\r\n"], Broken),
        body("two lengths", &[("content-length", "2"), ("content-length", "70")], &["hi"], Malformed),
        body("a length with a sign", &[("content-length", "+2")], &["hi"], Malformed),
        body("a length that is none", &[("content-length", "two")], &["hi"], Malformed),
        trailers("an honest trailer", &[("x-sum", "1")], Passes),
        trailers("identity", &[("x-user-id", "root"), ("x_user_id", "root")], Passes),
        trailers("credentials", &[("authorization", "root"), ("cookie", "root")], Passes),
        trailers("framing", &[("content-length", "70")], Passes),
        // h2 leaves it out, as the gateway does with all trailers of a client.
        trailers("a pseudo field", &[(":path", "/root")], Passes),
        trailers("a connection", &[("connection", "x-user-id")], Broken),
        trailers("a transfer coding", &[("transfer-encoding", "chunked")], Broken),
    ])
    .await;
}
