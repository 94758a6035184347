//! When the database is full, locked, silent or gone: a clean refusal in bounded time, reads that need nothing
//! of it go on, and afterwards everything works again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::super::{Page, Registered, Settings, Store, StoreError, UserFilter};
use super::{Bench, REALM, Schema, T0, account, on_both};

on_both!(
    a_call_given_up_midway_is_whole_or_absent_and_the_next_one_works,
    a_lock_held_by_another_process_is_waited_for_no_longer_than_allowed,
    a_call_given_up_while_it_waits_for_the_lock_does_not_keep_it,
    a_closed_store_refuses_at_once,
);

/// Far longer than any bound that the claims rely on.
const LONG: Duration = Duration::from_secs(20);

async fn whole(store: &Store) -> usize {
    let users = store.users(REALM, &UserFilter::All, Page::first(1000)).await.unwrap();
    let orgs = store.orgs(REALM, Page::first(1000)).await.unwrap();
    assert_eq!(users.len(), orgs.len());
    users.len()
}

fn is_unavailable<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> bool {
    match outcome {
        Ok(_) => false,
        Err(StoreError::Unavailable { .. }) => true,
        Err(other) => panic!("{other}"),
    }
}

async fn a_call_given_up_midway_is_whole_or_absent_and_the_next_one_works(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    for n in 0..60 {
        let _ = timeout(Duration::from_micros(100 * n), bench.store.register(REALM, &account(&format!("u{n}")))).await;
        let plan = format!("p{n}");
        let _ = timeout(Duration::from_micros(100 * n), bench.store.set_plan(REALM, ann.org.id, &plan, T0)).await;
    }
    bench.registered("bob").await;
    assert!(whole(&bench.store).await >= 2);
    let head = bench.store.change_head().await.unwrap();
    assert_eq!(bench.store.changes_since(0, 1000).await.unwrap().len(), usize::try_from(head).unwrap());
}

async fn a_lock_held_by_another_process_is_waited_for_no_longer_than_allowed(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let impatient = bench.impatient().await;
    let url = bench.settings.url.expose();
    let refused = async {
        let set = timeout(LONG, impatient.set_plan(REALM, ann.org.id, "pro", T0)).await.expect("bounded");
        assert!(is_unavailable(set));
        let read = timeout(LONG, impatient.account(REALM, ann.user.id)).await.expect("readers are not kept waiting");
        assert_eq!(read.unwrap().unwrap().org.plan, "free");
    };
    if bench.store.backend() == "sqlite" {
        let mut other = sqlx::SqliteConnection::connect(url).await.unwrap();
        let held = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
        refused.await;
        held.rollback().await.unwrap();
    } else {
        let mut other = sqlx::PgConnection::connect(url).await.unwrap();
        let held = other.begin_with("BEGIN; UPDATE feed SET head = head").await.unwrap();
        refused.await;
        // What announces nothing does not even wait.
        assert_eq!(impatient.register(REALM, &account("bob")).await.unwrap(), Registered::Done);
        held.rollback().await.unwrap();
    }
    assert!(impatient.set_plan(REALM, ann.org.id, "pro", T0).await.unwrap());
    impatient.close().await;
}

async fn a_call_given_up_while_it_waits_for_the_lock_does_not_keep_it(bench: Arc<Bench>) {
    let ann = bench.registered("ann").await;
    let url = bench.settings.url.expose();
    let give_up = async || {
        // A client that hangs up: its request's future is dropped.
        let set = bench.store.set_plan(REALM, ann.org.id, "pro", T0);
        assert!(timeout(Duration::from_millis(100), set).await.is_err(), "it waits");
    };
    if bench.store.backend() == "sqlite" {
        let mut other = sqlx::SqliteConnection::connect(url).await.unwrap();
        let held = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
        give_up().await;
        held.rollback().await.unwrap();
    } else {
        let mut other = sqlx::PgConnection::connect(url).await.unwrap();
        let held = other.begin_with("BEGIN; UPDATE feed SET head = head").await.unwrap();
        give_up().await;
        held.rollback().await.unwrap();
    }
    let elsewhere = bench.elsewhere().await;
    let set = timeout(Duration::from_secs(2), elsewhere.set_plan(REALM, ann.org.id, "growth", T0)).await;
    assert!(set.expect("nobody holds the lock").unwrap());
    let set = timeout(Duration::from_secs(2), bench.store.set_plan(REALM, ann.org.id, "free", T0)).await;
    assert!(set.expect("the writer is free again").unwrap());
    assert_eq!(bench.store.change_head().await.unwrap(), 2);
    elsewhere.close().await;
}

