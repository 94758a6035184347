//! Renew an access token.

use super::{Call, values};
use crate::contract::Rotation;
use crate::contract::encode::Values;
use crate::contract::slot::{Field, Slot};
use crate::model::change::Changed;
use crate::model::principal::Method;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::observe::audit::{Act, Actor};
use crate::store::{NewRefresh, RefreshExchange, Refreshed};

/// By a refresh token. Where the contract rotates, the answer holds its successor, and a token that was replaced
/// longer ago than the grace ends the whole session: one of the two who have it is a thief.
pub async fn by_token(call: &Call<'_>) -> Result<Values, Refusal> {
    let contract = &call.live.site.contract;
    let rules = contract.tokens.refresh.as_ref().ok_or(Problem::NotFound)?;
    let text = call.input.required_text(Field::RefreshToken).map_err(|error| Problem::InvalidRequest(vec![error]))?;
    let tokens = &call.live.credentials.refresh;
    let presented = tokens.read(text).ok_or(Problem::InvalidToken)?;
    let (store, wall, idle) = (&call.gateway.store, call.now.wall, contract.sessions.idle);
    let (session, successor) = match rules.rotation {
        Rotation::None => {
            let session = store.check_refresh(call.realm(), presented.session(), &presented.hash(), idle, wall).await?;
            (session.ok_or(Problem::InvalidToken)?, None)
        }
        Rotation::Rotate => {
            let successor = tokens.successor(&presented);
            let exchange = RefreshExchange {
                presented: presented.hash(),
                successor: NewRefresh { hash: successor.hash(), ends_at: wall.plus(rules.ttl) },
                grace: rules.grace,
                idle,
            };
            match store.rotate_refresh(call.realm(), presented.session(), &exchange, wall).await? {
                Refreshed::Rotated(session) | Refreshed::Replayed(session) => (session, Some(successor)),
                Refreshed::Reused { session } => {
                    call.forget(Changed::Session(session.id));
                    let user = session.user_id;
                    call.audit(Actor::Anonymous, Act::RefreshReused { user, session: session.id });
                    return Err(Problem::InvalidToken.into());
                }
                Refreshed::Unknown => return Err(Problem::InvalidToken.into()),
            }
        }
    };
    let account = store.account(call.realm(), session.user_id).await?.ok_or(Problem::InvalidToken)?;
    if account.user.disabled || account.org.disabled {
        return Err(Problem::InvalidToken.into());
    }
    let token = call.issue(&account, &session).await?;
    let values = values::signed_in(contract, values::account(contract, &account), &token, &session);
    Ok(match successor {
        Some(successor) => values.set(Slot::RefreshToken, tokens.text(&successor).expose()),
        None => values.set(Slot::RefreshToken, text),
    })
}

/// By presenting a token that is still good. Its session goes on, up to its absolute end; the presented token
/// stays good until it expires, so that a client's other requests under way are not cut off.
pub async fn by_bearer(call: &Call<'_>) -> Result<Values, Refusal> {
    let caller = call.caller()?;
    let Method::Token { session, .. } = caller.method else { return Err(Problem::InvalidToken.into()) };
    let gateway = call.gateway;
    if !gateway.store.refresh_session(call.realm(), session, call.now.wall).await? {
        return Err(Problem::InvalidToken.into());
    }
    let session = gateway.store.session(call.realm(), session).await?.ok_or(Problem::InvalidToken)?;
    let token = call.issue(&caller.account, &session).await?;
    let contract = &call.live.site.contract;
    let values = values::account(contract, &caller.account);
    Ok(values::signed_in(contract, values, &token, &session))
}
