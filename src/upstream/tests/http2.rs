//! Backends that speak HTTP/2.

use http::HeaderMap;
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::rt::TokioExecutor;

use super::*;
use crate::upstream::{Protocol, SendError};

type Answer = http_body_util::combinators::BoxBody<bytes::Bytes, Infallible>;

/// A real HTTP/2 server; `serve` answers each request, and is told the connection's number.
pub(super) struct Server2 {
    pub(super) address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    /// Cancelled: every connection there is says GOAWAY.
    goodbye: Arc<Mutex<CancellationToken>>,
    task: JoinHandle<()>,
}

impl Drop for Server2 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server2 {
    async fn serve<F, S>(most: u32, serve: F) -> Self
    where
        F: Fn(usize, Request<Incoming>) -> S + Clone + Send + 'static,
        S: Future<Output = Response<Answer>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let goodbye: Arc<Mutex<CancellationToken>> = Arc::default();
        let (count, told) = (Arc::clone(&accepted), Arc::clone(&goodbye));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (nth, serve) = (count.fetch_add(1, Ordering::SeqCst), serve.clone());
                let goodbye = told.lock().unwrap().clone();
                let service = service_fn(move |request| {
                    let answer = serve(nth, request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                tokio::spawn(async move {
                    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let serving = builder.max_concurrent_streams(most).serve_connection(TokioIo::new(stream), service);
                    tokio::pin!(serving);
                    tokio::select! {
                        _ = serving.as_mut() => return,
                        () = goodbye.cancelled() => serving.as_mut().graceful_shutdown(),
                    }
                    let _ = serving.await;
                });
            }
        });
        Self { address, accepted, goodbye, task }
    }

    /// Answers with what it was sent, trailers included.
    pub(super) async fn echo() -> Self {
        Self::serve(
            100,
            |_, request| async move { Response::new(request.into_body().map_err(|_| unreachable!()).boxed()) },
        )
        .await
    }

    /// Answers only after a while.
    pub(super) async fn slow(after: Duration) -> Self {
        Self::serve(100, move |_, _| async move {
            tokio::time::sleep(after).await;
            plain_answer("late".to_owned())
        })
        .await
    }

    fn settings(&self) -> Settings {
        Settings { protocol: Protocol::Http2, ..settings(&[self.address]) }.prepare().unwrap()
    }

    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    fn say_goodbye(&self) {
        std::mem::take(&mut *self.goodbye.lock().unwrap()).cancel();
    }
}

fn plain(text: impl Into<bytes::Bytes>) -> Answer {
    http_body_util::Full::new(text.into()).boxed()
}

#[tokio::test]
async fn many_requests_share_a_connection_and_each_gets_its_own_answer() {
    let (open, closed) = tokio::sync::watch::channel(false);
    let server = Server2::serve(100, move |_, request: Request<Incoming>| {
        let mut closed = closed.clone();
        async move {
            closed.wait_for(|open| *open).await.unwrap();
            assert_eq!(request.version(), http::Version::HTTP_2);
            assert!(!request.headers().contains_key("host"));
            plain_answer(format!("{} {}", request.uri().authority().unwrap(), request.uri().path()))
        }
    })
    .await;
    let (pools, to) = (Pools::new(None), server.settings());
    let paths: Vec<String> = (0..20).map(|nth| format!("/{nth}")).collect();
    let asked = futures_util::future::join_all(paths.iter().map(|path| ask(&pools, &to, get(path))));
    let (answers, ()) = tokio::join!(asked, async {
        eventually(|| pools.gauges().first().is_some_and(|gauges| gauges.in_flight == 20)).await;
        open.send(true).unwrap();
    });
    for (nth, answer) in answers.iter().enumerate() {
        assert_eq!(*answer, format!("app /{nth}"));
    }
    assert_eq!(server.accepted(), 1, "those who came while it was being made waited for it");
    assert_eq!(pools.gauges()[0].idle, 1);
    within(pools.close()).await;
}

fn plain_answer(text: String) -> Response<Answer> {
    Response::new(plain(text))
}

