//! A process that is killed, a disk that is full: what was acknowledged is there, what is there was acknowledged,
//! and nobody is told yes when the answer is "not now".

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::backend::Backend;
use super::client::Client;
use super::harness::{ADMIN_TOKEN, binary, postgres};
use super::process::{Home, Plan, Served, run_by};
use super::wire::{As, Reply, Wire};

/// Who writes at once.
const CLIENTS: usize = 16;
/// The kill comes after so many acknowledgements, or after this time, whichever is first.
const ENOUGH: usize = 1000;
const LONG_ENOUGH: Duration = Duration::from_secs(10);
const PASSWORD: &str = "correct horse battery";
/// Nothing here is about limits.
const UNLIMITED: &str =
    "[site.limits]\nnative_per_address = []\nfailed_credentials = []\n[site.plan.free]\nlimits = [\"1000000/1h\"]\n";

fn home(postgres: Option<&str>, backend: &Backend) -> Home {
    let url = backend.url();
    Home::new(&Plan { postgres, backend: &url, store: "acquire_timeout = \"2s\"", top: "", site: UNLIMITED })
}

fn account(email: &str) -> Value {
    json!({ "email": email, "password": PASSWORD, "name": "Test" })
}

/// What the gateway said yes to.
#[derive(Debug, Default)]
struct Acknowledged {
    accounts: Vec<String>,
    tokens: Vec<String>,
    keys: Vec<String>,
    revoked: Vec<String>,
}

