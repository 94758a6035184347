//! End the presented token's session, and with it every token of it, on every node.
//!
//! Where the contract reads a refresh token too, that one's session ends as well: alone it is proof enough, since the
//! access token beside it may have run out, and an API key is nobody's session. Of another user it counts for nothing.

use super::Call;
use crate::contract::encode::Values;
use crate::contract::slot::Field;
use crate::model::change::Changed;
use crate::model::id::{SessionId, UserId};
use crate::model::principal::Method;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::observe::audit::{Act, Actor};

/// Logs out.
pub async fn logout(call: &Call<'_>) -> Result<Values, Refusal> {
    let own = call.caller.and_then(|caller| match caller.method {
        Method::Token { session, .. } => Some((session, caller.account.user.id)),
        Method::Key(_) => None,
    });
    let sent = call.input.text(Field::RefreshToken).map_err(|error| Problem::InvalidRequest(vec![error]))?;
    let held = match sent {
        Some(text) => held(call, text).await?,
        None => None,
    };
    if own.is_none() && held.is_none() {
        return Err(match (sent, call.caller) {
            (Some(_), _) => Problem::InvalidToken.into(),
            (None, Some(_)) => Problem::InsufficientPermissions.into(),
            (None, None) => Problem::NotAuthenticated.into(),
        });
    }
    for (session, user) in own.into_iter().chain(held.filter(|held| own.is_none_or(|own| own != *held))) {
        call.gateway.store.end_session(call.realm(), session, call.now.wall).await?;
        call.forget(Changed::Session(session));
        call.audit(Actor::User(user), Act::SessionEnded { user, session });
    }
    Ok(Values::new())
}

/// The live session of a refresh token that was ours, the newest of its family or not: an older one ends the session
/// wherever it is shown. `None` too where somebody else is known to be asking.
async fn held(call: &Call<'_>, text: &str) -> Result<Option<(SessionId, UserId)>, Refusal> {
    let Some(token) = call.live.credentials.refresh.read(text) else { return Ok(None) };
    let session = call.gateway.store.session(call.realm(), token.session()).await?;
    let live = session.filter(|session| session.is_live(call.now.wall));
    let theirs = live.filter(|session| call.caller.is_none_or(|caller| caller.account.user.id == session.user_id));
    Ok(theirs.map(|session| (session.id, session.user_id)))
}
