//! What sign-in, registration and refresh hand out.

use super::Call;
use crate::contract::encode::Values;
use crate::contract::slot::Slot;
use crate::credential::jwt::IssuedToken;
use crate::credential::refresh::{RefreshToken, RefreshTokens};
use crate::model::account::Account;
use crate::model::id::SessionId;
use crate::model::refusal::Refusal;
use crate::model::session::Session;
use crate::store::NewRefresh;

impl Call<'_> {
    /// An access token of `session`.
    pub(super) async fn issue(&self, account: &Account, session: &Session) -> Result<IssuedToken, Refusal> {
        let Self { gateway, live, now, .. } = self;
        let issued =
            gateway.authenticator.issue_token(&live.credentials, &live.site.contract, account, session, now.wall);
        issued.await.map_err(Refusal::internal)
    }

    /// The first refresh token of a new session; `None` where the product has none.
    pub(super) fn first_refresh(&self, session: SessionId) -> Option<RefreshToken> {
        let rules = self.live.site.contract.tokens.refresh.as_ref();
        rules.map(|_| RefreshTokens::first(session, &*self.gateway.entropy))
    }

    /// What the store keeps of a refresh token that is handed out now.
    pub(super) fn new_refresh(&self, refresh: &RefreshToken) -> Option<NewRefresh> {
        let rules = self.live.site.contract.tokens.refresh.as_ref()?;
        Some(NewRefresh { hash: refresh.hash(), ends_at: self.now.wall.plus(rules.ttl) })
    }

    /// The answer with its refresh token.
    pub(super) fn with_refresh(&self, values: Values, refresh: Option<&RefreshToken>) -> Values {
        match refresh {
            Some(refresh) => values.set(Slot::RefreshToken, self.live.credentials.refresh.text(refresh).expose()),
            None => values,
        }
    }
}
