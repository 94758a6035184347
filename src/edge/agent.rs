//! Agents: WebSockets that are let in by their first message, where the contract has such (`[agents]`).
//!
//! An agent sends no credential with its handshake. The gateway itself takes the WebSocket, within bounds of how many
//! may wait and for how long, and reads one message. The key in it goes the way of any other: verified, counted
//! when it is wrong, judged by route, guards and plan, charged to its windows. Only then is the backend asked for its
//! end, with identity headers; the agent is told that it passes, and from there on it is a tunnel like others. What
//! does not pass is told why and closed.
//!
//! Over HTTP/1.1 only: WebSockets over HTTP/2 (RFC 8441) are not served.

use std::sync::Arc;
use std::time::Duration;

use futures_util::SinkExt;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::authorize::{self, Permit};
use super::exchange::Exchange;
use super::first_frame::{self, First, FirstFrames};
use super::observe::Record;
use super::route::Target;
use super::standing::Standing;
use super::tunnel::{Tunnel, stopped};
use super::{authenticate, forward, respond, route, throttle};
use crate::contract::encode::Values;
use crate::contract::{AgentRules, Contract};
use crate::gateway::LiveSite;
use crate::limit::addresses::AddressPlace;
use crate::model::principal::Method;
use crate::model::problem::{Problem, ProblemKind};
use crate::model::refusal::Refusal;
use crate::model::secret::Secret;
use crate::native::values;
use crate::observe::metrics::labels::AgentOutcome;
use crate::upstream::body::Body;
use crate::upstream::tunnel::{self, Backend, Opened, wanted};

/// How long an agent may take to read an answer, and to close after it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Room for one that nobody knows: of its address and of all.
type Place = (AddressPlace, OwnedSemaphorePermit);

/// An agent that was answered and has said nothing yet.
#[derive(Debug)]
pub struct Agent {
    client: OnUpgrade,
    head: Parts,
    place: Place,
}

/// Whether the request is an agent's: at the contract's place for them, for a WebSocket, and without a credential.
/// With one it is a request like any other.
pub fn is_one(exchange: &Exchange, target: &Target, head: &Parts) -> Result<bool, Refusal> {
    let Some(rules) = &exchange.site().site.contract.agents else { return Ok(false) };
    let here = matches!(target, Target::Forward(_)) && rules.is_at(&exchange.path);
    Ok(here
        && !head.headers.contains_key(AUTHORIZATION)
        && wanted(head)?
        && head.extensions.get::<OnUpgrade>().is_some())
}

/// Takes an agent's WebSocket, if there is room for one more that nobody knows.
pub fn invite(exchange: &mut Exchange, head: &mut Parts) -> Result<Response<Body>, Refusal> {
    let client = head.extensions.remove::<OnUpgrade>().ok_or(Problem::NotAuthenticated)?;
    let place = place(exchange).inspect_err(|_| exchange.gateway.metrics.agents.came_to(AgentOutcome::TurnedAway))?;
    let answer = tunnel::agree(&head.headers);
    tunnel::offer_nothing(&mut head.headers);
    let (empty, ()) = Request::new(()).into_parts();
    let head = std::mem::replace(head, empty);
    exchange.tunnel = Some(Tunnel::Agent(Box::new(Agent { client, head, place })));
    Ok(answer)
}

fn place(exchange: &Exchange) -> Result<Place, Problem> {
    let waiting = &exchange.gateway.waiting_agents;
    let own = waiting.addresses.take(exchange.client);
    let own = own.ok_or_else(|| Problem::RateLimited { retry_after: patience(exchange.site()) })?;
    let one = Arc::clone(&waiting.places).try_acquire_owned().map_err(|_| Problem::Unavailable)?;
    Ok((own, one))
}

/// Until then a place is free again, whoever has it.
fn patience(live: &LiveSite) -> Duration {
    live.site.contract.agents.as_ref().map_or(FAREWELL, |rules| rules.patience)
}

impl Agent {
    /// From the first message to the end.
    pub async fn serve(self, record: &mut Record) {
        let exchange = &mut record.exchange;
        let (gateway, live) = (Arc::clone(&exchange.gateway), Arc::clone(exchange.site()));
        let (contract, metrics) = (&live.site.contract, &gateway.metrics.agents);
        let Some(rules) = &contract.agents else { return };
        let Self { client, head, place } = self;
        let deadline = Instant::now() + rules.patience;
        let Ok(Ok(client)) = timeout_at(deadline, client).await else { return metrics.came_to(AgentOutcome::Left) };
        let mut socket = first_frame::speak(TokioIo::new(client), rules.max_message).await;
        // Given back once it is known who this is, or when they are gone.
        let mut place = Some(place);
        let began = exchange.now;
        let came = tokio::select! {
            came = meet(exchange, rules, &mut socket, deadline, head, &mut place) => came,
            () = gateway.hang_up.cancelled() => Some(Err(Problem::Unavailable.into())),
        };
        // The log tells when the connection was asked for and how long it was there.
        exchange.now = began;
        let Some(came) = came else { return metrics.came_to(AgentOutcome::Left) };
        match came {
            Ok((backend, idle)) => {
                let welcome = text(rules.accepted(&known(contract, exchange)));
                if !matches!(timeout(FAREWELL, socket.send(Message::Text(welcome))).await, Ok(Ok(()))) {
                    return metrics.came_to(AgentOutcome::Left);
                }
                metrics.came_to(AgentOutcome::Accepted);
                let stop = stopped(&gateway, Standing::of(exchange));
                record.ended(tunnel::carry(socket.into_inner().open(), backend, idle, stop).await);
            }
            Err(refusal) => {
                metrics.came_to(outcome(refusal.problem.kind()));
                let (said, code, told) = respond::refuse_agent(contract, rules, refusal);
                record.told = Some(told);
                dismiss(socket, text(said), code).await;
            }
        }
    }
}

