//! A user's own sessions: seen, ended one by one, or all but this one.

use super::{Call, values};
use crate::contract::encode::Values;
use crate::contract::slot::Field;
use crate::model::change::Changed;
use crate::model::id::SessionId;
use crate::model::principal::Method;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::model::session::Session;
use crate::observe::audit::{Act, Actor};

/// Lists the caller's live sessions, newest first.
pub async fn list(call: &Call<'_>) -> Result<Values, Refusal> {
    let caller = call.caller()?;
    let idle = call.live.site.contract.sessions.idle;
    let mut sessions = call.gateway.store.sessions(call.realm(), caller.account.user.id, call.now.wall).await?;
    // The one that asks is in use now, written down or not.
    let asks =
        |session: &&mut Session| matches!(caller.method, Method::Token { session: own, .. } if own == session.id);
    if let Some(own) = sessions.iter_mut().find(asks) {
        own.last_active_at = own.last_active_at.max(call.now.wall);
    }
    let live = sessions
        .iter()
        .filter(|session| idle.is_none_or(|idle| call.now.wall < session.last_active_at.plus(idle)))
        .map(|session| values::session(&call.live.site.contract, session));
    Ok(live.fold(Values::new(), Values::item))
}

/// Ends one of the caller's sessions, which may be the one that asks. Anybody else's is simply not found.
pub async fn revoke(call: &Call<'_>) -> Result<Values, Refusal> {
    let user = call.caller()?.account.user.id;
    let shown = call.input.required_text(Field::SessionId).map_err(|error| Problem::InvalidRequest(vec![error]))?;
    let id = call.live.site.contract.ids.session.parse(shown).map(SessionId::from).ok_or(Problem::NotFound)?;
    let known = call.gateway.store.session(call.realm(), id).await?;
    if !known.is_some_and(|session| session.user_id == user && session.is_live(call.now.wall)) {
        return Err(Problem::NotFound.into());
    }
    call.gateway.store.end_session(call.realm(), id, call.now.wall).await?;
    call.forget(Changed::Session(id));
    call.audit(Actor::User(user), Act::SessionEnded { user, session: id });
    Ok(Values::new())
}

/// Ends all of the caller's sessions but the one that asks.
pub async fn revoke_others(call: &Call<'_>) -> Result<Values, Refusal> {
    let caller = call.caller()?;
    let Method::Token { session, .. } = caller.method else { return Err(Problem::InvalidToken.into()) };
    let user = caller.account.user.id;
    let ended = call.gateway.store.end_sessions(call.realm(), user, Some(session), call.now.wall).await?;
    call.forget_sessions(&ended);
    call.audit(Actor::User(user), Act::SessionsEnded { user, count: ended.len() });
    Ok(Values::new())
}
