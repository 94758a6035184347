//! The real binary as a process of its own, in a folder of its own: how it is started, what it says, how it ends.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use super::client::Client;
use super::harness::{ADMIN_TOKEN, TOKEN_SECRET, binary, trusting};

/// How long any process may take to start, to end, or to do what it was started for.
pub const PATIENCE: Duration = Duration::from_secs(40);
const PEPPER: &str = "cGVwcGVyLW9mLXByb2Nlc3MtdGVzdHMtcXdlcnR6dWlvcA";

/// The binary, ready to run in `folder` and to know nothing of this test's own environment.
pub fn tollgate(folder: &Path) -> Command {
    run_by(binary().as_os_str().as_ref(), folder)
}

/// `program`, with the same care; it ends with the test, however that ends.
pub fn run_by(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).kill_on_drop(true);
    command
}

/// What a program that ended has said.
#[derive(Debug)]
pub struct Told {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Told {
    /// Its output, when it ended well.
    pub fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// What it complained of, when it ended with `code` and did not just fall over.
    pub fn bad(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
        self.err
    }
}

/// Runs `command` to its end.
pub async fn run(mut command: Command) -> Told {
    let child = command.spawn().expect("the program starts");
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.expect("the program ends in time");
    let ended = ended.expect("its output");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    Told { code: ended.status.code(), out: text(&ended.stdout), err: text(&ended.stderr) }
}

/// Runs the binary in `folder` with these arguments to its end.
pub async fn told(folder: &Path, arguments: &[&str]) -> Told {
    let mut command = tollgate(folder);
    command.args(arguments);
    run(command).await
}

/// A program that goes on until it is told to stop. It is killed when this is dropped.
pub struct Process {
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    readers: [JoinHandle<()>; 2],
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let (out, err) = (Arc::<Mutex<String>>::default(), Arc::<Mutex<String>>::default());
        let readers = [
            tokio::spawn(collect(child.stdout.take().expect("a pipe"), Arc::clone(&out))),
            tokio::spawn(collect(child.stderr.take().expect("a pipe"), Arc::clone(&err))),
        ];
        Self { child, out, err, readers }
    }

    /// What it has printed so far.
    pub fn out(&self) -> String {
        self.out.lock().expect("no panic under the lock").clone()
    }

    pub fn id(&self) -> u32 {
        self.child.id().expect("it was not waited for yet")
    }

    /// Waits until `ready` finds what it looks for in the output.
    pub async fn until<T>(&mut self, what: &str, ready: impl Fn(&str) -> Option<T>) -> T {
        let waiting = async {
            loop {
                // In this order: what it printed last is there once it is seen to have ended.
                let ended = self.child.try_wait().expect("its state");
                if ended.is_some() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                if let Some(found) = ready(&self.out()) {
                    return found;
                }
                let said = (self.out(), self.err.lock().expect("no panic under the lock").clone());
                assert!(ended.is_none(), "it ended ({ended:?}) before {what}: {said:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(PATIENCE, waiting).await;
        found.unwrap_or_else(|_| panic!("no {what} in time: {}", self.out()))
    }

    /// Where it listens for `scheme`, as its log tells.
    pub async fn address(&mut self, scheme: &str) -> SocketAddr {
        let what = format!("listening for {scheme}");
        self.until(&what, |out| {
            out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|line| {
                (line["message"] == "listening" && line["scheme"] == scheme)
                    .then(|| line["address"].as_str().and_then(|text| text.parse().ok()))?
            })
        })
        .await
    }

    /// Sends a signal by its name.
    pub async fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &self.id().to_string()]).status();
        assert!(sent.await.expect("a shell").success());
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Told {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends in time");
        for reader in &mut self.readers {
            // Whatever it started may hold the pipe; nothing here does.
            let _ = tokio::time::timeout(Duration::from_secs(2), reader).await;
        }
        let err = self.err.lock().expect("no panic under the lock").clone();
        Told { code: status.expect("its state").code(), out: self.out(), err }
    }

