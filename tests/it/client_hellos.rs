//! What a handshake is asked for, and what for a request: the name in any spelling, in a hello in pieces, other than the
//! host, and with a session of another site.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

use super::certificates::{BOTH, Identity, Line, PATH, World, alert, told_to};
use super::sockets::within;

#[tokio::test]
async fn a_request_passes_only_on_a_connection_that_was_asked_what_its_site_asks() {
    let world = World::start().await;
    let (one, other) = (world.one.client("worker"), world.other.client("worker"));
    let asks = |host: &str| match host {
        "open.test" => 0,
        "maybe.test" => 1,
        "other.test" => 2,
        _ => 3,
    };
    let hosts = [
        "open.test",
        "maybe.test",
        "other.test",
        "strict.test",
        "any.strict.test",
        "STRICT.Test:8443",
        "Strict.test.",
        "127.0.0.1",
    ];
    for name in ["open.test", "maybe.test", "other.test", "strict.test", "some.strict.test", "127.0.0.1"] {
        let identity = if name == "other.test" { &other } else { &one };
        for http2 in [false, true] {
            let mut line = world.line(Some(identity), name, http2).await;
            for host in hosts {
                let answer = line.get(host).await.expect("an answer");
                let wanted = if asks(name) == asks(host) { 200 } else { 421 };
                assert_eq!(answer.status, wanted, "{name} then {host}");
                if wanted == 421 {
                    assert_eq!(answer.json()["error"], "misdirected_request", "{}", answer.text());
                }
            }
            // None of that has harmed the connection.
            assert_eq!(line.get(name).await.expect("an answer").status, 200);
        }
    }
    // A name that no site has: nobody is asked, and it leads to no site that asks.
    let mut config = world.config(Some(&one), BOTH);
    config.dangerous().set_certificate_verifier(Arc::new(Believing));
    let mut line = Line::over(world.shake(config, "unknown.test").await.expect("a handshake"), false).await;
    for (host, status) in [("strict.test", 421), ("maybe.test", 421), ("unknown.test", 421), ("open.test", 200)] {
        assert_eq!(line.get(host).await.expect("an answer").status, status, "{host}");
    }
}

/// Takes any server for the right one.
#[derive(Debug)]
struct Believing;

