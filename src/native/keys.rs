//! API keys: made, listed, read, rotated, revoked.
//!
//! A user acts on the keys they made; a role that manages its organization acts on all of the organization's.
//! A key of anyone else is simply not found.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Call, keep, values};
use crate::contract::KeyRules;
use crate::contract::encode::Values;
use crate::contract::slot::{Field, Slot};
use crate::credential::api_key;
use crate::model::access::{Permission, Permissions};
use crate::model::api_key::{ApiKey, SERVER_ID};
use crate::model::change::Changed;
use crate::model::id::KeyId;
use crate::model::problem::{FieldError, Problem};
use crate::model::refusal::Refusal;
use crate::model::secret::Secret;
use crate::model::time::Timestamp;
use crate::observe::audit::{Act, Actor};
use crate::store::{Created, Page, Revoked, Rotated};

/// The longest name of a key, in characters.
const NAME_LENGTH: usize = 100;
/// The longest description of a key, in characters.
const DESCRIPTION_LENGTH: usize = 1000;
/// The most permissions of a key.
const PERMISSIONS: usize = 100;
/// The most live keys of an organization.
const KEYS_PER_ORG: u32 = 1000;
/// The longest overlap of a rotation.
const LONGEST_OVERLAP: Duration = Duration::from_hours(30 * 24);

/// Makes a key. Its text is in this answer and nowhere else.
pub async fn create(call: &Call<'_>) -> Result<Values, Refusal> {
    let caller = call.caller()?;
    let rules = rules(call)?;
    let wanted = wanted(call, rules)?;
    let key = ApiKey {
        id: KeyId::new(call.now.wall, &*call.gateway.entropy),
        org_id: caller.account.org.id,
        user_id: caller.account.user.id,
        name: wanted.name,
        description: wanted.description,
        permissions: wanted.permissions,
        attributes: wanted.attributes,
        created_at: call.now.wall,
        expires_at: wanted.expires_at,
        revoked_at: None,
        last_used_at: None,
        replaced_by: None,
    };
    let secret = api_key::mint(&rules.prefix, &*call.gateway.entropy);
    let hash = call.live.credentials.key_hash(secret.expose());
    match call.gateway.store.create_key(call.realm(), &key, &hash, KEYS_PER_ORG).await? {
        Created::Done => {}
        Created::TooMany => {
            let message =
                format!("asks for more than {KEYS_PER_ORG} live API keys in one organization: revoke one first");
            let error = FieldError::new("", message);
            return Err(Problem::InvalidRequest(vec![error]).into());
        }
    }
    call.audit(Actor::User(key.user_id), Act::KeyCreated { org: key.org_id, key: key.id });
    Ok(shown_once(call, &key, &secret))
}

/// Lists the keys the caller may act on, newest first; revoked ones are gone.
pub async fn list(call: &Call<'_>) -> Result<Values, Refusal> {
    let caller = call.caller()?;
    let mut page = Page::first(KEYS_PER_ORG);
    let mut listed = Values::new();
    // Beside those that an organization may have at once there are those whose overlap is not over.
    loop {
        let store = &call.gateway.store;
        let keys = store.live_keys(call.realm(), caller.account.org.id, page, call.now.wall).await?;
        let own = keys.iter().filter(|key| may_manage(call, key) && is_of_server(call, key));
        listed = own.map(|key| values::api_key(&call.live.site.contract, key)).fold(listed, Values::item);
        match keys.last() {
            Some(last) if keys.len() == KEYS_PER_ORG as usize => page.after = Some(last.id),
            _ => return Ok(listed),
        }
    }
}

/// The key the path names, if the caller may act on it.
async fn find(call: &Call<'_>) -> Result<ApiKey, Refusal> {
    let caller = call.caller()?;
    let shown = call.input.required_text(Field::KeyId).map_err(|error| Problem::InvalidRequest(vec![error]))?;
    let id = call.live.site.contract.ids.key.parse(shown).map(KeyId::from).ok_or(Problem::NotFound)?;
    let key = call.gateway.store.key(call.realm(), caller.account.org.id, id).await?;
    Ok(key.filter(|key| may_manage(call, key) && is_of_server(call, key)).ok_or(Problem::NotFound)?)
}

