//! What the tests of clients' certificates stand on: authorities made here, and a gateway with four sites over real TLS.
//!
//! `open.test` asks for nothing, `strict.test` (with `*.strict.test` and the address) requires a certificate of one
//! authority, `other.test` one of another, `maybe.test` verifies what is shown.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tollgate::app::{self, Parts, Running};
use tollgate::config;
use tollgate::contract::source::Located;
use tollgate::model::entropy::SystemEntropy;
use tollgate::model::time::{Clock, SystemClock, TestClock};
use tollgate::observe::log::LogWriter;
use tollgate::observe::metrics::Metrics;

use super::backend::Backend;
use super::client::{Answer, Client};
use super::harness::ADMIN_TOKEN;
use super::sockets::{Memory, Sockets, within};

pub const PATH: &str = "/api/v1/open/a";
pub const HOUR: Duration = Duration::from_hours(1);
pub const DAY: Duration = Duration::from_hours(24);
pub const CLIENT: ExtendedKeyUsagePurpose = ExtendedKeyUsagePurpose::ClientAuth;
pub const SUBJECT: &str = "x-client-cert-subject";
pub const FINGERPRINT: &str = "x-client-cert-fingerprint";
pub const NAMES: &str = "x-client-cert-names";
pub const BOTH: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Somebody who issues certificates.
pub struct Ca {
    pub pem: String,
    pub issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
pub struct Identity {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// From now on.
pub fn params(name: &str, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let wall = SystemClock::new().now().wall;
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(wall.millis().unsigned_abs());
    (params.not_before, params.not_after) = ((now - HOUR).into(), (now + life).into());
    params
}

pub fn ca(name: &str) -> Ca {
    ca_for(name, 30 * DAY)
}

pub fn ca_for(name: &str, life: Duration) -> Ca {
    let mut params = params(name, life);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a key");
    let pem = params.self_signed(&key).expect("a certificate").pem();
    Ca { pem, issuer: Issuer::new(params, key) }
}

impl Ca {
    pub fn issue(&self, mut params: CertificateParams, purpose: &[ExtendedKeyUsagePurpose]) -> Identity {
        params.extended_key_usages = purpose.to_vec();
        let key = KeyPair::generate().expect("a key");
        identity(&params.signed_by(&key, &self.issuer).expect("a certificate"), &key)
    }

    pub fn client(&self, name: &str) -> Identity {
        self.issue(params(name, DAY), &[CLIENT])
    }

    /// Its list of those it takes back.
    pub fn list(&self, serials: &[u64]) -> String {
        self.list_during(serials, &params("", DAY))
    }

    /// The same, good for as long as a certificate of these `params`.
    pub fn list_during(&self, serials: &[u64], params: &CertificateParams) -> String {
        let (this_update, next_update) = (params.not_before, params.not_after);
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).expect("a list").pem().expect("PEM")
    }
}

pub fn identity(certificate: &Certificate, key: &KeyPair) -> Identity {
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    Identity { chain: vec![certificate.der().clone()], key }
}

/// A gateway with those four sites.
pub struct World {
    pub running: Option<Running>,
    pub backend: Backend,
    pub sockets: Sockets,
    pub folder: TempDir,
    pub one: Ca,
    pub other: Ca,
    pub clock: Arc<TestClock>,
    pub log: Memory,
    _writer: LogWriter,
    pub https: SocketAddr,
    pub plain: SocketAddr,
    pub admin: Client,
    /// Every connection begins with a PROXY header.
    pub proxied: bool,
}

impl World {
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// With more lines in `[listen]`.
    pub async fn with(listen: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (ca("One Clients"), ca("Other Clients"));
        std::fs::write(folder.path().join("one.pem"), &one.pem).expect("a file");
        std::fs::write(folder.path().join("other.pem"), &other.pem).expect("a file");
        let (backend, sockets) = (Backend::start().await, Sockets::start(&[]).await);
        let clock = Arc::new(TestClock::at(SystemClock::new().now().wall));
        let log = Memory::default();
        let (logs, writer) = log.open();
        let text = toml(folder.path(), &backend.url(), sockets.address, listen, &Asked::default());
        let metrics = Arc::new(Metrics::new(clock.now().wall));
        let parts = Parts { clock: Arc::clone(&clock) as _, entropy: Arc::new(SystemEntropy), metrics, logs };
        let running = app::start(loaded(&text, 1).expect("it is good"), parts).await.expect("it starts");
        let (https, plain) = (running.https.expect("https"), running.http.expect("http"));
        let admin = Client { address: running.admin.expect("admin"), host: "admin".into(), tls: None };
        let (running, proxied) = (Some(running), listen.contains("proxy_protocol"));
        Self {
            running,
            backend,
            sockets,
            folder,
            one,
            other,
            clock,
            log,
            _writer: writer,
            https,
            plain,
            admin,
            proxied,
        }
    }

