//! One request, from its head to the end of its answer.
//!
//! [`handle`] is the whole path in straight code. [`Exchange`] is what the stages learn on the way: later
//! stages, the answer's headers and the access log read it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Method, Response};

use super::authenticate::Accepted;
use super::connection::Connection;
use super::observe::{Observed, Record};
use super::throttle::Rates;
use super::trace::Trace;
use super::tunnel::Tunnel;
use super::{agent, authenticate, authorize, cors, forward, grpc, intake, native, observe, respond, route, throttle};
use crate::gateway::{Gateway, Live, LiveSite};
use crate::limit::{Charge, LimitError, Verdict};
use crate::model::principal::Principal;
use crate::model::refusal::Refusal;
use crate::model::time::Now;
use crate::observe::access::Shadow;
use crate::observe::metrics::Held;
use crate::upstream::body::Body;
use crate::upstream::leftover::Arriving;

/// What is known of a request so far.
#[derive(Debug)]
pub struct Exchange {
    /// The gateway that serves it.
    pub gateway: Arc<Gateway>,
    /// The configuration in force when it arrived; a reload does not change it under way.
    pub live: Arc<Live>,
    /// The connection it came on.
    pub connection: Arc<Connection>,
    /// When it arrived: the only reading of the clock that decisions use.
    pub now: Now,
    /// Its id, in the log, towards the backend and in the answer.
    pub request_id: HeaderValue,
    /// Its place in a trace; `None`: the gateway takes no part in traces.
    pub trace: Option<Trace>,
    /// Who sent it: the peer, or what trusted proxies say of it.
    pub client: IpAddr,
    /// How it came to the outermost trusted proxy, or here.
    pub way: Way,
    /// What the page of another origin that asks is told to be; `None`: nothing.
    pub origin: Option<HeaderValue>,
    /// Its method.
    pub method: Method,
    /// Its canonical path; empty until `intake` has found it sound.
    pub path: String,
    /// The site it is for.
    pub site: Option<Arc<LiveSite>>,
    /// The route or operation that took it, as configured.
    pub route: Option<Arc<str>>,
    /// Who sent it, once verified.
    pub principal: Option<Arc<Principal>>,
    /// What its windows hold, once asked.
    pub rates: Option<Rates>,
    /// What is only tried and would have refused it.
    pub shadow: Vec<Shadow>,
    /// The upstream it went to.
    pub upstream: Option<Arc<str>>,
    /// The server of it that was asked last, as the configuration writes it.
    pub server: Option<Arc<str>>,
    /// Bytes of its body that were taken so far.
    pub received: Arc<AtomicU64>,
    /// The credential it was let in by, for asking again while its answer lasts.
    pub credential: Option<Accepted>,
    /// The WebSocket that its answer opens.
    pub tunnel: Option<Tunnel>,
    /// Whether a credential was presented (for `WWW-Authenticate`).
    pub presented: bool,
    /// Whether it is a gRPC call, which reads refusals elsewhere than other requests.
    pub grpc: bool,
    /// It is only imagined ([`super::explain`]): decided on as any other, and nothing is spent or noted for it.
    pub imagined: bool,
    /// Counts it as being served by its site.
    pub held: Option<Held>,
}

/// What a backend is told of the way a request came, beside the client's address.
#[derive(Debug, Clone)]
pub struct Way {
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The host that a trusted proxy was asked for, where it says so.
    pub host: Option<HeaderValue>,
}

impl Default for Way {
    fn default() -> Self {
        Self { scheme: "http", host: None }
    }
}

/// Serves one request. Whatever happens, there is an answer.
pub async fn handle(
    gateway: &Arc<Gateway>,
    connection: &Arc<Connection>,
    head: &mut Parts,
    body: Arriving,
) -> Response<Observed> {
    // From here on it is counted and logged, also where its client leaves before there is an answer.
    let mut record = Record::begin(gateway, connection, head.method.clone());
    let exchange = &mut record.exchange;
    // Over HTTP/1.1 there is none: its clients are told nothing by trailers, and take what has an end for whole.
    exchange.grpc = connection.is_http2() && grpc::is_call(&head.headers);
    let outcome = run(exchange, head, body).await;
    let (mut answer, told) = match outcome {
        Ok(answer) => (answer, None),
        Err(refusal) => Box::pin(respond::refuse(exchange, refusal)).await,
    };
    respond::complete(exchange, &mut answer);
    observe::observe(record, answer, told)
}

async fn run(exchange: &mut Exchange, head: &mut Parts, body: Arriving) -> Result<Response<Body>, Refusal> {
    intake::take(exchange, head)?;
    if let Some(answer) = cors::preflight(exchange, head) {
        return Ok(answer);
    }
    // In a block: what is not needed any more must not take room in the future while a backend is waited for.
    let permit = {
        let target = route::find(exchange)?;
        if agent::is_one(exchange, &target, head)? {
            return agent::invite(exchange, head);
        }
        authenticate::authenticate(exchange, &head.headers, &target).await?;
        authorize::authorize(exchange, target)?
    };
    throttle::admit(exchange, &permit).await?;
    match permit {
        // Boxed: no request to a backend should carry the room for a sign-in.
        authorize::Permit::Native(permit) => Box::pin(native::serve(exchange, permit, head, body)).await,
        authorize::Permit::Forward(ref permit) => forward::forward(exchange, permit, head, body).await,
        authorize::Permit::KeySet => Ok(native::key_set(exchange)),
    }
}

impl Exchange {
    /// Nothing known yet but when, where and how it came.
    pub fn begin(gateway: &Arc<Gateway>, connection: &Arc<Connection>, method: Method) -> Self {
        let now = gateway.clock.now();
        Self {
            gateway: Arc::clone(gateway),
            live: gateway.live(),
            connection: Arc::clone(connection),
            now,
            request_id: gateway.request_id(),
            trace: None,
            client: connection.client(),
            way: Way::default(),
            origin: None,
            method,
            path: String::new(),
            site: None,
            route: None,
            principal: None,
            rates: None,
            shadow: Vec::new(),
            upstream: None,
            server: None,
            received: Arc::default(),
            credential: None,
            tunnel: None,
            presented: false,
            grpc: false,
            imagined: false,
            held: None,
        }
    }

    /// Asks the limiter, and spends.
    pub async fn charge(&self, charges: &[Charge<'_>]) -> Result<Verdict, LimitError> {
        let limiter = &self.gateway.limiter;
        if self.imagined {
            return Box::pin(limiter.foresee(charges, self.now)).await;
        }
        limiter.admit(charges, self.now).await
    }

    /// The same, and of the windows that are only tried where those that hold have room; `None`: they were not asked.
    pub async fn charge_with(
        &self,
        charges: &[Charge<'_>],
        tried: &[Charge<'_>],
    ) -> Result<(Verdict, Option<Verdict>), LimitError> {
        let limiter = &self.gateway.limiter;
        if !self.imagined {
            return limiter.admit_with(charges, tried, self.now).await;
        }
        let verdict = limiter.foresee(charges, self.now).await?;
        let tried = match &verdict {
            Verdict::Admitted(_) => Some(limiter.foresee(tried, self.now).await?),
            Verdict::Refused(..) => None,
        };
        Ok((verdict, tried))
    }

    /// Its id, as text.
    pub fn request_id(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    /// How long ago it arrived.
    pub fn took(&self) -> Duration {
        self.gateway.clock.steady().since(self.now.steady)
    }

    /// The site; every stage after `intake` has one.
    pub fn site(&self) -> &Arc<LiveSite> {
        self.site.as_ref().expect("intake refuses a request whose host no site has")
    }
}
