//! End the presented token's session, and with it every token of it, on every node.

use super::Call;
use crate::contract::encode::Values;
use crate::model::change::Changed;
use crate::model::principal::Method;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::observe::audit::{Act, Actor};

/// Logs out.
pub async fn logout(call: &Call<'_>) -> Result<Values, Refusal> {
    let caller = call.caller()?;
    let Method::Token { session, .. } = caller.method else { return Err(Problem::InvalidToken.into()) };
    call.gateway.store.end_session(call.realm(), session, call.now.wall).await?;
    call.forget(Changed::Session(session));
    let user = caller.account.user.id;
    call.audit(Actor::User(user), Act::SessionEnded { user, session });
    Ok(Values::new())
}
