//! The request's path, one stage a file, in the order a request meets them:
//!
//! ```text
//! accept -> handshake -> connection | exchange -> intake -> route -> authenticate -> authorize -> throttle
//!   (per socket)                 |   -> native | forward -> respond -> observe     (per request)
//!                                |              `-> tunnel, for as long as its standing holds
//! ```
//!
//! An [`agent`] takes another way to the same stages: its WebSocket is answered first, and its [`first_frame`] is the
//! credential.
//!
//! [`exchange::handle`] is the story; the other files are its sentences. Stages are verbs: they fetch facts
//! from the machines, ask a rule, and act. They return `Result<_, Refusal>`; only [`respond`] renders one.

pub mod accept;
pub mod admin;
pub mod agent;
pub mod authenticate;
pub mod authorize;
pub mod certificate;
pub mod connection;
pub mod cors;
pub mod exchange;
pub mod explain;
pub mod first_frame;
pub mod forward;
pub mod grpc;
pub mod handshake;
pub mod intake;
pub mod native;
pub mod observe;
pub mod pace;
pub mod proxied;
pub mod respond;
pub mod route;
mod shadow;
pub mod standing;
pub mod streams;
pub mod throttle;
pub mod trace;
pub mod tunnel;
pub mod workers;
