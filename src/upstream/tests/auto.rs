//! Backends behind TLS that choose what is spoken (ALPN, RFC 7301): HTTP/2, HTTP/1.1, or nothing at all.

use http::{StatusCode, Version};
use http_body_util::Full;
use hyper_util::rt::TokioExecutor;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::tunnels::open;
use super::*;
use crate::upstream::{Protocol, SendError, tls};

/// The accept value that RFC 6455 section 1.3 has for the key of these tests.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A real server that speaks what it agrees on, and answers with what that was.
struct Choosing {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    /// What it agrees to, the first it likes best; none: it knows nothing of ALPN.
    speaks: Arc<Mutex<Vec<&'static str>>>,
    /// Cancelled: every connection there is says goodbye.
    goodbye: Arc<Mutex<CancellationToken>>,
    folder: TempDir,
    task: JoinHandle<()>,
}

impl Drop for Choosing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Choosing {
    async fn speaking(protocols: &[&'static str]) -> Self {
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), signed.cert.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![signed.cert.der().clone()],
                PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let speaks = Arc::new(Mutex::new(protocols.to_vec()));
        let goodbye: Arc<Mutex<CancellationToken>> = Arc::default();
        let (count, agrees, told) = (Arc::clone(&accepted), Arc::clone(&speaks), Arc::clone(&goodbye));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let mut config = config.clone();
                config.alpn_protocols = agrees.lock().unwrap().iter().map(|name| name.as_bytes().to_vec()).collect();
                let goodbye = told.lock().unwrap().clone();
                tokio::spawn(serve(TlsAcceptor::from(Arc::new(config)), stream, goodbye));
            }
        });
        Self { address, accepted, speaks, goodbye, folder, task }
    }

    fn settings(&self, protocol: Protocol) -> Settings {
        let url = format!("https://localhost:{}", self.address.port()).parse().unwrap();
        let files = tls::Files { authorities: Some(self.folder.path().join("ca.pem")), ..tls::Files::default() };
        let servers = vec![Server::new(Address::Url(url))];
        Settings { protocol, servers, tls: Some(files), ..settings(&[]) }.prepare().unwrap()
    }

    /// From now on, and whoever is connected is sent away.
    fn speaks_only(&self, protocols: &[&'static str]) {
        *self.speaks.lock().unwrap() = protocols.to_vec();
        std::mem::take(&mut *self.goodbye.lock().unwrap()).cancel();
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, goodbye: CancellationToken) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(stream);
    if http2 {
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let serving = builder.max_concurrent_streams(100).serve_connection(stream, service_fn(answer));
        tokio::pin!(serving);
        tokio::select! {
            _ = serving.as_mut() => return,
            () = goodbye.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        let _ = serving.await;
    } else {
        let serving = hyper::server::conn::http1::Builder::new().serve_connection(stream, service_fn(answer));
        let serving = serving.with_upgrades();
        tokio::pin!(serving);
        tokio::select! {
            _ = serving.as_mut() => return,
            () = goodbye.cancelled() => serving.as_mut().graceful_shutdown(),
        }
        let _ = serving.await;
    }
}

/// The version, what stands as scheme and host, and the path; a WebSocket says back what it hears.
async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<bytes::Bytes>>, Infallible> {
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut reads, mut writes) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
            tokio::io::copy(&mut reads, &mut writes).await.ok();
        });
        let agreed = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).header("upgrade", "websocket");
        let agreed = agreed.header("connection", "upgrade").header("sec-websocket-accept", ACCEPT);
        return Ok(agreed.body(Full::default()).unwrap());
    }
    // Long enough for others to come meanwhile.
    tokio::time::sleep(SHORT / 10).await;
    let uri = request.uri();
    let host = uri.authority().map(ToString::to_string).or_else(|| {
        let host = request.headers().get("host")?;
        host.to_str().ok().map(str::to_owned)
    });
    let text = format!("{:?} {:?} {} {}", request.version(), uri.scheme_str(), host.unwrap_or_default(), uri.path());
    Ok(Response::new(Full::from(text)))
}

fn over(version: Version, path: &str) -> String {
    let scheme = (version == Version::HTTP_2).then_some("https");
    format!("{version:?} {scheme:?} app {path}")
}

