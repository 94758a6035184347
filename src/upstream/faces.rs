//! What backends are told of a caller, rendered once and cloned for each request.
//!
//! A [`Face`] counts for the very facts that it was made of: another account record (a role, a plan or an address has
//! changed), another key record, or another configuration, which begins with no faces at all, and it is made anew.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use quick_cache::sync::Cache;

use crate::model::account::Account;
use crate::model::api_key::ApiKey;
use crate::model::id::{KeyId, SessionId};
use crate::model::principal::{Method, Principal};

/// Faces that are remembered at most, a site: about a kilobyte each.
const REMEMBERED: usize = 16_384;

/// The faces of a site's callers, by session or key.
#[derive(Debug)]
pub struct Faces(Cache<Caller, Arc<Face>>);

/// One caller's header fields.
#[derive(Debug)]
pub struct Face {
    account: Arc<Account>,
    key: Option<Arc<ApiKey>>,
    fields: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Caller {
    Session(SessionId),
    Key(KeyId),
}

impl Default for Faces {
    fn default() -> Self {
        Self(Cache::new(REMEMBERED))
    }
}

impl Faces {
    /// The caller's fields: as remembered, else as `make` renders them.
    pub fn of<E>(
        &self,
        principal: &Principal,
        make: impl FnOnce() -> Result<Vec<(HeaderName, HeaderValue)>, E>,
    ) -> Result<Arc<Face>, E> {
        let (caller, key) = match &principal.method {
            Method::Token { session, .. } => (Caller::Session(*session), None),
            Method::Key(key) => (Caller::Key(key.id), Some(key)),
        };
        if let Some(face) = self.0.get(&caller).filter(|face| face.is_of(&principal.account, key)) {
            return Ok(face);
        }
        let face = Face { account: Arc::clone(&principal.account), key: key.cloned(), fields: make()? };
        let face = Arc::new(face);
        self.0.insert(caller, Arc::clone(&face));
        Ok(face)
    }
}

impl Face {
    fn is_of(&self, account: &Arc<Account>, key: Option<&Arc<ApiKey>>) -> bool {
        let same_key = match (&self.key, key) {
            (Some(own), Some(key)) => Arc::ptr_eq(own, key),
            (own, key) => own.is_none() && key.is_none(),
        };
        same_key && Arc::ptr_eq(&self.account, account)
    }

    /// Says it, in place of whatever stood under those names.
    pub fn show(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.fields {
            headers.insert(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::model::access::{Permissions, PlanId};
    use crate::model::account::{Organization, User};
    use crate::model::entropy::SystemEntropy;
    use crate::model::id::{OrgId, UserId};
    use crate::model::principal::Granted;
    use crate::model::time::Timestamp;

    fn account() -> Account {
        let now = Timestamp::from_secs(1);
        let org = OrgId::new(now, &SystemEntropy);
        Account {
            user: User {
                id: UserId::new(now, &SystemEntropy),
                org_id: org,
                email: "ada@example.com".to_owned(),
                username: None,
                name: None,
                role: "admin".to_owned(),
                email_verified: true,
                disabled: false,
                created_at: now,
                updated_at: now,
            },
            org: Organization {
                id: org,
                name: "Ada's".to_owned(),
                plan: "free".to_owned(),
                limits: None,
                disabled: false,
                created_at: now,
                updated_at: now,
            },
        }
    }

    #[test]
    fn a_face_lasts_as_long_as_the_records_it_was_made_of() {
        let faces = Faces::default();
        let account = Arc::new(account());
        let session = SessionId::new(Timestamp::from_secs(1), &SystemEntropy);
        let caller = |account: &Arc<Account>| Principal {
            account: Arc::clone(account),
            role: None,
            plan: PlanId(0),
            permissions: Granted { role: Permissions::default(), key: None },
            method: Method::Token { session, expires_at: Timestamp::from_secs(1) },
        };
        let shown = |principal: &Principal, value: &'static str| {
            let make = || Ok::<_, Infallible>(vec![(http::header::FROM, HeaderValue::from_static(value))]);
            let mut headers = HeaderMap::new();
            let Ok(face) = faces.of(principal, make);
            face.show(&mut headers);
            headers[http::header::FROM].to_str().unwrap().to_owned()
        };
        assert_eq!(shown(&caller(&account), "first"), "first");
        assert_eq!(shown(&caller(&account), "second"), "first");
        // The same content in another record: it was read anew, so something may have changed.
        let reread = Arc::new(Account::clone(&account));
        assert_eq!(shown(&caller(&reread), "third"), "third");
        assert_eq!(shown(&caller(&account), "fourth"), "fourth");
    }
}
