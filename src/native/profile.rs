//! The caller's own record: read, and its names changed.

use super::{Call, keep, values};
use crate::contract::encode::Values;
use crate::contract::slot::Field;
use crate::model::account::Account;
use crate::model::change::Changed;
use crate::model::problem::Problem;
use crate::model::refusal::Refusal;
use crate::rules::identity;

/// Answers with the caller's own record.
pub fn read(call: &Call<'_>) -> Result<Values, Refusal> {
    Ok(values::account(&call.live.site.contract, &call.caller()?.account))
}

/// Changes the caller's display name and, for who manages the organization, its name. What else a body says of
/// role, plan, address or ids is not read.
pub async fn update(call: &Call<'_>) -> Result<Values, Refusal> {
    let caller = call.caller()?;
    let mut wrong = Vec::new();
    let mut read = |field| {
        let text = keep(&mut wrong, call.input.text(field))??;
        let judged = identity::display_name(text).map_err(|bad| call.input.error(field, bad.to_string()));
        keep(&mut wrong, judged)
    };
    let (name, org_name) = (read(Field::Name), read(Field::OrgName));
    if !wrong.is_empty() {
        return Err(Problem::InvalidRequest(wrong).into());
    }
    let role = caller.role.and_then(|role| call.live.site.contract.roles.get(usize::from(role.0)));
    if org_name.is_some() && !role.is_some_and(|role| role.manages_org) {
        return Err(Problem::InsufficientPermissions.into());
    }
    let (user, org) = (caller.account.user.id, caller.account.org.id);
    let store = &call.gateway.store;
    store.update_profile(call.realm(), user, name.as_deref(), org_name.as_deref(), call.now.wall).await?;
    call.forget(Changed::User(user));
    call.forget(Changed::Org(org));
    let account: Account = store.account(call.realm(), user).await?.ok_or(Problem::InvalidToken)?;
    Ok(values::account(&call.live.site.contract, &account))
}