impl ServerCertVerifier for Believing {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A socket that sends the first record in pieces.
struct Cut {
    socket: TcpStream,
    /// Into how many records.
    records: usize,
    /// How many bytes in a segment.
    segment: usize,
    pending: Option<Vec<u8>>,
    /// It rests between two segments.
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Cut {
    fn new(socket: TcpStream, records: usize, segment: usize) -> Self {
        Self { socket, records, segment, pending: None, pause: None }
    }

    /// The hello in as many records.
    fn cut(&self, hello: &[u8]) -> Vec<u8> {
        let (head, body) = hello.split_at(5);
        assert_eq!((head[0], usize::from(u16::from_be_bytes([head[3], head[4]]))), (22, body.len()), "one record");
        let mut bytes = Vec::new();
        for piece in body.chunks(body.len().div_ceil(self.records)) {
            bytes.extend(&head[..3]);
            bytes.extend(u16::try_from(piece.len()).expect("short").to_be_bytes());
            bytes.extend(piece);
        }
        bytes
    }
}

impl AsyncRead for Cut {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Cut {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let mut pending = match self.pending.take() {
            None => self.cut(buf),
            Some(pending) if pending.is_empty() => {
                self.pending = Some(pending);
                return Pin::new(&mut self.socket).poll_write(cx, buf);
            }
            Some(pending) => pending,
        };
        while !pending.is_empty() {
            if let Some(pause) = &mut self.pause
                && pause.as_mut().poll(cx).is_pending()
            {
                self.pending = Some(pending);
                return Poll::Pending;
            }
            self.pause = None;
            let segment = self.segment.min(pending.len());
            match Pin::new(&mut self.socket).poll_write(cx, &pending[..segment]) {
                Poll::Ready(Ok(sent)) => drop(pending.drain(..sent)),
                other => {
                    self.pending = Some(pending);
                    return other;
                }
            }
            // Now and then the gateway reads what there is.
            if pending.len() % 97 == 0 {
                self.pause = Some(Box::pin(tokio::time::sleep(Duration::from_millis(2))));
            }
        }
        self.pending = Some(pending);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_hello_in_pieces_chooses_what_a_whole_one_does() {
    let world = World::start().await;
    let client = world.one.client("worker");
    for (records, segment) in [(1, 1), (2, usize::MAX), (2, 1), (40, 7), (1, 100)] {
        for version in [&[&TLS13][..], &[&TLS12]] {
            let case = format!("{records} records, {segment} bytes");
            let shake = async |identity: Option<&Identity>, name: &str| {
                let socket = Cut::new(world.socket(world.https).await, records, segment);
                world.shake_on(world.config(identity, version), name, socket).await
            };
            let mut line = Line::over(shake(Some(&client), "strict.test").await.expect("a handshake"), false).await;
            assert_eq!(line.get("strict.test").await.expect("an answer").status, 200, "{case}");
            assert_eq!(told_to(&world)[0], ["CN=worker"], "{case}");
            let told = match shake(None, "strict.test").await {
                Ok(stream) => alert(stream, "strict.test").await,
                Err(error) => error.to_string(),
            };
            assert_eq!(told, "received fatal alert: CertificateRequired", "{case}");
            let mut line = Line::over(shake(None, "open.test").await.expect("a handshake"), false).await;
            assert_eq!(line.get("strict.test").await.expect("an answer").status, 421, "{case}");
            assert_eq!(line.get("open.test").await.expect("an answer").status, 200, "{case}");
        }
    }
}

/// The kind of message that asks for a certificate.
const REQUEST: u8 = 13;

/// The kinds of handshake messages that the gateway answers a hello with, in TLS 1.2, where they can be read.
async fn answered(world: &World, hello: &[u8]) -> Vec<u8> {
    let mut socket = world.socket(world.https).await;
    socket.write_all(hello).await.expect("the gateway reads");
    let (mut messages, mut kinds) = (Vec::new(), Vec::new());
    while !kinds.contains(&14) {
        let mut head = [0; 5];
        within(socket.read_exact(&mut head)).await.expect("a record");
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        within(socket.read_exact(&mut body)).await.expect("a record");
        assert_eq!(head[0], 22, "an alert: {body:?}");
        messages.extend(body);
        while let [kind, a, b, c, ..] = messages[..] {
            let whole = 4 + usize::from(a) * 65536 + usize::from(b) * 256 + usize::from(c);
            if messages.len() < whole {
                break;
            }
            messages.drain(..whole);
            kinds.push(kind);
        }
    }
    kinds
}

#[tokio::test]
async fn a_name_asks_the_same_in_any_case() {
    let world = World::start().await;
    let hello = |name: &str, spelt: &str| {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut connection =
            ClientConnection::new(Arc::new(world.config(None, &[&TLS12])), name.clone()).expect("a client");
        let mut hello = Vec::new();
        connection.write_tls(&mut hello).expect("a hello");
        let name = name.to_str().into_owned();
        let at = hello.windows(name.len()).position(|window| window == name.as_bytes()).expect("the name");
        hello[at..at + name.len()].copy_from_slice(spelt.as_bytes());
        hello
    };
    for (name, spelt, asks) in [
        ("strict.test", "strict.test", true),
        ("strict.test", "STRICT.TEST", true),
        ("strict.test", "sTrIcT.TeSt", true),
        ("any.strict.test", "Any.STRICT.test", true),
        ("maybe.test", "MAYBE.test", true),
        ("open.test", "OPEN.test", false),
        ("open.test", "open.tesT", false),
    ] {
        let kinds = answered(&world, &hello(name, spelt)).await;
        assert_eq!(kinds.contains(&REQUEST), asks, "{spelt}: {kinds:?}");
    }
}

/// Keeps every session under one name: what it got from one site it offers to another.
#[derive(Debug)]
struct Mixing(ClientSessionMemoryCache);

impl Mixing {
    fn one() -> ServerName<'static> {
        ServerName::try_from("all.test").expect("a name")
    }
}

impl ClientSessionStore for Mixing {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(Self::one(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&Self::one())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(Self::one(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&Self::one())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&Self::one());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(Self::one(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&Self::one())
    }
}

#[tokio::test]
async fn a_session_of_one_site_is_nothing_at_another_and_one_with_a_certificate_is_never_resumed() {
    let world = World::start().await;
    let client = world.one.client("worker");
    for version in [&[&TLS13][..], &[&TLS12]] {
        for identity in [None, Some(&client)] {
            let mut config = world.config(identity, version);
            config.resumption = Resumption::store(Arc::new(Mixing(ClientSessionMemoryCache::new(8))));
            // How the handshake went, and what a request then met.
            let visit = async |name: &str, host: &str| {
                let mut stream = world.shake(config.clone(), name).await.map_err(|error| error.to_string())?;
                let request = format!("GET {PATH} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
                let mut answer = Vec::new();
                within(stream.read_to_end(&mut answer)).await.map_err(|error| error.to_string())?;
                let kind = stream.get_ref().1.handshake_kind().expect("it is over");
                let answer = String::from_utf8_lossy(&answer).into_owned();
                Ok::<_, String>((kind == HandshakeKind::Resumed, answer.get(9..12).unwrap_or_default().to_owned()))
            };
            let met = |resumed, status: &str| Ok((resumed, status.to_owned()));
            assert_eq!(visit("open.test", "open.test").await, met(false, "200"));
            assert_eq!(visit("open.test", "open.test").await, met(true, "200"), "tickets work where nothing is asked");
            assert_eq!(visit("open.test", "strict.test").await, met(true, "421"));
            let strict = visit("strict.test", "strict.test").await;
            if identity.is_some() {
                assert_eq!(strict, met(false, "200"));
                assert_eq!(visit("strict.test", "strict.test").await, met(false, "200"));
                assert_eq!(visit("maybe.test", "maybe.test").await, met(false, "200"));
                assert_eq!(visit("maybe.test", "strict.test").await, met(false, "421"));
                let other = visit("other.test", "other.test").await;
                assert_eq!(other, Err("received fatal alert: UnknownCA".to_owned()));
            } else {
                assert_eq!(strict, Err("received fatal alert: CertificateRequired".to_owned()));
                assert_eq!(visit("maybe.test", "maybe.test").await, met(false, "200"));
                assert_eq!(visit("maybe.test", "strict.test").await, met(false, "421"));
            }
        }
    }
}
