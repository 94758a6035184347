//! What a new password must have.
//!
//! Pure. Hashing and checking a password is `credential::password`.

/// The longest password, in bytes: more costs hashing time and adds nothing.
pub const MAX_BYTES: usize = 1024;

/// What a product demands of a new password, beyond [`MAX_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "four independent demands, each named as in contracts")]
pub struct Demands {
    /// The fewest characters.
    pub min_length: usize,
    /// An upper-case letter.
    pub upper: bool,
    /// A lower-case letter.
    pub lower: bool,
    /// A digit.
    pub digit: bool,
    /// A character that is neither letter nor digit.
    pub special: bool,
}

/// A demand that a password does not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Missed {
    /// Too few characters.
    #[error("must be at least {0} characters")]
    TooShort(usize),
    /// More than [`MAX_BYTES`].
    #[error("must be at most {MAX_BYTES} bytes")]
    TooLong,
    /// No upper-case letter.
    #[error("must contain an upper-case letter")]
    Upper,
    /// No lower-case letter.
    #[error("must contain a lower-case letter")]
    Lower,
    /// No digit.
    #[error("must contain a number")]
    Digit,
    /// Nothing but letters and digits.
    #[error("must contain a special character")]
    Special,
}

/// Every demand that `password` misses, in the order of [`Demands`]; empty: it is acceptable.
pub fn missed(demands: &Demands, password: &str) -> Vec<Missed> {
    if password.len() > MAX_BYTES {
        // Nothing else is worth looking at in a text of any length.
        return vec![Missed::TooLong];
    }
    // An empty password proves nothing, whatever the product demands.
    let least = demands.min_length.max(1);
    let has = |wanted: fn(char) -> bool| password.chars().any(wanted);
    let checks = [
        (password.chars().count() < least, Missed::TooShort(least)),
        (demands.upper && !has(char::is_uppercase), Missed::Upper),
        (demands.lower && !has(char::is_lowercase), Missed::Lower),
        (demands.digit && !has(char::is_numeric), Missed::Digit),
        (demands.special && !has(|c| !c.is_alphanumeric()), Missed::Special),
    ];
    checks.into_iter().filter_map(|(fails, miss)| fails.then_some(miss)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Demands = Demands { min_length: 8, upper: true, lower: true, digit: true, special: true };

    #[test]
    fn each_demand_is_met_or_named() {
        assert_eq!(missed(&STRICT, "Passw0rd!"), []);
        assert_eq!(missed(&STRICT, "Pasw0r!"), [Missed::TooShort(8)]);
        assert_eq!(missed(&STRICT, "passw0rd!"), [Missed::Upper]);
        assert_eq!(missed(&STRICT, "PASSW0RD!"), [Missed::Lower]);
        assert_eq!(missed(&STRICT, "Password!"), [Missed::Digit]);
        assert_eq!(missed(&STRICT, "Passw0rds"), [Missed::Special]);
        assert_eq!(missed(&STRICT, "").len(), 5);
    }

    #[test]
    fn length_counts_characters_below_and_bytes_above() {
        let eight = Demands { min_length: 8, ..Demands::default() };
        assert_eq!(missed(&eight, "пароль12"), []);
        assert_eq!(missed(&eight, &"x".repeat(1024)), []);
        assert_eq!(missed(&eight, &"x".repeat(1025)), [Missed::TooLong]);
        assert_eq!(missed(&eight, &"é".repeat(513)), [Missed::TooLong]);
        assert_eq!(missed(&Demands::default(), ""), [Missed::TooShort(1)]);
    }
}
