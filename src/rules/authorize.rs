//! Whether a known caller may do what a request asks. Pure: the facts in, a verdict out.
//!
//! Called by `edge::authorize` for every authenticated request, forwarded or native.

use crate::model::access::{Bits, PlanId, RoleId};
use crate::model::principal::Granted;
use crate::model::problem::Problem;

/// What is known of the caller.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Their role; `None` when the contract does not know the stored name.
    pub role: Option<RoleId>,
    /// Their organization's plan.
    pub plan: PlanId,
    /// What they may do.
    pub granted: &'a Granted,
    /// Their role may only read what is forwarded.
    pub read_only: bool,
}

/// What one rule asks. All that is stated must hold.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// The roles that pass, those above them included; `None`: any known role.
    pub roles: Option<Bits>,
    /// The plans that pass; `None`: any.
    pub plans: Option<Bits>,
    /// The permissions needed.
    pub permissions: &'a [String],
    /// The request changes something and is forwarded.
    pub writes: bool,
}

/// What a caller lacks for a demand: for the operator. A client learns of it only what [`Problem`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A role that the contract knows.
    KnownRole,
    /// One of the roles that pass.
    Role,
    /// A role that may change something.
    Writing,
    /// The permission at this place of those demanded.
    Permission(usize),
    /// One of these plans.
    Plan(Bits),
}

impl From<Lack> for Problem {
    fn from(lack: Lack) -> Self {
        match lack {
            Lack::Plan(plans) => Self::PlanRequired(plans),
            Lack::KnownRole | Lack::Role | Lack::Writing | Lack::Permission(_) => Self::InsufficientPermissions,
        }
    }
}

/// Judges one demand. Who they are is judged before what they pay for, so that a refusal never offers a
/// plan to somebody whom the plan would not help.
pub fn authorize(caller: Caller<'_>, demand: Demand<'_>) -> Result<(), Lack> {
    let role = caller.role.ok_or(Lack::KnownRole)?;
    if demand.roles.is_some_and(|roles| !roles.has(role.0)) {
        return Err(Lack::Role);
    }
    if demand.writes && caller.read_only {
        return Err(Lack::Writing);
    }
    if let Some(at) = demand.permissions.iter().position(|wanted| !caller.granted.cover(wanted)) {
        return Err(Lack::Permission(at));
    }
    match demand.plans {
        Some(plans) if !plans.has(caller.plan.0) => Err(Lack::Plan(plans)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::access::{Permission, Permissions};

    fn set(names: &[&str]) -> Permissions {
        Permissions::new(names.iter().map(|name| Permission::parse(name).unwrap()).collect())
    }

    const NOTHING: Demand<'static> = Demand { roles: None, plans: None, permissions: &[], writes: false };

    #[test]
    fn a_role_the_contract_does_not_know_opens_nothing() {
        let granted = Granted { role: Permissions::all(), key: None };
        let stranger = Caller { role: None, plan: PlanId(0), granted: &granted, read_only: false };
        assert_eq!(authorize(stranger, NOTHING), Err(Lack::KnownRole));
        assert_eq!(authorize(Caller { role: Some(RoleId(3)), ..stranger }, NOTHING), Ok(()));
    }

    #[test]
    fn a_key_never_exceeds_the_role_it_stands_on() {
        let wanted = ["write:posts".to_owned()];
        let demand = Demand { permissions: &wanted, ..NOTHING };
        for (role, key, passes) in [
            (&["*"][..], None, true),
            (&["*"], Some(&["write:posts"][..]), true),
            (&["*"], Some(&["read:posts"][..]), false),
            (&["read:*"], Some(&["write:posts"][..]), false),
            (&["read:*"], None, false),
        ] {
            let granted = Granted { role: set(role), key: key.map(set) };
            let caller = Caller { role: Some(RoleId(0)), plan: PlanId(0), granted: &granted, read_only: false };
            assert_eq!(authorize(caller, demand).is_ok(), passes, "{role:?} {key:?}");
        }
    }

    #[test]
    fn a_plan_is_offered_only_to_whom_it_would_help() {
        let granted = Granted { role: Permissions::all(), key: None };
        let caller = Caller { role: Some(RoleId(2)), plan: PlanId(0), granted: &granted, read_only: false };
        let plans = Bits::default().with(1).with(2);
        let paid = Demand { plans: Some(plans), ..NOTHING };
        assert_eq!(authorize(caller, paid), Err(Lack::Plan(plans)));
        assert_eq!(Problem::from(Lack::Plan(plans)), Problem::PlanRequired(plans));
        assert_eq!(authorize(Caller { plan: PlanId(1), ..caller }, paid), Ok(()));
        let admins = Demand { roles: Some(Bits::default().with(0)), ..paid };
        assert_eq!(authorize(caller, admins), Err(Lack::Role));
    }

    #[test]
    fn a_read_only_role_reads_and_does_not_write() {
        let granted = Granted { role: Permissions::all(), key: None };
        let viewer = Caller { role: Some(RoleId(2)), plan: PlanId(0), granted: &granted, read_only: true };
        assert_eq!(authorize(viewer, NOTHING), Ok(()));
        assert_eq!(authorize(viewer, Demand { writes: true, ..NOTHING }), Err(Lack::Writing));
        for lack in [Lack::KnownRole, Lack::Role, Lack::Writing, Lack::Permission(0)] {
            assert_eq!(Problem::from(lack), Problem::InsufficientPermissions, "a client does not learn which");
        }
    }
}