/// Reads one key, as an answer.
pub async fn read(call: &Call<'_>) -> Result<Values, Refusal> {
    Ok(values::api_key(&call.live.site.contract, &find(call).await?))
}

/// Replaces a key by a new one with the same name, permissions, attributes and end. The old one goes on for the
/// overlap (the contract's, unless the client asks for another; 0 ends it at once).
pub async fn rotate(call: &Call<'_>) -> Result<Values, Refusal> {
    let rules = rules(call)?;
    let old = find(call).await?;
    let overlap = match call.input.seconds(Field::OverlapSeconds) {
        Ok(asked) => asked.unwrap_or(rules.rotation_overlap),
        Err(error) => return Err(Problem::InvalidRequest(vec![error]).into()),
    };
    if overlap > LONGEST_OVERLAP {
        let key = call.input.key(Field::OverlapSeconds);
        let error = FieldError::new(key, format!("must be at most {}", LONGEST_OVERLAP.as_secs()));
        return Err(Problem::InvalidRequest(vec![error]).into());
    }
    let id = KeyId::new(call.now.wall, &*call.gateway.entropy);
    let successor = ApiKey {
        id,
        created_at: call.now.wall,
        revoked_at: None,
        last_used_at: None,
        replaced_by: None,
        ..old.clone()
    };
    let secret = api_key::mint(&rules.prefix, &*call.gateway.entropy);
    let hash = call.live.credentials.key_hash(secret.expose());
    let ends_at = call.now.wall.plus(overlap);
    let store = &call.gateway.store;
    match store.rotate_key(call.realm(), old.org_id, old.id, &successor, &hash, ends_at, call.now.wall).await? {
        Rotated::Done => {}
        Rotated::Unknown | Rotated::NotLive => return Err(Problem::NotFound.into()),
    }
    call.forget(Changed::Key(old.id));
    let actor = Actor::User(call.caller()?.account.user.id);
    call.audit(actor, Act::KeyRotated { org: old.org_id, key: old.id, successor: id });
    Ok(shown_once(call, &successor, &secret))
}

/// Revokes a key, from the next request on.
pub async fn revoke(call: &Call<'_>) -> Result<Values, Refusal> {
    let key = find(call).await?;
    let revoked = match call.gateway.store.revoke_key(call.realm(), key.org_id, key.id, call.now.wall).await? {
        Revoked::Done(key) => key,
        Revoked::Unknown => return Err(Problem::NotFound.into()),
    };
    call.forget(Changed::Key(key.id));
    call.audit(Actor::User(call.caller()?.account.user.id), Act::KeyRevoked { org: key.org_id, key: key.id });
    Ok(values::api_key(&call.live.site.contract, &revoked))
}

fn rules<'a>(call: &'a Call<'_>) -> Result<&'a KeyRules, Refusal> {
    call.live.site.contract.keys.as_ref().ok_or_else(|| Problem::NotFound.into())
}

fn shown_once(call: &Call<'_>, key: &ApiKey, secret: &Secret) -> Values {
    values::api_key(&call.live.site.contract, key).set(Slot::KeySecret, secret.expose())
}

fn may_manage(call: &Call<'_>, key: &ApiKey) -> bool {
    let Some(caller) = call.caller else { return false };
    let role = caller.role.and_then(|role| call.live.site.contract.roles.get(usize::from(role.0)));
    key.user_id == caller.account.user.id || role.is_some_and(|role| role.manages_org)
}

/// Where the path names a server, only its keys are there.
fn is_of_server(call: &Call<'_>, key: &ApiKey) -> bool {
    match call.input.text(Field::ServerId) {
        Ok(Some(server)) => key.attributes.get(SERVER_ID).is_some_and(|own| own == server),
        _ => true,
    }
}

