//! A wire to a server that can be frozen and cut, at will and again and again.

use std::path::PathBuf;

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What the wire does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Carries them.
    Whole,
    /// Takes them and carries none, and tells nobody: a peer that fell silent.
    Frozen,
    /// Every connection ends, and so does every new one: a server that is down.
    Cut,
}

/// A relay on a loopback port of its own.
pub struct Relay {
    line: watch::Sender<Line>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
enum Server {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl Relay {
    /// A relay to the server of a PostgreSQL URL, and the URL that leads through it.
    pub async fn to_postgres(url: &str) -> (Self, String) {
        let options: PgConnectOptions = url.parse().expect("a PostgreSQL URL");
        let server = match options.get_socket() {
            Some(folder) => Server::Unix(folder.join(format!(".s.PGSQL.{}", options.get_port()))),
            None => Server::Tcp(options.get_host().to_owned(), options.get_port()),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (line, state) = watch::channel(Line::Whole);
        let task = tokio::spawn(accept(listener, server, state));
        let (scheme, rest) = url.split_once("://").expect("a URL");
        let (who, rest) = rest.split_once('@').map_or(("", rest), |(who, rest)| (who, rest));
        // A socket's folder stands in the query; through here it is not asked for.
        let database = rest.split_once('/').map_or("", |(_, path)| path.split('?').next().unwrap_or_default());
        (Self { line, task }, format!("{scheme}://{who}@{address}/{database}"))
    }

    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server: Server, line: watch::Receiver<Line>) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(relay(client, server.clone(), line.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn relay(client: TcpStream, server: Server, line: watch::Receiver<Line>) {
    let carrying = async {
        until_whole(&mut line.clone()).await;
        let _ = client.set_nodelay(true);
        let (from, to) = client.into_split();
        match server {
            Server::Tcp(host, port) => {
                let Ok(server) = TcpStream::connect((host.as_str(), port)).await else { return };
                let _ = server.set_nodelay(true);
                let (back, forth) = server.into_split();
                tokio::join!(carry(from, forth, line.clone()), carry(back, to, line.clone()));
            }
            Server::Unix(path) => {
                let Ok(server) = UnixStream::connect(path).await else { return };
                let (back, forth) = server.into_split();
                tokio::join!(carry(from, forth, line.clone()), carry(back, to, line.clone()));
            }
        }
    };
    let mut cut = line.clone();
    tokio::select! {
        () = carrying => {}
        // Or the relay itself is gone.
        _ = cut.wait_for(|line| *line == Line::Cut) => {}
    }
}

async fn until_whole(line: &mut watch::Receiver<Line>) {
    let _ = line.wait_for(|line| *line == Line::Whole).await;
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut line: watch::Receiver<Line>) {
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        until_whole(&mut line).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    until_whole(&mut line).await;
    let _ = to.shutdown().await;
}
