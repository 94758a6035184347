//! What forwarding costs with hyper and nothing else: no timeout, no limit, no log, no metric, no look at what is forwarded.
//!
//! `floor LISTEN SERVER` (addresses with ports) serves HTTP/1.1 on one thread, with a stack of connections to the server that
//! is as simple as can be. `benches/peers/run` measures it as the floor that a gateway on hyper stands on. Nothing to be put
//! before anything.

use std::cell::RefCell;
use std::env;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn Error + Send + Sync>;
/// Connections that rest.
type Idle = Rc<RefCell<Vec<SendRequest<Incoming>>>>;

fn main() -> Result<(), Failure> {
    let mut addresses = env::args().skip(1);
    let mut next =
        || addresses.next().ok_or("floor LISTEN SERVER: two addresses with ports")?.parse().map_err(Failure::from);
    let (listen, server) = (next()?, next()?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(listen, server))
}

async fn serve(listen: SocketAddr, server: SocketAddr) -> Result<(), Failure> {
    let listener = TcpListener::bind(listen).await?;
    let idle = Idle::default();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let idle = Rc::clone(&idle);
        spawn_local(async move {
            let service = service_fn(move |request| forward(Rc::clone(&idle), server, request));
            let mut builder = hyper::server::conn::http1::Builder::new();
            // A connection that ends badly ends.
            let _ = builder.writev(false).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn forward(idle: Idle, server: SocketAddr, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Failure> {
    let rested = idle.borrow_mut().pop().filter(SendRequest::is_ready);
    let mut sender = match rested {
        Some(sender) => sender,
        None => connect(server).await?,
    };
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    idle.borrow_mut().push(sender);
    Ok(Response::from_parts(head, Full::new(body)))
}

async fn connect(server: SocketAddr) -> Result<SendRequest<Incoming>, Failure> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let mut builder = hyper::client::conn::http1::Builder::new();
    let (sender, connection) = builder.writev(false).handshake(TokioIo::new(stream)).await?;
    spawn_local(connection);
    Ok(sender)
}
