//! `tollgate demo --tour`: the whole story, played against the running gateway over TLS, each step checked.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::say;
use crate::app::Running;
use crate::model::entropy::{Entropy, SystemEntropy};
use crate::model::secret::Secret;

/// Plays the tour; an error is a step that was not as it should be.
pub async fn play(running: &Running, authority: &Path, admin_token: Option<&Secret>) -> anyhow::Result<()> {
    let mut tour = Tour::new(running, authority, admin_token)?;
    let mut tag = [0_u8; 4];
    SystemEntropy.fill(&mut tag);
    let email = format!("tour-{:08x}@example.com", u32::from_be_bytes(tag));
    let password = "correct horse battery staple";

    tour.step("Make an account")?;
    let made = tour
        .post("/api/v1/auth/register", None, json!({ "email": email, "password": password, "name": "Tour Guide" }))
        .await?;
    made.is(201)?;
    let org = made.text("/org_id")?;

    tour.step("Sign in")?;
    let signed_in = tour.post("/api/v1/auth/login", None, json!({ "email": email, "password": password })).await?;
    signed_in.is(200)?;
    let token = format!("Bearer {}", signed_in.text("/access_token")?);

    tour.step("A wrong password is refused, and so is a request without a credential")?;
    tour.post("/api/v1/auth/login", None, json!({ "email": email, "password": "a guess" })).await?.is(401)?;
    tour.get("/api/v1/posts", None).await?.is(401)?;

    tour.step("Call the backend: it sees who is asking, and not the token")?;
    let forwarded = tour.get("/api/v1/posts?page=1", Some(&token)).await?;
    forwarded.is(200)?;
    for header in ["x-user-id", "x-user-email", "x-org-id", "x-user-role", "x-plan", "x-session-id", "x-request-id"] {
        say!("    backend saw {header}: {}", forwarded.text(&format!("/headers/{header}"))?);
    }
    ensure!(forwarded.body.pointer("/headers/authorization").is_none(), "the backend saw the credential");
    ensure!(forwarded.text("/headers/x-org-id")? == org, "the backend saw another organization");

    tour.step("Make an API key that may read posts")?;
    let wanted = json!({ "name": "tour", "description": "made by the tour", "permissions": ["read:posts"] });
    let key = tour.post("/api/v1/api-keys", Some(&token), wanted).await?;
    key.is(201)?;
    let key = format!("ApiKey {}", key.text("/key")?);

    tour.step("Use it: reading passes, writing does not")?;
    let read = tour.get("/api/v1/posts", Some(&key)).await?;
    read.is(200)?;
    say!("    backend saw x-auth-method: {}", read.text("/headers/x-auth-method")?);
    let refused = tour.post("/api/v1/posts", Some(&key), json!({ "title": "hello" })).await?;
    refused.is(403)?;
    ensure!(refused.text("/error")? == "insufficient_permissions", "refused for another reason");

    tour.step("The operator changes the plan: it counts from the next request on")?;
    say!("    X-RateLimit-Limit is {}", read.header("x-ratelimit-limit")?);
    tour.operate(&format!("/orgs/{org}"), json!({ "plan": "growth" })).await?;
    let grown = tour.get("/api/v1/posts", Some(&token)).await?;
    grown.is(200)?;
    ensure!(grown.header("x-ratelimit-limit")? == "1000", "the new plan does not count");
    say!("    X-RateLimit-Limit is {}", grown.header("x-ratelimit-limit")?);

    tour.step("The operator gives the organization a window of its own, and it fills")?;
    let spent = 1000 - grown.header("x-ratelimit-remaining")?.parse::<u32>()?;
    let room = 2;
    tour.operate(&format!("/orgs/{org}"), json!({ "limits": [format!("{}/1h", spent + room)] })).await?;
    for _ in 0..room {
        tour.get("/api/v1/posts", Some(&token)).await?.is(200)?;
    }
    let limited = tour.get("/api/v1/posts", Some(&token)).await?;
    limited.is(429)?;
    for header in ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after"] {
        say!("    {header}: {}", limited.header(header)?);
    }
    say!("\nEvery step was as it should be.");
    Ok(())
}

struct Tour {
    connector: tokio_rustls::TlsConnector,
    https: std::net::SocketAddr,
    admin: std::net::SocketAddr,
    admin_token: String,
    site: String,
    steps: u32,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn is(&self, status: u16) -> anyhow::Result<()> {
        ensure!(self.status == status, "expected {status}, got {}: {}", self.status, self.body);
        Ok(())
    }

    fn text(&self, pointer: &str) -> anyhow::Result<&str> {
        self.body.pointer(pointer).and_then(Value::as_str).with_context(|| format!("no {pointer} in {}", self.body))
    }

    fn header(&self, name: &str) -> anyhow::Result<&str> {
        let value = self.headers.get(name).with_context(|| format!("the answer has no {name}"))?;
        Ok(value.to_str()?)
    }
}

impl Tour {
    fn new(running: &Running, authority: &Path, admin_token: Option<&Secret>) -> anyhow::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authority)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            connector: Arc::new(config).into(),
            https: running.https.context("the demo listens for https")?,
            admin: running.admin.context("the demo has an admin listener")?,
            admin_token: admin_token.context("the demo has an admin token")?.expose().to_owned(),
            site: running.gateway.live().sites.first().context("the demo has a site")?.site.name.clone(),
            steps: 0,
        })
    }

    fn step(&mut self, title: &str) -> std::io::Result<()> {
        self.steps += 1;
        say!("\n{}. {title}", self.steps);
        Ok(())
    }

    async fn get(&self, path: &str, credential: Option<&str>) -> anyhow::Result<Answer> {
        self.ask("GET", path, credential, None).await
    }

    async fn post(&self, path: &str, credential: Option<&str>, body: Value) -> anyhow::Result<Answer> {
        self.ask("POST", path, credential, Some(body)).await
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        credential: Option<&str>,
        body: Option<Value>,
    ) -> anyhow::Result<Answer> {
        let socket = TcpStream::connect(self.https).await?;
        let name = ServerName::try_from("localhost").expect("localhost is a name");
        let stream = self.connector.connect(name, socket).await.context("the TLS handshake failed")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        if let Some(credential) = credential {
            request = request.header(AUTHORIZATION, credential);
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = request.header(CONTENT_TYPE, "application/json").body(Full::new(Bytes::from(body)))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        driver.abort();
        let shown = credential.map_or("no credential", |text| text.split(' ').next().unwrap_or(""));
        say!("    {method} {path} ({shown}) -> {}", head.status);
        let body = serde_json::from_slice(&body).with_context(|| format!("the answer to {path} is not JSON"))?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// One act of the operator, over the admin listener.
    async fn operate(&self, resource: &str, change: Value) -> anyhow::Result<()> {
        let path = format!("/v1/sites/{}{resource}", self.site);
        let socket = TcpStream::connect(self.admin).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        let driver = tokio::spawn(connection);
        let request = Request::patch(&path)
            .header(HOST, "admin")
            .header(AUTHORIZATION, format!("Bearer {}", self.admin_token))
            .body(Full::new(Bytes::from(change.to_string())))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        driver.abort();
        say!("    operator: PATCH {path} {change} -> {status}");
        if !status.is_success() {
            bail!("the operator was refused: {}", String::from_utf8_lossy(&body));
        }
        Ok(())
    }
}
