//! Make an account: always in a new organization, on the first plan, with the contract's first role for it.
//!
//! What a client says of its own role, plan, organization id or verified flag is not read at all: no field of
//! this operation holds it.

use super::{Call, keep, mails, values};
use crate::contract::encode::Values;
use crate::contract::slot::{Field, Slot};
use crate::credential::password;
use crate::mail::ComposeError;
use crate::model::account::{Account, Organization, User};
use crate::model::code::CodeKind;
use crate::model::id::{OrgId, SessionId, UserId};
use crate::model::problem::{FieldError, Problem};
use crate::model::refusal::Refusal;
use crate::model::secret::Secret;
use crate::model::session::Session;
use crate::observe::audit::{Act, Actor};
use crate::rules::identity;
use crate::store::{NewAccount, Registered};

/// Registers an account, and signs it in where the contract's answer holds a token.
pub async fn register(call: &Call<'_>) -> Result<Values, Refusal> {
    let contract = &call.live.site.contract;
    let wanted = read(call)?;
    let password_hash = call.gateway.passwords.hash(wanted.password).await?;
    let wall = call.now.wall;
    let entropy = &*call.gateway.entropy;
    let org = Organization {
        id: OrgId::new(wall, entropy),
        name: wanted.org_name,
        plan: wanted.plan,
        limits: None,
        disabled: false,
        created_at: wall,
        updated_at: wall,
    };
    let user = User {
        id: UserId::new(wall, entropy),
        org_id: org.id,
        email: wanted.email.shown,
        username: wanted.username.as_ref().map(|name| name.shown.clone()),
        name: wanted.name,
        role: contract.roles[usize::from(contract.register_role.0)].name.clone(),
        email_verified: false,
        disabled: false,
        created_at: wall,
        updated_at: wall,
    };
    let account = Account { user, org };
    let session = contract.answers(call.served, Slot::AccessToken).then(|| new_session(call, &account));
    let refresh = session.as_ref().and_then(|session| call.first_refresh(session.id));
    let verify = contract.mail.as_ref().filter(|mail| mail.verify_on_register);
    let code = match verify {
        Some(_) => mails::compose(call.gateway, call.live, CodeKind::Verify, &account.user.email, call.now.wall)
            .map_err(|error| match error {
                ComposeError::Address(bad) => {
                    Problem::InvalidRequest(vec![call.input.error(Field::Email, bad.to_string())]).into()
                }
                ComposeError::Template(_) => Refusal::internal(error),
            })?,
        None => None,
    };
    let new = NewAccount {
        user: account.user.clone(),
        org: account.org.clone(),
        email_norm: wanted.email.norm,
        username_norm: wanted.username.map(|name| name.norm),
        password_hash,
        session: session.clone(),
        refresh: refresh.as_ref().and_then(|refresh| call.new_refresh(refresh)),
        verification: code,
    };
    match call.gateway.store.register(call.realm(), &new).await? {
        Registered::Done => {}
        Registered::EmailTaken => return Err(Problem::EmailTaken.into()),
        Registered::UsernameTaken => return Err(Problem::UsernameTaken.into()),
    }
    let (user, org) = (account.user.id, account.org.id);
    call.audit(Actor::User(user), Act::Registered { user, org });
    let values = values::account(contract, &account);
    match session {
        None => Ok(values),
        Some(session) => {
            let token = call.issue(&account, &session).await?;
            Ok(call.with_refresh(values::signed_in(contract, values, &token, &session), refresh.as_ref()))
        }
    }
}

/// A session that starts now.
pub fn new_session(call: &Call<'_>, account: &Account) -> Session {
    let wall = call.now.wall;
    Session {
        id: SessionId::new(wall, &*call.gateway.entropy),
        user_id: account.user.id,
        org_id: account.org.id,
        created_at: wall,
        last_active_at: wall,
        ends_at: wall.plus(call.live.site.contract.tokens.session_lifetime),
        revoked_at: None,
        address: Some(call.origin.client),
        device: serde_json::Value::Null,
    }
}

struct Wanted {
    email: identity::Name,
    username: Option<identity::Name>,
    password: Secret,
    name: Option<String>,
    org_name: String,
    plan: String,
}

/// Reads the body, every complaint about it at once.
fn read(call: &Call<'_>) -> Result<Wanted, Problem> {
    let input = call.input;
    let mut wrong: Vec<FieldError> = Vec::new();
    let email = read_name(call, Field::Email, &mut wrong, identity::email);
    let email_norm = email.as_ref().map_or("", |email| email.norm.as_str());
    let username = read_name(call, Field::Username, &mut wrong, |text| identity::username(text, email_norm));
    let password = keep(&mut wrong, input.required_text(Field::Password));
    for missed in password.into_iter().flat_map(|text| password::missed(&call.live.site.contract.password, text)) {
        wrong.push(input.error(Field::Password, missed.to_string()));
    }
    if let Some(confirmed) = keep(&mut wrong, input.text(Field::PasswordConfirm)).flatten()
        && password.is_some_and(|password| password != confirmed)
    {
        wrong.push(input.error(Field::PasswordConfirm, "does not match the password"));
    }
    let plan = keep(&mut wrong, plan(call));
    let name = read_name(call, Field::Name, &mut wrong, identity::display_name);
    let org_name = read_name(call, Field::OrgName, &mut wrong, identity::display_name);
    match (email, password, plan) {
        (Some(email), Some(password), Some(plan)) if wrong.is_empty() => Ok(Wanted {
            plan,
            org_name: org_name.or_else(|| name.clone()).unwrap_or_else(|| email.shown.clone()),
            email,
            username,
            password: Secret::new(password.to_owned()),
            name,
        }),
        _ => Err(Problem::InvalidRequest(wrong)),
    }
}

/// The plan to start on: the first, or one that the contract lets clients choose.
fn plan(call: &Call<'_>) -> Result<String, FieldError> {
    let plans = &call.live.site.contract.plans;
    let Some(wanted) = call.input.text(Field::Plan)? else { return Ok(plans[0].name.clone()) };
    let mut free = plans.iter().enumerate().filter(|(at, plan)| *at == 0 || plan.self_service).map(|(_, plan)| plan);
    match free.find(|plan| plan.name == wanted) {
        Some(plan) => Ok(plan.name.clone()),
        None => Err(call.input.error(Field::Plan, "is not a plan that can be chosen here")),
    }
}

/// Reads one name, if it is there; that the contract demands it is decoding's affair.
fn read_name<T>(
    call: &Call<'_>,
    field: Field,
    wrong: &mut Vec<FieldError>,
    judge: impl FnOnce(&str) -> Result<T, identity::BadIdentity>,
) -> Option<T> {
    let required = call.served.operation.signature().required.contains(&field);
    let text = if required { call.input.required_text(field).map(Some) } else { call.input.text(field) };
    let judged = judge(keep(wrong, text)??).map_err(|bad| call.input.error(field, bad.to_string()));
    keep(wrong, judged)
}
