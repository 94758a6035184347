//! A small SMTP server that does as it is told, and remembers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::Tls;

/// Where the server does something else than what is usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Greeting,
    Ehlo,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    /// After the whole mail came.
    Content,
    /// In the middle of the mail.
    MidContent,
    /// After the mail was taken and answered.
    Taken,
    Noop,
    Quit,
}

/// What it does instead.
#[derive(Clone, Copy, Debug)]
pub enum Twist {
    /// Answers this; lines end by themselves.
    Say(&'static str),
    /// Answers this and closes.
    SayAndDrop(&'static str),
    /// Answers nothing, for good.
    Hang,
    /// Closes without an answer.
    Drop,
    /// Answers as usual, but late.
    Late(Duration),
}

/// What the server is like.
#[derive(Clone)]
pub struct Plan {
    pub tls: Tls,
    pub certificate: Option<Arc<Identity>>,
    pub features: Vec<&'static str>,
    pub login: Option<(&'static str, &'static str)>,
    /// What happens where, and how often (the first that fits is used up).
    pub twists: Vec<(At, Twist, usize)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { tls: Tls::None, certificate: None, features: vec!["8BITMIME"], login: None, twists: Vec::new() }
    }
}

impl Plan {
    pub fn twisted(at: At, twist: Twist, times: usize) -> Self {
        Self { twists: vec![(at, twist, times)], ..Self::default() }
    }
}

/// A certificate for a name, signed by an authority of its own.
pub struct Identity {
    /// The authority, in PEM.
    pub authority: String,
    acceptor: TlsAcceptor,
}

impl Identity {
    pub fn of(name: &str) -> Arc<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let authority_key = KeyPair::generate().unwrap();
        let authority = params.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(params, authority_key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        Arc::new(Self { authority: authority.pem(), acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}

/// A mail that was answered with a 250.
#[derive(Clone, Debug)]
pub struct Taken {
    pub from: String,
    pub to: String,
    pub text: String,
    pub encrypted: bool,
    pub signed_in: bool,
}

/// What the server has seen.
#[derive(Default)]
pub struct Seen {
    commands: Mutex<Vec<String>>,
    mails: Mutex<Vec<Taken>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

/// The running server; it ends with this.
pub struct Server {
    pub port: u16,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start(plan: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, plan)
    }

    pub fn on(listener: TcpListener, plan: Plan) -> Self {
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let twists = Arc::new(Mutex::new(plan.twists.clone()));
        let (plan, shared) = (Arc::new(plan), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let mut talks = tokio::task::JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let talk = Talk { plan: Arc::clone(&plan), twists: Arc::clone(&twists), seen: Arc::clone(&shared) };
                talks.spawn(talk.serve(socket));
            }
        });
        Self { port, seen, task }
    }

    pub fn mails(&self) -> Vec<Taken> {
        self.seen.mails.lock().unwrap().clone()
    }

    /// Every command of every connection, as it came.
    pub fn commands(&self) -> Vec<String> {
        self.seen.commands.lock().unwrap().clone()
    }

    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    pub fn most_open(&self) -> usize {
        self.seen.most_open.load(Ordering::SeqCst)
    }
}

struct Talk {
    plan: Arc<Plan>,
    twists: Arc<Mutex<Vec<(At, Twist, usize)>>>,
    seen: Arc<Seen>,
}

/// The connection is over.
struct Over;
type Step<T> = Result<T, Over>;

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}
type Stream = BufReader<Box<dyn Wire>>;

impl Talk {
    async fn serve(self, socket: TcpStream) {
        self.seen.connections.fetch_add(1, Ordering::SeqCst);
        let open = self.seen.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.seen.most_open.fetch_max(open, Ordering::SeqCst);
        let _over = self.talk(socket).await;
        self.seen.open.fetch_sub(1, Ordering::SeqCst);
    }

    async fn talk(&self, socket: TcpStream) -> Step<()> {
        let mut encrypted = self.plan.tls == Tls::Implicit;
        let mut stream: Stream = BufReader::new(Box::new(socket));
        if encrypted {
            stream = self.encrypt(stream).await?;
        }
        self.answer(&mut stream, At::Greeting, "220 mail.test ready").await?;
        let (mut signed_in, mut from, mut to) = (false, String::new(), String::new());
        loop {
            let line = self.line(&mut stream).await?;
            self.seen.commands.lock().unwrap().push(line.clone());
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => self.answer(&mut stream, At::Ehlo, &self.hello(encrypted)).await?,
                "STARTTLS" => {
                    self.answer(&mut stream, At::StartTls, "220 go ahead").await?;
                    stream = self.encrypt(stream).await?;
                    encrypted = true;
                }
                "AUTH" => {
                    signed_in = self.is_login(&line);
                    let answer = if signed_in { "235 2.7.0 welcome" } else { "535 5.7.8 no, AHVzZXIAcGFzcw==" };
                    self.answer(&mut stream, At::Auth, answer).await?;
                }
                "MAIL" if self.plan.login.is_some() && !signed_in => {
                    self.answer(&mut stream, At::Mail, "530 5.7.0 sign in first").await?;
                }
                "MAIL" => {
                    from.clone_from(&line);
                    self.answer(&mut stream, At::Mail, "250 2.1.0 ok").await?;
                }
                "RCPT" => {
                    to.clone_from(&line);
                    self.answer(&mut stream, At::Rcpt, "250 2.1.5 ok").await?;
                }
                "DATA" => {
                    self.answer(&mut stream, At::Data, "354 go on").await?;
                    let text = self.content(&mut stream).await?;
                    let taken = Taken { from: from.clone(), to: to.clone(), text, encrypted, signed_in };
                    self.take(&mut stream, taken).await?;
                }
                "NOOP" => self.answer(&mut stream, At::Noop, "250 2.0.0 ok").await?,
                "QUIT" => {
                    self.answer(&mut stream, At::Quit, "221 2.0.0 bye").await?;
                    return Err(Over);
                }
                _ => self.say(&mut stream, "500 5.5.1 what?").await?,
            }
        }
    }

