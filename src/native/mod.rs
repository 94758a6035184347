//! What the gateway does itself, one file an operation or small family.
//!
//! An operation reads its [`Input`], changes the store, and gives [`Values`]; which paths, names and statuses
//! that has on the wire is the contract's affair. Who may call it was judged before (`edge::authorize`).

mod keys;
mod login;
mod logout;
mod mails;
pub mod operator;
mod password;
pub mod postman;
mod profile;
mod refresh;
mod register;
mod sessions;
mod tokens;
pub mod values;

use std::net::IpAddr;
use std::sync::Arc;

use crate::contract::Served;
use crate::contract::decode::Input;
use crate::contract::encode::Values;
use crate::contract::operation::Operation;
use crate::gateway::{Gateway, LiveSite};
use crate::model::change::{Change, Changed};
use crate::model::id::SessionId;
use crate::model::principal::Principal;
use crate::model::problem::{FieldError, Problem};
use crate::model::refusal::Refusal;
use crate::model::time::Now;
use crate::observe::audit::{Act, Actor, Event};

/// One call of an operation.
pub struct Call<'a> {
    /// The machines.
    pub gateway: &'a Arc<Gateway>,
    /// The site it is for.
    pub live: &'a Arc<LiveSite>,
    /// The operation at its place on the wire.
    pub served: &'a Served,
    /// What the client sent.
    pub input: &'a Input,
    /// Who calls; `None` for operations that anyone may call.
    pub caller: Option<&'a Principal>,
    /// Where the call comes from.
    pub origin: Origin<'a>,
    /// When it arrived.
    pub now: Now,
}

/// Where a call comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The request's id.
    pub request_id: &'a str,
}

/// Performs the operation. What it changed is committed when this returns.
pub async fn perform(call: &Call<'_>) -> Result<Values, Refusal> {
    match call.served.operation {
        Operation::Register => register::register(call).await,
        Operation::Login => login::login(call).await,
        Operation::RefreshBearer => refresh::by_bearer(call).await,
        Operation::Logout => logout::logout(call).await,
        Operation::Me => profile::read(call),
        Operation::KeyCreate => keys::create(call).await,
        Operation::KeyList => keys::list(call).await,
        Operation::KeyRead => keys::read(call).await,
        Operation::KeyRotate => keys::rotate(call).await,
        Operation::KeyRevoke => keys::revoke(call).await,
        Operation::RefreshToken => refresh::by_token(call).await,
        Operation::ProfileUpdate => profile::update(call).await,
        Operation::PasswordChange => password::change(call).await,
        Operation::PasswordResetRequest => password::request_reset(call).await,
        Operation::PasswordReset => password::reset(call).await,
        Operation::EmailVerify => password::verify_email(call).await,
        Operation::EmailResend => password::resend_verification(call).await,
        Operation::SessionList => sessions::list(call).await,
        Operation::SessionRevoke => sessions::revoke(call).await,
        Operation::SessionRevokeOthers => sessions::revoke_others(call).await,
    }
}

impl Call<'_> {
    /// The caller; `authorize` let no request of a [`crate::contract::operation::Caller::User`] operation pass without one.
    fn caller(&self) -> Result<&Principal, Problem> {
        self.caller.ok_or(Problem::NotAuthenticated)
    }

    fn realm(&self) -> &str {
        &self.live.site.realm
    }

    /// Forgets what is cached of a fact that was just changed.
    fn forget(&self, changed: Changed) {
        self.gateway.forget(&Change { realm: Arc::clone(&self.live.site.realm), changed });
    }

    /// Forgets what is cached of sessions that have just ended.
    fn forget_sessions(&self, ended: &[SessionId]) {
        for session in ended {
            self.forget(Changed::Session(*session));
        }
    }

    fn audit(&self, actor: Actor, act: Act<'_>) {
        self.gateway.logs.audit(&Event {
            time: self.now.wall,
            actor,
            act,
            site: Some(&self.live.site.name),
            client: Some(self.origin.client),
            request_id: Some(self.origin.request_id),
        });
    }
}

/// Keeps what was read, or notes what is wrong with it.
fn keep<T>(wrong: &mut Vec<FieldError>, outcome: Result<T, FieldError>) -> Option<T> {
    outcome.map_err(|error| wrong.push(error)).ok()
}