async fn a_closed_store_refuses_at_once(bench: Arc<Bench>) {
    bench.store.close().await;
    assert!(is_unavailable(bench.store.ping().await));
    assert!(is_unavailable(bench.store.register(REALM, &account("ann")).await));
}

#[tokio::test]
async fn a_full_sqlite_database_refuses_writes_serves_reads_and_recovers() {
    super::on_sqlite(async |bench: Arc<Bench>| {
        let ann = bench.registered("ann").await;
        let super::super::Pool::Sqlite { write, .. } = &bench.store.pool else { unreachable!() };
        let mut writer = write.acquire().await.unwrap();
        sqlx::query("PRAGMA max_page_count = 1").execute(&mut *writer).await.unwrap();
        drop(writer);
        let mut kept = 1;
        let full = loop {
            assert!(kept < 1000, "the database fills up");
            match bench.store.register(REALM, &account(&format!("u{kept}"))).await {
                Ok(done) => assert_eq!(done, Registered::Done),
                Err(error) => break error,
            }
            kept += 1;
        };
        assert!(full.to_string().contains("full"), "{full}");
        assert!(is_unavailable::<()>(Err(full)));
        assert!(bench.store.account(REALM, ann.user.id).await.unwrap().is_some());
        assert_eq!(whole(&bench.store).await, kept, "what was refused left nothing");
        // The limit went with its connection.
        bench.registered("bob").await;
    })
    .await;
}

#[tokio::test]
async fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path()) else {
        println!("skipped: a small file system cannot be mounted here");
        return;
    };
    let url = format!("sqlite://{}/tollgate.db", folder.path().display());
    let bench = Bench::open(url).await;
    let ann = bench.registered("ann").await;
    let filler = folder.path().join("filler");
    assert!(std::fs::write(&filler, vec![1; 16 << 20]).is_err(), "the disk is small");
    let mut kept = 1;
    let mut refused = 0;
    for n in 0..300 {
        match bench.store.register(REALM, &account(&format!("u{n}"))).await {
            Ok(_) => kept += 1,
            error => refused += usize::from(is_unavailable(error)),
        }
    }
    assert!(refused > 100, "{refused}");
    assert!(bench.store.account(REALM, ann.user.id).await.unwrap().is_some());
    assert_eq!(whole(&bench.store).await, kept, "what was refused left nothing");
    std::fs::remove_file(filler).unwrap();
    bench.registered("bob").await;
    assert_eq!(whole(&bench.elsewhere().await).await, kept + 1);
    bench.store.close().await;
}