    /// Has the configuration read again, with another thing asked.
    pub fn reload(&self, asked: &Asked<'_>) -> Result<(), String> {
        let running = self.running.as_ref().expect("it runs");
        let generation = running.gateway.live().snapshot.generation + 1;
        let text = toml(self.folder.path(), &self.backend.url(), self.sockets.address, "", asked);
        let read = loaded(&text, generation);
        let outcome = match &read {
            Ok(_) => Ok(()),
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect::<String>()),
        };
        running.take(read);
        outcome
    }

    pub fn path(&self, file: &str) -> String {
        self.folder.path().join(file).display().to_string()
    }

    /// A client that trusts the gateway, and shows `identity` where it is asked.
    pub fn config(&self, identity: Option<&Identity>, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("certs/ca.pem")).expect("a file")).expect("an authority");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
        let builder = builder.with_root_certificates(roots);
        match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { chain, key }) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key()).expect("an identity")
            }
        }
    }

    pub async fn socket(&self, address: SocketAddr) -> TcpStream {
        let mut socket = TcpStream::connect(address).await.expect("the gateway accepts");
        socket.set_nodelay(true).expect("a socket option");
        if self.proxied {
            socket.write_all(b"PROXY TCP4 192.0.2.7 192.0.2.8 4711 443\r\n").await.expect("the gateway reads");
        }
        socket
    }

    /// A handshake that asks for `name`.
    pub async fn shake(&self, config: ClientConfig, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        self.shake_on(config, name, self.socket(self.https).await).await
    }

    pub async fn shake_on<S>(&self, config: ClientConfig, name: &str, socket: S) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        within(TlsConnector::from(Arc::new(config)).connect(name, socket)).await
    }

    /// A connection that asks for `name` and shows `identity`.
    pub async fn line(&self, identity: Option<&Identity>, name: &str, http2: bool) -> Line {
        let mut config = self.config(identity, BOTH);
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Line::over(self.shake(config, name).await.expect("a handshake"), http2).await
    }

    /// The status for a request to the host that the connection asked for.
    pub async fn status(&self, identity: Option<&Identity>, name: &str) -> StatusCode {
        self.line(identity, name, false).await.get(name).await.expect("an answer").status
    }

    /// How a client is turned away.
    pub async fn turned_away(&self, config: ClientConfig, name: &str) -> String {
        match self.shake(config, name).await {
            Ok(stream) => alert(stream, name).await,
            Err(error) => error.to_string(),
        }
    }

    pub async fn refused(&self, identity: Option<&Identity>, name: &str) -> String {
        let of_13 = self.turned_away(self.config(identity, &[&TLS13]), name).await;
        let of_12 = self.turned_away(self.config(identity, &[&TLS12]), name).await;
        assert_eq!(of_13, of_12, "both versions say the same");
        of_13
    }

    pub async fn metric(&self, line: &str) -> u64 {
        let text = self.admin.get("/metrics").send().await.text();
        text.lines().find_map(|own| own.strip_prefix(line)?.trim().parse().ok()).unwrap_or_default()
    }

    pub async fn handshakes(&self, outcome: &str) -> u64 {
        self.metric(&format!("tollgate_tls_handshakes_total{{outcome=\"{outcome}\",version=\"none\"}}")).await
    }

    /// Waits until so many have come to that: a client may read its refusal before it is counted.
    pub async fn count_to(&self, outcome: &str, wanted: u64) {
        let mut counted = 0;
        for _ in 0..200 {
            counted = self.handshakes(outcome).await;
            if counted >= wanted {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert_eq!(counted, wanted, "{outcome}");
    }

    pub async fn explained(&self, host: &str, tls: bool) -> Value {
        let body = json!({ "method": "GET", "target": PATH, "headers": [["host", host]], "tls": tls });
        self.admin.post("/v1/explain", &body).bearer(ADMIN_TOKEN).send().await.json()
    }
}

/// Sends a request, as clients of TLS 1.3 do that do not know yet that they were refused; what they are told.
pub async fn alert<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, host: &str) -> String {
    let request = format!("GET {PATH} HTTP/1.1\r\nhost: {host}\r\n\r\n");
    let sent = stream.write_all(request.as_bytes()).await;
    let mut byte = [0];
    match sent.and(within(stream.read_exact(&mut byte)).await.map(drop)) {
        Ok(()) => "let in".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// A connection that speaks HTTP.
pub enum Line {
    One(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Two(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Line {
    pub async fn over<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S, http2: bool) -> Self {
        if http2 {
            let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
            let (sender, connection) = handshake.await.expect("a connection");
            tokio::spawn(connection);
            Self::Two(sender)
        } else {
            let (sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
            tokio::spawn(connection);
            Self::One(sender)
        }
    }

    pub async fn get(&mut self, host: &str) -> Result<Answer, String> {
        self.ask(host, PATH, &[]).await
    }

    pub async fn ask(&mut self, host: &str, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        let mut request = match self {
            Self::One(_) => Request::get(path).header("host", host),
            Self::Two(_) => Request::get(format!("https://{host}{path}")),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new()).expect("a request");
        let answer = match self {
            Self::One(sender) => within(sender.send_request(request)).await,
            Self::Two(sender) => within(sender.send_request(request)).await,
        };
        let (head, body) = answer.map_err(|error| format!("{error:?}"))?.into_parts();
        let body = within(body.collect()).await.map_err(|error| format!("{error:?}"))?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    /// Whether the gateway has ended it.
    pub async fn ends(&mut self) {
        let gone = async {
            loop {
                let closed = match self {
                    Self::One(sender) => sender.is_closed(),
                    Self::Two(sender) => sender.is_closed(),
                };
                if closed {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(gone).await;
    }
}

/// What the strict site asks, and what the open one does.
pub struct Asked<'a> {
    pub strict: Option<&'a str>,
    pub open: Option<&'a str>,
    pub lists: Option<&'a str>,
}

impl Default for Asked<'_> {
    fn default() -> Self {
        Self { strict: Some("one.pem"), open: None, lists: None }
    }
}

pub fn loaded(text: &str, generation: u64) -> Result<config::Loaded, Vec<Located>> {
    let env = BTreeMap::new();
    let inputs = config::Inputs { env: &env, flags: &[], entropy: &SystemEntropy, write: true, generation, kept: None };
    config::load_text("test.toml", text, &inputs)
}

pub fn toml(folder: &Path, backend: &str, live: SocketAddr, listen: &str, asked: &Asked<'_>) -> String {
    let folder = folder.display();
    let certificates = |file: Option<&str>, more: &str| {
        file.map_or_else(String::new, |file| {
            format!("[site.client_certificates]\nauthorities = \"{folder}/{file}\"\n{more}\n")
        })
    };
    let lists = asked.lists.map_or_else(String::new, |file| format!("revocation_lists = \"{folder}/{file}\""));
    let sites = [
        ("open", "\"open.test\"", certificates(asked.open, "")),
        ("strict", "\"strict.test\", \"*.strict.test\", \"127.0.0.1\"", certificates(asked.strict, &lists)),
        ("other", "\"other.test\"", certificates(Some("other.pem"), "")),
        ("maybe", "\"maybe.test\"", certificates(Some("one.pem"), "required = false")),
    ];
    let sites: Vec<String> = sites
        .iter()
        .map(|(name, hosts, certificates)| {
            format!(
                "[[site]]\nname = \"{name}\"\ncontract = \"vantage\"\nhosts = [{hosts}]\n\
                 [site.tokens]\nkeys = [{{ kid = \"1\", algorithm = \"HS256\", \
                 secret_file = \"{folder}/tokens-{name}\", generate = true }}]\n{certificates}\
                 [site.upstream.app]\nservers = [\"{backend}\"]\n[site.upstream.live]\nservers = [\"http://{live}\"]\n\
                 [[site.route]]\nmatch = \"GET /api/v1/open/{{*rest}}\"\npublic = true\nupstream = \"app\"\n\
                 [[site.route]]\nmatch = \"GET /api/v1/live\"\npublic = true\nupstream = \"live\"\n\
                 [[site.route]]\nmatch = \"* /api/v1/{{*rest}}\"\nupstream = \"app\"\n"
            )
        })
        .collect();
    format!(
        "[listen]\nhttps = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n{listen}\n\
         [admin]\ntoken = \"{ADMIN_TOKEN}\"\n[tls]\ndevelopment = true\ndirectory = \"{folder}/certs\"\n\
         [store]\nurl = \"sqlite://{folder}/store/tollgate.db\"\n\
         [network]\ntrusted_proxies = [\"127.0.0.1\"]\n{}",
        sites.concat()
    )
}

pub fn told_to(world: &World) -> [Vec<String>; 3] {
    let seen = world.backend.last();
    [SUBJECT, FINGERPRINT, NAMES].map(|name| seen.all(name).into_iter().map(str::to_owned).collect())
}

pub const NOTHING: [Vec<String>; 3] = [Vec::new(), Vec::new(), Vec::new()];
