//! The public keys of a site, for whoever verifies its tokens or assertions: RFC 7517.
//!
//! Served as `/.well-known/jwks.json`. Only public halves: a site whose keys are shared secrets
//! publishes an empty set.

use jsonwebtoken::AlgorithmFamily;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use serde_json::{Value, json};

use super::keys::KeySet;

impl KeySet {
    /// `{"keys": […]}` of every RSA, EC and OKP key, the retired ones too: their tokens still count.
    pub fn jwks(&self) -> Value {
        let public = self.iter().filter(|key| key.algorithm().family() != AlgorithmFamily::Hmac);
        let keys: Vec<Value> = public
            .filter_map(|key| {
                let mut jwk = Jwk::from_decoding_key(key.verifying(), Some(key.algorithm())).ok()?;
                jwk.common.key_id = Some(key.kid().to_owned());
                jwk.common.public_key_use = Some(PublicKeyUse::Signature);
                serde_json::to_value(jwk).ok()
            })
            .collect();
        json!({ "keys": keys })
    }
}
