//! The operator's acts from the command line.
//!
//! They go to the running gateway's admin listener where there is one, so that they count there at once; where
//! none answers they are done on the store itself, and any gateway on it learns of them from the change feed.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use clap::{Args, Subcommand};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{ConfigFile, say};
use crate::config::Loaded;
use crate::model::time::{Clock, SystemClock};
use crate::native::operator::{self, Desk, Reply};
use crate::observe::audit::{Actor, Door, Event};
use crate::observe::log::{self, Output};
use crate::observe::metrics::Metrics;
use crate::store::Store;

/// What a reply calls its rows where it is a list; a resource may hold arrays of other names.
const LISTS: [&str; 4] = ["users", "orgs", "keys", "sessions"];

/// How long the gateway may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What every act takes.
#[derive(Debug, Clone, Args)]
pub struct Common {
    #[command(flatten)]
    file: ConfigFile,
    /// Which site, where the configuration has several.
    #[arg(long)]
    site: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// `tollgate users …`
#[derive(Debug, Subcommand)]
pub enum Users {
    /// List users, newest first.
    List {
        #[command(flatten)]
        common: Common,
        /// Only those whose address or name starts with this.
        #[arg(long)]
        search: Option<String>,
        /// Only those of this organization.
        #[arg(long, conflicts_with = "search")]
        org: Option<String>,
        #[command(flatten)]
        page: PageArguments,
    },
    /// Show one user.
    Show(User),
    /// Give a user another role.
    SetRole {
        #[command(flatten)]
        user: User,
        /// A role of the site's contract.
        role: String,
    },
    /// Refuse a user from now on, sessions and keys included.
    Disable(User),
    /// Let a disabled user in again.
    Enable(User),
}

/// `tollgate orgs …`
#[derive(Debug, Subcommand)]
pub enum Orgs {
    /// List organizations, newest first.
    List {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        page: PageArguments,
    },
    /// Show one organization.
    Show(Org),
    /// Put an organization on another plan.
    SetPlan {
        #[command(flatten)]
        org: Org,
        /// A plan of the site's contract.
        plan: String,
    },
    /// Give an organization windows of its own, in place of its plan's.
    SetLimits {
        #[command(flatten)]
        org: Org,
        /// Windows such as `100/1m 5000/1d`; none: back to the plan's.
        windows: Vec<String>,
    },
    /// Refuse an organization's users and keys from now on.
    Disable(Org),
    /// Let a disabled organization in again.
    Enable(Org),
}

/// `tollgate keys …`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// List an organization's API keys, newest first.
    List {
        #[command(flatten)]
        org: Org,
        #[command(flatten)]
        page: PageArguments,
    },
    /// Revoke an API key, from the next request on.
    Revoke {
        #[command(flatten)]
        org: Org,
        /// The key's id.
        key: String,
    },
}

/// `tollgate sessions …`
#[derive(Debug, Subcommand)]
pub enum Sessions {
    /// List a user's live sessions, newest first.
    List(User),
    /// End one session of a user, or all of them.
    Revoke {
        #[command(flatten)]
        user: User,
        /// The session's id; none: all.
        session: Option<String>,
    },
}

/// One user.
#[derive(Debug, Args)]
pub struct User {
    #[command(flatten)]
    common: Common,
    /// The user's id, e-mail address or sign-in name.
    user: String,
}

/// One organization.
#[derive(Debug, Args)]
pub struct Org {
    #[command(flatten)]
    common: Common,
    /// The organization's id, or the e-mail address of one of its users.
    org: String,
}

/// Which part of a list.
#[derive(Debug, Clone, Args)]
pub struct PageArguments {
    /// How many at most.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Go on after what the last page ended with.
    #[arg(long)]
    after: Option<String>,
}

/// One act, ready to be sent: below `/v1/sites/{site}`.
#[derive(Debug)]
pub struct Act {
    common: Common,
    method: Method,
    path: String,
    body: Option<Value>,
    /// How many rows were asked for, where more of them may follow.
    limit: Option<u32>,
}

impl Act {
    fn new(common: Common, method: Method, path: String) -> Self {
        Self { common, method, path, body: None, limit: None }
    }

