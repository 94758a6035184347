//! Who may do what: roles, plans and permissions, as one contract defines them.
//!
//! Roles and plans are closed sets of at most 64 names, so a set of them is one word. Permissions are
//! open (`read:<resource>` for any resource a backend has), so they are names with an optional
//! trailing wildcard.

use std::fmt;
use std::sync::Arc;

/// A role's place in its contract's list: 0 is the highest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RoleId(pub u8);

/// A plan's place in its contract's list, cheapest first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PlanId(pub u8);

/// A set of up to 64 small numbers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Bits(u64);

impl Bits {
    /// The set with `index` added. `index` is below 64: compiling a contract refuses more names.
    #[must_use]
    pub const fn with(self, index: u8) -> Self {
        Self(self.0 | 1 << (index & 63))
    }

    /// Whether `index` is in the set.
    pub const fn has(self, index: u8) -> bool {
        index < 64 && self.0 >> index & 1 == 1
    }

    /// Whether nothing is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The members, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..64).filter(move |index| self.has(*index))
    }
}

/// One permission (`read:posts`) or a family of them (`read:*`, `*`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Permission(Arc<str>);

/// Why a text is not a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a permission is 1 to 128 of the characters a-z A-Z 0-9 . _ - : and may end in `*` after a colon")]
pub struct BadPermission;

impl Permission {
    /// Reads a permission. Exact names hold `a-z A-Z 0-9 . _ - :`; a `*` may stand alone or after a last colon.
    pub fn parse(text: &str) -> Result<Self, BadPermission> {
        let stem = match text.strip_suffix('*') {
            Some("") => return Ok(Self(Arc::from("*"))),
            Some(stem) if stem.ends_with(':') && stem.len() > 1 => stem,
            Some(_) => return Err(BadPermission),
            None => text,
        };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b':');
        if text.len() > 128 || stem.is_empty() || !stem.bytes().all(fits) {
            return Err(BadPermission);
        }
        Ok(Self(Arc::from(text)))
    }

    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether holding this grants everything `wanted` grants (`wanted` may be a family itself).
    pub fn covers(&self, wanted: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(stem) => wanted.starts_with(stem),
            None => &*self.0 == wanted,
        }
    }
}

impl fmt::Debug for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of permissions, in the order they were given, without duplicates.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Permissions(Arc<[Permission]>);

impl Permissions {
    /// A set of the given permissions.
    pub fn new(list: Vec<Permission>) -> Self {
        let mut kept: Vec<Permission> = Vec::with_capacity(list.len());
        for permission in list {
            if !kept.contains(&permission) {
                kept.push(permission);
            }
        }
        Self(kept.into())
    }

    /// Every permission there is.
    pub fn all() -> Self {
        Self::new(vec![Permission(Arc::from("*"))])
    }

    /// Whether the set grants everything `wanted` grants.
    pub fn cover(&self, wanted: &str) -> bool {
        self.0.iter().any(|held| held.covers(wanted))
    }

    /// The members, in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Permission> {
        self.0.iter()
    }

    /// Whether nothing is granted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_covers_its_members_and_nothing_beside_them() {
        let reads = Permissions::new(vec![Permission::parse("read:*").unwrap()]);
        assert!(reads.cover("read:posts") && reads.cover("read:*"));
        assert!(!reads.cover("write:posts") && !reads.cover("read") && !reads.cover("*"));
        let exact = Permissions::new(vec![Permission::parse("read:posts").unwrap()]);
        assert!(exact.cover("read:posts"));
        assert!(!exact.cover("read:posts2") && !exact.cover("read:post") && !exact.cover("read:*"));
    }

    #[test]
    fn what_is_not_a_permission_is_refused() {
        for bad in ["", "*x", "read*", ":*", "read:po sts", "read:\u{e9}", "a,b", &"x".repeat(129)] {
            assert_eq!(Permission::parse(bad), Err(BadPermission), "{bad:?}");
        }
    }

    #[test]
    fn bits_hold_what_was_put_in() {
        let set = Bits::default().with(0).with(63);
        assert!(set.has(0) && set.has(63) && !set.has(1) && !set.has(64));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63]);
    }
}