/// Twenty requests at once, and what each was answered.
async fn twenty(pools: &Pools, to: &Settings) -> Vec<String> {
    let paths: Vec<String> = (0..20).map(|nth| format!("/{nth}")).collect();
    within(futures_util::future::join_all(paths.iter().map(|path| ask(pools, to, get(path))))).await
}

fn all(version: Version) -> Vec<String> {
    (0..20).map(|nth| over(version, &format!("/{nth}"))).collect()
}

#[tokio::test]
async fn a_server_that_likes_http2_is_spoken_to_in_it_and_on_one_connection() {
    for protocol in [Protocol::Http2, Protocol::Auto] {
        let server = Choosing::speaking(&["h2", "http/1.1"]).await;
        let (pools, to) = (Pools::new(None), server.settings(protocol));
        assert_eq!(twenty(&pools, &to).await, all(Version::HTTP_2));
        assert_eq!(server.accepted(), 1, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_server_without_it_is_spoken_to_in_http1_unless_that_was_ruled_out() {
    for speaks in [&["http/1.1"][..], &[]] {
        let server = Choosing::speaking(speaks).await;
        let (pools, to) = (Pools::new(None), server.settings(Protocol::Auto));
        assert_eq!(twenty(&pools, &to).await, all(Version::HTTP_11));
        // Those who waited for the first connection, in case it carried them too, have made their own since.
        assert!((10..=20).contains(&server.accepted()), "a connection carries one at a time: {}", server.accepted());
        let before = server.accepted();
        assert_eq!(ask(&pools, &to, get("/again")).await, over(Version::HTTP_11, "/again"));
        assert_eq!(server.accepted(), before, "it is kept");

        let error = within(pools.send(&server.settings(Protocol::Http2), get("/"), None)).await.unwrap_err();
        assert!(matches!(error, SendError::Tls { .. }), "{error:?}");
        assert_eq!(error.problem(), Problem::BadGateway);
    }
}

#[tokio::test]
async fn a_server_that_would_speak_http2_is_not_made_to() {
    let server = Choosing::speaking(&["h2", "http/1.1"]).await;
    assert_eq!(twenty(&Pools::new(None), &server.settings(Protocol::Http1)).await, all(Version::HTTP_11));
}

#[tokio::test]
async fn in_the_clear_nobody_can_choose_and_http1_is_spoken() {
    let address = echo_server().await;
    let to = Settings { protocol: Protocol::Auto, ..settings(&[address]) }.prepare().unwrap();
    assert_eq!(ask(&Pools::new(None), &to, post("/", "said")).await, "said");
}

#[tokio::test]
async fn a_server_that_changes_its_mind_is_spoken_to_as_it_likes_now() {
    let server = Choosing::speaking(&["h2", "http/1.1"]).await;
    let (pools, to) = (Pools::new(None), server.settings(Protocol::Auto));
    assert_eq!(twenty(&pools, &to).await, all(Version::HTTP_2));
    server.speaks_only(&["http/1.1"]);
    eventually(|| pools.gauges()[0].idle == 0).await;
    assert_eq!(twenty(&pools, &to).await, all(Version::HTTP_11));
    server.speaks_only(&["h2"]);
    eventually(|| pools.gauges()[0].idle == 0).await;
    assert_eq!(twenty(&pools, &to).await, all(Version::HTTP_2));
}

#[tokio::test]
async fn a_websocket_goes_its_own_way_beside_requests_in_http2() {
    let server = Choosing::speaking(&["h2", "http/1.1"]).await;
    let front = Front::open(server.settings(Protocol::Auto), PLENTY).await;
    let mut plain = front.connect().await;
    plain.say("GET /page HTTP/1.1\r\nhost: app\r\n\r\n").await;
    assert!(within(plain.head()).await.starts_with("HTTP/1.1 200 "));
    let page = over(Version::HTTP_2, "/page");
    assert_eq!(within(plain.exactly(page.len())).await, page.as_bytes());
    let mut socket = open(&front).await;
    socket.say("to and fro").await;
    assert_eq!(within(socket.exactly(10)).await, b"to and fro");
    assert_eq!(server.accepted(), 2);

    // One that speaks nothing else has no WebSocket to offer.
    let server = Choosing::speaking(&["h2"]).await;
    let front = Front::open(server.settings(Protocol::Auto), PLENTY).await;
    let mut client = front.connect().await;
    client.say(&super::tunnels::handshake("")).await;
    let head = within(client.head()).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}