    fn list(common: Common, path: &str, page: &PageArguments, others: &[(&str, Option<String>)]) -> Self {
        let path = format!("{path}?{}", query(page, others));
        Self { limit: Some(page.limit), ..Self::new(common, Method::GET, path) }
    }

    fn patch(common: Common, path: String, body: Value) -> Self {
        Self { body: Some(body), ..Self::new(common, Method::PATCH, path) }
    }
}

impl User {
    fn path(&self) -> String {
        format!("/users/{}", encode(&self.user))
    }
}

impl Org {
    fn path(&self) -> String {
        format!("/orgs/{}", encode(&self.org))
    }
}

impl From<Users> for Act {
    fn from(command: Users) -> Self {
        match command {
            Users::List { common, search, org, page } => {
                Self::list(common, "/users", &page, &[("search", search), ("org", org)])
            }
            Users::Show(user) => Self::new(user.common.clone(), Method::GET, user.path()),
            Users::SetRole { user, role } => Self::patch(user.common.clone(), user.path(), json!({ "role": role })),
            Users::Disable(user) => Self::patch(user.common.clone(), user.path(), json!({ "disabled": true })),
            Users::Enable(user) => Self::patch(user.common.clone(), user.path(), json!({ "disabled": false })),
        }
    }
}

impl From<Orgs> for Act {
    fn from(command: Orgs) -> Self {
        match command {
            Orgs::List { common, page } => Self::list(common, "/orgs", &page, &[]),
            Orgs::Show(org) => Self::new(org.common.clone(), Method::GET, org.path()),
            Orgs::SetPlan { org, plan } => Self::patch(org.common.clone(), org.path(), json!({ "plan": plan })),
            Orgs::SetLimits { org, windows } => {
                let limits = if windows.is_empty() { Value::Null } else { json!(windows) };
                Self::patch(org.common.clone(), org.path(), json!({ "limits": limits }))
            }
            Orgs::Disable(org) => Self::patch(org.common.clone(), org.path(), json!({ "disabled": true })),
            Orgs::Enable(org) => Self::patch(org.common.clone(), org.path(), json!({ "disabled": false })),
        }
    }
}

impl From<Keys> for Act {
    fn from(command: Keys) -> Self {
        match command {
            Keys::List { org, page } => {
                let path = format!("{}/keys", org.path());
                Self::list(org.common, &path, &page, &[])
            }
            Keys::Revoke { org, key } => {
                let path = format!("{}/keys/{}", org.path(), encode(&key));
                Self::new(org.common, Method::DELETE, path)
            }
        }
    }
}