/// The first message, and what it opens; `None`: the agent has left.
async fn meet<S: AsyncRead + AsyncWrite + Unpin>(
    exchange: &mut Exchange,
    rules: &AgentRules,
    socket: &mut FirstFrames<S>,
    deadline: Instant,
    head: Parts,
    place: &mut Option<Place>,
) -> Option<Result<(Backend, Duration), Refusal>> {
    let Ok(first) = timeout_at(deadline, first_frame::first(socket)).await else {
        return Some(Err(Problem::RequestTimeout.into()));
    };
    exchange.now = exchange.gateway.clock.now();
    let key = match first {
        First::Gone => return None,
        First::Refused(problem) => Err(problem),
        First::Message(text) => rules.key(text.as_bytes()),
    };
    Some(match key {
        Ok(key) => let_in(exchange, &key, head, place).await,
        // What is no key is an attempt as good as a wrong one.
        Err(problem) => Err(authenticate::failed(exchange, problem).await),
    })
}

/// The way of every request: nothing of it reaches the backend before all have said yes.
async fn let_in(
    exchange: &mut Exchange,
    key: &Secret,
    mut head: Parts,
    place: &mut Option<Place>,
) -> Result<(Backend, Duration), Refusal> {
    authenticate::by_key(exchange, key).await?;
    place.take();
    let target = route::find(exchange)?;
    let permit = authorize::authorize(exchange, target)?;
    throttle::admit(exchange, &permit).await?;
    let Permit::Forward(permit) = permit else { return Err(Problem::NotFound.into()) };
    match forward::open(exchange, &permit, &mut head).await? {
        (Opened::Tunnel(_, backend), idle) => Ok((backend, idle)),
        (Opened::Answer(answer), _) => Err(turned_down(answer.status()).into()),
    }
}

/// What an agent is told when the backend has answered its handshake with something else than a WebSocket.
fn turned_down(status: StatusCode) -> Problem {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Problem::InsufficientPermissions,
        StatusCode::NOT_FOUND | StatusCode::GONE => Problem::NotFound,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Problem::Unavailable,
        StatusCode::GATEWAY_TIMEOUT => Problem::GatewayTimeout,
        _ => Problem::BadGateway,
    }
}

/// What the answer to a key that passes may say.
fn known(contract: &Contract, exchange: &Exchange) -> Values {
    let Some(principal) = &exchange.principal else { return Values::new() };
    let account = values::account(contract, &principal.account);
    match &principal.method {
        Method::Key(key) => account.with(values::api_key(contract, key)),
        Method::Token { .. } => account,
    }
}

/// Says why not, closes, and lets the agent close in its turn.
async fn dismiss<S: AsyncRead + AsyncWrite + Unpin>(mut socket: FirstFrames<S>, why: Utf8Bytes, code: u16) {
    let close = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static("") };
    let said = async {
        socket.send(Message::Text(why)).await?;
        socket.send(Message::Close(Some(close))).await
    };
    if matches!(timeout(FAREWELL, said).await, Ok(Ok(()))) {
        let mut frames = socket.get_ref().frames();
        let mut stream = socket.into_inner().open();
        let _ = timeout(FAREWELL, tunnel::answered(&mut stream, &mut frames)).await;
        let _ = timeout(FAREWELL, stream.shutdown()).await;
    }
}

fn outcome(kind: ProblemKind) -> AgentOutcome {
    match kind {
        ProblemKind::RequestTimeout => AgentOutcome::Late,
        ProblemKind::InvalidRequest | ProblemKind::PayloadTooLarge | ProblemKind::MalformedRequest => {
            AgentOutcome::Malformed
        }
        ProblemKind::RateLimited => AgentOutcome::Limited,
        ProblemKind::InsufficientPermissions | ProblemKind::PlanRequired | ProblemKind::NotFound => {
            AgentOutcome::Forbidden
        }
        ProblemKind::Unavailable | ProblemKind::Internal | ProblemKind::BadGateway | ProblemKind::GatewayTimeout => {
            AgentOutcome::Unavailable
        }
        _ => AgentOutcome::Refused,
    }
}

/// JSON that we wrote is UTF-8.
fn text(json: Vec<u8>) -> Utf8Bytes {
    String::from_utf8(json).unwrap_or_default().into()
}
