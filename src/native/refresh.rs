//! Renew an access token.

use super::{Call, values};
use crate::contract::encode::Values;
use crate::model::principal::Method;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;

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