impl From<Sessions> for Act {
    fn from(command: Sessions) -> Self {
        match command {
            Sessions::List(user) => {
                let path = format!("{}/sessions", user.path());
                Self::new(user.common, Method::GET, path)
            }
            Sessions::Revoke { user, session } => {
                let one = session.map_or(String::new(), |session| format!("/{}", encode(&session)));
                let path = format!("{}/sessions{one}", user.path());
                Self::new(user.common, Method::DELETE, path)
            }
        }
    }
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

fn query(page: &PageArguments, others: &[(&str, Option<String>)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("limit", &page.limit.to_string());
    let after = ("after", page.after.clone());
    for (name, value) in others.iter().chain([&after]) {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

/// Does the act and prints what came of it.
pub fn run(act: &Act) -> anyhow::Result<ExitCode> {
    let loaded = match super::Reading::to_look().load(&act.common.file.config) {
        Ok(loaded) => loaded,
        Err(errors) => return Ok(super::check::complain(&act.common.file.config, &errors)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let reply = runtime.block_on(perform(act, &loaded))?;
    if reply.status != 200 {
        let said = reply.body.get("error").and_then(Value::as_str).unwrap_or("the gateway refused");
        anyhow::bail!("{said}");
    }
    print(act, &reply.body)?;
    Ok(ExitCode::SUCCESS)
}

async fn perform(act: &Act, loaded: &Loaded) -> anyhow::Result<Reply> {
    let site = match (&act.common.site, &loaded.snapshot.sites[..]) {
        (Some(name), _) => name.clone(),
        (None, [only]) => only.name.clone(),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|site| site.name.as_str()).collect();
            anyhow::bail!("the configuration has several sites; name one with --site: {}", names.join(", "));
        }
    };
    let target = format!("/v1/sites/{}{}", encode(&site), act.path);
    if let Some(reply) = ask_running(loaded, &act.method, &target, act.body.as_ref()).await? {
        return Ok(reply);
    }
    eprintln!("no gateway answers at the admin address: working on the store itself");
    directly(act, loaded, &target).await
}

/// Asks the gateway that runs; `None`: none answers.
pub async fn ask_running(
    loaded: &Loaded,
    method: &Method,
    target: &str,
    body: Option<&Value>,
) -> anyhow::Result<Option<Reply>> {
    let Some(admin) = &loaded.boot.admin else { return Ok(None) };
    let Ok(socket) = tokio::net::TcpStream::connect(reachable(admin.addr)).await else { return Ok(None) };
    let token = admin.token.as_ref().map(|token| token.expose().to_owned());
    let asked = tokio::time::timeout(PATIENCE, ask(socket, method, target, body, token)).await;
    let asked = asked.with_context(|| format!("the admin listener at {} did not answer", admin.addr))?;
    let reply = asked.with_context(|| format!("what listens at {} ([listen] admin) is not a Tollgate", admin.addr))?;
    if reply.status == 401 {
        let shown = match (&admin.token, &admin.token_file) {
            (Some(_), Some(file)) => format!("took the one in `{file}` ([admin] token_file)"),
            (Some(_), None) => "took [admin] token".to_owned(),
            (None, _) => "found none under [admin]".to_owned(),
        };
        anyhow::bail!("the gateway at {} has another operator's token: this command {shown}", admin.addr);
    }
    Ok(Some(reply))
}

/// An address that was bound to every interface is reached on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, v6.port()).into(),
        other => other,
    }
}

async fn ask(
    socket: tokio::net::TcpStream,
    method: &Method,
    target: &str,
    body: Option<&Value>,
    token: Option<String>,
) -> anyhow::Result<Reply> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let driver = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(target).header(HOST, "tollgate-admin");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    driver.abort();
    Ok(Reply { status, body: serde_json::from_slice(&body)? })
}

async fn directly(act: &Act, loaded: &Loaded, target: &str) -> anyhow::Result<Reply> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let now = clock.now();
    let metrics = Arc::new(Metrics::new(now.wall));
    let store = Store::open(&loaded.boot.store, Arc::clone(&metrics), Arc::clone(&clock)).await?;
    let (logs, writer) = log::init(&loaded.boot.log, &Output::Stderr, clock, &metrics)?;
    let actor = Actor::Operator(Door::CommandLine);
    let desk = Desk {
        store: &store,
        sites: &loaded.snapshot.sites,
        forget: &|_| {},
        audit: &|site, act| {
            logs.audit(&Event { time: now.wall, actor, act, site: Some(site), client: None, request_id: None });
        },
        now,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let body = act.body.as_ref().map(Value::to_string).unwrap_or_default();
    let reply = operator::handle(&desk, &act.method, path, query, body.as_bytes()).await;
    store.close().await;
    anyhow::ensure!(writer.finish(PATIENCE), "the audit trail could not be written in time");
    Ok(reply)
}

fn print(act: &Act, body: &Value) -> std::io::Result<()> {
    let list = LISTS.iter().find_map(|name| body.get(name)?.as_array());
    match list {
        Some(rows) if !act.common.json => {
            table(rows)?;
            let full = act.limit.is_some_and(|limit| rows.len() >= limit as usize);
            if let Some(next) = body.get("next").and_then(Value::as_str).filter(|_| full) {
                say!("there may be more: --after {next}");
            }
        }
        _ => say!("{body:#}"),
    }
    Ok(())
}

fn table(rows: &[Value]) -> std::io::Result<()> {
    let Some(first) = rows.first().and_then(Value::as_object) else {
        say!("none");
        return Ok(());
    };
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_BORDERS_ONLY);
    table.set_header(first.keys());
    for row in rows {
        table.add_row(first.keys().map(|column| match row.get(column) {
            None | Some(Value::Null) => "-".to_owned(),
            Some(Value::String(text)) => text.escape_debug().to_string(),
            Some(other) => other.to_string(),
        }));
    }
    say!("{table}");
    Ok(())
}