#[tokio::test]
async fn a_server_that_allows_few_streams_gets_more_connections() {
    let server = Server2::serve(4, |_, _| async {
        tokio::time::sleep(SHORT / 5).await;
        plain_answer("ok".to_owned())
    })
    .await;
    let (pools, to) = (Pools::new(None), server.settings());
    assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    tokio::task::yield_now().await;
    let answers = futures_util::future::join_all((0..12).map(|_| ask(&pools, &to, get("/"))));
    assert_eq!(within(answers).await, ["ok"; 12]);
    let before = server.accepted();
    assert!((2..=3).contains(&before), "four on the first: {before}");
    // With one connection at most, the others wait for a place on it.
    let (pools, to) = (Pools::new(None), Settings { max_connections: 1, ..to });
    assert_eq!(ask(&pools, &to, get("/")).await, "ok");
    let answers = futures_util::future::join_all((0..12).map(|_| ask(&pools, &to, get("/"))));
    assert_eq!(within(answers).await, ["ok"; 12]);
    assert_eq!(server.accepted(), before + 1);
}

#[tokio::test]
async fn a_goodbye_of_the_server_costs_no_request() {
    let server = Server2::echo().await;
    let (pools, to) = (Arc::new(Pools::new(None)), server.settings());
    for round in 0..20 {
        if round % 5 == 4 {
            server.say_goodbye();
        }
        assert_eq!(ask(&pools, &to, post("/", "pay")).await, "pay", "{round}");
    }
    assert!((2..=5).contains(&server.accepted()), "{}", server.accepted());
}