    fn hello(&self, encrypted: bool) -> String {
        let mut lines = vec!["mail.test"];
        if self.plan.tls == Tls::StartTls && !encrypted {
            lines.push("STARTTLS");
        }
        if self.plan.login.is_some() && (encrypted || self.plan.tls == Tls::None) {
            lines.push("AUTH PLAIN");
        }
        lines.extend(&self.plan.features);
        let last = lines.pop().unwrap();
        let mut hello = String::new();
        for line in lines {
            hello.extend(["250-", line, "\r\n"]);
        }
        hello + "250 " + last
    }

    fn is_login(&self, line: &str) -> bool {
        let said = line.strip_prefix("AUTH PLAIN ").and_then(|code| BASE64_STANDARD.decode(code).ok());
        self.plan.login.is_some_and(|(user, password)| said == Some(format!("\0{user}\0{password}").into_bytes()))
    }

    /// The mail's lines up to the dot, without the dots that were added.
    async fn content(&self, stream: &mut Stream) -> Step<String> {
        if let Some(twist) = self.twist(At::MidContent) {
            self.line(stream).await?;
            self.act(stream, twist, "").await?;
        }
        let mut text = String::new();
        loop {
            let line = self.line(stream).await?;
            match line.strip_prefix('.') {
                Some("") => return Ok(text),
                Some(rest) => text.push_str(rest),
                None => text.push_str(&line),
            }
            text.push_str("\r\n");
        }
    }

    async fn take(&self, stream: &mut Stream, taken: Taken) -> Step<()> {
        match self.twist(At::Content) {
            Some(twist @ Twist::Late(_)) => self.act(stream, twist, "").await?,
            Some(twist) => return self.act(stream, twist, "").await,
            None => {}
        }
        self.seen.mails.lock().unwrap().push(taken);
        self.say(stream, "250 2.0.0 taken").await?;
        match self.twist(At::Taken) {
            Some(twist) => self.act(stream, twist, "").await,
            None => Ok(()),
        }
    }

    async fn answer(&self, stream: &mut Stream, at: At, usual: &str) -> Step<()> {
        match self.twist(at) {
            Some(twist) => self.act(stream, twist, usual).await,
            None => self.say(stream, usual).await,
        }
    }

    fn twist(&self, at: At) -> Option<Twist> {
        let mut twists = self.twists.lock().unwrap();
        let (_, twist, left) = twists.iter_mut().find(|(place, _, left)| *place == at && *left > 0)?;
        *left -= 1;
        Some(*twist)
    }

    async fn act(&self, stream: &mut Stream, twist: Twist, usual: &str) -> Step<()> {
        match twist {
            Twist::Say(answer) => self.say(stream, answer).await,
            Twist::SayAndDrop(answer) => {
                self.say(stream, answer).await?;
                Err(Over)
            }
            Twist::Hang => std::future::pending().await,
            Twist::Drop => Err(Over),
            Twist::Late(time) => {
                tokio::time::sleep(time).await;
                if usual.is_empty() { Ok(()) } else { self.say(stream, usual).await }
            }
        }
    }

    async fn say(&self, stream: &mut Stream, answer: &str) -> Step<()> {
        // One write, one segment: what a reader may find together, it finds together.
        stream.get_mut().write_all(format!("{answer}\r\n").as_bytes()).await.map_err(|_| Over)?;
        stream.get_mut().flush().await.map_err(|_| Over)
    }

    async fn line(&self, stream: &mut Stream) -> Step<String> {
        let mut line = String::new();
        match stream.read_line(&mut line).await {
            Ok(read) if read > 0 => {
                let line = line.strip_suffix("\r\n");
                Ok(line.expect("every line ends in CRLF").to_owned())
            }
            _ => Err(Over),
        }
    }

    async fn encrypt(&self, stream: Stream) -> Step<Stream> {
        assert!(stream.buffer().is_empty(), "the client spoke before the handshake");
        let identity = self.plan.certificate.as_ref().expect("a plan with TLS has a certificate");
        let stream = identity.acceptor.accept(stream.into_inner()).await.map_err(|_| Over)?;
        Ok(BufReader::new(Box::new(stream)))
    }
}
