//! Refresh tokens: the store knows them by hash alone.

use std::fmt;

/// A digest of a refresh token's text. One that was never issued matches nothing: whoever makes it has checked the
/// token's tag before, so that a forged text ends nobody's session.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RefreshHash(pub [u8; 32]);

impl fmt::Debug for RefreshHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshHash(***)")
    }
}