#[tokio::test]
async fn a_stream_that_is_reset_takes_no_other_with_it() {
    let server = Server2::serve(100, |nth, request: Request<Incoming>| async move {
        let path = request.uri().path().to_owned();
        // What panics is dropped, and hyper resets its stream.
        assert!(path != "/bad", "a stream's end");
        plain_answer(format!("{nth}"))
    })
    .await;
    let (pools, to) = (Pools::new(None), server.settings());
    assert_eq!(ask(&pools, &to, get("/good")).await, "0");
    for _ in 0..10 {
        let error = within(pools.send(&to, get("/bad"), None)).await.unwrap_err();
        assert!(matches!(error, SendError::Reset(_) | SendError::Closed(_)), "{error:?}");
        assert_eq!(error.problem(), Problem::BadGateway);
        within(pools.send(&to, get("/good"), None)).await.unwrap();
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_and_what_a_client_may_not_say_does_not() {
    let server = Server2::serve(100, |_, request: Request<Incoming>| async move {
        assert_eq!(request.headers()["te"], "trailers");
        assert!(!request.headers().contains_key("connection"));
        let got = request.into_body().collect().await.unwrap();
        let mut trailers = got.trailers().cloned().unwrap_or_default();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("set-cookie", HeaderValue::from_static("a=1"));
        let frames = [Ok(Frame::data(got.to_bytes())), Ok(Frame::trailers(trailers))];
        Response::new(BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames))))
    })
    .await;
    let front = Front2::open(server.settings()).await;
    let mut trailers = HeaderMap::new();
    for name in ["x-sum", "x-user-id", "authorization", "content-length", "x-forwarded-for", "cookie", "x_user_id"] {
        trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("7"));
    }
    let frames = [Ok::<_, Infallible>(Frame::data("message".into())), Ok(Frame::trailers(trailers))];
    let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
    let request = Request::post("http://app/call").header("te", "trailers").body(body).unwrap();
    let answer = within(front.sender().await.send_request(request)).await.unwrap();
    let whole = within(answer.into_body().collect()).await.unwrap();
    let said: Vec<_> =
        whole.trailers().unwrap().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said.contains(&("x-sum", b"7")) && said.contains(&("grpc-status", b"0")), "{said:?}");
    assert_eq!(whole.to_bytes(), "message");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_stream_at_the_backend_along() {
    let (told, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let server = Server2::serve(100, move |nth, request: Request<Incoming>| {
        let told = told.clone();
        async move {
            let path = request.uri().path().to_owned();
            let mut body = request.into_body();
            if path == "/quick" {
                return plain_answer(format!("{nth}"));
            }
            // Ends with the client's stream, or never.
            while let Some(Ok(_)) = body.frame().await {}
            told.send(()).unwrap();
            std::future::pending().await
        }
    })
    .await;
    let to = server.settings();
    let pools = Arc::new(Pools::new(None));
    assert_eq!(ask(&pools, &to, get("/quick")).await, "0");
    let front = Front2::over(Arc::clone(&pools), to.clone()).await;
    let mut sender = front.sender().await;
    let (feed, frames) = tokio::sync::mpsc::unbounded_channel::<Result<Frame<bytes::Bytes>, Infallible>>();
    feed.send(Ok(Frame::data("part".into()))).unwrap();
    let stream = futures_util::stream::unfold(frames, |mut frames| async { Some((frames.recv().await?, frames)) });
    let call =
        sender.send_request(Request::post("http://app/call").body(BodyExt::boxed(StreamBody::new(stream))).unwrap());
    assert!(tokio::time::timeout(SHORT, call).await.is_err(), "there is no answer, and nobody waits for it now");
    assert!(within(hears.recv()).await.is_some(), "the backend's stream has ended");
    eventually(|| pools.gauges()[0].in_flight == 0).await;
    assert_eq!(ask(&pools, &to, get("/quick")).await, "0", "on the same connection");
    drop(feed);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_the_clients_fault_over_http2_too() {
    let server = Server2::serve(100, |_, request: Request<Incoming>| async move {
        let got = request.into_body().collect().await;
        plain_answer(got.map_or("broken".to_owned(), |got| got.to_bytes().len().to_string()))
    })
    .await;
    let front = Front::open(server.settings(), Allowed { bytes: 10, ..PLENTY }).await;
    let mut client = front.connect().await;
    client
        .say("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\nhello!\r\n0\r\n\r\n")
        .await;
    assert!(within(client.head()).await.starts_with("HTTP/1.1 413 "));
    let mut client = front.connect().await;
    client
        .say("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n")
        .await;
    assert!(within(client.head()).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_server_that_speaks_no_http2_is_a_bad_gateway_and_not_for_ever() {
    let peer = Peer::play(|_, mut wire| async move {
        wire.exactly(24).await;
        wire.say("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    })
    .await;
    let to = Settings { protocol: Protocol::Http2, ..peer.settings() }.prepare().unwrap();
    let pools = Pools::new(None);
    for _ in 0..3 {
        let error = within(pools.send(&to, get("/"), None)).await.unwrap_err();
        assert_eq!(error.problem(), Problem::BadGateway, "{error:?}");
    }
    eventually(|| pools.gauges()[0].open == 0).await;
}

#[tokio::test]
async fn an_answer_that_nobody_reads_holds_up_no_other() {
    let server = Server2::serve(100, |_, request: Request<Incoming>| async move {
        let long = if request.uri().path() == "/long" { 8 << 20 } else { 2 };
        plain_answer("x".repeat(long))
    })
    .await;
    let (pools, to) = (Pools::new(None), server.settings());
    let mut unread = Vec::new();
    for _ in 0..40 {
        unread.push(within(pools.send(&to, get("/long"), None)).await.unwrap());
    }
    assert_eq!(ask(&pools, &to, get("/short")).await, "xx");
    assert_eq!(server.accepted(), 1);
    for answer in unread.split_off(38) {
        assert_eq!(text(answer).await.unwrap().len(), 8 << 20);
    }
}

#[tokio::test]
async fn a_websocket_is_not_asked_of_a_server_that_speaks_http2_alone() {
    let server = Server2::echo().await;
    let error = within(Pools::new(None).open_tunnel(&server.settings(), get("/"), None, &mut None)).await;
    assert!(matches!(error, Err(SendError::NoTunnel)));
    assert_eq!(server.accepted(), 0);
}

/// As [`Front`], for a client that speaks HTTP/2.
struct Front2 {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Front2 {
    async fn open(to: Settings) -> Self {
        Self::over(Arc::new(Pools::new(None)), to).await
    }

    async fn over(pools: Arc<Pools>, to: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = Arc::new(to);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (pools, to) = (Arc::clone(&pools), Arc::clone(&to));
                let service = service_fn(move |request| {
                    let (pools, to) = (Arc::clone(&pools), Arc::clone(&to));
                    async move {
                        let ended = (CancellationToken::new(), Arc::default());
                        let answer = pass(&pools, &to, ended, PLENTY, request).await;
                        Ok::<_, Infallible>(answer.unwrap_or_else(|problem| {
                            Response::builder().status(problem.kind().default_status()).body(Body::Empty).unwrap()
                        }))
                    }
                });
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, task }
    }

    async fn sender(&self) -> hyper::client::conn::http2::SendRequest<Answer> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

impl Drop for Front2 {
    fn drop(&mut self) {
        self.task.abort();
    }
}
