//! Which of a route's upstreams a request goes to, where there are several: a canary beside the version before it.
//!
//! The choice depends on whoever is to stay on one side, the route and the weights, never on memory: every gateway of a
//! fleet chooses alike, and so does the next request. Called by `edge::forward`.

/// A route's upstreams with their weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Places of the upstreams, with their weights; at least one, and not all 0.
    shares: Vec<(usize, u32)>,
    total: u32,
    /// What stays on one side.
    pub by: SplitBy,
}

/// What stays on one side of a split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SplitBy {
    /// An organization; where there is no caller, a client address.
    #[default]
    Organization,
    /// A user; where there is no caller, a client address.
    User,
    /// Nothing: each request for itself.
    Request,
}

impl Split {
    /// All to one.
    pub fn to(upstream: usize) -> Self {
        Self { shares: vec![(upstream, 1)], total: 1, by: SplitBy::default() }
    }

    /// By weight, in this order: a share that grows at the cost of the one before keeps whom it had. `None` where
    /// nothing would go anywhere, or the weights add up to more than 2^32.
    pub fn weighted(shares: Vec<(usize, u32)>, by: SplitBy) -> Option<Self> {
        let total = shares.iter().try_fold(0_u32, |sum, (_, weight)| sum.checked_add(*weight))?;
        (total > 0).then_some(Self { shares, total, by })
    }

    /// The only one, where there is one.
    pub fn only(&self) -> Option<usize> {
        match self.shares.as_slice() {
            [(only, _)] => Some(*only),
            _ => None,
        }
    }

    /// Every upstream that requests may go to.
    pub fn upstreams(&self) -> impl Iterator<Item = usize> {
        self.shares.iter().filter(|(_, weight)| *weight > 0).map(|(upstream, _)| *upstream)
    }

    /// The upstream for whoever `who` names.
    pub fn choose(&self, route: &str, who: &[u8]) -> usize {
        if let Some(only) = self.only() {
            return only;
        }
        let mut hash = crc32fast::Hasher::new();
        hash.update(route.as_bytes());
        hash.update(who);
        // CRC-32 is linear; the finisher of MurmurHash3 makes every bit of it count.
        let mut mixed = hash.finalize();
        mixed = (mixed ^ (mixed >> 16)).wrapping_mul(0x85EB_CA6B);
        mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xC2B2_AE35);
        mixed ^= mixed >> 16;
        // The hash as a fraction of 2^32, times the total: fair to 1 in 2^32 / total.
        let at = u32::try_from((u64::from(mixed) * u64::from(self.total)) >> 32).unwrap_or(0);
        let mut passed = 0;
        let reached = |(_, weight): &&(usize, u32)| {
            passed += weight;
            at < passed
        };
        self.shares.iter().find(reached).map_or(self.shares[0].0, |(upstream, _)| *upstream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sides(split: &Split, count: u32) -> Vec<usize> {
        (0..count).map(|at| split.choose("* /{*rest}", &at.to_be_bytes())).collect()
    }

    #[test]
    fn shares_are_what_the_weights_say() {
        let split = Split::weighted(vec![(7, 90), (3, 10), (5, 0)], SplitBy::Request).unwrap();
        let sides = sides(&split, 20_000);
        let canary = sides.iter().filter(|side| **side == 3).count();
        assert!((1_800..2_200).contains(&canary), "{canary}");
        assert!(!sides.contains(&5), "a weight of 0 gets nothing");
        assert_eq!(split.upstreams().collect::<Vec<_>>(), [7, 3]);
    }

    #[test]
    fn whoever_was_on_the_canary_stays_there_as_it_grows() {
        let few = Split::weighted(vec![(0, 95), (1, 5)], SplitBy::Organization).unwrap();
        let more = Split::weighted(vec![(0, 80), (1, 20)], SplitBy::Organization).unwrap();
        let (few, more) = (sides(&few, 5_000), sides(&more, 5_000));
        assert!(few.iter().zip(&more).all(|(before, after)| *before == 0 || *after == 1));
        assert!(more.iter().sum::<usize>() > few.iter().sum::<usize>());
    }

    #[test]
    fn two_routes_do_not_pick_the_same_people() {
        let split = Split::weighted(vec![(0, 1), (1, 1)], SplitBy::Organization).unwrap();
        let alike = (0..1_000_u32)
            .filter(|at| split.choose("GET /a", &at.to_be_bytes()) == split.choose("GET /b", &at.to_be_bytes()))
            .count();
        assert!((400..600).contains(&alike), "{alike}");
    }

    #[test]
    fn nothing_to_choose_from_is_no_split() {
        assert_eq!(Split::weighted(vec![(0, 0)], SplitBy::User), None);
        assert_eq!(Split::weighted(vec![(0, u32::MAX), (1, 1)], SplitBy::User), None);
        assert_eq!(Split::to(4).choose("x", b""), 4);
    }
}
