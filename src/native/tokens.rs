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
use crate::store::StartRefresh;

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

    /// What the store keeps of a session's first refresh token.
    pub(super) fn start_refresh(&self, session: &Session, refresh: Option<&RefreshToken>) -> Option<StartRefresh> {
        let rules = self.live.site.contract.tokens.refresh.as_ref()?;
        let ends_at = self.now.wall.plus(rules.ttl).min(session.ends_at);
        refresh.map(|refresh| StartRefresh { hash: refresh.hash(), ends_at })
    }

    /// Keeps a new session; what was ended to make room for it.
    pub(super) async fn start_session(
        &self,
        session: &Session,
        refresh: Option<&RefreshToken>,
    ) -> Result<Vec<SessionId>, Refusal> {
        let most = self.live.site.contract.sessions.max;
        let refresh = self.start_refresh(session, refresh);
        Ok(self.gateway.store.start_session(self.realm(), session, refresh.as_ref(), most).await?)
    }

    /// The answer with its refresh token.
    pub(super) fn with_refresh(&self, values: Values, refresh: Option<&RefreshToken>) -> Values {
        match refresh {
            Some(refresh) => values.set(Slot::RefreshToken, self.live.credentials.refresh.text(refresh).expose()),
            None => values,
        }
    }
}