struct Wanted {
    name: String,
    description: Option<String>,
    permissions: Permissions,
    attributes: BTreeMap<String, String>,
    expires_at: Option<Timestamp>,
}

/// Reads the body of `create`, every complaint about it at once.
fn wanted(call: &Call<'_>, rules: &KeyRules) -> Result<Wanted, Refusal> {
    let mut wrong = Vec::new();
    let name = keep(&mut wrong, call.input.required_text(Field::KeyName)).unwrap_or_default();
    let description = keep(&mut wrong, call.input.text(Field::KeyDescription)).flatten();
    check_length(call, &mut wrong, Field::KeyName, name, NAME_LENGTH);
    check_length(call, &mut wrong, Field::KeyDescription, description.unwrap_or("-"), DESCRIPTION_LENGTH);
    let texts = keep(&mut wrong, call.input.texts(Field::KeyPermissions)).flatten();
    let attributes = keep(&mut wrong, call.input.object(Field::KeyAttributes)).flatten().cloned().unwrap_or_default();
    let asked = keep(&mut wrong, call.input.timestamp(Field::KeyExpiresAt)).flatten();
    let longest = rules.expires_after.map(|lives| call.now.wall.plus(lives));
    if asked.is_some_and(|asked| asked <= call.now.wall || longest.is_some_and(|longest| asked > longest)) {
        let message = match longest {
            Some(longest) => format!("must be in the future and not after {}", longest.to_rfc3339()),
            None => "must be in the future".to_owned(),
        };
        wrong.push(FieldError::new(call.input.key(Field::KeyExpiresAt), message));
    }
    let server = keep(&mut wrong, call.input.text(Field::ServerId)).flatten();
    let mut attributes = attributes;
    if let Some(server) = server {
        check_length(call, &mut wrong, Field::ServerId, server, NAME_LENGTH);
        attributes.insert(SERVER_ID.to_owned(), server.to_owned());
    }
    let permissions = permissions(call, rules, texts, &mut wrong)?;
    if !wrong.is_empty() {
        return Err(Problem::InvalidRequest(wrong).into());
    }
    Ok(Wanted {
        name: name.to_owned(),
        description: description.map(str::to_owned),
        permissions,
        attributes,
        expires_at: asked.or(longest),
    })
}

/// What the key may do: what was asked for, each a permission the product knows and the maker has. A request
/// that names none gets none: least privilege, never everything.
fn permissions(
    call: &Call<'_>,
    rules: &KeyRules,
    asked: Option<&[String]>,
    wrong: &mut Vec<FieldError>,
) -> Result<Permissions, Refusal> {
    let key = call.input.key(Field::KeyPermissions);
    let asked = asked.unwrap_or_default();
    if asked.len() > PERMISSIONS {
        wrong.push(FieldError::new(key, format!("must hold at most {PERMISSIONS} permissions")));
        return Ok(Permissions::default());
    }
    let mut list = Vec::with_capacity(asked.len());
    for text in asked {
        match Permission::parse(text) {
            Ok(permission) if rules.permissions.iter().any(|known| known.covers(text)) => list.push(permission),
            Ok(_) => {
                let known: Vec<&str> = rules.permissions.iter().map(Permission::as_str).collect();
                wrong.push(FieldError::new(key, format!("`{text}` is not one of {}", known.join(", "))));
            }
            Err(error) => wrong.push(FieldError::new(key, error.to_string())),
        }
    }
    let granted = &call.caller()?.permissions;
    if list.iter().any(|permission| !granted.cover(permission.as_str())) {
        return Err(Problem::InsufficientPermissions.into());
    }
    Ok(Permissions::new(list))
}

fn check_length(call: &Call<'_>, wrong: &mut Vec<FieldError>, field: Field, text: &str, most: usize) {
    let length = text.chars().count();
    if !wrong.iter().any(|error| error.field == call.input.key(field))
        && (length == 0 || length > most || text.chars().any(char::is_control))
    {
        let message = format!("must be 1 to {most} characters without control characters");
        wrong.push(FieldError::new(call.input.key(field), message));
    }
}