    /// Asks it to stop, as a service manager would.
    pub async fn stop(self) -> Told {
        self.signal("TERM").await;
        self.ended().await
    }

    /// SIGKILL: it is told nothing.
    pub fn strike(&mut self) {
        self.child.start_kill().expect("it was running");
    }
}

async fn collect(mut pipe: impl AsyncRead + Unpin, into: Arc<Mutex<String>>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        bytes.extend_from_slice(&buffer[..count]);
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = bytes.drain(..whole).collect();
        into.lock().expect("no panic under the lock").push_str(&String::from_utf8_lossy(&lines));
    }
    into.lock().expect("no panic under the lock").push_str(&String::from_utf8_lossy(&bytes));
}

/// A folder with a configuration: the same gateway can be started in it again and again.
pub struct Home {
    pub folder: TempDir,
}

/// What a [`Home`] is made of.
pub struct Plan<'a> {
    /// `postgres://…`; none: SQLite in the folder.
    pub postgres: Option<&'a str>,
    pub backend: &'a str,
    /// More lines of `[store]`.
    pub store: &'a str,
    /// More top-level tables.
    pub top: &'a str,
    /// More of the site's own tables.
    pub site: &'a str,
}

impl Home {
    pub fn new(plan: &Plan<'_>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let Plan { postgres, backend, store, top, site } = plan;
        let url = postgres.unwrap_or("sqlite://data/tollgate.db");
        let text = format!(
            r#"
[listen]
https = "127.0.0.1:0"
http = "127.0.0.1:0"
admin = "127.0.0.1:0"
[admin]
token = "{ADMIN_TOKEN}"
[tls]
development = true
[store]
url = "{url}"
{store}
[log]
access = false
{top}
[[site]]
contract = "vantage"
hosts = ["localhost"]
[site.tokens]
issuer = "test"
keys = [{{ kid = "one", algorithm = "HS256", secret = "{TOKEN_SECRET}" }}]
[site.api_keys]
pepper = "{PEPPER}"
[site.upstream.app]
servers = ["{backend}"]
[[site.route]]
match = "* /api/v1/{{*rest}}"
{site}
"#
        );
        std::fs::write(folder.path().join("gateway.toml"), text).expect("a configuration");
        Self { folder }
    }

    /// `tollgate serve` here.
    pub fn serve(&self) -> Command {
        let mut command = tollgate(self.folder.path());
        command.args(["serve", "--config", "gateway.toml"]);
        command
    }

    /// Starts it and waits until it listens.
    pub async fn start(&self) -> Served {
        self.start_as(self.serve()).await
    }

    /// The same, started by a command that ends up being the gateway in this folder.
    pub async fn start_as(&self, command: Command) -> Served {
        let mut process = Process::start(command);
        let https = process.address("https").await;
        let http = process.address("http").await;
        let admin = process.address("admin").await;
        let tls = Some(trusting(&self.folder.path().join("certs/ca.pem")));
        Served {
            process,
            https: Client { address: https, host: "localhost".into(), tls },
            http: Client { address: http, host: "localhost".into(), tls: None },
            admin: Client { address: admin, host: "admin".into(), tls: None },
        }
    }
}

/// A gateway that runs as a process.
pub struct Served {
    pub process: Process,
    pub https: Client,
    pub http: Client,
    pub admin: Client,
}

impl Served {
    /// Its resident memory, in KiB.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that it was since [`Self::forget_peak`], in KiB.
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// From here on the peak is counted anew (proc(5), `clear_refs`).
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").expect("a process of Linux, and ours");
    }

    fn memory(&self, line: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("a process of Linux");
        let kibibytes = status.lines().find_map(|own| own.strip_prefix(line)).expect("a line about its memory");
        kibibytes.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// A metric's value, by the start of its line.
    pub async fn metric(&self, line: &str) -> f64 {
        let text = self.admin.get("/metrics").send().await.text();
        text.lines().find_map(|own| own.strip_prefix(line)?.trim().parse().ok()).unwrap_or_else(|| panic!("no {line}"))
    }
}