impl Acknowledged {
    fn count(&self) -> usize {
        // A revoked key was acknowledged twice.
        self.accounts.len() + self.tokens.len() + self.keys.len() + 2 * self.revoked.len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_a_kill_is_there_after_it_on_sqlite() {
    kill_in_the_middle(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_before_a_kill_is_there_after_it_on_postgresql() {
    let Some(url) = postgres().await else { return };
    kill_in_the_middle(Some(&url)).await;
}

async fn kill_in_the_middle(postgres: Option<&str>) {
    let backend = Backend::start().await;
    let home = home(postgres, &backend);
    let mut first = home.start().await;
    let (tell, count) = watch::channel(0_usize);
    let tell = Arc::new(tell);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(write_until_it_breaks(first.http.clone(), number, Arc::clone(&tell)));
    }
    let mut counted = count;
    let enough = counted.wait_for(|count| *count >= ENOUGH);
    let in_time = tokio::time::timeout(LONG_ENOUGH, enough).await.is_ok();
    first.process.strike();
    let struck = first.process.ended().await;
    assert_eq!(struck.code, None, "it was killed, it did not end");
    let mut told = Acknowledged::default();
    for mut each in clients.join_all().await {
        told.accounts.append(&mut each.accounts);
        told.tokens.append(&mut each.tokens);
        told.keys.append(&mut each.keys);
        told.revoked.append(&mut each.revoked);
    }
    println!(
        "killed after {} acknowledgements (by {}): {} accounts, {} sign-ins, {} keys, {} revocations",
        told.count(),
        if in_time { "count" } else { "time" },
        told.accounts.len(),
        told.tokens.len(),
        told.keys.len(),
        told.revoked.len(),
    );
    assert!(told.count() >= 200 && told.keys.len() >= 50 && told.revoked.len() >= 10, "{}", told.count());

    let second = home.start().await;
    let there = accounts(&second).await;
    let lost: Vec<&String> = told.accounts.iter().filter(|email| !there.contains(*email)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    let mut wire = Wire::to(&second.http);
    for (keys, status) in [(&told.keys, 200), (&told.revoked, 401)] {
        for key in keys {
            let answer = wire.get("/api/v1/posts", As::Key(key)).await.expect("an answer");
            assert_eq!(answer.status, status, "a key that was acknowledged: {}", answer.text());
        }
    }
    for token in &told.tokens {
        let answer = wire.get("/api/v1/posts", As::Token(token)).await.expect("an answer");
        assert_eq!(answer.status, 200, "a session that was acknowledged: {}", answer.text());
    }
    // A password that was acknowledged is the password; a row alone would not show it.
    for email in told.accounts.iter().step_by(told.accounts.len() / 8 + 1) {
        let answer = wire.post("/api/v1/auth/login", As::Nobody, &account(email)).await.expect("an answer");
        assert_eq!(answer.status, 200, "{email}: {}", answer.text());
    }
    second.process.stop().await.good();
}

/// Registers, signs in, then makes keys, revokes some, and registers others in between; ends when the gateway does.
async fn write_until_it_breaks(client: Client, number: usize, tell: Arc<watch::Sender<usize>>) -> Acknowledged {
    let mut told = Acknowledged::default();
    let _ = write(&client, number, &tell, &mut told).await;
    told
}

async fn write(
    client: &Client,
    number: usize,
    tell: &watch::Sender<usize>,
    told: &mut Acknowledged,
) -> Result<(), String> {
    let mut wire = Wire::to(client);
    let mut token = String::new();
    for round in 0.. {
        // One account for many keys: a password's hash takes as long as fifty of them.
        if round % 32 == 0 {
            let email = format!("u{number}-{round}@example.com");
            let made = wire.post("/api/v1/auth/register", As::Nobody, &account(&email)).await?;
            assert_eq!(made.status, 201, "{}", made.text());
            told.accounts.push(email.clone());
            tell.send_modify(|count| *count += 1);
            if round == 0 {
                let signed_in = wire.post("/api/v1/auth/login", As::Nobody, &account(&email)).await?;
                assert_eq!(signed_in.status, 200, "{}", signed_in.text());
                token = signed_in.string("/access_token").expect("a token");
                told.tokens.push(token.clone());
                tell.send_modify(|count| *count += 1);
            }
        }
        let wanted = json!({ "name": "test", "permissions": ["read:posts"] });
        let made = wire.post("/api/v1/api-keys", As::Token(&token), &wanted).await?;
        assert_eq!(made.status, 201, "{}", made.text());
        let (key, id) = (made.string("/key").expect("a key"), made.string("/id").expect("an id"));
        tell.send_modify(|count| *count += 1);
        if round % 4 == 3 {
            // Until it is answered, whether it is revoked is open.
            let path = format!("/api/v1/api-keys/{id}");
            let gone = wire.ask("DELETE", &path, As::Token(&token), None).await?;
            assert_eq!(gone.status / 100, 2, "{}", gone.text());
            told.revoked.push(key);
            tell.send_modify(|count| *count += 1);
        } else {
            told.keys.push(key);
        }
    }
    Ok(())
}

/// Every account there is, as the operator sees it.
async fn accounts(served: &Served) -> HashSet<String> {
    let mut there = HashSet::new();
    let mut after = String::new();
    loop {
        let path = format!("/v1/sites/vantage/users?limit=1000{after}");
        let page = served.admin.get(&path).bearer(ADMIN_TOKEN).send().await.json();
        let users = page["users"].as_array().expect("a list");
        there.extend(users.iter().filter_map(|user| Some(user["email"].as_str()?.to_owned())));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return there,
        }
    }
}

/// How a disk is made to be full, and to have room again.
#[derive(Clone, Copy, Debug)]
enum Disk {
    /// No file may be longer than a megabyte: `EFBIG`.
    Quota,
    /// A file system of its own with eight megabytes, most of them taken: `ENOSPC`. Needs a mount namespace.
    Small,
}

impl Disk {
    fn command(self, home: &Home) -> Command {
        let folder = home.folder.path();
        match self {
            Self::Quota => {
                let mut command = run_by("sh".as_ref(), folder);
                // A soft limit, in blocks of 512 bytes, which can be raised again; writing past it is an error, not a signal.
                command.args(["-c", "trap '' XFSZ; ulimit -S -f 2048; exec \"$0\" serve --config gateway.toml"]);
                command.arg(binary());
                command
            }
            Self::Small => {
                let mut command = run_by("unshare".as_ref(), folder);
                let script = "mount -t tmpfs -o size=8m tmpfs data && \
                              dd if=/dev/zero of=data/filler bs=1M count=7 2>/dev/null && \
                              exec \"$0\" serve --config gateway.toml";
                command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(binary());
                command
            }
        }
    }

    async fn make_room(self, served: &Served) {
        let id = served.process.id().to_string();
        let (program, arguments) = match self {
            Self::Quota => ("prlimit", vec![format!("--pid={id}"), "--fsize=unlimited".to_owned()]),
            // The namespace ends with its process; until then it is reached through it.
            Self::Small => ("rm", vec![format!("/proc/{id}/cwd/data/filler")]),
        };
        assert!(Command::new(program).args(arguments).status().await.expect("it runs").success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_may_not_grow_is_a_clean_503_and_nothing_acknowledged_is_lost() {
    fill_the_disk(Disk::Quota).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_a_clean_503_and_nothing_acknowledged_is_lost() {
    // Only who may mount has a small disk at hand; the claim above stands in for everybody else.
    let allowed = Command::new("unshare").args(["--mount", "true"]).status().await;
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this user may not have mounts of its own");
        return;
    }
    fill_the_disk(Disk::Small).await;
}

async fn fill_the_disk(disk: Disk) {
    let backend = Backend::start().await;
    let home = home(None, &backend);
    std::fs::create_dir(home.folder.path().join("data")).expect("a folder");
    let served = home.start_as(disk.command(&home)).await;
    let mut wire = Wire::to(&served.http);
    let ada = account("ada@example.com");
    assert_eq!(wire.post("/api/v1/auth/register", As::Nobody, &ada).await.expect("an answer").status, 201);
    let signed_in = wire.post("/api/v1/auth/login", As::Nobody, &ada).await.expect("an answer");
    let token = signed_in.string("/access_token").expect("a token");
    let wanted = json!({ "name": "test", "permissions": ["read:posts"] });

    let mut keys = Vec::new();
    let refused = loop {
        assert!(keys.len() < 900, "the disk fills up");
        let made = wire.post("/api/v1/api-keys", As::Token(&token), &wanted).await.expect("an answer");
        if made.status != 201 {
            break made;
        }
        keys.push((made.string("/key").expect("a key"), made.string("/id").expect("an id")));
    };
    println!("{disk:?}: full after {} keys", keys.len());
    assert!(keys.len() >= 10, "some were made before: {}", keys.len());
    assert_unavailable(&refused, "the key that found no room");

    // Nothing that has to be written down is said to be done.
    let eve = account("eve@example.com");
    let path = format!("/api/v1/api-keys/{}", keys[0].1);
    for (what, answer) in [
        ("register", wire.post("/api/v1/auth/register", As::Nobody, &eve).await),
        ("sign-in", wire.post("/api/v1/auth/login", As::Nobody, &ada).await),
        ("key", wire.post("/api/v1/api-keys", As::Token(&token), &wanted).await),
        ("revoke", wire.ask("DELETE", &path, As::Token(&token), None).await),
        ("rotate", wire.post(&format!("{path}/rotate"), As::Token(&token), &json!({})).await),
    ] {
        assert_unavailable(&answer.expect("an answer"), what);
    }
    let by_operator = served.admin.ask("PATCH", "/v1/sites/vantage/orgs/ada@example.com").bearer(ADMIN_TOKEN);
    let by_operator = by_operator.json(&json!({ "plan": "pro" })).send().await;
    assert_eq!(by_operator.status, 503, "{}", by_operator.text());
    // A wrong password is still wrong, and what needs no room goes on: forwarded calls, by token and by key.
    let guess = json!({ "email": "ada@example.com", "password": "a guess" });
    assert_eq!(wire.post("/api/v1/auth/login", As::Nobody, &guess).await.expect("an answer").status, 401);
    assert_eq!(wire.get("/api/v1/posts", As::Token(&token)).await.expect("an answer").status, 200);
    for (key, _) in &keys {
        assert_eq!(wire.get("/api/v1/posts", As::Key(key)).await.expect("an answer").status, 200);
    }

    disk.make_room(&served).await;
    let made = wire.post("/api/v1/api-keys", As::Token(&token), &wanted).await.expect("an answer");
    assert_eq!(made.status, 201, "with room again it goes on: {}", made.text());
    keys.push((made.string("/key").expect("a key"), made.string("/id").expect("an id")));
    let made = wire.post("/api/v1/auth/register", As::Nobody, &eve).await.expect("an answer");
    assert_eq!(made.status, 201, "nothing is left of the one that was refused: {}", made.text());
    let plan = served.admin.get("/v1/sites/vantage/orgs/ada@example.com").bearer(ADMIN_TOKEN).send().await;
    assert_eq!(plan.string("/plan"), "free", "nor of the operator's");

    // And all of it is on the disk: killed, started again.
    let mut process = served.process;
    if matches!(disk, Disk::Small) {
        // The disk goes with its namespace: what is on it is taken away first, as a second disk would get it.
        let from = format!("/proc/{}/cwd/data/.", process.id());
        process.signal("STOP").await;
        let kept = home.folder.path().join("data");
        assert!(Command::new("cp").arg("-a").arg(from).arg(kept).status().await.expect("it runs").success());
    }
    process.strike();
    process.ended().await;
    let again = home.start().await;
    let mut wire = Wire::to(&again.http);
    for (key, _) in &keys {
        assert_eq!(wire.get("/api/v1/posts", As::Key(key)).await.expect("an answer").status, 200);
    }
    assert_eq!(accounts(&again).await.len(), 2);
    again.process.stop().await.good();
}

/// The product's own body, and when to come back.
fn assert_unavailable(answer: &Reply, what: &str) {
    assert_eq!(answer.status, 503, "{what}: {}", answer.text());
    assert_eq!(
        answer.text(),
        r#"{"detail":"Service temporarily unavailable","error":"service_unavailable"}"#,
        "{what}: the product's body"
    );
    assert!(answer.headers.contains_key("retry-after"), "{what}: {:?}", answer.headers);
}