/// A file system of 4 MiB, unmounted when dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path) -> Option<Self> {
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(at)
            .stderr(std::process::Stdio::null())
            .status();
        mount.is_ok_and(|status| status.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily: a failed claim may have left connections open.
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_postgres_is_given_up_in_time_and_its_return_is_noticed() {
    super::in_schema(async |schema: Arc<Schema>| {
        let line = Line::to(&schema.url).await;
        // One connection: were it stuck on the silent peer, nothing could follow.
        let settings = Settings {
            url: format!("{}&host=127.0.0.1&port={}", schema.url, line.port).into(),
            max_connections: 1,
            acquire_timeout: Duration::from_millis(400),
        };
        let store = super::open(&settings).await.unwrap();
        let ann = account("ann");
        store.register(REALM, &ann).await.unwrap();
        for round in 0..3 {
            line.cut();
            let call = async {
                match round {
                    0 => is_unavailable(store.account(REALM, ann.user.id).await),
                    1 => is_unavailable(store.register(REALM, &account("bob")).await),
                    _ => is_unavailable(store.set_plan(REALM, ann.org.id, "pro", T0).await),
                }
            };
            assert!(timeout(LONG, call).await.expect("bounded"), "nobody could have answered");
            assert!(timeout(LONG, async { is_unavailable(store.ping().await) }).await.expect("bounded"));
            // Connections of before stay silent for ever; new ones work.
            line.mend();
            timeout(LONG, async { while is_unavailable(store.ping().await) {} }).await.expect("its return is noticed");
            store.register(REALM, &account(&format!("u{round}"))).await.unwrap();
        }
        assert_eq!(whole(&store).await, 4, "what was refused left nothing");
        store.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_postgres_ends_are_replaced() {
    super::in_schema(async |schema: Arc<Schema>| {
        let settings = Settings {
            url: format!("{}&application_name={}", schema.url, schema.name).into(),
            max_connections: 3,
            acquire_timeout: Duration::from_secs(5),
        };
        let store = super::open(&settings).await.unwrap();
        store.register(REALM, &account("ann")).await.unwrap();
        let end_all = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{}'",
            schema.name
        );
        schema.execute(end_all.clone()).await;
        // A connection that was in use a moment ago is not asked first: its next call may be refused, cleanly.
        let mut refused = 0;
        while is_unavailable(store.ping().await) {
            refused += 1;
        }
        assert!(refused <= 3, "{refused}");
        // One that rested is asked first, and replaced without anybody noticing.
        schema.execute(end_all).await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(!is_unavailable(store.ping().await));
        store.register(REALM, &account("bob")).await.unwrap();
        store.close().await;
    })
    .await;
}

#[tokio::test]
async fn a_postgres_that_is_not_there_is_unavailable_in_time() {
    let mut listener = Some(TcpListener::bind("127.0.0.1:0").await.unwrap());
    let port = listener.as_ref().unwrap().local_addr().unwrap().port();
    // First accepted by the kernel and answered by nobody, then refused.
    for _ in 0..2 {
        let settings = Settings {
            url: format!("postgres://someone:hunter2@127.0.0.1:{port}/tollgate").into(),
            max_connections: 3,
            acquire_timeout: Duration::from_millis(200),
        };
        let outcome = timeout(LONG, super::open(&settings)).await.expect("bounded").map(drop);
        assert!(!format!("{outcome:?}").contains("hunter2"));
        assert!(is_unavailable(outcome));
        listener = None;
    }
    assert!(listener.is_none());
}

/// A wire to PostgreSQL that can be cut: bytes then vanish, nobody is told.
struct Line {
    port: u16,
    /// Even: whole. A connection lives only while the number is the one that it was made under.
    cuts: watch::Sender<u64>,
}

impl Line {
    async fn to(url: &str) -> Self {
        let options: PgConnectOptions = url.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (cuts, state) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (read, write) = tokio::io::split(client);
                if let Some(socket) = options.get_socket() {
                    let path = socket.join(format!(".s.PGSQL.{}", options.get_port()));
                    let (from, to) = tokio::io::split(UnixStream::connect(path).await.unwrap());
                    tokio::spawn(carry(read, to, state.clone()));
                    tokio::spawn(carry(from, write, state.clone()));
                } else {
                    let server = TcpStream::connect((options.get_host(), options.get_port())).await.unwrap();
                    let (from, to) = tokio::io::split(server);
                    tokio::spawn(carry(read, to, state.clone()));
                    tokio::spawn(carry(from, write, state.clone()));
                }
            }
        });
        Self { port, cuts }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    fn mend(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    cuts: watch::Receiver<u64>,
) -> std::io::Result<()> {
    let mine = *cuts.borrow();
    let mut buffer = [0; 4096];
    loop {
        let read = from.read(&mut buffer).await?;
        if mine % 2 == 1 || *cuts.borrow() != mine {
            std::future::pending::<()>().await;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}
