//! Whose windows are charged.
//!
//! A [`Subject`] is a fixed-size name: making one allocates nothing, and the same one is made by every process of a
//! fleet. Realm and scope are hashed names (both come from configuration, never from a client); the id is 128 bits,
//! and where a client chooses the text it is a cryptographic digest, so that nobody can craft two names that share.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;

use aws_lc_rs::digest;

use crate::model::id::{KeyId, OrgId, UserId};

/// What kind of thing a subject is.
///
/// To add one: a variant, a constructor below, and its place in `SubjectKind::is_free_to_make`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubjectKind {
    /// An organization: its plan's windows.
    Org,
    /// A user.
    User,
    /// An API key.
    Key,
    /// A client address.
    Address,
    /// A name that a client typed: an account at sign-in.
    Name,
    /// An organization on one route.
    Route,
}

impl SubjectKind {
    /// The name in Redis keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Org => "org",
            Self::User => "user",
            Self::Key => "key",
            Self::Address => "address",
            Self::Name => "name",
            Self::Route => "route",
        }
    }

    /// Whether anyone can make new ones at no cost, without a credential. They may not fill the whole table.
    pub(super) const fn is_free_to_make(self) -> bool {
        matches!(self, Self::Address | Self::Name)
    }
}

/// Whose windows are charged: 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    realm: u64,
    scope: u64,
    id: (u64, u64),
    kind: SubjectKind,
    /// Stands for all subjects of its realm, kind and scope that have no entry of their own: see `limit::table`.
    crowd: bool,
    /// What it has spent of windows that are only tried: counted apart from those that hold.
    shadow: bool,
}

impl Subject {
    /// An organization.
    pub fn org(realm: &str, id: OrgId) -> Self {
        Self::new(realm, SubjectKind::Org, 0, id.uuid().as_u64_pair())
    }

    /// A user.
    pub fn user(realm: &str, id: UserId) -> Self {
        Self::new(realm, SubjectKind::User, 0, id.uuid().as_u64_pair())
    }

    /// An API key.
    pub fn key(realm: &str, id: KeyId) -> Self {
        Self::new(realm, SubjectKind::Key, 0, id.uuid().as_u64_pair())
    }

    /// An organization on the route named `scope`.
    pub fn route(realm: &str, scope: &str, id: OrgId) -> Self {
        Self::new(realm, SubjectKind::Route, name_hash(scope), id.uuid().as_u64_pair())
    }

    /// A client's address, for the limit named `scope`. IPv6 counts by /64, the size of a subnet (RFC 4291 section
    /// 2.5.4), so that hopping through one's own 2^64 addresses gains nothing; an IPv4-mapped address is the IPv4
    /// address.
    pub fn address(realm: &str, scope: &str, address: IpAddr) -> Self {
        let id = match address.to_canonical() {
            // An IPv6 subject's second half is zero, an IPv4 subject's never: they cannot meet.
            IpAddr::V4(address) => (0, 0xffff_0000_0000 | u64::from(address.to_bits())),
            IpAddr::V6(address) => (halves(address.to_bits()).0, 0),
        };
        Self::new(realm, SubjectKind::Address, name_hash(scope), id)
    }

    /// A text that a client sent, in the caller's normal form, for the limit named `scope`: the first 128 bits of its
    /// SHA-256.
    pub fn name(realm: &str, scope: &str, text: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        let first = digest.as_ref().first_chunk().copied().expect("SHA-256 gives 32 bytes");
        Self::new(realm, SubjectKind::Name, name_hash(scope), halves(u128::from_be_bytes(first)))
    }

    /// What kind of thing it is.
    pub const fn kind(&self) -> SubjectKind {
        self.kind
    }

    /// The same subject among the windows that are only tried.
    #[must_use]
    pub const fn in_shadow(self) -> Self {
        Self { shadow: true, ..self }
    }

    /// Whether it spends from windows that are only tried.
    pub const fn is_shadow(&self) -> bool {
        self.shadow
    }

    /// The subject that stands for all of this realm, kind and scope.
    pub(super) const fn crowd(&self) -> Self {
        Self { id: (0, 0), crowd: true, ..*self }
    }

    pub(super) const fn is_crowd(&self) -> bool {
        self.crowd
    }

    /// The key that holds its windows in Redis. The hash tag puts a realm's subjects on one node of a cluster, since
    /// one admission touches several of them.
    pub(super) fn redis_key(&self) -> String {
        let (high, low) = self.id;
        let (kind, scope) = (self.kind.name(), self.scope);
        let shadow = if self.shadow { ":shadow" } else { "" };
        format!("tollgate:limit:{{{:016x}}}:{kind}:{scope:016x}:{high:016x}{low:016x}{shadow}", self.realm)
    }

    fn new(realm: &str, kind: SubjectKind, scope: u64, id: (u64, u64)) -> Self {
        Self { realm: name_hash(realm), scope, id, kind, crowd: false, shadow: false }
    }
}

impl Hash for Subject {
    /// All fields in one write: std's keyed hash takes a call for each otherwise, a tenth of what an admission costs.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 40];
        let last = (self.kind as u64) << 8 | u64::from(self.shadow) << 1 | u64::from(self.crowd);
        for (into, word) in bytes.chunks_exact_mut(8).zip([self.realm, self.scope, self.id.0, self.id.1, last]) {
            into.copy_from_slice(&word.to_ne_bytes());
        }
        state.write(&bytes);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of a 128-bit number")]
const fn halves(bits: u128) -> (u64, u64) {
    ((bits >> 64) as u64, bits as u64)
}

/// FNV-1a, 64 bits: the names are the operator's own, a handful, so it needs to be stable and short, not strong.
const fn name_hash(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn address(text: &str) -> Subject {
        Subject::address("realm", "native", text.parse().unwrap())
    }

    #[test]
    fn an_ipv6_customer_is_one_subject_and_its_neighbour_another() {
        assert_eq!(address("2001:db8:1:2::1"), address("2001:db8:1:2:ffff::9"));
        assert_ne!(address("2001:db8:1:2::1"), address("2001:db8:1:3::1"));
        assert_ne!(address("::1"), address("0.0.0.0"));
    }

    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
    }

    #[test]
    fn kinds_realms_and_scopes_never_share_a_subject() {
        let id = Uuid::from_u128(7);
        let all = [
            Subject::org("a", OrgId::from(id)),
            Subject::org("b", OrgId::from(id)),
            Subject::user("a", UserId::from(id)),
            Subject::key("a", KeyId::from(id)),
            Subject::route("a", "GET /x", OrgId::from(id)),
            Subject::route("a", "GET /y", OrgId::from(id)),
            Subject::name("a", "sign_in", "user@example.com"),
            Subject::name("a", "reset", "user@example.com"),
            Subject::org("a", OrgId::from(id)).crowd(),
            Subject::org("a", OrgId::from(id)).in_shadow(),
            Subject::org("a", OrgId::from(id)).in_shadow().crowd(),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one));
        }
        let keys = [all[0], all[0].in_shadow()].map(|subject| subject.redis_key());
        assert_ne!(keys[0], keys[1]);
        assert_eq!(size_of::<Subject>(), 40);
    }

    #[test]
    fn a_redis_key_is_stable() {
        // Another version of the gateway in the same fleet must find the same key.
        let key = Subject::address("vantage", "native", "192.0.2.1".parse().unwrap()).redis_key();
        let (realm, scope, id) = ("e1130a828b22530d", "4b701c187218deca", "00000000000000000000ffffc0000201");
        assert_eq!(key, format!("tollgate:limit:{{{realm}}}:address:{scope}:{id}"));
    }
}
